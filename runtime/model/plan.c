#include "runtime/model/plan.h"

#include <stdlib.h>

static int32_t blocks_of(int32_t tokens)
{
	return (int32_t)(((int64_t)tokens + KV_BLOCK - 1) / KV_BLOCK);
}

static int32_t or_else(int32_t value, int32_t otherwise)
{
	return value ? value : otherwise;
}

int32_t plan_max_tokens(bool cuda, int32_t context)
{
	int32_t most = cuda ? PLAN_MAX_TOKENS_CUDA : PLAN_MAX_TOKENS_CPU;
	return context < most ? context : most;
}

int plan_rank(const struct model_config *config, const struct plan_options *plan, int32_t rank,
	      struct backend_memory *out, struct error *err)
{
	struct shard *shard = malloc(sizeof *shard);
	if (!shard)
		return error_memory(err, "a rank's plan");
	int result = shard_make(shard, config, plan->ranks, rank, err);
	if (!result) {
		struct group group = {.rank = rank, .size = plan->ranks, .local_size = plan->ranks};
		struct backend_options options = {
			.shape = shard_backend_shape(shard, config, plan->dtype, NULL, 1),
			.group = &group,
			.kv_blocks = blocks_of(or_else(plan->kv_tokens, plan->context)),
			.max_tokens = or_else(plan->max_tokens,
					      plan_max_tokens(plan->cuda, plan->context)),
			.max_sequences = or_else(plan->max_sequences, 1),
			.max_blocks = blocks_of(plan->context),
			.max_logit_rows = or_else(plan->max_logit_rows, 1),
			.threads = 1,
		};
		(plan->cuda ? cuda_backend_memory : cpu_backend_memory)(&options, out);
	}
	free(shard);
	return result;
}

uint64_t plan_total(const struct backend_memory *memory)
{
	return memory->weights + memory->kv_cache + memory->workspace + memory->overhead;
}

static bool fits(const struct model_config *config, const struct plan_options *plan, uint64_t bytes)
{
	struct error ignored;
	for (int32_t rank = 0; rank < plan->ranks; rank++) {
		struct backend_memory memory;
		if (plan_rank(config, plan, rank, &memory, &ignored) || plan_total(&memory) > bytes)
			return false;
	}
	return true;
}

/* The most blocks in *tokens, a field of *plan, with which it fits; at most `most`. */
static int32_t most_fitting(const struct model_config *config, struct plan_options *plan,
			    int32_t *tokens, int32_t most, uint64_t memory)
{
	/* Invariant: `fitting` blocks fit, `unfit` blocks do not or are too many. */
	int32_t fitting = 0, unfit = (most < INT32_MAX / KV_BLOCK ? most : INT32_MAX / KV_BLOCK) + 1;
	while (unfit - fitting > 1) {
		int32_t middle = fitting + (unfit - fitting) / 2;
		*tokens = middle * KV_BLOCK;
		if (fits(config, plan, memory))
			fitting = middle;
		else
			unfit = middle;
	}
	return fitting;
}

int32_t plan_largest_context(const struct model_config *config, const struct plan_options *options,
			     uint64_t memory)
{
	struct plan_options plan = *options;
	return KV_BLOCK * most_fitting(config, &plan, &plan.context, config->max_positions / KV_BLOCK,
				       memory);
}

int32_t plan_least_ranks(const struct model_config *config, const struct plan_options *options,
			 uint64_t memory)
{
	struct plan_options plan = *options;
	for (; plan.ranks <= config->heads; plan.ranks++)
		if (fits(config, &plan, memory))
			return plan.ranks;
	return 0;
}

int32_t plan_kv_blocks(const struct model_config *config, const struct plan_options *options,
		       uint64_t memory, int32_t most)
{
	struct plan_options plan = *options;
	return most_fitting(config, &plan, &plan.kv_tokens, most, memory);
}
