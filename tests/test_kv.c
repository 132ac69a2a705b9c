/* The pool of KV-cache blocks and the tables of sequences. */
#define TEST_SUITE "kv"
#include "tests/test.h"

#include "runtime/engine/kv.h"

enum { TABLES = 6 };

static void first_blocks(void)
{
	struct error err = {0};
	struct kv_pool pool;
	struct kv_table table;

	CHECK_OK(kv_pool_open(&pool, 5, &err), &err);
	CHECK_OK(kv_table_open(&table, 4, &err), &err);
	CHECK(kv_table_reserve(&table, &pool, 0) == 0 && table.count == 0);
	CHECK(kv_table_reserve(&table, &pool, 1) == 0 && table.count == 1);
	CHECK(kv_table_reserve(&table, &pool, KV_BLOCK) == 0 && table.count == 1);
	CHECK(kv_table_reserve(&table, &pool, KV_BLOCK + 1) == 0 && table.count == 2);
	CHECK(table.blocks[0] == 0 && table.blocks[1] == 1 && pool.free_count == 3);
	CHECK(kv_table_reserve(&table, &pool, 3) == 0 && table.count == 2);
	/* Too little room in the table, though the pool has the blocks: nothing is taken. */
	CHECK(kv_table_reserve(&table, &pool, 4 * KV_BLOCK + 1) == 1);
	CHECK(kv_table_reserve(&table, &pool, INT32_MAX) == 1);
	CHECK(table.count == 2 && pool.free_count == 3);
	kv_table_release(&table, &pool);
	CHECK(table.count == 0 && pool.free_count == 5);
	for (int32_t i = 0; i < 5; i++)
		CHECK(pool.free[i] == 4 - i);
	kv_table_close(&table);
	kv_pool_close(&pool);
	kv_table_close(NULL);
	kv_pool_close(NULL);
	CHECK_FAILS(kv_pool_open(&pool, -1, &err), &err, "-1 blocks");
	CHECK_FAILS(kv_table_open(&table, -1, &err), &err, "-1 KV-cache blocks");
}

/* Random reservations and releases: no block is ever in two places or lost, a table's earlier
 * blocks never change, and a refusal is given exactly where the room is too little. */
static void random_use(void)
{
	struct error err = {0};
	int32_t count = (int32_t)test_int(1, 60), refused = 0;
	struct kv_pool pool;
	struct kv_table tables[TABLES];

	CHECK_OK(kv_pool_open(&pool, count, &err), &err);
	for (int i = 0; i < TABLES; i++)
		CHECK_OK(kv_table_open(&tables[i], (int32_t)test_int(0, 30), &err), &err);
	for (int round = 0; round < 5000; round++) {
		struct kv_table *table = &tables[test_int(0, TABLES - 1)];
		struct kv_table before = *table;
		int32_t blocks[30], free_before = pool.free_count;
		memcpy(blocks, table->blocks, (size_t)table->count * sizeof *blocks);
		if (test_int(0, 3) == 0) {
			kv_table_release(table, &pool);
			CHECK(table->count == 0 && pool.free_count == free_before + before.count);
		} else {
			int32_t tokens = (int32_t)test_int(0, 35 * KV_BLOCK);
			int32_t needed = (tokens + KV_BLOCK - 1) / KV_BLOCK;
			int32_t more = needed > before.count ? needed - before.count : 0;
			bool fits = needed <= table->capacity && more <= free_before;
			int result = kv_table_reserve(table, &pool, tokens);
			CHECK(result == !fits);
			CHECK(table->count == before.count + (fits ? more : 0));
			CHECK(pool.free_count == free_before - (fits ? more : 0));
			CHECK(!memcmp(blocks, table->blocks, (size_t)before.count * sizeof *blocks));
			refused += result;
		}
		int seen[60] = {0};
		for (int32_t i = 0; i < pool.free_count; i++)
			seen[pool.free[i]]++;
		for (int t = 0; t < TABLES; t++)
			for (int32_t i = 0; i < tables[t].count; i++)
				seen[tables[t].blocks[i]]++;
		for (int32_t i = 0; i < count; i++)
			CHECK_MSG(seen[i] == 1, "block %d is in %d places", i, seen[i]);
	}
	CHECK(refused > 0);
	for (int i = 0; i < TABLES; i++)
		kv_table_close(&tables[i]);
	kv_pool_close(&pool);
}

int main(void)
{
	RUN(first_blocks);
	RUN(random_use);
	TEST_END();
}
