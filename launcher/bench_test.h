/*
 * bench_test.h - what `tprun bench` can time, and the least that each test must read: pure
 * arithmetic.
 *
 *   pp<N>[x<B>][@d<D>]   prefill: N tokens of a prompt, in each of B sequences that hold D already
 *   tg<N>[x<B>][@d<D>]   decode: N steps of B sequences that hold D at first, or without D 128
 *   b<B>                 B sequences from their start: prompts of 128, then 128 new tokens each
 */
#ifndef TPRUN_LAUNCHER_BENCH_TEST_H
#define TPRUN_LAUNCHER_BENCH_TEST_H

#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/error.h"

enum { BENCH_TESTS_MAX = 64, BENCH_NAME_MAX = 40, BENCH_LENGTH = 128 };

enum bench_kind { BENCH_PREFILL, BENCH_DECODE, BENCH_WHOLE };

struct bench_test {
	char name[BENCH_NAME_MAX]; /* as it was written */
	enum bench_kind kind;
	int32_t batch;
	int32_t depth;	/* positions that each sequence holds before what is timed */
	int32_t prompt; /* tokens of each prompt that are timed */
	int32_t steps;	/* decode steps that are timed */
};

struct bench_tests {
	struct bench_test list[BENCH_TESTS_MAX];
	int32_t count;
};

/* From "pp512,tg128x8@d3500"; an ERROR_USAGE names the test that is none. */
int bench_tests_parse(struct bench_tests *out, const char *text, struct error *err);

/* Positions that a sequence of the test takes up in the cache. */
int32_t bench_test_positions(const struct bench_test *);
/* Tokens whose number over the seconds is the speed: prompt tokens, or new ones. */
int64_t bench_test_tokens(const struct bench_test *);
/* Tokens of the steps that the test is about: of a full chunk of prompts, or one a sequence. */
int32_t bench_test_step_tokens(const struct bench_test *, int32_t max_tokens);

/* Bytes that a rank of this shape must read in the timed steps, none of more than max_tokens: its
 * matrices (the head where a step has logits, the embedding never) once a step, in decode steps `share` of their bytes
 * (see weight_share in kernels/backend.h), and the keys and values that the step's tokens see, those of a chunk's tokens once. As if prompts and decode had
 * steps of their own: where the prompts of b fill several, some of that is read at once. */
double bench_test_bytes(const struct bench_test *, const struct backend_shape *, int32_t max_tokens, double share);

#endif
