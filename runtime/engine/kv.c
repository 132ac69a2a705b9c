#include "runtime/engine/kv.h"

#include <stdlib.h>
#include <string.h>

/* ---- free blocks ------------------------------------------------------------------------------- */

/* Puts a block into the list between two neighbours, either of which may be -1. */
static void link_free(struct kv_pool *pool, int32_t block, int32_t previous, int32_t next)
{
	pool->blocks[block].previous = previous;
	pool->blocks[block].next = next;
	*(previous < 0 ? &pool->first_free : &pool->blocks[previous].next) = block;
	*(next < 0 ? &pool->last_free : &pool->blocks[next].previous) = block;
	pool->free_count++;
}

static void unlink_free(struct kv_pool *pool, int32_t block)
{
	int32_t previous = pool->blocks[block].previous, next = pool->blocks[block].next;

	*(previous < 0 ? &pool->first_free : &pool->blocks[previous].next) = next;
	*(next < 0 ? &pool->last_free : &pool->blocks[next].previous) = previous;
	pool->free_count--;
}

static void hold(struct kv_pool *pool, int32_t block)
{
	if (pool->blocks[block].holders++ == 0)
		unlink_free(pool, block);
}

static void let_go(struct kv_pool *pool, int32_t block)
{
	if (--pool->blocks[block].holders)
		return;
	if (pool->blocks[block].findable)
		link_free(pool, block, pool->last_free, -1);
	else
		link_free(pool, block, -1, pool->first_free);
}

/* ---- findable blocks --------------------------------------------------------------------------- */

/* Multiply and xor over the ids, as FNV-1a goes over bytes. */
static int32_t *bucket_of(const struct kv_pool *pool, uint64_t before, const int32_t *ids)
{
	uint64_t hash = before;

	for (int i = 0; i < KV_BLOCK; i++)
		hash = (hash ^ (uint32_t)ids[i]) * 0x9e3779b97f4a7c15ull;
	return &pool->buckets[(uint32_t)(hash >> 32) & pool->bucket_mask];
}

static int32_t find(const struct kv_pool *pool, uint64_t before, const int32_t *ids)
{
	int32_t block = *bucket_of(pool, before, ids);

	while (block >= 0 && (pool->blocks[block].before != before ||
			      memcmp(pool->blocks[block].ids, ids, sizeof pool->blocks->ids)))
		block = pool->blocks[block].chained;
	return block;
}

static void forget(struct kv_pool *pool, int32_t block)
{
	struct kv_block *b = &pool->blocks[block];
	int32_t *link = bucket_of(pool, b->before, b->ids);

	while (*link != block)
		link = &pool->blocks[*link].chained;
	*link = b->chained;
	b->findable = false;
}

/* ---- the pool ---------------------------------------------------------------------------------- */

int kv_pool_open(struct kv_pool *pool, int32_t count, struct error *err)
{
	uint32_t buckets = 1;

	*pool = (struct kv_pool){.count = count, .first_free = -1, .last_free = -1};
	if (count < 0)
		return error_run(err, "a KV cache of %d blocks cannot be", count);
	while (buckets < (uint32_t)count)
		buckets *= 2;
	pool->bucket_mask = buckets - 1;
	pool->blocks = calloc((size_t)count + 1, sizeof *pool->blocks);
	pool->buckets = malloc(buckets * sizeof *pool->buckets);
	if (!pool->blocks || !pool->buckets) {
		kv_pool_close(pool);
		return error_memory(err, "the list of KV-cache blocks");
	}
	memset(pool->buckets, -1, buckets * sizeof *pool->buckets);
	for (int32_t i = 0; i < count; i++)
		link_free(pool, i, i - 1, -1);
	return 0;
}

void kv_pool_close(struct kv_pool *pool)
{
	if (!pool)
		return;
	free(pool->blocks);
	free(pool->buckets);
	*pool = (struct kv_pool){0};
}

/* ---- tables ------------------------------------------------------------------------------------ */

int kv_table_open(struct kv_table *table, int32_t capacity, struct error *err)
{
	*table = (struct kv_table){.capacity = capacity};
	if (capacity < 0)
		return error_run(err, "a sequence of %d KV-cache blocks cannot be", capacity);
	table->blocks = malloc(((size_t)capacity + 1) * sizeof *table->blocks);
	return table->blocks ? 0 : error_memory(err, "a sequence's table of KV-cache blocks");
}

void kv_table_close(struct kv_table *table)
{
	if (!table)
		return;
	free(table->blocks);
	*table = (struct kv_table){0};
}

int32_t kv_blocks_of(int32_t tokens)
{
	return tokens / KV_BLOCK + (tokens % KV_BLOCK != 0);
}

int kv_table_reserve(struct kv_table *table, struct kv_pool *pool, int32_t tokens)
{
	int32_t needed = kv_blocks_of(tokens);

	if (needed > table->capacity || needed - table->count > pool->free_count)
		return 1;
	while (table->count < needed) {
		int32_t block = pool->first_free;
		if (pool->blocks[block].findable)
			forget(pool, block);
		hold(pool, block);
		table->blocks[table->count++] = block;
	}
	return 0;
}

void kv_table_adopt(struct kv_table *table, struct kv_pool *pool, const int32_t *ids,
		    int32_t blocks)
{
	uint64_t before = 0;

	for (int32_t i = 0; i < blocks && i < table->capacity; i++) {
		int32_t block = find(pool, before, ids + (size_t)i * KV_BLOCK);
		if (block < 0)
			return;
		hold(pool, block);
		table->blocks[table->count++] = block;
		before = pool->blocks[block].serial;
	}
}

void kv_table_publish(struct kv_table *table, struct kv_pool *pool, const int32_t *ids,
		      int32_t first, int32_t end)
{
	for (int32_t i = first; i < end; i++) {
		struct kv_block *block = &pool->blocks[table->blocks[i]];
		const int32_t *held = ids + (size_t)i * KV_BLOCK;
		uint64_t before = i ? pool->blocks[table->blocks[i - 1]].serial : 0;
		int32_t same = find(pool, before, held);

		if (same >= 0) {
			block->serial = pool->blocks[same].serial;
			continue;
		}
		int32_t *bucket = bucket_of(pool, before, held);
		block->serial = ++pool->last_serial;
		block->before = before;
		memcpy(block->ids, held, sizeof block->ids);
		block->findable = true;
		block->chained = *bucket;
		*bucket = table->blocks[i];
	}
}

void kv_table_release(struct kv_table *table, struct kv_pool *pool)
{
	while (table->count)
		let_go(pool, table->blocks[--table->count]);
}
