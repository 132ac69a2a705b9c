/*
 * json.h - reading JSON that a stranger wrote (jansson underneath).
 *
 * Published files hold integers too large for 64 bits (model_max_length has 31 digits),
 * so every number is decoded as a real, and an integer is a real that is integral and
 * within 2^53. Getters name the file and the key in their errors. A key whose value is
 * null counts as absent.
 */
#ifndef TPRUN_BASE_JSON_H
#define TPRUN_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"

/* Parses `length` bytes of JSON; `name` is what errors call the source. The caller owns the
 * result (json_decref). Duplicate keys, nesting beyond jansson's 2,048 levels, bad UTF-8 and
 * trailing text are errors. Strings may hold NUL (use json_string_length). */
json_t *json_parse(const char *text, size_t length, const char *name, struct error *err);
/* Reads and parses a whole file of at most max_bytes. */
json_t *json_read_file(const char *path, size_t max_bytes, struct error *err);

/* The member `key` of `object`, or NULL where absent or null. Borrowed. */
json_t *json_member(const json_t *object, const char *key);

/* Each getter writes *out and returns 0; where the key is absent or null it leaves *out
 * alone and returns 0; a value of another type or outside [min, max] is an error.
 * To demand a key, give *out an impossible value first or use json_need. */
int json_get_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *out,
		 const char *name, struct error *err);
int json_get_real(const json_t *object, const char *key, double min, double max, double *out,
		  const char *name, struct error *err);
int json_get_bool(const json_t *object, const char *key, bool *out, const char *name,
		  struct error *err);
/* *out is borrowed from the object, NUL-terminated; a string that holds NUL is an error. */
int json_get_string(const json_t *object, const char *key, const char **out, const char *name,
		    struct error *err);
/* -1 with an error "NAME has no KEY" where the key is absent or null. */
int json_need(const json_t *object, const char *key, const char *name, struct error *err);

/* The value as an integer: 0, or -1 where it is not an integral number within 2^53. */
int json_to_int(const json_t *value, int64_t *out);

#endif
