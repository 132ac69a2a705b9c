#include "launcher/commands.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/output.h"
#include "launcher/session.h"
#include "runtime/base/json.h"

/* "1,2,3" into malloc'ed memory, between `open` and `close`. */
static char *list_ids(const int32_t *ids, size_t count, const char *open, const char *close)
{
	char *text = malloc(count * 12 + strlen(open) + strlen(close) + 1);
	if (!text)
		return NULL;
	char *at = text + sprintf(text, "%s", open);
	for (size_t i = 0; i < count; i++)
		at += sprintf(at, "%s%d", i ? "," : "", ids[i]);
	strcpy(at, close);
	return text;
}

static int print_ids(const int32_t *ids, size_t count, const char *open, const char *close,
		     struct error *err)
{
	char *text = list_ids(ids, count, open, close);
	if (!text)
		return error_memory(err, "the list of ids");
	bool good = fputs(text, stdout) != EOF;
	free(text);
	return good ? 0 : error_run(err, "cannot write to standard output: %s", strerror(errno));
}

static int encode_text(const struct options *options, const struct tokenizer *tokenizer,
		       struct error *err)
{
	int32_t *ids;
	size_t count;
	if (tokenizer_encode(tokenizer, options->text.data, options->text.length,
			     !options->no_special, &ids, &count, err)) {
		err->kind = ERROR_USAGE;
		return error_context(err, "--text");
	}
	int result = options->json ? print_ids(ids, count, "{\"ids\": [", "]}\n", err)
				   : print_ids(ids, count, "", "\n", err);
	free(ids);
	return result;
}

static int decode_ids(const struct options *options, const struct tokenizer *tokenizer,
		      struct error *err)
{
	char *text;
	size_t length;
	if (tokenizer_decode(tokenizer, options->decode.data, options->decode.count,
			     options->no_special, &text, &length, err)) {
		err->kind = ERROR_USAGE;
		return error_context(err, "--decode");
	}
	int result = options->json ? output_json(json_pack("{s:o}", "text",
							   json_stringn(text, length)), err)
		     : output_write(text, length, err) ? -1 : output_write("\n", 1, err);
	free(text);
	return result;
}

static int encode_line(const struct options *options, const struct tokenizer *tokenizer,
		       const char *line, size_t length, const char *name, struct error *err)
{
	int32_t *ids;
	size_t count;
	json_t *value = json_parse(line, length, name, err);
	int result = -1;
	if (!value)
		goto fail;
	if (!json_is_string(value)) {
		error_run(err, "%s is no JSON string", name);
		goto fail;
	}
	if (tokenizer_encode(tokenizer, json_string_value(value), json_string_length(value),
			     !options->no_special, &ids, &count, err)) {
		error_context(err, "%s", name);
		goto fail;
	}
	result = print_ids(ids, count, "[", "]\n", err);
	free(ids);
fail:
	json_decref(value);
	return result;
}

static int encode_lines(const struct options *options, const struct tokenizer *tokenizer,
			struct error *err)
{
	char *line = NULL, name[64];
	size_t capacity = 0;
	ssize_t length;
	int result = 0;
	for (long number = 1; !result && (length = getline(&line, &capacity, stdin)) >= 0; number++) {
		snprintf(name, sizeof name, "line %ld of standard input", number);
		if (strspn(line, " \t\r\n") < (size_t)length)
			result = encode_line(options, tokenizer, line, (size_t)length, name, err);
	}
	if (!result && ferror(stdin))
		result = error_run(err, "cannot read standard input: %s", strerror(errno));
	free(line);
	return result;
}

int cmd_tokenize(const struct options *options, struct error *err)
{
	const bool *given = options->given;
	struct tokenizer *tokenizer = NULL;
	int result = -1;
	if (given[OPTION_TEXT] + given[OPTION_DECODE] + options->jsonl != 1)
		return error_usage(err, "tokenize takes exactly one of --text, --decode and --jsonl");
	char *folder = session_model_folder(options, err);
	if (!folder || tokenizer_open(&tokenizer, folder, err))
		goto fail;
	result = options->jsonl		 ? encode_lines(options, tokenizer, err)
		 : given[OPTION_DECODE] ? decode_ids(options, tokenizer, err)
					 : encode_text(options, tokenizer, err);
	if (!result)
		result = output_write("", 0, err);
fail:
	tokenizer_close(tokenizer);
	free(folder);
	return result;
}
