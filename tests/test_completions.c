/* Many completions at a time, over ranks that are threads and a model that is a hash: each must come
 * out as if it were alone, whatever is in the batch, shared, put back or stopped. */
#define TEST_SUITE "completions"
#include "tests/test.h"

#include "runtime/engine/completions.h"
#include "tests/fake_group.h"
#include "tests/toy_backend.h"

enum { REQUESTS_MAX = 80, LENGTH_MAX = 160, RANKS_MAX = 5 };

struct asked {
	struct world *world;
	int32_t ids[LENGTH_MAX], prompt, cap; /* the prompt, then the ids that are expected */
	int32_t expected;		      /* new ids */
	enum finish_reason finish;
	int32_t stop_after; /* the owner stops at that id; 0: never */
	struct sampling sampling;
	uint64_t request;
	int32_t added_at, got, done, shared;
};

/* A run of all requests. */
struct world {
	int32_t vocab, blocks, max_blocks, max_tokens, max_sequences;
	bool asynchronous, share;
	struct model_config config;
	int32_t eos[2];
	struct asked asked[REQUESTS_MAX];
	int32_t count;
	struct scheduler_counts counts;
	struct fake_world fake;
	int32_t fail_put; /* the put that fails; 0: none */
	int32_t puts;
};

static float growth_of(const struct model_config *config, int32_t length)
{
	const struct rope_config *rope = &config->rope;
	if (rope->type != ROPE_DYNAMIC || length <= rope->original_max_positions)
		return 1;
	return (float)(rope->factor * length / rope->original_max_positions - (rope->factor - 1));
}

/* The id that follows ids[count]; *clear: no draw or cut within rounding would give another. */
static int32_t id_after(const struct world *world, const struct asked *asked, int32_t count,
			bool *clear)
{
	float logits[512];
	int32_t scratch[512], id, other;
	uint64_t context = 0;
	double u = sampler_draw(asked->sampling.seed, asked->request, (uint64_t)count);

	for (int32_t p = 0; p < count; p++)
		context = toy_fold(context, toy_entry(asked->ids[p], p,
				growth_of(&world->config, p < asked->prompt ? asked->prompt : p + 1)));
	for (int32_t v = 0; v < world->vocab; v++) {
		bool seen = false;
		for (int32_t i = 0; i < count; i++)
			seen = seen || asked->ids[i] == v;
		logits[v] = toy_logit(context, v, 8);
		if (seen && asked->sampling.repetition_penalty != 1)
			logits[v] = logits[v] > 0
					    ? logits[v] / (float)asked->sampling.repetition_penalty
					    : logits[v] * (float)asked->sampling.repetition_penalty;
		if (asked->sampling.temperature > 0)
			logits[v] *= (float)(1 / asked->sampling.temperature);
	}
	sampler_pick_full(logits, world->vocab, &asked->sampling, u, scratch, &id);
	*clear = true;
	for (int i = -1; i <= 1; i++) {
		for (int j = -1; j <= 1; j++) {
			struct sampling s = asked->sampling;
			if (s.top_p < 1)
				s.top_p = fmin(1, s.top_p + i * 1e-5);
			sampler_pick_full(logits, world->vocab, &s, fmin(fmax(u + j * 1e-5, 0), 1 - 1e-9),
					  scratch, &other);
			*clear = *clear && other == id;
		}
	}
	return id;
}

/* What a completion must give. Where a draw is too close to call, it is made to end before. */
static void expect(struct world *world, struct asked *asked)
{
	int32_t count = asked->prompt;

	asked->finish = FINISH_LENGTH;
	for (asked->expected = 0; asked->expected < asked->cap;) {
		bool clear;
		int32_t id = id_after(world, asked, count, &clear);
		if (!clear) {
			if (asked->expected == 0) { /* the draw, not the prompt, is unlucky */
				asked->request++;
				continue;
			}
			asked->cap = asked->expected;
			return;
		}
		asked->ids[count++] = id;
		asked->expected++;
		if (id == world->eos[0] || id == world->eos[1] ||
		    asked->expected == asked->stop_after) {
			asked->finish = FINISH_STOP;
			return;
		}
	}
}

static int put(void *context, int32_t id, struct error *err)
{
	struct asked *asked = context;

	if (++asked->world->puts == asked->world->fail_put)
		return error_run(err, "the owner has left");
	if (asked->done)
		return error_run(err, "an id after the end");
	if (asked->got == asked->expected)
		return error_run(err, "an id more than the %d expected", asked->expected);
	if (id != asked->ids[asked->prompt + asked->got])
		return error_run(err, "id %d of %d is %d, expected %d", asked->got, asked->expected, id,
				 asked->ids[asked->prompt + asked->got]);
	return ++asked->got == asked->stop_after;
}

static int done(void *context, enum finish_reason finish, int32_t shared, struct error *err)
{
	struct asked *asked = context;

	if (asked->done++ || asked->got != asked->expected || finish != asked->finish)
		return error_run(err, "the end comes %d times, after %d ids of %d, with reason %d instead "
				 "of %d", asked->done, asked->got, asked->expected, (int)finish,
				 (int)asked->finish);
	asked->shared = shared;
	return 0;
}

static int add(struct completions *completions, struct world *world, struct asked *asked,
	       struct error *err)
{
	int32_t prompt[LENGTH_MAX];
	const struct completion_request request = {
		.prompt = prompt, .prompt_count = asked->prompt, .max_new_tokens = asked->cap,
		.eos = world->eos, .eos_count = 2, .sampling = asked->sampling,
		.request = asked->request, .put = put, .done = done, .context = asked,
	};
	memcpy(prompt, asked->ids, sizeof prompt);
	int result = completions_add(completions, &request, err);
	memset(prompt, -1, sizeof prompt); /* it must have been copied */
	return result;
}

static int lead(struct world *world, struct engine *engine, struct error *err)
{
	struct completions *completions;
	bool left = true;
	int32_t added = 0, result = -1;

	if (completions_open(&completions, engine, &world->config, world->share, err))
		return -1;
	for (int32_t round = 0; left || added < world->count; round++) {
		while (added < world->count && world->asked[added].added_at <= round &&
		       added % 2 == 0)
			if (add(completions, world, &world->asked[added++], err))
				goto fail;
		if (completions_begin(completions, err))
			goto fail;
		/* Also while the step runs. */
		while (added < world->count && world->asked[added].added_at <= round)
			if (add(completions, world, &world->asked[added++], err))
				goto fail;
		if (completions_end(completions, &left, err))
			goto fail;
		if (round > 100000) {
			error_run(err, "there is no end");
			goto fail;
		}
	}
	world->counts = completions_counts(completions);
	struct completions_times times = completions_times(completions);
	if (!(times.between_s >= 0 && times.between_s <= times.steps_s)) {
		error_run(err, "%g s of %g s", times.between_s, times.steps_s);
		goto fail;
	}
	result = 0;
fail:
	completions_close(completions);
	return result;
}

static int serve(const struct group *group, void *context, struct error *err)
{
	struct world *world = context;
	struct toy toy = {0};
	struct engine *engine = NULL;
	int32_t size = group->size, v = world->vocab;
	struct backend_options options = {
		.shape = {.layers = 2, .total_vocab = v, .first_vocab = v * group->rank / size},
		.group = group, .kv_blocks = world->blocks, .max_tokens = world->max_tokens,
		.max_sequences = world->max_sequences, .max_blocks = world->max_blocks,
		.max_logit_rows = world->max_sequences,
	};
	options.shape.vocab = v * (group->rank + 1) / size - options.shape.first_vocab;
	int result = toy_open(&toy, &options, 8, err);
	toy.ops.asynchronous = world->asynchronous;
	if (!result)
		result = engine_open(&engine, &toy.base, &options, err);
	if (!result && group->rank == 0) {
		result = lead(world, engine, err);
		struct error ignored;
		if (engine_stop(engine, result ? &ignored : err))
			result = -1;
	} else if (!result) {
		result = engine_follow(engine, err);
	}
	engine_close(engine);
	toy_close(&toy);
	return result;
}

/* Random requests; some begin like one before them, some are samples of the same prompt. */
static struct world *make_world(bool dynamic)
{
	struct world *world = calloc(1, sizeof *world);

	world->vocab = (int32_t)test_int(70, 300);
	world->config.vocab = world->vocab;
	world->config.head_dim = 8;
	if (dynamic)
		world->config.rope = (struct rope_config){
			.type = ROPE_DYNAMIC, .factor = 2, .original_max_positions = 40};
	world->max_blocks = LENGTH_MAX / KV_BLOCK;
	/* From just enough for one sequence to enough for all. */
	world->blocks = world->max_blocks + (int32_t)test_int(0, 1) * (int32_t)test_int(0, 300);
	world->max_sequences = (int32_t)test_int(1, 20);
	world->max_tokens = world->max_sequences + (int32_t)test_int(0, 100);
	world->asynchronous = test_int(0, 1);
	world->share = test_int(0, 2) > 0;
	world->eos[0] = (int32_t)test_int(0, world->vocab - 1);
	world->eos[1] = (int32_t)test_int(0, world->vocab - 1);
	world->count = (int32_t)test_int(1, REQUESTS_MAX);
	for (int32_t i = 0; i < world->count; i++) {
		struct asked *asked = &world->asked[i];
		const struct asked *model = i && test_int(0, 1) ? &world->asked[test_int(0, i - 1)]
								: NULL;
		asked->world = world;
		asked->prompt = (int32_t)test_int(1, LENGTH_MAX - 40);
		asked->cap = (int32_t)test_int(1, 40);
		asked->stop_after = test_int(0, 3) ? 0 : (int32_t)test_int(1, 40);
		for (int32_t k = 0; k < asked->prompt; k++)
			asked->ids[k] = (int32_t)test_int(0, world->vocab - 1);
		if (model) {
			int32_t same = (int32_t)test_int(0, model->prompt);
			if (test_int(0, 1))
				asked->prompt = same = model->prompt;
			memcpy(asked->ids, model->ids, (size_t)same * sizeof *asked->ids);
		}
		asked->sampling = (struct sampling){
			.temperature = test_int(0, 1) ? 0 : 0.3 + test_real(), .top_p = 1,
			.repetition_penalty = test_int(0, 2) ? 1 : 1.3, .seed = 7,
		};
		if (test_int(0, 1))
			asked->sampling.top_p = 0.5 + 0.5 * test_real();
		asked->request = test_random();
		asked->added_at = i ? world->asked[i - 1].added_at + (int32_t)test_int(0, 3) : 0;
		expect(world, asked);
	}
	return world;
}

static void check_worlds(bool dynamic)
{
	uint64_t preemptions = 0, shared = 0;
	int32_t rounds = dynamic ? 25 : 60;

	/* On until both have occurred that must: the worlds are such that few will do without. */
	for (int32_t round = 0; round < rounds || (round < 10 * rounds && !(preemptions && (dynamic || shared)));
	     round++) {
		struct world *world = make_world(dynamic);
		struct error err = {0};
		CHECK_OK(fake_group_run((int)test_int(1, RANKS_MAX), serve, world, &world->fake, &err),
			 &err);
		int64_t told = 0;
		for (int32_t i = 0; i < world->count; i++) {
			CHECK_MSG(world->asked[i].done == 1, "request %d ended %d times", i,
				  world->asked[i].done);
			told += world->asked[i].shared;
		}
		CHECK(world->counts.running == 0 && world->counts.waiting == 0);
		CHECK(world->counts.blocks_used == 0);
		CHECK((uint64_t)told == world->counts.shared_tokens);
		CHECK(world->counts.blocks_used_most <= world->blocks);
		preemptions += world->counts.preemptions;
		shared += world->counts.shared_tokens;
		if (!world->share || dynamic)
			CHECK(world->counts.shared_tokens == 0);
		free(world);
	}
	CHECK(preemptions > 0);
	CHECK(dynamic || shared > 0);
}

static void as_if_alone(void)
{
	check_worlds(false);
}

static void dynamic_rope(void)
{
	check_worlds(true);
}

/* An owner that fails ends the run with its own words. */
static void owner_fails(void)
{
	struct world *world = make_world(false);
	struct error err = {0};
	world->fail_put = 1;
	CHECK(fake_group_run(2, serve, world, &world->fake, &err) == -1);
	CHECK_MSG(strstr(err.message, "the owner has left"), "%s", err.message);
	free(world);
}

static int lead_wrong(struct engine *engine, struct error *err)
{
	struct model_config config = {.vocab = 100, .head_dim = 8};
	struct sampling greedy = {.top_p = 1, .repetition_penalty = 1};
	int32_t prompt[LENGTH_MAX] = {0};
	struct completion_request request = {.prompt = prompt, .prompt_count = 3,
					     .max_new_tokens = 5, .sampling = greedy};
	struct completions *completions;

	if (completions_open(&completions, engine, &config, true, err))
		return -1;
	CHECK_OK(completions_add(completions, &request, err), err);
	request.prompt_count = 0;
	CHECK_FAILS(completions_add(completions, &request, err), err, "prompt of 0 tokens");
	request.prompt_count = 3;
	request.max_new_tokens = 0;
	CHECK_FAILS(completions_add(completions, &request, err), err, "0 new ones");
	request.max_new_tokens = LENGTH_MAX;
	CHECK_FAILS(completions_add(completions, &request, err), err, "larger --context");
	CHECK(err->kind == ERROR_USAGE);
	request.max_new_tokens = INT32_MAX;
	CHECK_FAILS(completions_add(completions, &request, err), err, "new ones");
	request.max_new_tokens = 5;
	prompt[2] = 100;
	CHECK_FAILS(completions_add(completions, &request, err), err, "token id 100");
	prompt[2] = -1;
	CHECK_FAILS(completions_add(completions, &request, err), err, "token id -1");
	prompt[2] = 0;
	request.sampling.top_p = 2;
	CHECK_FAILS(completions_add(completions, &request, err), err, "top-p");
	CHECK(completions_counts(completions).waiting == 1);
	completions_close(completions); /* with one left */
	return 0;
}

static int serve_wrong(const struct group *group, void *context, struct error *err)
{
	struct toy toy = {0};
	struct engine *engine = NULL;
	struct backend_options options = {
		.shape = {.layers = 1, .total_vocab = 100, .vocab = 100}, .group = group,
		.kv_blocks = 20, .max_tokens = 32, .max_sequences = 4, .max_logit_rows = 4,
		.max_blocks = LENGTH_MAX / KV_BLOCK,
	};
	(void)context;
	int result = toy_open(&toy, &options, 8, err) ||
		     engine_open(&engine, &toy.base, &options, err) || lead_wrong(engine, err) ? -1 : 0;
	engine_close(engine);
	toy_close(&toy);
	return result;
}

static void wrong_calls(void)
{
	struct fake_world world = {0};
	struct error err = {0};
	CHECK_OK(fake_group_run(1, serve_wrong, NULL, &world, &err), &err);
}

int main(void)
{
	RUN(as_if_alone);
	RUN(dynamic_rope);
	RUN(owner_fails);
	RUN(wrong_calls);
	TEST_END();
}
