/*
 * The speed of bare steps: a model's shape on random weights, a prompt, then a decode at batch 1
 * (or more), with no program around it. One rank, or several under mpirun.
 *   cuda_steps [--shape 7b|8b|tiny] [--dtype bf16|f16|f32] [--prompt N] [--steps N] [--batch N]
 * Every column: ms a step and tokens/s over the replayed steps (median of steps); GB/s: the
 * bytes of this rank's weights (without the embedding) and cache that a step reads, over that
 * time. Then the time of each block, eager: the mean of 20 rounds over all layers, host
 * submission included where that is slower.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda.h"
#include "launcher/mpi_group.h"

struct shape_row {
	const char *name;
	int32_t layers, hidden, head_dim, query_heads, kv_heads, intermediate, vocab;
};

static const struct shape_row shapes[] = {
	{"7b", 32, 4096, 128, 32, 32, 11008, 32000},
	{"8b", 32, 4096, 128, 32, 8, 14336, 128256},
	{"tiny", 2, 512, 64, 8, 4, 1376, 1000},
};

static struct group *group;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void need(int result, const struct error *err)
{
	if (result >= 0)
		return;
	fprintf(stderr, "rank %d: %s\n", group->rank, err->message);
	group->abort(group, err);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void forward(struct backend *b, const struct backend_shape *s, const struct step *step)
{
	struct error err = {0};
	int replayed = b->ops->begin(b, step, &err);
	need(replayed, &err);
	if (!replayed) {
		need(b->ops->embed(b, &err), &err);
		for (int32_t i = 0; i < s->layers; i++) {
			need(b->ops->qkv(b, i, &err), &err);
			need(b->ops->attend(b, i, &err), &err);
			need(b->ops->project_attention(b, i, &err), &err);
			need(b->ops->gate_up(b, i, &err), &err);
			need(b->ops->project_mlp(b, i, &err), &err);
		}
		need(b->ops->logits(b, &err), &err);
	}
	need(b->ops->end(b, &err), &err);
}

/* Mean seconds of one block over all layers, eagerly, with a wait at the end. */
static double time_block(struct backend *b, const struct backend_shape *s, int which, float *row)
{
	struct error err = {0};
	double start = 0;
	for (int round = -3; round < 20; round++) {
		if (round == 0) {
			need(b->ops->peek(b, BUFFER_RESIDUAL, row, &err), &err);
			start = now();
		}
		for (int32_t i = 0; i < (which < 5 ? s->layers : 1); i++)
			need(which == 0 ? b->ops->qkv(b, i, &err) : which == 1 ? b->ops->attend(b, i, &err)
			     : which == 2 ? b->ops->project_attention(b, i, &err)
			     : which == 3 ? b->ops->gate_up(b, i, &err)
			     : which == 4 ? b->ops->project_mlp(b, i, &err) : b->ops->logits(b, &err), &err);
	}
	need(b->ops->peek(b, BUFFER_RESIDUAL, row, &err), &err);
	return (now() - start) / 20;
}

static void print_block(const char *name, double seconds, double bytes, int layers)
{
	printf("%-18s %8.1f us a layer %9.3f ms in all %8.0f GB/s\n", name, seconds * 1e6 / layers, seconds * 1e3,
	       bytes / seconds * 1e-9);
}

int main(int argc, char **argv)
{
	struct error err = {0};
	const struct shape_row *row = shapes;
	enum dtype dtype = DTYPE_BF16;
	int prompt = 128, steps = 256, batch = 1, gpus = 0;

	need(mpi_group_open(&group, &err), &err);
	for (int i = 1; i + 1 < argc; i += 2) {
		const char *value = argv[i + 1];
		if (!strcmp(argv[i], "--shape"))
			for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
				row = strcmp(shapes[k].name, value) ? row : &shapes[k];
		else if (!strcmp(argv[i], "--dtype"))
			dtype = !strcmp(value, "f32") ? DTYPE_F32 : !strcmp(value, "f16") ? DTYPE_F16 : DTYPE_BF16;
		else if (!strcmp(argv[i], "--prompt"))
			prompt = atoi(value);
		else if (!strcmp(argv[i], "--steps"))
			steps = atoi(value);
		else if (!strcmp(argv[i], "--batch"))
			batch = atoi(value);
	}
	if (prompt < 1 || steps < 8 || batch < 1 || batch > 512) {
		fprintf(stderr, "cuda_steps: --prompt from 1, --steps from 8, --batch from 1 to 512\n");
		return 2;
	}
	need(cuda_device_count(&gpus, &err), &err);

	/* The part of a rank: heads, columns and vocabulary in equal parts. */
	int rank = group->rank, size = group->size, per = row->query_heads / row->kv_heads;
	int head = row->query_heads * rank / size, head_end = row->query_heads * (rank + 1) / size;
	int column = row->intermediate / 32 * rank / size * 32;
	int column_end = row->intermediate / 32 * (rank + 1) / size * 32;
	int token = row->vocab * rank / size, token_end = row->vocab * (rank + 1) / size;
	struct head_group groups[256];
	int32_t windows[256] = {0};
	float frequencies[HEAD_DIM_MAX / 2];
	struct backend_shape s = {
		.layers = row->layers, .hidden = row->hidden, .head_dim = row->head_dim,
		.query_heads = head_end - head, .first_query_head = head, .first_kv_head = head / per,
		.kv_heads = (head_end - 1) / per - head / per + 1, .groups = groups,
		.intermediate = column_end - column, .first_intermediate = column,
		.vocab = token_end - token, .first_vocab = token, .total_vocab = row->vocab,
		.total_query_heads = row->query_heads, .total_kv_heads = row->kv_heads,
		.total_intermediate = row->intermediate, .norm_epsilon = 1e-5,
		.attention_scale = 1.0f / sqrtf((float)row->head_dim), .windows = windows,
		.rope_frequencies = frequencies, .rope_magnitude = 1, .dtype = dtype,
	};
	memset(groups, 0, sizeof groups);
	for (int h = head; h < head_end; h++) {
		struct head_group *g = &groups[h / per - s.first_kv_head];
		if (!g->count++)
			g->first = h - head;
	}
	for (int i = 0; i < row->head_dim / 2; i++)
		frequencies[i] = powf(10000.0f, -2.0f * (float)i / (float)row->head_dim);

	int context = prompt + steps + 1, max_blocks = context / KV_BLOCK + 1;
	struct backend_options options = {
		.shape = s, .group = group, .kv_blocks = batch * max_blocks,
		.max_tokens = batch * prompt > 4096 ? prompt : batch * prompt, .max_sequences = batch,
		.max_blocks = max_blocks, .max_logit_rows = batch,
		.device = gpus ? group->local_rank % gpus : 0, .threads = 1,
	};
	struct backend *b;
	double start = now();
	need(cuda_backend_open(&b, &options, &err), &err);
	double opened = now();
	need(b->ops->load_random(b, 1, &err), &err);
	need(b->ops->load_end(b, &err), &err);
	double loaded = now();
	struct backend_memory memory;
	cuda_backend_memory(&options, &memory);
	if (rank == 0)
		printf("shape %s, %s, %d ranks, sums: %s; open %.2f s, random weights %.2f s; weights %.2f GB, "
		       "cache %.2f, workspace %.2f\n", row->name, dtype_name(dtype), size,
		       cuda_backend_reduce_name(b), opened - start, loaded - opened, memory.weights * 1e-9,
		       memory.kv_cache * 1e-9, memory.workspace * 1e-9);

	size_t most = (size_t)(batch * prompt > context ? batch * prompt : context);
	int32_t *ids = calloc(most, 4), *positions = calloc(most, 4), *first = calloc((size_t)batch + 1, 4);
	int32_t *blocks = calloc((size_t)(batch * max_blocks), 4), *rows = calloc((size_t)batch, 4);
	double *seconds = calloc((size_t)steps, sizeof *seconds);
	struct logit_request *requests = calloc((size_t)batch, sizeof *requests);
	struct logit_result *results = calloc((size_t)batch, sizeof *results);
	float *residual = calloc((size_t)options.max_tokens * (size_t)s.hidden, 4);
	for (int i = 0; i < batch; i++)
		requests[i] = (struct logit_request){1, 1, NULL, 0, -1};

	/* Prompts one after the other, each twice: the first time warms libraries up. */
	for (int q = 0; q < 2 * batch; q++) {
		int which = q / 2;
		for (int i = 0; i < prompt; i++)
			ids[i] = (i * 7919 + which * 31) % row->vocab, positions[i] = i;
		for (int i = 0; i < max_blocks; i++)
			blocks[i] = which * max_blocks + i;
		first[0] = 0, first[1] = prompt, rows[0] = prompt - 1;
		struct step step = {prompt, 1, 1, max_blocks, ids, positions, first, blocks, rows, NULL};
		double begin = now();
		forward(b, &s, &step);
		need(b->ops->candidates(b, requests, results, &err), &err);
		if (q == 1 && rank == 0)
			printf("prefill of %d tokens: %.2f ms, %.0f tokens/s\n", prompt, (now() - begin) * 1e3,
			       prompt / (now() - begin));
	}
	for (int i = 0; i < batch * max_blocks; i++)
		blocks[i] = i;
	for (int i = 0; i < batch; i++)
		first[i] = rows[i] = i;
	first[batch] = batch;
	double whole = 0;
	for (int n = 0; n < steps; n++) {
		for (int i = 0; i < batch; i++)
			ids[i] = (n * 104729 + i) % row->vocab, positions[i] = prompt + n;
		struct step step = {batch, batch, batch, max_blocks, ids, positions, first, blocks, rows, NULL};
		double begin = now();
		if (n == 4)
			whole = begin;
		forward(b, &s, &step);
		need(b->ops->candidates(b, requests, results, &err), &err);
		seconds[n] = now() - begin;
	}
	whole = (now() - whole) / (steps - 4);
	qsort(seconds, (size_t)steps, sizeof *seconds, by_value);
	double size_of = (double)dtype_bytes(dtype), median = seconds[steps / 2];
	double qkv = (double)(s.query_heads + 2 * s.kv_heads) * s.head_dim * s.hidden * size_of;
	double output = (double)s.query_heads * s.head_dim * s.hidden * size_of;
	double gate_up = 2.0 * s.intermediate * s.hidden * size_of, down = gate_up / 2;
	double lm_head = (double)s.vocab * s.hidden * size_of;
	double cache = 2.0 * batch * s.kv_heads * s.head_dim * (prompt + steps / 2) * size_of;
	double bytes = s.layers * (qkv + output + gate_up + down + cache) + lm_head;
	if (rank == 0) {
		printf("decode, batch %d, context %d to %d: median %.3f ms, best %.3f, mean %.3f; %.1f tokens/s by "
		       "the median, %.1f by the mean; %.2f GB a step, %.0f GB/s\n", batch, prompt, prompt + steps,
		       median * 1e3, seconds[0] * 1e3, whole * 1e3, batch / median, batch / whole, bytes * 1e-9,
		       bytes / median * 1e-9);
		printf("best candidate of the last step: %d (%.4f), log-sum-exp %.4f\n", results[0].ids[0],
		       (double)results[0].logits[0], (double)results[0].log_sum_exp);
	}

	for (int i = 0; i < batch; i++)
		positions[i] = prompt + steps;
	struct step step = {batch, batch, batch, max_blocks, ids, positions, first, blocks, rows, NULL};
	need(b->ops->begin(b, &step, &err), &err);
	const char *names[] = {"qkv", "attend", "project_attention", "gate_up", "project_mlp", "logits"};
	double read[] = {qkv, cache, output, gate_up, down, lm_head};
	for (int k = 0; k < 6; k++) {
		int layers = k < 5 ? s.layers : 1;
		double took = time_block(b, &s, k, residual);
		if (rank == 0)
			print_block(names[k], took, read[k] * layers, layers);
	}
	need(b->ops->end(b, &err), &err);
	b->ops->close(b);
	free(ids), free(positions), free(first), free(blocks), free(rows), free(seconds);
	free(requests), free(results), free(residual);
	mpi_group_close(group);
	return 0;
}
