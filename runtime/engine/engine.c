#include "runtime/engine/engine.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/engine/forward.h"
#include "runtime/engine/message.h"

/* A rank's part of the vocabulary. */
struct vocab_part {
	int32_t first, count;
};

struct engine {
	struct backend *backend;
	const struct backend_options *options;
	const struct group *group;
	struct message message;
	struct logit_result *results; /* [max_logit_rows] of this rank */
	struct logit_result *parts;   /* rank 0, with others: [size][max_logit_rows or fewer] */
	struct vocab_part *vocab;     /* [size] */
	int32_t widest;		      /* the largest of the parts */
	float *row, *rows;	      /* [widest]; rank 0: [size][widest] */
	int32_t rows_ready;	      /* of the last step: what engine_logit_row may ask for */
	/* Rank 0, between engine_submit and engine_collect: */
	const struct logit_request *requests;
	int32_t rows_due;
	struct engine_times times;
	const struct step_observer *observer;
};

static double now_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* All ranks learn all parts of the vocabulary. */
static int share_vocab(struct engine *engine, struct error *err)
{
	const struct backend_shape *shape = &engine->options->shape;
	const struct group *group = engine->group;
	const struct vocab_part own = {shape->first_vocab, shape->vocab};
	int32_t next = 0;

	engine->vocab = calloc((size_t)group->size, sizeof *engine->vocab);
	if (!engine->vocab)
		return error_memory(err, "the parts of the vocabulary");
	engine->vocab[0] = own;
	if (group->size > 1) {
		if (group->gather(group, &own, sizeof own, group->rank ? NULL : engine->vocab, err) ||
		    group->broadcast(group, engine->vocab, (size_t)group->size * sizeof own, 0, err))
			return -1;
	}
	for (int r = 0; r < group->size; r++) {
		const struct vocab_part *part = &engine->vocab[r];
		if (part->count < 0 || part->count > shape->total_vocab - next ||
		    (part->count && part->first != next))
			return error_run(err, "rank %d holds %d tokens of the vocabulary from %d on, "
					 "expected from %d on", r, part->count, part->first, next);
		next += part->count;
		if (part->count > engine->widest)
			engine->widest = part->count;
	}
	if (next != shape->total_vocab)
		return error_run(err, "the ranks hold %d tokens of a vocabulary of %d", next,
				 shape->total_vocab);
	return 0;
}

int engine_open(struct engine **out, struct backend *backend, const struct backend_options *options,
		struct error *err)
{
	const struct group *group = options->group;
	size_t rows = (size_t)options->max_logit_rows, size = (size_t)group->size;
	bool alone = group->size == 1, first = group->rank == 0;

	*out = NULL;
	if (options->max_tokens < 1 || options->max_sequences < 1 || options->max_logit_rows < 1 ||
	    options->max_blocks < 1 || options->max_blocks > INT32_MAX / KV_BLOCK ||
	    options->kv_blocks < 1)
		return error_run(err, "an engine of %d tokens, %d sequences, %d rows of logits, %d blocks "
				 "a sequence and %d in all cannot be", options->max_tokens,
				 options->max_sequences, options->max_logit_rows, options->max_blocks,
				 options->kv_blocks);
	struct engine *engine = calloc(1, sizeof *engine);
	if (!engine)
		return error_memory(err, "the engine");
	engine->backend = backend;
	engine->options = options;
	engine->group = group;
	if (share_vocab(engine, err))
		goto fail;
	if (!alone && message_open(&engine->message, options, !first, err))
		goto fail;
	engine->results = calloc(rows + 1, sizeof *engine->results);
	engine->row = calloc((size_t)engine->widest, sizeof *engine->row);
	if (first && !alone) {
		engine->parts = calloc(rows * size + 1, sizeof *engine->parts);
		engine->rows = calloc((size_t)engine->widest * size, sizeof *engine->rows);
	}
	if (!engine->results || !engine->row ||
	    (first && !alone && (!engine->parts || !engine->rows))) {
		error_memory(err, "the ranks' logits");
		goto fail;
	}
	*out = engine;
	return 0;
fail:
	engine_close(engine);
	return -1;
}

void engine_close(struct engine *engine)
{
	if (!engine)
		return;
	message_close(&engine->message);
	free(engine->results);
	free(engine->parts);
	free(engine->vocab);
	free(engine->row);
	free(engine->rows);
	free(engine);
}

const struct backend_options *engine_options(const struct engine *engine)
{
	return engine->options;
}

/* ---- messages --------------------------------------------------------------------------------- */

/* Sends the packed message, or receives one: the same two broadcasts on both sides. */
static int pass_message(struct engine *engine, struct error *err)
{
	const struct group *group = engine->group;
	struct message *message = &engine->message;
	const size_t word = sizeof *message->words;
	size_t length;

	if (group->broadcast(group, message->words, MESSAGE_FIRST * word, 0, err) ||
	    message_length(message, &length, err))
		return -1;
	if (length <= MESSAGE_FIRST)
		return 0;
	return group->broadcast(group, message->words + MESSAGE_FIRST,
				(length - MESSAGE_FIRST) * word, 0, err);
}

/* The range that a profiler sees of a step, its work on the device included. */
static void begin_range(const struct engine *engine, const struct step *step)
{
	profile_begin(engine->options->profile, step->tokens > step->sequences ? "prefill" : "step");
}

/* ---- what every rank does ---------------------------------------------------------------------- */

static int run_step(struct engine *engine, const struct step *step, struct error *err)
{
	const struct backend_options *options = engine->options;

#ifdef TPRUN_FAULTS
	if (options->activity && atomic_load(&options->activity->failing))
		return error_run(err, "a fault was asked for");
#endif
	int result = forward(engine->backend, options->shape.layers, step, options->activity, err);
	/* A step that a device replays tells of no layers. Who waits for it now is ahead of who has not begun. */
	activity_progress(options->activity);
	return result;
}

/* From here on progress is due, until leave_step. */
static void enter_step(struct engine *engine, const struct step *step)
{
	activity_enter(engine->options->activity,
		       step->tokens > step->sequences ? ACTIVITY_PREFILL : ACTIVITY_DECODE);
}

static void leave_step(struct engine *engine)
{
	activity_enter(engine->options->activity, ACTIVITY_IDLE);
}

/* Waits for this rank's part of a step and answers `requests`: to results, and rank 0's parts. */
static int answer(struct engine *engine, const struct logit_request *requests, int32_t rows,
		  struct error *err)
{
	const struct group *group = engine->group;

	if (engine->backend->ops->candidates(engine->backend, requests, engine->results, err))
		return -1;
	engine->times.free_s = now_s();
	if (group->size == 1 || rows == 0)
		return 0;
	return group->gather(group, engine->results, (size_t)rows * sizeof *engine->results,
			     engine->parts, err);
}

/* This rank's part of a row of logits; the parts arrive in rank 0's rows. */
static int run_row(struct engine *engine, int32_t row, struct error *err)
{
	const struct group *group = engine->group;

	if (engine->options->shape.vocab &&
	    engine->backend->ops->logit_row(engine->backend, row, engine->row, err))
		return -1;
	if (group->size == 1)
		return 0;
	/* A gather takes parts of one size: the shorter ones travel with a tail of old values. */
	return group->gather(group, engine->row, (size_t)engine->widest * sizeof *engine->row,
			     engine->rows, err);
}

/* ---- rank 0 ------------------------------------------------------------------------------------ */

int engine_submit(struct engine *engine, const struct step *step,
		  const struct logit_request *requests, struct error *err)
{
	if (message_check_step(engine->options, step, requests, err))
		return -1;
	enter_step(engine, step);
	if (engine->group->size > 1) {
		message_pack_step(&engine->message, step, requests);
		if (pass_message(engine, err))
			return -1;
	}
	engine->rows_ready = 0;
	engine->rows_due = step->logit_rows;
	engine->requests = requests;
	engine->times.handed_s = now_s();
	begin_range(engine, step);
	return run_step(engine, step, err);
}

int engine_collect(struct engine *engine, struct candidate_list *lists, struct error *err)
{
	int32_t rows = engine->rows_due;

	if (answer(engine, engine->requests, rows, err))
		return -1;
	/* The gathered parts lie [rank][row]. */
	const struct logit_result *parts = engine->group->size == 1 ? engine->results
								    : engine->parts;
	for (int32_t i = 0; i < rows; i++)
		if (sampler_merge(&lists[i], parts + i, (size_t)rows, engine->group->size,
				  engine->options->shape.total_vocab, err))
			return -1;
	engine->rows_ready = rows;
	leave_step(engine);
	profile_end(engine->options->profile);
	return 0;
}

int engine_step(struct engine *engine, const struct step *step, const struct logit_request *requests,
		struct candidate_list *lists, struct error *err)
{
	return engine_submit(engine, step, requests, err) || engine_collect(engine, lists, err) ? -1 : 0;
}

bool engine_asynchronous(const struct engine *engine)
{
	return engine->backend->ops->asynchronous;
}

struct engine_times engine_times(const struct engine *engine)
{
	return engine->times;
}

void engine_observe(struct engine *engine, const struct step_observer *observer)
{
	engine->observer = observer;
}

const struct step_observer *engine_observer(const struct engine *engine)
{
	return engine->observer;
}

int32_t engine_rows(const struct engine *engine)
{
	return engine->rows_ready;
}

int engine_logit_row(struct engine *engine, int32_t row, float *out, struct error *err)
{
	bool alone = engine->group->size == 1;

	if (row < 0 || row >= engine->rows_ready)
		return error_run(err, "row %d of the logits is asked for; the last step had %d", row,
				 engine->rows_ready);
	if (!alone) {
		message_pack_row(&engine->message, row);
		if (pass_message(engine, err))
			return -1;
	}
	if (run_row(engine, row, err))
		return -1;
	for (int r = 0; r < engine->group->size; r++) {
		const float *part = alone ? engine->row
					  : engine->rows + (size_t)r * (size_t)engine->widest;
		if (engine->vocab[r].count)
			memcpy(out + engine->vocab[r].first, part,
			       (size_t)engine->vocab[r].count * sizeof *out);
	}
	return 0;
}

int engine_stop(struct engine *engine, struct error *err)
{
	if (engine->group->size == 1)
		return 0;
	message_pack_stop(&engine->message);
	return pass_message(engine, err);
}

/* ---- the others -------------------------------------------------------------------------------- */

int engine_follow(struct engine *engine, struct error *err)
{
	struct message *message = &engine->message;

	if (engine->group->rank == 0)
		return error_run(err, "rank 0 leads the steps; only the others follow");
	for (;;) {
		if (pass_message(engine, err))
			return -1;
		switch (message_unpack(message, err)) {
		case MESSAGE_RUN:
			enter_step(engine, &message->step);
			begin_range(engine, &message->step);
			if (run_step(engine, &message->step, err) ||
			    answer(engine, message->requests, message->step.logit_rows, err))
				return -1;
			profile_end(engine->options->profile);
			engine->rows_ready = message->step.logit_rows;
			leave_step(engine);
			break;
		case MESSAGE_LOGIT_ROW:
			if (message->row < 0 || message->row >= engine->rows_ready)
				return error_run(err, "row %d of the logits is asked for; the last "
						 "step had %d", message->row, engine->rows_ready);
			if (run_row(engine, message->row, err))
				return -1;
			break;
		case MESSAGE_STOP:
			return 0;
		default:
			return -1;
		}
	}
}
