/*
 * batch_keys.h - which requests of a batch are done, in 16 bytes each.
 *
 * A request is known by its id or, where it has none that counts, by its line number. Both become a
 * 128-bit hash, so that a hundred million of them fit in memory whatever their length. Two
 * different ids meet by chance with a probability of about n^2 / 2^127 for n ids (6e-21 for a
 * billion). The hash is no defence against somebody who makes ids collide on purpose; they would
 * only leave out lines of a file of their own.
 */
#ifndef TPRUN_LAUNCHER_BATCH_KEYS_H
#define TPRUN_LAUNCHER_BATCH_KEYS_H

#include <jansson.h>
#include <stdint.h>

#include "runtime/base/error.h"

enum { BATCH_ID_BYTES_MAX = 4096 };

struct batch_key {
	uint64_t a, b;
};

/* Strings of at most BATCH_ID_BYTES_MAX bytes and integers are ids; "1" and 1 are two. Returns -1
 * for any other value. */
int batch_key_of_id(const json_t *id, struct batch_key *key);
/* Differs from the key of every id. */
struct batch_key batch_key_of_line(int64_t number);

/* What is known of a key; a set of bits. */
enum batch_mark {
	BATCH_DONE = 1, /* it is in the output */
	BATCH_SEEN = 2, /* it came in this input */
};

struct batch_key_set;

int batch_key_set_open(struct batch_key_set **out, struct error *err);
void batch_key_set_close(struct batch_key_set *);
/* Adds marks to a key. *before: those it had, 0 for a new key. */
int batch_key_set_add(struct batch_key_set *, struct batch_key, int marks, int *before,
		      struct error *err);
/* The marks of a key, 0 where it is not there. */
int batch_key_set_find(const struct batch_key_set *, struct batch_key);
/* Keys in the set. */
uint64_t batch_key_set_count(const struct batch_key_set *);

#endif
