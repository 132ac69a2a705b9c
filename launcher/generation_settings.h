/*
 * generation_settings.h - how a completion is to be made: the command line over the model's
 * generation_config.json, and a line of a batch over both.
 *
 * The names and ranges are those of the command line's options, which are those of Hugging Face's
 * GenerationConfig. Greedy unless something asks for sampling: the model's file, or a temperature
 * above 0, top-k, top-p or min-p; a temperature of 0 is always greedy.
 */
#ifndef TPRUN_LAUNCHER_GENERATION_SETTINGS_H
#define TPRUN_LAUNCHER_GENERATION_SETTINGS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "launcher/options.h"
#include "runtime/model/config.h"
#include "runtime/text/sampler.h"

struct generation_settings {
	struct sampling sampling; /* what holds in the end: temperature 0 where it is greedy */
	double temperature;	  /* what was asked, should a line ask for sampling */
	bool sample;
	int32_t max_new_tokens, max_length; /* 0: not given */
	struct option_texts stop;	    /* copies */
	bool ignore_eos;
	int32_t n; /* completions of one prompt */
};

/* What the options and the model's defaults say. On an error *out needs no closing; so below. */
int generation_settings_choose(struct generation_settings *out, const struct options *,
			       const struct generation_defaults *, struct error *err);

/* A copy of `base` with what the JSON object `line` says: max_new_tokens, max_length, do_sample,
 * temperature, top_k, top_p, min_p, repetition_penalty, seed, stop or stop_strings (a string or a
 * list, in place of the base's), ignore_eos, n or num_return_sequences. A length of the line beats
 * both lengths of the base. null counts as absent, other keys are not looked at. An ERROR_USAGE
 * names the key of a wrong value. */
int generation_settings_override(struct generation_settings *out,
				 const struct generation_settings *base, const json_t *line,
				 struct error *err);
/* Whether that looks at a key. */
bool generation_settings_key(const char *key);

void generation_settings_close(struct generation_settings *);

/* Most tokens to write after a prompt: max_new_tokens comes before max_length, as in Hugging Face,
 * both before the model's defaults, and where nothing is given max_length is 256. 0 or less where a
 * length leaves no room. */
int64_t generation_settings_length(const struct generation_settings *,
				   const struct generation_defaults *, int64_t prompt_count);

#endif
