/*
 * kv.h - which blocks of the paged KV cache belong to whom; rank 0's book-keeping.
 */
#ifndef TPRUN_ENGINE_KV_H
#define TPRUN_ENGINE_KV_H

#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/error.h"

/* A pool of `count` blocks of KV_BLOCK tokens, numbered from 0. */
struct kv_pool {
	int32_t count, free_count;
	int32_t *free; /* a stack: the lowest-numbered block on top at the start */
};

int kv_pool_open(struct kv_pool *, int32_t count, struct error *err);
void kv_pool_close(struct kv_pool *);

/* The blocks of one sequence, in order of position. */
struct kv_table {
	int32_t *blocks;
	int32_t count, capacity; /* in blocks */
};

int kv_table_open(struct kv_table *, int32_t capacity, struct error *err);
void kv_table_close(struct kv_table *);
/* Blocks for positions below `tokens`, taken from the pool as needed. Returns 0; or 1 where the
 * pool has too few or the table too little room: then nothing was taken. */
int kv_table_reserve(struct kv_table *, struct kv_pool *, int32_t tokens);
/* Gives all blocks back. */
void kv_table_release(struct kv_table *, struct kv_pool *);

#endif
