/*
 * sampler.h - from the ranks' candidates to the next token; pure functions.
 *
 * The distribution is softmax over penalized, tempered logits, cut by top-k, top-p and min-p
 * in the order of Hugging Face's logits processors. Tokens stand in descending order of
 * logit, ties by lower id, and the draw u picks the first token whose cumulative share
 * exceeds u. u is a function of (seed, request, position) alone, so the order of work and
 * the number of ranks change nothing but ties within rounding.
 */
#ifndef TPRUN_TEXT_SAMPLER_H
#define TPRUN_TEXT_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/error.h"

struct sampling {
	double temperature; /* 0: greedy */
	int32_t top_k;	    /* 0: all */
	double top_p;	    /* 1: all */
	double min_p;	    /* 0: all */
	double repetition_penalty; /* 1: none */
	uint64_t seed;
};

/* Checks the ranges: temperature >= 0, top_k >= 0, 0 < top_p <= 1, 0 <= min_p <= 1, penalty from
 * 0.001 to 1000 (beyond, logits could overflow); an ERROR_USAGE names the option. */
int sampling_check(const struct sampling *, struct error *err);

/* What a row's logits are multiplied by (struct logit_request); 1 for greedy. */
float sampling_inverse_temperature(const struct sampling *);

/* Uniform in [0, 1): a counter-based function, 53 bits of SplitMix64's finalizer. */
double sampler_draw(uint64_t seed, uint64_t request, uint64_t position);

/* The answers of all ranks for one row, merged: the best tokens of the whole vocabulary, exact as
 * far as they go. */
struct candidate_list {
	int32_t count;
	int32_t ids[CANDIDATES];
	float logits[CANDIDATES];
	double log_sum_exp; /* over the whole vocabulary; exact to the parts' float32 */
	float target_logit; /* -INFINITY where no target was asked for */
	bool complete;	    /* the list is the whole vocabulary */
};

/* Rank r's part is parts[r * stride]. -1 with an error where a part holds NaN or infinity: the
 * model's numbers are broken. */
int sampler_merge(struct candidate_list *out, const struct logit_result *parts, size_t stride,
		  int32_t ranks, int32_t vocab, struct error *err);

/* Picks with draw u in [0, 1). Returns 0 with *id, or 1 where the candidates don't reach far
 * enough: then gather the full row and call sampler_pick_full. */
int sampler_pick(const struct candidate_list *, const struct sampling *, double u, int32_t *id);
/* From a whole row logits[vocab] (penalty and temperature applied). scratch: vocab ints. */
void sampler_pick_full(const float *logits, int32_t vocab, const struct sampling *, double u,
		       int32_t *scratch, int32_t *id);

#endif
