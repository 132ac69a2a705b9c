#include "runtime/engine/kv.h"

#include <stdlib.h>

int kv_pool_open(struct kv_pool *pool, int32_t count, struct error *err)
{
	*pool = (struct kv_pool){.count = count, .free_count = count};
	if (count < 0)
		return error_run(err, "a KV cache of %d blocks cannot be", count);
	pool->free = malloc(((size_t)count + 1) * sizeof *pool->free);
	if (!pool->free)
		return error_memory(err, "the list of free KV-cache blocks");
	for (int32_t i = 0; i < count; i++)
		pool->free[i] = count - 1 - i;
	return 0;
}

void kv_pool_close(struct kv_pool *pool)
{
	if (!pool)
		return;
	free(pool->free);
	*pool = (struct kv_pool){0};
}

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

int kv_table_reserve(struct kv_table *table, struct kv_pool *pool, int32_t tokens)
{
	int32_t needed = tokens / KV_BLOCK + (tokens % KV_BLOCK != 0);

	if (needed > table->capacity || needed - table->count > pool->free_count)
		return 1;
	while (table->count < needed)
		table->blocks[table->count++] = pool->free[--pool->free_count];
	return 0;
}

void kv_table_release(struct kv_table *table, struct kv_pool *pool)
{
	/* Last in, first out, so that the pool is as it was. */
	while (table->count)
		pool->free[pool->free_count++] = table->blocks[--table->count];
}
