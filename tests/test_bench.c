/* bench: the names of tests, the bytes they must read against a count position by position, what
 * is timed on a model that is a hash, and what the CPU backend tells of its machine. */
#define TEST_SUITE "bench"
#include "tests/test.h"

#include "launcher/bench_run.h"
#include "launcher/bench_test.h"
#include "runtime/base/file.h"
#include "runtime/model/shard.h"
#include "tests/fake_group.h"
#include "tests/toy_backend.h"

static struct error err;

static struct bench_test test_of(const char *name)
{
	struct bench_tests tests;
	CHECK_OK(bench_tests_parse(&tests, name, &err), &err);
	CHECK(tests.count == 1);
	CHECK_STR(tests.list[0].name, name);
	return tests.list[0];
}

static void check_test(const char *name, enum bench_kind kind, int32_t batch, int32_t depth,
		       int32_t prompt, int32_t steps, int64_t tokens)
{
	struct bench_test t = test_of(name);
	CHECK_MSG(t.kind == kind && t.batch == batch && t.depth == depth && t.prompt == prompt &&
			  t.steps == steps && bench_test_tokens(&t) == tokens,
		  "%s: kind %d, %d x %d + %d + %d, %lld tokens", name, t.kind, t.batch, t.depth, t.prompt,
		  t.steps, (long long)bench_test_tokens(&t));
}

static void names(void)
{
	check_test("pp512", BENCH_PREFILL, 1, 0, 512, 0, 512);
	check_test("pp2048x4@d1000", BENCH_PREFILL, 4, 1000, 2048, 0, 8192);
	check_test("tg128", BENCH_DECODE, 1, 128, 0, 128, 128);
	check_test("tg1x3", BENCH_DECODE, 3, 128, 0, 1, 3);
	check_test("tg64@d3500", BENCH_DECODE, 1, 3500, 0, 64, 64);
	check_test("b8", BENCH_WHOLE, 8, 0, 128, 127, 1024);

	struct bench_tests tests;
	CHECK_OK(bench_tests_parse(&tests, "pp1,tg2,b3", &err), &err);
	CHECK(tests.count == 3 && tests.list[2].batch == 3);
	static const char *const bad[] = {
		"", ",", "pp1,", ",pp1", "pp", "tg0", "pp-1", "pp+1", "pp 1", "pp1x", "pp1x0", "pp1@", "pp1@5",
		"pp1@d", "pp1@d0", "pp1@d5x2", "b", "b8x2", "b8@d4", "x2", "tg01", "tg1 ", "TG1", "pp99999999999",
		"pp1048577", "b65537", "pp1.5", "tg12345678901234567890123456789012345678901234567890",
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		CHECK_FAILS(bench_tests_parse(&tests, bad[i], &err), &err, "is no test");
		CHECK_MSG(err.kind == ERROR_USAGE, "%s", bad[i]);
	}
	char many[4 * (BENCH_TESTS_MAX + 1)] = "b1";
	for (int i = 0; i < BENCH_TESTS_MAX; i++)
		strcat(many, ",b1");
	CHECK_FAILS(bench_tests_parse(&tests, many, &err), &err, "at most 64");
}

/* ---- bytes --------------------------------------------------------------------------------- */

/* The matrices of a rank's part, tensor by tensor. */
static double count_weights(const struct shard *shard, const struct model_config *config,
			    const struct backend_shape *s, bool logits)
{
	static const enum backend_tensor layer[] = {TENSOR_QUERY, TENSOR_KEY, TENSOR_VALUE, TENSOR_OUTPUT,
						    TENSOR_GATE, TENSOR_UP, TENSOR_DOWN};
	double elements = 0;
	for (size_t i = 0; i < sizeof layer / sizeof layer[0]; i++) {
		struct tensor_extent e = shard_extent(shard, config, layer[i]);
		elements += (double)e.rows * e.columns * s->layers;
	}
	/* A tied head is the embedding. */
	struct tensor_extent head = shard_extent(shard, config, TENSOR_EMBEDDING);
	return (elements + (logits ? (double)head.rows * head.columns : 0)) * (double)dtype_bytes(s->dtype);
}

/* Positions of a sequence that its tokens [from, to) see in a layer, each counted once. */
static double count_seen(int32_t from, int32_t to, int32_t window)
{
	bool *seen = calloc((size_t)to + 1, sizeof *seen);
	double count = 0;
	for (int32_t t = from; t < to; t++)
		for (int32_t p = 0; p <= t; p++)
			if (!window || t - p < window)
				seen[p] = true;
	for (int32_t p = 0; p < to; p++)
		count += seen[p];
	free(seen);
	return count;
}

static double count_cache(const struct backend_shape *s, int32_t from, int32_t to)
{
	double positions = 0;
	for (int32_t i = 0; i < s->layers; i++)
		positions += count_seen(from, to, s->windows[i]);
	return 2 * positions * s->kv_heads * s->head_dim * (double)dtype_bytes(s->dtype);
}

static void bytes_read(void)
{
	static const char *const shapes[] = {"llama-2-7b", "llama-3-8b", "qwen3-8b", "smollm2-135m"};
	struct model_config *config = malloc(sizeof *config);
	struct shard *shard = malloc(sizeof *shard);
	for (int n = 0; n < 40; n++) {
		char path[128], *text;
		size_t length;
		snprintf(path, sizeof path, "configs/shapes/%s.json", shapes[n % 4]);
		CHECK_OK(file_read(path, 1 << 20, &text, &length, &err), &err);
		CHECK_OK(config_parse(config, text, length, path, &err), &err);
		free(text);
		config->layers = (int32_t)test_int(1, 4);
		for (int32_t i = 0; i < config->layers; i++)
			config->windows[i] = test_int(0, 1) ? (int32_t)test_int(1, 60) : 0;
		int32_t ranks = (int32_t)test_int(1, 5);
		CHECK_OK(shard_make(shard, config, ranks, (int32_t)test_int(0, ranks - 1), &err), &err);
		struct backend_shape s = shard_backend_shape(shard, config, (enum dtype)test_int(0, 2), NULL, 1);

		struct bench_test t = {.kind = BENCH_WHOLE, .batch = (int32_t)test_int(1, 4),
				       .depth = (int32_t)test_int(0, 40), .prompt = (int32_t)test_int(0, 50),
				       .steps = (int32_t)test_int(0, 9)};
		int32_t max_tokens = (int32_t)test_int(1, 70), used = 0;
		/* Chunks fill a step to the last token; a sequence gets logits where its prompt ends. */
		double bytes = 0, share = 0.5 + test_real() / 2;
		bool ends = false;
		for (int32_t q = 0, at = 0; t.prompt && q < t.batch;) {
			int32_t take = t.prompt - at < max_tokens - used ? t.prompt - at : max_tokens - used;
			bytes += count_cache(&s, t.depth + at, t.depth + at + take);
			at += take;
			used += take;
			if (at == t.prompt) {
				ends = true;
				at = 0;
				q++;
			}
			if (used == max_tokens || q == t.batch) {
				bytes += count_weights(shard, config, &s, ends);
				used = 0;
				ends = false;
			}
		}
		for (int32_t i = 0; i < t.steps; i++)
			bytes += share * count_weights(shard, config, &s, true) +
				 t.batch * count_cache(&s, t.depth + t.prompt + i, t.depth + t.prompt + i + 1);
		double counted = bench_test_bytes(&t, &s, max_tokens, share);
		CHECK_MSG(fabs(counted - bytes) <= 1e-9 * bytes, "%s: %d x %d + %d + %d, %d a step: %.0f, not %.0f",
			  shapes[n % 4], t.batch, t.depth, t.prompt, t.steps, max_tokens, counted, bytes);
	}
	free(config);
	free(shard);
}

/* ---- runs ---------------------------------------------------------------------------------- */

static struct model_config toy_config;
static struct toy toy;

/* Every step's logits are a little unlike those of the step before. */
static int drift(struct backend *backend, const struct step *step, struct error *e)
{
	toy_of(backend)->scale *= 1.0001f;
	return toy_begin(backend, step, e);
}

/* On a single toy rank; *steps: all that the toy ran. */
static struct bench_result run_toy(const char *name, int32_t max_tokens, bool asynchronous, bool drifts,
				   int32_t repeat, int32_t *steps)
{
	struct bench_test test = test_of(name);
	struct fake_world world;
	struct group group = fake_group_single(&world);
	int32_t blocks = bench_test_positions(&test) / KV_BLOCK + 1;
	struct backend_options options = {
		.shape = {.layers = 2, .vocab = 100, .total_vocab = 100}, .group = &group,
		.kv_blocks = blocks * test.batch, .max_tokens = max_tokens, .max_sequences = test.batch,
		.max_blocks = blocks, .max_logit_rows = test.batch, .threads = 1,
	};
	struct engine *engine;
	struct bench_result result;
	toy_config.vocab = 100;
	CHECK_OK(toy_open(&toy, &options, 8, &err), &err);
	toy.ops.asynchronous = asynchronous;
	if (drifts)
		toy.ops.begin = drift;
	CHECK_OK(engine_open(&engine, &toy.base, &options, &err), &err);
	CHECK_OK(bench_run(&result, &test, engine, &toy_config, repeat, &err), &err);
	*steps = toy.steps;
	engine_close(engine);
	toy_close(&toy);
	return result;
}

static void runs(void)
{
	/* Steps that are timed, and those of a whole run: prefill of the depth, the tail of it that is
	 * run once more, and the rest. */
	static const struct {
		const char *name;
		int32_t max_tokens, timed, all;
	} cases[] = {
		{"pp50", 64, 1, 1}, {"pp50", 20, 3, 3}, {"pp10x4", 64, 1, 1}, {"pp10x4", 16, 3, 3},
		{"pp30@d40", 64, 1, 2}, {"tg5", 200, 5, 7}, {"tg5", 64, 5, 8}, {"tg7x3@d33", 128, 7, 9},
		{"b2", 512, 128, 128}, {"b3", 128, 131, 131} /* decode beside prompts */,
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		for (int asynchronous = 0; asynchronous < 2; asynchronous++) {
			int32_t steps, again;
			struct bench_result r = run_toy(cases[i].name, cases[i].max_tokens, asynchronous, false,
							3, &steps);
			struct bench_result other = run_toy(cases[i].name, cases[i].max_tokens, !asynchronous,
							    false, 1, &again);
			CHECK_MSG(r.steps == cases[i].timed && steps == 4 * cases[i].all &&
					  again == 2 * cases[i].all,
				  "%s of %d a step: %g steps timed, %d and %d run", cases[i].name,
				  cases[i].max_tokens, r.steps, steps, again);
			CHECK(r.same && other.same && r.hash == other.hash);
			CHECK(r.seconds > 0 && r.tokens_per_s > 0 && r.deviation >= 0);
			CHECK(other.deviation == 0);
		}
	}
	int32_t steps;
	CHECK(run_toy("tg6", 64, false, false, 1, &steps).hash != run_toy("tg7", 64, false, false, 1, &steps).hash);
	CHECK(!run_toy("tg6", 64, false, true, 1, &steps).same);
	CHECK(!run_toy("b2", 64, true, true, 2, &steps).same);
}

static void run_fails(void)
{
	struct fake_world world;
	struct group group = fake_group_single(&world);
	struct backend_options options = {
		.shape = {.layers = 2, .vocab = 100, .total_vocab = 100}, .group = &group, .kv_blocks = 20,
		.max_tokens = 64, .max_sequences = 1, .max_blocks = 20, .max_logit_rows = 1, .threads = 1,
	};
	struct bench_test test = test_of("tg5");
	struct engine *engine;
	struct bench_result result;
	CHECK_OK(toy_open(&toy, &options, 8, &err), &err);
	CHECK_OK(engine_open(&engine, &toy.base, &options, &err), &err);
	toy.fail_at = (int32_t)test_int(1, 20);
	CHECK_FAILS(bench_run(&result, &test, engine, &toy_config, 2, &err), &err, "the toy breaks");
	engine_close(engine);
	toy_close(&toy);
}

/* ---- what a machine can do ----------------------------------------------------------------- */

static const struct head_group one_head = {0, 1};
static const int32_t no_window;
static const float frequencies[8];

static struct backend_options small_options(const struct group *group)
{
	return (struct backend_options){
		.shape = {
			.layers = 1, .hidden = 48, .head_dim = 16, .query_heads = 1, .kv_heads = 1,
			.groups = &one_head, .intermediate = 32, .vocab = 64, .total_vocab = 64 * group->size,
			.total_query_heads = group->size, .total_kv_heads = group->size,
			.total_intermediate = 32 * group->size, .first_query_head = group->rank,
			.first_kv_head = group->rank, .first_vocab = 64 * group->rank,
			.first_intermediate = 32 * group->rank, .norm_epsilon = 1e-5, .attention_scale = 1,
			.windows = &no_window, .rope_frequencies = frequencies, .rope_magnitude = 1,
			.dtype = DTYPE_BF16,
		},
		.group = group, .kv_blocks = 2, .max_tokens = 8, .max_sequences = 2, .max_blocks = 2,
		.max_logit_rows = 2, .threads = 2,
	};
}

static void probe_read(void)
{
	struct fake_world world;
	struct group group = fake_group_single(&world);
	struct backend_options options = small_options(&group);
	struct backend *backend;
	double small = INFINITY, large = 0, reduce = 1;
	for (options.threads = 2; options.threads >= 1; options.threads--) {
		CHECK_OK(cpu_backend_open(&backend, &options, &err), &err);
		CHECK_OK(backend->ops->probe(backend, PROBE_READ, 256 << 20, &large, &err), &err);
		CHECK_MSG(large > (256 << 20) / 4e12, "256 MiB in %g s, faster than any cache", large);
		/* With one thread: on a busy machine another waits for a core longer than a small read takes. And others may
		 * take the core away in the midst of one. */
		for (int i = 0; i < 20 && options.threads == 1; i++) {
			double seconds;
			CHECK_OK(backend->ops->probe(backend, PROBE_READ, 1 << 20, &seconds, &err), &err);
			small = fmin(small, seconds);
		}
		CHECK_OK(backend->ops->probe(backend, PROBE_REDUCE, 96, &reduce, &err), &err);
		CHECK(reduce == 0);
		backend->ops->close(backend);
	}
	CHECK_MSG(small > 0 && large > 8 * small, "1 MiB in %g s, 256 in %g", small, large);
}

static int reduce_on_rank(const struct group *group, void *context, struct error *e)
{
	struct backend_options options = small_options(group);
	struct backend *backend;
	double seconds = 0;
	(void)context;
	if (cpu_backend_open(&backend, &options, e))
		return -1;
	int result = backend->ops->probe(backend, PROBE_REDUCE, 8 * 48 * 2, &seconds, e);
	if (!result && !(seconds > 0))
		result = error_run(e, "a sum took no time");
	struct error refused = {0};
	if (!result && (!backend->ops->probe(backend, PROBE_REDUCE, 9 * 48 * 2, &seconds, &refused) ||
			!strstr(refused.message, "more than a step of 8 tokens")))
		result = error_run(e, "a sum of 9 tokens was taken: %s", refused.message);
	backend->ops->close(backend);
	return result;
}

static void probe_reduce(void)
{
	CHECK_OK(fake_group_run(3, reduce_on_rank, NULL, NULL, &err), &err);
}

int main(void)
{
	RUN(names);
	RUN(bytes_read);
	RUN(runs);
	RUN(run_fails);
	RUN(probe_read);
	RUN(probe_reduce);
	TEST_END();
}
