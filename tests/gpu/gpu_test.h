/*
 * gpu_test.h - what the tests of the CUDA backend share: the ranks, blocks by name, steps of given
 * lengths on shapes with random weights.
 */
#ifndef TPRUN_TESTS_GPU_TEST_H
#define TPRUN_TESTS_GPU_TEST_H

#include <omp.h>

#include "kernels/cuda/cuda.h"
#include "launcher/mpi_group.h"
#include "tests/reference_model.h"

static struct group *group;

enum { EMBED, QKV, ATTEND, PROJECT_ATTENTION, GATE_UP, PROJECT_MLP, LOGITS, PLACES };

static inline double bound(enum dtype dtype)
{
	return dtype == DTYPE_F32 ? 2e-5 : dtype == DTYPE_F16 ? 2e-3 : 1e-2;
}

static inline struct backend_options make_options(const struct backend_shape *shape, int tokens, int sequences,
					   int max_blocks, int kv_blocks)
{
	int devices = 0, cores = omp_get_num_procs() / group->local_size; /* ranks are not bound */
	struct error err = {0};
	CHECK_OK(cuda_device_count(&devices, &err), &err);
	return (struct backend_options){
		.shape = *shape, .group = group, .kv_blocks = kv_blocks, .max_tokens = tokens,
		.max_sequences = sequences, .max_blocks = max_blocks, .max_logit_rows = tokens,
		.device = devices ? group->local_rank % devices : 0,
		.threads = cores < 1 ? 1 : cores < 16 ? cores : 16, .patience_s = 20,
	};
}

/* Backends opened from here on add up over the ranks through the host, unless TPRUN_REDUCE asks for a way:
 * for cases whose point sums are not. To connect NCCL and the peers takes longer than all their steps. */
static inline void sum_simply(bool simply)
{
	static bool set;
	if (simply && group->size > 1 && !getenv("TPRUN_REDUCE"))
		set = !setenv("TPRUN_REDUCE", "host", 1);
	if (!simply && set)
		set = unsetenv("TPRUN_REDUCE");
}

static inline size_t buffer_width(const struct backend_shape *s, int place)
{
	return (size_t)(place == QKV || place == ATTEND ? s->query_heads * s->head_dim
			: place == GATE_UP ? s->intermediate : place == LOGITS ? s->vocab : s->hidden);
}

static const enum backend_buffer buffers[PLACES] = {
	BUFFER_RESIDUAL, BUFFER_QUERY, BUFFER_ATTENTION, BUFFER_RESIDUAL, BUFFER_ACTIVATION,
	BUFFER_RESIDUAL, BUFFER_LOGITS,
};

static inline int call(struct backend *b, int place, int layer, struct error *err)
{
	switch (place) {
	case EMBED: return b->ops->embed(b, err);
	case QKV: return b->ops->qkv(b, layer, err);
	case ATTEND: return b->ops->attend(b, layer, err);
	case PROJECT_ATTENTION: return b->ops->project_attention(b, layer, err);
	case GATE_UP: return b->ops->gate_up(b, layer, err);
	case PROJECT_MLP: return b->ops->project_mlp(b, layer, err);
	default: return b->ops->logits(b, err);
	}
}

/* A shape on random weights, split as evenly as it goes. Frequencies and windows are the caller's. */
struct large {
	int32_t layers, hidden, head_dim, query_heads, kv_heads, intermediate, vocab;
	bool query_key_norm;
	enum dtype dtype;
	int32_t windows[4];
	float frequencies[HEAD_DIM_MAX / 2];
	struct head_group groups[REFERENCE_KV_HEADS];
};

static inline struct backend_shape large_shape(struct large *l)
{
	int32_t rank = group->rank, size = group->size;
	struct reference_model m = {.config = {
		.layers = l->layers, .hidden = l->hidden, .head_dim = l->head_dim,
		.query_heads = l->query_heads, .kv_heads = l->kv_heads, .intermediate = l->intermediate,
		.vocab = l->vocab, .query_key_norm = l->query_key_norm, .norm_epsilon = 1e-5,
		.attention_scale = 1.0f / sqrtf((float)l->head_dim), .rope_magnitude = 1, .dtype = l->dtype,
	}};
	struct backend_shape s = reference_shape(&m, rank, size, l->groups);
	for (int32_t i = 0; i < l->head_dim / 2; i++)
		l->frequencies[i] = powf(10000.0f, -2.0f * (float)i / (float)l->head_dim);
	s.windows = l->windows;
	s.rope_frequencies = l->frequencies;
	return s;
}

/* A step of given lengths; the block table walks backwards. */
struct batch_step {
	struct step step;
	int32_t *ids, *positions, *first, *blocks, *rows;
};

static inline void batch_open(struct batch_step *b, int sequences, const int *before, const int *count, int vocab,
		       int max_blocks, int logit_rows)
{
	int tokens = 0;
	for (int i = 0; i < sequences; i++)
		tokens += count[i];
	b->ids = reference_alloc((size_t)tokens, 4);
	b->positions = reference_alloc((size_t)tokens, 4);
	b->first = reference_alloc((size_t)sequences + 1, 4);
	b->blocks = reference_alloc((size_t)(sequences * max_blocks), 4);
	b->rows = reference_alloc((size_t)logit_rows, 4);
	tokens = 0;
	for (int i = 0; i < sequences; i++) {
		b->first[i] = tokens;
		for (int k = 0; k < count[i]; k++, tokens++) {
			b->ids[tokens] = (int32_t)test_int(0, vocab - 1);
			b->positions[tokens] = before[i] + k;
		}
		for (int k = 0; k < max_blocks; k++)
			b->blocks[i * max_blocks + k] = (sequences - i) * max_blocks - 1 - k;
	}
	b->first[sequences] = tokens;
	for (int i = 0; i < logit_rows; i++)
		b->rows[i] = tokens - 1 - i * tokens / logit_rows;
	b->step = (struct step){tokens, sequences, logit_rows, max_blocks, b->ids, b->positions, b->first,
				b->blocks, b->rows, NULL};
}

static inline void batch_close(struct batch_step *b)
{
	free(b->ids), free(b->positions), free(b->first), free(b->blocks), free(b->rows);
}

/* A model of which only the opening matters. The shape's arrays are in *l. */
static inline struct backend_options tiny_options(struct large *l)
{
	*l = (struct large){.layers = 1, .hidden = 64, .head_dim = 16, .query_heads = 8, .kv_heads = 4,
			    .intermediate = 64, .vocab = 100, .dtype = DTYPE_BF16};
	struct backend_shape s = large_shape(l);
	return make_options(&s, 8, 4, 4, 16);
}

/* A single rank can be made to go NCCL's way: its buffers, its launches among the recorded ones. */
static inline void through_nccl(void (*cases)(void))
{
	struct large l;
	struct backend_options options = tiny_options(&l);
	struct error err = {0};
	struct backend *b = NULL;
	if (group->size > 1 || getenv("TPRUN_REDUCE")) {
		SKIP("it wants one rank, and TPRUN_REDUCE unset");
		return;
	}
	setenv("TPRUN_REDUCE", "nccl", 1);
	if (cuda_backend_open(&b, &options, &err)) {
		if (strstr(err.message, "TPRUN_REDUCE=nccl"))
			SKIP("%s", err.message);
		else
			CHECK_MSG(false, "%s", err.message);
	} else {
		CHECK_MSG(!strncmp(cuda_backend_reduce_name(b), "nccl", 4), "%s", cuda_backend_reduce_name(b));
		b->ops->close(b);
		cases();
	}
	unsetenv("TPRUN_REDUCE");
}

/* Products of few tokens: by gemv_parts.cu for matrices as small as tests' on any number of ranks, or never. */
static inline void with_parts(bool with)
{
	setenv("TPRUN_CUDA_PARTS", with ? "400" : "0", 1);
}

/* Cases with bfloat16 weights as they are, which are packed otherwise. */
static inline void unpacked(void (*cases)(void))
{
	setenv("TPRUN_CUDA_PACKED", "0", 1);
	cases();
	unsetenv("TPRUN_CUDA_PACKED");
}

/* The same without gemv_parts.cu. */
static inline void without_parts(void (*cases)(void))
{
	with_parts(false);
	unpacked(cases);
	with_parts(true);
}

/* Cases with gemm.cu for all that its kernels can take, however few multiprocessors that keeps busy. */
static inline void through_gemm(void (*cases)(void))
{
	setenv("TPRUN_CUDA_GEMM", "0", 1);
	cases();
	unsetenv("TPRUN_CUDA_GEMM");
}

/* Arguments name the tests to run; none, all of them. */
static inline bool asked(int argc, char **argv, const char *name)
{
	bool found = argc < 2;
	for (int i = 1; i < argc; i++)
		found = found || !strcmp(argv[i], name);
	return found;
}

#define RUN_ASKED(function)                                                                        \
	do {                                                                                       \
		if (asked(argc, argv, #function))                                                  \
			RUN(function);                                                             \
	} while (0)

/* Joins the ranks, which all make the same random numbers; rank 0 alone reports. Ends the test where
 * there is no GPU. */
static inline void gpu_test_start(void)
{
	struct error err = {0};
	int gpus = 0;
	if (mpi_group_open(&group, &err)) {
		fprintf(stderr, "%s\n", err.message);
		exit(1);
	}
	/* All ranks make the same random model; rank 0 alone reports. */
	test_random();
	if (group->broadcast(group, &test_seed, sizeof test_seed, 0, &err))
		group->abort(group, &err);
	test_state = test_seed;
	if (group->rank && !freopen("/dev/null", "w", stdout))
		exit(1);
	if (cuda_device_count(&gpus, &err) || !gpus) {
		fprintf(stderr, "no GPU: %s\n", err.message);
		exit(1);
	}
	with_parts(true);
}

#endif
