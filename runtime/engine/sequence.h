/*
 * sequence.h - a sequence in the making, and the batch of sequences that one step runs.
 */
#ifndef TPRUN_ENGINE_SEQUENCE_H
#define TPRUN_ENGINE_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/engine/kv.h"

/* Ids from the beginning on; those below `cached` have their keys and values in the cache. */
struct sequence {
	int32_t *ids, count, capacity;
	int32_t cached;
	struct kv_table table;
	/* The ids that occur, for the repetition penalty: each once, in order of appearance. */
	int32_t *distinct, distinct_count;
	uint8_t *seen; /* a bit for each id of the vocabulary */
};

/* Room for `capacity` ids below vocab. `distinct` is kept where wanted, and empty otherwise. */
int sequence_open(struct sequence *, int32_t capacity, int32_t vocab, bool distinct,
		  struct error *err);
/* The blocks of its table must have been released. */
void sequence_close(struct sequence *);
/* Appends an id; the caller keeps to the capacity and the vocabulary. */
void sequence_add(struct sequence *, int32_t id);

/* A step that is being put together. Its arrays are allocated at batch_open from the maxima. */
struct batch {
	const struct backend_options *limits;
	struct step step; /* what engine_step takes; its pointers are to the arrays below */
	int32_t *token_ids, *positions, *first_token, *block_table, *logit_tokens;
	float *rope_growth;
	struct logit_request *requests;
};

int batch_open(struct batch *, const struct backend_options *limits, struct error *err);
void batch_close(struct batch *);
void batch_clear(struct batch *);

/* Adds the next `count` uncached ids of a sequence (whose table already has their blocks) and asks
 * for the logits of the last `rows` of them; returns the requests of those rows, set to "no
 * penalty, temperature 1, no target", for the caller to fill in. `growth`: see rope_growth in
 * struct step; pass 1 for all but dynamic rope. The caller keeps to the maxima. */
struct logit_request *batch_add(struct batch *, const struct sequence *, int32_t count,
				int32_t rows, float growth);

#endif
