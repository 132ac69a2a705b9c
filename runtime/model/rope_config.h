/*
 * rope_config.h - reading the rope of a config.json; for this module alone.
 */
#ifndef TPRUN_MODEL_ROPE_CONFIG_H
#define TPRUN_MODEL_ROPE_CONFIG_H

#include <jansson.h>

#include "runtime/model/config.h"

/* Fills config->rope from rope_parameters, or from rope_theta and rope_scaling, and raises
 * config->max_positions to the length that the scaling reaches. config->head_dim and
 * max_positions (as in the file) must be set. */
int rope_config_read(const json_t *root, struct model_config *config, const char *name,
		     struct error *err);

#endif
