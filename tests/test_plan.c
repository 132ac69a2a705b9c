/* plan: bytes against sums over the shards, and the largest context against its definition. */
#define TEST_SUITE "plan"
#include "tests/test.h"

#include "runtime/base/file.h"
#include "runtime/model/plan.h"

static struct model_config config;
static struct error err;

static void read_shape(const char *name)
{
	char path[128], *text;
	size_t length;
	snprintf(path, sizeof path, "configs/shapes/%s.json", name);
	CHECK_OK(file_read(path, 1 << 20, &text, &length, &err), &err);
	CHECK_OK(config_parse(&config, text, length, path, &err), &err);
	free(text);
}

/* Bytes of a rank's weights and of its cache for `context` positions, summed tensor by tensor. */
static void sum_shard(const struct plan_options *plan, int32_t rank, double *weights, double *cache)
{
	struct shard *shard = malloc(sizeof *shard);
	CHECK_OK(shard_make(shard, &config, plan->ranks, rank, &err), &err);
	*weights = 0;
	for (int kind = 0; kind < TENSOR_KINDS; kind++) {
		struct tensor_extent e = shard_extent(shard, &config, (enum backend_tensor)kind);
		bool vector = e.total_rows <= 1;
		double bytes = (double)e.rows * e.columns * (vector ? 4 : (double)dtype_bytes(plan->dtype));
		*weights += bytes * (kind <= TENSOR_FINAL_NORM ? 1 : config.layers);
	}
	*cache = 2.0 * config.layers * shard->kv_heads.count * config.head_dim *
		 (double)dtype_bytes(plan->dtype) * ((plan->context + KV_BLOCK - 1) / KV_BLOCK * KV_BLOCK);
	free(shard);
}

static void bytes_of_published_models(void)
{
	static const char *const names[] = {"llama-2-7b", "llama-3-70b", "qwen2.5-7b", "qwen3-8b",
					    "mistral-7b", "smollm2-135m"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		read_shape(names[i]);
		for (int n = 0; n < 20; n++) {
			int32_t most = config.heads < 16 ? config.heads : 16;
			struct plan_options plan = {
				.cuda = n % 2, .dtype = (enum dtype)test_int(DTYPE_F32, DTYPE_BF16),
				.ranks = (int32_t)test_int(1, most),
				.context = (int32_t)test_int(1, config.max_positions),
			};
			int32_t rank = (int32_t)test_int(0, plan.ranks - 1);
			struct backend_memory memory;
			double weights, cache;
			CHECK_OK(plan_rank(&config, &plan, rank, &memory, &err), &err);
			sum_shard(&plan, rank, &weights, &cache);
			/* A backend may pad rows to its unit (64 elements on CUDA: most on narrow shards),
			 * and may not hold less. */
			CHECK_MSG((double)memory.weights >= weights &&
					  (double)memory.weights < weights * 1.08 + (1 << 20),
				  "%s, cuda %d: %.0f bytes of weights, not %.0f", names[i], plan.cuda,
				  (double)memory.weights, weights);
			CHECK_MSG((double)memory.kv_cache >= cache &&
					  (double)memory.kv_cache < cache * 1.01 + (1 << 20),
				  "%s, cuda %d: %.0f bytes of cache, not %.0f", names[i], plan.cuda,
				  (double)memory.kv_cache, cache);
			CHECK(memory.workspace > 0);
			CHECK(plan_total(&memory) == memory.weights + memory.kv_cache +
							     memory.workspace + memory.overhead);
		}
	}
}

/* Whether every rank of the plan fits in `memory` bytes with that context. */
static bool fits(struct plan_options plan, int32_t context, uint64_t memory)
{
	bool all = true;
	plan.context = context;
	for (int32_t rank = 0; rank < plan.ranks; rank++) {
		struct backend_memory needs;
		CHECK_OK(plan_rank(&config, &plan, rank, &needs, &err), &err);
		all = all && plan_total(&needs) <= memory;
	}
	return all;
}

static void largest_context(void)
{
	static const char *const names[] = {"llama-3-8b", "qwen2.5-7b", "tinyllama-1.1b"};
	for (int n = 0; n < 60; n++) {
		read_shape(names[n % 3]);
		struct plan_options plan = {
			.cuda = test_int(0, 1), .dtype = DTYPE_BF16, .ranks = (int32_t)test_int(1, 8),
			.max_tokens = test_int(0, 1) ? (int32_t)test_int(1, 4096) : 0,
			.max_sequences = (int32_t)test_int(0, 3),
			.max_logit_rows = (int32_t)test_int(0, 3),
		};
		uint64_t memory = (uint64_t)test_int(1, 24) << 30;
		int32_t context = plan_largest_context(&config, &plan, memory);
		CHECK(context % KV_BLOCK == 0 && context >= 0 && context <= config.max_positions);
		CHECK(context == 0 || fits(plan, context, memory));
		CHECK(context + KV_BLOCK > config.max_positions || !fits(plan, context + KV_BLOCK, memory));
	}
	read_shape("llama-3-8b");
	struct plan_options plan = {.dtype = DTYPE_BF16, .ranks = 1};
	CHECK(plan_largest_context(&config, &plan, 1 << 20) == 0);
	CHECK(plan_largest_context(&config, &plan, (uint64_t)1 << 40) == config.max_positions);
}

/* Whether every rank of the plan fits in `memory` bytes with a cache of that many blocks. */
static bool blocks_fit(struct plan_options plan, int32_t blocks, uint64_t memory)
{
	plan.kv_tokens = blocks * KV_BLOCK;
	return fits(plan, plan.context, memory);
}

/* The first number of ranks of which all fit. */
static void least_ranks(void)
{
	static const char *const names[] = {"llama-3-8b", "qwen2.5-7b", "tinyllama-1.1b"};
	for (int n = 0; n < 30; n++) {
		read_shape(names[n % 3]);
		struct plan_options plan = {
			.cuda = test_int(0, 1), .dtype = (enum dtype)test_int(DTYPE_F32, DTYPE_BF16),
			.ranks = (int32_t)test_int(1, 6), .context = (int32_t)test_int(1, 2048),
		};
		uint64_t memory = (uint64_t)test_int(1, 24) << 30;
		int32_t expected = plan.ranks, is = plan_least_ranks(&config, &plan, memory);
		for (struct plan_options more = plan;; more.ranks = ++expected)
			if (expected > config.heads || fits(more, plan.context, memory))
				break;
		CHECK_MSG(is == (expected > config.heads ? 0 : expected), "%d ranks, not %d", is, expected);
	}
}

static void kv_blocks(void)
{
	static const char *const names[] = {"llama-3-8b", "qwen2.5-7b", "tinyllama-1.1b"};
	int some = 0;
	for (int n = 0; n < 60; n++) {
		read_shape(names[n % 3]);
		struct plan_options plan = {
			.cuda = test_int(0, 1), .dtype = DTYPE_BF16, .ranks = (int32_t)test_int(1, 8),
			.context = (int32_t)test_int(1, config.max_positions),
			.kv_tokens = (int32_t)test_int(0, 1000), /* means nothing */
			.max_tokens = 512, .max_sequences = (int32_t)test_int(1, 256),
			.max_logit_rows = 16,
		};
		uint64_t memory = (uint64_t)test_int(1, 24) << 30;
		int32_t most = (int32_t)test_int(1, test_int(0, 1) ? 1000 : 100000);
		int32_t blocks = plan_kv_blocks(&config, &plan, memory, most);
		CHECK(blocks >= 0 && blocks <= most);
		CHECK(blocks == 0 || blocks_fit(plan, blocks, memory));
		CHECK(blocks == most || !blocks_fit(plan, blocks + 1, memory));
		some += blocks > 0 && blocks < most;
	}
	CHECK(some > 0);
	struct plan_options plan = {.dtype = DTYPE_BF16, .ranks = 1, .context = 16};
	CHECK(plan_kv_blocks(&config, &plan, UINT64_MAX, INT32_MAX) == INT32_MAX / KV_BLOCK);
	CHECK(plan_kv_blocks(&config, &plan, 1 << 20, INT32_MAX) == 0);
}

static void too_many_ranks(void)
{
	read_shape("smollm2-135m");
	struct plan_options plan = {.dtype = DTYPE_BF16, .ranks = 10, .context = 16};
	struct backend_memory memory;
	CHECK_FAILS(plan_rank(&config, &plan, 0, &memory, &err), &err, "at most 9");
	CHECK(err.kind == ERROR_USAGE);
	CHECK(plan_largest_context(&config, &plan, (uint64_t)1 << 40) == 0);
}

/* A cache of its own size, and a step's limits, count. */
static void options_count(void)
{
	read_shape("tinyllama-1.1b");
	for (int cuda = 0; cuda < 2; cuda++) {
		struct plan_options plan = {.cuda = cuda, .dtype = DTYPE_F16, .ranks = 2,
					    .context = 1024};
		struct backend_memory small, large;
		CHECK_OK(plan_rank(&config, &plan, 1, &small, &err), &err);
		plan.kv_tokens = 4096;
		CHECK_OK(plan_rank(&config, &plan, 1, &large, &err), &err);
		CHECK(large.kv_cache == 4 * small.kv_cache && large.weights == small.weights);
		plan.max_tokens = 4096;
		plan.max_logit_rows = 64;
		CHECK_OK(plan_rank(&config, &plan, 1, &small, &err), &err);
		CHECK(small.workspace > large.workspace);
	}
	CHECK(plan_max_tokens(true, 100) == 100 && plan_max_tokens(true, 100000) == PLAN_MAX_TOKENS_CUDA);
	CHECK(plan_max_tokens(false, 100000) == PLAN_MAX_TOKENS_CPU);
}

int main(void)
{
	RUN(bytes_of_published_models);
	RUN(largest_context);
	RUN(least_ranks);
	RUN(kv_blocks);
	RUN(too_many_ranks);
	RUN(options_count);
	TEST_END();
}
