/*
 * line_reader.h - the lines of a file of any size, in bounded memory.
 */
#ifndef TPRUN_LAUNCHER_LINE_READER_H
#define TPRUN_LAUNCHER_LINE_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"

struct line_reader {
	int fd;		  /* borrowed */
	const char *path; /* borrowed, for errors */
	size_t max;	  /* bytes of a line that are kept */
	char *buffer;	  /* bytes start to end are read and not yet given out */
	size_t capacity, start, end;
	size_t scanned;	 /* bytes from start that hold no newline */
	uint64_t offset; /* in the file, of the next line */
	uint64_t dropped; /* bytes of the next line that were not kept */
	bool ended;	 /* the file's end was met */
};

struct text_line {
	const char *text; /* borrowed until the next call; NUL and bad UTF-8 may be in it */
	size_t length;	  /* without the newline; at most max */
	uint64_t offset;  /* of its first byte in the file */
	bool whole;	  /* a newline ends it; false only for the last line of a file */
	bool too_long;	  /* text is its first max bytes, and the rest is lost */
};

int line_reader_open(struct line_reader *, int fd, const char *path, size_t max, struct error *err);
void line_reader_close(struct line_reader *);
/* Returns 1 with a line, 0 at the end, -1 on errors. With `wait` false also 2, where the rest of
 * the line is still to come through a pipe. */
int line_reader_next(struct line_reader *, bool wait, struct text_line *out, struct error *err);

#endif
