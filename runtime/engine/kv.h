/*
 * kv.h - which blocks of the paged KV cache belong to whom; rank 0's book-keeping.
 *
 * A full block whose ids are known can be found again by what it holds, and be held by any number
 * of sequences at once: nobody writes to it any more. Once its last holder let go it stays findable
 * until its room is needed. Every operation on a block takes constant time.
 */
#ifndef TPRUN_ENGINE_KV_H
#define TPRUN_ENGINE_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/error.h"

struct kv_block {
	int32_t holders;	/* tables that it is in; without any it is in the list of free blocks */
	int32_t previous, next; /* in that list, or -1 */
	/* What a full block holds, once published: `ids`, after all that the block of serial number
	 * `before` (0: none) and those before it hold. A serial number is given out once, so equal
	 * numbers mean equal contents from position 0 on, whatever the hash function does. */
	uint64_t serial, before;
	int32_t ids[KV_BLOCK];
	bool findable;
	int32_t chained; /* the next findable block in its bucket, or -1 */
};

/* A pool of `count` blocks of KV_BLOCK tokens, numbered from 0. Free blocks are taken from the
 * front: those that can't be found come first, then the findable ones, the longest free first. */
struct kv_pool {
	int32_t count, free_count;
	int32_t first_free, last_free; /* or -1 */
	struct kv_block *blocks;
	int32_t *buckets;	/* the first findable block of each, or -1 */
	uint32_t bucket_mask;
	uint64_t last_serial;
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
/* Blocks that `tokens` tokens fill or begin. */
int32_t kv_blocks_of(int32_t tokens);
/* Blocks for positions below `tokens`, taken from the pool as needed. Returns 0; or 1 where the
 * pool has too few or the table too little room: then nothing was taken. */
int kv_table_reserve(struct kv_table *, struct kv_pool *, int32_t tokens);
/* To an empty table: the longest run of findable blocks, at most `blocks` of them and the table's
 * room, that holds what ids[blocks * KV_BLOCK] begin with. */
void kv_table_adopt(struct kv_table *, struct kv_pool *, const int32_t *ids, int32_t blocks);
/* Blocks [first, end) of the table are filled by the step being planned, so whatever reads them
 * comes later: makes them findable. `ids` are the sequence's from position 0 on; blocks below
 * `first` were published or adopted. A block whose contents can be found already stays private, but
 * what follows it shares its serial number. */
void kv_table_publish(struct kv_table *, struct kv_pool *, const int32_t *ids, int32_t first,
		      int32_t end);
/* Lets go of all blocks, the last one first, so that the front of a text stays findable longest. */
void kv_table_release(struct kv_table *, struct kv_pool *);

#endif
