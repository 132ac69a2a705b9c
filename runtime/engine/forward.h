/*
 * forward.h - the forward pass, written once for all backends.
 */
#ifndef TPRUN_ENGINE_FORWARD_H
#define TPRUN_ENGINE_FORWARD_H

#include "kernels/backend.h"

/* Runs one step through all layers; the logits of step->logit_tokens are then the backend's. Tells
 * `activity`, which may be NULL, of every layer. */
int forward(struct backend *, int32_t layers, const struct step *, struct activity *activity,
	    struct error *err);

#endif
