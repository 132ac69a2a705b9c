/*
 * allreduce.c - the speed and the correctness of the sums over the ranks, as steps take them.
 *
 *   mpirun -np N allreduce [--backend cpu|cuda] [--dtype f32|f16|bf16] [--hidden 4096,8192]
 *                          [--tokens 1,2,4,8,64,256,2048]
 *
 * A line for each way that the runtime can be told to take (TPRUN_REDUCE: as it chooses by itself,
 * nccl, peer, host; on CPUs there is MPI's alone), size of the hidden row and number of tokens:
 *   us      one sum of tokens times hidden values, the mean of many in a recorded step (PROBE_REDUCE); of more than
 *	     16 tokens through the peers' memory with residual and norm, which its kernel takes, and not recorded
 *   algbw   bytes of the type over that time; on CPUs float32 travels, whatever the type
 *   busbw   algbw times 2 (N - 1) / N: what each link carries, to be compared with its peak
 *   wrong   values further from the sum in float64 than N roundings of the type can bring them, of a
 *	     sum of random values: through the block project_attention, whose weights pick an element
 * The exit status is 1 where a value is wrong.
 */
#include <math.h>

#include "bench/common.h"

enum { HEAD = 64, LIST_MAX = 16, SEED = 12345 };

struct list {
	int count, values[LIST_MAX];
};

struct arguments {
	const char *backend, *dtype;
	struct list hidden, tokens;
};

static bool parse_list(const char *text, int most, struct list *out)
{
	for (out->count = 0; out->count < LIST_MAX;) {
		char *end;
		long value = strtol(text, &end, 10);
		if (value < 1 || value > most || (*end && *end != ','))
			return false;
		out->values[out->count++] = (int)value;
		if (!*end)
			return true;
		text = end + 1;
	}
	return false;
}

static void parse_arguments(struct arguments *a, int argc, char **argv)
{
	const char *hidden = "4096,8192", *tokens = "1,2,4,8,64,256,2048";
	a->backend = default_backend();
	a->dtype = NULL;
	const struct argument known[] = {
		{.name = "--backend", .text = &a->backend}, {.name = "--dtype", .text = &a->dtype},
		{.name = "--hidden", .text = &hidden}, {.name = "--tokens", .text = &tokens}, {.name = NULL},
	};
	if (!read_arguments(known, argc, argv) || !parse_list(hidden, 1 << 16, &a->hidden) ||
	    !parse_list(tokens, 1 << 16, &a->tokens)) {
		fprintf(stderr, "allreduce: --backend cpu|cuda --dtype f32|f16|bf16 --hidden 4096,... "
				"--tokens 1,2,...\n");
		exit(2);
	}
	if (!a->dtype)
		a->dtype = strcmp(a->backend, "cpu") ? "bf16" : "f32";
}

/* ---- a model of one layer, of which only the output projection counts ------------------------ */

/* One query head a rank, whose elements are spread over the hidden row by ones. The rest is zero. */
static void load_spread(struct backend *backend, const struct backend_shape *s)
{
	struct error err = {0};
	size_t row = HEAD * dtype_bytes(s->dtype);
	float ones[HEAD];
	char *matrix = allocate((size_t)s->hidden, row);
	for (int h = 0; h < s->hidden; h++) {
		for (int c = 0; c < HEAD; c++)
			ones[c] = h % HEAD == c;
		dtype_convert(ones, DTYPE_F32, matrix + (size_t)h * row, s->dtype, HEAD);
	}
	const struct tensor_part part = {
		.tensor = TENSOR_OUTPUT, .rows = s->hidden, .columns = HEAD, .dtype = s->dtype,
	};
	need(backend_load(backend, part, matrix, row, &err), &err);
	need(backend->ops->load_end(backend, &err), &err);
	free(matrix);
}

/* Element c of a rank's head for a token: random in [-1, 1], as the type holds it. */
static float element(enum dtype dtype, int rank, int token, int c)
{
	uint64_t z = ((uint64_t)(rank * HEAD + c) << 32 | (uint32_t)token) + SEED;
	float value;
	uint16_t half;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	value = (float)((double)(z >> 11) * 0x1p-52 - 1);
	if (dtype == DTYPE_F32)
		return value;
	dtype_convert(&value, DTYPE_F32, &half, dtype, 1);
	dtype_convert(&half, dtype, &value, DTYPE_F32, 1);
	return value;
}

/* Values of a step's sum on this rank that are off. */
static long count_wrong(struct backend *backend, const struct backend_options *o, int tokens)
{
	static const double roundings[] = {[DTYPE_F32] = 0x1p-23, [DTYPE_F16] = 0x1p-10, [DTYPE_BF16] = 0x1p-7};
	const struct backend_ops *ops = backend->ops;
	const struct backend_shape *s = &o->shape;
	struct error err = {0};
	float *residual = allocate((size_t)tokens * (size_t)s->hidden, sizeof *residual);
	float *attention = allocate((size_t)tokens * HEAD, sizeof *attention);
	int32_t *numbers = allocate((size_t)tokens + (size_t)o->max_blocks, sizeof *numbers);
	int32_t *ids = allocate((size_t)tokens, sizeof *ids), first[] = {0, tokens}, none = 0;
	long wrong = 0;
	for (int i = 0; i < tokens + o->max_blocks; i++)
		numbers[i] = i;
	const struct step step = {tokens, 1, 0, o->max_blocks, ids, numbers, first, numbers, &none, NULL};
	for (int t = 0; t < tokens; t++)
		for (int c = 0; c < HEAD; c++)
			attention[t * HEAD + c] = element(s->dtype, group->rank, t, c);
	need(ops->begin(backend, &step, &err), &err);
	need(ops->embed(backend, &err), &err);
	need(ops->poke(backend, BUFFER_RESIDUAL, residual, &err), &err);
	need(ops->poke(backend, BUFFER_ATTENTION, attention, &err), &err);
	need(ops->project_attention(backend, 0, &err), &err);
	need(ops->peek(backend, BUFFER_RESIDUAL, residual, &err), &err);
	need(ops->end(backend, &err), &err);
	for (int t = 0; t < tokens; t++)
		for (int c = 0; c < HEAD; c++) {
			double sum = 0, size = 0;
			for (int r = 0; r < group->size; r++) {
				sum += element(s->dtype, r, t, c);
				size += fabs(element(s->dtype, r, t, c));
			}
			for (int h = c; h < s->hidden; h += HEAD)
				wrong += !(fabs(residual[(size_t)t * (size_t)s->hidden + (size_t)h] - sum) <=
					   group->size * roundings[s->dtype] * size);
		}
	free(residual), free(attention), free(numbers), free(ids);
	return wrong;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* Opens a backend as TPRUN_REDUCE=`way` asks (NULL: as it likes). Returns the wrong values. */
static long try_way(const struct arguments *a, const char *way, int hidden)
{
	struct error err = {0};
	struct backend *backend;
	static const struct head_group all_heads = {0, 1};
	static const int32_t window = 0;
	static const float frequencies[HEAD / 2] = {0};
	int most = 0, n = group->size;
	long all_wrong = 0;
	for (int i = 0; i < a->tokens.count; i++)
		most = a->tokens.values[i] > most ? a->tokens.values[i] : most;
	struct backend_options o = {
		.shape = {
			.layers = 1, .hidden = hidden, .head_dim = HEAD, .query_heads = 1,
			.first_query_head = group->rank, .kv_heads = 1, .first_kv_head = group->rank,
			.groups = &all_heads, .vocab = 32, .first_vocab = 32 * group->rank,
			.total_vocab = 32 * n, .total_query_heads = n, .total_kv_heads = n,
			.norm_epsilon = 1e-5, .attention_scale = 1, .windows = &window,
			.rope_frequencies = frequencies, .rope_magnitude = 1, .dtype = dtype_of(a->dtype),
		},
		.group = group, .kv_blocks = most / KV_BLOCK + 1, .max_tokens = most, .max_sequences = 1,
		.max_blocks = most / KV_BLOCK + 1, .max_logit_rows = 1, .threads = 1,
	};
	if (way)
		setenv("TPRUN_REDUCE", way, 1);
	else
		unsetenv("TPRUN_REDUCE");
	int result = open_named(a->backend, &backend, &o, &err);
	if (result && err.kind == ERROR_USAGE && way) {
		if (group->rank == 0)
			printf("%-8s not here: %s\n", way, err.message);
		return 0;
	}
	need(result, &err);
	load_spread(backend, &o.shape);
	if (group->rank == 0)
		printf("# %s: %s\n", way ? way : "default", reduce_name(a->backend, backend));
	for (int i = 0; i < a->tokens.count; i++) {
		int tokens = a->tokens.values[i];
		size_t bytes = (size_t)tokens * (size_t)hidden * dtype_bytes(o.shape.dtype);
		double seconds;
		need(backend->ops->probe(backend, PROBE_REDUCE, bytes, &seconds, &err), &err);
		float wrong = (float)count_wrong(backend, &o, tokens);
		need(group->sum(group, &wrong, 1, &err), &err);
		double algbw = seconds > 0 ? (double)bytes / seconds * 1e-9 : 0;
		all_wrong += (long)wrong;
		if (group->rank == 0)
			printf("%-8s %7d %7d %10zu %9.2f %9.2f %9.2f %8.0f\n", way ? way : "default", hidden,
			       tokens, bytes, seconds * 1e6, algbw, algbw * 2 * (n - 1) / n, wrong);
	}
	backend->ops->close(backend);
	return all_wrong;
}

int main(int argc, char **argv)
{
	static const char *const ways[] = {NULL, "nccl", "peer", "host"};
	struct error err = {0};
	struct arguments a;
	long wrong = 0;

	parse_arguments(&a, argc, argv);
	need(mpi_group_open(&group, &err), &err);
	if (group->rank == 0)
		printf("# %d ranks, backend %s, %s\n%-8s %7s %7s %10s %9s %9s %9s %8s\n", group->size, a.backend,
		       a.dtype, "way", "hidden", "tokens", "bytes", "us", "algbw", "busbw", "wrong");
	for (int h = 0; h < a.hidden.count; h++)
		for (size_t w = 0; w < (strcmp(a.backend, "cpu") ? 4 : 1); w++)
			wrong += try_way(&a, ways[w], a.hidden.values[h]);
	mpi_group_close(group);
	return wrong > 0;
}
