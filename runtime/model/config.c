#include "runtime/model/config.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "runtime/model/config_ids.h"
#include "runtime/model/rope_config.h"

/* HEAD_DIM_MAX of kernels/backend.h is what bounds head_dim. The other limits are far above any
 * published model and keep every product of two sizes in an int32_t or an int64_t: the largest
 * model they allow has 2^56 parameters. */
#include "kernels/backend.h"

enum {
	CONFIG_BYTES_MAX = 16 << 20,
	VOCAB_MAX = 1 << 24,
	HIDDEN_MAX = 1 << 20,
	INTERMEDIATE_MAX = 1 << 22,
};

#define SUPPORTED                                                                                  \
	"tprun runs LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM"

/* What transformers' config class of each family has where the file is silent. */
static const struct family {
	const char *model_type, *architecture;
	int32_t max_positions;
	int32_t kv_heads; /* 0: as many as attention heads */
	int32_t head_dim; /* 0: hidden_size / num_attention_heads */
	int32_t bos, eos; /* -1: none */
	bool window_switch; /* sliding_window counts only with use_sliding_window */
} families[] = {
	[FAMILY_LLAMA] = {"llama", "LlamaForCausalLM", 2048, 0, 0, 1, 2, true},
	[FAMILY_MISTRAL] = {"mistral", "MistralForCausalLM", 131072, 8, 0, 1, 2, false},
	[FAMILY_QWEN2] = {"qwen2", "Qwen2ForCausalLM", 32768, 32, 0, -1, -1, true},
	[FAMILY_QWEN3] = {"qwen3", "Qwen3ForCausalLM", 32768, 32, 128, -1, -1, true},
};

enum { FAMILIES = sizeof families / sizeof families[0] };

const char *config_family_name(enum model_family family)
{
	return families[family].model_type;
}

int config_token_ids(const json_t *object, const char *key, int32_t vocab, int32_t *ids,
		     int32_t *count, const char *name, struct error *err)
{
	const json_t *value = json_object_get(object, key);
	if (!value)
		return 0;
	bool list = json_is_array(value);
	size_t given = list ? json_array_size(value) : !json_is_null(value);
	if (given > CONFIG_EOS_MAX)
		return error_run(err, "%s: %s lists %zu ids; at most %d are supported", name, key, given,
				 CONFIG_EOS_MAX);
	*count = 0;
	for (size_t i = 0; i < given; i++) {
		int64_t id;
		if (json_to_int(list ? json_array_get(value, i) : value, &id))
			return error_run(err, "%s: %s must be a token id or a list of them", name, key);
		if (id >= 0 && id < vocab)
			ids[(*count)++] = (int32_t)id;
	}
	return 0;
}

/* A size: an integer from 1 to max. Absent, *out keeps its default, and 0 means there is none. */
static int read_size(const json_t *root, const char *key, int32_t max, int32_t *out,
		     const char *name, struct error *err)
{
	int64_t value = *out;
	if ((!value && json_need(root, key, name, err)) ||
	    json_get_int(root, key, 1, max, &value, name, err))
		return -1;
	*out = (int32_t)value;
	return 0;
}

static int read_family(const json_t *root, enum model_family *out, const char *name,
		       struct error *err)
{
	const char *type = NULL, *architecture = NULL;
	if (json_get_string(root, "model_type", &type, name, err))
		return -1;
	const json_t *architectures = json_member(root, "architectures");
	if (architectures) {
		architecture = json_string_value(json_array_get(architectures, 0));
		if (!architecture)
			return error_run(err, "%s: architectures must be a list of names", name);
	}
	if (!type && !architecture)
		return error_run(err, "%s has neither \"model_type\" nor \"architectures\"; %s", name,
				 SUPPORTED);
	for (int i = 0; i < FAMILIES; i++) {
		if ((!type || strcmp(type, families[i].model_type) == 0) &&
		    (!architecture || strcmp(architecture, families[i].architecture) == 0)) {
			*out = (enum model_family)i;
			return 0;
		}
	}
	return error_run(err,
			 "%s: a model of type \"%.100s\" and architecture \"%.100s\" is not supported; %s",
			 name, type ? type : "(not given)", architecture ? architecture : "(not given)",
			 SUPPORTED);
}

static int refuse_unsupported(const json_t *root, const char *name, struct error *err)
{
	const json_t *quantization = json_member(root, "quantization_config");
	if (!quantization)
		quantization = json_member(root, "compression_config");
	if (quantization) {
		const char *method = json_string_value(json_object_get(quantization, "quant_method"));
		return error_run(err,
				 "%s: the checkpoint is quantized (%.100s), which is not supported; load it "
				 "with transformers, call model.dequantize() and save_pretrained(), or take "
				 "the original 16-bit model",
				 name, method ? method : "method not named");
	}
	const char *activation = "silu";
	if (json_get_string(root, "hidden_act", &activation, name, err))
		return -1;
	if (strcmp(activation, "silu") != 0)
		return error_run(err, "%s: hidden_act \"%.100s\" is not supported; only silu is", name,
				 activation);
	return 0;
}

static int read_dtype(const json_t *root, enum dtype *out, const char *name, struct error *err)
{
	const char *given = "float32";
	if (json_get_string(root, "torch_dtype", &given, name, err) ||
	    json_get_string(root, "dtype", &given, name, err))
		return -1;
	for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
		if (strcmp(given, dtype_name(dtype)) == 0) {
			*out = dtype;
			return 0;
		}
	}
	return error_run(err, "%s: dtype \"%.100s\" is not supported; float32, float16 and bfloat16 are",
			 name, given);
}

static int read_heads(const json_t *root, const struct family *family, struct model_config *out,
		      const char *name, struct error *err)
{
	if (read_size(root, "num_attention_heads", CONFIG_HEADS_MAX, &out->heads, name, err))
		return -1;
	/* An explicit null means one KV head for each attention head in every family. */
	out->kv_heads = out->heads;
	if (family->kv_heads && !json_object_get(root, "num_key_value_heads"))
		out->kv_heads = family->kv_heads;
	if (read_size(root, "num_key_value_heads", CONFIG_HEADS_MAX, &out->kv_heads, name, err))
		return -1;
	if (out->heads % out->kv_heads)
		return error_run(err,
				 "%s: num_attention_heads (%d) is not a multiple of num_key_value_heads (%d)",
				 name, out->heads, out->kv_heads);

	out->head_dim = family->head_dim;
	if (!out->head_dim && !json_member(root, "head_dim")) {
		if (out->hidden % out->heads)
			return error_run(err,
					 "%s: hidden_size (%d) is not a multiple of num_attention_heads (%d), "
					 "and head_dim is not given",
					 name, out->hidden, out->heads);
		out->head_dim = out->hidden / out->heads;
	}
	if (read_size(root, "head_dim", HIDDEN_MAX, &out->head_dim, name, err))
		return -1;
	if (out->head_dim % 2 || out->head_dim > HEAD_DIM_MAX)
		return error_run(err, "%s: head_dim is %d; even sizes up to %d are supported", name,
				 out->head_dim, HEAD_DIM_MAX);
	return 0;
}

static int read_biases(const json_t *root, struct model_config *out, const char *name,
		       struct error *err)
{
	bool attention = false;
	switch (out->family) {
	case FAMILY_LLAMA:
		if (json_get_bool(root, "mlp_bias", &out->mlp_bias, name, err))
			return -1;
		/* fall through */
	case FAMILY_QWEN3:
		if (json_get_bool(root, "attention_bias", &attention, name, err))
			return -1;
		break;
	case FAMILY_MISTRAL:
	case FAMILY_QWEN2:
		break;
	}
	out->qkv_bias = attention || out->family == FAMILY_QWEN2;
	out->output_bias = attention;
	out->query_key_norm = out->family == FAMILY_QWEN3;
	return 0;
}

/* *window: the size of sliding windows, 0 where the file switches them off. */
static int read_window_size(const json_t *root, const struct family *family, int32_t *window,
			    const char *name, struct error *err)
{
	bool use = !family->window_switch;
	if (family->window_switch && json_get_bool(root, "use_sliding_window", &use, name, err))
		return -1;
	*window = 0;
	if (!use || json_is_null(json_object_get(root, "sliding_window")))
		return 0;
	*window = 4096;
	return read_size(root, "sliding_window", INT32_MAX, window, name, err);
}

static int read_windows(const json_t *root, const struct family *family, struct model_config *out,
			const char *name, struct error *err)
{
	int32_t window;
	if (read_window_size(root, family, &window, name, err))
		return -1;
	const json_t *types = json_member(root, "layer_types");
	if (types) {
		if (!json_is_array(types) || json_array_size(types) != (size_t)out->layers)
			return error_run(err, "%s: layer_types must be a list of %d names, one a layer",
					 name, out->layers);
		for (int32_t i = 0; i < out->layers; i++) {
			const char *type = json_string_value(json_array_get(types, (size_t)i));
			bool sliding = type && strcmp(type, "sliding_attention") == 0;
			if (!sliding && (!type || strcmp(type, "full_attention") != 0))
				return error_run(err,
						 "%s: layer_types[%d] \"%.100s\" is not supported; "
						 "full_attention and sliding_attention are",
						 name, i, type ? type : "(not a string)");
			if (sliding && !window)
				return error_run(err,
						 "%s: layer_types[%d] is sliding_attention, but no "
						 "sliding_window is in use",
						 name, i);
			out->windows[i] = sliding ? window : 0;
		}
		return 0;
	}
	int64_t first = out->family == FAMILY_MISTRAL ? 0 : 28;
	if (out->family != FAMILY_MISTRAL &&
	    json_get_int(root, "max_window_layers", 0, INT32_MAX, &first, name, err))
		return -1;
	for (int32_t i = 0; i < out->layers; i++)
		out->windows[i] = i >= first && out->family != FAMILY_LLAMA ? window : 0;
	return 0;
}

static int read_model(const json_t *root, struct model_config *out, const char *name,
		      struct error *err)
{
	if (!json_is_object(root))
		return error_run(err, "%s is not a JSON object", name);
	if (read_family(root, &out->family, name, err) || refuse_unsupported(root, name, err) ||
	    read_dtype(root, &out->dtype, name, err))
		return -1;
	const struct family *family = &families[out->family];
	out->max_positions = family->max_positions;
	out->norm_epsilon = 1e-6;
	if (read_size(root, "vocab_size", VOCAB_MAX, &out->vocab, name, err) ||
	    read_size(root, "hidden_size", HIDDEN_MAX, &out->hidden, name, err) ||
	    read_size(root, "intermediate_size", INTERMEDIATE_MAX, &out->intermediate, name, err) ||
	    read_size(root, "num_hidden_layers", CONFIG_LAYERS_MAX, &out->layers, name, err) ||
	    read_size(root, "max_position_embeddings", CONFIG_POSITIONS_MAX, &out->max_positions, name,
		      err) ||
	    json_get_real(root, "rms_norm_eps", 0, 1, &out->norm_epsilon, name, err) ||
	    json_get_bool(root, "tie_word_embeddings", &out->tied, name, err) ||
	    read_heads(root, family, out, name, err) || read_biases(root, out, name, err) ||
	    read_windows(root, family, out, name, err) || rope_config_read(root, out, name, err))
		return -1;

	int32_t bos[CONFIG_EOS_MAX] = {family->bos};
	int32_t bos_count = family->bos >= 0 && family->bos < out->vocab;
	out->eos[0] = family->eos;
	out->eos_count = family->eos >= 0 && family->eos < out->vocab;
	if (config_token_ids(root, "bos_token_id", out->vocab, bos, &bos_count, name, err) ||
	    config_token_ids(root, "eos_token_id", out->vocab, out->eos, &out->eos_count, name, err))
		return -1;
	out->bos = bos_count ? bos[0] : -1;
	return 0;
}

int config_parse(struct model_config *out, const char *text, size_t length, const char *name,
		 struct error *err)
{
	memset(out, 0, sizeof *out);
	json_t *root = json_parse(text, length, name, err);
	if (!root)
		return -1;
	int result = read_model(root, out, name, err);
	json_decref(root);
	return result;
}

int config_read(struct model_config *out, const char *folder, struct error *err)
{
	if (!file_exists(folder))
		return error_usage(err, "there is no model folder %s", folder);
	char *path = file_join(folder, "config.json", err), *text = NULL;
	if (!path)
		return -1;
	size_t length;
	int result = -1;
	if (!file_exists(path))
		error_usage(err, "%s holds no config.json; --model takes a folder as Hugging Face has them",
			    folder);
	else if (!file_read(path, CONFIG_BYTES_MAX, &text, &length, err))
		result = config_parse(out, text, length, path, err);
	free(text);
	free(path);
	return result;
}

uint64_t config_parameters(const struct model_config *config)
{
	uint64_t hidden = (uint64_t)config->hidden, intermediate = (uint64_t)config->intermediate;
	uint64_t query = (uint64_t)config->heads * (uint64_t)config->head_dim;
	uint64_t key = (uint64_t)config->kv_heads * (uint64_t)config->head_dim;
	uint64_t layer = 2 * hidden + 2 * query * hidden + 2 * key * hidden + 3 * intermediate * hidden;
	if (config->qkv_bias)
		layer += query + 2 * key;
	if (config->output_bias)
		layer += hidden;
	if (config->mlp_bias)
		layer += 2 * intermediate + hidden;
	if (config->query_key_norm)
		layer += 2 * (uint64_t)config->head_dim;
	uint64_t embedding = (uint64_t)config->vocab * hidden;
	return (uint64_t)config->layers * layer + hidden + embedding * (config->tied ? 1 : 2);
}
