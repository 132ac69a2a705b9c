#include "launcher/options_table.h"

#include <stdio.h>

enum {
	G = 1 << COMMAND_GENERATE,
	B = 1 << COMMAND_BATCH,
	S = 1 << COMMAND_SCORE,
	T = 1 << COMMAND_TOKENIZE,
	P = 1 << COMMAND_PLAN,
	M = 1 << COMMAND_BENCH,
	RUNS = G | B | S | M,
	ALL = RUNS | T | P,
};

static const char *const backend_names[] = {"auto", "cpu", "cuda", NULL};
static const char *const log_names[] = {"error", "warning", "info", "debug", NULL};
static const char *const load_names[] = {"files", "broadcast", NULL};
static const char *const dtype_names[] = {"auto", "f32", "f16", "bf16", NULL};

#define FIELD(name) offsetof(struct options, name)
#define INT(least, most) .min = (least), .max = (most)
#define ROW(option, kind, of, member, metavar, text, ...)                                          \
	{.name = option, .type = TYPE_##kind, .commands = of, .field = FIELD(member),              \
	 .value = metavar, .help = text, __VA_ARGS__}

const struct option_spec option_specs[OPTIONS] = {
	[OPTION_MODEL] = ROW("model", TEXT, ALL, model, "DIR",
		"a Hugging Face model folder; left out: the small embedded model"),
	[OPTION_SHAPE] = ROW("shape", TEXT, RUNS | P, shape, "FILE",
		"a config.json alone: run it on random weights, made in place"),
	[OPTION_BACKEND] = ROW("backend", CHOICE, RUNS | P, backend, "auto|cpu|cuda",
		"auto: cuda where every rank has a GPU of its own, cpu where none is seen",
		.choices = backend_names),
	[OPTION_DTYPE] = ROW("dtype", CHOICE, RUNS | P, dtype, "auto|f32|f16|bf16",
		"type of weights and KV cache; auto: as stored", .choices = dtype_names),
	[OPTION_CONTEXT] = ROW("context", INT, G | B | S | P, context, "N",
		"positions of a sequence; left out: what the call needs, or for batch what fits",
		INT(1, INT32_MAX)),
	[OPTION_TP] = ROW("tp", INT, G | B | S, tp, "T",
		"ranks that hold the model together; left out: all, or for batch those of a node",
		INT(1, INT32_MAX)),
	[OPTION_LOAD] = ROW("load", CHOICE, RUNS, load, "files|broadcast",
		"broadcast: ranks read each byte once for the job and pass it on; else once a node",
		.choices = load_names),
	[OPTION_JSON] = ROW("json", FLAG, ALL, json, NULL,
		"print one JSON object on standard output and nothing else there"),
	[OPTION_QUIET] = ROW("quiet", FLAG, ALL, quiet, NULL,
		"no placement map, progress, speed or warnings"),
	[OPTION_PROGRESS] = ROW("progress", FLAG, RUNS, progress, NULL,
		"a progress bar even where standard error is no terminal"),
	[OPTION_PRINT_PLACEMENT] = ROW("print-placement", FLAG, RUNS, print_placement, NULL,
		"print the placement map, with --quiet too"),
	[OPTION_NO_BIND] = ROW("no-bind", FLAG, RUNS, no_bind, NULL,
		"leave cores and memory as they are, to see what binding is worth"),
	[OPTION_LOG_LEVEL] = ROW("log-level", CHOICE, RUNS, log_level, "error|warning|info|debug",
		"standard error as a log: time, rank and level on every line, up to this level",
		.choices = log_names),
	[OPTION_STATS] = ROW("stats", TEXT, G | B | M, stats, "FILE",
		"add a JSON object a line to FILE: step times, batch, tokens, KV cache, all-reduce"),
	[OPTION_STATS_INTERVAL] = ROW("stats-interval", REAL, G | B | M, stats_interval, "SECONDS",
		"time between two such lines (1 where not given)", .min = 0, .max = 86400,
		.above = true),
	[OPTION_PROFILE] = ROW("profile", FLAG, RUNS, profile, NULL,
		"mark load, prefill, step and all-reduce as NVTX ranges, for nsys"),
	[OPTION_WATCHDOG] = ROW("watchdog", INT, RUNS, watchdog, "SECONDS",
		"end the run when a rank is silent or makes no progress for so long (20); 0: never",
		INT(0, 86400)),
	[OPTION_INIT_TIMEOUT] = ROW("init-timeout", INT, RUNS, init_timeout, "SECONDS",
		"most that a phase of the start may take, but for loading (60); 0: no limit",
		INT(0, 86400)),
	[OPTION_CONFIG] = ROW("config", TEXT, ALL, config, "FILE",
		"the same options as JSON keys, with underscores; the command line wins"),

	[OPTION_INPUT] = ROW("input", TEXT, B, input, "FILE",
		"prompts, a JSON object a line; - is standard input"),
	[OPTION_OUTPUT] = ROW("output", TEXT, B, output, "FILE",
		"completions, a JSON object a line; what it has already is not done again"),
	[OPTION_N] = ROW("n", INT, B, n, "N",
		"completions of each prompt (1 where not given)", INT(1, 1 << 20)),
	[OPTION_MAX_SEQUENCES] = ROW("max-sequences", INT, B, max_sequences, "N",
		"sequences that a replica runs at a time (256 on GPUs, 16 on CPUs)", INT(1, 1 << 20)),
	[OPTION_MAX_BATCH_TOKENS] = ROW("max-batch-tokens", INT, B | M, max_batch_tokens, "N",
		"most tokens of a step; long prompts go in several", INT(1, 1 << 20)),

	[OPTION_PROMPT] = ROW("prompt", TEXT, G, prompt, "TEXT", "what to continue"),
	[OPTION_PROMPT_FILE] = ROW("prompt-file", TEXT, G, prompt_file, "FILE",
		"the same from a file; - is standard input"),
	[OPTION_PROMPT_IDS] = ROW("prompt-ids", IDS, G, prompt_ids, "1,2,3",
		"the same as token ids, taken as they are"),
	[OPTION_MAX_NEW_TOKENS] = ROW("max-new-tokens", INT, G | B, max_new_tokens, "N",
		"most tokens to write", INT(1, INT32_MAX)),
	[OPTION_MAX_LENGTH] = ROW("max-length", INT, G | B, max_length, "N",
		"most tokens together with the prompt (256 where neither is given)",
		INT(1, INT32_MAX)),
	[OPTION_TEMPERATURE] = ROW("temperature", REAL, G | B, temperature, "T",
		"above 0 samples; 0 is greedy", .min = 0, .max = 1e6),
	[OPTION_TOP_K] = ROW("top-k", INT, G | B, top_k, "K",
		"sample from the K likeliest tokens; 0: all", INT(0, INT32_MAX)),
	[OPTION_TOP_P] = ROW("top-p", REAL, G | B, top_p, "P",
		"sample from the likeliest tokens that share P", .min = 0, .max = 1, .above = true),
	[OPTION_MIN_P] = ROW("min-p", REAL, G | B, min_p, "P",
		"leave out tokens less likely than P times the likeliest", .min = 0, .max = 1),
	[OPTION_REPETITION_PENALTY] = ROW("repetition-penalty", REAL, G | B, repetition_penalty, "R",
		"above 1 makes tokens met before less likely",
		.min = 0, .max = 1e6, .above = true),
	[OPTION_SEED] = ROW("seed", SEED, G | B, seed, "N",
		"of the random draws (0 where not given)"),
	[OPTION_STOP] = ROW("stop", TEXTS, G | B, stop, "TEXT",
		"end before this text; may be given several times"),
	[OPTION_IGNORE_EOS] = ROW("ignore-eos", FLAG, G | B, ignore_eos, NULL,
		"do not end at the model's end token"),

	[OPTION_TEXT] = ROW("text", TEXT, S | T, text, "TEXT", "the text"),
	[OPTION_TEXT_FILE] = ROW("text-file", TEXT, S, text_file, "FILE",
		"the same from a file; - is standard input"),
	[OPTION_IDS] = ROW("ids", IDS, S, ids, "1,2,3",
		"the same as token ids, taken as they are"),
	[OPTION_DECODE] = ROW("decode", IDS, T, decode, "1,2,3", "token ids to text"),
	[OPTION_JSONL] = ROW("jsonl", FLAG, T, jsonl, NULL,
		"read a JSON string a line, write a JSON array of ids a line"),
	[OPTION_NO_SPECIAL] = ROW("no-special", FLAG, T, no_special, NULL,
		"leave the beginning-of-text token and the like out"),

	[OPTION_RANKS] = ROW("ranks", INT, P, ranks, "N",
		"plan for N ranks of a machine that isn't here", INT(1, 65536)),
	[OPTION_MEMORY] = ROW("memory", SIZE, P, memory, "SIZE",
		"memory of each rank, as 80GiB; left out: this machine's"),

	[OPTION_TESTS] = ROW("tests", TEXT, M, tests, "LIST",
		"pp512 prefill, tg128 decode, tg128x8 in a batch, tg128@d3500 at a depth, b8 both"),
	[OPTION_REPEAT] = ROW("repeat", INT, M, repeat, "N",
		"times that each test is timed (5 where not given)", INT(1, 10000)),
	[OPTION_CSV] = ROW("csv", FLAG, M, csv, NULL,
		"print a line of names and one a test, separated by commas"),
};

const struct command_spec command_specs[COMMANDS] = {
	[COMMAND_GENERATE] = {"generate", "continue a prompt"},
	[COMMAND_BATCH] = {"batch", "complete a file of prompts, and go on where it was stopped"},
	[COMMAND_SCORE] = {"score", "log-probability of every token of a text, and perplexity"},
	[COMMAND_TOKENIZE] = {"tokenize", "text to token ids and back"},
	[COMMAND_PLAN] = {"plan", "what each rank would hold, from the model's headers alone"},
	[COMMAND_BENCH] = {"bench", "speed of prefill and decode, against what the machine can do"},
};

const char *options_name(enum option_id id)
{
	return option_specs[id].name;
}

const char *options_command_name(enum command command)
{
	return command_specs[command].name;
}

/* ---- help -------------------------------------------------------------------------------- */

static void help_options(FILE *out, enum command command)
{
	for (int i = 0; i < OPTIONS; i++) {
		const struct option_spec *spec = &option_specs[i];
		if (!option_belongs(spec, command))
			continue;
		char left[64];
		snprintf(left, sizeof left, "--%s%s%s", spec->name, spec->value ? " " : "",
			 spec->value ? spec->value : "");
		fprintf(out, "  %-30s %s\n", left, spec->help);
	}
}

void options_help(FILE *out, enum command command)
{
	const char *name = command_specs[command].name;
	if (command != COMMAND_NONE) {
		fprintf(out, "tprun %s: %s\n\n%stprun %s [options]\n\n", name,
			command_specs[command].help, 1 << command & RUNS ? "mpirun -np N " : "", name);
		help_options(out, command);
		return;
	}
	fprintf(out, "tprun %s: runs a large language model split over MPI ranks, one a GPU\n\n"
		     "mpirun -np N tprun COMMAND [options]     (without mpirun: one rank)\n\n",
		TPRUN_VERSION);
	for (int i = COMMAND_NONE + 1; i < COMMANDS; i++)
		fprintf(out, "  %-30s %s\n", command_specs[i].name, command_specs[i].help);
	fprintf(out, "\n  tprun COMMAND --help           the options of a command\n"
		     "  tprun --version\n\n"
		     "Exit status: 0 done, 1 the run failed, 2 the call was wrong, 3 stopped on\n"
		     "request (SIGUSR1, SIGTERM): the same command again goes on.\n"
		     "As root, Open MPI's mpirun wants --allow-run-as-root; with more ranks than\n"
		     "cores it wants --oversubscribe.\n");
}
