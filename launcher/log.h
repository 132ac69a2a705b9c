/*
 * log.h - what the program says on standard error, beside its result.
 *
 * One rule for all of it. Without --log-level the text is for the person in front of the terminal:
 * as it stands, from the rank that has something to say. With --log-level it is a log: every line
 * opens with the time (UTC), the rank and the level of the line, and lines of a lesser level are left
 * out. --quiet leaves errors alone. A message goes out in one write, so that the lines of several
 * ranks, and of a rank's threads, do not mix.
 */
#ifndef TPRUN_LAUNCHER_LOG_H
#define TPRUN_LAUNCHER_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "launcher/options.h"

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* Plain data, to be copied. */
struct log {
	enum log_level level;
	bool stamped;
	int rank;
};

/* What the options ask for; `rank` is that of the world. */
struct log log_make(const struct options *, int rank);

static inline bool log_wants(const struct log *log, enum log_level level)
{
	return level <= log->level;
}

/* Says a message of one or more lines; a missing newline at its end is added. */
void log_say(const struct log *, enum log_level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void log_text(const struct log *, enum log_level, const char *text);

enum { LOG_STAMP = 64 };
/* "2026-01-31T12:00:00.123Z rank 3 info: " into text, or nothing where lines are not stamped; returns
 * its length. Calls nothing that a signal's handler may not call. */
size_t log_stamp(const struct log *, enum log_level, char text[LOG_STAMP]);

/* The date (year, month from 1, day from 1) of a day counted from 1970-01-01, which is 0; not before. */
void log_date(long day, int *year, int *month, int *date);

/* For texts that a signal's handler makes: appends to text[size] at `length`, cuts what does not fit,
 * and returns the new length; the number in decimal, at least `digits` wide. */
size_t log_append(char *text, size_t size, size_t length, const char *more);
size_t log_append_number(char *text, size_t size, size_t length, unsigned long long number,
			 int digits);

#endif
