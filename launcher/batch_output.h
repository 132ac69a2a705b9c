/*
 * batch_output.h - the file of results: only ever appended to, one whole line at a time.
 *
 * A line goes to the file in one write, so whatever kills the program leaves at most one torn line,
 * at the end, and losing power leaves at most what the file system had not written yet. Opened
 * again, a torn last line is cut off, and every whole line tells which request is done: by its id,
 * or, where it carries "line", by its line number. While it is open the file is locked, so that two
 * jobs cannot both append to it. A pipe or a terminal works too, without the lock and with nothing to
 * resume.
 */
#ifndef TPRUN_LAUNCHER_BATCH_OUTPUT_H
#define TPRUN_LAUNCHER_BATCH_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher/batch_keys.h"
#include "runtime/base/error.h"

struct batch_output;

/* Creates or opens the file, locks it, cuts off a torn last line and reads what is done, in bounded
 * memory but for 16 to 43 bytes a line. An ERROR_USAGE where it is locked by another job, is a
 * directory, or holds a line that batch did not write; then it is left as it was. `path` must
 * outlive the output. */
int batch_output_open(struct batch_output **out, const char *path, struct error *err);
/* Gives the lock back. Tells no errors: see batch_output_sync. */
void batch_output_close(struct batch_output *);

/* Appends a line. The text must hold no newline; one is added. Takes the reference to the JSON
 * value; NULL means out of memory. After an error, which names the file, the file is cut back to
 * its whole lines where that is possible, and nothing more is written. */
int batch_output_write(struct batch_output *, json_t *line, struct error *err);
int batch_output_write_text(struct batch_output *, const char *text, size_t length,
			    struct error *err);
/* Waits until all lines are on the disk: also the errors that a network's file system tells late. */
int batch_output_sync(struct batch_output *, struct error *err);

/* Whether the file had a result when it was opened. */
bool batch_output_done(const struct batch_output *, struct batch_key);
/* Lines that the file had when it was opened. */
uint64_t batch_output_count(const struct batch_output *);
/* Bytes of a torn last line that were cut off. */
uint64_t batch_output_torn_bytes(const struct batch_output *);
/* Every key that is done is marked BATCH_DONE; others may mark what they know. */
struct batch_key_set *batch_output_keys(struct batch_output *);

#endif
