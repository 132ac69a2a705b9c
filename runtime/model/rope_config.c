#include "runtime/model/rope_config.h"

#include <math.h>
#include <string.h>

#include "runtime/base/json.h"

static const char *const type_names[] = {
	[ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_DYNAMIC] = "dynamic",
	[ROPE_LLAMA3] = "llama3",   [ROPE_YARN] = "yarn",
};

enum { TYPES = sizeof type_names / sizeof type_names[0] };

static int read_type(const json_t *object, enum rope_type *out, const char *name,
		     struct error *err)
{
	const char *type = "default";
	if (json_get_string(object, "type", &type, name, err) ||
	    json_get_string(object, "rope_type", &type, name, err))
		return -1;
	for (int i = 0; i < TYPES; i++) {
		if (strcmp(type, type_names[i]) == 0) {
			*out = (enum rope_type)i;
			return 0;
		}
	}
	return error_run(err,
			 "%s: rope type \"%.100s\" is not supported; default, linear, dynamic, llama3 and "
			 "yarn are",
			 name, type);
}

static int refuse_partial(const json_t *object, const char *name, struct error *err)
{
	double partial = 1;
	if (json_get_real(object, "partial_rotary_factor", -INFINITY, INFINITY, &partial, name, err))
		return -1;
	if (partial != 1)
		return error_run(err, "%s: partial_rotary_factor %g is not supported; only 1 is", name,
				 partial);
	return 0;
}

/* The length that the model was trained for, before its rope was stretched. */
static int read_original(const json_t *root, const json_t *object, struct model_config *config,
			 const char *name, struct error *err)
{
	static const char key[] = "original_max_position_embeddings";
	int64_t original = config->max_positions;
	if (config->rope.type != ROPE_DYNAMIC &&
	    (json_get_int(object, key, 1, CONFIG_POSITIONS_MAX, &original, name, err) ||
	     json_get_int(root, key, 1, CONFIG_POSITIONS_MAX, &original, name, err)))
		return -1;
	config->rope.original_max_positions = (int32_t)original;
	return 0;
}

static int read_llama3(const json_t *object, struct rope_config *rope, const char *name,
		       struct error *err)
{
	if (json_need(object, "low_freq_factor", name, err) ||
	    json_need(object, "high_freq_factor", name, err) ||
	    json_get_real(object, "low_freq_factor", 1e-3, 1e6, &rope->low_freq_factor, name, err) ||
	    json_get_real(object, "high_freq_factor", 1e-3, 1e6, &rope->high_freq_factor, name, err))
		return -1;
	if (rope->high_freq_factor <= rope->low_freq_factor)
		return error_run(err, "%s: high_freq_factor (%g) must be above low_freq_factor (%g)", name,
				 rope->high_freq_factor, rope->low_freq_factor);
	return 0;
}

static int read_yarn(const json_t *object, struct rope_config *rope, const char *name,
		     struct error *err)
{
	rope->truncate = true;
	if (json_get_real(object, "attention_factor", 0, 1e3, &rope->attention_factor, name, err) ||
	    json_get_real(object, "mscale", 0, 1e3, &rope->mscale, name, err) ||
	    json_get_real(object, "mscale_all_dim", 0, 1e3, &rope->mscale_all_dim, name, err) ||
	    json_get_real(object, "beta_fast", 0, 1e6, &rope->beta_fast, name, err) ||
	    json_get_real(object, "beta_slow", 0, 1e6, &rope->beta_slow, name, err) ||
	    json_get_bool(object, "truncate", &rope->truncate, name, err))
		return -1;
	/* 0 counts as not given, as in transformers. */
	if (!rope->beta_fast)
		rope->beta_fast = 32;
	if (!rope->beta_slow)
		rope->beta_slow = 1;
	return 0;
}

static int read_scaling(const json_t *root, const json_t *object, struct model_config *config,
			const char *name, struct error *err)
{
	struct rope_config *rope = &config->rope;
	if (read_original(root, object, config, name, err))
		return -1;
	rope->factor = 0;
	if (rope->type == ROPE_YARN)
		rope->factor = (double)config->max_positions / rope->original_max_positions;
	else if (json_need(object, "factor", name, err))
		return -1;
	if (json_get_real(object, "factor", 1e-3, 1e6, &rope->factor, name, err))
		return -1;
	if (rope->type == ROPE_LLAMA3)
		return read_llama3(object, rope, name, err); /* max_position_embeddings says it all */
	if (rope->type == ROPE_YARN && read_yarn(object, rope, name, err))
		return -1;
	if (rope->type == ROPE_DYNAMIC && config->head_dim < 4)
		return error_run(err, "%s: dynamic rope needs a head_dim of at least 4", name);

	/* For these types max_position_embeddings is often still the length before stretching. */
	double reach = rope->factor * rope->original_max_positions;
	if (reach > CONFIG_POSITIONS_MAX)
		reach = CONFIG_POSITIONS_MAX;
	if (reach > config->max_positions)
		config->max_positions = (int32_t)reach;
	return 0;
}

int rope_config_read(const json_t *root, struct model_config *config, const char *name,
		     struct error *err)
{
	/* transformers prefers the old key where a file has both. */
	const char *key = "rope_scaling";
	const json_t *object = json_member(root, key);
	if (!object || (json_is_object(object) && !json_object_size(object))) {
		key = "rope_parameters";
		object = json_member(root, key);
	}
	if (object && !json_is_object(object))
		return error_run(err, "%s: %s must be an object", name, key);
	if (json_member(object, "full_attention") || json_member(object, "sliding_attention"))
		return error_run(err, "%s: %s differs between kinds of layers, which is not supported",
				 name, key);
	config->rope.theta = 10000;
	if (read_type(object, &config->rope.type, name, err) || refuse_partial(root, name, err) ||
	    refuse_partial(object, name, err) ||
	    json_get_real(root, "rope_theta", 1.5, 1e15, &config->rope.theta, name, err) ||
	    json_get_real(object, "rope_theta", 1.5, 1e15, &config->rope.theta, name, err))
		return -1;
	config->rope.factor = 1;
	return config->rope.type == ROPE_DEFAULT ? 0 : read_scaling(root, object, config, name, err);
}
