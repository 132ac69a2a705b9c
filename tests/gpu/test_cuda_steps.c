/*
 * Whole steps of the CUDA backend: recorded or not, looked into or not, and repeated, they give the same bits;
 * and what is made of their logits. On one rank, or on several under mpirun, with or without a GPU for each.
 */
#define TEST_SUITE "cuda_steps"
#include "tests/gpu/gpu_test.h"

/* Runs a step to its logits. `eager` keeps it from being recorded. Returns what begin said. */
static int run_step(struct backend *b, const struct backend_shape *s, const struct step *step, bool eager,
		    struct logit_result *results, float *logits)
{
	struct error err = {0};
	struct logit_request request = {1, 1, NULL, 0, -1};
	float *residual = reference_alloc((size_t)step->tokens * (size_t)s->hidden, sizeof *residual);
	int replayed = b->ops->begin(b, step, &err);
	CHECK_MSG(replayed >= 0, "%s", err.message);
	if (replayed == 0) {
		for (int n = 0; n < 2 + 5 * s->layers; n++) {
			int place = n == 0 ? EMBED : n == 1 + 5 * s->layers ? LOGITS : QKV + (n - 1) % 5;
			CHECK_OK(call(b, place, n == 0 ? 0 : (n - 1) / 5, &err), &err);
			if (n == 0 && eager)
				CHECK_OK(b->ops->peek(b, BUFFER_RESIDUAL, residual, &err), &err);
		}
	}
	CHECK_OK(b->ops->end(b, &err), &err);
	CHECK_MSG(step->logit_rows == 1, "one row");
	CHECK_OK(b->ops->candidates(b, &request, results, &err), &err);
	CHECK_OK(b->ops->logit_row(b, 0, logits, &err), &err);
	free(residual);
	return replayed;
}

/* A backend on random weights, or NULL. */
static struct backend *open_random(const struct backend_options *options, uint64_t seed)
{
	struct error err = {0};
	struct backend *b = NULL;
	CHECK_OK(cuda_backend_open(&b, options, &err), &err);
	if (b) {
		CHECK_OK(b->ops->load_random(b, seed, &err), &err);
		CHECK_OK(b->ops->load_end(b, &err), &err);
	}
	return b;
}

/* Prefill and decode of one sequence; all rows of logits in out[steps][vocab]. Returns how many steps were
 * replayed. */
static int run_sequence(struct backend *b, const struct backend_options *options, bool eager, uint64_t seed,
			int steps, float *out)
{
	const struct backend_shape *s = &options->shape;
	int replayed = 0, before = 0;
	uint64_t state = test_state;
	test_state = seed; /* the same ids in every run */
	for (int i = 0; i < steps; i++) {
		struct batch_step step;
		struct logit_result result;
		int count = i ? 1 : 247;
		batch_open(&step, 1, &before, &count, s->total_vocab, options->max_blocks, 1);
		replayed += run_step(b, s, &step.step, eager, &result, out + (size_t)i * (size_t)s->vocab);
		before += count;
		batch_close(&step);
	}
	test_state = state;
	return replayed;
}

/* Whether the backends' sums go through the host, which graphs cannot do. */
static bool host_sums(void)
{
	const char *asked = getenv("TPRUN_REDUCE");
	struct error err = {0};
	int gpus = 0;
	CHECK_OK(cuda_device_count(&gpus, &err), &err);
	return group->size > 1 && (asked ? !strcmp(asked, "host") : gpus < group->local_size);
}

static void replay_and_repeat_give_the_same_bits(void)
{
	enum { STEPS = 30 };
	for (int dtype = 0; dtype < 3; dtype++) {
		struct large l = {.layers = 3, .hidden = 512, .head_dim = 64, .query_heads = 8, .kv_heads = 4,
				  .intermediate = 1377, .vocab = 5001, .dtype = (enum dtype)dtype,
				  .windows = {0, 50, 0}};
		struct backend_shape s = large_shape(&l);
		struct backend_options options = make_options(&s, 256, 4, 20, 20);
		size_t bytes = (size_t)STEPS * (size_t)s.vocab * sizeof(float);
		float *first = malloc(bytes), *second = malloc(bytes), *third = malloc(bytes);
		uint64_t seed = test_random();
		/* The context passes 256 tokens on the way: two forms, each run twice before it is replayed, once
		 * where eager steps have gone before. */
		for (int run = 0; run < 2; run++) {
			struct backend *b = open_random(&options, seed);
			if (!b)
				break;
			if (run)
				CHECK(!run_sequence(b, &options, true, seed, STEPS, second));
			int replayed = run_sequence(b, &options, false, seed, STEPS, run ? third : first);
			CHECK_MSG(replayed == (host_sums() ? 0 : STEPS - 1 - (run ? 2 : 4)), "%d steps replayed",
				  replayed);
			b->ops->close(b);
		}
		CHECK_MSG(!memcmp(first, second, bytes), "recorded and eager steps differ (%s)",
			  dtype_name((enum dtype)dtype));
		CHECK_MSG(!memcmp(first, third, bytes), "two runs differ (%s)", dtype_name((enum dtype)dtype));
		free(first), free(second), free(third);
	}
}

enum { WHOLE_STEPS = 8, WHOLE_SEQUENCES = 20 };

/* Steps of some sequences to their logits in out[steps][sequences][vocab]. With `look`, the residual is
 * taken out and put back after every block. Returns how many steps were replayed from recordings. */
static int run_whole_steps(struct backend *b, const struct backend_options *options, int sequences, bool look,
			   float *out)
{
	const struct backend_shape *s = &options->shape;
	int before[WHOLE_SEQUENCES] = {0}, count[WHOLE_SEQUENCES], replayed = 0;
	float *residual = reference_alloc((size_t)(options->max_tokens * s->hidden), sizeof *residual);
	struct error err = {0};
	for (int i = 0; i < WHOLE_STEPS; i++, out += sequences * s->vocab) {
		struct batch_step step;
		for (int k = 0; k < sequences; k++)
			count[k] = i == 0 ? 1 + 2 * k : i % 2 || k % 5 ? 1 : 37;
		batch_open(&step, sequences, before, count, s->total_vocab, options->max_blocks, sequences);
		int recorded = b->ops->begin(b, &step.step, &err);
		CHECK_MSG(recorded >= 0, "%s", err.message);
		replayed += recorded;
		for (int n = 0; n < 2 + 5 * s->layers && !recorded; n++) {
			int place = n == 0 ? EMBED : n == 1 + 5 * s->layers ? LOGITS : QKV + (n - 1) % 5;
			CHECK_OK(call(b, place, n == 0 ? 0 : (n - 1) / 5, &err), &err);
			if (!look || place == LOGITS)
				continue;
			CHECK_OK(b->ops->peek(b, BUFFER_RESIDUAL, residual, &err), &err);
			CHECK_OK(b->ops->poke(b, BUFFER_RESIDUAL, residual, &err), &err);
		}
		CHECK_OK(b->ops->end(b, &err), &err);
		CHECK_OK(b->ops->peek(b, BUFFER_LOGITS, out, &err), &err);
		for (int k = 0; k < sequences; k++)
			before[k] += count[k];
		batch_close(&step);
	}
	free(residual);
	return replayed;
}

/* Steps that are not looked into against the same ones that are, on another backend; and against their
 * repetition on that one, where the forms of steps are known already. */
static void whole_steps_of_many_match(void)
{
	static const int sequences[] = {20, 6, 11, 16};
	enum { COUNTS = sizeof sequences / sizeof *sequences, PLAIN = 0, LOOK, AGAIN, RUNS };
	for (int dtype = 0; dtype < 3; dtype++) {
		struct large l = {.layers = 3, .hidden = 512, .head_dim = 64, .query_heads = 8, .kv_heads = 4,
				  .intermediate = 1377, .vocab = 5001, .dtype = (enum dtype)dtype,
				  .windows = {0, 50, 0}};
		struct backend_shape s = large_shape(&l);
		struct backend_options options = make_options(&s, 1200, WHOLE_SEQUENCES, 14, WHOLE_SEQUENCES * 14);
		size_t row = WHOLE_STEPS * (size_t)s.vocab; /* of one sequence, all steps */
		float *logits[RUNS][COUNTS];
		int replayed[COUNTS] = {0};
		uint64_t seed = test_random(), state = test_state;
		struct backend *b = NULL;
		for (int run = PLAIN; run < RUNS; run++) {
			if (run != AGAIN)
				b = open_random(&options, seed);
			test_state = state; /* the same ids in every run */
			for (int n = 0; n < COUNTS; n++) {
				logits[run][n] = reference_alloc((size_t)sequences[n] * row, sizeof(float));
				if (b)
					replayed[n] += run_whole_steps(b, &options, sequences[n], run == LOOK, logits[run][n]);
			}
			if (b && run != LOOK)
				b->ops->close(b);
		}
		for (int n = 0; n < COUNTS; n++) {
			size_t bytes = (size_t)sequences[n] * row * sizeof(float);
			CHECK_MSG(!memcmp(logits[PLAIN][n], logits[AGAIN][n], bytes), "two runs differ (%d sequences, %s)",
				  sequences[n], dtype_name(l.dtype));
			CHECK_MSG(!memcmp(logits[PLAIN][n], logits[LOOK][n], bytes),
				  "looking inside changes it (%d sequences, %s)", sequences[n], dtype_name(l.dtype));
			/* Of the four steps that decode alone the last two, on the device, and again the last three. */
			CHECK_MSG(sequences[n] > 16 || host_sums() || replayed[n] >= 2 + 3,
				  "%d sequences: %d steps replayed", sequences[n], replayed[n]);
			for (int run = 0; run < RUNS; run++)
				free(logits[run][n]);
		}
	}
}

static void steps_through_nccl(void)
{
	replay_and_repeat_give_the_same_bits();
	whole_steps_of_many_match();
}

static void one_rank_through_nccl(void)
{
	through_nccl(steps_through_nccl);
}

/* ---- candidates ---------------------------------------------------------------------------- */

struct ranked {
	float logit;
	int32_t id;
};

static int by_rank(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

/* The candidates of so many rows of logits, by penalties and temperatures of three kinds. */
static void compare_candidates(struct backend *b, const struct backend_options *options, int rows)
{
	const struct backend_shape s = options->shape;
	struct error err = {0};
	int before[256] = {0}, count[256];
	for (int i = 0; i < rows; i++)
		count[i] = 1;
	struct batch_step step;
	batch_open(&step, rows, before, count, s.total_vocab, 4, rows);
	CHECK_OK(b->ops->begin(b, &step.step, &err), &err);
	for (int place = EMBED; place < PLACES; place++)
		CHECK_OK(call(b, place, 0, &err), &err);
	CHECK_OK(b->ops->end(b, &err), &err);

	size_t vocab = (size_t)s.vocab;
	float *raw = reference_alloc((size_t)rows * vocab + 1, sizeof *raw), *scaled = reference_alloc(vocab + 1, sizeof *scaled);
	struct ranked *sorted = reference_alloc(vocab + 1, sizeof *sorted);
	int32_t penalized[] = {0, s.total_vocab / 2, s.total_vocab - 1};
	struct logit_request requests[256] = {
		{1, 1, NULL, 0, -1},
		{1 / 0.7f, 1, penalized, 3, s.total_vocab / 3},
		{1 / 1.5f, 1.3f, penalized, s.total_vocab > 3 ? 3 : 1, 0},
	};
	struct logit_result results[256];
	for (int r = 3; r < rows; r++)
		requests[r] = requests[r % 3];
	CHECK_OK(b->ops->peek(b, BUFFER_LOGITS, raw, &err), &err);
	CHECK_OK(b->ops->candidates(b, requests, results, &err), &err);
	for (int r = 0; r < rows; r++) {
		double sum = 0;
		float *row = raw + (size_t)r * vocab;
		for (int k = 0; requests[r].repetition_penalty != 1 && k < requests[r].penalized_count; k++) {
			int64_t id = (int64_t)penalized[k] - s.first_vocab;
			if (id >= 0 && id < s.vocab)
				row[id] = row[id] > 0 ? row[id] / 1.3f : row[id] * 1.3f;
		}
		for (size_t i = 0; i < vocab; i++) {
			row[i] *= requests[r].inverse_temperature;
			sum += exp(row[i]);
			sorted[i] = (struct ranked){row[i], (int32_t)i + s.first_vocab};
		}
		CHECK_OK(b->ops->logit_row(b, r, scaled, &err), &err);
		CHECK(!memcmp(scaled, row, vocab * sizeof *row));
		qsort(sorted, vocab, sizeof *sorted, by_rank);
		CHECK(results[r].count == (s.vocab < CANDIDATES ? s.vocab : CANDIDATES));
		for (int k = 0; k < results[r].count; k++)
			CHECK_MSG(results[r].ids[k] == sorted[k].id && results[r].logits[k] == sorted[k].logit,
				  "row %d, place %d: %d (%g), expected %d (%g)", r, k, results[r].ids[k],
				  results[r].logits[k], sorted[k].id, sorted[k].logit);
		CHECK_MSG(s.vocab == 0 || fabs(results[r].log_sum_exp - log(sum)) < 1e-4, "%g, expected %g",
			  results[r].log_sum_exp, log(sum));
		int64_t target = (int64_t)requests[r].target - s.first_vocab;
		if (requests[r].target >= 0 && target >= 0 && target < s.vocab)
			CHECK(results[r].target_logit == row[target]);
		else
			CHECK(results[r].target_logit == -INFINITY);
	}
	free(raw), free(scaled), free(sorted);
	batch_close(&step);
}

/* Triples of equal rows in the head make ties. */
static void candidates_match_a_sort(void)
{
	static const int rows[] = {3, 20, 256}, vocabs[] = {200, 20000, 40000};
	sum_simply(true);
	for (int round = 0; round < 3; round++) {
		struct large l = {.layers = 1, .hidden = 64, .head_dim = 16, .query_heads = 8, .kv_heads = 4,
				  .intermediate = 64, .vocab = (int32_t)test_int(group->size, vocabs[round]),
				  .dtype = DTYPE_F32};
		struct error err = {0};
		struct backend *b = NULL;
		struct backend_shape s = large_shape(&l);
		struct backend_options options = make_options(&s, 256, 256, 4, 4 * 256);
		CHECK_OK(cuda_backend_open(&b, &options, &err), &err);
		if (!b)
			break;
		CHECK_OK(b->ops->load_random(b, test_random(), &err), &err);
		for (int32_t i = 0; i < s.vocab; i++) {
			float row[64];
			for (int k = 0; k < 64; k++)
				row[k] = (float)((s.first_vocab + i) / 3 * (k + 3) % 101 - 50) / 100;
			const struct tensor_part part = {.tensor = TENSOR_HEAD, .layer = -1, .row = i, .rows = 1,
							 .columns = 64, .dtype = DTYPE_F32};
			CHECK_OK(backend_load(b, part, row, sizeof row, &err), &err);
		}
		CHECK_OK(b->ops->load_end(b, &err), &err);
		for (int i = 0; i < 3; i++)
			compare_candidates(b, &options, rows[i]);
		b->ops->close(b);
	}
	sum_simply(false);
}

int main(int argc, char **argv)
{
	gpu_test_start();
	RUN_ASKED(candidates_match_a_sort);
	RUN_ASKED(whole_steps_of_many_match);
	RUN_ASKED(replay_and_repeat_give_the_same_bits);
	RUN_ASKED(one_rank_through_nccl);
	mpi_group_close(group);
	TEST_END();
}
