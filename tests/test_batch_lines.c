#define TEST_SUITE "batch_lines"
#include "tests/test.h"

#include "launcher/batch_lines.h"

static struct error err;
static char folder[] = "/tmp/tprun-lines-XXXXXX";
static char input_path[128], output_path[128];

static void write_input(const char *text)
{
	FILE *file = fopen(input_path, "wb");
	CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* Every line of the output, as a list that the caller owns. */
static json_t *read_output(void)
{
	char *line = NULL;
	size_t capacity = 0;
	ssize_t length;
	json_t *lines = json_array();
	FILE *file = fopen(output_path, "rb");
	while (file && (length = getline(&line, &capacity, file)) > 0) {
		json_t *object = json_loadb(line, (size_t)length, 0, NULL);
		CHECK_MSG(object, "%s", line);
		json_array_append_new(lines, object);
	}
	if (file)
		fclose(file);
	free(line);
	return lines;
}

struct walk {
	struct batch_input *input;
	struct batch_output *output;
	struct batch_lines lines;
};

static void walk_open(struct walk *walk)
{
	CHECK_OK(batch_input_open(&walk->input, input_path, &err), &err);
	CHECK_OK(batch_output_open(&walk->output, output_path, &err), &err);
	batch_lines_open(&walk->lines, walk->input, walk->output);
}

static void walk_close(struct walk *walk)
{
	batch_lines_close(&walk->lines);
	batch_input_close(walk->input);
	batch_output_close(walk->output);
}

static int next(struct walk *walk, struct batch_item *item)
{
	int found = batch_lines_next(&walk->lines, true, item, &err);
	CHECK_MSG(found >= 0, "%s", err.message);
	return found;
}

static void finish(struct walk *walk, const struct batch_item *item)
{
	CHECK_OK(batch_output_write(walk->output,
				    json_pack("{s:O, s:s}", "id", item->id, "text", "done"), &err), &err);
}

/* Each kind of line that cannot be a request has its error line, once. */
static void bad_lines(void)
{
	static const struct {
		const char *line, *error, *id;
	} cases[] = {
		{"{\"id\": 1}", NULL, NULL},
		{"nonsense", "not valid JSON", "null"},
		{"{\"id\": 2, \"id\": 3}", "duplicate object key", "null"},
		{"{\"id\": \"\xff\"}", "not valid JSON", "null"},
		{"[1]", "not a JSON object", "null"},
		{"\"id\"", "not a JSON object", "null"},
		{"{\"prompt\": \"x\"}", "no \"id\"", "null"},
		{"{\"id\": null}", "no \"id\"", "null"},
		{"{\"id\": 1.5}", "\"id\" must be", "null"},
		{"{\"id\": true}", "\"id\" must be", "null"},
		{"{\"id\": 99999999999999999999}", "\"id\" must be", "null"},
		{"{\"id\": \"x\", \"metadata\": 99999999999999999999}", NULL, NULL},
		{"{\"id\": 1, \"prompt\": \"other\"}", "an earlier line", "1"},
		{"{\"id\": \"1\"}", NULL, NULL},
		{"{\"id\": \"1\"}", "an earlier line", "\"1\""},
		{"{\"id\": 9223372036854775807}", NULL, NULL},
		{"{\"id\": 9223372036854775806}", NULL, NULL},
		{"{\"id\": -3} {}", "not valid JSON", "null"},
	};
	enum { CASES = sizeof cases / sizeof *cases };
	char text[4096] = "";
	int good = 0, bad = 0;
	for (int i = 0; i < CASES; i++) {
		strcat(strcat(text, cases[i].line), "\n");
		good += !cases[i].error;
	}
	write_input(text);
	unlink(output_path);
	for (int round = 0; round < 3; round++) {
		struct walk walk;
		struct batch_item item;
		walk_open(&walk);
		for (int i = 0; i < CASES; i++)
			if (!cases[i].error && round < 2) { /* nothing is finished in the first round */
				CHECK(next(&walk, &item) == 1 && item.number == i + 1);
				CHECK(item.length == strlen(cases[i].line) &&
				      !memcmp(item.text, cases[i].line, item.length));
				if (round == 1)
					finish(&walk, &item);
			}
		CHECK(next(&walk, &item) == 0);
		CHECK(walk.lines.given == (round < 2 ? (uint64_t)good : 0));
		CHECK(walk.lines.errors == (round == 0 ? (uint64_t)(CASES - good) : 0));
		CHECK(walk.lines.skipped == (uint64_t)(round == 0   ? 0
						       : round == 1 ? CASES - good
								    : CASES));
		CHECK(walk.lines.duplicates == 2 && walk.lines.duplicate_lines[0] == 13 &&
		      walk.lines.duplicate_lines[1] == 15);
		walk_close(&walk);
	}
	json_t *lines = read_output();
	CHECK(json_array_size(lines) == CASES);
	for (int i = 0; i < CASES; i++) {
		if (!cases[i].error)
			continue;
		json_t *line = json_array_get(lines, (size_t)bad++);
		const char *message = json_string_value(json_object_get(line, "error"));
		char *id = json_dumps(json_object_get(line, "id"), JSON_ENCODE_ANY);
		CHECK(json_integer_value(json_object_get(line, "line")) == i + 1);
		CHECK_MSG(message && strstr(message, cases[i].error), "%s: %s", cases[i].line, message);
		CHECK_STR(id, cases[i].id);
		free(id);
	}
	json_decref(lines);
}

/* A random input is walked through in runs that end anywhere, with results in any order: at the end
 * there is one line of output for each line of input. */
static void resumed_at_random(void)
{
	enum { LINES = 300, IDS = 250 };
	for (int round = 0; round < 10; round++) {
		char *text = calloc(LINES, 64), *at = text;
		int first[2 * IDS], bad = 0, duplicates = 0;
		memset(first, 0, sizeof first);
		for (int i = 1; i <= LINES; i++) {
			int id = (int)test_int(0, IDS - 1), quoted = (int)test_int(0, 1);
			if (test_int(0, 9) == 0) {
				at += sprintf(at, "{\"id\": %d,}\n", id);
				bad++;
				continue;
			}
			at += sprintf(at, quoted ? "{\"id\": \"%d\"}\n" : "{\"id\":%d}\n", id);
			int *known = &first[id + quoted * IDS];
			duplicates += *known != 0;
			*known = *known ? *known : i;
		}
		write_input(text);
		free(text);
		unlink(output_path);
		bool ended = false;
		for (int runs = 0; !ended && runs < 1000; runs++) {
			struct walk walk;
			struct batch_item item;
			json_t *waiting[16];
			int count = 0;
			walk_open(&walk);
			for (int left = (int)test_int(1, 100); left && !ended; left--) {
				ended = next(&walk, &item) == 0;
				if (!ended)
					waiting[count++] = json_incref(item.id);
				while (count == 16 || (count && ended)) {
					int which = (int)test_int(0, count - 1);
					item.id = waiting[which];
					finish(&walk, &item);
					json_decref(item.id);
					waiting[which] = waiting[--count];
				}
			}
			while (count) /* these were running when the job ended */
				json_decref(waiting[--count]);
			walk_close(&walk);
		}
		CHECK(ended);
		json_t *lines = read_output(), *line;
		size_t i;
		int results = 0, errors = 0, seen[2 * IDS] = {0}, wrong[LINES + 1] = {0};
		json_array_foreach (lines, i, line) {
			const json_t *id = json_object_get(line, "id");
			if (json_object_get(line, "line")) {
				errors++;
				wrong[json_integer_value(json_object_get(line, "line"))]++;
				continue;
			}
			results++;
			seen[json_is_string(id) ? atoi(json_string_value(id)) + IDS
						: (int)json_integer_value(id)]++;
		}
		CHECK_MSG(errors == bad + duplicates, "%d, not %d and %d", errors, bad, duplicates);
		CHECK(results + errors == LINES);
		for (int k = 0; k < 2 * IDS; k++)
			CHECK(seen[k] == (first[k] != 0));
		for (int k = 0; k <= LINES; k++)
			CHECK(wrong[k] <= 1);
		json_decref(lines);
	}
}

/* Long runs of lines to pass over give the caller a chance to look around. */
static void looks_around(void)
{
	struct walk walk;
	struct batch_item item;
	int found, pauses = 0;
	FILE *file = fopen(input_path, "wb");
	for (int i = 0; file && i < 10000; i++)
		fputs("no\n", file);
	CHECK(file && fclose(file) == 0);
	unlink(output_path);
	walk_open(&walk);
	while ((found = batch_lines_next(&walk.lines, false, &item, &err)) == 2)
		pauses++;
	CHECK(found == 0 && pauses >= 9 && pauses < 100 && walk.lines.errors == 10000);
	walk_close(&walk);
}

static void too_long_line(void)
{
	struct walk walk;
	struct batch_item item;
	FILE *file = fopen(input_path, "wb");
	char *chunk = malloc(1 << 20);
	memset(chunk, ' ', 1 << 20);
	fputs("{\"id\": 1,", file);
	for (int i = 0; i < 65; i++)
		fwrite(chunk, 1, 1 << 20, file);
	fputs("}\n{\"id\": 1}\n", file);
	CHECK(fclose(file) == 0);
	free(chunk);
	unlink(output_path);
	walk_open(&walk);
	CHECK(next(&walk, &item) == 1 && item.number == 2);
	CHECK(next(&walk, &item) == 0 && walk.lines.errors == 1);
	walk_close(&walk);
	json_t *lines = read_output();
	const char *message =
		json_string_value(json_object_get(json_array_get(lines, 0), "error"));
	CHECK_STR(message, "longer than 64 MiB");
	json_decref(lines);
}

/* Bytes, random or changed from a good line, never do harm, and every line is accounted for. */
static void random_bytes(void)
{
	static const char good[] = "{\"id\": \"a1\", \"prompt\": \"x\\u00e9\", \"n\": [1, {\"a\": null}]}";
	for (int round = 0; round < 3000; round++) {
		char line[128];
		size_t length = sizeof good - 1;
		json_t *id;
		memcpy(line, good, length);
		for (int64_t i = test_int(1, 4); i; i--)
			line[test_int(0, (int64_t)length - 1)] = (char)test_int(0, 255);
		length = (size_t)test_int(0, (int64_t)length);
		err.message[0] = '\0';
		json_t *object = batch_line_parse(line, length, &id, &err);
		CHECK(object ? id != NULL : err.message[0] != '\0' && err.kind == ERROR_USAGE);
		json_t *told = batch_error_line(id, round, err.message);
		CHECK(told && json_is_string(json_object_get(told, "error")));
		json_decref(told);
		json_decref(object);
	}
	json_t *told = batch_error_line(NULL, 0, "half a character: \xe2\x82");
	CHECK_STR(json_string_value(json_object_get(told, "error")), "half a character: ?\?");
	CHECK(json_is_null(json_object_get(told, "id")) && json_object_size(told) == 2);
	json_decref(told);
}

int main(void)
{
	if (!mkdtemp(folder))
		return 1;
	snprintf(input_path, sizeof input_path, "%s/in.jsonl", folder);
	snprintf(output_path, sizeof output_path, "%s/out.jsonl", folder);
	RUN(bad_lines);
	RUN(resumed_at_random);
	RUN(looks_around);
	RUN(too_long_line);
	RUN(random_bytes);
	unlink(input_path);
	unlink(output_path);
	rmdir(folder);
	TEST_END();
}
