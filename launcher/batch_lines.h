/*
 * batch_lines.h - the walk through a batch's input: which lines are to be run.
 *
 * A line whose result is in the output already is passed over. A line that cannot be a request (no
 * JSON object, a key twice, no id or one that cannot be an id, too long, the id of an earlier line)
 * gets its error line {"id": null or the duplicate id, "line": N, "error": "..."} at once. Whatever
 * else may be wrong with a line is for batch_request.h, which knows the model.
 */
#ifndef TPRUN_LAUNCHER_BATCH_LINES_H
#define TPRUN_LAUNCHER_BATCH_LINES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher/batch_input.h"
#include "launcher/batch_output.h"

enum { BATCH_DUPLICATES_SHOWN = 5 };

/* What the walk has met so far. */
struct batch_lines {
	struct batch_input *input;   /* borrowed */
	struct batch_output *output; /* borrowed */
	uint64_t given;		     /* lines to be run */
	uint64_t skipped;	     /* lines with a result in the output already */
	uint64_t errors;	     /* error lines written */
	uint64_t duplicates;	     /* lines with the id of an earlier one, skipped ones too */
	int64_t duplicate_lines[BATCH_DUPLICATES_SHOWN]; /* the first of them */
	json_t *id;		     /* of the last item */
};

struct batch_item {
	int64_t number;	  /* of the line, from 1 */
	const char *text; /* borrowed until the next call, without NUL after it; so is the id */
	size_t length;
	json_t *id;
};

void batch_lines_open(struct batch_lines *, struct batch_input *, struct batch_output *);
void batch_lines_close(struct batch_lines *);
/* Returns 1 with a line that is to be run, 0 at the input's end, -1 on errors of the files. With
 * `wait` false also 2: nothing is there yet, or so many lines were passed over that the caller
 * should look around; call again. */
int batch_lines_next(struct batch_lines *, bool wait, struct batch_item *out, struct error *err);

/* A line as a JSON object, which the caller owns, and its id, borrowed from it. Integers stay
 * integers; those beyond 64 bits become reals. NULL with an ERROR_USAGE that does not name the line. */
json_t *batch_line_parse(const char *text, size_t length, json_t **id, struct error *err);

/* {"id": id, "error": message}, with "line" where it is above 0. `id` NULL becomes null. */
json_t *batch_error_line(json_t *id, int64_t line, const char *message);

#endif
