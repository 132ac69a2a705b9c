#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "runtime/model/config.h"
#include "runtime/model/config_ids.h"

static void defaults_without_file(struct generation_defaults *out,
				  const struct model_config *config)
{
	*out = (struct generation_defaults){
		.temperature = 1,
		.top_p = 1,
		.top_k = 50,
		.repetition_penalty = 1,
		.bos = config->bos,
		.eos_count = config->eos_count,
	};
	memcpy(out->eos, config->eos, sizeof out->eos);
}

static int read_int32(const json_t *root, const char *key, int32_t *out, const char *name,
		      struct error *err)
{
	int64_t value = *out;
	if (json_get_int(root, key, 0, INT32_MAX, &value, name, err))
		return -1;
	*out = (int32_t)value;
	return 0;
}

static int read_defaults(const json_t *root, const struct model_config *config,
			 struct generation_defaults *out, const char *name, struct error *err)
{
	if (!json_is_object(root))
		return error_run(err, "%s is not a JSON object", name);
	int32_t bos[CONFIG_EOS_MAX] = {out->bos}, bos_count = out->bos >= 0;
	if (json_get_bool(root, "do_sample", &out->sample, name, err) ||
	    json_get_real(root, "temperature", 0, 1e6, &out->temperature, name, err) ||
	    json_get_real(root, "top_p", 0, 1, &out->top_p, name, err) ||
	    json_get_real(root, "min_p", 0, 1, &out->min_p, name, err) ||
	    json_get_real(root, "repetition_penalty", 1e-6, 1e6, &out->repetition_penalty, name, err) ||
	    read_int32(root, "top_k", &out->top_k, name, err) ||
	    read_int32(root, "max_length", &out->max_length, name, err) ||
	    read_int32(root, "max_new_tokens", &out->max_new_tokens, name, err) ||
	    config_token_ids(root, "bos_token_id", config->vocab, bos, &bos_count, name, err) ||
	    config_token_ids(root, "eos_token_id", config->vocab, out->eos, &out->eos_count, name, err))
		return -1;
	out->bos = bos_count ? bos[0] : -1;
	return 0;
}

int generation_defaults_parse(struct generation_defaults *out, const struct model_config *config,
			      const char *text, size_t length, const char *name, struct error *err)
{
	defaults_without_file(out, config);
	json_t *root = json_parse(text, length, name, err);
	if (!root)
		return -1;
	int result = read_defaults(root, config, out, name, err);
	json_decref(root);
	return result;
}

int generation_defaults_read(struct generation_defaults *out, const struct model_config *config,
			     const char *folder, struct error *err)
{
	defaults_without_file(out, config);
	char *path = file_join(folder, "generation_config.json", err), *text = NULL;
	if (!path)
		return -1;
	size_t length;
	int result = 0;
	if (file_exists(path)) {
		result = file_read(path, 1 << 20, &text, &length, err);
		if (!result)
			result = generation_defaults_parse(out, config, text, length, path, err);
	}
	free(text);
	free(path);
	return result;
}

bool generation_defaults_is_eos(const struct generation_defaults *defaults, int32_t id)
{
	for (int32_t i = 0; i < defaults->eos_count; i++)
		if (defaults->eos[i] == id)
			return true;
	return false;
}
