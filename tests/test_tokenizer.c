/* tokenizer: the published vectors of real tokenizers, their decodes and streams, their speed. */
#define TEST_SUITE "tokenizer"
#include "tests/test.h"

#include <sys/stat.h>

#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "runtime/text/tokenizer.h"

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The tokenizer of a folder or of a tokenizer.model below the shared data. */
static struct tokenizer *open_shared(const char *path)
{
	struct error err = {0};
	struct tokenizer *tokenizer = NULL;
	char name[512];
	size_t length, end = strlen(path);
	char *data;
	snprintf(name, sizeof name, "%s/%s", test_shared(), path);
	if (end > 6 && strcmp(path + end - 6, ".model") == 0) {
		CHECK_OK(file_read(name, 1 << 24, &data, &length, &err), &err);
		CHECK_OK(tokenizer_open_sentencepiece(&tokenizer, data, length, name, &err), &err);
		free(data);
	} else {
		CHECK_OK(tokenizer_open(&tokenizer, name, &err), &err);
	}
	return tokenizer;
}

static void check_ids(const char *text, const int32_t *ids, size_t count, const json_t *expected)
{
	bool same = count == json_array_size(expected);
	for (size_t i = 0; same && i < count; i++)
		same = ids[i] == (int32_t)json_number_value(json_array_get(expected, i));
	CHECK_MSG(same, "\"%.60s\" gave %zu ids, %zu expected", text, count, json_array_size(expected));
}

/* Feeds a stream one id at a time: every part is whole characters, and all of them together
 * are the decode. */
static void check_stream(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip)
{
	struct error err = {0};
	struct token_stream *stream = NULL;
	char *whole = NULL;
	size_t length = 0, done = 0;
	CHECK_OK(tokenizer_decode(tokenizer, ids, count, skip, &whole, &length, &err), &err);
	CHECK_OK(token_stream_open(&stream, tokenizer, skip, &err), &err);
	if (!whole || !stream)
		return;
	for (size_t i = 0; i <= count; i++) {
		const char *part = NULL;
		size_t size = 0;
		CHECK_OK(i < count ? token_stream_put(stream, ids[i], &part, &size, &err)
				   : token_stream_end(stream, &part, &size, &err),
			 &err);
		if (done + size > length || memcmp(whole + done, part, size) != 0) {
			CHECK_MSG(0, "id %zu of %zu adds what the decode lacks", i, count);
			break;
		}
		done += size;
		/* A character begins where the next part will. */
		CHECK_MSG(done == length || ((unsigned char)whole[done] & 0xc0) != 0x80,
			  "id %zu cuts a character", i);
	}
	CHECK_MSG(done == length, "the stream gave %zu of %zu bytes", done, length);
	token_stream_close(stream);
	free(whole);
}

/* All cases of a file of vectors; `round_trip`: the ids decode to the text again, except that
 * the text behind a special token gets a space of its own. */
static void check_vectors(const char *path, const char *file, const char *key, bool special,
			  bool round_trip)
{
	struct error err = {0};
	char name[512];
	size_t i;
	const json_t *entry;
	struct tokenizer *tokenizer = open_shared(path);
	snprintf(name, sizeof name, "%s/%s", test_shared(), file);
	json_t *cases = json_read_file(name, 1 << 24, &err);
	CHECK_MSG(cases && json_array_size(cases) > 10, "%s", err.message);
	if (!tokenizer || !cases)
		return;
	json_array_foreach(cases, i, entry) {
		const json_t *text = json_object_get(entry, "text");
		int32_t *ids = NULL;
		size_t count = 0, length;
		char *back = NULL;
		CHECK_OK(tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text),
					  special, &ids, &count, &err),
			 &err);
		check_ids(json_string_value(text), ids, count, json_object_get(entry, key));
		check_stream(tokenizer, ids, count, special);
		if (round_trip && !strstr(json_string_value(text), "<s>")) {
			CHECK_OK(tokenizer_decode(tokenizer, ids, count, special, &back, &length, &err),
				 &err);
			CHECK_STR(back, json_string_value(text));
		}
		free(back);
		free(ids);
	}
	json_decref(cases);
	tokenizer_close(tokenizer);
}

static void published_vectors(void)
{
	if (!test_shared()) {
		SKIP("no ../shared");
		return;
	}
	check_vectors("tokenizers/llama2", "tokenizers/llama2/expected_encode.json", "ids", false, true);
	check_vectors("tokenizers/llama3.1", "tokenizers/llama3.1/expected_encode.json", "ids", false,
		      true);
	check_vectors("tokenizers/qwen2.5", "tokenizers/qwen2.5/expected_encode.json", "ids", false,
		      false); /* NFC rewrites some */
	check_vectors("tokenizers/mistral-v1", "tokenizers/mistral-v1/expected_encode.json", "ids", false,
		      true);
	check_vectors("models/stories260K", "models/stories260K/expected_encode.json", "ids", false,
		      true);
	check_vectors("tokenizers/llama2/tokenizer.model",
		      "tokenizers/llama2/expected_encode_spm.json", "ids", false, true);
	check_vectors("models/stories260K/tokenizer.model",
		      "models/stories260K/expected_encode_spm.json", "ids", false, false);
	check_vectors("tokenizers/llama2", "tokenizers/js-vectors/llama2.json", "ids_with_bos", true,
		      true);
	check_vectors("tokenizers/llama2/tokenizer.model", "tokenizers/js-vectors/llama2.json",
		      "ids_with_bos", true, true);
	check_vectors("tokenizers/mistral-v1", "tokenizers/js-vectors/mistral-v1.json", "ids_with_bos",
		      true, true);
}

static void check_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip,
			 const char *expected)
{
	struct error err = {0};
	char *text = NULL;
	size_t length = 0;
	CHECK_OK(tokenizer_decode(tokenizer, ids, count, skip, &text, &length, &err), &err);
	CHECK_STR(text, expected);
	CHECK(text && length == strlen(expected));
	check_stream(tokenizer, ids, count, skip);
	free(text);
}

/* A run of byte tokens is text, or a replacement for each of its bytes; the end of a run and
 * the end of the ids are alike. Token 3 + b of Llama 2 is byte b. */
static void byte_fallback_decodes(void)
{
	static const int32_t llama[] = {1,	   15043,     29871,	 3 + 0xf0, 3 + 0x9f,
					3 + 0xa6, 3 + 0x99, 3 + 0xe2, 15043,   2};
	struct error err = {0};
	if (!test_shared()) {
		SKIP("no ../shared");
		return;
	}
	struct tokenizer *tokenizer = open_shared("tokenizers/llama2");
	if (!tokenizer)
		return;
	check_decode(tokenizer, llama, 10, false,
		     "<s> Hello \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd Hello</s>");
	check_decode(tokenizer, llama, 7, true, "Hello \xf0\x9f\xa6\x99");
	check_decode(tokenizer, llama, 5, true, "Hello \xef\xbf\xbd\xef\xbf\xbd");
	check_decode(tokenizer, llama, 0, true, "");
	char *text;
	size_t length;
	CHECK_FAILS(tokenizer_decode(tokenizer, (int32_t[]){32000}, 1, false, &text, &length, &err), &err,
		    "32000");
	CHECK_FAILS(tokenizer_decode(tokenizer, (int32_t[]){-1}, 1, false, &text, &length, &err), &err,
		    "-1");
	CHECK(tokenizer_find(tokenizer, "</s>") == 2 && tokenizer_find(tokenizer, "nonesuch") == -1);
	CHECK(tokenizer_vocab_size(tokenizer) == 32000);
	tokenizer_close(tokenizer);
}

/* Byte-level characters that are cut off become one replacement for each maximal part. */
static void byte_level_decodes(void)
{
	if (!test_shared()) {
		SKIP("no ../shared");
		return;
	}
	struct tokenizer *tokenizer = open_shared("tokenizers/llama3.1");
	if (!tokenizer)
		return;
	int32_t f0 = tokenizer_find(tokenizer, "\xc3\xb0"), a = tokenizer_find(tokenizer, "a");
	int32_t ff = tokenizer_find(tokenizer, "\xc3\xbf"), end = tokenizer_find(tokenizer, "<|eot_id|>");
	int32_t nine_f = tokenizer_find(tokenizer, "\xc5\x81"); /* the character of byte 0x9f */
	CHECK(f0 >= 0 && ff >= 0 && nine_f >= 0 && end == 128009);
	check_decode(tokenizer, (int32_t[]){a, f0, nine_f, a}, 4, true, "a\xef\xbf\xbd" "a");
	check_decode(tokenizer, (int32_t[]){ff, ff, f0}, 3, true, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
	check_decode(tokenizer, (int32_t[]){f0, end, nine_f}, 3, true, "\xef\xbf\xbd");
	check_decode(tokenizer, (int32_t[]){a, end}, 2, false, "a<|eot_id|>");
	tokenizer_close(tokenizer);
}

/* Random ids make all kinds of broken characters; the stream must agree with the decode. */
static void streams_agree_with_decodes(void)
{
	static const char *const paths[] = {"tokenizers/llama2", "tokenizers/llama3.1",
					    "models/stories260K/tokenizer.model"};
	if (!test_shared()) {
		SKIP("no ../shared");
		return;
	}
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
		struct tokenizer *tokenizer = open_shared(paths[i]);
		for (int round = 0; tokenizer && round < 2000; round++) {
			int32_t ids[40];
			size_t count = (size_t)test_int(0, 40);
			for (size_t j = 0; j < count; j++)
				ids[j] = (int32_t)test_int(
					0, test_int(0, 1) ? 260
							  : tokenizer_vocab_size(tokenizer) - 1);
			check_stream(tokenizer, ids, count, test_int(0, 1));
		}
		tokenizer_close(tokenizer);
	}
}

/* Whatever the text, byte-level ids spell it. */
static void byte_level_round_trips(void)
{
	struct error err = {0};
	if (!test_shared()) {
		SKIP("no ../shared");
		return;
	}
	struct tokenizer *tokenizer = open_shared("tokenizers/llama3.1");
	for (int round = 0; tokenizer && round < 3000; round++) {
		char text[256], *back = NULL;
		size_t length = 0, count, back_length;
		int32_t *ids = NULL;
		while (length < 200 && test_int(0, 30)) {
			static const int32_t limits[] = {0x7f, 0x7f, 0x7ff, 0xffff, 0x10ffff, 0x20};
			int32_t c = (int32_t)test_int(0, limits[test_int(0, 5)]);
			if (c >= 0xd800 && c < 0xe000)
				continue;
			int width = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
			static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
			text[length++] = (char)(lead[width] | c >> 6 * (width - 1));
			for (int i = width - 2; i >= 0; i--)
				text[length++] = (char)(0x80 | (c >> 6 * i & 0x3f));
		}
		CHECK_OK(tokenizer_encode(tokenizer, text, length, false, &ids, &count, &err), &err);
		CHECK_OK(tokenizer_decode(tokenizer, ids, count, false, &back, &back_length, &err),
			 &err);
		CHECK(back_length == length && memcmp(back, text, length) == 0);
		free(ids);
		free(back);
	}
	tokenizer_close(tokenizer);
}

static void write_file(const char *folder, const char *name, const char *data, size_t length)
{
	char path[600];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *file = fopen(path, "wb");
	CHECK(file && fwrite(data, 1, length, file) == length && fclose(file) == 0);
}

static void copy_file(const char *from, const char *folder, const char *name)
{
	struct error err = {0};
	char *data, path[512];
	size_t length;
	snprintf(path, sizeof path, "%s/%s", test_shared(), from);
	CHECK_OK(file_read(path, 1 << 24, &data, &length, &err), &err);
	write_file(folder, name, data, length);
	free(data);
}

static void check_folder(const char *folder, const char *text, const int32_t *expected, size_t count)
{
	struct error err = {0};
	struct tokenizer *tokenizer = NULL;
	int32_t *ids = NULL;
	size_t got = 0;
	CHECK_OK(tokenizer_open(&tokenizer, folder, &err), &err);
	if (!tokenizer)
		return;
	CHECK_OK(tokenizer_encode(tokenizer, text, strlen(text), true, &ids, &got, &err), &err);
	CHECK_MSG(got == count && memcmp(ids, expected, count * sizeof *ids) == 0, "%zu ids", got);
	free(ids);
	tokenizer_close(tokenizer);
}

/* A folder with tokenizer.model alone adds BOS unless its configuration says otherwise. */
static void folders_and_configuration(void)
{
	char folder[] = "/tmp/tprun-tokenizer-XXXXXX", path[600];
	static const char no[] = "{\"add_bos_token\": false, \"model_max_length\": "
				 "1000000000000000019884624838656}";
	static const char both[] =
		"{\"add_eos_token\": true, \"eos_token\": {\"content\": \"</s>\"}, \"bos_token\": \"<s>\"}";
	static const char bad[] = "{\"add_eos_token\": true, \"eos_token\": \"nonesuch\"}";
	struct error err = {0};
	struct tokenizer *tokenizer;
	if (!test_shared()) {
		SKIP("no ../shared");
		return;
	}
	CHECK(mkdtemp(folder));
	CHECK_FAILS(tokenizer_open(&tokenizer, folder, &err), &err, "tokenizer.json");
	copy_file("tokenizers/llama2/tokenizer.model", folder, "tokenizer.model");
	check_folder(folder, "Hello", (int32_t[]){1, 15043}, 2);
	write_file(folder, "tokenizer_config.json", no, strlen(no));
	check_folder(folder, "Hello", (int32_t[]){15043}, 1);
	write_file(folder, "tokenizer_config.json", both, strlen(both));
	check_folder(folder, "Hello", (int32_t[]){1, 15043, 2}, 3);
	check_folder(folder, "", (int32_t[]){1, 2}, 2);
	write_file(folder, "tokenizer_config.json", bad, strlen(bad));
	CHECK_FAILS(tokenizer_open(&tokenizer, folder, &err), &err, "nonesuch");
	/* tokenizer.json comes first, and its own template decides. */
	copy_file("tokenizers/llama2/tokenizer.json", folder, "tokenizer.json");
	check_folder(folder, "<s>Hello", (int32_t[]){1, 1, 15043}, 3);
	static const char *const names[] = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"};
	for (size_t i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		unlink(path);
	}
	rmdir(folder);
}

static void check_speed(const struct tokenizer *tokenizer, const char *path, const char *what,
			const char *text, size_t length)
{
	struct error err = {0};
	int32_t *ids = NULL;
	size_t count = 0;
	double start = seconds();
	CHECK_OK(tokenizer_encode(tokenizer, text, length, true, &ids, &count, &err), &err);
	double took = seconds() - start;
	fprintf(stderr, "%s: 1 MB of %s in %.2f s, %zu ids\n", path, what, took, count);
	/* Quadratic time would be many minutes. */
	CHECK_MSG(took < 20, "%s: %.1f s for %s", path, took, what);
	free(ids);
}

static void long_words_take_no_quadratic_time(void)
{
	static const char *const paths[] = {"tokenizers/llama2", "tokenizers/llama3.1",
					    "tokenizers/qwen2.5", "tokenizers/llama2/tokenizer.model"};
	static const char *const units[] = {"a", " ", "\xe2\x96\x81the", "<|", "\xcc\x81\xcc\xa3", " \n"};
	const size_t length = 1000000;
	if (!test_shared()) {
		SKIP("no ../shared");
		return;
	}
	char *text = malloc(length + 8);
	for (size_t i = 0; text && i < sizeof paths / sizeof *paths; i++) {
		double start = seconds();
		struct tokenizer *tokenizer = open_shared(paths[i]);
		fprintf(stderr, "%s: opened in %.2f s\n", paths[i], seconds() - start);
		for (size_t j = 0; tokenizer && j < sizeof units / sizeof *units; j++) {
			size_t unit = strlen(units[j]), at;
			for (at = 0; at + unit <= length; at += unit)
				memcpy(text + at, units[j], unit);
			check_speed(tokenizer, paths[i], units[j], text, at);
		}
		for (size_t j = 0; j < length; j++)
			text[j] = (char)test_int('a', 'z');
		if (tokenizer)
			check_speed(tokenizer, paths[i], "letters", text, length);
		tokenizer_close(tokenizer);
	}
	free(text);
}

int main(void)
{
	RUN(published_vectors);
	RUN(byte_fallback_decodes);
	RUN(byte_level_decodes);
	RUN(streams_agree_with_decodes);
	RUN(byte_level_round_trips);
	RUN(folders_and_configuration);
	RUN(long_words_take_no_quadratic_time);
	TEST_END();
}
