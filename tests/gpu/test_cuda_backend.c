/*
 * The CUDA backend against the float64 reference (small odd shapes) and against the CPU backend
 * (large ones), block by block: each block starts from the expected values of the one before.
 * On one rank, or on several under mpirun, with or without a GPU for each.
 */
#define TEST_SUITE "cuda_backend"
#include "tests/gpu/error_table.h"

/* ---- against float64 ----------------------------------------------------------------------- */

/* This rank's columns of a reference activation as float32. */
static float *cut(const double *from, size_t rows, size_t total, size_t first, size_t width)
{
	float *out = reference_alloc(rows * width + 1, sizeof *out);
	for (size_t r = 0; r < rows; r++)
		for (size_t i = 0; i < width; i++)
			out[r * width + i] = (float)from[r * total + first + i];
	return out;
}

static void compare_place(struct backend *b, const struct backend_shape *s, int place, int layer,
			  const double *expected, size_t rows, size_t total, size_t first)
{
	struct error err = {0};
	size_t width = buffer_width(s, place);
	float *want = cut(expected, rows, total, first, width);
	float *have = reference_alloc(rows * width + 1, sizeof *have);
	CHECK_OK(call(b, place, layer, &err), &err);
	CHECK_OK(b->ops->peek(b, buffers[place], have, &err), &err);
	note(0, s->dtype, place, have, want, rows * width);
	if (place != LOGITS)
		CHECK_OK(b->ops->poke(b, buffers[place], want, &err), &err);
	free(want), free(have);
}

static void compare_step(struct backend *b, const struct backend_shape *s, const struct step *step,
			 const struct reference_trace *t)
{
	struct error err = {0};
	size_t tokens = (size_t)step->tokens, hidden = (size_t)s->hidden;
	size_t heads = (size_t)s->total_query_heads * (size_t)s->head_dim;
	size_t first = (size_t)s->first_query_head * (size_t)s->head_dim;
	CHECK_OK(b->ops->begin(b, step, &err), &err);
	compare_place(b, s, EMBED, 0, t->embedded, tokens, hidden, 0);
	for (int i = 0; i < s->layers; i++) {
		compare_place(b, s, QKV, i, t->layers[i].query, tokens, heads, first);
		compare_place(b, s, ATTEND, i, t->layers[i].attention, tokens, heads, first);
		compare_place(b, s, PROJECT_ATTENTION, i, t->layers[i].middle, tokens, hidden, 0);
		compare_place(b, s, GATE_UP, i, t->layers[i].activation, tokens,
			      (size_t)s->total_intermediate, (size_t)s->first_intermediate);
		compare_place(b, s, PROJECT_MLP, i, t->layers[i].residual, tokens, hidden, 0);
	}
	compare_place(b, s, LOGITS, 0, t->logits, (size_t)step->logit_rows, (size_t)s->total_vocab,
		      (size_t)s->first_vocab);
	CHECK_OK(b->ops->end(b, &err), &err);
}

/* Steps of a random batch. Keys and values live in the backends' own caches, rounded there. */
static void compare_reference(struct reference_config c, int sequences, int capacity, int steps)
{
	struct error err = {0};
	struct reference_model model;
	struct reference_batch batch;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	if (c.query_heads < group->size)
		c.query_heads = c.kv_heads * group->size;
	reference_open(&model, &c, 0);
	reference_batch_open(&batch, &model, sequences, capacity);
	struct backend_shape shape = reference_shape(&model, group->rank, group->size, groups);
	struct backend_options options = make_options(&shape, sequences * capacity, sequences,
						      batch.max_blocks, batch.kv_blocks);
	bool growth = test_int(0, 1);
	int failures = test_failures;
	CHECK_OK(cuda_backend_open(&b, &options, &err), &err);
	if (b)
		CHECK_OK(reference_load(b, &model, &shape, &err), &err);
	for (int i = 0; b && i < steps; i++) {
		struct reference_trace trace;
		const struct step *step = reference_batch_step(&batch, c.vocab, capacity / 2, growth);
		if (!step->tokens)
			break;
		reference_forward(&model, &batch, &trace);
		compare_step(b, &shape, step, &trace);
		reference_trace_close(&trace);
	}
	if (test_failures > failures)
		fprintf(stderr, "  the shape: %s, hidden %d, head_dim %d, %d heads over %d, intermediate %d, "
			"vocab %d, norm %d, tied %d, biases %d\n", dtype_name(c.dtype), c.hidden, c.head_dim,
			c.query_heads, c.kv_heads, c.intermediate, c.vocab, c.query_key_norm, c.tied, c.biases);
	if (b)
		b->ops->close(b);
	reference_batch_close(&batch);
	reference_close(&model);
}

static void set_head_dim(struct reference_config *c, int32_t head_dim)
{
	c->head_dim = head_dim;
	c->attention_scale = 1.0f / sqrtf((float)head_dim);
	for (int32_t i = 0; i < head_dim / 2; i++)
		c->rope_frequencies[i] = powf(10000.0f, -2.0f * (float)i / (float)head_dim);
}

static void blocks_match_float64(void)
{
	static const int32_t head_dims[] = {8, 10, 32, 64, 80, 128, 256};
	for (int round = 0; round < 21; round++) {
		struct reference_config c = reference_config_random((enum dtype)(round % 3));
		set_head_dim(&c, head_dims[round / 3]);
		/* Every size adds up as users' runs do in one type, in another on each number of ranks. */
		sum_simply((round / 3 + round + group->size) % 3);
		compare_reference(c, (int)test_int(1, 4), 80, 3);
	}
	sum_simply(false);
}

/* Rows that gemm.cu can take, with biases. */
static void rows_of_eight_match_float64(void)
{
	for (int round = 0; round < 8; round++) {
		struct reference_config c = reference_config_random((enum dtype)(1 + round % 2));
		c.hidden = 8 * (int32_t)test_int(2, 40);
		c.intermediate = 8 * group->size * (int32_t)test_int(1, 40);
		set_head_dim(&c, round % 4 < 2 ? 64 : 128);
		c.biases = true;
		c.query_key_norm = round > 5;
		compare_reference(c, (int)test_int(2, 4), 80, 3);
	}
}

static void blocks_through_gemm_match_float64(void)
{
	sum_simply(true);
	through_gemm(rows_of_eight_match_float64);
	sum_simply(false);
}

static void many_sequences_match_float64(void)
{
	for (int dtype = 0; dtype < 3; dtype++)
		compare_reference(reference_config_random((enum dtype)dtype), 33, 40, 5);
}

/* ---- against the CPU ----------------------------------------------------------------------- */

static void compare_backends(struct backend *gpu, struct backend *cpu, const struct backend_shape *s,
			     const struct step *step)
{
	struct error err = {0};
	size_t widest = 0;
	for (int place = EMBED; place < PLACES; place++)
		widest = buffer_width(s, place) > widest ? buffer_width(s, place) : widest;
	float *have = reference_alloc((size_t)step->tokens * widest, sizeof *have);
	float *want = reference_alloc((size_t)step->tokens * widest, sizeof *want);
	CHECK_OK(gpu->ops->begin(gpu, step, &err), &err);
	CHECK_OK(cpu->ops->begin(cpu, step, &err), &err);
	for (int n = 0; n < 2 + 5 * s->layers; n++) {
		int place = n == 0 ? EMBED : n == 1 + 5 * s->layers ? LOGITS : QKV + (n - 1) % 5;
		int layer = n == 0 ? 0 : (n - 1) / 5;
		size_t rows = (size_t)(place == LOGITS ? step->logit_rows : step->tokens);
		size_t count = rows * buffer_width(s, place);
		CHECK_OK(call(gpu, place, layer, &err), &err);
		CHECK_OK(call(cpu, place, layer, &err), &err);
		CHECK_OK(gpu->ops->peek(gpu, buffers[place], have, &err), &err);
		CHECK_OK(cpu->ops->peek(cpu, buffers[place], want, &err), &err);
		note(1, s->dtype, place, have, want, count);
		if (place != LOGITS)
			CHECK_OK(gpu->ops->poke(gpu, buffers[place], want, &err), &err);
	}
	CHECK_OK(gpu->ops->end(gpu, &err), &err);
	CHECK_OK(cpu->ops->end(cpu, &err), &err);
	free(have), free(want);
}

struct pair {
	struct backend *gpu, *cpu;
};

static void pair_close(struct pair *p)
{
	if (p->gpu)
		p->gpu->ops->close(p->gpu);
	if (p->cpu)
		p->cpu->ops->close(p->cpu);
}

/* Both on the same random weights. */
static bool pair_open(struct pair *p, const struct backend_options *options)
{
	struct error err = {0};
	*p = (struct pair){0};
	CHECK_OK(cuda_backend_open(&p->gpu, options, &err), &err);
	CHECK_OK(cpu_backend_open(&p->cpu, options, &err), &err);
	if (!p->gpu || !p->cpu) {
		pair_close(p);
		return false;
	}
	uint64_t seed = test_random();
	CHECK_OK(p->gpu->ops->load_random(p->gpu, seed, &err), &err);
	CHECK_OK(p->cpu->ops->load_random(p->cpu, seed, &err), &err);
	CHECK_OK(p->gpu->ops->load_end(p->gpu, &err), &err);
	CHECK_OK(p->cpu->ops->load_end(p->cpu, &err), &err);
	return true;
}

/* Sequences that run together. */
struct batch {
	int sequences, chunk, lengths[256];
};

/* Prefill of the given lengths, then steps of one token each, then a mixed one; with `chunk`, one
 * more that brings so many tokens of every third sequence. */
static void compare_batch(const struct pair *p, const struct backend_shape *s, const struct batch *batch,
			  int max_blocks)
{
	int before[256] = {0}, count[256], sequences = batch->sequences;
	for (int i = 0; i < (batch->chunk ? 4 : 3); i++) {
		struct batch_step b;
		for (int k = 0; k < sequences; k++) {
			count[k] = i == 0 ? batch->lengths[k] : i == 1 || k % (i == 2 ? 2 : 3) ? 1
				 : i == 2 ? 3 : batch->chunk;
		}
		batch_open(&b, sequences, before, count, s->total_vocab, max_blocks, i == 0 ? 1 : sequences);
		compare_backends(p->gpu, p->cpu, s, &b.step);
		batch_close(&b);
		for (int k = 0; k < sequences; k++)
			before[k] += count[k];
	}
}

/* Batches one after the other on the same backends, which take longer to open than to run. */
static void compare_large(struct large *l, const struct batch *batches, int count)
{
	struct backend_shape s = large_shape(l);
	struct pair p;
	int most_tokens = 0, most_sequences = 0, longest = 0;
	for (int n = 0; n < count; n++) {
		const struct batch *b = &batches[n];
		int tokens = 0;
		for (int i = 0; i < b->sequences; i++) {
			int length = b->lengths[i] + 8 + b->chunk;
			tokens += b->lengths[i] + 3 + (i % 3 ? 1 : b->chunk);
			longest = length > longest ? length : longest;
		}
		most_tokens = tokens > most_tokens ? tokens : most_tokens;
		most_sequences = b->sequences > most_sequences ? b->sequences : most_sequences;
	}
	int max_blocks = longest / KV_BLOCK + 1;
	struct backend_options options = make_options(&s, most_tokens, most_sequences, max_blocks,
						      most_sequences * max_blocks);
	if (!pair_open(&p, &options))
		return;
	for (int n = 0; n < count; n++)
		compare_batch(&p, &s, &batches[n], max_blocks);
	pair_close(&p);
}

/* Rows longer than a pass of the matrix-vector kernels, as the 7B model has them, and more of them
 * than fit on the device at once; odd numbers everywhere, so that every last group of rows is
 * short. */
static void wide_rows_match_cpu(void)
{
	static const int32_t sizes[][2] = {{4105, 1001}, {1033, 11007}, {2051, 4501}}; /* hidden, intermediate */
	struct batch batches[] = {{.sequences = 1}, {.sequences = 2}, {.sequences = 4}, {.sequences = 6}};
	for (int n = 0; n < 4; n++)
		for (int i = 0; i < batches[n].sequences; i++)
			batches[n].lengths[i] = 1 + 9 * i;
	for (int round = 0; round < 9; round++) {
		struct large l = {.layers = 1, .hidden = sizes[round / 3][0], .head_dim = 128,
				  .query_heads = 8, .kv_heads = 4, .intermediate = sizes[round / 3][1],
				  .vocab = 3001, .dtype = (enum dtype)(round % 3)};
		compare_large(&l, batches, 4);
	}
}

static void blocks_unpacked_match_float64(void)
{
	unpacked(blocks_match_float64);
}

static void wide_rows_unpacked_match_cpu(void)
{
	unpacked(wide_rows_match_cpu);
}

static void blocks_without_parts_match_float64(void)
{
	without_parts(blocks_match_float64);
}

static void wide_rows_without_parts_match_cpu(void)
{
	without_parts(wide_rows_match_cpu);
}

/* Steps of a few tokens more than the matrix-vector kernels take, and around the most that are recorded;
 * odd rows, long and short. */
static void small_batches_match_cpu(void)
{
	static const int32_t sizes[][3] = { /* hidden, head_dim, intermediate */
		{2051, 128, 4501}, {1033, 64, 11007}, {4105, 40, 1001}, {130, 16, 5000},
	};
	static const int counts[] = {5, 7, 8, 9, 16, 17};
	for (int round = 0; round < 8; round++) {
		const int32_t *size = sizes[round % 4];
		struct large l = {.layers = 1, .hidden = size[0], .head_dim = size[1], .query_heads = 8,
				  .kv_heads = 4, .intermediate = size[2], .vocab = 1003,
				  .dtype = (enum dtype)(1 + round / 4), .query_key_norm = round % 3 == 1};
		struct batch batches[6];
		for (int n = 0; n < 6; n++) {
			batches[n] = (struct batch){.sequences = counts[n]};
			for (int i = 0; i < counts[n]; i++)
				batches[n].lengths[i] = (int)test_int(1, 3);
		}
		compare_large(&l, batches, 6);
	}
}

static void small_batches_unpacked_match_cpu(void)
{
	unpacked(small_batches_match_cpu);
}

/* Products of many tokens: gates and ups in tiles of each width, on one rank; the last block of a cluster with few tokens,
 * or none; last tiles with few rows. */
static void many_tokens_match_cpu(void)
{
	static const int32_t sizes[][5] = { /* hidden, head_dim, query heads, KV heads, intermediate */
		{520, 64, 8, 4, 4224}, {1033, 128, 8, 2, 3960}, {4100, 128, 36, 12, 1000}, {264, 64, 24, 8, 1004},
	};
	for (int round = 0; round < 8; round++) {
		const int32_t *size = sizes[round % 4];
		struct large l = {.layers = 1, .hidden = size[0], .head_dim = size[1], .query_heads = size[2],
				  .kv_heads = size[3], .intermediate = size[4], .vocab = 1008,
				  .dtype = (enum dtype)(1 + round / 4), .query_key_norm = round == 2};
		struct batch batches[] = {{1, 0, {(int)test_int(257, 300)}}, {3, 30, {(int)test_int(60, 80), 1, 9}},
					  {.sequences = 20}};
		for (int i = 0; i < 20; i++)
			batches[2].lengths[i] = (int)test_int(1, 20);
		compare_large(&l, batches, 3);
	}
}

static void many_tokens_through_gemm_match_cpu(void)
{
	through_gemm(many_tokens_match_cpu);
}

static void long_prompt_matches_cpu(void)
{
	for (int dtype = 0; dtype < 3; dtype++) {
		struct large l = {.layers = 2, .hidden = 192, .head_dim = 64, .query_heads = 6, .kv_heads = 2,
				  .intermediate = 320, .vocab = 500, .query_key_norm = true,
				  .dtype = (enum dtype)dtype, .windows = {0, 700}};
		compare_large(&l, &(struct batch){3, 200, {4097, 5, 130}}, 1);
	}
}

static void batch_of_33_matches_cpu(void)
{
	for (int dtype = 0; dtype < 3; dtype++) {
		struct large l = {.layers = 2, .hidden = 640, .head_dim = 80, .query_heads = 12, .kv_heads = 4,
				  .intermediate = 1000, .vocab = 777, .dtype = (enum dtype)dtype,
				  .windows = {100, 0}};
		struct batch batch = {.sequences = 33, .chunk = 70};
		for (int i = 0; i < 33; i++)
			batch.lengths[i] = (int)test_int(1, 200);
		compare_large(&l, &batch, 1);
	}
}

/* As many sequences as a full batch has; every form of group that a KV head may have. */
static void batch_of_256_matches_cpu(void)
{
	static const int32_t heads[][3] = {{8, 8, 128}, {20, 1, 64}, {36, 3, 32}, {12, 1, 80}, {8, 4, 256}};
	for (int round = 0; round < 5; round++) {
		int32_t size = group->size, kv_heads = heads[round][1];
		struct large l = {.layers = 2, .hidden = 160, .head_dim = heads[round][2],
				  .query_heads = heads[round][0], .kv_heads = kv_heads,
				  .intermediate = 250, .vocab = 555, .dtype = (enum dtype)(1 + round % 2),
				  .windows = {0, 40}};
		struct batch batch = {.sequences = 256, .chunk = 17};
		if (l.query_heads < size)
			continue;
		for (int i = 0; i < 256; i++)
			batch.lengths[i] = (int)test_int(1, i % 4 ? 16 : 80);
		sum_simply(round > 1); /* one of each type adds up as users' runs do */
		compare_large(&l, &batch, 1);
	}
	sum_simply(false);
}

/* A few long contexts among short ones: they are cut into pieces. */
static void long_and_short_match_cpu(void)
{
	static const int32_t heads[][2] = {{8, 2}, {8, 8}, {18, 1}};
	sum_simply(true);
	for (int round = 0; round < 3; round++) {
		struct large l = {.layers = 2, .hidden = 128, .head_dim = round == 1 ? 128 : 64,
				  .query_heads = heads[round][0], .kv_heads = heads[round][1],
				  .intermediate = 128, .vocab = 300, .dtype = (enum dtype)(1 + round % 2),
				  .windows = {0, 600}};
		struct batch batch = {12, 33, {2500, 129, 1, 1111, 128}};
		for (int i = 5; i < 12; i++)
			batch.lengths[i] = (int)test_int(1, 300);
		compare_large(&l, &batch, 1);
	}
	sum_simply(false);
}

/* Few single tokens, whose contexts are split: shorter than the number of parts, around the ends of
 * blocks and parts, more than the first copies of all warps. */
static void split_contexts_match_cpu(void)
{
	static const int32_t heads[][3] = {{8, 8, 128}, {8, 2, 128}, {18, 1, 64}, {8, 1, 256}, {9, 3, 24}};
	static const int around[] = {15, 16, 31, 32, 63, 127, 128, 255, 256, 257, 511, 700};
	sum_simply(true);
	for (int round = 0; round < 15; round++) {
		const int32_t *shape = heads[round % 5];
		struct large l = {.layers = 3, .hidden = 128, .head_dim = shape[2], .query_heads = shape[0],
				  .kv_heads = shape[1], .intermediate = 128, .vocab = 300,
				  .dtype = (enum dtype)(round / 5), .windows = {0, 5, 130}};
		struct batch batches[3] = {{.sequences = 16}};
		for (int i = 0; i < 16; i++)
			batches[0].lengths[i] = 1 + i;
		for (int n = 1; n < 3; n++) {
			batches[n].sequences = (int)test_int(1, 3);
			for (int i = 0; i < batches[n].sequences; i++)
				batches[n].lengths[i] = around[test_int(0, 11)];
		}
		compare_large(&l, batches, 3);
	}
	/* So many heads that contexts stay whole. */
	for (int dtype = 0; dtype < 3; dtype++) {
		struct large l = {.layers = 1, .hidden = 128, .head_dim = 128, .query_heads = 32, .kv_heads = 32,
				  .intermediate = 128, .vocab = 300, .dtype = (enum dtype)dtype};
		compare_large(&l, &(struct batch){7, 0, {1100, 600, 1, 5, 40, 90, 300}}, 1);
	}
	sum_simply(false);
}

/* Sequences that share a block whose last place one of them fills in the same step, all of them singles. */
static void newest_shared_match_cpu(void)
{
	enum { SEQUENCES = 4, BLOCKS = 3 };
	sum_simply(true);
	for (int dtype = 0; dtype < 3; dtype++) {
		struct large l = {.layers = 2, .hidden = 128, .head_dim = 64, .query_heads = 8, .kv_heads = 4,
				  .intermediate = 128, .vocab = 300, .dtype = (enum dtype)dtype};
		struct pair p;
		struct backend_shape s = large_shape(&l);
		struct backend_options options = make_options(&s, 64, SEQUENCES, BLOCKS, SEQUENCES * BLOCKS);
		int before[SEQUENCES] = {0}, count[SEQUENCES] = {2 * KV_BLOCK - 1, 1, 1, 1};
		if (!pair_open(&p, &options))
			break;
		for (int i = 0; i < 2; i++) {
			struct batch_step b;
			batch_open(&b, SEQUENCES, before, count, l.vocab, BLOCKS, SEQUENCES);
			for (int k = 1; i && k < SEQUENCES; k++)
				memcpy(&b.blocks[k * BLOCKS], b.blocks, 2 * sizeof *b.blocks);
			compare_backends(p.gpu, p.cpu, &s, &b.step);
			batch_close(&b);
			before[0] = 2 * KV_BLOCK - 1;
			for (int k = 1; k < SEQUENCES; k++)
				before[k] = 2 * KV_BLOCK;
			count[0] = 1;
		}
		pair_close(&p);
	}
	sum_simply(false);
}

/* Sequences that share the first blocks of one that writes them in the same step, as singles and
 * as chunks. */
static void shared_blocks_match_cpu(void)
{
	enum { SEQUENCES = 14, SHARED = 2 };
	sum_simply(true);
	for (int round = 0; round < 6; round++) {
		struct large l = {.layers = 2, .hidden = 128, .head_dim = round < 3 ? 64 : 256, .query_heads = 8,
				  .kv_heads = 4, .intermediate = 128, .vocab = 300,
				  .dtype = (enum dtype)(round % 3)};
		struct pair p;
		struct backend_shape s = large_shape(&l);
		struct backend_options options = make_options(&s, 400, SEQUENCES, 5, SEQUENCES * 5);
		struct batch_step b;
		int before[SEQUENCES] = {0}, count[SEQUENCES] = {SHARED * KV_BLOCK + 9};
		for (int i = 1; i < SEQUENCES; i++) {
			before[i] = SHARED * KV_BLOCK;
			count[i] = i % 3 ? 1 : 20;
		}
		if (!pair_open(&p, &options))
			break;
		batch_open(&b, SEQUENCES, before, count, l.vocab, 5, SEQUENCES);
		for (int i = 1; i < SEQUENCES; i++)
			memcpy(&b.blocks[i * 5], b.blocks, SHARED * sizeof *b.blocks);
		compare_backends(p.gpu, p.cpu, &s, &b.step);
		batch_close(&b);
		pair_close(&p);
	}
	sum_simply(false);
}

static void references_through_nccl(void)
{
	for (int dtype = 0; dtype < 3; dtype++)
		compare_reference(reference_config_random((enum dtype)dtype), 4, 80, 3);
}

static void one_rank_through_nccl(void)
{
	through_nccl(references_through_nccl);
}

static void refusals_name_the_cause(void)
{
	struct large l;
	struct backend_options options = tiny_options(&l);
	struct error err = {0};
	struct backend *b = NULL;
	options.kv_blocks = 2000000000;
	CHECK_FAILS(cuda_backend_open(&b, &options, &err), &err, "no room for the KV cache");
	CHECK(!b);
	options.kv_blocks = 16;
	CHECK_OK(cuda_backend_open(&b, &options, &err), &err);
	if (!b)
		return;
	int before = 0, count = 9;
	struct batch_step step;
	batch_open(&step, 1, &before, &count, 100, 4, 1);
	CHECK_FAILS(b->ops->begin(b, &step.step, &err), &err, "9 tokens");
	batch_close(&step);
	b->ops->close(b);
}

int main(int argc, char **argv)
{
	gpu_test_start();
	RUN_ASKED(refusals_name_the_cause);
	RUN_ASKED(blocks_match_float64);
	RUN_ASKED(blocks_unpacked_match_float64);
	RUN_ASKED(blocks_without_parts_match_float64);
	RUN_ASKED(blocks_through_gemm_match_float64);
	RUN_ASKED(many_sequences_match_float64);
	RUN_ASKED(wide_rows_match_cpu);
	RUN_ASKED(wide_rows_unpacked_match_cpu);
	RUN_ASKED(wide_rows_without_parts_match_cpu);
	RUN_ASKED(small_batches_match_cpu);
	RUN_ASKED(small_batches_unpacked_match_cpu);
	RUN_ASKED(many_tokens_match_cpu);
	RUN_ASKED(many_tokens_through_gemm_match_cpu);
	RUN_ASKED(long_prompt_matches_cpu);
	RUN_ASKED(batch_of_33_matches_cpu);
	RUN_ASKED(batch_of_256_matches_cpu);
	RUN_ASKED(long_and_short_match_cpu);
	RUN_ASKED(split_contexts_match_cpu);
	RUN_ASKED(newest_shared_match_cpu);
	RUN_ASKED(shared_blocks_match_cpu);
	RUN_ASKED(one_rank_through_nccl);
	print_table();
	mpi_group_close(group);
	TEST_END();
}
