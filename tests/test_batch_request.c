#define TEST_SUITE "batch_request"
#include "tests/test.h"

#include "launcher/batch_keys.h"
#include "launcher/batch_request.h"

static struct error err;
static struct tokenizer *tokenizer;
static struct chat_template *template;

/* What Hugging Face's GenerationConfig has where no file says otherwise. */
static const struct generation_defaults plain = {
	.temperature = 1, .top_p = 1, .top_k = 50, .repetition_penalty = 1, .bos = -1,
};

/* Options as the command line would give them. */
static struct options options_of(const char *words)
{
	static char text[256];
	static char *argv[32];
	struct options options;
	int argc = 0;
	snprintf(text, sizeof text, "tprun batch --input - --output out.jsonl %s", words);
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	CHECK_OK(options_parse(&options, argc, argv, &err), &err);
	return options;
}

static struct generation_settings base_of(const char *words, const struct generation_defaults *defaults)
{
	struct generation_settings settings = {0};
	struct options options = options_of(words);
	CHECK_OK(generation_settings_choose(&settings, &options, defaults, &err), &err);
	options_close(&options);
	return settings;
}

static json_t *json(const char *text)
{
	json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
	CHECK_MSG(value, "%s", text);
	return value;
}

/* ---- settings ---------------------------------------------------------------------------- */

/* The temperature that holds: 0 is greedy. A line counts as if it stood on the command line, after
 * what stands there. */
static void greedy_or_not(void)
{
	struct generation_defaults samples = plain;
	samples.sample = true;
	samples.temperature = 0.6;
	samples.top_p = 0.9;
	static const struct {
		const char *words, *line;
		double greedy_model, sampling_model;
	} cases[] = {
		{"", "{}", 0, 0.6},
		{"--temperature 0", "{}", 0, 0},
		{"--temperature 0.7", "{}", 0.7, 0.7},
		{"--top-k 5", "{}", 1, 0.6},
		{"--temperature 0 --top-p 0.5", "{}", 0, 0},
		{"", "{\"temperature\": 0.3}", 0.3, 0.3},
		{"", "{\"temperature\": 0}", 0, 0},
		{"", "{\"top_p\": 0.3}", 1, 0.6},
		{"", "{\"min_p\": 0.3, \"temperature\": 0}", 0, 0},
		{"", "{\"do_sample\": true}", 1, 0.6},
		{"", "{\"do_sample\": false}", 0, 0},
		{"--temperature 0.7", "{\"do_sample\": false}", 0, 0},
		{"--temperature 0.7", "{\"do_sample\": false, \"temperature\": 0.9}", 0, 0},
		{"--temperature 0.7", "{\"temperature\": 0}", 0, 0},
		{"--temperature 0", "{\"top_k\": 3}", 0, 0},
		{"--temperature 0", "{\"temperature\": 2, \"top_k\": 3}", 2, 2},
		{"", "{\"repetition_penalty\": 1.2, \"seed\": 3}", 0, 0.6},
		{"", "{\"temperature\": null, \"do_sample\": null}", 0, 0.6},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		for (int model = 0; model < 2; model++) {
			struct generation_settings settings,
				base = base_of(cases[i].words, model ? &samples : &plain);
			json_t *line = json(cases[i].line);
			double expected = model ? cases[i].sampling_model : cases[i].greedy_model;
			CHECK_OK(generation_settings_override(&settings, &base, line, &err), &err);
			CHECK_MSG(settings.sampling.temperature == expected, "%s %s: %g, not %g",
				  cases[i].words, cases[i].line, settings.sampling.temperature, expected);
			generation_settings_close(&settings);
			generation_settings_close(&base);
			json_decref(line);
		}
}

static void overridden(void)
{
	struct generation_settings settings, base = base_of(
		"--seed 18446744073709551615 --top-k 3 --stop aa --stop bb --n 2 --max-new-tokens 9", &plain);
	json_t *nothing = json("{\"prompt\": 1, \"top_k\": null}"), *all = json(
		"{\"max_length\": 77, \"top_k\": 0, \"top_p\": 0.25, \"min_p\": 1, \"temperature\": 1.5,"
		" \"repetition_penalty\": 1.25, \"seed\": 9007199254740993, \"stop_strings\": \"\\u00e9\","
		" \"ignore_eos\": true, \"num_return_sequences\": 4}");
	CHECK_OK(generation_settings_override(&settings, &base, nothing, &err), &err);
	CHECK(settings.sampling.seed == UINT64_MAX && settings.sampling.top_k == 3 && settings.n == 2);
	CHECK(settings.stop.count == 2 && settings.stop.data[0] != base.stop.data[0]);
	CHECK_STR(settings.stop.data[1], "bb");
	CHECK(!settings.ignore_eos && settings.max_new_tokens == 9);
	generation_settings_close(&settings);

	CHECK_OK(generation_settings_override(&settings, &base, all, &err), &err);
	const struct sampling *s = &settings.sampling;
	CHECK(s->top_k == 0 && s->top_p == 0.25 && s->min_p == 1 && s->temperature == 1.5);
	CHECK(s->repetition_penalty == 1.25 && s->seed == 9007199254740993ull);
	CHECK(settings.stop.count == 1 && settings.n == 4 && settings.ignore_eos);
	CHECK_STR(settings.stop.data[0], "\xc3\xa9");
	CHECK(settings.max_new_tokens == 0 && settings.max_length == 77);
	generation_settings_close(&settings);
	generation_settings_close(&base);
	json_decref(nothing);
	json_decref(all);
}

static void wrong_settings(void)
{
	static const char *const lines[][2] = {
		{"{\"max_new_tokens\": 0}", "max_new_tokens"},
		{"{\"max_new_tokens\": 2147483648}", "max_new_tokens"},
		{"{\"max_new_tokens\": 1.5}", "max_new_tokens"},
		{"{\"max_length\": \"9\"}", "max_length"},
		{"{\"temperature\": -0.1}", "temperature"},
		{"{\"temperature\": \"hot\"}", "temperature"},
		{"{\"top_k\": -1}", "top_k"},
		{"{\"top_p\": 0}", "\"top_p\" must be a number above 0 and at most 1"},
		{"{\"top_p\": 1.001}", "top_p"},
		{"{\"min_p\": 2}", "min_p"},
		{"{\"repetition_penalty\": 0}", "repetition_penalty"},
		{"{\"repetition_penalty\": 5000}", "repetition-penalty"},
		{"{\"seed\": -1}", "seed"},
		{"{\"seed\": 1.5}", "seed"},
		{"{\"do_sample\": 1}", "do_sample"},
		{"{\"ignore_eos\": \"yes\"}", "ignore_eos"},
		{"{\"stop\": 3}", "stop"},
		{"{\"stop\": [\"a\", 3]}", "stop"},
		{"{\"stop\": \"\"}", "stop is empty"},
		{"{\"stop\": [\"a\"], \"stop_strings\": [\"b\"]}", "stop_strings"},
		{"{\"n\": 0}", "\"n\""},
		{"{\"n\": 2, \"num_return_sequences\": 2}", "num_return_sequences"},
		{"{\"num_return_sequences\": true}", "num_return_sequences"},
	};
	struct generation_settings settings, base = base_of("--stop aa", &plain);
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		json_t *line = json(lines[i][0]);
		CHECK_FAILS(generation_settings_override(&settings, &base, line, &err), &err, lines[i][1]);
		CHECK(err.kind == ERROR_USAGE);
		json_decref(line);
	}
	generation_settings_close(&base);

	struct options options = options_of("--stop \xff");
	CHECK_FAILS(generation_settings_choose(&settings, &options, &plain, &err), &err, "UTF-8");
	options_close(&options);
}

static void lengths(void)
{
	struct generation_defaults both = plain;
	both.max_new_tokens = 33;
	both.max_length = 44;
	static const struct {
		const char *words, *line;
		int64_t plain, both;
	} cases[] = { /* after a prompt of 10 */
		{"", "{}", 246, 33},
		{"--max-length 20", "{}", 10, 10},
		{"--max-length 20 --max-new-tokens 7", "{}", 7, 7},
		{"--max-new-tokens 7", "{\"max_length\": 30}", 20, 20},
		{"--max-new-tokens 7 --max-length 99", "{\"max_new_tokens\": 5}", 5, 5},
		{"", "{\"max_length\": 30, \"max_new_tokens\": 5}", 5, 5},
		{"--max-length 4", "{}", -6, -6},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct generation_settings settings, base = base_of(cases[i].words, &plain);
		json_t *line = json(cases[i].line);
		CHECK_OK(generation_settings_override(&settings, &base, line, &err), &err);
		CHECK(generation_settings_length(&settings, &plain, 10) == cases[i].plain);
		CHECK(generation_settings_length(&settings, &both, 10) == cases[i].both);
		generation_settings_close(&settings);
		generation_settings_close(&base);
		json_decref(line);
	}
}

/* ---- requests ---------------------------------------------------------------------------- */

static struct generation_settings settings_of_all;

static struct batch_context context_of_all(void)
{
	return (struct batch_context){
		.tokenizer = tokenizer, .chat_template = template,
		.vocab = tokenizer_vocab_size(tokenizer), .context = 100,
		.settings = &settings_of_all, .defaults = &plain, .now = 0,
	};
}

static int parse(struct batch_request *out, const struct batch_context *context, const char *line)
{
	return batch_request_parse(out, context, line, strlen(line), &err);
}

static void same_ids(const struct batch_request *request, const char *text, bool special)
{
	int32_t *ids;
	size_t count;
	CHECK_OK(tokenizer_encode(tokenizer, text, strlen(text), special, &ids, &count, &err), &err);
	CHECK_MSG(count == (size_t)request->count &&
		  !memcmp(ids, request->ids, count * sizeof *ids), "%zu, %d", count, request->count);
	free(ids);
}

static void prompts(void)
{
	struct batch_context context = context_of_all();
	struct batch_request request;
	CHECK_OK(parse(&request, &context, "{\"id\": \"a\", \"prompt\": \"Once upon a time\"}"), &err);
	same_ids(&request, "Once upon a time", true);
	CHECK_STR(json_string_value(request.id), "a");
	CHECK(!request.by_ids && request.max_new_tokens == 100 - request.count);
	batch_request_close(&request);

	CHECK_OK(parse(&request, &context, "{\"id\": 5, \"prompt_ids\": [3, 2, 1], \"max_new_tokens\": 4,"
			"\"metadata\": {\"x\": 1}}"), &err);
	CHECK(request.by_ids && request.count == 3 && request.ids[0] == 3 && request.ids[2] == 1);
	CHECK(request.max_new_tokens == 4 && json_integer_value(request.id) == 5);
	batch_request_close(&request);

	CHECK_OK(parse(&request, &context, "{\"id\": 5, \"messages\": [{\"role\": \"user\", \"content\": "
			"\"Hello you\"}]}"), &err);
	same_ids(&request, "[user]Hello you[assistant]", false);
	batch_request_close(&request);
	CHECK_OK(parse(&request, &context, "{\"id\": 5, \"messages\": [{\"role\": \"assistant\", \"content\":"
			" \"I am\"}], \"add_generation_prompt\": false}"), &err);
	same_ids(&request, "[assistant]I am", false);
	batch_request_close(&request);
	CHECK_OK(parse(&request, &context, "{\"id\": 5, \"messages\": [{\"role\": \"user\", \"content\": \"a\"}],"
			"\"chat_template_kwargs\": {\"word\": \"cat\"}, \"tools\": [{\"name\": \"dog\"}]}"),
		 &err);
	same_ids(&request, "[user]a[dog][cat][assistant]", false);
	batch_request_close(&request);
	batch_request_close(NULL);
}

static void wrong_requests(void)
{
	static const char *const lines[][2] = {
		{"{\"id\": 1}", "exactly one"},
		{"{\"id\": 1, \"prompt\": null}", "exactly one"},
		{"{\"id\": 1, \"prompt\": \"a\", \"prompt_ids\": [1]}", "only one"},
		{"{\"id\": 1, \"prompt\": \"a\", \"custom_id\": 1}", "\"custom_id\""},
		{"{\"id\": 1, \"prompt\": \"a\", \"max_tokens\": 1}", "\"max_tokens\""},
		{"{\"id\": 1, \"prompt\": \"a\", \"top_p\": 3}", "top_p"},
		{"{\"id\": 1, \"prompt\": \"a\", \"tools\": []}", "\"tools\" goes with"},
		{"{\"id\": 1, \"prompt\": \"a\", \"add_generation_prompt\": true}", "goes with"},
		{"{\"id\": 1, \"prompt\": 7}", "must be a string"},
		{"{\"id\": 1, \"prompt_ids\": 7}", "must be a list"},
		{"{\"id\": 1, \"prompt_ids\": []}", "empty"},
		{"{\"id\": 1, \"prompt_ids\": [1, -1]}", "place 2"},
		{"{\"id\": 1, \"prompt_ids\": [1, 1000000]}", "place 2"},
		{"{\"id\": 1, \"prompt_ids\": [1.5]}", "place 1"},
		{"{\"id\": 1, \"prompt_ids\": [1, 2, 3], \"max_length\": 3}", "max_length of 3"},
		{"{\"id\": 1, \"messages\": []}", "at least one"},
		{"{\"id\": 1, \"messages\": \"hello\"}", "at least one"},
		{"{\"id\": 1, \"messages\": [\"hello\"]}", "message 1"},
		{"{\"id\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"\"}, {}]}", "message 2"},
		{"{\"id\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"\"}],"
		 "\"add_generation_prompt\": false}", "wants a last message of the assistant"},
		{"{\"id\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"\"}],"
		 "\"add_generation_prompt\": 1}", "true or false"},
		{"{\"id\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"tools\": 1}", "tools"},
		{"{\"id\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"\"}],"
		 "\"chat_template_kwargs\": []}", "must be an object"},
		{"{\"id\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"\"}],"
		 "\"chat_template_kwargs\": {\"messages\": []}}", "says itself"},
		{"{\"id\": 1, \"messages\": [{\"role\": \"nobody\", \"content\": \"\"}]}", "no nobody here"},
		{"{\"prompt\": \"a\"}", "no \"id\""},
		{"nothing", "not valid JSON"},
	};
	struct batch_context context = context_of_all();
	struct batch_request request;
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
		CHECK_FAILS(parse(&request, &context, lines[i][0]), &err, lines[i][1]);

	char text[1024] = "{\"id\": 1, \"prompt_ids\": [1", exact[1100];
	for (int i = 1; i < 99; i++)
		strcat(text, ",1");
	snprintf(exact, sizeof exact, "%s]}", text);
	CHECK_OK(parse(&request, &context, exact), &err);
	CHECK(request.count == 99 && request.max_new_tokens == 1);
	batch_request_close(&request);
	snprintf(exact, sizeof exact, "%s,1]}", text);
	CHECK_FAILS(parse(&request, &context, exact), &err, "100 tokens; the context of 100");

	context.chat_template = NULL;
	CHECK_FAILS(parse(&request, &context, "{\"id\": 1, \"messages\": [{\"role\": \"user\"}]}"), &err,
		    "no chat template");
	context.tokenizer = NULL;
	CHECK_FAILS(parse(&request, &context, "{\"id\": 1, \"prompt\": \"a\"}"), &err, "prompt_ids");
	CHECK_FAILS(parse(&request, &context, "{\"id\": 1, \"prompt_ids\": [1], \"stop\": \"a\"}"), &err,
		    "\"stop\"");
	CHECK_OK(parse(&request, &context, "{\"id\": 1, \"prompt_ids\": [1]}"), &err);
	batch_request_close(&request);
}

/* A request's number is a matter of its id alone, and no two samples share theirs. */
static void draws(void)
{
	enum { IDS = 1000, SAMPLES = 100 };
	struct batch_context context = context_of_all();
	struct batch_key_set *set;
	int before;
	CHECK_OK(batch_key_set_open(&set, &err), &err);
	for (int i = 0; i < IDS; i++) {
		struct batch_request a, b;
		char line[2][128];
		snprintf(line[0], sizeof line[0], "{\"id\": \"%d\", \"prompt_ids\": [1]}", i);
		snprintf(line[1], sizeof line[1], "{\"top_k\": 3, \"prompt\": \"x\", \"id\": \"%d\"}", i);
		CHECK_OK(parse(&a, &context, line[0]), &err);
		CHECK_OK(parse(&b, &context, line[1]), &err);
		CHECK(a.request == b.request);
		for (int32_t k = 0; k < SAMPLES; k++) {
			struct batch_key key = {batch_request_draw(a.request, k), 0};
			CHECK_OK(batch_key_set_add(set, key, BATCH_SEEN, &before, &err), &err);
		}
		batch_request_close(&a);
		batch_request_close(&b);
	}
	CHECK(batch_key_set_count(set) == IDS * SAMPLES);
	batch_key_set_close(set);
}

static void results(void)
{
	static const int32_t ids[] = {5, 6, 7};
	struct batch_sample samples[] = {
		{"a\0\xc3\xa9\n", 5, ids, 3, true}, {"", 0, ids, 2, false},
	};
	static const struct {
		const char *line, *result;
	} cases[] = {
		{"{\"id\": \"x\", \"prompt_ids\": [1, 2]}",
		 "{\"id\":\"x\",\"text\":\"a\\u0000\xc3\xa9\\n\",\"finish_reason\":\"stop\",\"prompt_tokens\":2,"
		 "\"output_tokens\":3,\"output_ids\":[5,6,7]}"},
		{"{\"id\": 3, \"prompt_ids\": [1, 2], \"n\": 2}",
		 "{\"id\":3,\"prompt_tokens\":2,\"completions\":[{\"text\":\"a\\u0000\xc3\xa9\\n\","
		 "\"finish_reason\":\"stop\",\"output_tokens\":3,\"output_ids\":[5,6,7]},{\"text\":\"\","
		 "\"finish_reason\":\"length\",\"output_tokens\":2,\"output_ids\":[5,6]}]}"},
	};
	struct batch_context context = context_of_all();
	struct batch_request request;
	for (size_t i = 0; i < 2; i++) {
		CHECK_OK(parse(&request, &context, cases[i].line), &err);
		json_t *line = batch_request_result(&request, samples);
		char *text = json_dumps(line, JSON_COMPACT);
		CHECK_STR(text, cases[i].result);
		free(text);
		json_decref(line);
		batch_request_close(&request);
	}
	CHECK_OK(parse(&request, &context, "{\"id\": \"x\", \"prompt\": \"a\"}"), &err);
	samples[0].text = NULL;
	json_t *line = batch_request_result(&request, samples);
	CHECK(json_is_null(json_object_get(line, "text")) && !json_object_get(line, "output_ids"));
	json_decref(line);
	samples[0] = (struct batch_sample){"\xff", 1, ids, 1, true};
	CHECK(!batch_request_result(&request, samples));
	line = batch_request_error(request.id, "why");
	char *text = json_dumps(line, JSON_COMPACT);
	CHECK_STR(text, "{\"id\":\"x\",\"error\":\"why\"}");
	free(text);
	json_decref(line);
	batch_request_close(&request);
}

/* Lines put together at random from sound and unsound parts: an error, or a request that keeps its
 * promises. */
static void random_lines(void)
{
	static const char *const parts[] = {
		"\"prompt\": \"some text\"", "\"prompt\": \"\\ud83d\\ude00 <s>\\u0000\"", "\"prompt_ids\": [0, 1]",
		"\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]", "\"n\": 3", "\"n\": -3",
		"\"stop\": [\"a\", \"b\"]", "\"stop\": [\"a\", []]", "\"max_new_tokens\": 1000",
		"\"max_length\": 2", "\"temperature\": 0.5", "\"seed\": 7", "\"do_sample\": true",
		"\"tools\": [1]", "\"chat_template_kwargs\": {\"word\": null}", "\"metadata\": [[]]",
		"\"add_generation_prompt\": false", "\"top_p\": 1e-300", "\"top_p\": 1e999", "\"x\": 1",
	};
	struct batch_context context = context_of_all();
	int good = 0, bad = 0;
	for (int round = 0; round < 5000; round++) {
		struct batch_request request;
		char line[1024] = "{\"id\": 1";
		for (int64_t i = test_int(0, 3); i >= 0; i--)
			strcat(strcat(line, ", "),
			       parts[i ? (size_t)test_int(0, sizeof parts / sizeof *parts - 1)
				       : (size_t)test_int(0, 3)]);
		strcat(line, "}");
		if (test_int(0, 3) == 0)
			line[test_int(0, (int64_t)strlen(line) - 1)] = (char)test_int(1, 255);
		err = (struct error){0};
		if (parse(&request, &context, line)) {
			CHECK(err.message[0]);
			bad++;
			continue;
		}
		good++;
		CHECK(request.count > 0 && request.max_new_tokens > 0 &&
		      request.count + request.max_new_tokens <= context.context);
		for (int32_t i = 0; i < request.count; i++)
			CHECK(request.ids[i] >= 0 && request.ids[i] < context.vocab);
		CHECK(request.settings.n > 0 && json_is_integer(request.id));
		batch_request_close(&request);
	}
	CHECK_MSG(good > 300 && bad > 300, "%d and %d", good, bad);
}

int main(void)
{
	static const char text[] =
		"{% for m in messages %}{% if m.role == 'nobody' %}{{ raise_exception('no nobody here') }}"
		"{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
		"{% if tools %}{% for t in tools %}[{{ t.name }}]{% endfor %}{% endif %}"
		"{% if word %}[{{ word }}]{% endif %}"
		"{% if add_generation_prompt %}[assistant]{% endif %}";
	test_random();
	if (tokenizer_open(&tokenizer, "configs/tiny-stories", &err) ||
	    chat_template_open_text(&template, text, sizeof text - 1, NULL, "template", &err)) {
		printf("FAIL batch_request/start: %s\n", err.message);
		return 1;
	}
	settings_of_all = base_of("", &plain);
	RUN(greedy_or_not);
	RUN(overridden);
	RUN(wrong_settings);
	RUN(lengths);
	RUN(prompts);
	RUN(wrong_requests);
	RUN(draws);
	RUN(results);
	RUN(random_lines);
	generation_settings_close(&settings_of_all);
	chat_template_close(template);
	tokenizer_close(tokenizer);
	TEST_END();
}
