#define TEST_SUITE "options"
#include "tests/test.h"

#include "launcher/options.h"

static struct options options;
static struct error err;

/* Parses a command line of words separated by single spaces; "\x01" stands for a space. */
static int parse(const char *line)
{
	static char text[1024];
	static char *argv[64];
	int argc = 0;
	snprintf(text, sizeof text, "%s", line);
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
		for (char *c = word; *c; c++)
			*c = *c == '\x01' ? ' ' : *c;
		argv[argc++] = word;
	}
	argv[argc] = NULL;
	options_close(&options);
	return options_parse(&options, argc, argv, &err);
}

static void commands(void)
{
	CHECK_OK(parse("tprun generate --prompt a"), &err);
	CHECK(options.command == COMMAND_GENERATE);
	CHECK_OK(parse("tprun plan"), &err);
	CHECK(options.command == COMMAND_PLAN);
	CHECK_OK(parse("tprun --help"), &err);
	CHECK(options.help && options.command == COMMAND_NONE);
	CHECK_OK(parse("tprun --version"), &err);
	CHECK(options.version);
	CHECK_OK(parse("tprun score --help"), &err);
	CHECK(options.help && options.command == COMMAND_SCORE);
	CHECK_FAILS(parse("tprun"), &err, "--help");
	CHECK_OK(parse("tprun bench --tests pp512,b8 --repeat 3 --csv"), &err);
	CHECK(options.command == COMMAND_BENCH && options.repeat == 3 && options.csv);
	CHECK_STR(options.tests.data, "pp512,b8");
	CHECK_FAILS(parse("tprun bench --csv --json"), &err, "exclude each other");
	CHECK_FAILS(parse("tprun bench --repeat 0"), &err, "--repeat");
	CHECK_FAILS(parse("tprun bench --prompt a"), &err, "is no option of bench");
	CHECK_FAILS(parse("tprun march"), &err, "generate, batch, score, tokenize, plan, bench");
	CHECK(err.kind == ERROR_USAGE);
	CHECK_FAILS(parse("tprun --model x generate"), &err, "the command comes first");
}

static void values(void)
{
	CHECK_OK(parse("tprun generate --model dir "
		"--prompt a\x01z --temperature 0.5 --top-k 7 --top-p=0.25 --min-p 1 --seed "
		"18446744073709551615 --stop x --stop y --ignore-eos --max-new-tokens 3 --context 99 "
		"--backend cpu --dtype bf16 --json --repetition-penalty 1.5"), &err);
	CHECK_STR(options.model.data, "dir");
	CHECK_STR(options.prompt.data, "a z");
	CHECK(options.prompt.length == 3 && options.temperature == 0.5 && options.top_k == 7);
	CHECK(options.top_p == 0.25 && options.min_p == 1 && options.seed == UINT64_MAX);
	CHECK(options.stop.count == 2 && options.ignore_eos && options.max_new_tokens == 3);
	CHECK_STR(options.stop.data[1], "y");
	CHECK(options.context == 99 && options.backend == BACKEND_CPU && options.json);
	CHECK(options.dtype == DTYPE_CHOICE_BF16 && options.repetition_penalty == 1.5);
	CHECK(options.given[OPTION_TOP_K] && !options.given[OPTION_MAX_LENGTH]);

	CHECK_OK(parse("tprun generate --prompt-ids 1,2,\x01" "30"), &err);
	CHECK(options.prompt_ids.count == 3 && options.prompt_ids.data[2] == 30);
	CHECK_OK(parse("tprun generate --prompt --"), &err); /* a value may look like an option */
	CHECK_STR(options.prompt.data, "--");
	CHECK_OK(parse("tprun plan --ranks 8 --memory 80GiB"), &err);
	CHECK(options.ranks == 8 && options.memory == 80ull << 30);
}

/* What batch takes, needs and refuses. */
static void batch(void)
{
	static const char *const bad[][2] = {
		{"--output o", "batch needs --input FILE"},
		{"--input i", "batch needs --output FILE"},
		{"--input i --output -", "not -"},
		{"--input i --output o --n 0", "--n takes a whole number"},
		{"--input i --output o --max-batch-tokens 7 --max-sequences 8", "--max-batch-tokens 7"},
		{"--input i --output o --prompt a", "--prompt is no option of batch"},
		{"--input i --output o --tp 0", "--tp takes a whole number of at least 1"},
	};
	CHECK_OK(parse("tprun batch --input - --output o.jsonl --tp 4 --n 3 --max-sequences 8 "
		"--max-batch-tokens 8 --temperature 1 --max-new-tokens 9 --stop x --ignore-eos"), &err);
	CHECK(options.command == COMMAND_BATCH && options.tp == 4 && options.n == 3);
	CHECK(options.max_sequences == 8 && options.max_batch_tokens == 8);
	CHECK(options.temperature == 1 && options.max_new_tokens == 9 && options.ignore_eos);
	CHECK_STR(options.input.data, "-");
	CHECK_STR(options.output.data, "o.jsonl");
	CHECK_OK(parse("tprun generate --tp 2 --prompt a"), &err);
	CHECK_FAILS(parse("tprun generate --input a"), &err, "--input is no option of generate");
	CHECK_FAILS(parse("tprun plan --tp 2"), &err, "--tp is no option of plan");
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char line[256];
		snprintf(line, sizeof line, "tprun batch %s", bad[i][0]);
		err.kind = ERROR_NONE;
		CHECK_FAILS(parse(line), &err, bad[i][1]);
		CHECK_MSG(err.kind == ERROR_USAGE, "%s", line);
	}
	CHECK_OK(parse("tprun batch --help"), &err); /* asks for nothing */
}

static void wrong_values(void)
{
	static const char *const lines[][2] = {
		{"--temperature -1", "--temperature takes a number from 0 to 1e+06, not \"-1\""},
		{"--temperature nan", "--temperature"},
		{"--temperature 1x", "--temperature"},
		{"--top-p 0", "--top-p takes a number above 0 up to 1, not \"0\""},
		{"--top-p 1.01", "--top-p"},
		{"--min-p -0.1", "--min-p"},
		{"--top-k -1", "--top-k takes a whole number of at least 0, not \"-1\""},
		{"--top-k 1.5", "--top-k"},
		{"--top-k 99999999999999999999", "--top-k"},
		{"--max-new-tokens 0", "--max-new-tokens"},
		{"--repetition-penalty 0", "--repetition-penalty"},
		{"--seed -1", "--seed"},
		{"--seed 18446744073709551616", "--seed"},
		{"--prompt-ids 1,,2", "--prompt-ids"},
		{"--prompt-ids 1,", "--prompt-ids"},
		{"--prompt-ids -1", "--prompt-ids"},
		{"--prompt-ids 4294967297", "--prompt-ids"},
		{"--backend gpu", "--backend takes auto, cpu or cuda, not \"gpu\""},
		{"--dtype int8", "--dtype takes auto, f32, f16 or bf16"},
		{"--model", "--model needs a value"},
		{"--prompt a --max-length", "--max-length needs a value"},
		{"--json=1", "--json takes no value"},
		{"--temprature 1", "did you mean --temperature?"},
		{"--topk 1", "did you mean --top-k?"},
		{"--frobnicate", "unknown option --frobnicate; see tprun generate --help"},
		{"--ranks 2", "--ranks is no option of generate"},
		{"-x", "unknown option -x"},
		{"once upon", "\"once\" stands alone"},
		{"--config /nowhere/file", "/nowhere/file"},
	};
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		char line[256];
		snprintf(line, sizeof line, "tprun generate %s", lines[i][0]);
		err.kind = ERROR_NONE;
		CHECK_FAILS(parse(line), &err, lines[i][1]);
		CHECK_MSG(err.kind == ERROR_USAGE, "%s", line);
	}
}

static void sizes(void)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"1000", 1000}, {"80GiB", 80ull << 30}, {"512MB", 512000000},
		    {"1.5K", 1536}, {"2T", 2ull << 40}, {"3kB", 3000}, {"7B", 7}, {"1 GiB", 1 << 30}};
	static const char *const bad[] = {"", "GiB", "-1", "1XB", "1GiBs", "1e40", "nan", "1iB"};
	uint64_t bytes;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		bytes = 77;
		CHECK(options_parse_size(good[i].text, &bytes) == 0);
		CHECK_MSG(bytes == good[i].bytes, "%s gave %llu", good[i].text,
			  (unsigned long long)bytes);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		CHECK_MSG(options_parse_size(bad[i], &bytes) == -1, "%s", bad[i]);
}

/* Parses `command --config FILE words`, FILE holding the text. */
static int parse_config(const char *command, const char *text, const char *words)
{
	char path[] = "/tmp/tprun-options-XXXXXX", line[512];
	int file = mkstemp(path);
	CHECK(write(file, text, strlen(text)) == (ssize_t)strlen(text));
	close(file);
	snprintf(line, sizeof line, "tprun %s --config %s %s", command, path, words);
	int result = parse(line);
	unlink(path);
	return result;
}

static void config_file(void)
{
	CHECK_OK(parse_config("generate",
		"{\"temperature\": 0.5, \"top_k\": 40, \"json\": true, \"quiet\": false, \"model\": "
		"\"m\", \"prompt\": \"a\\u0000b\", \"stop\": [\"x\", \"y\"], \"seed\": 12, \"ids\": "
		"[1], \"max_length\": null}", "--top-k 5 --stop z"), &err);
	CHECK(options.temperature == 0.5 && options.top_k == 5 && options.json && !options.quiet);
	CHECK(options.prompt.length == 3 && !memcmp(options.prompt.data, "a\0b", 4));
	CHECK(options.stop.count == 1 && options.seed == 12 && !options.given[OPTION_IDS]);
	CHECK_STR(options.stop.data[0], "z");
	CHECK_OK(parse_config("score", "{\"ids\": [5, 6], \"top_p\": 7}", ""), &err);
	CHECK(options.ids.count == 2 && options.ids.data[1] == 6 && !options.given[OPTION_TOP_P]);
	CHECK_OK(parse_config("generate", "{\"prompt_ids\": \"3,4\", \"stop\": \"s\"}", ""), &err);
	CHECK(options.prompt_ids.count == 2 && options.stop.count == 1);
	CHECK_OK(parse_config("plan", "{\"memory\": \"1GiB\", \"ranks\": 3}", ""), &err);
	CHECK(options.memory == 1 << 30 && options.ranks == 3);

	CHECK_OK(parse_config("batch", "{\"input\": \"i\", \"output\": \"o\", \"n\": 2}", ""), &err);
	CHECK(options.n == 2);
	CHECK_STR(options.output.data, "o");
	CHECK_FAILS(parse_config("batch", "{\"input\": \"i\"}", ""), &err, "batch needs --output");

	static const char *const bad[][2] = {
		{"[]", "JSON object"}, {"{", "not valid JSON"},
		{"{\"tempature\": 1}", "\"tempature\" is no option"},
		{"{\"config\": \"x\"}", "\"config\" is no option"},
		{"{\"top_k\": 1.5}", "--top-k"}, {"{\"top_k\": -1}", "--top-k"},
		{"{\"json\": 1}", "--json takes true or false"},
		{"{\"model\": {}}", "--model"}, {"{\"temperature\": true}", "--temperature"},
		{"{\"prompt_ids\": [1, \"a\"]}", "--prompt-ids"},
		{"{\"prompt_ids\": [-1]}", "--prompt-ids"},
		{"{\"stop\": [[]]}", "--stop"}, {"{\"stop\": \"a\\u0000\"}", "NUL"},
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		CHECK_FAILS(parse_config("generate", bad[i][0], ""), &err, bad[i][1]);
		CHECK_MSG(err.kind == ERROR_USAGE, "%s", bad[i][0]);
	}
}

/* Every option that a command takes stands in its help, and getopt takes what stands there. */
static void help(void)
{
	for (int command = COMMAND_NONE + 1; command < COMMANDS; command++) {
		char *text, *at;
		size_t length;
		int found = 0;
		FILE *out = open_memstream(&text, &length);
		options_help(out, (enum command)command);
		fclose(out);
		for (at = text; (at = strstr(at, "\n  --")); at++) {
			char name[64], line[128];
			sscanf(at + 3, "%63[a-z-]", name);
			snprintf(line, sizeof line, "tprun %s %s%s",
				 options_command_name((enum command)command),
				 command == COMMAND_BATCH ? "--input a --output b " : "", name);
			err.message[0] = '\0';
			if (parse(line))
				CHECK_MSG(strstr(err.message, "needs a value"), "%s", err.message);
			found++;
		}
		CHECK(found >= 5);
		free(text);
	}
}

/* Random words never crash it and never pass unseen. */
static void random_lines(void)
{
	static const char *const words[] = {"--model", "--json", "--stop", "--top-k", "a", "-",
		"--", "--prompt-ids=", "--prompt-ids=1,2", "=", "--x=1", "--top-p=0.5", "-h", "--m"};
	for (int i = 0; i < 2000; i++) {
		char line[512] = "tprun generate";
		for (int n = (int)test_int(0, 8); n > 0; n--) {
			strcat(line, " ");
			strcat(line, words[test_int(0, (int)(sizeof words / sizeof words[0]) - 1)]);
		}
		err = (struct error){0};
		int result = parse(line);
		CHECK(result == 0 || (result == -1 && err.kind == ERROR_USAGE && *err.message));
	}
}

int main(void)
{
	RUN(commands);
	RUN(values);
	RUN(batch);
	RUN(wrong_values);
	RUN(sizes);
	RUN(config_file);
	RUN(help);
	RUN(random_lines);
	options_close(&options);
	TEST_END();
}
