#include "launcher/bench_run.h"

#include <math.h>
#include <stdlib.h>

#include "launcher/output.h"
#include "runtime/engine/completions.h"

struct run {
	const struct bench_test *test;
	struct engine *engine;
	const struct model_config *config;
	int32_t *ids; /* [positions]: a prompt */
	float *row;   /* [vocab] */
};

/* Where a run stood when. */
struct moment {
	double at;
	uint64_t steps;
};

/* FNV-1a. */
static void hash_bytes(uint64_t *hash, const void *data, size_t bytes)
{
	const unsigned char *at = data;
	for (size_t i = 0; i < bytes; i++)
		*hash = (*hash ^ at[i]) * 0x100000001b3ull;
}

static int put(void *hash, int32_t id, struct error *err)
{
	(void)err;
	hash_bytes(hash, &id, sizeof id);
	return 0;
}

static int done(void *hash, enum finish_reason reason, int32_t shared, struct error *err)
{
	(void)hash, (void)reason, (void)shared, (void)err;
	return 0;
}

/* Queues the batch: prompts of `length` random ids, the same in every run. */
static int add_batch(struct run *run, struct completions *completions, int32_t length,
		     int32_t new_tokens, uint64_t *hash, struct error *err)
{
	for (int32_t s = 0; s < run->test->batch; s++) {
		const struct completion_request request = {
			.prompt = run->ids, .prompt_count = length, .max_new_tokens = new_tokens,
			.sampling = {.temperature = BENCH_TEMPERATURE, .top_k = BENCH_TOP_K, .top_p = 1,
				     .repetition_penalty = 1},
			.request = (uint64_t)s, .put = put, .done = done, .context = hash,
		};
		for (int32_t i = 0; i < length; i++)
			run->ids[i] = (int32_t)(sampler_draw(1, (uint64_t)s, (uint64_t)i) * run->config->vocab);
		if (completions_add(completions, &request, err))
			return -1;
	}
	return 0;
}

/* Rounds to the end. *prefilled: when the last of `prompts` tokens was run or found in the cache. */
static int finish_batch(struct completions *completions, int64_t prompts, struct moment *prefilled,
			struct moment *end, struct error *err)
{
	struct scheduler_counts before = completions_counts(completions), counts;
	uint64_t goal = before.computed_tokens + before.shared_tokens + (uint64_t)prompts;
	bool left = true;
	prefilled->at = 0;
	while (left) {
		if (completions_begin(completions, err) || completions_end(completions, &left, err))
			return -1;
		counts = completions_counts(completions);
		*end = (struct moment){output_now(), counts.steps};
		if (!prefilled->at && counts.computed_tokens + counts.shared_tokens >= goal)
			*prefilled = *end;
	}
	return 0;
}

static int hash_logits(struct run *run, uint64_t *hash, struct error *err)
{
	for (int32_t i = 0; i < engine_rows(run->engine); i++) {
		if (engine_logit_row(run->engine, i, run->row, err))
			return -1;
		hash_bytes(hash, run->row, (size_t)run->config->vocab * sizeof *run->row);
	}
	return 0;
}

/* One run with a cache of its own, as if the process had just started. What is held before is run
 * first, by completions of one token; those that are timed then find it in the cache, up to the
 * last few ids. */
static int run_once(struct run *run, double *seconds, uint64_t *steps, uint64_t *hash, struct error *err)
{
	const struct bench_test *test = run->test;
	struct moment start, prefilled, end;
	struct completions *completions;
	int32_t prompt = test->depth + test->prompt;
	int64_t batch = test->batch;
	int result = -1;

	*hash = 0xcbf29ce484222325ull;
	if (completions_open(&completions, run->engine, run->config, true, err))
		return -1;
	if (test->depth && (add_batch(run, completions, test->depth, 1, hash, err) ||
			    finish_batch(completions, batch * test->depth, &prefilled, &end, err)))
		goto fail;
	if (add_batch(run, completions, prompt, test->steps + 1, hash, err))
		goto fail;
	start = (struct moment){output_now(), completions_counts(completions).steps};
	if (finish_batch(completions, batch * prompt, &prefilled, &end, err))
		goto fail;
	if (test->kind == BENCH_PREFILL)
		end = prefilled;
	if (test->kind == BENCH_DECODE)
		start = prefilled;
	*seconds = end.at - start.at;
	*steps = end.steps - start.steps;
	result = hash_logits(run, hash, err);
fail:
	completions_close(completions);
	return result;
}

int bench_run(struct bench_result *out, const struct bench_test *test, struct engine *engine,
	      const struct model_config *config, int32_t repeat, struct error *err)
{
	struct run run = {.test = test, .engine = engine, .config = config};
	double sum = 0, squares = 0, all_seconds = 0;
	int result = -1;

	*out = (struct bench_result){.same = true};
	run.ids = calloc((size_t)bench_test_positions(test), sizeof *run.ids);
	run.row = calloc((size_t)config->vocab, sizeof *run.row);
	if (!run.ids || !run.row) {
		error_memory(err, "the benchmark's prompts");
		goto fail;
	}
	for (int32_t n = -1; n < repeat; n++) {
		double seconds;
		uint64_t steps, hash;
		if (run_once(&run, &seconds, &steps, &hash, err))
			goto fail;
		if (n < 0) {
			out->hash = hash;
			continue;
		}
		double speed = (double)bench_test_tokens(test) / seconds;
		sum += speed;
		squares += speed * speed;
		all_seconds += seconds;
		out->steps = (double)steps;
		out->same = out->same && hash == out->hash;
	}
	out->tokens_per_s = sum / repeat;
	out->seconds = all_seconds / repeat;
	if (repeat > 1)
		out->deviation = sqrt(fmax(0, squares - sum * sum / repeat) / (repeat - 1));
	result = 0;
fail:
	free(run.ids);
	free(run.row);
	return result;
}
