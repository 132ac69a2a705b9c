#include "launcher/memory_check.h"

#include <stdio.h>

#include "launcher/output.h"

/* "--context 1024, 4 ranks with as much each, or a smaller --dtype would" into cure[size]. */
static void find_cure(const struct memory_check *check, uint64_t memory, char *cure, size_t size)
{
	const struct plan_options *plan = check->leaner;
	int32_t context = plan_largest_context(check->config, plan, memory);
	int32_t ranks = plan_least_ranks(check->config, plan, memory);
	bool narrower = plan->dtype == DTYPE_F32;
	char first[64] = "", second[64] = "";
	if (check->instead)
		snprintf(first, sizeof first, "%s", check->instead);
	else if (context && context < plan->context)
		snprintf(first, sizeof first, "--context %d", context);
	if (ranks > plan->ranks)
		snprintf(second, sizeof second, "%d ranks with as much each", ranks);
	const char *choices[3] = {first, second, narrower ? "a smaller --dtype" : ""};
	int count = 0;
	for (int i = 0; i < 3; i++)
		if (*choices[i])
			choices[count++] = choices[i];
	if (!count)
		snprintf(cure, size, "no --context and no number of ranks would");
	else
		snprintf(cure, size, "%s%s%s%s%s would", choices[0], count == 3 ? ", " : count == 2 ? " or " : "",
			 count > 1 ? choices[1] : "", count == 3 ? " or " : "", count == 3 ? choices[2] : "");
}

int memory_check(const struct memory_check *check, int32_t rank, uint64_t memory, struct error *err)
{
	const struct plan_options *plan = check->plan;
	struct backend_memory need;
	char text[5][32], cure[192];
	if (plan_rank(check->config, plan, rank, &need, err))
		return -1;
	if (!memory || plan_total(&need) <= memory)
		return 0;
	find_cure(check, memory, cure, sizeof cure);
	return error_usage(err, "the model does not fit: a rank needs %s (weights %s, KV cache of %d "
				"positions %s, workspace and libraries %s) and has %s; %s",
			   output_bytes(text[0], plan_total(&need)), output_bytes(text[1], need.weights),
			   plan->kv_tokens ? plan->kv_tokens : plan->context,
			   output_bytes(text[2], need.kv_cache),
			   output_bytes(text[3], need.workspace + need.overhead),
			   output_bytes(text[4], memory), cure);
}
