/*
 * options_table.h - the one table of options and commands, which parsing, help and config files
 * share.
 */
#ifndef TPRUN_LAUNCHER_OPTIONS_TABLE_H
#define TPRUN_LAUNCHER_OPTIONS_TABLE_H

#include "launcher/options.h"

enum option_type {
	TYPE_FLAG, TYPE_CHOICE, TYPE_INT, TYPE_REAL, TYPE_SEED, TYPE_SIZE, TYPE_TEXT, TYPE_TEXTS,
	TYPE_IDS,
};

struct option_spec {
	const char *name;
	enum option_type type;
	int commands;
	size_t field; /* offset in struct options */
	const char *value, *help;
	double min, max; /* of TYPE_INT and TYPE_REAL */
	bool above;	 /* min itself is outside */
	const char *const *choices;
};

struct command_spec {
	const char *name, *help;
};

extern const struct option_spec option_specs[OPTIONS];
extern const struct command_spec command_specs[COMMANDS];

/* Whether the command takes the option. */
static inline bool option_belongs(const struct option_spec *spec, enum command command)
{
	return (spec->commands & 1 << command) != 0;
}

#endif
