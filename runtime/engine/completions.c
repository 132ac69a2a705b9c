#include "runtime/engine/completions.h"

#include <stdlib.h>

#include "runtime/model/rope.h"

/* One completion. It stands in the list of all, and in `news` while its newest id, or its end, has
 * not been handed to its owner. */
struct completion {
	struct completion_request request; /* `prompt` is the sequence's by now */
	struct scheduled *scheduled;	   /* NULL once the scheduler let it go */
	int32_t made, newest, shared;	   /* ids made, the last of them */
	bool due;	/* the newest id is to be handed over */
	bool ended;	/* by an EOS or the length */
	bool stopped;	/* by its owner */
	enum finish_reason finish;
	struct completion *previous, *next, *next_news;
};

struct completions {
	struct engine *engine;
	const struct model_config *config;
	struct scheduler *scheduler;
	struct batch batch;
	struct candidate_list *lists; /* [max_logit_rows] */
	struct completion **rows;     /* [max_logit_rows]: whose row it is, of the step that runs */
	float *logits;	  /* [vocab]: a full row, where the candidates don't reach; taken when needed */
	int32_t *scratch; /* [vocab] */
	struct completion *all, *news, **news_end;
	bool draining;
	bool step_runs; /* between begin and end */
	bool in_flow;	/* the last round ran a step: what passes until the next one is lost time */
	double free_s;	/* when the device had done it */
	struct completions_times times;
};

int completions_open(struct completions **out, struct engine *engine,
		     const struct model_config *config, bool share, struct error *err)
{
	const struct backend_options *limits = engine_options(engine);
	bool dynamic = config->rope.type == ROPE_DYNAMIC;
	struct scheduler_options options = {
		.kv_blocks = limits->kv_blocks, .max_blocks = limits->max_blocks,
		.max_tokens = limits->max_tokens, .max_sequences = limits->max_sequences,
		.vocab = limits->shape.total_vocab, .share = share && !dynamic,
		.one_by_one = dynamic,
	};
	size_t rows = (size_t)limits->max_logit_rows;
	struct completions *self = calloc(1, sizeof *self);

	*out = NULL;
	if (!self)
		return error_memory(err, "the completions");
	self->engine = engine;
	self->config = config;
	self->news_end = &self->news;
	/* Each sequence may want a row of logits. */
	if (options.max_sequences > limits->max_logit_rows)
		options.max_sequences = limits->max_logit_rows;
	if (options.max_sequences > limits->max_tokens)
		options.max_sequences = limits->max_tokens;
	self->lists = calloc(rows, sizeof *self->lists);
	self->rows = calloc(rows, sizeof *self->rows);
	if (!self->lists || !self->rows) {
		error_memory(err, "lists of candidates");
		goto fail;
	}
	if (scheduler_open(&self->scheduler, &options, err) ||
	    batch_open(&self->batch, limits, err))
		goto fail;
	*out = self;
	return 0;
fail:
	completions_close(self);
	return -1;
}

static void forget(struct completions *self, struct completion *completion)
{
	if (completion->previous)
		completion->previous->next = completion->next;
	else
		self->all = completion->next;
	if (completion->next)
		completion->next->previous = completion->previous;
	free(completion);
}

void completions_close(struct completions *self)
{
	if (!self)
		return;
	while (self->all)
		forget(self, self->all);
	scheduler_close(self->scheduler);
	batch_close(&self->batch);
	free(self->lists);
	free(self->rows);
	free(self->logits);
	free(self->scratch);
	free(self);
}

int completions_add(struct completions *self, const struct completion_request *request,
		    struct error *err)
{
	if (sampling_check(&request->sampling, err))
		return -1;
	if (request->prompt_count < 1 || request->max_new_tokens < 1 ||
	    request->max_new_tokens > INT32_MAX - request->prompt_count)
		return error_usage(err, "a prompt of %d tokens and %d new ones: give 1 or more of each",
				   request->prompt_count, request->max_new_tokens);
	for (int32_t i = 0; i < request->prompt_count; i++)
		if (request->prompt[i] < 0 || request->prompt[i] >= self->config->vocab)
			return error_usage(err, "token id %d is outside the model's vocabulary of %d",
					   request->prompt[i], self->config->vocab);
	struct completion *completion = calloc(1, sizeof *completion);
	if (!completion)
		return error_memory(err, "a completion");
	completion->request = *request;
	if (scheduler_add(self->scheduler, request->prompt, request->prompt_count,
			  request->prompt_count + request->max_new_tokens,
			  request->sampling.repetition_penalty != 1, completion,
			  &completion->scheduled, err)) {
		free(completion);
		return -1;
	}
	completion->request.prompt = NULL;
	completion->next = self->all;
	if (self->all)
		self->all->previous = completion;
	self->all = completion;
	return 0;
}

/* ---- after a step ------------------------------------------------------------------------------ */

static bool is_eos(const struct completion_request *request, int32_t id)
{
	for (int32_t i = 0; i < request->eos_count; i++)
		if (request->eos[i] == id)
			return true;
	return false;
}

/* The next id of a completion, from row `row` of the step. */
static int pick(struct completions *self, const struct completion *completion, int32_t row,
		int32_t *id, struct error *err)
{
	const struct sampling *sampling = &completion->request.sampling;
	int32_t vocab = self->config->vocab;
	double u = sampler_draw(sampling->seed, completion->request.request,
				(uint64_t)completion->scheduled->sequence.count);

	if (sampler_pick(&self->lists[row], sampling, u, id) == 0)
		return 0;
	if (!self->logits)
		self->logits = calloc((size_t)vocab, sizeof *self->logits);
	if (!self->scratch)
		self->scratch = calloc((size_t)vocab, sizeof *self->scratch);
	if (!self->logits || !self->scratch)
		return error_memory(err, "a row of logits");
	if (engine_logit_row(self->engine, row, self->logits, err))
		return -1;
	sampler_pick_full(self->logits, vocab, sampling, u, self->scratch, id);
	return 0;
}

static void let_go(struct completions *self, struct completion *completion)
{
	completion->shared = completion->scheduled->shared;
	scheduler_remove(self->scheduler, completion->scheduled);
	completion->scheduled = NULL;
}

/* Gives a completion its next id, or its end. */
static int advance(struct completions *self, struct completion *completion, int32_t row,
		   struct error *err)
{
	const struct completion_request *request = &completion->request;

	if (!completion->stopped) {
		if (pick(self, completion, row, &completion->newest, err))
			return -1;
		completion->due = true;
		completion->ended = is_eos(request, completion->newest);
		completion->finish = completion->ended ? FINISH_STOP : FINISH_LENGTH;
		if (++completion->made == request->max_new_tokens)
			completion->ended = true;
	}
	if (completion->stopped || completion->ended)
		let_go(self, completion);
	else
		scheduler_append(self->scheduler, completion->scheduled, completion->newest);
	*self->news_end = completion;
	self->news_end = &completion->next_news;
	return 0;
}

/* Hands the ids of the last step to their owners, and the ends. A completion that its owner stops
 * while a step runs ends with the next logits that it is owed. */
static int hand_over(struct completions *self, bool step_runs, struct error *err)
{
	struct completion *next;

	*self->news_end = NULL;
	for (struct completion *completion = self->news; completion; completion = next) {
		const struct completion_request *request = &completion->request;
		next = completion->next_news;
		if (completion->due) {
			int put = request->put(request->context, completion->newest, err);
			if (put < 0)
				return -1;
			completion->due = false;
			completion->stopped = put > 0;
			if (put)
				completion->finish = FINISH_STOP;
		}
		if (completion->stopped && completion->scheduled && !step_runs)
			let_go(self, completion);
		if (completion->scheduled)
			continue;
		if (request->done(request->context, completion->finish, completion->shared, err))
			return -1;
		forget(self, completion);
	}
	self->news = NULL;
	self->news_end = &self->news;
	return 0;
}

/* ---- a step ------------------------------------------------------------------------------------ */

static void fill_batch(struct completions *self, struct scheduler_step plan)
{
	batch_clear(&self->batch);
	for (int32_t i = 0; i < plan.count; i++) {
		const struct scheduled *entry = plan.entries[i];
		struct completion *completion = entry->owner;
		const struct sampling *sampling = &completion->request.sampling;
		const struct sequence *sequence = &entry->sequence;
		/* transformers turns all of a prompt by the prompt's whole length, and each later
		 * token by the length it makes. */
		int32_t length = sequence->cached < entry->prompt_count
					 ? entry->prompt_count
					 : sequence->cached + entry->tokens;
		int32_t row = self->batch.step.logit_rows;
		struct logit_request *request = batch_add(&self->batch, sequence, entry->tokens,
							  entry->logits,
							  rope_growth(self->config, length));
		if (!entry->logits)
			continue;
		self->rows[row] = completion;
		request->inverse_temperature = sampling_inverse_temperature(sampling);
		request->repetition_penalty = (float)sampling->repetition_penalty;
		request->penalized = sequence->distinct;
		request->penalized_count = sequence->distinct_count;
	}
}

int completions_begin(struct completions *self, struct error *err)
{
	bool asynchronous = engine_asynchronous(self->engine);

	if (!asynchronous && hand_over(self, false, err))
		return -1;
	struct scheduler_step plan = scheduler_plan(self->scheduler);
	self->step_runs = plan.count > 0;
	if (self->step_runs) {
		fill_batch(self, plan);
		if (engine_submit(self->engine, &self->batch.step, self->batch.requests, err))
			return -1;
	}
	return asynchronous ? hand_over(self, self->step_runs, err) : 0;
}

/* `kv_blocks`: held while the step ran, before the sequences that ended with it let theirs go. */
static void tell_observer(const struct completions *self, int32_t kv_blocks)
{
	const struct step_observer *observer = engine_observer(self->engine);
	struct engine_times times = engine_times(self->engine);
	const struct step_report report = {
		.seconds = times.free_s - times.handed_s, .sequences = self->batch.step.sequences,
		.tokens = self->batch.step.tokens, .kv_blocks = kv_blocks,
	};
	if (observer)
		observer->step(observer->context, &report);
}

int completions_end(struct completions *self, bool *left, struct error *err)
{
	int32_t held = scheduler_counts(self->scheduler).blocks_used;
	bool followed = self->in_flow;
	double free_s = self->free_s;

	self->in_flow = self->step_runs;
	if (self->step_runs) {
		if (engine_collect(self->engine, self->lists, err))
			return -1;
		scheduler_ran(self->scheduler);
		struct engine_times times = engine_times(self->engine);
		self->free_s = times.free_s;
		if (followed) {
			self->times.between_s += times.handed_s - free_s;
			self->times.steps_s += times.free_s - free_s;
		}
		for (int32_t i = 0; i < self->batch.step.logit_rows; i++)
			if (advance(self, self->rows[i], i, err))
				return -1;
	}
	struct scheduler_counts counts = scheduler_counts(self->scheduler);
	if (self->in_flow)
		tell_observer(self, held);
	*left = self->news || counts.running || (counts.waiting && !self->draining);
	return 0;
}

void completions_drain(struct completions *self)
{
	self->draining = true;
	scheduler_drain(self->scheduler);
}

struct scheduler_counts completions_counts(const struct completions *self)
{
	return scheduler_counts(self->scheduler);
}

struct completions_times completions_times(const struct completions *self)
{
	return self->times;
}
