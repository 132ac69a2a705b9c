#include "launcher/session_sizes.h"

#include "launcher/memory_check.h"
#include "launcher/mpi_group.h"
#include "runtime/engine/kv.h"
#include "runtime/model/plan.h"

enum { FILL_SEQUENCES_CUDA = 256, FILL_SEQUENCES_CPU = 16 };

/* The session's sizes as a plan; a cache of one context, unless kv_tokens is set. */
static struct plan_options plan_of(const struct session *session, const struct session_sizes *sizes)
{
	return (struct plan_options){
		.cuda = session->device.cuda, .dtype = session->dtype,
		.ranks = session->group->size, .context = sizes->context,
		.max_tokens = sizes->max_tokens, .max_sequences = sizes->max_sequences,
		.max_logit_rows = sizes->max_logit_rows,
	};
}

/* The memory that a cache which takes what is left may fill, weights and all included. On CUDA all
 * that is free but 4%, beside what the plan has for libraries. On the CPU half of what the rest
 * leaves: other programs live there too, and the checkpoint's pages. */
static uint64_t memory_to_fill(const struct session *session, struct plan_options plan)
{
	uint64_t memory = session->device.memory, rest;
	struct backend_memory least;
	struct error ignored;
	if (session->device.cuda)
		return memory - memory / 25;
	plan.kv_tokens = KV_BLOCK;
	if (plan_rank(&session->config, &plan, session->group->rank, &least, &ignored))
		return memory;
	rest = plan_total(&least);
	return memory > rest ? rest + (memory - rest) / 2 : memory;
}

/* What a step holds, before memory is looked at. */
static void choose_step(const struct session *session, struct session_sizes *sizes)
{
	bool cuda = session->device.cuda;
	if (!sizes->max_sequences && sizes->fill) {
		sizes->max_sequences = cuda ? FILL_SEQUENCES_CUDA : FILL_SEQUENCES_CPU;
		if (sizes->max_tokens && sizes->max_tokens < sizes->max_sequences)
			sizes->max_sequences = sizes->max_tokens;
	}
	if (!sizes->max_sequences)
		sizes->max_sequences = 1;
	if (!sizes->max_tokens) {
		int64_t most = (int64_t)sizes->context * sizes->max_sequences;
		sizes->max_tokens = plan_max_tokens(cuda, most < INT32_MAX ? (int32_t)most : INT32_MAX);
		if (sizes->max_tokens < sizes->max_sequences)
			sizes->max_tokens = sizes->max_sequences;
	}
	if (!sizes->max_logit_rows)
		sizes->max_logit_rows = sizes->max_sequences;
	if (sizes->max_logit_rows > sizes->max_tokens)
		sizes->max_logit_rows = sizes->max_tokens;
}

/* The context and the blocks of the cache: as asked, or with `fill` what the memory of all ranks
 * allows. A context that does not fit is left to check_memory. */
static int choose_cache(const struct session *session, struct session_sizes *sizes,
			int32_t *kv_blocks, struct error *err)
{
	struct plan_options plan = plan_of(session, sizes);
	uint64_t memory = session->device.memory;
	int32_t wanted = sizes->context, one = kv_blocks_of(wanted);
	*kv_blocks = sizes->kv_blocks ? sizes->kv_blocks : one;
	if (!sizes->fill)
		return 0;
	if (memory)
		memory = memory_to_fill(session, plan);
	if (memory && !session->options->given[OPTION_CONTEXT] &&
	    plan_kv_blocks(&session->config, &plan, memory, one) < one) {
		int32_t largest = plan_largest_context(&session->config, &plan, memory);
		if (largest && largest < wanted)
			sizes->context = largest;
	}
	if (mpi_group_least(session->world, sizes->context, &sizes->context, err))
		return -1;
	plan.context = sizes->context;
	one = kv_blocks_of(sizes->context);
	int64_t all = (int64_t)one * sizes->max_sequences;
	int32_t most = all < INT32_MAX / KV_BLOCK ? (int32_t)all : INT32_MAX / KV_BLOCK;
	int32_t fitting = memory ? plan_kv_blocks(&session->config, &plan, memory, most) : one;
	if (mpi_group_least(session->world, fitting > one ? fitting : one, kv_blocks, err))
		return -1;
	if (sizes->context < wanted && session_speaks(session))
		log_say(&session->log, LOG_INFO, "tprun: a sequence has %d positions, of the %d that the "
			"model reaches: no more fit into memory", sizes->context, wanted);
	return 0;
}

int session_choose_sizes(const struct session *session, struct session_sizes *sizes, int32_t *kv_blocks,
			 struct error *err)
{
	choose_step(session, sizes);
	return choose_cache(session, sizes, kv_blocks, err);
}

int session_check_memory(const struct session *session, const struct session_sizes *sizes,
			 int32_t kv_blocks, struct error *err)
{
	struct plan_options plan = plan_of(session, sizes), leaner = plan;
	const struct memory_check check = {
		.config = &session->config, .plan = &plan, .leaner = &leaner,
		.instead = sizes->kv_blocks ? "smaller --tests" : NULL,
	};
	if ((sizes->fill || sizes->kv_blocks) && kv_blocks <= INT32_MAX / KV_BLOCK)
		plan.kv_tokens = kv_blocks * KV_BLOCK;
	if (!sizes->fill)
		leaner.max_tokens = 0;
	return memory_check(&check, session->group->rank, session->device.memory, err);
}
