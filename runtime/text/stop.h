/*
 * stop.h - stop strings that may span tokens.
 *
 * Text goes in piece by piece; what certainly comes before any stop string comes out; a tail
 * that may be the beginning of one is held back. The stop string that is complete first counts
 * (of several that end together, the longest), so the result is the same however the text is cut.
 */
#ifndef TPRUN_TEXT_STOP_H
#define TPRUN_TEXT_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/error.h"

struct stop_filter;

/* `strings` are copied; an empty string is an ERROR_USAGE. count may be 0. */
int stop_filter_open(struct stop_filter **out, const char *const *strings, size_t count,
		     struct error *err);
void stop_filter_close(struct stop_filter *);
/* Adds text. *out (borrowed until the next call) is what may be shown now. *stopped: a stop string
 * was met; the text before it is in *out and everything after it is dropped. Text may hold
 * NUL. */
int stop_filter_put(struct stop_filter *, const char *text, size_t length, const char **out,
		    size_t *out_length, bool *stopped, struct error *err);
/* The held-back tail, at the end without a stop; borrowed until the next call. */
void stop_filter_end(struct stop_filter *, const char **out, size_t *out_length);

#endif
