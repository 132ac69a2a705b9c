/* Any bytes as config.json and as generation_config.json: an error or a config within its limits. */
#include <stdlib.h>

#include "runtime/model/config.h"
#include "runtime/model/rope.h"
#include "runtime/model/shard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct model_config config;
	static struct shard shard;
	static struct generation_defaults defaults;
	struct error err = {0};
	if (config_parse(&config, (const char *)data, size, "config.json", &err)) {
		require(err.kind != ERROR_NONE && err.message[0]);
		config = (struct model_config){.vocab = 1000, .bos = -1};
	} else {
		float frequencies[HEAD_DIM_MAX / 2], magnitude;
		rope_frequencies(&config, frequencies, &magnitude);
		for (int i = 0; i < config.head_dim / 2; i++)
			require(frequencies[i] >= 0 && frequencies[i] < 1e9f);
		require(magnitude > 0 && config_parameters(&config) > 0);
		require(rope_growth(&config, config.max_positions) >= 0);
		require(shard_make(&shard, &config, config.heads, config.heads - 1, &err) == 0);
		require(config.bos < config.vocab);
		for (int i = 0; i < config.eos_count; i++)
			require(config.eos[i] >= 0 && config.eos[i] < config.vocab);
	}
	if (!generation_defaults_parse(&defaults, &config, (const char *)data, size,
				       "generation_config.json", &err))
		require(defaults.top_k >= 0 && defaults.top_p >= 0 && defaults.temperature >= 0 &&
			defaults.repetition_penalty > 0 && defaults.eos_count <= CONFIG_EOS_MAX);
	return 0;
}
