/*
 * config.h - what a Hugging Face config.json says of a model, checked.
 *
 * Families: llama, mistral, qwen2, qwen3. Both spellings of the files are read: torch_dtype or
 * dtype; rope_theta and rope_scaling, or rope_parameters. Anything else is refused by name.
 */
#ifndef TPRUN_MODEL_CONFIG_H
#define TPRUN_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/error.h"

enum {
	CONFIG_LAYERS_MAX = 1024,
	CONFIG_HEADS_MAX = 4096,
	CONFIG_EOS_MAX = 16,
	CONFIG_POSITIONS_MAX = 1 << 30,
};

enum model_family { FAMILY_LLAMA, FAMILY_MISTRAL, FAMILY_QWEN2, FAMILY_QWEN3 };
enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN };

struct rope_config {
	enum rope_type type;
	double theta;
	double factor;			  /* 1 for default */
	int32_t original_max_positions;	  /* dynamic, llama3, yarn */
	double low_freq_factor, high_freq_factor;		/* llama3 */
	double beta_fast, beta_slow;				/* yarn */
	double attention_factor, mscale, mscale_all_dim;	/* yarn; 0: not given */
	bool truncate; /* yarn: round the correction range outwards */
};

struct model_config {
	enum model_family family;
	enum dtype dtype; /* as stored; DTYPE_F32 where the file doesn't say */
	int32_t vocab, hidden, intermediate, layers;
	int32_t heads, kv_heads, head_dim;
	int32_t max_positions; /* what the rope reaches: for linear, dynamic and yarn at least factor
				* times the length before stretching */
	double norm_epsilon;
	bool tied;
	bool qkv_bias, output_bias, mlp_bias, query_key_norm;
	int32_t windows[CONFIG_LAYERS_MAX]; /* sliding window of each layer in tokens; 0: none */
	struct rope_config rope;
	int32_t bos, eos[CONFIG_EOS_MAX], eos_count; /* bos -1: none; all within the vocabulary */
};

/* Reads FOLDER/config.json. */
int config_read(struct model_config *out, const char *folder, struct error *err);
/* From the text of a config.json (also configs/shapes/NAME.json); `name` is for errors. */
int config_parse(struct model_config *out, const char *text, size_t length, const char *name,
		 struct error *err);

/* Parameters of the whole model (a tied head counted once). */
uint64_t config_parameters(const struct model_config *);

/* "llama", "mistral", "qwen2", "qwen3". */
const char *config_family_name(enum model_family);

/* Defaults for generation from FOLDER/generation_config.json (absent: the config's bos and
 * eos, and greedy). Fields not given keep the values of Hugging Face's GenerationConfig. */
struct generation_defaults {
	bool sample;
	double temperature, top_p, min_p, repetition_penalty;
	int32_t top_k;
	int32_t max_length, max_new_tokens; /* 0: not given */
	int32_t bos, eos[CONFIG_EOS_MAX], eos_count;
};

int generation_defaults_read(struct generation_defaults *out, const struct model_config *config,
			     const char *folder, struct error *err);
int generation_defaults_parse(struct generation_defaults *out, const struct model_config *config,
			      const char *text, size_t length, const char *name,
			      struct error *err);

/* Whether the id ends a text. */
bool generation_defaults_is_eos(const struct generation_defaults *, int32_t id);

#endif
