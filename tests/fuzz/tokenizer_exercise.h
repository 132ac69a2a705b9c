/* What both tokenizer fuzzers do with a tokenizer that opened: encode, decode, stream. */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer.h"

static inline void require(int condition)
{
	if (!condition)
		abort();
}

/* A stream gives what the decode gives. */
static inline void exercise_ids(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
				bool skip)
{
	struct error err = {0};
	struct token_stream *stream;
	char *text;
	size_t length, done = 0;
	if (tokenizer_decode(tokenizer, ids, count, skip, &text, &length, &err))
		return;
	require(token_stream_open(&stream, tokenizer, skip, &err) == 0);
	for (size_t i = 0; i <= count; i++) {
		const char *part;
		size_t size;
		require((i < count ? token_stream_put(stream, ids[i], &part, &size, &err)
				   : token_stream_end(stream, &part, &size, &err)) == 0);
		require(done + size <= length && memcmp(text + done, part, size) == 0);
		done += size;
	}
	require(done == length);
	token_stream_close(stream);
	free(text);
}

static inline void exercise(const struct tokenizer *tokenizer)
{
	static const char *const texts[] = {
		"", " ", "abc abc", "<s>ab c</s>  a\n\n19 b\xc3\xa9\xf0\x9f\xa6\x99",
		"\xe2\x96\x81\xe2\x96\x81(A\xcc\x81\xe0\xa2\x9c\xcc\xb5 x  it's <x> 1234"};
	int32_t all[300];
	struct error err = {0};
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		int32_t *ids;
		size_t count;
		if (tokenizer_encode(tokenizer, texts[i], strlen(texts[i]), true, &ids, &count, &err)) {
			require(err.message[0]);
			continue;
		}
		for (size_t j = 0; j < count; j++)
			require(ids[j] >= 0 && ids[j] < tokenizer_vocab_size(tokenizer));
		exercise_ids(tokenizer, ids, count, i % 2);
		free(ids);
	}
	for (int32_t id = 0; id < 300; id++)
		all[id] = id;
	for (int32_t first = 0; first < 300; first += 5)
		exercise_ids(tokenizer, all + first, 5, false);
	exercise_ids(tokenizer, all, 300, true);
	require(tokenizer_find(tokenizer, "abc") < tokenizer_vocab_size(tokenizer));
}
