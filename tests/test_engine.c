/* Steps, generation and scores, over ranks that are threads and a model that is a hash. */
#define TEST_SUITE "engine"
#include "tests/test.h"

#include "runtime/engine/generate.h"
#include "runtime/engine/message.h"
#include "tests/fake_group.h"
#include "tests/toy_backend.h"

enum { RANKS_MAX = 8 };

/* A run of rank 0's `lead` over some ranks, and what is left of it. */
struct job {
	int32_t vocab, context, max_tokens, max_logit_rows;
	float scale;
	bool replay;
	int fail_rank, fail_at; /* the rank whose backend fails at that step; fail_at 0: none */
	int32_t cuts[RANKS_MAX + 1]; /* rank r holds the vocabulary from cuts[r] to cuts[r + 1] */
	struct model_config config;
	int (*lead)(struct job *, struct engine *, struct error *);
	struct generate_options generate;
	struct generate_result result;
	struct score_options score;
	double *logprobs;
	uint64_t trails[RANKS_MAX];
	int32_t steps, rows_asked, replays;
	struct fake_world world;
};

static int serve(const struct group *group, void *context, struct error *err)
{
	struct job *job = context;
	struct toy toy = {0};
	struct engine *engine = NULL;
	int32_t blocks = (job->context + KV_BLOCK - 1) / KV_BLOCK;
	struct backend_options options = {
		.shape = {.layers = 3, .total_vocab = job->vocab,
			  .first_vocab = job->cuts[group->rank],
			  .vocab = job->cuts[group->rank + 1] - job->cuts[group->rank]},
		.group = group, .kv_blocks = blocks, .max_tokens = job->max_tokens,
		.max_sequences = 1, .max_blocks = blocks, .max_logit_rows = job->max_logit_rows,
	};
	int result = toy_open(&toy, &options, job->scale, err);
	toy.replay = job->replay;
	toy.fail_at = group->rank == job->fail_rank ? job->fail_at : 0;
	if (!result)
		result = engine_open(&engine, &toy.base, &options, err);
	if (!result && group->rank == 0) {
		result = job->lead(job, engine, err);
		struct error ignored;
		if (engine_stop(engine, result ? &ignored : err))
			result = -1;
	} else if (!result) {
		result = engine_follow(engine, err);
	}
	job->trails[group->rank] = toy.trail;
	if (group->rank == 0) {
		job->steps = toy.steps;
		job->replays = toy.replays;
	}
	if (group->rank == group->size - 1)
		job->rows_asked = toy.rows_asked;
	engine_close(engine);
	toy_close(&toy);
	return result;
}

/* Runs the job on `ranks` ranks, with random parts of the vocabulary, some of them empty. */
static int run(struct job *job, int ranks, struct error *err)
{
	job->cuts[0] = 0;
	job->cuts[ranks] = job->vocab;
	for (int r = 1; r < ranks; r++) {
		int32_t cut = (int32_t)test_int(0, job->vocab);
		int at = r;
		for (; at > 1 && job->cuts[at - 1] > cut; at--)
			job->cuts[at] = job->cuts[at - 1];
		job->cuts[at] = cut;
	}
	return fake_group_run(ranks, serve, job, &job->world, err);
}

static bool trails_agree(const struct job *job, int ranks)
{
	for (int r = 1; r < ranks; r++)
		if (job->trails[r] != job->trails[0])
			return false;
	return true;
}

static int lead_generate(struct job *job, struct engine *engine, struct error *err)
{
	return generate_run(engine, &job->generate, &job->result, err);
}

static int lead_score(struct job *job, struct engine *engine, struct error *err)
{
	return score_run(engine, &job->score, job->logprobs, err);
}

/* ---- the references ---------------------------------------------------------------------------- */

static float growth_of(const struct model_config *config, int32_t length)
{
	const struct rope_config *rope = &config->rope;
	if (rope->type != ROPE_DYNAMIC || length <= rope->original_max_positions)
		return 1;
	return (float)(rope->factor * length / rope->original_max_positions - (rope->factor - 1));
}

/* The logits after ids[count], of which the first `prompt` were computed together. */
static void logits_after(const struct job *job, const int32_t *ids, int32_t count, int32_t prompt,
			 float *out)
{
	uint64_t context = 0;
	for (int32_t p = 0; p < count; p++)
		context = toy_fold(context, toy_entry(ids[p], p,
				growth_of(&job->config, p < prompt ? prompt : p + 1)));
	for (int32_t v = 0; v < job->vocab; v++)
		out[v] = toy_logit(context, v, job->scale);
}

/* The id that follows, and in *clear whether no draw or cut within rounding would give another. */
static int32_t id_after(const struct job *job, const int32_t *ids, int32_t count, bool *clear)
{
	const struct generate_options *g = &job->generate;
	float *logits = calloc((size_t)job->vocab, sizeof *logits);
	int32_t *scratch = calloc((size_t)job->vocab, sizeof *scratch), id, other;
	double u = sampler_draw(g->sampling.seed, g->request, (uint64_t)count);

	logits_after(job, ids, count, g->prompt_count, logits);
	for (int32_t v = 0; v < job->vocab; v++) {
		bool seen = false;
		for (int32_t i = 0; i < count; i++)
			seen = seen || ids[i] == v;
		if (seen && logits[v] > 0)
			logits[v] /= (float)g->sampling.repetition_penalty;
		else if (seen)
			logits[v] *= (float)g->sampling.repetition_penalty;
		if (g->sampling.temperature > 0)
			logits[v] *= (float)(1 / g->sampling.temperature);
	}
	sampler_pick_full(logits, job->vocab, &g->sampling, u, scratch, &id);
	*clear = true;
	for (int i = -1; i <= 1; i++) {
		for (int j = -1; j <= 1; j++) {
			struct sampling s = g->sampling;
			if (s.top_p < 1)
				s.top_p = fmin(1, s.top_p + i * 1e-5);
			sampler_pick_full(logits, job->vocab, &s, fmin(fmax(u + j * 1e-5, 0), 1 - 1e-9),
					  scratch, &other);
			*clear = *clear && other == id;
		}
	}
	free(scratch);
	free(logits);
	return id;
}

/* ---- generation -------------------------------------------------------------------------------- */

struct heard {
	int32_t ids[4096], count, stop_after, fail_after;
};

static int hear(void *context, int32_t id, struct error *err)
{
	struct heard *heard = context;
	heard->ids[heard->count++] = id;
	if (heard->count == heard->fail_after)
		return error_run(err, "the listener has left");
	return heard->count == heard->stop_after;
}

/* A greedy job of a random prompt; the caller frees generate.prompt. */
static struct job make_job(int32_t vocab, int32_t prompt, int32_t new_tokens, struct heard *heard)
{
	struct job job = {.vocab = vocab, .context = prompt + new_tokens + 5, .max_tokens = 64,
			  .max_logit_rows = 4, .scale = 8, .lead = lead_generate};
	int32_t *ids = calloc((size_t)prompt + 1, sizeof *ids);
	for (int32_t i = 0; i < prompt; i++)
		ids[i] = (int32_t)test_int(0, vocab - 1);
	job.config.vocab = vocab;
	job.config.head_dim = 8;
	job.generate = (struct generate_options){
		.context = job.context, .prompt = ids, .prompt_count = prompt,
		.max_new_tokens = new_tokens, .put = hear, .put_context = heard,
		.sampling = {.top_p = 1, .repetition_penalty = 1, .seed = test_random()},
	};
	return job;
}

/* Runs the job on 1, 2, 3 and 7 ranks with small and large chunks, and compares with id_after.
 * Returns how often the last rank was asked for a full row. */
static int32_t check_generate(struct job *job, struct heard *heard)
{
	static const int ranks[] = {1, 2, 3, 7};
	static const int32_t chunks[] = {1, 7, 16, 2000};
	struct generate_options *g = &job->generate;
	int32_t rows_asked = 0, compared = 0;

	g->config = &job->config;
	for (int c = 0; c < 8; c++) {
		struct error err = {0};
		int n = ranks[test_int(0, 3)];
		job->max_tokens = chunks[test_int(0, 3)];
		job->replay = test_int(0, 3) == 0;
		g->sampling.seed = test_random(); /* with one for all, few unclear draws would count eight times */
		heard->count = 0;
		CHECK_OK(run(job, n, &err), &err);
		CHECK(trails_agree(job, n));
		rows_asked += job->rows_asked;
		CHECK(job->replays == (job->replay ? job->steps : 0));
		CHECK((n == 1) == (job->world.collectives == 0));
		CHECK(job->result.count == g->max_new_tokens &&
		      job->result.finish == FINISH_LENGTH);
		CHECK(heard->count == job->result.count);
		CHECK(job->result.prefill_s >= 0 && job->result.decode_s >= 0);
		/* Chunks of a prompt end at whole blocks where they can. */
		int32_t steps = g->max_new_tokens;
		for (int32_t done = 0; g->prompt_count - done > job->max_tokens; steps++) {
			int32_t whole = (done + job->max_tokens) / KV_BLOCK * KV_BLOCK;
			done = whole > done ? whole : done + job->max_tokens;
		}
		CHECK_MSG(job->steps == steps, "%d steps, expected %d", job->steps, steps);

		int32_t ids[4096], count = g->prompt_count;
		memcpy(ids, g->prompt, (size_t)count * sizeof *ids);
		for (int32_t i = 0; i < job->result.count; i++) {
			bool clear;
			int32_t id = id_after(job, ids, count, &clear);
			CHECK_MSG(job->result.ids[i] == id || !clear, "id %d is %d, expected %d (%d ranks)",
				  i, job->result.ids[i], id, n);
			CHECK(heard->ids[i] == job->result.ids[i]);
			compared += clear;
			ids[count++] = job->result.ids[i];
		}
		free(job->result.ids);
	}
	CHECK_MSG(compared > 7 * g->max_new_tokens, "only %d ids were clear", compared);
	return rows_asked;
}

static void greedy(void)
{
	static struct heard heard;
	struct job job = make_job(300, (int32_t)test_int(1, 100), 40, &heard);
	check_generate(&job, &heard);
	free((void *)job.generate.prompt);

	/* A prompt whose chunks fill more than the first message. */
	job = make_job(50000, 1500, 2, &heard);
	check_generate(&job, &heard);
	free((void *)job.generate.prompt);
}

static void sampled(void)
{
	static struct heard heard;
	for (int i = 0; i < 6; i++) {
		struct job job = make_job(i % 2 ? 40 : 700, (int32_t)test_int(1, 40), 30, &heard);
		struct sampling *s = &job.generate.sampling;
		s->temperature = 0.3 + test_real();
		s->top_k = test_int(0, 1) ? (int32_t)test_int(1, 60) : 0;
		s->top_p = test_int(0, 1) ? test_real() * 0.9 + 0.1 : 1;
		s->min_p = test_int(0, 1) ? test_real() * 0.3 : 0;
		job.generate.request = test_random();
		check_generate(&job, &heard);
		free((void *)job.generate.prompt);
	}
}

static void sampled_from_full_rows(void)
{
	static struct heard heard;
	struct job job = make_job(700, 20, 30, &heard);
	job.scale = 1; /* flat: the candidates hold a tenth of the mass */
	job.generate.sampling.temperature = 1;
	CHECK(check_generate(&job, &heard) > 0);
	job.generate.sampling.top_p = 0.9;
	CHECK(check_generate(&job, &heard) > 0);
	free((void *)job.generate.prompt);
}

static void penalized(void)
{
	static struct heard heard;
	for (int i = 0; i < 3; i++) {
		struct job job = make_job(i ? 60 : 2000, (int32_t)test_int(1, 700), 30, &heard);
		job.generate.sampling.repetition_penalty = i == 2 ? 0.8 : 1.6;
		job.generate.sampling.temperature = i == 1 ? 0.7 : 0;
		check_generate(&job, &heard);
		free((void *)job.generate.prompt);
	}
}

static void dynamic_rope(void)
{
	static struct heard heard;
	struct job job = make_job(300, 50, 30, &heard);
	job.config.rope = (struct rope_config){.type = ROPE_DYNAMIC, .theta = 10000, .factor = 4,
					       .original_max_positions = 40};
	check_generate(&job, &heard); /* the prompt has grown already */
	job.config.rope.original_max_positions = 60;
	check_generate(&job, &heard); /* it grows on the way */
	free((void *)job.generate.prompt);
}

static void ends(void)
{
	static struct heard heard;
	struct error err = {0};
	struct job job = make_job(5000, 30, 25, &heard);
	struct generate_options *g = &job.generate;
	g->config = &job.config;
	heard.count = 0;
	CHECK_OK(run(&job, 2, &err), &err);
	int32_t ids[25], eos[3];
	memcpy(ids, job.result.ids, sizeof ids);
	free(job.result.ids);

	/* Several EOS: the first that comes ends it, and is returned and put. */
	eos[0] = ids[20], eos[1] = ids[11], eos[2] = ids[24];
	int32_t first = 0;
	while (ids[first] != ids[20] && ids[first] != ids[11] && ids[first] != ids[24])
		first++;
	g->eos = eos, g->eos_count = 3, heard.count = 0;
	CHECK_OK(run(&job, 3, &err), &err);
	CHECK(job.result.finish == FINISH_STOP && job.result.count == first + 1);
	CHECK(memcmp(job.result.ids, ids, (size_t)(first + 1) * sizeof *ids) == 0);
	CHECK(heard.count == first + 1);
	free(job.result.ids);
	g->eos_count = 0;

	/* The listener stops it, or fails; none is needed. */
	heard.count = 0, heard.stop_after = 5;
	CHECK_OK(run(&job, 1, &err), &err);
	CHECK(job.result.finish == FINISH_STOP && job.result.count == 5);
	free(job.result.ids);
	heard.count = heard.stop_after = 0, heard.fail_after = 4;
	CHECK_FAILS(run(&job, 3, &err), &err, "the listener has left");
	CHECK(!job.result.ids);
	heard.fail_after = 0;
	g->put = NULL;

	/* The context caps: a prompt that fills it leaves room for nothing. */
	g->context = 33;
	CHECK_OK(run(&job, 2, &err), &err);
	CHECK(job.result.finish == FINISH_LENGTH && job.result.count == 3);
	free(job.result.ids);
	g->context = 30;
	CHECK_OK(run(&job, 1, &err), &err);
	CHECK(job.result.finish == FINISH_LENGTH && job.result.count == 0 && job.steps == 0);
	free(job.result.ids);
	g->context = job.context, g->max_new_tokens = 0;
	CHECK_OK(run(&job, 1, &err), &err);
	CHECK(job.result.finish == FINISH_LENGTH && job.result.count == 0 && job.steps == 0);
	free(job.result.ids);
	free((void *)g->prompt);
}

static void wrong_calls(void)
{
	static struct heard heard;
	struct error err = {0};
	struct job job = make_job(100, 30, 25, &heard);
	struct generate_options *g = &job.generate;
	int32_t *prompt = (int32_t *)g->prompt;
	g->config = &job.config;

	g->context = 29;
	CHECK_FAILS(run(&job, 1, &err), &err, "30 tokens are more than the context of 29");
	CHECK(err.kind == ERROR_USAGE);
	g->context = job.context;
	for (int i = 0; i < 2; i++) {
		int32_t kept = prompt[7];
		prompt[7] = i ? -1 : 100;
		CHECK_FAILS(run(&job, 2, &err), &err, "outside the model's vocabulary");
		prompt[7] = kept;
	}
	g->prompt_count = 0;
	CHECK_FAILS(run(&job, 1, &err), &err, "1 or more");
	g->prompt_count = 30, g->sampling.top_p = 0;
	CHECK_FAILS(run(&job, 1, &err), &err, "--top-p");
	g->sampling.top_p = 1;
	/* A cache that was opened for less than the context that is asked for. */
	job.context = 32, g->context = 100;
	CHECK_FAILS(run(&job, 2, &err), &err, "--context");
	free(prompt);
}

static void rank_fails(void)
{
	static struct heard heard;
	struct error err = {0};
	struct job job = make_job(100, 30, 25, &heard);
	job.generate.config = &job.config;
	for (int rank = 0; rank < 3; rank++) {
		job.fail_rank = rank, job.fail_at = 3;
		heard.count = 0;
		CHECK_FAILS(run(&job, 3, &err), &err, "the toy breaks as it was told");
		CHECK(strstr(err.message, rank == 0 ? "rank 0" : rank == 1 ? "rank 1" : "rank 2"));
	}
	job.fail_at = 0, job.scale = NAN;
	CHECK_FAILS(run(&job, 2, &err), &err, "NaN");
	free((void *)job.generate.prompt);
}

/* ---- scores ------------------------------------------------------------------------------------ */

static void count_progress(void *context, int32_t done, int32_t total)
{
	int32_t *last = context;
	CHECK(done > *last && done <= total);
	*last = done;
}

static void scores(void)
{
	for (int i = 0; i < 12; i++) {
		struct error err = {0};
		struct job job = make_job(i % 2 ? 30 : 900, (int32_t)test_int(1, 150), 0, NULL);
		int32_t count = job.generate.prompt_count, last = 0;
		const int32_t *ids = job.generate.prompt;
		float *logits = calloc((size_t)job.vocab, sizeof *logits);
		job.lead = lead_score;
		job.max_tokens = (int32_t)test_int(1, 70);
		job.max_logit_rows = (int32_t)test_int(1, 70);
		job.logprobs = calloc((size_t)count, sizeof *job.logprobs);
		job.config.rope = (struct rope_config){
			.type = i % 3 ? ROPE_DEFAULT : ROPE_DYNAMIC, .theta = 10000, .factor = 2,
			.original_max_positions = 50};
		job.score = (struct score_options){
			.config = &job.config, .context = job.context, .ids = ids, .count = count,
			.progress = count_progress, .progress_context = &last};
		int ranks = (int)test_int(1, 5);
		CHECK_OK(run(&job, ranks, &err), &err);
		CHECK(trails_agree(&job, ranks));
		CHECK(last == count - 1);
		for (int32_t t = 0; t + 1 < count; t++) {
			double sum = 0;
			logits_after(&job, ids, t + 1, count, logits);
			for (int32_t v = 0; v < job.vocab; v++)
				sum += exp(logits[v]);
			double expected = logits[ids[t + 1]] - log(sum);
			CHECK_MSG(fabs(job.logprobs[t] - expected) < 1e-5, "token %d: %g, expected %g", t,
				  job.logprobs[t], expected);
		}
		job.score.context = count - 1;
		CHECK_FAILS(run(&job, 1, &err), &err,
			    count > 1 ? "more than the context" : "are more than the context of 0");
		free(job.logprobs);
		free(logits);
		free((void *)ids);
	}
}

/* ---- on the wire ------------------------------------------------------------------------------ */

/* A step of one token is one broadcast of the fixed size and one gather. */
static void small_steps(void)
{
	static struct heard heard;
	struct error err = {0};
	struct job job = make_job(100, 20, 25, &heard);
	job.generate.config = &job.config;
	CHECK_OK(run(&job, 2, &err), &err);
	uint64_t opening = 2 * 2 * sizeof(int32_t);
	CHECK_MSG(job.world.bytes_broadcast == opening + (uint64_t)(job.steps + 1) * MESSAGE_FIRST * 4,
		  "%llu bytes in %d steps", (unsigned long long)job.world.bytes_broadcast, job.steps);
	CHECK(job.world.collectives == 2 + 2 * job.steps + 1);
	free(job.result.ids);
	free((void *)job.generate.prompt);
}

static int open_wrong(const struct group *group, void *context, struct error *err)
{
	struct engine *engine = NULL;
	struct backend_options *wrong = context, options = *wrong;
	options.group = group;
	options.shape.vocab = 10 + group->rank;
	options.shape.first_vocab = 10 * group->rank;
	int result = engine_open(&engine, NULL, &options, err);
	engine_close(engine);
	return result;
}

static void wrong_parts(void)
{
	struct error err = {0};
	struct backend_options options = {.shape = {.total_vocab = 22}, .kv_blocks = 1, .max_tokens = 1,
					  .max_sequences = 1, .max_blocks = 1, .max_logit_rows = 1};
	CHECK_FAILS(fake_group_run(2, open_wrong, &options, NULL, &err), &err, "21 tokens");
	options.shape.total_vocab = 33;
	CHECK_FAILS(fake_group_run(3, open_wrong, &options, NULL, &err), &err,
		    "rank 2 holds 12 tokens of the vocabulary from 20 on, expected from 21 on");
	options.max_blocks = 0;
	CHECK_FAILS(fake_group_run(1, open_wrong, &options, NULL, &err), &err, "cannot be");
}

int main(void)
{
	RUN(greedy);
	RUN(sampled);
	RUN(sampled_from_full_rows);
	RUN(penalized);
	RUN(dynamic_rope);
	RUN(ends);
	RUN(wrong_calls);
	RUN(rank_fails);
	RUN(scores);
	RUN(small_steps);
	RUN(wrong_parts);
	TEST_END();
}
