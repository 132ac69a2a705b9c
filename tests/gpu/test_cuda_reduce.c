/*
 * The ways of adding up over the ranks: steps of few tokens and of many, whose sums go through the
 * peers' memory in two ways where they can. Whole steps against steps that are
 * looked into and put back after every block, against their repetition, and against the other ways.
 * On one rank, or on several under mpirun, with or without a GPU for each.
 */
#define TEST_SUITE "cuda_reduce"
#include "tests/gpu/gpu_test.h"

enum { SEQUENCES = 33, BLOCKS = 12 };

/* Sequences that join a step, each with one token; the first step brings prompts. Every number comes
 * thrice at least: a form's first step runs unrecorded, the second is recorded, the third replayed. */
static const int joining[] = {33, 1, 4, 9, 1, 4, 2, 1, 3, 33, 1, 9, 2, 4, 4, 3, 1, 2, 9, 3, 1};
enum { STEPS = sizeof joining / sizeof *joining };

struct outcome {
	float *logits; /* [STEPS][SEQUENCES][vocab], zeros where there is no row */
	size_t count;
	int replayed;
	char reduce_name[256];
};

/* Runs all steps. With `look`, the activations are taken out and put back after every block. */
static void run_steps(struct outcome *out, const struct backend_options *options, uint64_t seed, bool look)
{
	const struct backend_shape *s = &options->shape;
	struct error err = {0};
	struct backend *b = NULL;
	int before[SEQUENCES] = {0}, count[SEQUENCES];
	uint64_t state = test_state;
	size_t widest = (size_t)(s->hidden > s->intermediate ? s->hidden : s->intermediate);

	test_state = seed; /* the same ids in every run */
	out->replayed = 0;
	out->count = (size_t)STEPS * SEQUENCES * (size_t)s->vocab;
	out->logits = reference_alloc(out->count + 1, sizeof *out->logits);
	CHECK_OK(cuda_backend_open(&b, options, &err), &err);
	if (!b)
		return;
	CHECK_OK(b->ops->load_random(b, seed, &err), &err);
	CHECK_OK(b->ops->load_end(b, &err), &err);
	snprintf(out->reduce_name, sizeof out->reduce_name, "%s", cuda_backend_reduce_name(b));
	for (int i = 0; i < STEPS; i++) {
		struct batch_step step;
		int n = joining[i];
		for (int k = 0; k < n; k++)
			count[k] = i ? 1 : 1 + k % 5;
		batch_open(&step, n, before, count, s->total_vocab, BLOCKS, i % 4 == 3 ? 1 : n);
		float *values = reference_alloc((size_t)step.step.tokens * widest + 4096, sizeof *values);
		int replayed = b->ops->begin(b, &step.step, &err);
		CHECK_MSG(replayed >= 0, "%s", err.message);
		for (int place = 0; replayed == 0 && place < 2 + 5 * s->layers; place++) {
			int kind = place == 0 ? EMBED : place == 1 + 5 * s->layers ? LOGITS : QKV + (place - 1) % 5;
			CHECK_OK(call(b, kind, place ? (place - 1) / 5 : 0, &err), &err);
			if (!look || kind == LOGITS || kind == QKV || kind == ATTEND)
				continue;
			CHECK_OK(b->ops->peek(b, buffers[kind], values, &err), &err);
			CHECK_OK(b->ops->poke(b, buffers[kind], values, &err), &err);
		}
		out->replayed += replayed > 0;
		CHECK_OK(b->ops->end(b, &err), &err);
		if (look && !replayed) /* what the residual owed after the logits was taken already */
			CHECK_OK(b->ops->peek(b, BUFFER_RESIDUAL, values, &err), &err);
		CHECK_OK(b->ops->peek(b, BUFFER_LOGITS,
				      out->logits + (size_t)i * SEQUENCES * (size_t)s->vocab, &err), &err);
		for (int k = 0; k < n; k++)
			before[k] += count[k];
		free(values);
		batch_close(&step);
	}
	b->ops->close(b);
	test_state = state;
}

/* A way that TPRUN_REDUCE asks for; NULL: the best. */
static void run_way(struct outcome *out, const char *way, const struct backend_options *options, uint64_t seed,
		    bool look)
{
	if (way)
		setenv("TPRUN_REDUCE", way, 1);
	run_steps(out, options, seed, look);
	unsetenv("TPRUN_REDUCE");
}

static bool same(const struct outcome *a, const struct outcome *b)
{
	return a->count == b->count && !memcmp(a->logits, b->logits, a->count * sizeof *a->logits);
}

static double apart(const struct outcome *a, const struct outcome *b)
{
	double difference = 0, size = 0;
	for (size_t i = 0; i < a->count; i++) {
		double d = (double)a->logits[i] - b->logits[i];
		difference += isfinite(a->logits[i]) ? d * d : INFINITY;
		size += (double)b->logits[i] * b->logits[i];
	}
	return sqrt(difference / (size > 0 ? size : 1));
}

static bool own_gpus(void)
{
	int gpus = 0;
	struct error err = {0};
	CHECK_OK(cuda_device_count(&gpus, &err), &err);
	return gpus >= group->local_size;
}

/* Hidden sizes that are no multiple of four, rows longer than a pass, ranks with an empty part (an MLP
 * of few columns), long rows that 16-bit kernels keep as such, sizes that peers_rows.cu takes (multiples of 8). */
static void few_and_many_take_turns(const char *way, const char *other, const char *name)
{
	enum { ROUNDS = 5 };
	static const int32_t sizes[ROUNDS][2] = {{1033, 777}, {2051, 3}, {8196, 1001}, {512, 11007}, {4104, 3}};
	const bool by_turns = way && !strcmp(way, "peer") && !own_gpus();
	for (int round = 0; round < ROUNDS; round++) {
		struct large l = {.layers = 2, .hidden = sizes[round][0], .head_dim = 64, .query_heads = 8,
				  .kv_heads = 4, .intermediate = sizes[round][1], .vocab = 501,
				  .query_key_norm = round % 5 == 1,
				  .dtype = (enum dtype)(round < 3 ? round : round == 3 ? DTYPE_BF16 : test_int(0, 2))};
		if (by_turns && l.hidden % 8)
			continue; /* other rows want NCCL for many tokens */
		struct backend_shape s = large_shape(&l);
		struct backend_options options = make_options(&s, 200, SEQUENCES, BLOCKS, SEQUENCES * BLOCKS);
		struct outcome best = {0}, again = {0}, looked = {0}, plain = {0};
		uint64_t seed = test_random();
		run_way(&best, way, &options, seed, false);
		run_way(&again, way, &options, seed, false);
		run_way(&looked, way, &options, seed, true);
		run_way(&plain, other, &options, seed, false);
		CHECK_MSG(strstr(best.reduce_name, name), "%s", best.reduce_name);
		CHECK_MSG(!strcmp(best.reduce_name, looked.reduce_name), "%s and %s", best.reduce_name,
			  looked.reduce_name);
		CHECK_MSG(same(&best, &again), "two runs differ (round %d, %s)", round, best.reduce_name);
		CHECK_MSG(same(&best, &looked), "looking inside changes it (round %d, %s)", round, best.reduce_name);
		CHECK_MSG(looked.replayed < best.replayed || !best.replayed, "%d and %d steps replayed",
			  looked.replayed, best.replayed);
		double d = apart(&best, &plain);
		CHECK_MSG(d <= bound(l.dtype), "%s and %s are %.3g apart (round %d, %s)", best.reduce_name,
			  plain.reduce_name, d, round, dtype_name(l.dtype));
		free(best.logits), free(again.logits), free(looked.logits), free(plain.logits);
	}
}

/* Peers against host sums. A single rank can be its own peer, and ranks that share GPUs can be made to go this way. */
static void peers_agree_with_the_host(void)
{
	if (group->size > 1)
		few_and_many_take_turns(own_gpus() ? NULL : "peer", "host", "through peers' memory");
	else
		few_and_many_take_turns("peer", NULL, "through peers' memory");
}

static void peers_without_parts_agree_with_the_host(void)
{
	without_parts(peers_agree_with_the_host);
}

static void nccl_agrees_with_the_host(void)
{
	if (!own_gpus() || group->size == 1)
		SKIP("it wants several ranks, with a GPU each");
	else
		few_and_many_take_turns("nccl", "host", "nccl");
}

/* Where ranks share a GPU neither is taken, and to ask for what can't be had is an error that says so. */
static void sharing_a_gpu_goes_through_the_host(void)
{
	struct large l;
	struct backend_options options = tiny_options(&l);
	struct error err = {0};
	struct backend *b = NULL;
	if (own_gpus()) {
		SKIP("no ranks share a GPU");
		return;
	}
	few_and_many_take_turns(NULL, "host", "host");
	setenv("TPRUN_REDUCE", "nccl", 1);
	CHECK_FAILS(cuda_backend_open(&b, &options, &err), &err, "share a GPU");
	l.hidden = 60;
	options.shape = large_shape(&l);
	setenv("TPRUN_REDUCE", "peer", 1);
	CHECK_FAILS(cuda_backend_open(&b, &options, &err), &err, "share a GPU");
	unsetenv("TPRUN_REDUCE");
}

int main(int argc, char **argv)
{
	gpu_test_start();
	RUN_ASKED(peers_agree_with_the_host);
	RUN_ASKED(peers_without_parts_agree_with_the_host);
	RUN_ASKED(nccl_agrees_with_the_host);
	RUN_ASKED(sharing_a_gpu_goes_through_the_host);
	mpi_group_close(group);
	TEST_END();
}
