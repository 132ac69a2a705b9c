/*
 * output.h - what the program says: the result on standard output, all else on standard error.
 */
#ifndef TPRUN_LAUNCHER_OUTPUT_H
#define TPRUN_LAUNCHER_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"

/* Writes to standard output at once; a reader that went away is an error. */
int output_write(const char *text, size_t length, struct error *err);
int output_print(struct error *err, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* One JSON value and a newline. Takes the reference to `value`; NULL means out of memory. */
int output_json(json_t *value, struct error *err);

/* "12.6 GiB" into text[32], which is returned. */
const char *output_bytes(char text[32], uint64_t bytes);

/* Seconds of a clock that only goes forward. */
double output_now(void);
/* Seconds since this process was started, by the system's clock of 10 ms; 0 where it is not told. */
double output_process_age(void);

/* Whether standard error is a terminal - under mpirun, whose ranks never see one there, whether the
 * launcher's is. */
bool output_has_terminal(void);

/* A bar on standard error, for rank 0, drawn where that is a terminal. */
struct progress {
	bool shown;
	const char *what;
	double last;
};

/* `wanted`: draw it anyway. */
void progress_start(struct progress *, const char *what, bool wanted, bool quiet);
/* The report of struct weights_progress, whose context is the struct progress. */
void progress_bytes(void *progress, uint64_t done, uint64_t total);
void progress_tokens(void *progress, int32_t done, int32_t total);
/* Wipes the bar. */
void progress_end(struct progress *);

#endif
