/*
 * generate.h - one completion, and the log-probabilities of a text; rank 0's loops.
 */
#ifndef TPRUN_ENGINE_GENERATE_H
#define TPRUN_ENGINE_GENERATE_H

#include <stdint.h>

#include "runtime/engine/completions.h"
#include "runtime/engine/engine.h"
#include "runtime/model/config.h"
#include "runtime/text/sampler.h"

struct generate_options {
	const struct model_config *config;
	int32_t context;	 /* prompt and new ids together; at most what the cache was opened for */
	const int32_t *prompt;	 /* 1 or more ids below config->vocab */
	int32_t prompt_count;
	int32_t max_new_tokens;	 /* the cap, 0 or more; the context caps too */
	const int32_t *eos;
	int32_t eos_count;	 /* 0: none ends it */
	struct sampling sampling;
	uint64_t request;	 /* the draw's request number; its position is the new id's index in the
				    whole sequence, prompt included */
	/* May be NULL. Called for each new id in order, the final EOS included; returns 1 to stop (a
	 * stop string was met), 0 to go on, -1 to fail with err. */
	int (*put)(void *context, int32_t id, struct error *err);
	void *put_context;
};

struct generate_result {
	int32_t *ids;	/* malloc'ed: the new ids, the final EOS included; the caller frees it */
	int32_t count;
	enum finish_reason finish; /* LENGTH: max_new_tokens or the context is used up */
	double prefill_s;  /* from the call to the first new id */
	double decode_s;   /* from the first new id to the last */
};

/* Runs the prompt in chunks of at most max_tokens of the engine, then id after id. A prompt longer
 * than the context is an ERROR_USAGE. After an error from engine_step the run must end; on any
 * error *out holds nothing to free. */
int generate_run(struct engine *, const struct generate_options *, struct generate_result *out,
		 struct error *err);

struct score_options {
	const struct model_config *config;
	int32_t context;
	const int32_t *ids; /* 1 or more below config->vocab, at most `context` */
	int32_t count;
	void (*progress)(void *context, int32_t done, int32_t total); /* may be NULL */
	void *progress_context;
};

/* logprobs[count - 1]: natural log of the probability of ids[i + 1] given those before it, at
 * temperature 1. The ids are run in chunks of at most max_tokens and max_logit_rows of the
 * engine. */
int score_run(struct engine *, const struct score_options *, double *logprobs, struct error *err);

#endif
