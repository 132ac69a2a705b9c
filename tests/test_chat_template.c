/* Chat templates against transformers' own rendering: of the published templates in shared/, of
 * templates in the published styles and of random expressions (tests/data/chat-templates.json, made
 * by tests/reference/make_chat_templates.py); and what is refused, by the words of the refusal. */
#define TEST_SUITE "chat_template"
#include "tests/test.h"

#include <jansson.h>

#include "runtime/base/file.h"
#include "runtime/base/json.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

#define CASES "tests/data/chat-templates.json"

static json_t *read_json(const char *path)
{
	struct error err = {0};
	json_t *json = json_read_file(path, (size_t)1 << 26, &err);
	CHECK_MSG(json, "%s", err.message);
	return json;
}

static int render_text(const char *text, const json_t *config, const json_t *messages, bool prompt,
		       const json_t *variables, char **out, struct error *err)
{
	struct chat_template *template;
	size_t length = 0;
	*out = NULL;
	if (chat_template_open_text(&template, text, strlen(text), config, "template", err))
		return -1;
	int result = chat_template_render(template, messages, prompt, variables, 0, out, &length, err);
	chat_template_close(template);
	CHECK(result || strlen(*out) <= length);
	return result;
}

/* ---- against transformers ---- */

static void check_ids(const struct tokenizer *tokenizer, const char *text, size_t length,
		      const json_t *expected)
{
	struct error err = {0};
	int32_t *ids = NULL;
	size_t count = 0;
	CHECK_OK(tokenizer_encode(tokenizer, text, length, false, &ids, &count, &err), &err);
	bool same = count == json_array_size(expected);
	for (size_t i = 0; same && i < count; i++)
		same = ids[i] == (int32_t)json_number_value(json_array_get(expected, i));
	CHECK_MSG(same, "other ids than expected");
	free(ids);
}

static void check_shared(const char *name)
{
	struct error err = {0};
	struct chat_template *template = NULL;
	struct tokenizer *tokenizer = NULL;
	char folder[512], path[600];
	json_t *cases, *item;
	size_t index;
	snprintf(folder, sizeof folder, "%s/tokenizers/%s", test_shared(), name);
	snprintf(path, sizeof path, "%s/expected_chat.json", folder);
	cases = read_json(path);
	CHECK_OK(chat_template_open(&template, folder, &err), &err);
	CHECK_OK(tokenizer_open(&tokenizer, folder, &err), &err);
	CHECK(json_array_size(cases) > 0);
	json_array_foreach(template && tokenizer ? cases : NULL, index, item) {
		char *text = NULL;
		size_t length = 0;
		json_t *variables = json_object();
		json_object_set(variables, "date_string", json_object_get(item, "date_string"));
		CHECK_OK(chat_template_render(template, json_object_get(item, "messages"),
					      json_is_true(json_object_get(item, "add_generation_prompt")),
					      variables, 0, &text, &length, &err),
			 &err);
		if (text) {
			CHECK_STR(text, json_string_value(json_object_get(item, "text")));
			check_ids(tokenizer, text, length, json_object_get(item, "ids"));
		}
		free(text);
		json_decref(variables);
	}
	tokenizer_close(tokenizer);
	chat_template_close(template);
	json_decref(cases);
}

static void published_templates(void)
{
	if (!test_shared()) {
		SKIP("no ../shared");
		return;
	}
	check_shared("llama3.1");
	check_shared("qwen2.5");
}

/* The member `key` of the fixture; where the case names one of several, that one. */
static const json_t *part_of(const json_t *all, const json_t *item, const char *key)
{
	const char *which = json_string_value(json_object_get(item, key));
	const json_t *part = json_object_get(all, key);
	return which ? json_object_get(part, which) : part;
}

/* One kind of cases of the fixture: {template, or the name of one; messages, variables: names of
 * them, or not there for the fixture's own; add_generation_prompt; text, or error where
 * transformers fails too}. */
static void check_cases(const char *kind, size_t least)
{
	json_t *all = read_json(CASES), *item;
	const json_t *cases = json_object_get(all, kind);
	size_t index;
	CHECK_MSG(json_array_size(cases) >= least, "%zu cases", json_array_size(cases));
	json_array_foreach(cases, index, item) {
		struct error err = {0};
		char *text;
		const char *name = json_string_value(json_object_get(item, "templates"));
		const char *source = json_string_value(
			name ? part_of(all, item, "templates") : json_object_get(item, "template"));
		int result = render_text(source, json_object_get(all, "config"),
					 part_of(all, item, name ? "conversations" : "messages"),
					 json_is_true(json_object_get(item, "add_generation_prompt")),
					 part_of(all, item, name ? "settings" : "variables"), &text,
					 &err);
		const char *expected = json_string_value(json_object_get(item, "text"));
		if (!expected)
			CHECK_MSG(result, "%s gives \"%s\", not an error", source, text);
		else
			CHECK_MSG(!result && strcmp(text, expected) == 0,
				  "%s %zu: %s\ngives    \"%s\"\nexpected \"%s\"", kind, index,
				  name ? name : source, result ? err.message : text, expected);
		free(text);
	}
	json_decref(all);
}

static void styles_of_published_templates(void)
{
	check_cases("styles", 60);
}

static void features(void)
{
	check_cases("features", 300);
}

static void random_expressions(void)
{
	check_cases("random", 1000);
}

/* ---- folders ---- */

static void write_file(const char *folder, const char *name, const char *text)
{
	char path[600];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *file = fopen(path, "w");
	CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* Opens the folder and renders one message; `expected` NULL: there is no template. */
static void check_folder(const char *folder, const char *variables_text, const char *expected)
{
	struct error err = {0};
	struct chat_template *template = NULL;
	json_t *messages = json_loads("[{\"role\": \"user\", \"content\": \"hi\"}]", 0, NULL);
	json_t *variables = variables_text ? json_loads(variables_text, 0, NULL) : NULL;
	char *text = NULL;
	size_t length;
	CHECK_OK(chat_template_open(&template, folder, &err), &err);
	CHECK((template != NULL) == (expected != NULL));
	if (template) {
		CHECK_OK(chat_template_render(template, messages, true, variables, 0, &text, &length,
					      &err),
			 &err);
		CHECK_STR(text, expected);
	}
	free(text);
	chat_template_close(template);
	json_decref(messages);
	json_decref(variables);
}

static void folders(void)
{
	char folder[] = "/tmp/tprun-chat-XXXXXX", command[600];
	struct error err = {0};
	struct chat_template *template;
	CHECK(mkdtemp(folder));
	check_folder(folder, NULL, NULL);
	write_file(folder, "tokenizer_config.json", "{\"bos_token\": \"<s>\"}");
	check_folder(folder, NULL, NULL);
	write_file(folder, "tokenizer_config.json",
		   "{\"bos_token\": {\"content\": \"<s>\"}, \"chat_template\": "
		   "\"{{ bos_token }}{{ eos_token is defined }}\"}");
	check_folder(folder, NULL, "<s>False");
	write_file(folder, "tokenizer_config.json",
		   "{\"eos_token\": \"</s>\", \"chat_template\": ["
		   "{\"name\": \"default\", \"template\": \"plain{{ eos_token }}\"},"
		   "{\"name\": \"rag\", \"template\": \"{% unknown %}\"},"
		   "{\"name\": \"tool_use\", \"template\": \"{{ tools|length }} tools\"}]}");
	check_folder(folder, NULL, "plain</s>");
	check_folder(folder, "{\"tools\": [1, 2]}", "2 tools");
	check_folder(folder, "{\"tools\": null}", "plain</s>");
	write_file(folder, "chat_template.jinja", "file{{ eos_token }}\n");
	check_folder(folder, NULL, "file</s>");
	write_file(folder, "chat_template.jinja", "{{ x");
	CHECK_FAILS(chat_template_open(&template, folder, &err), &err, "never closed");
	write_file(folder, "tokenizer_config.json", "[]");
	CHECK_FAILS(chat_template_open(&template, folder, &err), &err, "JSON object");
	snprintf(command, sizeof command, "rm -r %s", folder);
	CHECK(system(command) == 0);
}

/* ---- what is refused ---- */

static const struct {
	const char *template, *words;
} refusals[] = {
	/* when it is opened */
	{"a\nb{{ x|nosuch }}", "line 2: unknown filter 'nosuch'"},
	{"{% if false %}{{ x|urlize }}{% endif %}", "unknown filter 'urlize'"},
	{"{{ l|map('nosuch')|list }}", "unknown filter 'nosuch'"},
	{"{{ l|selectattr('a', 'nosuch')|list }}", "unknown test 'nosuch'"},
	{"{{ l|select('nosuch')|list }}", "unknown test 'nosuch'"},
	{"\n\n{{ x is nosuch }}", "line 3: unknown test 'nosuch'"},
	{"{% include 'x' %}", "unknown tag 'include'"},
	{"{% for x in y %}\n{% call f() %}{% endfor %}", "line 2: unknown tag 'call' (inside of the 'for'"},
	{"{% if x %}{% endfor %}", "unknown tag 'endfor' (inside of the 'if'"},
	{"{% endif %}", "unknown tag 'endif'"},
	{"{{ nosuch(1) }}", "unknown function 'nosuch'"},
	{"{{ lipsum() }}", "unknown function 'lipsum'"},
	{"{% macro m() %}{{ varargs }}{% endmacro %}", "'varargs' of a macro is not known"},
	{"a\n{% if x %}b", "line 2: 'if' is never closed"},
	{"{% for x in y %}{% if x %}{% endif %}", "'for' is never closed"},
	{"{% macro m() %}", "'macro' is never closed"},
	{"{% set x %}", "'set' is never closed"},
	{"{# x", "a comment is never closed"},
	{"{% raw %} x", "{% raw %} is never closed"},
	{"{{ x", "an expression is never closed"},
	{"{% if x", "a tag is never closed"},
	{"{{ 'x }}", "a string is never closed"},
	{"{{ (1 }}", "closed that was not opened"},
	{"{{ [1) }}", "closed that was not opened"},
	{"{{ 1 + }}", "unexpected '}}'"},
	{"{{ }}", "an expression is missing"},
	{"{{ a b }}", "expected }}, found 'b'"},
	{"{{ a[] }}", "an index is missing"},
	{"{{ f(*a) }}", "unpacking of arguments (*) is not known"},
	{"{{ x ! y }}", "unexpected character '!'"},
	{"{{ \xc3\xa4 }}", "unexpected byte 0xc3"},
	{"{{ 0x10 }}", "numbers that are not decimal"},
	{"{{ 99999999999999999999 }}", "beyond 64 bits"},
	{"{{ '\\N{BULLET}' }}", "characters by name"},
	{"{{ '\\ud800' }}", "no character"},
	{"{% break %}", "'break' outside of a loop"},
	{"{% for x in y %}{% set z %}{% continue %}{% endset %}{% endfor %}", "'continue' outside"},
	{"{% for x in y recursive %}{% endfor %}", "recursive loops are not known"},
	{"{% set loop = 1 %}", "can't assign to 'loop'"},
	{"{{ x is defined is none }}", "one 'is' follows another"},
	{"\xff", "byte 0 of the chat template is not UTF-8"},
	/* when it is rendered */
	{"\n{{ nosuch.x }}", "line 2: 'nosuch' is undefined"},
	{"{{ {}.x.y }}", "a value of type 'dict' has no 'x'"},
	{"{{ messages[9].x }}", "a value of type 'list' has no '9'"},
	{"{{ nosuch + 1 }}", "'nosuch' is undefined"},
	{"{{ {}.x() }}", "a value of type 'dict' has no 'x'"},
	{"{{ 'x'.nosuch() }}", "a value of type 'str' has no 'nosuch'"},
	{"{{ 'x'.zfill(3) }}", "the method 'zfill' of 'str' is not known"},
	{"{{ '{}'.format(1) }}", "the method 'format' of 'str' is not known"},
	{"{{ [1].append(2) }}", "a value of type 'list' has no 'append'"},
	{"{{ {}.update({}) }}", "would change a value"},
	{"{{ ''.__class__.__mro__ }}", "has no '__class__'"},
	{"{{ 'a' + 1 }}", "'+' can't join 'str' and 'int'"},
	{"{{ '%s' % 1 }}", "formatting of text with % is not known"},
	{"{{ 1 / 0 }}", "division by zero"},
	{"{{ 9223372036854775807 + 1 }}", "beyond 64 bits"},
	{"{{ 2 ** 64 }}", "beyond 64 bits"},
	{"{{ 'a' < 1 }}", "'str' and 'int' have no order"},
	{"{{ 1 in 'a' }}", "only a string can be in a string"},
	{"{{ {[]: 1} }}", "a value of type 'list' can't be a key"},
	{"{{ 5|length }}", "a value of type 'int' has no length"},
	{"{{ [1]|map('string')|length }}", "a value of type 'generator' has no length"},
	{"{% for x in 5 %}{% endfor %}", "can't be gone through"},
	{"{% for a, b in [1, 2]|batch %}{% endfor %}", "unknown filter 'batch'"},
	{"{% for a, b in [[1, 2, 3]] %}{% endfor %}", "can't be unpacked"},
	{"{{ namespace }}", "can't be printed"},
	{"{{ nosuch|tojson }}", "a value of type 'Undefined' can't be written as JSON"},
	{"{{ 'a'|replace('b') }}", "filter 'replace' lacks its argument 'new'"},
	{"{{ 'a'|upper(1) }}", "filter 'upper' takes no more than 0 arguments"},
	{"{{ 'a'|trim(x=1) }}", "takes no argument 'x'"},
	{"{{ '<'|safe + '>' }}", "marked with |safe"},
	{"{{ ('<'|safe)|upper }}", "marked with |safe"},
	{"{% set x = 1 %}{{ x() }}", "a value of type 'int' can't be called"},
	{"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "arguments that it does not have"},
	{"{% set messages.x = 1 %}", "'messages' is no namespace"},
	{"{{ 'a'[::0] }}", "the step of a slice is zero"},
	{"{{ none[1:] }}", "can't be cut into slices"},
	{"{{ raise_exception('no ' ~ 'way') }}", "template: no way"},
	/* and what would never end, or fill the memory */
	{"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nesting or recursion goes too deep"},
	{"{{ range(100001) }}", "range gives more than 100000 numbers"},
	{"{{ range(-9223372036854775807, 9223372036854775807) }}", "range gives more than"},
	{"{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
	 "too many steps"},
	{"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
	 "takes too much memory"},
	{"{{ 'x' * 100000000 }}", "grows too large"},
	{"{{ [1] * 100000000 }}", "too large"},
	{"{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(40) %}"
	 "{% set ns.s = ns.s + ns.s %}{% endfor %}", "grows beyond 64 MiB"},
	{"{% set ns = namespace(s=[]) %}{% for a in range(5000) %}{% set ns.s = [ns.s] %}{% endfor %}"
	 "{{ ns.s }}", "too deep"},
	{"{% set ns = namespace(s=[], t=[]) %}{% for a in range(5000) %}{% set ns.s = [ns.s] %}"
	 "{% set ns.t = [ns.t] %}{% endfor %}{{ ns.s == ns.t }}", "too deep"},
	{"{{ ('a' * 9999999).rfind('a' * 999999 + 'b') }}", "too many steps"},
	{"{{ ('a' * 9999999).rsplit('b' + 'a' * 999999) }}", "too many steps"},
	{"{{ ('a' * 9999999).strip('b' * 999999) }}", "too many steps"},
	{"{{ ('a' * 9999999)|trim('b' * 999999) }}", "too many steps"},
	{"{% set ns = namespace(l=[1]) %}{% for a in range(40) %}{% set ns.l = ns.l + ns.l %}"
	 "{% endfor %}", "too much memory"},
};

static void what_is_refused(void)
{
	json_t *messages = json_loads("[{\"role\": \"user\", \"content\": \"hi\"}]", 0, NULL);
	for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
		struct error err = {0};
		char *text = NULL;
		int result = render_text(refusals[i].template, NULL, messages, true, NULL, &text, &err);
		CHECK_MSG(result == -1 && strstr(err.message, refusals[i].words),
			  "%s: \"%s\" does not say \"%s\"", refusals[i].template,
			  result ? err.message : text, refusals[i].words);
		bool own = strstr(refusals[i].template, "raise_exception") != NULL;
		CHECK(err.kind == (own ? ERROR_USAGE : ERROR_RUN));
		free(text);
	}
	json_decref(messages);
}

/* `open`, `middle`, `close`, the first and last `times` over. */
static char *nested(const char *open, const char *middle, const char *close, size_t times)
{
	char *text = malloc(times * (strlen(open) + strlen(close)) + strlen(middle) + 1), *at = text;
	for (size_t i = 0; i < times; i++)
		at = stpcpy(at, open);
	at = stpcpy(at, middle);
	for (size_t i = 0; i < times; i++)
		at = stpcpy(at, close);
	return text;
}

static void deep_nesting(void)
{
	static const struct {
		const char *open, *middle, *close, *before, *words;
	} cases[] = {
		{"(", "1", ")", "{{ ", "nested too deeply"},
		{"[", "1", "]", "{{ ", "nested too deeply"},
		{"-", "1", "", "{{ ", "nested too deeply"},
		{"not ", "x", "", "{{ ", ""},
		{"1 + ", "1", "", "{{ ", "too deep"},
		{"x if x else ", "1", "", "{{ ", "nested too deeply"},
		{"", "x", ".a", "{{ ", "too deep"},
		{"", "x", "|trim", "{{ ", "too deep"},
		{"{% if x %}", "", "{% endif %}", "", "nested too deeply"},
		{"{% for x in y %}", "", "{% endfor %}", "", "nested too deeply"},
		{"(", "a", ",)", "{% for ", "nested too deeply"},
	};
	json_t *messages = json_array();
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct error err = {0};
		char *inside = nested(cases[i].open, cases[i].middle, cases[i].close, 20000), *text = NULL;
		char *template = malloc(strlen(inside) + 40);
		sprintf(template, "%s%s%s", cases[i].before, inside,
			!*cases[i].before ? "" : cases[i].before[1] == '{' ? " }}" : " in x %}{% endfor %}");
		int result = render_text(template, NULL, messages, false, NULL, &text, &err);
		if (*cases[i].words)
			CHECK_MSG(result == -1 && strstr(err.message, cases[i].words),
				  "%s: %s", cases[i].open, err.message);
		else
			CHECK_OK(result, &err);
		free(text);
		free(template);
		free(inside);
	}
	json_decref(messages);
}

static void many_names(void)
{
	struct error err = {0};
	char *template = malloc(100000), *at = template, *text;
	json_t *messages = json_array();
	for (int i = 0; i < 5000; i++)
		at += sprintf(at, "{{a%d}}", i);
	CHECK_FAILS(render_text(template, NULL, messages, false, NULL, &text, &err), &err,
		    "too many names");
	free(template);
	json_decref(messages);
}

/* ---- hostile messages ---- */

static void messages_of_any_shape(void)
{
	struct error err = {0};
	char *text = NULL;
	json_t *deep = json_array(), *object = json_object();
	CHECK_FAILS(render_text("x", NULL, object, false, NULL, &text, &err), &err, "must be a list");
	for (int i = 0; i < 1500; i++) {
		json_t *outer = json_array();
		json_array_append_new(outer, deep);
		deep = outer;
	}
	CHECK_FAILS(render_text("x", NULL, deep, false, NULL, &text, &err), &err, "too deep");
	json_decref(deep);

	/* NUL is a character like any other. */
	json_t *nul = json_array();
	json_array_append_new(nul, json_stringn("a\0b", 3));
	struct chat_template *template = NULL;
	size_t length = 0;
	static const char source[] = "{{ messages[0] }}{{ messages[0]|length }}{{ messages|tojson }}";
	CHECK_OK(chat_template_open_text(&template, source, strlen(source), NULL, "t", &err), &err);
	CHECK_OK(chat_template_render(template, nul, false, NULL, 0, &text, &length, &err), &err);
	CHECK(text && length == 16 && memcmp(text, "a\0b3[\"a\\u0000b\"]", 17) == 0);
	free(text);
	chat_template_close(template);
	json_decref(nul);
	json_decref(object);
}

static void the_time(void)
{
	struct error err = {0};
	struct chat_template *template = NULL;
	json_t *messages = json_array();
	static const char source[] = "{{ strftime_now('%d %b %Y, %H:%M') }}";
	char *text = NULL, expected[80];
	size_t length = 0;
	time_t now = (time_t)test_int(0, 4000000000);
	struct tm local;
	localtime_r(&now, &local);
	strftime(expected, sizeof expected, "%d %b %Y, %H:%M", &local);
	CHECK_OK(chat_template_open_text(&template, source, strlen(source), NULL, "t", &err), &err);
	CHECK_OK(chat_template_render(template, messages, false, NULL, now, &text, &length, &err), &err);
	CHECK_STR(text, expected);
	free(text);
	chat_template_close(template);
	json_decref(messages);
}

/* A rendering must not cost what a step of the model does. */
static void speed(void)
{
	json_t *all = read_json(CASES);
	const json_t *templates = json_object_get(all, "templates"), *item;
	const char *source = json_string_value(json_object_get(templates, "llama-3.1-tools"));
	size_t index, length;
	json_array_foreach(json_object_get(all, "styles"), index, item) {
		struct error err = {0};
		struct chat_template *template = NULL;
		struct timespec start, end;
		double best = 1e9;
		if (strcmp(json_string_value(json_object_get(item, "templates")), "llama-3.1-tools") ||
		    !json_object_get(item, "text"))
			continue;
		CHECK_OK(chat_template_open_text(&template, source, strlen(source), NULL, "t", &err),
			 &err);
		for (int i = 0; i < 50; i++) {
			char *text = NULL;
			clock_gettime(CLOCK_MONOTONIC, &start);
			CHECK_OK(chat_template_render(template, part_of(all, item, "conversations"), true,
						      part_of(all, item, "settings"), 0, &text,
						      &length, &err),
				 &err);
			clock_gettime(CLOCK_MONOTONIC, &end);
			free(text);
			double ms = (double)(end.tv_sec - start.tv_sec) * 1e3 +
				    (double)(end.tv_nsec - start.tv_nsec) * 1e-6;
			best = ms < best ? ms : best;
		}
		CHECK_MSG(best < 1, "%zu bytes in %.3f ms", length, best);
		chat_template_close(template);
	}
	json_decref(all);
}

int main(void)
{
	RUN(published_templates);
	RUN(styles_of_published_templates);
	RUN(features);
	RUN(random_expressions);
	RUN(folders);
	RUN(what_is_refused);
	RUN(deep_nesting);
	RUN(many_names);
	RUN(messages_of_any_shape);
	RUN(the_time);
	RUN(speed);
	TEST_END();
}
