#include "runtime/engine/generate.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/engine/sequence.h"
#include "runtime/model/rope.h"

static double now_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* One sequence that has the whole cache for itself. */
struct run {
	struct engine *engine;
	const struct model_config *config;
	struct kv_pool pool;
	struct sequence sequence;
	struct batch batch;
	struct candidate_list *lists; /* [max_logit_rows] */
	float *logits;	  /* [vocab]: a full row, where the candidates don't reach; taken when needed */
	int32_t *scratch; /* [vocab] */
};

static void run_close(struct run *run)
{
	if (run->sequence.ids)
		kv_table_release(&run->sequence.table, &run->pool);
	kv_pool_close(&run->pool);
	sequence_close(&run->sequence);
	batch_close(&run->batch);
	free(run->lists);
	free(run->logits);
	free(run->scratch);
}

/* Opens a run of at most `capacity` ids, which begin with ids[count]. run_close is due also after
 * an error. */
static int run_open(struct run *run, struct engine *engine, const struct model_config *config,
		    const int32_t *ids, int32_t count, int32_t capacity, bool distinct,
		    struct error *err)
{
	const struct backend_options *limits = engine_options(engine);
	int32_t vocab = limits->shape.total_vocab;

	*run = (struct run){.engine = engine, .config = config};
	for (int32_t i = 0; i < count; i++)
		if (ids[i] < 0 || ids[i] >= vocab)
			return error_usage(err, "token id %d is outside the model's vocabulary of %d",
					   ids[i], vocab);
	run->lists = calloc((size_t)limits->max_logit_rows + 1, sizeof *run->lists);
	if (!run->lists)
		return error_memory(err, "lists of candidates");
	if (kv_pool_open(&run->pool, limits->kv_blocks, err) ||
	    batch_open(&run->batch, limits, err) ||
	    sequence_open(&run->sequence, capacity, vocab, distinct, err))
		return -1;
	for (int32_t i = 0; i < count; i++)
		sequence_add(&run->sequence, ids[i]);
	return 0;
}

/* Puts the next `tokens` ids into an otherwise empty batch and asks for the last `rows` rows of
 * logits. `length` is the sequence's length in the eyes of dynamic rope. Returns the requests of
 * the rows, or NULL where the cache is too small. */
static struct logit_request *run_prepare(struct run *run, int32_t tokens, int32_t rows,
					 int32_t length, struct error *err)
{
	struct sequence *sequence = &run->sequence;
	int32_t end = sequence->cached + tokens;

	if (end > run->batch.limits->max_blocks * KV_BLOCK ||
	    kv_table_reserve(&sequence->table, &run->pool, end)) {
		error_run(err, "%d tokens need more than the KV cache's %d blocks of %d tokens (%d for "
			  "one sequence): give a larger --context", end, run->pool.count, KV_BLOCK,
			  run->batch.limits->max_blocks);
		return NULL;
	}
	batch_clear(&run->batch);
	return batch_add(&run->batch, sequence, tokens, rows, rope_growth(run->config, length));
}

static int run_step(struct run *run, struct error *err)
{
	if (engine_step(run->engine, &run->batch.step, run->batch.requests, run->lists, err))
		return -1;
	run->sequence.cached += run->batch.step.tokens;
	return 0;
}

/* ---- generation -------------------------------------------------------------------------------- */

/* The next id from the logits of the step's row 0. */
static int pick(struct run *run, const struct generate_options *options, int32_t *id,
		struct error *err)
{
	int32_t vocab = run->batch.limits->shape.total_vocab;
	double u = sampler_draw(options->sampling.seed, options->request,
				(uint64_t)run->sequence.count);

	if (sampler_pick(&run->lists[0], &options->sampling, u, id) == 0)
		return 0;
	if (!run->logits)
		run->logits = calloc((size_t)vocab, sizeof *run->logits);
	if (!run->scratch)
		run->scratch = calloc((size_t)vocab, sizeof *run->scratch);
	if (!run->logits || !run->scratch)
		return error_memory(err, "a row of logits");
	if (engine_logit_row(run->engine, 0, run->logits, err))
		return -1;
	sampler_pick_full(run->logits, vocab, &options->sampling, u, run->scratch, id);
	return 0;
}

/* Runs what is not in the cache yet, the prompt or the newest id, and picks the next. */
static int next_id(struct run *run, const struct generate_options *options, int32_t *id,
		   struct error *err)
{
	struct sequence *sequence = &run->sequence;
	int32_t max_tokens = run->batch.limits->max_tokens;

	while (sequence->cached < sequence->count) {
		int32_t left = sequence->count - sequence->cached;
		bool last = left <= max_tokens;
		/* transformers turns all of a prompt by the prompt's whole length, and each later
		 * token by the length it makes. */
		struct logit_request *request = run_prepare(run, last ? left : max_tokens, last,
							    sequence->count, err);
		if (!request)
			return -1;
		if (last) {
			request->inverse_temperature = sampling_inverse_temperature(&options->sampling);
			request->repetition_penalty = (float)options->sampling.repetition_penalty;
			request->penalized = sequence->distinct;
			request->penalized_count = sequence->distinct_count;
		}
		if (run_step(run, err))
			return -1;
	}
	return pick(run, options, id, err);
}

static bool ends(const struct generate_options *options, int32_t id)
{
	for (int32_t i = 0; i < options->eos_count; i++)
		if (options->eos[i] == id)
			return true;
	return false;
}

/* Makes ids up to `cap` of them, 1 or more. */
static int make_ids(struct run *run, const struct generate_options *options, int32_t cap,
		    struct generate_result *out, struct error *err)
{
	double start = now_s(), first = start;

	for (;;) {
		int32_t id;
		if (next_id(run, options, &id, err))
			return -1;
		double now = now_s();
		if (out->count == 0)
			first = now;
		out->prefill_s = first - start;
		out->decode_s = now - first;
		out->ids[out->count++] = id;
		sequence_add(&run->sequence, id);
		int put = options->put ? options->put(options->put_context, id, err) : 0;
		if (put < 0)
			return -1;
		if (put || ends(options, id)) {
			out->finish = FINISH_STOP;
			return 0;
		}
		if (out->count == cap) {
			out->finish = FINISH_LENGTH;
			return 0;
		}
	}
}

int generate_run(struct engine *engine, const struct generate_options *options,
		 struct generate_result *out, struct error *err)
{
	struct run run = {0};
	int32_t cap = options->max_new_tokens, prompt = options->prompt_count;

	*out = (struct generate_result){.finish = FINISH_LENGTH};
	if (sampling_check(&options->sampling, err))
		return -1;
	if (prompt < 1 || cap < 0)
		return error_usage(err, "a prompt of %d tokens and %d new ones: give a prompt of 1 or "
				   "more, and 0 or more new tokens", prompt, cap);
	if (prompt > options->context)
		return error_usage(err, "the prompt's %d tokens are more than the context of %d: "
				   "shorten it or give a larger --context", prompt, options->context);
	if (cap > options->context - prompt)
		cap = options->context - prompt;

	out->ids = malloc(((size_t)cap + 1) * sizeof *out->ids);
	if (!out->ids) {
		error_memory(err, "the new ids");
		goto fail;
	}
	if (run_open(&run, engine, options->config, options->prompt, prompt, prompt + cap,
		     options->sampling.repetition_penalty != 1, err))
		goto fail;
	if (cap && make_ids(&run, options, cap, out, err))
		goto fail;
	run_close(&run);
	return 0;
fail:
	run_close(&run);
	free(out->ids);
	*out = (struct generate_result){0};
	return -1;
}

/* ---- scores ------------------------------------------------------------------------------------ */

static int score_ids(struct run *run, const struct score_options *options, double *logprobs,
		     struct error *err)
{
	const struct backend_options *limits = run->batch.limits;
	int32_t chunk = limits->max_tokens < limits->max_logit_rows ? limits->max_tokens
								    : limits->max_logit_rows;
	int32_t total = options->count - 1; /* nothing is asked of the last id */

	for (int32_t done = 0; done < total;) {
		int32_t tokens = total - done < chunk ? total - done : chunk;
		/* transformers scores a text in one pass, so its whole length counts for rope. */
		struct logit_request *requests = run_prepare(run, tokens, tokens, options->count, err);
		if (!requests)
			return -1;
		for (int32_t i = 0; i < tokens; i++)
			requests[i].target = options->ids[done + i + 1];
		if (run_step(run, err))
			return -1;
		for (int32_t i = 0; i < tokens; i++)
			logprobs[done + i] = run->lists[i].target_logit - run->lists[i].log_sum_exp;
		done += tokens;
		if (options->progress)
			options->progress(options->progress_context, done, total);
	}
	return 0;
}

int score_run(struct engine *engine, const struct score_options *options, double *logprobs,
	      struct error *err)
{
	struct run run;

	if (options->count < 1)
		return error_usage(err, "there is no token to score");
	if (options->count > options->context)
		return error_usage(err, "the text's %d tokens are more than the context of %d: shorten "
				   "it or give a larger --context", options->count, options->context);
	int result = run_open(&run, engine, options->config, options->ids, options->count,
			      options->count, false, err);
	if (!result)
		result = score_ids(&run, options, logprobs, err);
	run_close(&run);
	return result;
}
