#include "launcher/generation_settings.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/options_table.h"
#include "runtime/base/json.h"

enum { DEFAULT_MAX_LENGTH = 256, DEFAULT_SAMPLES = 1 };

void generation_settings_close(struct generation_settings *settings)
{
	if (!settings)
		return;
	while (settings->stop.count)
		free(settings->stop.data[--settings->stop.count]);
	free(settings->stop.data);
	settings->stop = (struct option_texts){0};
}

static int add_stop(struct generation_settings *settings, const char *text, const char *name,
		    struct error *err)
{
	struct option_texts *stop = &settings->stop;
	json_t *valid = json_string(text);
	json_decref(valid);
	if (!valid)
		return error_usage(err, "%s is not valid UTF-8", name);
	if (!*text)
		return error_usage(err, "%s is empty: give the text to stop at", name);
	char **grown = realloc(stop->data, (stop->count + 1) * sizeof *grown);
	if (!grown)
		return error_memory(err, "the stop strings");
	stop->data = grown;
	if (!(grown[stop->count] = strdup(text)))
		return error_memory(err, "the stop strings");
	stop->count++;
	return 0;
}

static int add_stops(struct generation_settings *settings, const struct option_texts *from,
		     struct error *err)
{
	for (size_t i = 0; i < from->count; i++)
		if (add_stop(settings, from->data[i], "--stop", err))
			return -1;
	return 0;
}

/* The last word on sampling, and the check of what came together. */
static int settle(struct generation_settings *settings, struct error *err)
{
	settings->sampling.temperature = settings->sample ? settings->temperature : 0;
	return sampling_check(&settings->sampling, err);
}

int generation_settings_choose(struct generation_settings *out, const struct options *options,
			       const struct generation_defaults *defaults, struct error *err)
{
	const bool *given = options->given;
	*out = (struct generation_settings){
		.sampling = {
			.top_k = given[OPTION_TOP_K] ? options->top_k : defaults->top_k,
			.top_p = given[OPTION_TOP_P] ? options->top_p : defaults->top_p,
			.min_p = given[OPTION_MIN_P] ? options->min_p : defaults->min_p,
			.repetition_penalty = given[OPTION_REPETITION_PENALTY]
						      ? options->repetition_penalty
						      : defaults->repetition_penalty,
			.seed = options->seed,
		},
		.temperature = given[OPTION_TEMPERATURE] ? options->temperature
							 : defaults->temperature,
		.sample = defaults->sample || given[OPTION_TOP_K] || given[OPTION_TOP_P] ||
			  given[OPTION_MIN_P] || options->temperature > 0,
		.max_new_tokens = given[OPTION_MAX_NEW_TOKENS] ? options->max_new_tokens : 0,
		.max_length = given[OPTION_MAX_LENGTH] ? options->max_length : 0,
		.ignore_eos = options->ignore_eos,
		.n = given[OPTION_N] ? options->n : DEFAULT_SAMPLES,
	};
	if (!settle(out, err) && !add_stops(out, &options->stop, err))
		return 0;
	generation_settings_close(out);
	return -1;
}

/* ---- a line of a batch ------------------------------------------------------------------- */

struct setting {
	const char *key, *other_key;
	enum option_id option; /* whose range it has */
	size_t field;
	bool asks; /* for sampling */
};

#define FIELD(name) offsetof(struct generation_settings, name)

static const struct setting settings_table[] = {
	{"max_new_tokens", NULL, OPTION_MAX_NEW_TOKENS, FIELD(max_new_tokens), false},
	{"max_length", NULL, OPTION_MAX_LENGTH, FIELD(max_length), false},
	{"temperature", NULL, OPTION_TEMPERATURE, FIELD(temperature), false},
	{"top_k", NULL, OPTION_TOP_K, FIELD(sampling.top_k), true},
	{"top_p", NULL, OPTION_TOP_P, FIELD(sampling.top_p), true},
	{"min_p", NULL, OPTION_MIN_P, FIELD(sampling.min_p), true},
	{"repetition_penalty", NULL, OPTION_REPETITION_PENALTY, FIELD(sampling.repetition_penalty),
	 false},
	{"seed", NULL, OPTION_SEED, FIELD(sampling.seed), false},
	{"stop", "stop_strings", OPTION_STOP, FIELD(stop), false},
	{"ignore_eos", NULL, OPTION_IGNORE_EOS, FIELD(ignore_eos), false},
	{"n", "num_return_sequences", OPTION_N, FIELD(n), false},
};

enum { SETTINGS = sizeof settings_table / sizeof *settings_table };

bool generation_settings_key(const char *key)
{
	for (int i = 0; i < SETTINGS; i++)
		if (!strcmp(key, settings_table[i].key) ||
		    (settings_table[i].other_key && !strcmp(key, settings_table[i].other_key)))
			return true;
	return !strcmp(key, "do_sample");
}

static int take_number(const struct option_spec *spec, const char *key, const json_t *value,
		       void *field, struct error *err)
{
	bool whole = spec->type == TYPE_INT;
	double number = json_number_value(value);
	int64_t integer = 0;
	if (!json_is_number(value) || (whole && json_to_int(value, &integer)) ||
	    !(number >= spec->min && number <= spec->max) || (spec->above && number == spec->min))
		return error_usage(err, "\"%s\" must be %s %s %.10g and at most %.10g", key,
				   whole ? "a whole number" : "a number",
				   spec->above ? "above" : "of at least", spec->min, spec->max);
	if (whole)
		*(int32_t *)field = (int32_t)integer;
	else
		*(double *)field = number;
	return 0;
}

/* JSON's integers end at 2^63. */
static int take_seed(const char *key, const json_t *value, uint64_t *field, struct error *err)
{
	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return error_usage(err, "\"%s\" must be a whole number from 0 to 2^63 - 1", key);
	*field = (uint64_t)json_integer_value(value);
	return 0;
}

static int take_bool(const char *key, const json_t *value, bool *field, struct error *err)
{
	if (!json_is_boolean(value))
		return error_usage(err, "\"%s\" must be true or false", key);
	*field = json_is_true(value);
	return 0;
}

static int take_stop(struct generation_settings *settings, const char *key, const json_t *value,
		     struct error *err)
{
	size_t count = json_is_array(value) ? json_array_size(value) : 1;
	generation_settings_close(settings); /* these take the place of the base's */
	for (size_t i = 0; i < count; i++) {
		const json_t *text = json_is_array(value) ? json_array_get(value, i) : value;
		if (!json_is_string(text))
			return error_usage(err, "\"%s\" must be a string or a list of strings", key);
		if (strlen(json_string_value(text)) != json_string_length(text))
			return error_usage(err, "\"%s\" holds a NUL character", key);
		if (add_stop(settings, json_string_value(text), key, err))
			return -1;
	}
	return 0;
}

static int take(struct generation_settings *out, const struct setting *setting, const char *key,
		const json_t *value, struct error *err)
{
	const struct option_spec *spec = &option_specs[setting->option];
	void *field = (char *)out + setting->field;
	switch (spec->type) {
	case TYPE_SEED:
		return take_seed(key, value, field, err);
	case TYPE_TEXTS:
		return take_stop(out, key, value, err);
	case TYPE_FLAG:
		return take_bool(key, value, field, err);
	default:
		return take_number(spec, key, value, field, err);
	}
}

static int take_line(struct generation_settings *out, const json_t *line, struct error *err)
{
	if (json_member(line, "max_new_tokens") || json_member(line, "max_length"))
		out->max_new_tokens = out->max_length = 0;
	for (int i = 0; i < SETTINGS; i++) {
		const struct setting *setting = &settings_table[i];
		const json_t *value = json_member(line, setting->key);
		const json_t *other = setting->other_key ? json_member(line, setting->other_key) : NULL;
		if (value && other)
			return error_usage(err, "\"%s\" and \"%s\" are the same: give one of them",
					   setting->key, setting->other_key);
		if (value || other) {
			if (take(out, setting, value ? setting->key : setting->other_key,
				 value ? value : other, err))
				return -1;
			out->sample |= setting->asks;
		}
	}
	if (json_member(line, "temperature") && out->temperature > 0)
		out->sample = true;
	const json_t *sample = json_member(line, "do_sample");
	if (sample && take_bool("do_sample", sample, &out->sample, err))
		return -1;
	return settle(out, err);
}

int generation_settings_override(struct generation_settings *out,
				 const struct generation_settings *base, const json_t *line,
				 struct error *err)
{
	*out = *base;
	out->stop = (struct option_texts){0};
	if (!add_stops(out, &base->stop, err) && !take_line(out, line, err))
		return 0;
	generation_settings_close(out);
	return -1;
}

int64_t generation_settings_length(const struct generation_settings *settings,
				   const struct generation_defaults *defaults,
				   int64_t prompt_count)
{
	if (settings->max_new_tokens)
		return settings->max_new_tokens;
	if (settings->max_length)
		return settings->max_length - prompt_count;
	if (defaults->max_new_tokens)
		return defaults->max_new_tokens;
	return (defaults->max_length ? defaults->max_length : DEFAULT_MAX_LENGTH) - prompt_count;
}
