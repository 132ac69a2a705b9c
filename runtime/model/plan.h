/*
 * plan.h - what a rank would hold and use, from headers alone.
 */
#ifndef TPRUN_MODEL_PLAN_H
#define TPRUN_MODEL_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/model/config.h"
#include "runtime/model/shard.h"

/* Tokens of a step that the engine takes where nothing else is asked for: long prompts go in
 * chunks of this size, large enough to be bound by arithmetic. */
enum { PLAN_MAX_TOKENS_CUDA = 2048, PLAN_MAX_TOKENS_CPU = 512 };

/* The same, for one sequence of at most `context` tokens. */
int32_t plan_max_tokens(bool cuda, int32_t context);

struct plan_options {
	bool cuda; /* which backend's needs */
	enum dtype dtype;
	int32_t ranks;
	int32_t context;	 /* positions of one sequence */
	int32_t kv_tokens;	 /* positions that the whole cache holds; 0: those of one context */
	int32_t max_tokens;	 /* of a step; 0: plan_max_tokens */
	int32_t max_sequences, max_logit_rows; /* of a step; 0: 1 */
};

/* Bytes of each kind for rank `rank`. */
int plan_rank(const struct model_config *, const struct plan_options *, int32_t rank,
	      struct backend_memory *out, struct error *err);

/* The bytes of all kinds together. */
uint64_t plan_total(const struct backend_memory *);

/* The largest context, a multiple of KV_BLOCK and at most max_positions, with which every rank
 * fits in `memory` bytes; 0 where not even one block does. options->context is ignored. */
int32_t plan_largest_context(const struct model_config *, const struct plan_options *,
			     uint64_t memory);

/* The least number of ranks, from options->ranks up to one a head, with which every one fits in
 * `memory` bytes; 0 where none does. */
int32_t plan_least_ranks(const struct model_config *, const struct plan_options *, uint64_t memory);

/* The most blocks of cache, at most `most`, with which every rank fits in `memory` bytes; 0 where
 * not even one does. options->kv_tokens is ignored; the context's blocks need not fit. */
int32_t plan_kv_blocks(const struct model_config *, const struct plan_options *, uint64_t memory,
		       int32_t most);

#endif
