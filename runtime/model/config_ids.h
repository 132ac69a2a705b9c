/*
 * config_ids.h - token ids in config.json and generation_config.json; for this module alone.
 */
#ifndef TPRUN_MODEL_CONFIG_IDS_H
#define TPRUN_MODEL_CONFIG_IDS_H

#include <jansson.h>

#include "runtime/model/config.h"

/* Reads a key that holds one id or a list of at most CONFIG_EOS_MAX into ids and *count. An
 * absent key leaves both alone; null is an empty list. Ids outside the vocabulary, which no
 * token can be, are left out: small models are often published with a large one's ids. */
int config_token_ids(const json_t *object, const char *key, int32_t vocab, int32_t *ids,
		     int32_t *count, const char *name, struct error *err);

#endif
