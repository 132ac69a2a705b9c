/*
 * cpu_backend.h - what tests of the CPU backend share: a rank alone, options for a batch of the reference, and
 * a whole step.
 */
#ifndef TPRUN_TESTS_CPU_BACKEND_H
#define TPRUN_TESTS_CPU_BACKEND_H

#include "runtime/engine/forward.h"
#include "tests/reference_model.h"

static inline int lone_sum(const struct group *group, float *data, size_t count, struct error *err)
{
	(void)group, (void)data, (void)count, (void)err;
	return 0;
}

static const struct group lone = {.size = 1, .sum = lone_sum};

static inline struct backend_options make_options(const struct backend_shape *shape,
						  const struct reference_batch *batch,
						  const struct group *group, int threads)
{
	return (struct backend_options){
		.shape = *shape, .group = group, .kv_blocks = batch->kv_blocks,
		.max_tokens = batch->sequences * batch->capacity, .max_sequences = batch->sequences,
		.max_blocks = batch->max_blocks + 2,
		.max_logit_rows = batch->sequences * batch->capacity, .threads = threads,
	};
}

/* A step and, where they are wanted, its logits. */
static inline int run_step(struct backend *b, int32_t layers, const struct step *step, float *logits,
			   struct error *err)
{
	if (forward(b, layers, step, NULL, err))
		return -1;
	return logits ? b->ops->peek(b, BUFFER_LOGITS, logits, err) : 0;
}

#endif
