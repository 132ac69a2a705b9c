/*
 * options.h - what the user typed.
 *
 * One table (options.c) drives the parsing of the command line, `--help`, `COMMAND --help` and
 * the keys of `--config FILE`; the command line beats the file. Everything that can be checked
 * without a model is checked here, so that a wrong call ends before anything starts.
 */
#ifndef TPRUN_LAUNCHER_OPTIONS_H
#define TPRUN_LAUNCHER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/error.h"

enum command {
	COMMAND_NONE, /* `--help`, `--version` */
	COMMAND_GENERATE,
	COMMAND_BATCH,
	COMMAND_SCORE,
	COMMAND_TOKENIZE,
	COMMAND_PLAN,
	COMMAND_BENCH,
	COMMANDS,
};

/* Every option, in the order of the help text. */
enum option_id {
	OPTION_MODEL, OPTION_SHAPE, OPTION_BACKEND, OPTION_DTYPE, OPTION_CONTEXT, OPTION_TP, OPTION_LOAD,
	OPTION_JSON,
	OPTION_QUIET, OPTION_PROGRESS, OPTION_PRINT_PLACEMENT, OPTION_NO_BIND, OPTION_LOG_LEVEL,
	OPTION_STATS, OPTION_STATS_INTERVAL, OPTION_PROFILE, OPTION_WATCHDOG, OPTION_INIT_TIMEOUT, OPTION_CONFIG,
	OPTION_INPUT, OPTION_OUTPUT, OPTION_N, OPTION_MAX_SEQUENCES, OPTION_MAX_BATCH_TOKENS,
	OPTION_PROMPT, OPTION_PROMPT_FILE, OPTION_PROMPT_IDS, OPTION_MAX_NEW_TOKENS,
	OPTION_MAX_LENGTH, OPTION_TEMPERATURE, OPTION_TOP_K, OPTION_TOP_P, OPTION_MIN_P,
	OPTION_REPETITION_PENALTY, OPTION_SEED, OPTION_STOP, OPTION_IGNORE_EOS,
	OPTION_TEXT, OPTION_TEXT_FILE, OPTION_IDS, OPTION_DECODE, OPTION_JSONL,
	OPTION_NO_SPECIAL, OPTION_RANKS, OPTION_MEMORY, OPTION_TESTS, OPTION_REPEAT, OPTION_CSV,
	OPTIONS,
};

enum backend_choice { BACKEND_AUTO, BACKEND_CPU, BACKEND_CUDA };
enum load_choice { LOAD_FILES, LOAD_BROADCAST };
enum dtype_choice { DTYPE_CHOICE_AUTO, DTYPE_CHOICE_F32, DTYPE_CHOICE_F16, DTYPE_CHOICE_BF16 };

/* A text may hold NUL where it came from a config file; its end is marked by one as well. */
struct option_text {
	char *data;
	size_t length;
};

struct option_ids {
	int32_t *data;
	size_t count;
};

struct option_texts {
	char **data;
	size_t count;
};

/* A field has a meaning of its own only where given[] says so, except those with a default. */
struct options {
	enum command command;
	bool help, version;
	bool given[OPTIONS];

	struct option_text model, shape, config;
	int32_t backend, dtype; /* enum backend_choice, enum dtype_choice */
	int32_t context, tp, load; /* enum load_choice */
	bool json, quiet, progress, print_placement, no_bind, profile;
	int32_t log_level; /* enum log_level */
	int32_t watchdog, init_timeout; /* seconds */
	struct option_text stats;
	double stats_interval; /* seconds */

	struct option_text input, output;
	int32_t n, max_sequences, max_batch_tokens;

	struct option_text prompt, prompt_file;
	struct option_ids prompt_ids;
	int32_t max_new_tokens, max_length, top_k;
	double temperature, top_p, min_p, repetition_penalty;
	uint64_t seed;
	struct option_texts stop;
	bool ignore_eos;

	struct option_text text, text_file;
	struct option_ids ids, decode;
	bool jsonl, no_special;
	int32_t ranks;
	uint64_t memory; /* bytes */
	struct option_text tests;
	int32_t repeat;
	bool csv;
};

/* Parses a command line. Every error is an ERROR_USAGE that names the option and the cure. On
 * failure too, out->command is set where argv names one, and options_close must be called. */
int options_parse(struct options *out, int argc, char **argv, struct error *err);
void options_close(struct options *);

/* The help of a command, or with COMMAND_NONE that of the program. */
void options_help(FILE *out, enum command command);

/* "max-length" and the like. */
const char *options_name(enum option_id id);
/* "generate" and the like. */
const char *options_command_name(enum command command);

/* Bytes from "80GiB", "512MB", "1000": KiB, MiB, GiB, TiB (and K, M, G, T) are powers of 1024,
 * kB, MB, GB, TB of 1000. Returns 0, or -1 where the text is no such size. */
int options_parse_size(const char *text, uint64_t *bytes);

#endif
