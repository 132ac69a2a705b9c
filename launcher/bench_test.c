#include "launcher/bench_test.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 1 << 20, BATCH_MAX = 1 << 16 };

/* ---- names ------------------------------------------------------------------------------- */

/* Takes `mark` and a whole number from 1 to `most` from *at. Returns whether they were there. */
static bool take(const char **at, const char *mark, int32_t most, int32_t *out)
{
	size_t length = strlen(mark);
	const char *digits = *at + length;
	char *end;
	if (strncmp(*at, mark, length) || *digits < '1' || *digits > '9')
		return false;
	long number = strtol(digits, &end, 10);
	if (end - digits > 9 || number > most)
		return false;
	*out = (int32_t)number;
	*at = end;
	return true;
}

static bool parse_name(struct bench_test *test, const char *name)
{
	int32_t count;
	test->batch = 1;
	if (take(&name, "b", BATCH_MAX, &test->batch)) {
		test->kind = BENCH_WHOLE;
		test->prompt = BENCH_LENGTH;
		test->steps = BENCH_LENGTH - 1; /* the prompt's own step makes the first new token */
		return !*name;
	}
	if (take(&name, "pp", TOKENS_MAX, &count)) {
		test->kind = BENCH_PREFILL;
		test->prompt = count;
	} else if (take(&name, "tg", TOKENS_MAX, &count)) {
		test->kind = BENCH_DECODE;
		test->steps = count;
		test->depth = BENCH_LENGTH;
	} else {
		return false;
	}
	if (*name == 'x' && !take(&name, "x", BATCH_MAX, &test->batch))
		return false;
	if (*name == '@' && !take(&name, "@d", TOKENS_MAX, &test->depth))
		return false;
	return !*name;
}

int bench_tests_parse(struct bench_tests *out, const char *text, struct error *err)
{
	*out = (struct bench_tests){0};
	for (const char *at = text;; at++) {
		size_t length = strcspn(at, ",");
		struct bench_test test = {.name = ""};
		if (length < sizeof test.name)
			memcpy(test.name, at, length);
		if (!parse_name(&test, test.name))
			return error_usage(err, "--tests: \"%.*s\" is no test; there are pp512, tg128, b8, and "
						"pp512x8@d1024 and tg128x8@d1024, in a batch and at a depth",
					   (int)(length < 60 ? length : 60), at);
		if (out->count == BENCH_TESTS_MAX)
			return error_usage(err, "--tests: at most %d at a time", BENCH_TESTS_MAX);
		out->list[out->count++] = test;
		at += length;
		if (!*at)
			return 0;
	}
}

/* ---- sizes ------------------------------------------------------------------------------- */

int32_t bench_test_positions(const struct bench_test *test)
{
	return test->depth + test->prompt + test->steps;
}

int64_t bench_test_tokens(const struct bench_test *test)
{
	int64_t each = test->kind == BENCH_PREFILL ? test->prompt
		       : test->kind == BENCH_DECODE ? test->steps : BENCH_LENGTH;
	return each * test->batch;
}

int32_t bench_test_step_tokens(const struct bench_test *test, int32_t max_tokens)
{
	int64_t tokens = test->kind == BENCH_PREFILL ? bench_test_tokens(test) : test->batch;
	return tokens < max_tokens ? (int32_t)tokens : max_tokens;
}

/* ---- bytes ------------------------------------------------------------------------------- */

static double weight_bytes(const struct backend_shape *s, bool logits)
{
	double heads = 2.0 * s->query_heads + 2.0 * s->kv_heads; /* query, key, value and output */
	double layer = heads * s->head_dim * s->hidden + 3.0 * s->intermediate * s->hidden;
	double head = logits ? (double)s->vocab * s->hidden : 0;
	return (layer * s->layers + head) * (double)dtype_bytes(s->dtype);
}

/* Keys and values of all layers that the last `tokens` of `context` positions see together. */
static double cache_bytes(const struct backend_shape *s, int32_t context, int32_t tokens)
{
	double positions = 0;
	for (int32_t i = 0; i < s->layers; i++) {
		int64_t seen = s->windows[i] ? (int64_t)s->windows[i] + tokens - 1 : context;
		positions += (double)(seen < context ? seen : context);
	}
	return 2 * positions * s->kv_heads * s->head_dim * (double)dtype_bytes(s->dtype);
}

/* The prompts' tokens, one prompt after the other, in steps of max_tokens. */
static double prefill_bytes(const struct bench_test *test, const struct backend_shape *s,
			    int32_t max_tokens)
{
	int64_t length = test->prompt, all = length * test->batch, end;
	double bytes = 0;
	for (int64_t begin = 0; begin < all; begin = end) {
		end = all - begin < max_tokens ? all : begin + max_tokens;
		bytes += weight_bytes(s, end / length > begin / length);
		for (int64_t at = begin; at < end;) {
			int64_t first = at / length * length, next = first + length < end ? first + length : end;
			bytes += cache_bytes(s, test->depth + (int32_t)(next - first), (int32_t)(next - at));
			at = next;
		}
	}
	return bytes;
}

double bench_test_bytes(const struct bench_test *test, const struct backend_shape *s, int32_t max_tokens,
			double share)
{
	double bytes = prefill_bytes(test, s, max_tokens);
	int32_t context = test->depth + test->prompt;
	for (int32_t i = 1; i <= test->steps; i++)
		bytes += share * weight_bytes(s, true) + test->batch * cache_bytes(s, context + i, 1);
	return bytes;
}
