/*
 * Packed weights of the CUDA backend are those that were loaded, to the last bit. On one rank, or on several under mpirun.
 */
#define TEST_SUITE "cuda_packed"
#include "kernels/cuda/layout.h"
#include "tests/gpu/gpu_test.h"

/* bfloat16 bits with this exponent, any sign and mantissa. */
static uint16_t weight_of(int64_t exponent)
{
	return (uint16_t)(test_int(0, 1) << 15 | exponent << 7 | test_int(0, 127));
}

/* Rows such as packing has cases for, none with more than 8 weights that lie out of 15 exponents; but in a `crowded` matrix
 * row 0 has 70 of them. */
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
		const int strays = r ? (int)test_int(0, 8) : crowded ? 70 : 8;
		for (int n = 0, step = columns / 70; kind == 1 && n < strays; n++)
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

int main(int argc, char **argv)
{
	gpu_test_start();
	RUN_ASKED(packed_weights_are_exact);
	mpi_group_close(group);
	TEST_END();
}
