/*
 * test.h - what every test binary includes.
 *
 * A test is a function without arguments, run by RUN(name). CHECK and its kin note a failure
 * and go on. A binary prints one line a test - "PASS suite/test", "FAIL suite/test" or
 * "SKIP suite/test: reason" - and ends with TEST_END(), whose status tests/run.sh checks. The
 * seed of random inputs is fresh each run and printed; TPRUN_TEST_SEED repeats one. TEST_TIMES=1 tells
 * how long each test took.
 */
#ifndef TPRUN_TESTS_TEST_H
#define TPRUN_TESTS_TEST_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *test_name;
static int test_failures, test_failed, test_skipped;
static uint64_t test_seed, test_state;

static inline void test_note(const char *file, int line)
{
	test_failures++;
	fprintf(stderr, "%s:%d: in %s: ", file, line, test_name);
}

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			test_note(__FILE__, __LINE__);                                             \
			fprintf(stderr, "not so: %s\n", #condition);                               \
		}                                                                                  \
	} while (0)
/* As CHECK, with a printf-style explanation. */
#define CHECK_MSG(condition, ...)                                                                  \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			test_note(__FILE__, __LINE__);                                             \
			fprintf(stderr, "not so: %s: ", #condition);                               \
			fprintf(stderr, __VA_ARGS__);                                              \
			fputc('\n', stderr);                                                       \
		}                                                                                  \
	} while (0)
#define CHECK_STR(actual, expected)                                                                \
	do {                                                                                       \
		const char *actual_ = (actual), *expected_ = (expected);                           \
		CHECK_MSG(actual_ && strcmp(actual_, expected_) == 0, "\"%s\", expected \"%s\"",    \
			  actual_ ? actual_ : "(null)", expected_);                                \
	} while (0)
/* The call succeeded; otherwise its error is shown. */
#define CHECK_OK(call, err) CHECK_MSG((call) == 0, "%s", (err)->message)
/* The call failed and its message contains `part`. */
#define CHECK_FAILS(call, err, part)                                                               \
	do {                                                                                       \
		(err)->message[0] = '\0';                                                          \
		int result_ = (call);                                                              \
		CHECK_MSG(result_ == -1, "it returned %d", result_);                               \
		CHECK_MSG(strstr((err)->message, part), "\"%s\" does not say \"%s\"",              \
			  (err)->message, part);                                                   \
	} while (0)

static inline double test_seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#define RUN(function)                                                                              \
	do {                                                                                       \
		test_name = #function;                                                             \
		test_failures = test_skipped = 0;                                                  \
		double test_start = test_seconds();                                                \
		alarm(300); /* a test that hangs dies of SIGALRM, and so fails */                  \
		function();                                                                        \
		alarm(0);                                                                          \
		if (test_failures) {                                                               \
			test_failed++;                                                             \
			printf("FAIL " TEST_SUITE "/%s (seed %llu)\n", #function,                  \
			       (unsigned long long)test_seed);                                     \
		} else if (!test_skipped)                                                          \
			printf("PASS " TEST_SUITE "/%s\n", #function);                             \
		if (getenv("TEST_TIMES"))                                                          \
			printf("  %s: %.1f s\n", #function, test_seconds() - test_start);          \
		fflush(stdout);                                                                    \
	} while (0)

/* Inside a test: it cannot run here. Return after it. */
#define SKIP(...)                                                                                  \
	do {                                                                                       \
		test_skipped = 1;                                                                  \
		printf("SKIP " TEST_SUITE "/%s: ", test_name);                                     \
		printf(__VA_ARGS__);                                                               \
		putchar('\n');                                                                     \
	} while (0)

#define TEST_END() return test_failed != 0

/* SplitMix64, seeded afresh for every run. */
static inline uint64_t test_random(void)
{
	if (!test_seed) {
		const char *given = getenv("TPRUN_TEST_SEED");
		struct timespec now;
		clock_gettime(CLOCK_REALTIME, &now);
		test_seed = given ? strtoull(given, NULL, 10)
				  : (uint64_t)now.tv_nsec ^ (uint64_t)now.tv_sec << 20 ^
					    (uint64_t)getpid() << 44;
		test_seed |= 1;
		test_state = test_seed;
	}
	uint64_t z = test_state += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* Uniform in [low, high], whole numbers. */
static inline int64_t test_int(int64_t low, int64_t high)
{
	return low + (int64_t)(test_random() % (uint64_t)(high - low + 1));
}

/* Uniform in [0, 1). */
static inline double test_real(void)
{
	return (double)(test_random() >> 11) * 0x1p-53;
}

/* Standard normal (Box-Muller). */
static inline double test_normal(void)
{
	return sqrt(-2 * log(1 - test_real())) * cos(6.283185307179586 * test_real());
}

/* The folder of shared golden data, or NULL where it is absent. */
static inline const char *test_shared(void)
{
	const char *folder = getenv("TPRUN_SHARED");
	if (!folder)
		folder = "../shared";
	return access(folder, R_OK) ? NULL : folder;
}

#endif
