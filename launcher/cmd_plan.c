#include "launcher/commands.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/devices.h"
#include "launcher/memory_check.h"
#include "launcher/launch.h"
#include "launcher/output.h"
#include "launcher/session.h"
#include "runtime/model/plan.h"

enum { DEVICES_MAX = 64 };

struct planned_rank {
	struct shard shard;
	struct backend_memory memory;
};

/* Everything that is printed. */
struct report {
	struct model_config config;
	struct plan_options plan;
	struct planned_rank *ranks;   /* [plan.ranks] */
	struct placement_row *places; /* [plan.ranks]; NULL for a machine that isn't here */
	uint64_t memory;	      /* of a rank; 0: unknown */
	int32_t largest_context;
};

/* ---- what is planned --------------------------------------------------------------------- */

/* How many ranks, on which backend, with how much memory each: as asked, else as this machine
 * would run them. --memory speaks of a GPU, unless the backend is named. */
static int choose_machine(const struct options *options, struct report *report,
			  struct placement_device *places, struct error *err)
{
	struct device_choice devices[DEVICES_MAX];
	int count = 0, hint = launch_hint().size;
	if (options->backend != BACKEND_CPU && devices_list(devices, DEVICES_MAX, &count, err))
		return -1;
	report->plan.cuda = options->backend == BACKEND_CUDA ||
			    (options->backend == BACKEND_AUTO &&
			     (count || options->given[OPTION_MEMORY]));
	int here = count < report->config.heads ? count : report->config.heads;
	report->plan.ranks = options->given[OPTION_RANKS] ? options->ranks
			     : hint			    ? hint
			     : report->plan.cuda && count   ? here
							    : 1;
	if (options->given[OPTION_MEMORY])
		report->memory = options->memory;
	else if (!report->plan.cuda)
		report->memory = devices_host_memory() / (uint64_t)report->plan.ranks;
	for (int i = 0; i < count && report->plan.cuda && !options->given[OPTION_MEMORY]; i++)
		if (!report->memory || devices[i].memory < report->memory)
			report->memory = devices[i].memory;
	if (options->given[OPTION_RANKS] || report->plan.ranks > DEVICES_MAX ||
	    (report->plan.cuda && report->plan.ranks > count))
		return 0;
	for (int i = 0; i < report->plan.ranks && report->plan.cuda; i++)
		places[i] = devices[i].placement;
	return placement_preview(places, report->plan.ranks, &report->places, err);
}

/* Without --context: the largest that fits. */
static int choose_context(const struct options *options, struct report *report, struct error *err)
{
	const struct model_config *config = &report->config;
	report->largest_context = report->memory ? plan_largest_context(config, &report->plan,
									report->memory)
						 : config->max_positions;
	report->plan.context = options->given[OPTION_CONTEXT] ? options->context
			       : report->largest_context      ? report->largest_context
							      : KV_BLOCK;
	if (report->plan.context > config->max_positions && options->given[OPTION_CONTEXT])
		return error_usage(err, "--context %d: this model reaches %d positions",
				   options->context, config->max_positions);
	return 0;
}

static int make_report(const struct options *options, struct report *report, struct error *err)
{
	struct placement_device places[DEVICES_MAX] = {0};
	struct checkpoint *checkpoint = NULL;
	char *folder;
	int result = -1;
	if (session_read_config(options, &report->config, &folder, err) ||
	    session_read_headers(options, folder, &report->config, &checkpoint, &report->plan.dtype,
				 err) ||
	    choose_machine(options, report, places, err))
		goto fail;
	report->ranks = calloc((size_t)report->plan.ranks, sizeof *report->ranks);
	if (!report->ranks) {
		error_memory(err, "the plan");
		goto fail;
	}
	/* The first rank's shard tells whether there are too many. */
	if (shard_make(&report->ranks[0].shard, &report->config, report->plan.ranks, 0, err) ||
	    choose_context(options, report, err))
		goto fail;
	for (int32_t r = 0; r < report->plan.ranks; r++)
		if (shard_make(&report->ranks[r].shard, &report->config, report->plan.ranks, r, err) ||
		    plan_rank(&report->config, &report->plan, r, &report->ranks[r].memory, err))
			goto fail;
	result = 0;
fail:
	checkpoint_close(checkpoint);
	free(folder);
	return result;
}

/* ---- what is printed --------------------------------------------------------------------- */

/* "0-15", or "-" where the part is empty. */
static const char *range(char text[32], struct shard_range part)
{
	if (!part.count)
		return "-";
	snprintf(text, 32, "%d-%d", part.first, part.first + part.count - 1);
	return text;
}

static int print_table(const struct report *report, struct error *err)
{
	char a[32], b[32], c[32], d[32];
	const struct plan_options *plan = &report->plan;
	double parameters = (double)config_parameters(&report->config);
	bool many = parameters >= 1e9;
	if (output_print(err, "%s, %.2f %s parameters, %s, context %d; %d rank%s, %s\n\n"
			      "rank  heads      KV heads   MLP columns   vocabulary         weights    "
			      "KV cache   workspace    overhead       total\n",
			 config_family_name(report->config.family),
			 parameters / (many ? 1e9 : 1e6), many ? "billion" : "million",
			 dtype_name(plan->dtype),
			 plan->context, plan->ranks, plan->ranks == 1 ? "" : "s",
			 plan->cuda ? "cuda" : "cpu"))
		return -1;
	for (int32_t r = 0; r < plan->ranks; r++) {
		const struct shard *shard = &report->ranks[r].shard;
		const struct backend_memory *memory = &report->ranks[r].memory;
		const uint64_t bytes[] = {memory->weights, memory->kv_cache, memory->workspace,
					  memory->overhead, plan_total(memory)};
		if (output_print(err, "%4d  %-9s  %-9s  %-12s  %-14s", r, range(a, shard->heads),
				 range(b, shard->kv_heads), range(c, shard->intermediate),
				 range(d, shard->vocab)))
			return -1;
		for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++)
			if (output_print(err, "%12s", output_bytes(a, bytes[i])))
				return -1;
		if (output_print(err, "\n"))
			return -1;
	}
	if (plan->cuda && plan->dtype == DTYPE_BF16)
		return output_print(err, "\nwhere there is room, weights are kept once more, packed: up to three quarters of "
					 "theirs besides\n");
	return 0;
}

static int print_fit(const struct report *report, struct error *err)
{
	char text[32];
	if (!report->memory)
		return output_print(err, "\nlargest context of the model: %d; give --memory SIZE to "
					 "see what fits\n", report->config.max_positions);
	output_bytes(text, report->memory);
	if (!report->largest_context)
		return output_print(err, "\ndoes not fit into %s a rank, whatever the context\n", text);
	return output_print(err, "\nlargest context in %s a rank: %d%s\n", text,
			    report->largest_context,
			    report->largest_context + KV_BLOCK > report->config.max_positions
				    ? " (all that the model reaches)" : "");
}

static json_t *range_json(struct shard_range part)
{
	return json_pack("{s:i, s:i}", "first", part.first, "count", part.count);
}

static json_t *rank_json(const struct report *report, int32_t rank)
{
	const struct shard *shard = &report->ranks[rank].shard;
	const struct backend_memory *memory = &report->ranks[rank].memory;
	json_t *out = json_pack(
		"{s:i, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I}", "rank", rank, "heads",
		range_json(shard->heads), "kv_heads", range_json(shard->kv_heads), "intermediate",
		range_json(shard->intermediate), "vocabulary", range_json(shard->vocab), "weights",
		(json_int_t)memory->weights, "kv_cache", (json_int_t)memory->kv_cache, "workspace",
		(json_int_t)memory->workspace, "overhead", (json_int_t)memory->overhead, "total",
		(json_int_t)plan_total(memory));
	if (!out || !report->places)
		return out;
	const struct placement_row *place = &report->places[rank];
	json_t *gpu = place->device.present
			      ? json_pack("{s:s, s:s}", "name", place->device.name, "pci_bus_id",
					  place->device.pci_bus_id)
			      : json_null();
	json_object_set_new(out, "host", json_string(place->host));
	json_object_set_new(out, "cores", json_string(place->cpus));
	json_object_set_new(out, "numa_nodes", json_string(place->nodes));
	json_object_set_new(out, "gpu", gpu);
	return out;
}

static int print_json(const struct report *report, struct error *err)
{
	const struct plan_options *plan = &report->plan;
	json_t *ranks = json_array();
	for (int32_t r = 0; r < plan->ranks; r++)
		json_array_append_new(ranks, rank_json(report, r));
	return output_json(
		json_pack("{s:s, s:I, s:s, s:s, s:i, s:o, s:o, s:o}", "family",
			  config_family_name(report->config.family), "parameters",
			  (json_int_t)config_parameters(&report->config), "dtype",
			  dtype_name(plan->dtype), "backend", plan->cuda ? "cuda" : "cpu", "context",
			  plan->context, "memory",
			  report->memory ? json_integer((json_int_t)report->memory) : json_null(),
			  "largest_context", json_integer(report->largest_context), "ranks", ranks),
		err);
}

/* What does not fit is shown all the same, and then refused with the first such rank. */
static int check_fit(const struct report *report, struct error *err)
{
	const struct memory_check check = {.config = &report->config, .plan = &report->plan,
					   .leaner = &report->plan};
	for (int32_t r = 0; r < report->plan.ranks; r++)
		if (memory_check(&check, r, report->memory, err))
			return error_context(err, "rank %d", r);
	return 0;
}

int cmd_plan(const struct options *options, struct error *err)
{
	struct report report = {0};
	int result = make_report(options, &report, err);
	if (result)
		goto fail;
	if (options->json) {
		result = print_json(&report, err) || check_fit(&report, err) ? -1 : 0;
		goto fail;
	}
	result = print_table(&report, err) || print_fit(&report, err) ? -1 : 0;
	if (!result && report.places) {
		result = output_print(err, "\n");
		placement_print(stdout, report.places, report.plan.ranks);
		if (!result)
			result = output_write("", 0, err);
	}
	if (!result)
		result = check_fit(&report, err);
fail:
	free(report.ranks);
	free(report.places);
	return result;
}
