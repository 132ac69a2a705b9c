/*
 * memory_check.h - refusing a model that does not fit, before a byte of it is read, with the numbers
 * and with what would fit.
 */
#ifndef TPRUN_LAUNCHER_MEMORY_CHECK_H
#define TPRUN_LAUNCHER_MEMORY_CHECK_H

#include "runtime/model/plan.h"

struct memory_check {
	const struct model_config *config;
	const struct plan_options *plan;
	/* The same with what a smaller --context would shrink left to be chosen. */
	const struct plan_options *leaner;
	const char *instead; /* of a smaller --context, where that would not help; or NULL */
};

/* An ERROR_USAGE where the plan's rank `rank` needs more than `memory` bytes; 0: unknown, which fits. */
int memory_check(const struct memory_check *, int32_t rank, uint64_t memory, struct error *err);

#endif
