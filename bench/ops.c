/*
 * ops.c - the time of each block of backend.h over its floor, at several sizes of a step.
 *
 *   ops [--shape FILE] [--backend cpu|cuda] [--dtype f32|f16|bf16] [--tokens 1,8,64,256,2048]
 *       [--context N] [--ceiling GB/s] [--peak TFLOP/s] [--rounds N] [--threads N]
 *
 * Up to 256 tokens are one each of so many sequences that hold `--context` positions (128); more are
 * one prompt from its start. The floor of a block is the larger of its bytes over the ceiling and its
 * operations over the peak: bytes of its matrices, and of the keys and values that its tokens see;
 * two operations for each weight and token, and in attention four for each position seen, query head
 * and element. The ceiling is measured first (PROBE_READ) where none is given; without a peak
 * operations have no floor, so give one for more than some ten tokens.
 *
 * us is the mean of --rounds rounds over all layers, after one: submitted as they come, not recorded,
 * so that where the host is slower than the device its time is seen. The blocks that project have a
 * sum over the ranks in them, which has no part in their floor; it is measured by itself
 * (PROBE_REDUCE). The time of logits is that of one row a sequence.
 */
#include "bench/common.h"

enum { BLOCKS = 6, SIZES_MAX = 16, DECODE_MAX = 256 };

struct arguments {
	const char *shape, *backend, *dtype, *tokens;
	int context, rounds, threads;
	double ceiling, peak;
	int sizes[SIZES_MAX], size_count;
};

static const char *const names[BLOCKS] = {"qkv", "attend", "project_attention", "gate_up", "project_mlp",
					  "logits"};

static void parse_arguments(struct arguments *a, int argc, char **argv)
{
	*a = (struct arguments){"configs/shapes/llama-2-7b.json", default_backend(), "bf16",
				"1,8,64,256,2048", 128, 5, 1, 0, 0, {0}, 0};
	const struct argument known[] = {
		{.name = "--shape", .text = &a->shape}, {.name = "--backend", .text = &a->backend},
		{.name = "--dtype", .text = &a->dtype}, {.name = "--tokens", .text = &a->tokens},
		{.name = "--context", .number = &a->context}, {.name = "--rounds", .number = &a->rounds},
		{.name = "--threads", .number = &a->threads}, {.name = "--ceiling", .real = &a->ceiling},
		{.name = "--peak", .real = &a->peak}, {.name = NULL},
	};
	bool good = read_arguments(known, argc, argv);
	for (const char *at = a->tokens; good; at++) {
		char *end;
		long size = strtol(at, &end, 10);
		good = size > 0 && size <= 1 << 20 && a->size_count < SIZES_MAX && (!*end || *end == ',');
		a->sizes[a->size_count++] = (int)size;
		at = end;
		if (!*end)
			break;
	}
	if (!good || a->context < 1 || a->rounds < 1 || a->threads < 1 || a->ceiling < 0 || a->peak < 0) {
		fprintf(stderr, "ops: --shape FILE --backend cpu|cuda --dtype f32|f16|bf16 --tokens 1,8,... "
				"--context N --ceiling GB/s --peak TFLOP/s --rounds N --threads N\n");
		exit(2);
	}
}

/* What a block must do in one layer. */
struct work {
	double bytes, operations;
};

static struct work work_of(const struct bench *b, const struct step *step, int block)
{
	const struct backend_shape *s = &b->options.shape;
	double head = s->head_dim, hidden = s->hidden, seen = 0, held = 0, weights = 0;
	double element = (double)dtype_bytes(s->dtype);
	int32_t rows = block == 5 ? step->logit_rows : step->tokens;
	for (int32_t q = 0; q < step->sequences; q++) {
		for (int32_t t = step->first_token[q]; t < step->first_token[q + 1]; t++)
			seen += step->positions[t] + 1;
		held += step->positions[step->first_token[q + 1] - 1] + 1;
	}
	if (block == 1)
		return (struct work){2 * held * s->kv_heads * head * element, 4 * seen * s->query_heads * head};
	weights = block == 0   ? (s->query_heads + 2.0 * s->kv_heads) * head * hidden
		  : block == 2 ? s->query_heads * head * hidden
		  : block == 3 ? 2.0 * s->intermediate * hidden
		  : block == 4 ? (double)s->intermediate * hidden
			       : (double)s->vocab * hidden;
	element *= b->backend->ops->weight_share ? b->backend->ops->weight_share(b->backend, rows) : 1;
	return (struct work){weights * element, 2 * weights * rows};
}

/* Mean seconds of a block in one layer, within a step that was begun. peek waits for what was
 * submitted. */
static double time_block(struct bench *b, const struct arguments *a, int block, float *residual)
{
	const struct backend_ops *ops = b->backend->ops;
	int (*const blocks[])(struct backend *, int32_t, struct error *) = {
		ops->qkv, ops->attend, ops->project_attention, ops->gate_up, ops->project_mlp,
	};
	struct error err = {0};
	int layers = block < 5 ? b->config.layers : 1;
	double start = 0;
	for (int round = -1; round < a->rounds; round++) {
		if (round == 0) {
			need(ops->peek(b->backend, BUFFER_RESIDUAL, residual, &err), &err);
			start = now();
		}
		for (int32_t i = 0; i < layers; i++)
			need(block < 5 ? blocks[block](b->backend, i, &err) : ops->logits(b->backend, &err), &err);
	}
	need(ops->peek(b->backend, BUFFER_RESIDUAL, residual, &err), &err);
	double end = now();
	need(ops->peek(b->backend, BUFFER_RESIDUAL, residual, &err), &err); /* what the copy took of that */
	return (end - start - (now() - end)) / a->rounds / layers;
}

static void time_size(struct bench *b, const struct arguments *a, int tokens, double ceiling)
{
	const struct backend_ops *ops = b->backend->ops;
	bool prompt = tokens > DECODE_MAX;
	struct part part = {0, prompt ? 1 : tokens, prompt ? tokens : 1, prompt ? 0 : a->context - 1};
	b->blocks_each = b->options.kv_blocks / part.sequences;
	if (b->blocks_each > b->options.max_blocks)
		b->blocks_each = b->options.max_blocks;
	struct step step = bench_step(b, &part, 1);
	float *residual = allocate((size_t)tokens * (size_t)b->config.hidden, sizeof *residual);
	struct error err = {0};
	double reduce, floors = 0, times = 0;

	need(ops->probe(b->backend, PROBE_REDUCE, (size_t)tokens * (size_t)b->config.hidden *
			dtype_bytes(b->options.shape.dtype), &reduce, &err), &err);
	need(ops->begin(b->backend, &step, &err), &err);
	need(ops->embed(b->backend, &err), &err);
	for (int k = 0; k < BLOCKS; k++) {
		double us = time_block(b, a, k, residual) * 1e6;
		struct work w = work_of(b, &step, k);
		double floor = w.bytes / ceiling * 1e6, by_peak = a->peak ? w.operations / (a->peak * 1e6) : 0;
		bool sums = k == 2 || k == 4;
		floor = floor > by_peak ? floor : by_peak;
		floors += floor * (k < 5 ? b->config.layers : 1);
		times += us * (k < 5 ? b->config.layers : 1);
		if (group->rank == 0)
			printf("%7d %-18s %9.1f %9.1f %9.2f %9.1f %9.1f %9.1f\n", tokens, names[k], us, floor,
			       floor > 0 ? us / floor : 0, w.bytes / us * 1e-3, w.operations / us * 1e-6,
			       sums ? reduce * 1e6 : 0);
	}
	if (group->rank == 0)
		printf("%7d %-18s %9.1f %9.1f %9.2f\n", tokens, "all layers", times, floors, times / floors);
	need(ops->end(b->backend, &err), &err);
	free(residual);
}

int main(int argc, char **argv)
{
	struct error err = {0};
	struct arguments a;
	struct bench *b = allocate(1, sizeof *b);
	int sequences = 1, tokens = 1;

	parse_arguments(&a, argc, argv);
	need(mpi_group_open(&group, &err), &err);
	for (int i = 0; i < a.size_count; i++) {
		tokens = a.sizes[i] > tokens ? a.sizes[i] : tokens;
		if (a.sizes[i] <= DECODE_MAX)
			sequences = a.sizes[i] > sequences ? a.sizes[i] : sequences;
	}
	int each = (a.context + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK, all = sequences * each;
	int longest = tokens > DECODE_MAX && tokens > each ? tokens : each;
	bench_open(b, a.shape, a.backend, a.dtype, a.threads, sequences, longest,
		   all > longest ? all : longest, tokens);
	double seconds = 0, bytes = 4e9;
	if (!a.ceiling)
		need(b->backend->ops->probe(b->backend, PROBE_READ, (size_t)bytes, &seconds, &err), &err);
	double ceiling = a.ceiling ? a.ceiling * 1e9 : bytes / seconds;
	if (group->rank == 0)
		printf("rank 0 of %d; ceiling %.0f GB/s (%s), peak %g TFLOP/s%s; context %d\n"
		       "%7s %-18s %9s %9s %9s %9s %9s %9s\n", group->size, ceiling * 1e-9,
		       a.ceiling ? "given" : "measured", a.peak, a.peak ? "" : " (not given: no floor)", a.context,
		       "tokens", "block", "us", "floor us", "x floor", "GB/s", "TFLOP/s", "sum us");
	for (int i = 0; i < a.size_count; i++)
		time_size(b, &a, a.sizes[i], ceiling);
	bench_close(b);
	free(b);
	mpi_group_close(group);
	return 0;
}
