/*
 * The CUDA backend against the float64 reference (small odd shapes) and against the CPU backend
 * (large ones), block by block: each block starts from the expected values of the one before.
 * On one rank, or on several under mpirun, with or without a GPU for each.
 */
#define TEST_SUITE "cuda_backend"
#include "kernels/cuda/layout.h"
#include "tests/gpu/gpu_test.h"

/* ---- the table of errors ----------------------------------------------------------------- */

static const char *const place_names[PLACES] = {
	"embed", "qkv", "attend", "project_attention", "gate_up", "project_mlp", "logits",
};

struct table_entry {
	double absolute, relative; /* largest |a-b|; ‖a-b‖/‖b‖ */
	long values;
};
static struct table_entry table[2][3][PLACES]; /* [judge: float64 or CPU][dtype] */

/* Compares `count` values and notes the errors. An empty part has none. */
static void note(int judge, enum dtype dtype, int place, const float *have, const float *want, size_t count)
{
	double difference = 0, size = 0, largest = 0;
	for (size_t i = 0; i < count; i++) {
		double d = (double)have[i] - want[i];
		if (!isfinite(have[i]))
			d = INFINITY;
		difference += d * d;
		size += (double)want[i] * want[i];
		largest = fmax(largest, fabs(d));
	}
	double relative = size > 0 ? sqrt(difference / size) : sqrt(difference);
	struct table_entry *e = &table[judge][dtype][place];
	e->absolute = fmax(e->absolute, largest);
	e->relative = fmax(e->relative, relative);
	e->values += (long)count;
	/* A few values may all be small beside what they are made of, by chance, and their errors are not. */
	double most = bound(dtype) * (1 + 8.0 / (double)(count + 1));
	CHECK_MSG(relative <= most, "rank %d, %s in %s: ‖a-b‖/‖b‖ %.3g, largest %.3g, %zu values",
		  group->rank, place_names[place], dtype_name(dtype), relative, largest, count);
}

static void print_table(void)
{
	static const char *const judges[] = {"float64", "cpu"};
	printf("%-8s %-9s %-18s %12s %12s %12s\n", "judge", "dtype", "block", "largest", "relative", "values");
	for (int j = 0; j < 2; j++)
		for (int d = 0; d < 3; d++)
			for (int p = 0; p < PLACES; p++)
				if (table[j][d][p].values)
					printf("%-8s %-9s %-18s %12.3g %12.3g %12ld\n", judges[j],
					       dtype_name((enum dtype)d), place_names[p],
					       table[j][d][p].absolute, table[j][d][p].relative,
					       table[j][d][p].values);
}

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

static void blocks_match_float64(void)
{
	static const int32_t head_dims[] = {8, 10, 32, 64, 80, 128, 256};
	for (int round = 0; round < 21; round++) {
		struct reference_config c = reference_config_random((enum dtype)(round % 3));
		int32_t head_dim = c.head_dim = head_dims[round / 3];
		/* Every size adds up as users' runs do in one type, in another on each number of ranks. */
		sum_simply((round / 3 + round + group->size) % 3);
		c.attention_scale = 1.0f / sqrtf((float)head_dim);
		for (int32_t i = 0; i < head_dim / 2; i++)
			c.rope_frequencies[i] = powf(10000.0f, -2.0f * (float)i / (float)head_dim);
		compare_reference(c, (int)test_int(1, 4), 80, 3);
	}
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

/* ---- packed weights --------------------------------------------------------------------------- */

/* bfloat16 bits with this exponent, any sign and mantissa. */
static uint16_t weight_of(int64_t exponent)
{
	return (uint16_t)(test_int(0, 1) << 15 | exponent << 7 | test_int(0, 127));
}

/* Rows such as packing has cases for, none with more than 8 weights that lie out of 15 exponents; but in a `crowded` matrix
 * row 0 has 65 of them. */
static uint16_t *wild_weights(int rows, int columns, bool crowded)
{
	uint16_t *out = reference_alloc((size_t)rows * (size_t)columns, sizeof *out);
	for (int r = 0; r < rows; r++) {
		uint16_t *row = out + (size_t)r * (size_t)columns;
		const int64_t kind = r ? test_int(0, 5) : 1, first = test_int(1, 180);
		for (int i = 0; i < columns; i++)
			row[i] = kind == 0   ? weight_of(120 - test_int(0, 7))
				 : kind == 2 ? (uint16_t)(test_int(0, 1) << 15)	      /* zeros, */
				 : kind == 3 ? weight_of(0)			      /* denormals, */
				 : kind == 4 ? weight_of(test_int(0, 14))	      /* and both among small ones */
				 : kind == 5 && test_int(0, 1) ? 0
							       : weight_of(first + test_int(0, 14));
		const int strays = r ? (int)test_int(0, 8) : crowded ? 65 : 8;
		for (int n = 0, step = columns / 65; kind == 1 && n < strays; n++)
			row[n * step + test_int(0, step - 1)] =
				weight_of(first > 90 ? test_int(0, first - 1) : test_int(first + 15, 200));
	}
	return out;
}

static float weight_value(uint16_t bits)
{
	const uint32_t word = (uint32_t)bits << 16;
	float value;
	memcpy(&value, &word, sizeof value);
	return value;
}

/* Column after column of a matrix, as what comes of inputs that are 1 there and 0 elsewhere: to the last bit, of as many
 * columns at a time as the step has tokens. Rank 0's matrix; the others' inputs are 0. */
static void check_columns(struct backend *b, int place, int layer, const uint16_t *weights, int rows, int columns, int width,
			  int tokens)
{
	struct error err = {0};
	const enum backend_buffer input = place == PROJECT_MLP ? BUFFER_ACTIVATION : BUFFER_ATTENTION;
	float *in = reference_alloc((size_t)(tokens * width) + 1, sizeof *in);
	float *out = reference_alloc((size_t)(tokens * rows), sizeof *out);
	long wrong = 0;
	for (int first = 0; first < columns; first += tokens) {
		memset(in, 0, (size_t)(tokens * width) * sizeof *in);
		memset(out, 0, (size_t)(tokens * rows) * sizeof *out);
		for (int t = 0; t < tokens && group->rank == 0; t++)
			in[t * width + (first + t) % columns] = 1;
		CHECK_OK(b->ops->poke(b, input, in, &err), &err);
		CHECK_OK(b->ops->poke(b, BUFFER_RESIDUAL, out, &err), &err);
		CHECK_OK(call(b, place, layer, &err), &err);
		CHECK_OK(b->ops->peek(b, BUFFER_RESIDUAL, out, &err), &err);
		for (int t = 0; t < tokens; t++)
			for (int r = 0; r < rows; r++)
				wrong += out[t * rows + r] != weight_value(weights[r * columns + (first + t) % columns]);
	}
	CHECK_MSG(!wrong, "rank %d, layer %d, place %d, %d tokens: %ld weights are wrong", group->rank, layer, place, tokens,
		  wrong);
	free(in), free(out);
}

/* Bytes of a matrix as it is, for strays < 0, or packed with so many in a row: tiles of 8 rows, each with 4 bytes of scale and
 * 4 for a stray, and 12 bits for each weight of columns up to a multiple of 128. */
static double matrix_bytes(int rows, int columns, int strays)
{
	const int stride = (columns + 63) / 64 * 64;
	return strays < 0 ? 2.0 * rows * stride
			  : (rows + 7) / 8 * 8 * (4 + 4 * strays + 1.5 * ((stride + 127) / 128 * 128));
}

/* What weight_share is to be where OUTPUT and DOWN have 8 strays in a row, and those of the layers from `crowded` on too many. */
static double expected_share(const struct backend_shape *s, int crowded)
{
	const int attention = s->query_heads * s->head_dim, qkv = attention + 2 * s->kv_heads * s->head_dim;
	double bytes[2] = {matrix_bytes(s->vocab, s->hidden, -1), matrix_bytes(s->vocab, s->hidden, 0)};
	for (int i = 0; i < s->layers; i++)
		for (int packed = 0; packed < 2; packed++) {
			const int tame = packed ? 0 : -1, wild = packed && i < crowded ? 8 : -1;
			bytes[packed] += matrix_bytes(qkv, s->hidden, tame) + matrix_bytes(2 * s->intermediate, s->hidden, tame) +
					 matrix_bytes(s->hidden, attention, wild) + matrix_bytes(s->hidden, s->intermediate, wild);
		}
	return bytes[1] / bytes[0];
}

/* Loads a rank's part of a matrix. */
static void load_matrix(struct backend *b, enum backend_tensor tensor, int layer, const uint16_t *weights, int rows, int columns)
{
	struct error err = {0};
	struct tensor_part part = {.tensor = tensor, .layer = layer, .rows = rows, .columns = columns, .dtype = DTYPE_BF16};
	CHECK_OK(backend_load(b, part, weights, (size_t)columns * sizeof *weights, &err), &err);
}

/* All weights of OUTPUT and DOWN on rank 0. Layer 1's have a row with too many strays: they stay as they are. The other
 * matrices have none. */
static void packed_weights_are_exact(void)
{
	enum { LAYERS = 2, TOKENS = GEMV_TOKENS };
	static const int token_counts[] = {1, 2, 3, TOKENS};
	struct error err = {0};
	struct large l = {.layers = LAYERS, .hidden = (int32_t)test_int(290, 310), .head_dim = 40, .query_heads = 8 * group->size,
			  .kv_heads = group->size, .intermediate = (int32_t)test_int(650, 750) * group->size, .vocab = 64,
			  .dtype = DTYPE_BF16};
	struct backend_shape s = large_shape(&l);
	struct backend_options options = make_options(&s, TOKENS, TOKENS, 1, TOKENS);
	struct backend *b = NULL;
	const int hidden = l.hidden, attention = s.query_heads * s.head_dim;
	int middle = s.intermediate; /* rank 0's, on all ranks */
	uint16_t *matrices[LAYERS][2];
	float *zeros = reference_alloc((size_t)hidden, sizeof *zeros);
	CHECK_OK(group->broadcast(group, &middle, sizeof middle, 0, &err), &err);
	for (int i = 0; i < LAYERS; i++) {
		matrices[i][0] = wild_weights(hidden, attention, i);
		matrices[i][1] = wild_weights(hidden, middle, i);
	}
	uint16_t *tame = reference_alloc((size_t)(middle * hidden), sizeof *tame);
	for (int i = 0; i < middle * hidden; i++)
		tame[i] = weight_of(120 - test_int(0, 7));
	CHECK_OK(cuda_backend_open(&b, &options, &err), &err);
	if (!b)
		goto out;
	CHECK_OK(b->ops->load_random(b, test_random(), &err), &err);
	load_matrix(b, TENSOR_HEAD, -1, tame, s.vocab, hidden);
	for (int i = 0; i < LAYERS; i++) {
		load_matrix(b, TENSOR_QUERY, i, tame, attention, hidden);
		load_matrix(b, TENSOR_KEY, i, tame, s.kv_heads * s.head_dim, hidden);
		load_matrix(b, TENSOR_VALUE, i, tame, s.kv_heads * s.head_dim, hidden);
		load_matrix(b, TENSOR_GATE, i, tame, s.intermediate, hidden);
		load_matrix(b, TENSOR_UP, i, tame, s.intermediate, hidden);
		load_matrix(b, TENSOR_OUTPUT, i, group->rank ? tame : matrices[i][0], hidden, attention);
		load_matrix(b, TENSOR_DOWN, i, group->rank ? tame : matrices[i][1], hidden, s.intermediate);
		for (int k = 0; k < 2; k++) {
			struct tensor_part bias = {.tensor = k ? TENSOR_DOWN_BIAS : TENSOR_OUTPUT_BIAS, .layer = i, .rows = 1,
						   .columns = hidden, .dtype = DTYPE_F32};
			CHECK_OK(backend_load(b, bias, zeros, (size_t)hidden * sizeof *zeros, &err), &err);
		}
	}
	CHECK_OK(b->ops->load_end(b, &err), &err);
	const double share = b->ops->weight_share(b, TOKENS), expected = expected_share(&s, 1);
	CHECK_MSG(group->rank || fabs(share - expected) < 1e-9, "%g of the weights' bytes, not %g", share, expected);
	CHECK(b->ops->weight_share(b, TOKENS + 1) == 1);
	for (int n = 0; n < 4; n++) {
		int before[TOKENS] = {0}, count[TOKENS], tokens = token_counts[n];
		struct batch_step step;
		for (int i = 0; i < tokens; i++)
			count[i] = 1;
		batch_open(&step, tokens, before, count, l.vocab, 1, 1);
		for (int i = 0; i < LAYERS; i++) {
			CHECK_OK(b->ops->begin(b, &step.step, &err), &err);
			CHECK_OK(b->ops->embed(b, &err), &err);
			check_columns(b, PROJECT_ATTENTION, i, matrices[i][0], hidden, attention, attention, tokens);
			check_columns(b, PROJECT_MLP, i, matrices[i][1], hidden, middle, s.intermediate, tokens);
			CHECK_OK(b->ops->end(b, &err), &err);
		}
		batch_close(&step);
	}
	b->ops->close(b);
out:
	for (int i = 0; i < LAYERS; i++)
		free(matrices[i][0]), free(matrices[i][1]);
	free(zeros), free(tame);
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
	RUN_ASKED(many_sequences_match_float64);
	RUN_ASKED(wide_rows_match_cpu);
	RUN_ASKED(wide_rows_unpacked_match_cpu);
	RUN_ASKED(wide_rows_without_parts_match_cpu);
	RUN_ASKED(small_batches_match_cpu);
	RUN_ASKED(small_batches_unpacked_match_cpu);
	RUN_ASKED(packed_weights_are_exact);
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
