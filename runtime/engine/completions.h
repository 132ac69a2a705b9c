/*
 * completions.h - many completions at a time; rank 0's loop of steps.
 *
 * Completions are added at any time and advance together, a step at a time, by the rules of
 * scheduler.h. Where the devices work by themselves (engine_asynchronous), the ids of a step are
 * handed to their owners while the next step runs, so turning them into text costs the devices
 * nothing; a completion whose owner says stop ends with the next logits that it is owed, which are
 * dropped.
 */
#ifndef TPRUN_ENGINE_COMPLETIONS_H
#define TPRUN_ENGINE_COMPLETIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/engine/engine.h"
#include "runtime/engine/scheduler.h"
#include "runtime/model/config.h"
#include "runtime/text/sampler.h"

/* STOP: an EOS came, or put said so. LENGTH: max_new_tokens are made. */
enum finish_reason { FINISH_STOP, FINISH_LENGTH };

struct completion_request {
	const int32_t *prompt; /* 1 or more ids; copied */
	int32_t prompt_count;
	int32_t max_new_tokens; /* 1 or more */
	const int32_t *eos;	/* borrowed until `done` */
	int32_t eos_count;	/* 0: none ends it */
	struct sampling sampling;
	uint64_t request; /* the draw's request number; its position is the new id's index in the
			     whole sequence, prompt included */
	/* Called for each new id in order, the final EOS included; returns 1 to stop (a stop string
	 * was met), 0 to go on, -1 to fail the whole run with err. */
	int (*put)(void *context, int32_t id, struct error *err);
	/* Called once, after the last put; the completion is gone then. `shared`: prompt tokens that
	 * were found in the cache. Returns 0, or -1 to fail the whole run with err. */
	int (*done)(void *context, enum finish_reason, int32_t shared, struct error *err);
	void *context;
};

struct completions;

/* `share`: leading blocks are shared between sequences (never for dynamic rope, whose keys depend
 * on the whole length). The engine and config are borrowed. */
int completions_open(struct completions **out, struct engine *, const struct model_config *,
		     bool share, struct error *err);
void completions_close(struct completions *);

/* Queues a completion; not from within put or done. A prompt with ids outside the vocabulary, or one
 * that has no room for its new ids in a sequence of the cache, is an ERROR_USAGE. */
int completions_add(struct completions *, const struct completion_request *, struct error *err);
/* A round: begin starts the next step, where there is something to run, and end waits for it; *left
 * tells whether a completion is left. Between the two, completions may be added and the host is
 * free where engine_asynchronous. After an error the run must end. */
int completions_begin(struct completions *, struct error *err);
int completions_end(struct completions *, bool *left, struct error *err);

/* No completion that waits is begun any more, nor one that is put back: those left are the running
 * ones. */
void completions_drain(struct completions *);

struct scheduler_counts completions_counts(const struct completions *);
/* Seconds of the steps that followed another at once, and the part of them in which this rank's
 * device had no step to run: from the end of one to the handing over of the next. */
struct completions_times {
	double between_s, steps_s;
};
struct completions_times completions_times(const struct completions *);

#endif
