/*
 * rope.h - rotary frequencies of each published rope type, as transformers computes them.
 */
#ifndef TPRUN_MODEL_ROPE_H
#define TPRUN_MODEL_ROPE_H

#include <stdint.h>

#include "runtime/model/config.h"

/* Fills frequencies[head_dim/2] (radians for one position) and the factor on cos and sin. For
 * ROPE_DYNAMIC these are the frequencies up to the model's own length; see rope_growth. */
void rope_frequencies(const struct model_config *, float *frequencies, float *magnitude);

/* Dynamic NTK: the factor g on theta for a sequence of `length` positions, 1 while it is within
 * original_max_positions. theta' = theta * g^(head_dim/(head_dim-2)), with
 * g = factor*length/original - (factor - 1), so pair i turns with
 * frequency_i * g^(-2i/(head_dim-2)). 1 for all other types. */
float rope_growth(const struct model_config *, int32_t length);

#endif
