/*
 * steps.c - the speed of bare steps, with no program around them: a published shape on random
 * weights, a prompt, then a decode. One rank, or several under mpirun.
 *
 *   steps [--shape FILE] [--backend cpu|cuda] [--dtype f32|f16|bf16] [--prompt N] [--steps N]
 *         [--batch N] [--chunk N] [--threads N]
 *
 * A prefill step carries --chunk tokens (left out: one prompt): several prompts, or a part of one.
 * Prints the speed of the best such step and of the last. Then the median, the best and the mean
 * time of a decode step (waiting for its candidates), the part of it after which the host had
 * handed over all work, and GB/s: the bytes of this rank's weights (without the embedding) and
 * cache that a step reads, over the median. Then, with --chunk, steps that carry both. Then the
 * time of each block at decode: the mean of 20 rounds over all layers, unrecorded, host submission
 * included where that is slower; that of the candidates is the host's wait for them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/cuda.h"
#include "launcher/mpi_group.h"
#include "runtime/base/file.h"
#include "runtime/engine/forward.h"
#include "runtime/model/config.h"
#include "runtime/model/rope.h"
#include "runtime/model/shard.h"

enum { WARM = 4, ROUNDS = 20 };

static struct group *group;

struct arguments {
	const char *shape, *backend, *dtype;
	int prompt, steps, batch, chunk, threads;
};

/* The whole of a run: the model's part of this rank, its backend, and the lists of a step. */
struct bench {
	struct model_config config;
	struct shard shard;
	float frequencies[HEAD_DIM_MAX / 2];
	struct backend_options options;
	struct backend *backend;
	int32_t *ids, *positions, *first, *blocks, *rows;
	struct logit_request *requests;
	struct logit_result *results;
	double submitted; /* seconds until the last step was handed over */
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A benchmark has nothing to do after an error. */
static void need(int result, const struct error *err)
{
	if (result >= 0)
		return;
	fprintf(stderr, "rank %d: %s\n", group ? group->rank : 0, err->message);
	if (group)
		group->abort(group, err);
	exit(1);
}

static void *allocate(size_t count, size_t bytes)
{
	struct error err = {0};
	void *memory = calloc(count + 1, bytes);
	if (!memory)
		need(error_memory(&err, "the benchmark"), &err);
	return memory;
}

static void read_arguments(struct arguments *a, int argc, char **argv)
{
	*a = (struct arguments){"configs/shapes/llama-2-7b.json", "cpu", "bf16", 128, 256, 1, 0, 1};
#ifdef TPRUN_CUDA
	a->backend = "cuda";
#endif
	const struct {
		const char *name, **text;
		int *number;
	} known[] = {
		{"--shape", &a->shape, NULL}, {"--backend", &a->backend, NULL}, {"--dtype", &a->dtype, NULL},
		{"--prompt", NULL, &a->prompt}, {"--steps", NULL, &a->steps},
		{"--batch", NULL, &a->batch}, {"--chunk", NULL, &a->chunk},
		{"--threads", NULL, &a->threads},
	};
	bool good = argc % 2 == 1;
	for (int i = 1; i + 1 < argc; i += 2) {
		size_t k = 0;
		while (k < sizeof known / sizeof *known && strcmp(known[k].name, argv[i]))
			k++;
		if (k == sizeof known / sizeof *known)
			good = false;
		else if (known[k].text)
			*known[k].text = argv[i + 1];
		else
			*known[k].number = atoi(argv[i + 1]);
	}
	if (!good || a->prompt < 1 || a->steps < 2 * WARM || a->batch < 1 || a->chunk < 0 ||
	    a->threads < 1) {
		fprintf(stderr, "steps: --shape FILE --backend cpu|cuda --dtype f32|f16|bf16 --prompt from 1 "
				"--steps from %d --batch from 1 --chunk from 1 --threads from 1\n", 2 * WARM);
		exit(2);
	}
}

static void open_backend(struct bench *b, const struct arguments *a)
{
	struct error err = {0};
	char *text;
	size_t length;
	float magnitude;
	enum dtype dtype = !strcmp(a->dtype, "f32") ? DTYPE_F32 : !strcmp(a->dtype, "f16") ? DTYPE_F16 : DTYPE_BF16;

	need(file_read(a->shape, 1 << 20, &text, &length, &err), &err);
	need(config_parse(&b->config, text, length, a->shape, &err), &err);
	free(text);
	need(shard_make(&b->shard, &b->config, group->size, group->rank, &err), &err);
	rope_frequencies(&b->config, b->frequencies, &magnitude);

	/* Sequences beyond the batch serve the prompts of mixed steps. */
	int blocks = (a->prompt + 2 * a->steps + 1 + KV_BLOCK - 1) / KV_BLOCK, gpus = 0;
	int sequences = a->batch + (a->chunk + a->prompt - 1) / a->prompt;
	int tokens = a->chunk ? a->batch + a->chunk : a->prompt > a->batch ? a->prompt : a->batch;
	need(cuda_device_count(&gpus, &err), &err);
	b->options = (struct backend_options){
		.shape = shard_backend_shape(&b->shard, &b->config, dtype, b->frequencies, magnitude),
		.group = group, .kv_blocks = sequences * blocks, .max_tokens = tokens,
		.max_sequences = sequences, .max_blocks = blocks, .max_logit_rows = sequences,
		.threads = a->threads, .device = gpus ? group->local_rank % gpus : 0,
	};
	double start = now();
	if (!strcmp(a->backend, "cpu"))
		need(cpu_backend_open(&b->backend, &b->options, &err), &err);
#ifdef TPRUN_CUDA
	else if (!strcmp(a->backend, "cuda"))
		need(cuda_backend_open(&b->backend, &b->options, &err), &err);
#endif
	else
		need(error_usage(&err, "no backend %s here", a->backend), &err);
	double opened = now();
	need(b->backend->ops->load_random(b->backend, 1, &err), &err);
	need(b->backend->ops->load_end(b->backend, &err), &err);
	if (group->rank == 0)
		printf("%s, %s, %s, %d ranks; open %.2f s, random weights %.2f s\n", a->shape, dtype_name(dtype),
		       a->backend, group->size, opened - start, now() - opened);
#ifdef TPRUN_CUDA
	if (group->rank == 0 && !strcmp(a->backend, "cuda"))
		printf("sums over the ranks: %s\n", cuda_backend_reduce_name(b->backend));
#endif
}

/* Sequences [which, which + sequences), each with `tokens` tokens from position `before` on. */
struct part {
	int which, sequences, tokens, before;
};

/* Runs a step of `count` parts. Returns its seconds, until its candidates are there. */
static double run(struct bench *b, const struct part *parts, int count)
{
	struct error err = {0};
	int32_t blocks = b->options.max_blocks, tokens = 0, sequences = 0;
	for (const struct part *p = parts; p < parts + count; p++)
		for (int i = p->which; i < p->which + p->sequences; i++, sequences++) {
			b->first[sequences] = tokens;
			for (int t = p->before; t < p->before + p->tokens; t++, tokens++) {
				b->positions[tokens] = t;
				b->ids[tokens] = (int32_t)((t * 7919L + i * 31L) % b->config.vocab);
			}
			b->rows[sequences] = tokens - 1;
			b->requests[sequences] = (struct logit_request){1, 1, NULL, 0, -1};
			for (int k = 0; k < blocks; k++)
				b->blocks[sequences * blocks + k] = i * blocks + k;
		}
	b->first[sequences] = tokens;
	struct step step = {tokens, sequences, sequences, blocks, b->ids, b->positions,
			    b->first, b->blocks, b->rows, NULL};
	double start = now();
	need(forward(b->backend, b->config.layers, &step, &err), &err);
	b->submitted = now() - start;
	need(b->backend->ops->candidates(b->backend, b->requests, b->results, &err), &err);
	return now() - start;
}

/* All prompts of the batch, in steps of a chunk each; the first step runs twice, to warm
 * libraries up. */
static void time_prefill(struct bench *b, const struct arguments *a)
{
	int chunk = a->chunk ? a->chunk : a->prompt, most = chunk / a->prompt;
	double best = 0, last = 0;
	for (int which = 0, warm = 1; which < a->batch;) {
		int sequences = most < 1 ? 1 : most < a->batch - which ? most : a->batch - which;
		for (int before = 0, tokens; before < a->prompt; before += tokens) {
			tokens = a->prompt - before < chunk ? a->prompt - before : chunk;
			struct part part = {which, sequences, tokens, before};
			for (; warm >= 0; warm--)
				run(b, &part, 1);
			last = sequences * tokens / run(b, &part, 1);
			best = last > best ? last : best;
		}
		which += sequences;
	}
	if (group->rank == 0)
		printf("prefill of %d tokens a step, prompts of %d: best %.0f tokens/s, last %.0f\n", chunk,
		       a->prompt, best, last);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Bytes that each block reads in one layer at decode, in the order of the blocks; logits last. */
static void bytes_read(const struct bench *b, const struct arguments *a, double bytes[6])
{
	const struct backend_shape *s = &b->options.shape;
	double element = (double)dtype_bytes(s->dtype), head = (double)s->head_dim * element;
	bytes[0] = (s->query_heads + 2 * s->kv_heads) * head * s->hidden;
	bytes[1] = 2.0 * a->batch * s->kv_heads * head * (a->prompt + a->steps / 2);
	bytes[2] = s->query_heads * head * s->hidden;
	bytes[3] = 2.0 * s->intermediate * s->hidden * element;
	bytes[4] = bytes[3] / 2;
	bytes[5] = (double)s->vocab * s->hidden * element;
}

/* Steps of the batch's decodes and, where `chunk` is given, of prompts that begin beside. */
static void time_decode(struct bench *b, const struct arguments *a, int chunk, const double bytes[6])
{
	double *seconds = allocate((size_t)a->steps, sizeof *seconds), sum = 0, submitted = 0, all = bytes[5];
	int several = chunk >= a->prompt, rest = chunk ? a->batch + chunk : a->batch;
	for (int k = 0; k < 5; k++)
		all += b->config.layers * bytes[k];
	for (int n = 0; n < a->steps; n++) {
		struct part parts[] = {
			{0, a->batch, 1, a->prompt + n + (chunk ? a->steps : 0)},
			{a->batch, several ? chunk / a->prompt : 1, several ? a->prompt : chunk, 0},
		};
		seconds[n] = run(b, parts, chunk ? 2 : 1);
		sum += n < WARM ? 0 : seconds[n];
		submitted += n < WARM ? 0 : b->submitted;
	}
	double mean = sum / (a->steps - WARM);
	qsort(seconds, (size_t)a->steps, sizeof *seconds, by_value);
	double median = seconds[a->steps / 2];
	if (group->rank == 0)
		printf("%s, batch %d, context %d to %d: median %.3f ms, best %.3f, mean %.3f, submitted after "
		       "%.3f; %.1f tokens/s by the median; %.2f GB a step, %.0f GB/s\n",
		       chunk ? "decode and chunk" : "decode", a->batch, a->prompt, a->prompt + a->steps,
		       median * 1e3, seconds[0] * 1e3, mean * 1e3, submitted / (a->steps - WARM) * 1e3,
		       rest / median, all * 1e-9, all / median * 1e-9);
	free(seconds);
}

/* Within a step that was begun and not recorded: peek waits for what was submitted. */
static void time_blocks(struct bench *b, const struct arguments *a, const double bytes[6])
{
	const struct backend_ops *ops = b->backend->ops;
	int (*const blocks[5])(struct backend *, int32_t, struct error *) = {
		ops->qkv, ops->attend, ops->project_attention, ops->gate_up, ops->project_mlp,
	};
	static const char *const names[] = {"qkv", "attend", "project_attention", "gate_up", "project_mlp", "logits"};
	struct error err = {0};
	float *residual = allocate((size_t)a->batch * (size_t)b->config.hidden, sizeof *residual);
	for (int i = 0; i < a->batch; i++) {
		b->positions[i] = a->prompt + a->steps / 2;
		b->first[i + 1] = i + 1;
		b->rows[i] = i;
	}
	struct step step = {a->batch, a->batch, a->batch, b->options.max_blocks, b->ids, b->positions,
			    b->first, b->blocks, b->rows, NULL};
	need(ops->begin(b->backend, &step, &err), &err);
	need(ops->embed(b->backend, &err), &err);
	for (int k = 0; k < 6; k++) {
		int layers = k < 5 ? b->config.layers : 1;
		double start = 0;
		for (int round = -3; round < ROUNDS; round++) {
			if (round == 0) {
				need(ops->peek(b->backend, BUFFER_RESIDUAL, residual, &err), &err);
				start = now();
			}
			for (int32_t i = 0; i < layers; i++)
				need(k < 5 ? blocks[k](b->backend, i, &err) : ops->logits(b->backend, &err), &err);
		}
		need(ops->peek(b->backend, BUFFER_RESIDUAL, residual, &err), &err);
		double seconds = (now() - start) / ROUNDS;
		if (group->rank == 0)
			printf("%-18s %8.1f us a layer %9.3f ms in all %8.1f GB/s\n", names[k],
			       seconds * 1e6 / layers, seconds * 1e3, bytes[k] * layers / seconds * 1e-9);
	}
	need(ops->end(b->backend, &err), &err);
	double start = now();
	for (int round = 0; round < ROUNDS; round++)
		need(ops->candidates(b->backend, b->requests, b->results, &err), &err);
	if (group->rank == 0)
		printf("%-18s %8.1f us\n", "candidates", (now() - start) / ROUNDS * 1e6);
	free(residual);
}

int main(int argc, char **argv)
{
	struct error err = {0};
	struct arguments a;
	struct bench *b = allocate(1, sizeof *b);
	double bytes[6];

	read_arguments(&a, argc, argv);
	need(mpi_group_open(&group, &err), &err);
	open_backend(b, &a);
	size_t sequences = (size_t)b->options.max_sequences;
	b->ids = allocate((size_t)b->options.max_tokens, sizeof *b->ids);
	b->positions = allocate((size_t)b->options.max_tokens, sizeof *b->positions);
	b->first = allocate(sequences + 1, sizeof *b->first);
	b->blocks = allocate((size_t)b->options.kv_blocks, sizeof *b->blocks);
	b->rows = allocate(sequences, sizeof *b->rows);
	b->requests = allocate(sequences, sizeof *b->requests);
	b->results = allocate(sequences, sizeof *b->results);

	time_prefill(b, &a);
	bytes_read(b, &a, bytes);
	time_decode(b, &a, 0, bytes);
	if (a.chunk)
		time_decode(b, &a, a.chunk, bytes);
	time_blocks(b, &a, bytes);

	b->backend->ops->close(b->backend);
	free(b->ids), free(b->positions), free(b->first), free(b->blocks), free(b->rows);
	free(b->requests), free(b->results), free(b);
	mpi_group_close(group);
	return 0;
}
