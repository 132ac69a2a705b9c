#define TEST_SUITE "batch_files"
#include "tests/test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "launcher/batch_input.h"
#include "launcher/batch_keys.h"
#include "launcher/batch_output.h"
#include "launcher/line_reader.h"

static struct error err;
static char folder[] = "/tmp/tprun-batch-XXXXXX";
static char path[128];

static void write_file(const char *data, size_t length)
{
	FILE *file = fopen(path, "wb");
	CHECK(file && fwrite(data, 1, length, file) == length);
	if (file)
		fclose(file);
}

/* The whole file, NUL-terminated, to be freed. */
static char *read_back(size_t *length)
{
	FILE *file = fopen(path, "rb");
	struct stat status;
	char *data = NULL;
	*length = 0;
	if (file && !fstat(fileno(file), &status)) {
		data = calloc(1, (size_t)status.st_size + 1);
		*length = fread(data, 1, (size_t)status.st_size, file);
	}
	CHECK(data);
	if (file)
		fclose(file);
	return data;
}

/* The exit status of `body` in a process of its own. */
static int in_child(int (*body)(void))
{
	int status = -1;
	fflush(stdout);
	pid_t child = fork();
	if (!child)
		_exit(body());
	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ---- keys -------------------------------------------------------------------------------- */

static bool same(struct batch_key a, struct batch_key b)
{
	return a.a == b.a && a.b == b.b;
}

static struct batch_key key_of(json_t *id)
{
	struct batch_key key = {0};
	CHECK(batch_key_of_id(id, &key) == 0);
	json_decref(id);
	return key;
}

static void keys_of_ids(void)
{
	struct batch_key key;
	char text[64];
	int64_t number = test_int(-1000000, 1000000);
	snprintf(text, sizeof text, "%lld", (long long)number);
	CHECK(same(key_of(json_integer(number)), key_of(json_integer(number))));
	CHECK(same(key_of(json_string(text)), key_of(json_string(text))));
	CHECK(!same(key_of(json_integer(number)), key_of(json_string(text))));
	CHECK(!same(key_of(json_integer(number)), batch_key_of_line(number)));
	CHECK(!same(key_of(json_string("")), key_of(json_stringn("\0", 1))));
	CHECK(!same(key_of(json_stringn("a\0b", 3)), key_of(json_string("a"))));
	CHECK(!same(key_of(json_string("12345678")), key_of(json_stringn("12345678\0", 9))));

	json_t *bad[] = {json_null(), json_true(), json_real(1), json_array(), json_object(), NULL};
	for (int i = 0; i < 6; i++) {
		CHECK(batch_key_of_id(bad[i], &key) == -1);
		json_decref(bad[i]);
	}
	char *longest = calloc(1, BATCH_ID_BYTES_MAX + 2);
	memset(longest, 'x', BATCH_ID_BYTES_MAX);
	key_of(json_string(longest));
	longest[BATCH_ID_BYTES_MAX] = 'x';
	json_t *longer = json_string(longest);
	CHECK(batch_key_of_id(longer, &key) == -1);
	json_decref(longer);
	free(longest);
}

/* Every bit of both halves flips for about half of all pairs of neighbours. */
static void keys_spread(void)
{
	enum { PAIRS = 4000 };
	int flips[128] = {0};
	for (int i = 0; i < PAIRS; i++) {
		int64_t n = test_int(0, 1 << 30);
		struct batch_key a = batch_key_of_line(n), b = batch_key_of_line(n + 1);
		for (int bit = 0; bit < 64; bit++) {
			flips[bit] += (a.a ^ b.a) >> bit & 1;
			flips[64 + bit] += (a.b ^ b.b) >> bit & 1;
		}
	}
	for (int bit = 0; bit < 128; bit++) /* six standard deviations */
		CHECK_MSG(abs(flips[bit] - PAIRS / 2) < 190, "bit %d: %d", bit, flips[bit]);
}

static void million_keys(void)
{
	enum { COUNT = 1000000 };
	struct batch_key_set *set;
	char text[32];
	int before, wrong = 0;
	uint64_t offset = test_random() >> 2;
	CHECK_OK(batch_key_set_open(&set, &err), &err);
	for (int round = 0; round < 2; round++)
		for (int64_t i = 0; i < COUNT; i++) {
			snprintf(text, sizeof text, "id-%llu", (unsigned long long)(offset + (uint64_t)i));
			struct batch_key key = key_of(i % 2 ? json_string(text) : json_integer(i));
			CHECK_OK(batch_key_set_add(set, key, round ? BATCH_SEEN : BATCH_DONE, &before,
						   &err), &err);
			wrong += before != (round ? BATCH_DONE : 0);
		}
	CHECK_MSG(!wrong, "%d", wrong);
	CHECK(batch_key_set_count(set) == COUNT);
	for (int64_t i = 0; i < COUNT; i++)
		wrong += batch_key_set_find(set, batch_key_of_line(i)) != 0;
	for (int64_t i = 0; i < COUNT; i += 2)
		wrong += batch_key_set_find(set, key_of(json_integer(i))) != (BATCH_DONE | BATCH_SEEN);
	CHECK_MSG(!wrong, "%d", wrong);
	batch_key_set_close(set);
	batch_key_set_close(NULL);
}

/* ---- input ------------------------------------------------------------------------------- */

/* Random lines with what an editor or a system may do to them; the reader gets them back. */
static void random_input(void)
{
	static const char alphabet[] = "ab {}\"\\\0\xc3\xa9\xff\t";
	for (int round = 0; round < 200; round++) {
		char *data = malloc(1 << 20), *at = data;
		struct { const char *text; size_t length; int64_t number; } expected[64];
		int lines = (int)test_int(0, 60), wanted = 0;
		if (round % 3 == 0) {
			memcpy(at, "\xef\xbb\xbf", 3);
			at += 3;
		}
		for (int i = 0; i < lines; i++) {
			size_t length = (size_t)(test_int(0, 9) ? test_int(0, 40) : test_int(0, 9000));
			bool blank = true;
			char *start = at;
			for (size_t j = 0; j < length; j++) {
				*at = alphabet[test_int(0, sizeof alphabet - 2)];
				blank &= *at == ' ' || *at == '\t';
				at++;
			}
			if (!blank) {
				expected[wanted].text = start;
				expected[wanted].length = length;
				expected[wanted++].number = i + 1;
			}
			bool last = i == lines - 1;
			if (!last && test_int(0, 1))
				*at++ = '\r';
			if (!last || test_int(0, 1))
				*at++ = '\n';
		}
		write_file(data, (size_t)(at - data));
		struct batch_input *input;
		struct batch_line line;
		CHECK_OK(batch_input_open(&input, path, &err), &err);
		CHECK_MSG(batch_input_lines(input) == wanted, "%lld, not %d",
			  (long long)batch_input_lines(input), wanted);
		for (int i = 0; i < wanted; i++) {
			CHECK(batch_input_next(input, test_int(0, 1), &line, &err) == 1);
			CHECK_MSG(line.number == expected[i].number && line.length == expected[i].length &&
				  !memcmp(line.text, expected[i].text, line.length) && !line.too_long,
				  "line %lld of %zu bytes", (long long)line.number, line.length);
			double fraction = batch_input_fraction(input);
			CHECK(fraction > 0 && fraction <= 1);
		}
		CHECK(batch_input_next(input, true, &line, &err) == 0);
		CHECK(batch_input_next(input, true, &line, &err) == 0);
		CHECK(batch_input_fraction(input) == 1 && batch_input_lines(input) == wanted);
		batch_input_close(input);
		free(data);
	}
	batch_input_close(NULL);
}

/* Lines around the reader's limit: kept, or dropped to their end, with the offsets of what follows. */
static void long_lines(void)
{
	enum { MAX = 1000 };
	for (int round = 0; round < 50; round++) {
		size_t lengths[8], size = 0;
		for (int i = 0; i < 8; i++)
			size += lengths[i] = (size_t)(i % 2 ? test_int(0, 1 << 20)
							    : test_int(MAX - 2, MAX + 2));
		char *data = malloc(size + 8), *at = data;
		for (int i = 0; i < 8; i++) {
			memset(at, 'a' + i, lengths[i]);
			at += lengths[i];
			*at++ = '\n';
		}
		write_file(data, size + 8);
		free(data);
		struct line_reader reader;
		struct text_line line;
		int fd = open(path, O_RDONLY);
		uint64_t offset = 0;
		CHECK_OK(line_reader_open(&reader, fd, path, MAX, &err), &err);
		for (int i = 0; i < 8; i++) {
			CHECK(line_reader_next(&reader, true, &line, &err) == 1);
			CHECK(line.too_long == (lengths[i] > MAX) && line.whole && line.offset == offset);
			CHECK(line.length == (lengths[i] > MAX ? MAX : lengths[i]));
			for (size_t j = 0; j < line.length; j++)
				if (line.text[j] != 'a' + i) {
					CHECK_MSG(0, "line %d, byte %zu", i, j);
					break;
				}
			offset += lengths[i] + 1;
		}
		CHECK(line_reader_next(&reader, true, &line, &err) == 0);
		CHECK(reader.capacity < 4 << 20);
		line_reader_close(&reader);
		close(fd);
	}
}

/* 200 MB with one line of 130 MB, in a process whose memory is measured. */
static int read_huge(void)
{
	struct batch_input *input;
	struct batch_line line;
	struct rusage before, after;
	int64_t lines = 0, too_long = 0;
	getrusage(RUSAGE_SELF, &before);
	if (batch_input_open(&input, path, &err) || batch_input_lines(input) != 70001)
		return 2;
	while (batch_input_next(input, true, &line, &err) == 1) {
		lines++;
		too_long += line.too_long;
		if (line.too_long ? line.number != 35001 : line.length != 999)
			return 3;
	}
	batch_input_close(input);
	getrusage(RUSAGE_SELF, &after);
	if (lines != 70001 || too_long != 1)
		return 4;
	/* Growing by realloc may hold two buffers for a moment; sanitizers keep what was freed. */
#ifndef __SANITIZE_ADDRESS__
	if (after.ru_maxrss - before.ru_maxrss > 3l * BATCH_LINE_MAX / 2 / 1024)
		return 5;
#endif
	return 0;
}

static void huge_input(void)
{
	FILE *file = fopen(path, "wb");
	char *chunk = malloc(1 << 20), line[1001];
	CHECK(file && chunk);
	if (!file || !chunk)
		return;
	memset(chunk, 'x', 1 << 20);
	memset(line, 'y', sizeof line);
	line[999] = '\n';
	for (int i = 0; i < 35000; i++)
		fwrite(line, 1, 1000, file);
	for (int i = 0; i < 130; i++)
		fwrite(chunk, 1, 1 << 20, file);
	fputc('\n', file);
	for (int i = 0; i < 35000; i++)
		fwrite(line, 1, 1000, file);
	CHECK(fclose(file) == 0);
	free(chunk);
	int status = in_child(read_huge);
	CHECK_MSG(status == 0, "the child said %d", status);
	unlink(path);
}

static void input_through_pipe(void)
{
	int ends[2], standard = dup(STDIN_FILENO);
	struct batch_input *input;
	struct batch_line line;
	CHECK(pipe(ends) == 0);
	dup2(ends[0], STDIN_FILENO);
	CHECK_OK(batch_input_open(&input, "-", &err), &err);
	CHECK(batch_input_lines(input) == -1 && batch_input_fraction(input) == -1);
	CHECK(batch_input_next(input, false, &line, &err) == 2);
	CHECK(write(ends[1], "{\"a\"", 4) == 4);
	CHECK(batch_input_next(input, false, &line, &err) == 2);
	CHECK(write(ends[1], ":1}\n\n{", 6) == 6);
	CHECK(batch_input_next(input, false, &line, &err) == 1 && line.length == 7);
	CHECK(batch_input_next(input, false, &line, &err) == 2);
	CHECK(write(ends[1], "}", 1) == 1);
	close(ends[1]);
	CHECK(batch_input_next(input, true, &line, &err) == 1 && line.number == 3 && line.length == 2);
	CHECK(batch_input_next(input, false, &line, &err) == 0 && batch_input_lines(input) == 2);
	batch_input_close(input);
	dup2(standard, STDIN_FILENO);
	close(standard);
	close(ends[0]);

	CHECK_FAILS(batch_input_open(&input, folder, &err), &err, "directory");
	CHECK_FAILS(batch_input_open(&input, "/nowhere/at/all", &err), &err, "/nowhere/at/all");
	CHECK(err.kind == ERROR_USAGE);
}

/* ---- output ------------------------------------------------------------------------------ */

static json_t *result_line(int64_t id)
{
	char text[64];
	snprintf(text, sizeof text, "text of\n%lld \xc3\xa9", (long long)id);
	return json_pack("{s:I, s:s}", "id", (json_int_t)id, "text", text);
}

static void write_lines(int64_t from, int64_t to)
{
	struct batch_output *output;
	CHECK_OK(batch_output_open(&output, path, &err), &err);
	for (int64_t i = from; output && i < to; i++)
		CHECK_OK(batch_output_write(output, result_line(i), &err), &err);
	CHECK_OK(batch_output_sync(output, &err), &err);
	batch_output_close(output);
}

static void output_and_resume(void)
{
	struct batch_output *output;
	unlink(path);
	write_lines(0, 100);
	write_lines(100, 150);
	CHECK_OK(batch_output_open(&output, path, &err), &err);
	CHECK(batch_output_count(output) == 150 && batch_output_torn_bytes(output) == 0);
	for (int64_t i = 0; i < 300; i++)
		CHECK(batch_output_done(output, key_of(json_integer(i))) == (i < 150));
	CHECK_OK(batch_output_write(output, json_pack("{s:n, s:i, s:s}", "id", "line", 7, "error", "x"),
				    &err), &err);
	CHECK_OK(batch_output_write(output, json_pack("{s:s, s:i, s:s}", "id", "dup", "line", 9, "error",
						      "x"), &err), &err);
	CHECK_FAILS(batch_output_write(output, NULL, &err), &err, "memory");
	batch_output_close(output);
	CHECK_OK(batch_output_open(&output, path, &err), &err);
	CHECK(batch_output_done(output, batch_key_of_line(7)));
	CHECK(batch_output_done(output, batch_key_of_line(9)));
	CHECK(!batch_output_done(output, key_of(json_string("dup"))));
	batch_output_close(output);
	batch_output_close(NULL);
}

/* Whatever byte the last line was torn at: whole lines stay, the rest goes, and work goes on. */
static void torn_at_every_byte(void)
{
	size_t length, whole;
	unlink(path);
	write_lines(0, 3);
	char *data = read_back(&length);
	char *last = memrchr(data, '\n', length - 1);
	whole = (size_t)(last - data) + 1;
	for (size_t cut = whole; cut < length; cut++) {
		struct batch_output *output;
		size_t now;
		write_file(data, cut);
		CHECK_OK(batch_output_open(&output, path, &err), &err);
		if (!output)
			break;
		CHECK(batch_output_count(output) == 2 && batch_output_torn_bytes(output) == cut - whole);
		CHECK(!batch_output_done(output, key_of(json_integer(2))));
		CHECK_OK(batch_output_write(output, result_line(2), &err), &err);
		batch_output_close(output);
		char *again = read_back(&now);
		CHECK(now == length && !memcmp(data, again, now));
		free(again);
	}
	free(data);
}

/* A file that isn't ours is refused and left as it was. */
static void foreign_files(void)
{
	static const char *const files[] = {
		"\n", "{}\n", "hello", "hello\n", "[1]\n", "{\"id\":1}\n", "{\"text\":\"a\"}\n",
		"{\"id\":\"a\",\"prompt\":\"b\"}\n", "{\"id\":\"a\",\"prompt\":\"b\"}", "{\"i",
		"{\"id\":1,\"text\":\"a\"}\n{\"id\":2,\"text\":\"a\n", "{\"id\":1.5,\"text\":\"a\"}\n",
		"{\"id\":1,\"text\":\"a\"}\n\n", "{\"id\":1,\"text\":\"a\"}\nnot ours",
		"{\"id\":null,\"line\":\"1\",\"error\":\"\"}\n", "{\"id\":null,\"error\":\"\"}\n",
	};
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		struct batch_output *output;
		size_t length;
		bool torn = !strcmp(files[i], "{\"i"); /* as ours could begin */
		write_file(files[i], strlen(files[i]));
		int result = batch_output_open(&output, path, &err);
		CHECK_MSG(result == (torn ? 0 : -1), "%s", files[i]);
		CHECK(torn || err.kind == ERROR_USAGE);
		batch_output_close(output);
		char *data = read_back(&length);
		CHECK_STR(data, torn ? "" : files[i]);
		free(data);
	}
	struct batch_output *output;
	write_file("{\"id\":1,\"text\":\"a\"}\nx\n", 22);
	CHECK_FAILS(batch_output_open(&output, path, &err), &err, "line 2");
	CHECK_FAILS(batch_output_open(&output, folder, &err), &err, "directory");
	CHECK_FAILS(batch_output_open(&output, "/nowhere/out", &err), &err, "/nowhere/out");
}

static int open_second(void)
{
	struct batch_output *output;
	if (!batch_output_open(&output, path, &err))
		return 0;
	return err.kind == ERROR_USAGE && strstr(err.message, path) && strstr(err.message, "another job")
		       ? 10 : 1;
}

static void second_job_is_refused(void)
{
	struct batch_output *output;
	unlink(path);
	CHECK_OK(batch_output_open(&output, path, &err), &err);
	CHECK(in_child(open_second) == 10);
	CHECK(open_second() == 10); /* from the same process too */
	batch_output_close(output);
	CHECK(in_child(open_second) == 0);
}

/* A file that may not grow, as on a full disk: the torn part goes at once, and all before stays. */
static int write_too_much(void)
{
	struct batch_output *output;
	struct rlimit limit = {1000, 1000};
	int written = 0;
	signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &limit) || batch_output_open(&output, path, &err))
		return 100;
	while (written < 90 && !batch_output_write(output, result_line(1000 + written), &err))
		written++;
	if (!strstr(err.message, path) || !strstr(err.message, "large"))
		return 101;
	struct stat status;
	if (stat(path, &status) || status.st_size > 1000)
		return 102;
	if (!batch_output_write(output, json_object(), &err)) /* it would fit */
		return 103;
	batch_output_close(output);
	return written;
}

static void failing_write(void)
{
	struct batch_output *output;
	size_t length;
	unlink(path);
	int written = in_child(write_too_much);
	CHECK_MSG(written > 5 && written < 90, "%d", written);
	char *data = read_back(&length);
	CHECK(length && data[length - 1] == '\n');
	free(data);
	CHECK_OK(batch_output_open(&output, path, &err), &err);
	CHECK(batch_output_count(output) == (uint64_t)written && !batch_output_torn_bytes(output));
	batch_output_close(output);
}

static int write_forever(void)
{
	struct batch_output *output;
	if (batch_output_open(&output, path, &err))
		return 1;
	for (int64_t i = (int64_t)batch_output_count(output);; i++)
		if (batch_output_write(output, result_line(i), &err))
			return 1;
}

/* Killed at random moments, over and over: no line lost, none twice, in the one file. */
static void killed_at_random(void)
{
	struct batch_output *output;
	uint64_t before = 0;
	unlink(path);
	for (int round = 0; round < 20; round++) {
		fflush(stdout);
		pid_t child = fork();
		if (!child)
			_exit(write_forever());
		usleep((useconds_t)test_int(2000, 20000));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		CHECK_OK(batch_output_open(&output, path, &err), &err);
		uint64_t count = batch_output_count(output);
		CHECK(count >= before);
		for (uint64_t i = 0; i < count; i++)
			CHECK(batch_output_done(output, key_of(json_integer((json_int_t)i))));
		CHECK(batch_key_set_count(batch_output_keys(output)) == count);
		before = count;
		batch_output_close(output);
	}
	CHECK(before > 0);
}

static void output_through_pipe(void)
{
	struct batch_output *output;
	char text[256] = "";
	unlink(path);
	CHECK(mkfifo(path, 0600) == 0);
	int reader = open(path, O_RDONLY | O_NONBLOCK);
	CHECK_OK(batch_output_open(&output, path, &err), &err);
	CHECK_OK(batch_output_write_text(output, "{\"id\":1}", 8, &err), &err);
	CHECK_OK(batch_output_sync(output, &err), &err);
	CHECK(read(reader, text, sizeof text) == 9);
	CHECK_STR(text, "{\"id\":1}\n");
	close(reader);
	signal(SIGPIPE, SIG_IGN);
	CHECK_FAILS(batch_output_write_text(output, "{}", 2, &err), &err, path);
	signal(SIGPIPE, SIG_DFL);
	batch_output_close(output);
	unlink(path);
}

int main(void)
{
	if (!mkdtemp(folder))
		return 1;
	snprintf(path, sizeof path, "%s/file.jsonl", folder);
	RUN(keys_of_ids);
	RUN(keys_spread);
	RUN(million_keys);
	RUN(random_input);
	RUN(long_lines);
	RUN(huge_input);
	RUN(input_through_pipe);
	RUN(output_and_resume);
	RUN(torn_at_every_byte);
	RUN(foreign_files);
	RUN(second_job_is_refused);
	RUN(failing_write);
	RUN(killed_at_random);
	RUN(output_through_pipe);
	unlink(path);
	rmdir(folder);
	TEST_END();
}
