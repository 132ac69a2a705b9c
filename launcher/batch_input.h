/*
 * batch_input.h - the lines of requests, from a file of any size or a pipe.
 *
 * Memory is bounded: a line beyond BATCH_LINE_MAX is passed over and told as such. Lines of white
 * space alone are passed over but counted, so that numbers are those an editor shows. CRLF, a UTF-8
 * byte order mark at the start, and a last line without a newline are taken as they come.
 */
#ifndef TPRUN_LAUNCHER_BATCH_INPUT_H
#define TPRUN_LAUNCHER_BATCH_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"

enum { BATCH_LINE_MAX = 64 << 20 };

struct batch_input;

struct batch_line {
	int64_t number; /* from 1 */
	const char *text; /* borrowed until the next call; without its end of line, no NUL after it */
	size_t length;
	bool too_long; /* text is only its beginning */
};

/* "-" is standard input. `path` must outlive the input. */
int batch_input_open(struct batch_input **out, const char *path, struct error *err);
void batch_input_close(struct batch_input *);
/* Returns 1 with a line, 0 at the end, -1 on errors; with `wait` false also 2, where a pipe has no
 * whole line yet. */
int batch_input_next(struct batch_input *, bool wait, struct batch_line *out, struct error *err);

/* Lines that next gives in all: known for files of up to 1 GiB, else at the end; -1: unknown. */
int64_t batch_input_lines(const struct batch_input *);
/* The part of a file that was given out, from 0 to 1, or -1 for a pipe. */
double batch_input_fraction(const struct batch_input *);

#endif
