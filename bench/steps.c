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
 * cache that a step reads, over the median. Then, with --chunk, steps that carry both. Blocks by
 * themselves: ops.c; the whole program's loop: tprun bench.
 */
#include "bench/common.h"
#include "runtime/engine/forward.h"

enum { WARM = 4 };

struct arguments {
	const char *shape, *backend, *dtype;
	int prompt, steps, batch, chunk, threads;
};

static double submitted_s; /* until the last step was handed over */

static void parse_arguments(struct arguments *a, int argc, char **argv)
{
	*a = (struct arguments){"configs/shapes/llama-2-7b.json", default_backend(), "bf16",
				128, 256, 1, 0, 1};
	const struct argument known[] = {
		{.name = "--shape", .text = &a->shape}, {.name = "--backend", .text = &a->backend},
		{.name = "--dtype", .text = &a->dtype}, {.name = "--prompt", .number = &a->prompt},
		{.name = "--steps", .number = &a->steps}, {.name = "--batch", .number = &a->batch},
		{.name = "--chunk", .number = &a->chunk}, {.name = "--threads", .number = &a->threads},
		{.name = NULL},
	};
	bool good = read_arguments(known, argc, argv);
	if (!good || a->prompt < 1 || a->steps < 2 * WARM || a->batch < 1 || a->chunk < 0 ||
	    a->threads < 1) {
		fprintf(stderr, "steps: --shape FILE --backend cpu|cuda --dtype f32|f16|bf16 --prompt from 1 "
				"--steps from %d --batch from 1 --chunk from 1 --threads from 1\n", 2 * WARM);
		exit(2);
	}
}

/* Runs a step of `count` parts. Returns its seconds, until its candidates are there. */
static double run(struct bench *b, const struct part *parts, int count)
{
	struct error err = {0};
	struct step step = bench_step(b, parts, count);
	double start = now();
	need(forward(b->backend, b->config.layers, &step, NULL, &err), &err);
	submitted_s = now() - start;
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

/* Bytes that a decode step reads, in the middle of them. */
static double bytes_read(const struct bench *b, const struct arguments *a)
{
	const struct backend_shape *s = &b->options.shape;
	double heads = 2.0 * s->query_heads + 2.0 * s->kv_heads; /* query, key, value, output */
	double layer = heads * s->head_dim * s->hidden + 3.0 * s->intermediate * s->hidden;
	double cache = 2.0 * a->batch * s->kv_heads * s->head_dim * (a->prompt + a->steps / 2);
	return (b->config.layers * (layer + cache) + (double)s->vocab * s->hidden) *
	       (double)dtype_bytes(s->dtype);
}

/* Steps of the batch's decodes and, where `chunk` is given, of prompts that begin beside. */
static void time_decode(struct bench *b, const struct arguments *a, int chunk)
{
	double *seconds = allocate((size_t)a->steps, sizeof *seconds), sum = 0, submitted = 0;
	int several = chunk >= a->prompt, rest = chunk ? a->batch + chunk : a->batch;
	for (int n = 0; n < a->steps; n++) {
		struct part parts[] = {
			{0, a->batch, 1, a->prompt + n + (chunk ? a->steps : 0)},
			{a->batch, several ? chunk / a->prompt : 1, several ? a->prompt : chunk, 0},
		};
		seconds[n] = run(b, parts, chunk ? 2 : 1);
		sum += n < WARM ? 0 : seconds[n];
		submitted += n < WARM ? 0 : submitted_s;
	}
	double all = bytes_read(b, a), mean = sum / (a->steps - WARM);
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

int main(int argc, char **argv)
{
	struct error err = {0};
	struct arguments a;
	struct bench *b = allocate(1, sizeof *b);

	parse_arguments(&a, argc, argv);
	need(mpi_group_open(&group, &err), &err);
	/* Sequences beyond the batch serve the prompts of mixed steps. */
	int sequences = a.batch + (a.chunk + a.prompt - 1) / a.prompt;
	int tokens = a.chunk ? a.batch + a.chunk : a.prompt > a.batch ? a.prompt : a.batch;
	int context = (a.prompt + 2 * a.steps + KV_BLOCK) / KV_BLOCK * KV_BLOCK;
	bench_open(b, a.shape, a.backend, a.dtype, a.threads, sequences, context, sequences * context, tokens);

	time_prefill(b, &a);
	time_decode(b, &a, 0);
	if (a.chunk)
		time_decode(b, &a, a.chunk);

	bench_close(b);
	free(b);
	mpi_group_close(group);
	return 0;
}
