/*
 * engine.h - steps of inference over all ranks.
 *
 * Rank 0 decides what a step is and hands it to engine_step; the other ranks sit in
 * engine_follow, take each step from a message, compute their part and decide nothing. The KV
 * cache is paged: rank 0 keeps the tables of blocks.
 */
#ifndef TPRUN_ENGINE_ENGINE_H
#define TPRUN_ENGINE_ENGINE_H

#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/group.h"
#include "runtime/text/sampler.h"

struct engine;

/* Sizes that the backend was opened with; all borrowed until engine_close. */
struct engine_options {
	const struct group *group;
	struct backend *backend;
	int32_t layers;
	int32_t vocab;		   /* the whole model's */
	int32_t local_vocab;	   /* this rank's part */
	int32_t max_tokens, max_sequences, max_blocks, max_logit_rows;
};

int engine_open(struct engine **out, const struct engine_options *, struct error *err);
void engine_close(struct engine *);

/* Rank 0: runs a step on all ranks. requests[step->logit_rows] go along; results come back merged
 * over ranks in lists[step->logit_rows]. */
int engine_step(struct engine *, const struct step *, const struct logit_request *requests,
		struct candidate_list *lists, struct error *err);
/* Rank 0, after engine_step: the whole row of logits (penalty and temperature applied) into
 * out[vocab], gathered from all ranks. */
int engine_logit_row(struct engine *, int32_t row, float *out, struct error *err);
/* Rank 0: lets the others return from engine_follow. */
int engine_stop(struct engine *, struct error *err);

/* Other ranks: serves steps until rank 0 stops. */
int engine_follow(struct engine *, struct error *err);

#endif
