/* Stop strings, against a search of the whole text. */
#define TEST_SUITE "stop"
#include "tests/test.h"

#include "runtime/text/stop.h"

enum { STRINGS_MAX = 4, TEXT_MAX = 60 };

/* Random characters of a small alphabet, so that strings overlap with each other and themselves. */
static size_t random_text(char *text, int64_t least, int64_t most, int letters)
{
	size_t length = (size_t)test_int(least, most);
	for (size_t i = 0; i < length; i++)
		text[i] = (char)('a' + test_int(0, letters - 1));
	text[length] = '\0';
	return length;
}

/* Where the text before the first complete stop string ends; *stopped: there is one. */
static size_t naive(const char *text, char strings[][8], size_t count, bool *stopped)
{
	size_t best_end = SIZE_MAX, best_start = strlen(text);
	for (size_t i = 0; i < count; i++) {
		const char *found = strstr(text, strings[i]);
		if (!found)
			continue;
		size_t start = (size_t)(found - text), end = start + strlen(strings[i]);
		if (end < best_end || (end == best_end && start < best_start)) {
			best_end = end;
			best_start = start;
		}
	}
	*stopped = best_end != SIZE_MAX;
	return best_start;
}

/* Puts the text in pieces that end where `cuts` has a bit, and checks all that comes out. */
static void check_split(const char *text, size_t length, char strings[][8], size_t count,
			uint64_t cuts)
{
	struct error err = {0};
	struct stop_filter *filter;
	const char *pointers[STRINGS_MAX], *out;
	char shown[2 * TEXT_MAX] = "";
	size_t used = 0, got, start = 0;
	bool expect_stop, stopped = false;
	size_t expected = naive(text, strings, count, &expect_stop);

	for (size_t i = 0; i < count; i++)
		pointers[i] = strings[i];
	CHECK_OK(stop_filter_open(&filter, pointers, count, &err), &err);
	for (size_t end = 0; end <= length; end++) {
		if (end < length && !(cuts >> end & 1))
			continue;
		CHECK_OK(stop_filter_put(filter, text + start, end - start, &out, &got, &stopped, &err),
			 &err);
		memcpy(shown + used, out, got);
		used += got;
		start = end;
		/* No more is held back than a tail with which a stop string may begin. */
		bool may_begin = used == end;
		for (size_t i = 0; i < count; i++)
			may_begin = may_begin || (end - used < strlen(strings[i]) &&
						  !memcmp(text + used, strings[i], end - used));
		CHECK(may_begin || stopped);
	}
	CHECK(stopped == expect_stop);
	stop_filter_end(filter, &out, &got);
	CHECK(!stopped || got == 0);
	memcpy(shown + used, out, got);
	used += got;
	CHECK_MSG(used == expected && !memcmp(shown, text, used), "\"%.*s\" came of \"%s\" with \"%s\"",
		  (int)used, shown, text, count ? strings[0] : "");
	stop_filter_close(filter);
}

static void all_splits(void)
{
	for (int round = 0; round < 60; round++) {
		char text[TEXT_MAX + 1], strings[STRINGS_MAX][8];
		int letters = (int)test_int(1, 3);
		size_t count = (size_t)test_int(0, STRINGS_MAX);
		size_t length = random_text(text, 0, 10, letters);
		for (size_t i = 0; i < count; i++)
			random_text(strings[i], 1, 7, letters);
		for (uint64_t cuts = 0; cuts < (uint64_t)1 << length; cuts++)
			check_split(text, length, strings, count, cuts);
	}
}

static void random_splits(void)
{
	int stops = 0;
	for (int round = 0; round < 20000; round++) {
		char text[TEXT_MAX + 1], strings[STRINGS_MAX][8];
		int letters = (int)test_int(2, 4);
		size_t count = (size_t)test_int(1, STRINGS_MAX);
		size_t length = random_text(text, 10, TEXT_MAX, letters);
		bool stopped;
		for (size_t i = 0; i < count; i++)
			random_text(strings[i], 2, 7, letters);
		naive(text, strings, count, &stopped);
		stops += stopped;
		check_split(text, length, strings, count, test_random() & test_random());
	}
	CHECK_MSG(stops > 1000 && stops < 19900, "%d of 20000 texts stopped", stops);
}

static void after_the_stop(void)
{
	struct error err = {0};
	struct stop_filter *filter;
	const char *strings[] = {"\n\n", "END"}, *out;
	size_t length;
	bool stopped;

	CHECK_OK(stop_filter_open(&filter, strings, 2, &err), &err);
	CHECK_OK(stop_filter_put(filter, "a\0bE", 4, &out, &length, &stopped, &err), &err);
	CHECK(length == 3 && !memcmp(out, "a\0b", 3) && !stopped);
	CHECK_OK(stop_filter_put(filter, "ND rest", 7, &out, &length, &stopped, &err), &err);
	CHECK(length == 0 && stopped);
	CHECK_OK(stop_filter_put(filter, "more", 4, &out, &length, &stopped, &err), &err);
	CHECK(length == 0 && stopped);
	stop_filter_end(filter, &out, &length);
	CHECK(length == 0);
	stop_filter_close(filter);
	stop_filter_close(NULL);

	strings[1] = "";
	CHECK_FAILS(stop_filter_open(&filter, strings, 2, &err), &err, "--stop is empty");
	CHECK(err.kind == ERROR_USAGE && !filter);
}

int main(void)
{
	RUN(all_splits);
	RUN(random_splits);
	RUN(after_the_stop);
	TEST_END();
}
