/*
 * bench_run.h - times one test of `tprun bench` on a started engine.
 */
#ifndef TPRUN_LAUNCHER_BENCH_RUN_H
#define TPRUN_LAUNCHER_BENCH_RUN_H

#include <stdbool.h>

#include "launcher/bench_test.h"
#include "runtime/engine/engine.h"
#include "runtime/model/config.h"

/* What a test is sampled with: in reach of the ranks' candidates. */
#define BENCH_TEMPERATURE 0.8
enum { BENCH_TOP_K = 50 };

struct bench_result {
	double tokens_per_s, deviation; /* mean and sample standard deviation over the repeats */
	double seconds, steps;		/* of the timed part, on average; its steps */
	/* Of all ids that were made and of the last step's logits, all ranks' parts. */
	uint64_t hash;
	bool same; /* the hash was the same in all repeats */
};

/* On rank 0, the others in engine_follow. Runs the test once to warm up, which records what a
 * backend records, and then `repeat` times: the whole loop that `batch` runs, over prompts of random
 * ids, with sampling and without any end token. What a test wants in the cache before is run before
 * the clock starts. An error is the engine's: the run must end. */
int bench_run(struct bench_result *out, const struct bench_test *, struct engine *,
	      const struct model_config *, int32_t repeat, struct error *err);

#endif
