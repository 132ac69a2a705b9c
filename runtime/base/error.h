/*
 * error.h - how a failure travels.
 *
 * A function that can fail returns int, 0 or -1 (or a pointer, or NULL), and takes
 * `struct error *err` last. On failure it fills err with one sentence that names the
 * file, the tensor, the option or the rank, and the cure. Nothing below launcher/
 * exits or prints. err is never NULL; on success it is left as it was.
 */
#ifndef TPRUN_BASE_ERROR_H
#define TPRUN_BASE_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

enum error_kind {
	ERROR_NONE = 0,
	ERROR_RUN = 1,	 /* the run failed: exit status 1 */
	ERROR_USAGE = 2, /* the call was wrong: exit status 2 */
	ERROR_STOPPED = 3, /* stopped on request: exit status 3, start again to go on */
};

struct error {
	enum error_kind kind;
	char message[1024]; /* one line, no newline at its end; cut off when longer */
};

/* Fills err as ERROR_RUN and returns -1, so that a caller can `return error_run(err, …)`. */
int error_run(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same as ERROR_USAGE: what the user typed or asked for is wrong. */
int error_usage(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Out of memory while allocating for `what`. Returns -1. */
int error_memory(struct error *err, const char *what);
/* Puts "context: " before the message that err already holds. Returns -1. */
int error_context(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
