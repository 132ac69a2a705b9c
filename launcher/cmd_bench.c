#include "launcher/commands.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "launcher/bench_report.h"
#include "launcher/bench_run.h"
#include "launcher/bench_test.h"
#include "launcher/output.h"
#include "launcher/session.h"
#include "runtime/model/plan.h"

enum { REPEAT = 5 };
#define TESTS "pp512,tg128,tg128@d3500,b8"
static const size_t read_least = (size_t)256 << 20, read_most = (size_t)8 << 30;

struct bench {
	const struct options *options;
	struct group *group;
	struct session session;
	struct bench_tests tests;
	struct bench_facts facts;
	struct bench_report report;
	char *shape;
	char reduce[256], versions[128], links[160];
	struct bench_device *devices; /* rank 0: [ranks] */
};

/* ---- what is run ------------------------------------------------------------------------- */

/* Fits the session to the tests. Of those that stand for themselves, the ones that the model does
 * not reach are left out. */
static int choose_sizes(struct bench *bench, struct session_sizes *sizes, struct error *err)
{
	const struct options *options = bench->options;
	const struct model_config *config = &bench->session.config;
	struct bench_tests wanted = bench->tests;
	*sizes = (struct session_sizes){.max_tokens = options->max_batch_tokens};
	bench->tests.count = 0;
	for (int32_t i = 0; i < wanted.count; i++) {
		const struct bench_test *test = &wanted.list[i];
		int32_t positions = bench_test_positions(test);
		if (positions > config->max_positions) {
			if (!options->given[OPTION_TESTS])
				continue;
			return error_usage(err, "--tests: %s takes %d positions; this model reaches %d", test->name,
					   positions, config->max_positions);
		}
		if (config->rope.type == ROPE_DYNAMIC && test->kind == BENCH_PREFILL && test->depth)
			return error_usage(err, "--tests: %s: with dynamic rope no prompt goes on where another "
						"ended; leave the depth out", test->name);
		if (options->max_batch_tokens && options->max_batch_tokens < test->batch)
			return error_usage(err, "--max-batch-tokens %d is less than a token for each sequence "
						"of %s", options->max_batch_tokens, test->name);
		/* The last new id takes no place in the cache, but the scheduler counts it. */
		int64_t blocks = (int64_t)(positions / KV_BLOCK + 1) * test->batch;
		if (blocks > INT32_MAX / KV_BLOCK)
			return error_usage(err, "--tests: %s takes more cache than can be", test->name);
		sizes->context = positions + 1 > sizes->context ? positions + 1 : sizes->context;
		sizes->max_sequences = test->batch > sizes->max_sequences ? test->batch : sizes->max_sequences;
		sizes->kv_blocks = blocks > sizes->kv_blocks ? (int32_t)blocks : sizes->kv_blocks;
		bench->tests.list[bench->tests.count++] = *test;
	}
	if (!bench->tests.count)
		return error_usage(err, "this model reaches %d positions, too few for any of " TESTS ": give "
					"--tests", config->max_positions);
	return 0;
}

/* ---- what is told of it ------------------------------------------------------------------ */

/* The last part of the path, without .json; of a nameless "config.json" that of its folder. */
static char *shape_name(const struct options *options)
{
	const char *path = options->given[OPTION_SHAPE]	  ? options->shape.data
			   : options->given[OPTION_MODEL] ? options->model.data
							  : "tiny-stories";
	char *copy = strdup(path), *name;
	for (;;) {
		size_t length = copy ? strlen(copy) : 0;
		while (length > 1 && copy[length - 1] == '/')
			copy[--length] = '\0';
		char *slash = copy ? strrchr(copy, '/') : NULL;
		name = slash ? slash + 1 : copy;
		if (!slash || strcmp(name, "config.json"))
			break;
		*slash = '\0';
	}
	if (name && strlen(name) > 5 && !strcmp(name + strlen(name) - 5, ".json"))
		name[strlen(name) - 5] = '\0';
	char *result = name ? strdup(name) : NULL;
	free(copy);
	return result;
}

/* The clocks are those of a GPU at work: the ceiling was measured just before. */
static void describe_gpu(struct bench_device *out, const struct placement_device *device)
{
	int length = snprintf(out->name, sizeof out->name, "%s", device->name);
	snprintf(out->address, sizeof out->address, "%s", device->pci_bus_id);
#ifdef TPRUN_CUDA
	struct cuda_clocks clocks;
	if (!cuda_device_clocks(out->address, &clocks))
		snprintf(out->name + length, sizeof out->name - (size_t)length,
			 ", clocks %u of %u MHz, memory %u of %u MHz", clocks.sm, clocks.most_sm, clocks.memory,
			 clocks.most_memory);
#else
	(void)length;
#endif
}

/* Rank 0: how its GPU is linked with the others of its host, each kind once. */
static void describe_links(struct bench *bench)
{
#ifdef TPRUN_CUDA
	const struct bench_device *first = &bench->devices[0];
	unsigned seen = 0;
	size_t length = 0;
	for (int i = 1; *first->address && i < bench->group->size; i++) {
		const char *address = bench->devices[i].address;
		enum cuda_link link = CUDA_LINK_UNKNOWN;
		if (strcmp(bench->devices[i].host, first->host))
			continue;
		cuda_device_links(first->address, &address, 1, &link);
		if (seen >> link & 1)
			continue;
		seen |= 1u << link;
		length += (size_t)snprintf(bench->links + length, sizeof bench->links - length, "%s%s",
					   length ? ", " : "", cuda_link_name(link));
	}
#else
	(void)bench;
#endif
}

static int gather_devices(struct bench *bench, struct error *err)
{
	const struct group *group = bench->group;
	const struct placement_device *device = &bench->session.device.placement;
	struct bench_device own = {.name = ""};
	int threads = bench->session.backend_options.threads;
	snprintf(own.host, sizeof own.host, "%s", mpi_group_host(group));
	if (bench->session.device.cuda)
		describe_gpu(&own, device);
	else
		snprintf(own.name, sizeof own.name, "%d thread%s", threads, threads == 1 ? "" : "s");
	if (group->rank == 0)
		bench->devices = calloc((size_t)group->size, sizeof *bench->devices);
	int result = group->rank == 0 && !bench->devices ? error_memory(err, "the ranks' devices") : 0;
	if (group->agree(group, result, err) || group->gather(group, &own, sizeof own, bench->devices, err))
		return -1;
	if (group->rank == 0)
		describe_links(bench);
	return 0;
}

static int probe(struct bench *bench, enum backend_probe what, size_t bytes, double *seconds,
		 struct error *err)
{
	struct backend *backend = bench->session.backend;
	*seconds = 0;
	return backend->ops->probe ? backend->ops->probe(backend, what, bytes, seconds, err) : 0;
}

static int collect_facts(struct bench *bench, struct error *err)
{
	static const char *const dtypes[] = {[DTYPE_F32] = "f32", [DTYPE_F16] = "f16", [DTYPE_BF16] = "bf16"};
	const struct session *session = &bench->session;
	const struct options *options = bench->options;
	struct backend_memory memory;
	double seconds;

	snprintf(bench->reduce, sizeof bench->reduce, "%s", bench->group->size > 1 ? "MPI" : "none");
#ifdef TPRUN_CUDA
	if (session->device.cuda) {
		snprintf(bench->reduce, sizeof bench->reduce, "%s",
			 cuda_backend_reduce_name(session->backend));
		struct cuda_versions versions;
		cuda_versions(&versions, bench->group->size > 1);
		cuda_versions_text(&versions, bench->versions, sizeof bench->versions);
	}
#endif
	(session->device.cuda ? cuda_backend_memory : cpu_backend_memory)(&session->backend_options, &memory);
	size_t bytes = memory.weights < read_least ? read_least
		       : memory.weights > read_most ? read_most : memory.weights;
	/* All at the same time: ranks may share what they read from. */
	if (bench->group->agree(bench->group, 0, err) || probe(bench, PROBE_READ, bytes, &seconds, err) ||
	    gather_devices(bench, err))
		return -1;
	bench->facts = (struct bench_facts){
		.shape = bench->shape, .dtype = dtypes[session->dtype],
		.backend = session->device.cuda ? "cuda" : "cpu", .reduce = bench->reduce,
		.links = bench->links, .versions = bench->versions, .devices = bench->devices, .ranks = bench->group->size,
		.repeat = options->given[OPTION_REPEAT] ? options->repeat : REPEAT,
		.max_tokens = session->backend_options.max_tokens,
		.weight_bits = 8 * (int)dtype_bytes(session->backend_options.shape.dtype),
		.ceiling = seconds > 0 ? (double)bytes / seconds : 0, .ceiling_bytes = (double)bytes,
	};
	return 0;
}

/* ---- the tests --------------------------------------------------------------------------- */

/* Rank 0. An error of the engine ends all ranks at once, other errors end them in order. */
static int lead(struct bench *bench, struct bench_row *row, struct error *err)
{
	struct engine *engine = bench->session.engine;
	const struct backend_options *options = &bench->session.backend_options;
	if (bench_run(&row->result, row->test, engine, &bench->session.config, bench->facts.repeat, err) ||
	    engine_stop(engine, err))
		bench->group->abort(bench->group, err);
	row->bytes = bench_test_bytes(row->test, &options->shape, options->max_tokens, row->weight_share);
	if (!row->result.same)
		return error_run(err, "%s: the same call gave other ids or logits when it was repeated",
				 row->test->name);
	return bench_report_row(&bench->report, row, err);
}

static int run_test(struct bench *bench, const struct bench_test *test, struct error *err)
{
	const struct group *group = bench->group;
	const struct backend_shape *shape = &bench->session.backend_options.shape;
	int32_t tokens = bench_test_step_tokens(test, bench->session.backend_options.max_tokens);
	size_t bytes = (size_t)tokens * (size_t)shape->hidden * dtype_bytes(shape->dtype);
	struct backend *backend = bench->session.backend;
	struct bench_row row = {.test = test, .weight_share = 1};
	int result = 0;
	if (backend->ops->weight_share)
		row.weight_share = backend->ops->weight_share(backend, test->steps ? test->batch : tokens);
	if (probe(bench, PROBE_REDUCE, bytes, &row.reduce_s, err))
		group->abort(group, err);
	/* That of the embedding, and two in each layer. */
	row.reduces = group->size > 1 ? 1 + 2 * shape->layers : 0;
	if (group->rank == 0)
		result = lead(bench, &row, err);
	else if (engine_follow(bench->session.engine, err))
		group->abort(group, err);
	return group->agree(group, result, err);
}

static int run(struct bench *bench, struct error *err)
{
	const struct options *options = bench->options;
	enum bench_format format = options->json ? BENCH_JSON : options->csv ? BENCH_CSV : BENCH_TABLE;
	bool first = bench->group->rank == 0;
	int result = first ? bench_report_begin(&bench->report, format, &bench->facts, err) : 0;
	if (bench->group->agree(bench->group, result, err))
		return -1;
	for (int32_t i = 0; i < bench->tests.count; i++)
		if (run_test(bench, &bench->tests.list[i], err))
			return -1;
	result = first ? bench_report_end(&bench->report, err) : 0;
	return bench->group->agree(bench->group, result, err);
}

int cmd_bench(const struct options *options, struct group *group, struct error *err)
{
	struct bench *bench = calloc(1, sizeof *bench);
	struct session_sizes sizes;
	int result = bench ? 0 : error_memory(err, "the benchmark");
	if (!result)
		result = bench_tests_parse(&bench->tests, options->tests.data ? options->tests.data : TESTS, err);
	if (group->agree(group, result, err)) {
		free(bench);
		return -1;
	}
	bench->options = options;
	bench->group = group;
	bench->shape = shape_name(options);
	result = session_open(&bench->session, options, group, group, err);
	if (!result)
		result = group->agree(group, choose_sizes(bench, &sizes, err), err);
	if (!result)
		result = session_start(&bench->session, &sizes, err);
	if (!result)
		result = group->agree(group, bench->shape ? collect_facts(bench, err)
							  : error_memory(err, "a name"), err);
	if (!result)
		result = run(bench, err);
	bench_report_close(&bench->report);
	session_close(&bench->session);
	free(bench->devices);
	free(bench->shape);
	free(bench);
	return result;
}
