/*
 * engine.h - steps of inference over all ranks.
 *
 * Rank 0 decides what a step is and hands it to engine_submit; the other ranks sit in
 * engine_follow, take each step from a message, compute their part and decide nothing. The KV
 * cache is paged: rank 0 keeps the tables of blocks. A rank alone sends no messages. Nothing is
 * allocated after engine_open.
 */
#ifndef TPRUN_ENGINE_ENGINE_H
#define TPRUN_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/error.h"
#include "runtime/text/sampler.h"

struct engine;

/* Collective, and all ranks return alike as far as memory allows. `options` are those that the
 * backend was opened with: its group, its sizes and the shape of this rank's part. Both are
 * borrowed until engine_close. */
int engine_open(struct engine **out, struct backend *, const struct backend_options *options,
		struct error *err);
void engine_close(struct engine *);

/* The sizes that a step must keep to. Borrowed. */
const struct backend_options *engine_options(const struct engine *);

/* Rank 0: hands a step to all ranks; requests[step->logit_rows] go along, and must stay as they are
 * until engine_collect. The lists of penalized ids hold together at most max_sequences times the
 * smaller of the vocabulary and max_blocks * KV_BLOCK. A step that breaks a limit is refused before
 * any rank sees it; any other failure leaves the ranks out of step, and the run must end. */
int engine_submit(struct engine *, const struct step *, const struct logit_request *requests,
		  struct error *err);
/* Rank 0, after each engine_submit: waits for the step, whose results come merged over the ranks in
 * lists[logit_rows]. */
int engine_collect(struct engine *, struct candidate_list *lists, struct error *err);
/* Both in one. */
int engine_step(struct engine *, const struct step *, const struct logit_request *requests,
		struct candidate_list *lists, struct error *err);
/* Whether this rank's device works on by itself after engine_submit, so that the host's time is
 * free until engine_collect. */
bool engine_asynchronous(const struct engine *);
/* When this rank's device was handed the last step, and when it was free again: seconds of
 * CLOCK_MONOTONIC. */
struct engine_times {
	double handed_s, free_s;
};
struct engine_times engine_times(const struct engine *);
/* What a step came to, for whoever counts. */
struct step_report {
	double seconds; /* from its handing over to the device to the results */
	int32_t sequences, tokens;
	int32_t kv_blocks; /* held by sequences */
};
struct step_observer {
	void (*step)(void *context, const struct step_report *);
	void *context;
};
/* Rank 0: whom completions.h tells of every step; NULL, as at first: nobody. Borrowed. */
void engine_observe(struct engine *, const struct step_observer *);
const struct step_observer *engine_observer(const struct engine *);

/* Rows of logits that the last collected step had. */
int32_t engine_rows(const struct engine *);
/* Rank 0, after engine_collect: the whole row of logits (penalty and temperature applied) into
 * out[total_vocab], gathered from all ranks. */
int engine_logit_row(struct engine *, int32_t row, float *out, struct error *err);
/* Rank 0: lets the others return from engine_follow. */
int engine_stop(struct engine *, struct error *err);

/* Other ranks: serves steps until rank 0 stops. */
int engine_follow(struct engine *, struct error *err);

#endif
