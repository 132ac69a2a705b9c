#include "launcher/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"

/* The names as the user knows them, in the order of the table. */
static int check_one(const struct options *options, const struct prompt_source *source,
		     struct error *err)
{
	int given = options->given[source->text_option] + options->given[source->file_option] +
		    options->given[source->ids_option];
	if (given == 1)
		return 0;
	return error_usage(err, "%s takes %s one of --%s, --%s and --%s",
			   options_command_name(options->command), given ? "only" : "exactly",
			   options_name(source->text_option), options_name(source->file_option),
			   options_name(source->ids_option));
}

static int check_ids(const int32_t *ids, size_t count, int32_t vocab, struct error *err)
{
	for (size_t i = 0; i < count; i++)
		if (ids[i] < 0 || ids[i] >= vocab)
			return error_usage(err, "token id %d is outside the model's vocabulary of %d",
					   ids[i], vocab);
	return 0;
}

static int copy_ids(const struct option_ids *given, int32_t **ids, size_t *count,
		    struct error *err)
{
	*ids = malloc((given->count + 1) * sizeof **ids);
	if (!*ids)
		return error_memory(err, "the prompt");
	if (given->count)
		memcpy(*ids, given->data, given->count * sizeof **ids);
	*count = given->count;
	return 0;
}

int prompt_read(const struct options *options, const struct prompt_source *source,
		const struct tokenizer *tokenizer, int32_t vocab, int32_t **ids, size_t *count,
		struct error *err)
{
	char *file = NULL;
	const char *text = source->text->data;
	size_t length = source->text->length;
	int result = -1;
	*ids = NULL;
	if (check_one(options, source, err))
		return -1;
	if (options->given[source->ids_option]) {
		if (copy_ids(source->ids, ids, count, err))
			return -1;
	} else {
		if (options->given[source->file_option]) {
			if (file_read(source->file->data, PROMPT_BYTES_MAX, &file, &length, err))
				return -1;
			text = file;
		}
		if (tokenizer_encode(tokenizer, text, length, true, ids, count, err)) {
			error_context(err, "the prompt");
			err->kind = ERROR_USAGE;
			goto fail;
		}
	}
	if (!*count) {
		error_usage(err, "the prompt is empty, and this tokenizer puts no token before it: "
				 "there is nothing to go on from");
		goto fail;
	}
	result = check_ids(*ids, *count, vocab, err);
fail:
	free(file);
	if (result) {
		free(*ids);
		*ids = NULL;
	}
	return result;
}
