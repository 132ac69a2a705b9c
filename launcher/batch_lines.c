#include "launcher/batch_lines.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/json.h"

enum { PASSED_OVER_MAX = 1000 };

/* ---- one line ---------------------------------------------------------------------------- */

json_t *batch_line_parse(const char *text, size_t length, json_t **id, struct error *err)
{
	const size_t flags = JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES;
	struct batch_key key;
	json_error_t where;
	json_t *line = json_loadb(text, length, flags, &where);
	*id = NULL;
	if (!line && json_error_code(&where) == json_error_numeric_overflow)
		line = json_loadb(text, length, flags | JSON_DECODE_INT_AS_REAL, &where);
	if (!line) {
		error_usage(err, "not valid JSON: %s, at byte %d", where.text, where.position);
		return NULL;
	}
	json_t *given = json_member(line, "id");
	if (!json_is_object(line))
		error_usage(err, "not a JSON object");
	else if (!given)
		error_usage(err, "no \"id\"");
	else if (batch_key_of_id(given, &key))
		error_usage(err, "\"id\" must be a string of at most %d bytes or a whole number within 64 "
				 "bits", BATCH_ID_BYTES_MAX);
	else {
		*id = given;
		return line;
	}
	json_decref(line);
	return NULL;
}

/* A message may end in half a character, where it was cut. */
static json_t *message_json(const char *message)
{
	json_t *text = json_string(message);
	char *copy = text ? NULL : strdup(message);
	if (copy) {
		for (char *c = copy; *c; c++)
			*c = (unsigned char)*c < 0x80 ? *c : '?';
		text = json_string(copy);
	}
	free(copy);
	return text;
}

json_t *batch_error_line(json_t *id, int64_t line, const char *message)
{
	json_t *object = json_object();
	int bad = json_object_set_new(object, "id", id ? json_incref(id) : json_null());
	if (line > 0)
		bad |= json_object_set_new(object, "line", json_integer(line));
	bad |= json_object_set_new(object, "error", message_json(message));
	if (!bad)
		return object;
	json_decref(object);
	return NULL;
}

/* ---- the walk ---------------------------------------------------------------------------- */

void batch_lines_open(struct batch_lines *lines, struct batch_input *input,
		      struct batch_output *output)
{
	*lines = (struct batch_lines){.input = input, .output = output};
}

void batch_lines_close(struct batch_lines *lines)
{
	if (!lines)
		return;
	json_decref(lines->id);
	lines->id = NULL;
}

/* Its error line, unless an earlier run wrote it. */
static int refuse(struct batch_lines *lines, json_t *id, int64_t number, const char *message,
		  struct error *err)
{
	if (batch_output_done(lines->output, batch_key_of_line(number))) {
		lines->skipped++;
		return 0;
	}
	lines->errors++;
	return batch_output_write(lines->output, batch_error_line(id, number, message), err);
}

/* Returns 1 where the line is to be run, 0 where it was passed over. */
static int look(struct batch_lines *lines, const struct batch_line *line, struct error *err)
{
	struct error why = {0};
	struct batch_key key;
	int before;
	if (line->too_long) {
		error_usage(&why, "longer than %d MiB", BATCH_LINE_MAX >> 20);
		return refuse(lines, NULL, line->number, why.message, err);
	}
	json_t *object = batch_line_parse(line->text, line->length, &lines->id, &why);
	if (!object)
		return refuse(lines, NULL, line->number, why.message, err);
	json_incref(lines->id);
	json_decref(object);
	batch_key_of_id(lines->id, &key);
	if (batch_key_set_add(batch_output_keys(lines->output), key, BATCH_SEEN, &before, err))
		return -1;
	if (before & BATCH_SEEN) {
		if (lines->duplicates < BATCH_DUPLICATES_SHOWN)
			lines->duplicate_lines[lines->duplicates] = line->number;
		lines->duplicates++;
		return refuse(lines, lines->id, line->number, "an earlier line has the same \"id\"", err);
	}
	if (before & BATCH_DONE) {
		lines->skipped++;
		return 0;
	}
	lines->given++;
	return 1;
}

int batch_lines_next(struct batch_lines *lines, bool wait, struct batch_item *out,
		     struct error *err)
{
	for (int passed = 0; wait || passed < PASSED_OVER_MAX; passed++) {
		struct batch_line line;
		int found = batch_input_next(lines->input, wait, &line, err);
		if (found != 1)
			return found;
		batch_lines_close(lines);
		found = look(lines, &line, err);
		if (found < 0)
			return -1;
		if (found) {
			*out = (struct batch_item){line.number, line.text, line.length, lines->id};
			return 1;
		}
	}
	return 2;
}
