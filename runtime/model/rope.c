#include "runtime/model/rope.h"

#include <math.h>
#include <stdbool.h>

#define TWO_PI 6.283185307179586

/* Llama 3.1: long wavelengths are stretched by the factor, short ones kept, and those between
 * blended by how many times they turn in the original length. */
static double llama3_frequency(const struct rope_config *rope, double frequency)
{
	double turns = rope->original_max_positions * frequency / TWO_PI;
	if (turns < rope->low_freq_factor)
		return frequency / rope->factor;
	if (turns > rope->high_freq_factor)
		return frequency;
	double blend = (turns - rope->low_freq_factor) /
		       (rope->high_freq_factor - rope->low_freq_factor);
	return (1 - blend) * frequency / rope->factor + blend * frequency;
}

/* The pair, as a real number, whose frequency turns `turns` times in the original length. */
static double yarn_pair(const struct rope_config *rope, double head_dim, double turns)
{
	return head_dim * log(rope->original_max_positions / (turns * TWO_PI)) /
	       (2 * log(rope->theta));
}

/* YaRN (Peng et al. 2023, section 3.2): pairs that turn often keep their frequency, those that
 * turn less than once are stretched, with a linear ramp between them. */
static double yarn_frequency(const struct rope_config *rope, int32_t head_dim, int32_t pair,
			     double frequency)
{
	double low = yarn_pair(rope, head_dim, rope->beta_fast);
	double high = yarn_pair(rope, head_dim, rope->beta_slow);
	if (rope->truncate) {
		low = floor(low);
		high = ceil(high);
	}
	low = fmax(low, 0);
	high = fmin(high, head_dim - 1);
	if (low == high)
		high += 0.001;
	double stretched = fmin(fmax((pair - low) / (high - low), 0), 1);
	return frequency / rope->factor * stretched + frequency * (1 - stretched);
}

static double yarn_magnitude(const struct rope_config *rope)
{
	if (rope->attention_factor)
		return rope->attention_factor;
	if (rope->factor <= 1)
		return 1;
	double growth = 0.1 * log(rope->factor);
	if (rope->mscale && rope->mscale_all_dim)
		return (rope->mscale * growth + 1) / (rope->mscale_all_dim * growth + 1);
	return growth + 1;
}

void rope_frequencies(const struct model_config *config, float *frequencies, float *magnitude)
{
	const struct rope_config *rope = &config->rope;
	for (int32_t i = 0; i < config->head_dim / 2; i++) {
		double frequency = pow(rope->theta, -2.0 * i / config->head_dim);
		switch (rope->type) {
		case ROPE_DEFAULT:
		case ROPE_DYNAMIC:
			break;
		case ROPE_LINEAR:
			frequency /= rope->factor;
			break;
		case ROPE_LLAMA3:
			frequency = llama3_frequency(rope, frequency);
			break;
		case ROPE_YARN:
			frequency = yarn_frequency(rope, config->head_dim, i, frequency);
			break;
		}
		frequencies[i] = (float)frequency;
	}
	*magnitude = rope->type == ROPE_YARN ? (float)yarn_magnitude(rope) : 1;
}

float rope_growth(const struct model_config *config, int32_t length)
{
	const struct rope_config *rope = &config->rope;
	if (rope->type != ROPE_DYNAMIC || length <= rope->original_max_positions)
		return 1;
	double stretch = (double)length / rope->original_max_positions;
	return (float)(rope->factor * stretch - (rope->factor - 1));
}
