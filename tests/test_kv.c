/* The pool of KV-cache blocks, the tables of sequences, and the blocks that they share. */
#define TEST_SUITE "kv"
#include "tests/test.h"

#include "runtime/engine/kv.h"

enum { TABLES = 8, BLOCKS = 60, TABLE_BLOCKS = 12, TEXT = TABLE_BLOCKS * KV_BLOCK };

static void first_blocks(void)
{
	struct error err = {0};
	struct kv_pool pool;
	struct kv_table table;

	CHECK(kv_blocks_of(0) == 0 && kv_blocks_of(1) == 1 && kv_blocks_of(KV_BLOCK) == 1);
	CHECK(kv_blocks_of(INT32_MAX) == INT32_MAX / KV_BLOCK + 1);
	CHECK_OK(kv_pool_open(&pool, 5, &err), &err);
	CHECK_OK(kv_table_open(&table, 4, &err), &err);
	for (int round = 0; round < 2; round++) { /* the second finds the pool as it was */
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
	}
	kv_table_close(&table);
	kv_pool_close(&pool);
	kv_table_close(NULL);
	kv_pool_close(NULL);
	CHECK_FAILS(kv_pool_open(&pool, -1, &err), &err, "-1 blocks");
	CHECK_FAILS(kv_table_open(&table, -1, &err), &err, "-1 KV-cache blocks");
}

/* Takes `fresh` blocks besides what it finds, publishes all, and returns how many were found. */
static int32_t fill(struct kv_table *table, struct kv_pool *pool, const int32_t *ids,
		    int32_t blocks)
{
	kv_table_adopt(table, pool, ids, blocks);
	int32_t found = table->count;
	CHECK(kv_table_reserve(table, pool, blocks * KV_BLOCK) == 0);
	kv_table_publish(table, pool, ids, found, blocks);
	return found;
}

/* Which blocks go first: those without contents, then of what is findable the longest free, and of
 * one sequence its end. */
static void order_of_eviction(void)
{
	struct error err = {0};
	struct kv_pool pool;
	struct kv_table a, b, c;
	int32_t one[TEXT] = {1}, two[TEXT] = {2};

	CHECK_OK(kv_pool_open(&pool, 8, &err), &err);
	CHECK_OK(kv_table_open(&a, 8, &err), &err);
	CHECK_OK(kv_table_open(&b, 8, &err), &err);
	CHECK_OK(kv_table_open(&c, 8, &err), &err);
	CHECK(fill(&a, &pool, one, 3) == 0 && fill(&b, &pool, two, 3) == 0);
	kv_table_release(&a, &pool);
	kv_table_release(&b, &pool);
	CHECK(pool.free_count == 8);
	/* Two blocks without contents, and the last two of `one`. */
	CHECK(kv_table_reserve(&c, &pool, 4 * KV_BLOCK) == 0);
	kv_table_adopt(&a, &pool, one, 3);
	kv_table_adopt(&b, &pool, two, 3);
	CHECK(a.count == 1 && b.count == 3 && pool.free_count == 0);
	/* A block with two holders stays when one lets go. */
	kv_table_release(&c, &pool);
	kv_table_adopt(&c, &pool, two, 2);
	CHECK(c.count == 2 && c.blocks[0] == b.blocks[0] && c.blocks[1] == b.blocks[1]);
	CHECK(pool.blocks[c.blocks[0]].holders == 2 && pool.free_count == 4);
	kv_table_release(&b, &pool);
	CHECK(pool.blocks[c.blocks[0]].holders == 1 && pool.free_count == 5);
	/* The same contents made twice: what follows them is found all the same. */
	kv_table_release(&c, &pool);
	kv_table_release(&a, &pool);
	CHECK(fill(&a, &pool, two, 3) == 3);
	CHECK(kv_table_reserve(&b, &pool, 4 * KV_BLOCK) == 0);
	kv_table_publish(&b, &pool, two, 0, 4);
	kv_table_adopt(&c, &pool, two, 4);
	CHECK(c.count == 4 && c.blocks[2] == a.blocks[2] && c.blocks[3] == b.blocks[3]);
	kv_table_close(&a);
	kv_table_close(&b);
	kv_table_close(&c);
	kv_pool_close(&pool);
}

struct world {
	struct kv_pool pool;
	struct kv_table tables[TABLES];
	int32_t ids[TABLES][TEXT];   /* what each table's blocks hold */
	int32_t published[TABLES];   /* blocks */
	int32_t shadow[BLOCKS][TEXT]; /* what a block's user has read up to its end */
	int32_t ends[BLOCKS];	     /* how many ids that is */
};

/* Every block is held by exactly the tables that it is in, or is in the list of free blocks once;
 * the blocks that can be found come last in it; and a table's blocks hold its own ids. */
static void check_world(const struct world *world)
{
	const struct kv_pool *pool = &world->pool;
	int holders[BLOCKS] = {0}, listed[BLOCKS] = {0};
	int32_t count = 0, previous = -1;
	bool findable = false;

	for (int t = 0; t < TABLES; t++)
		for (int32_t i = 0; i < world->tables[t].count; i++)
			holders[world->tables[t].blocks[i]]++;
	for (int32_t b = pool->first_free; b >= 0; previous = b, b = pool->blocks[b].next, count++) {
		CHECK(listed[b]++ == 0 && pool->blocks[b].previous == previous);
		CHECK(pool->blocks[b].findable || !findable);
		findable = pool->blocks[b].findable;
	}
	CHECK(count == pool->free_count && pool->last_free == previous);
	for (int32_t b = 0; b < pool->count; b++)
		CHECK_MSG(pool->blocks[b].holders == holders[b] && listed[b] == !holders[b],
			  "block %d is in %d tables and has %d holders", b, holders[b],
			  pool->blocks[b].holders);
	for (int t = 0; t < TABLES; t++)
		for (int32_t i = 0; i < world->published[t]; i++) {
			int32_t b = world->tables[t].blocks[i];
			CHECK(world->ends[b] == (i + 1) * KV_BLOCK &&
			      !memcmp(world->shadow[b], world->ids[t],
				      (size_t)world->ends[b] * sizeof **world->shadow));
		}
}

/* A new text for an empty table: few different ids, so that many begin alike and go apart later. */
static void begin_text(struct world *world, int t)
{
	int32_t *ids = world->ids[t];

	memset(ids, 0, sizeof world->ids[t]);
	for (int32_t i = 0; i < TABLE_BLOCKS; i++)
		if (test_int(0, 2) == 0)
			ids[i * KV_BLOCK + test_int(0, KV_BLOCK - 1)] = (int32_t)test_int(1, 2);
	kv_table_adopt(&world->tables[t], &world->pool, ids, (int32_t)test_int(0, TABLE_BLOCKS));
	world->published[t] = world->tables[t].count;
}

/* Takes more blocks, exactly where there is room, and fills some of them. */
static void go_on(struct world *world, int t)
{
	struct kv_table *table = &world->tables[t];
	int32_t before = table->count, had = world->pool.free_count, blocks[TABLE_BLOCKS];
	int32_t needed = (int32_t)test_int(0, TABLE_BLOCKS + 2);
	int32_t more = needed > before ? needed - before : 0;
	bool fits = needed <= table->capacity && more <= had;

	memcpy(blocks, table->blocks, (size_t)before * sizeof *blocks);
	CHECK(kv_table_reserve(table, &world->pool, needed * KV_BLOCK) == !fits);
	CHECK(table->count == before + (fits ? more : 0));
	CHECK(world->pool.free_count == had - (fits ? more : 0));
	CHECK(!memcmp(blocks, table->blocks, (size_t)before * sizeof *blocks));
	int32_t first = world->published[t], end = (int32_t)test_int(first, table->count);
	kv_table_publish(table, &world->pool, world->ids[t], first, end);
	for (int32_t i = first; i < end; i++) {
		int32_t b = table->blocks[i];
		world->ends[b] = (i + 1) * KV_BLOCK;
		memcpy(world->shadow[b], world->ids[t],
		       (size_t)world->ends[b] * sizeof **world->shadow);
	}
	world->published[t] = end;
}

static void random_use(void)
{
	struct error err = {0};
	static struct world world;
	int64_t adopted = 0;

	for (int w = 0; w < 20; w++) {
		memset(&world, 0, sizeof world);
		CHECK_OK(kv_pool_open(&world.pool, (int32_t)test_int(1, BLOCKS), &err), &err);
		for (int t = 0; t < TABLES; t++)
			CHECK_OK(kv_table_open(&world.tables[t], (int32_t)test_int(0, TABLE_BLOCKS),
					       &err), &err);
		for (int round = 0; round < 2000; round++) {
			int t = (int)test_int(0, TABLES - 1);
			if (test_int(0, 3) == 0) {
				kv_table_release(&world.tables[t], &world.pool);
				CHECK(world.tables[t].count == 0);
				world.published[t] = 0;
			}
			if (!world.tables[t].count) {
				begin_text(&world, t);
				adopted += world.tables[t].count;
			}
			go_on(&world, t);
			check_world(&world);
		}
		for (int t = 0; t < TABLES; t++)
			kv_table_close(&world.tables[t]);
		kv_pool_close(&world.pool);
	}
	CHECK(adopted > 0);
}

int main(void)
{
	RUN(first_blocks);
	RUN(order_of_eviction);
	RUN(random_use);
	TEST_END();
}
