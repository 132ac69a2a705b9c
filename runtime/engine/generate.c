#include "runtime/engine/generate.h"

#include <stdlib.h>
#include <time.h>

#include "runtime/engine/completions.h"
#include "runtime/engine/sequence.h"
#include "runtime/model/rope.h"

static double now_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- generation -------------------------------------------------------------------------------- */

/* The one completion of a run. */
struct single {
	const struct generate_options *options;
	struct generate_result *out;
	double start, first;
};

static int single_put(void *context, int32_t id, struct error *err)
{
	struct single *single = context;
	const struct generate_options *options = single->options;
	struct generate_result *out = single->out;
	double now = now_s();

	if (out->count == 0)
		single->first = now;
	out->prefill_s = single->first - single->start;
	out->decode_s = now - single->first;
	out->ids[out->count++] = id;
	return options->put ? options->put(options->put_context, id, err) : 0;
}

static int single_done(void *context, enum finish_reason finish, int32_t shared, struct error *err)
{
	struct single *single = context;
	(void)shared;
	(void)err;
	single->out->finish = finish;
	return 0;
}

int generate_run(struct engine *engine, const struct generate_options *options,
		 struct generate_result *out, struct error *err)
{
	struct completions *completions = NULL;
	int32_t cap = options->max_new_tokens, prompt = options->prompt_count;
	struct single single = {.options = options, .out = out};
	bool left = true;

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
	const struct completion_request request = {
		.prompt = options->prompt, .prompt_count = prompt, .max_new_tokens = cap,
		.eos = options->eos, .eos_count = options->eos_count,
		.sampling = options->sampling, .request = options->request,
		.put = single_put, .done = single_done, .context = &single,
	};

	out->ids = malloc(((size_t)cap + 1) * sizeof *out->ids);
	if (!out->ids) {
		error_memory(err, "the new ids");
		goto fail;
	}
	if (cap) {
		if (completions_open(&completions, engine, options->config, false, err) ||
		    completions_add(completions, &request, err))
			goto fail;
		single.start = now_s();
		while (left)
			if (completions_begin(completions, err) ||
			    completions_end(completions, &left, err))
				goto fail;
	}
	completions_close(completions);
	return 0;
fail:
	completions_close(completions);
	free(out->ids);
	*out = (struct generate_result){0};
	return -1;
}

/* ---- scores ------------------------------------------------------------------------------------ */

/* A text that has the whole cache for itself. */
struct scoring {
	struct engine *engine;
	struct kv_pool pool;
	struct sequence sequence;
	struct batch batch;
	struct candidate_list *lists; /* [max_logit_rows] */
};

static int scoring_open(struct scoring *run, struct engine *engine,
			const struct score_options *options, struct error *err)
{
	const struct backend_options *limits = engine_options(engine);
	int32_t vocab = limits->shape.total_vocab;

	*run = (struct scoring){.engine = engine};
	for (int32_t i = 0; i < options->count; i++)
		if (options->ids[i] < 0 || options->ids[i] >= vocab)
			return error_usage(err, "token id %d is outside the model's vocabulary of %d",
					   options->ids[i], vocab);
	run->lists = calloc((size_t)limits->max_logit_rows + 1, sizeof *run->lists);
	if (!run->lists)
		return error_memory(err, "lists of candidates");
	if (kv_pool_open(&run->pool, limits->kv_blocks, err) ||
	    batch_open(&run->batch, limits, err) ||
	    sequence_open(&run->sequence, options->count, vocab, false, err))
		return -1;
	for (int32_t i = 0; i < options->count; i++)
		sequence_add(&run->sequence, options->ids[i]);
	return 0;
}

static void scoring_close(struct scoring *run)
{
	if (run->sequence.ids)
		kv_table_release(&run->sequence.table, &run->pool);
	kv_pool_close(&run->pool);
	sequence_close(&run->sequence);
	batch_close(&run->batch);
	free(run->lists);
}

/* Runs the next `tokens` ids and asks for what comes after each. */
static int score_chunk(struct scoring *run, const struct score_options *options, int32_t tokens,
		       double *logprobs, struct error *err)
{
	struct sequence *sequence = &run->sequence;
	int32_t first = sequence->cached, end = first + tokens;

	if (end > run->batch.limits->max_blocks * KV_BLOCK ||
	    kv_table_reserve(&sequence->table, &run->pool, end))
		return error_run(err, "%d tokens need more than the KV cache's %d blocks of %d tokens "
				 "(%d for one sequence): give a larger --context", end, run->pool.count,
				 KV_BLOCK, run->batch.limits->max_blocks);
	batch_clear(&run->batch);
	/* transformers scores a text in one pass, so its whole length counts for rope. */
	struct logit_request *requests = batch_add(&run->batch, sequence, tokens, tokens,
						   rope_growth(options->config, options->count));
	for (int32_t i = 0; i < tokens; i++)
		requests[i].target = options->ids[first + i + 1];
	if (engine_step(run->engine, &run->batch.step, requests, run->lists, err))
		return -1;
	for (int32_t i = 0; i < tokens; i++)
		logprobs[first + i] = run->lists[i].target_logit - run->lists[i].log_sum_exp;
	sequence->cached = end;
	return 0;
}

int score_run(struct engine *engine, const struct score_options *options, double *logprobs,
	      struct error *err)
{
	const struct backend_options *limits = engine_options(engine);
	int32_t chunk = limits->max_tokens < limits->max_logit_rows ? limits->max_tokens
								    : limits->max_logit_rows;
	int32_t total = options->count - 1; /* nothing is asked of the last id */
	struct scoring run;

	if (options->count < 1)
		return error_usage(err, "there is no token to score");
	if (options->count > options->context)
		return error_usage(err, "the text's %d tokens are more than the context of %d: shorten "
				   "it or give a larger --context", options->count, options->context);
	int result = scoring_open(&run, engine, options, err);
	for (int32_t done = 0; !result && done < total;) {
		int32_t tokens = total - done < chunk ? total - done : chunk;
		result = score_chunk(&run, options, tokens, logprobs, err);
		done += tokens;
		if (!result && options->progress)
			options->progress(options->progress_context, done, total);
	}
	scoring_close(&run);
	return result;
}
