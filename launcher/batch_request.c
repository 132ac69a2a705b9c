#include "launcher/batch_request.h"

#include <stdlib.h>
#include <string.h>

#include "launcher/batch_keys.h"
#include "launcher/batch_lines.h"
#include "runtime/base/json.h"

void batch_request_close(struct batch_request *request)
{
	if (!request)
		return;
	json_decref(request->id);
	free(request->ids);
	generation_settings_close(&request->settings);
	*request = (struct batch_request){0};
}

uint64_t batch_request_draw(uint64_t request, int32_t sample)
{
	/* A bijection of 64 bits (the finalizer of SplitMix64) of values that differ. */
	uint64_t z = request + (uint64_t)sample * 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* ---- the keys ---------------------------------------------------------------------------- */

static bool is_one_of(const char *key, const char *const *names)
{
	for (; *names; names++)
		if (!strcmp(key, *names))
			return true;
	return false;
}

static int check_keys(json_t *line, struct error *err)
{
	static const char *const keys[] = {"id", "prompt", "messages", "prompt_ids", "metadata",
					   "tools", "chat_template_kwargs",
					   "add_generation_prompt", NULL};
	static const char *const of_messages[] = {"tools", "chat_template_kwargs",
						  "add_generation_prompt", NULL};
	const char *key;
	json_t *value;
	int prompts = !!json_member(line, "prompt") + !!json_member(line, "messages") +
		      !!json_member(line, "prompt_ids");
	json_object_foreach (line, key, value) {
		if (!is_one_of(key, keys) && !generation_settings_key(key))
			return error_usage(err, "unknown key \"%.60s\"", key);
		if (is_one_of(key, of_messages) && !json_is_null(value) &&
		    !json_member(line, "messages"))
			return error_usage(err, "\"%s\" goes with \"messages\" alone", key);
	}
	if (prompts != 1)
		return error_usage(err, "a line has %s one of \"prompt\", \"messages\" and "
					"\"prompt_ids\"", prompts ? "only" : "exactly");
	return 0;
}

/* ---- the prompt -------------------------------------------------------------------------- */

static int encode(struct batch_request *out, const struct batch_context *context, const char *text,
		  size_t length, bool special, struct error *err)
{
	size_t count;
	if (tokenizer_encode(context->tokenizer, text, length, special, &out->ids, &count, err))
		return error_context(err, "the prompt");
	/* So far beyond every context that only the message matters. */
	out->count = count < INT32_MAX ? (int32_t)count : INT32_MAX;
	return 0;
}

static int take_ids(struct batch_request *out, const struct batch_context *context,
		    const json_t *array, struct error *err)
{
	size_t count = json_array_size(array);
	if (!json_is_array(array))
		return error_usage(err, "\"prompt_ids\" must be a list of token ids");
	out->ids = malloc((count + 1) * sizeof *out->ids);
	if (!out->ids)
		return error_memory(err, "the prompt");
	for (size_t i = 0; i < count; i++) {
		int64_t id;
		if (json_to_int(json_array_get(array, i), &id) || id < 0 || id >= context->vocab)
			return error_usage(err, "\"prompt_ids\" holds something that is no token id below "
						"%d, at place %zu", context->vocab, i + 1);
		out->ids[i] = (int32_t)id;
	}
	out->count = (int32_t)count; /* a line has less than 2^31 bytes */
	return 0;
}

/* Whether the assistant's answer is to begin after the messages. */
static int choose_prompt(const json_t *line, const json_t *messages, bool *add, struct error *err)
{
	const json_t *value = json_member(line, "add_generation_prompt");
	const char *role = "";
	size_t count = json_array_size(messages);
	*add = true;
	if (!count)
		return error_usage(err, "\"messages\" must be a list of at least one message");
	for (size_t i = 0; i < count; i++) {
		const json_t *message = json_array_get(messages, i);
		role = json_string_value(json_object_get(message, "role"));
		if (!role)
			return error_usage(err, "message %zu is no object with a \"role\"", i + 1);
	}
	if (!value || json_is_true(value))
		return 0;
	if (!json_is_false(value))
		return error_usage(err, "\"add_generation_prompt\" must be true or false");
	if (strcmp(role, "assistant"))
		return error_usage(err, "\"add_generation_prompt\": false wants a last message of the "
					"assistant, not of \"%.60s\"", role);
	*add = false;
	return 0;
}

/* The template's further variables, in an object that the caller owns. */
static json_t *choose_variables(const json_t *line, struct error *err)
{
	json_t *given = json_member(line, "chat_template_kwargs"), *tools = json_member(line, "tools");
	json_t *variables = NULL;
	if (given && !json_is_object(given))
		error_usage(err, "\"chat_template_kwargs\" must be an object");
	else if (json_object_get(given, "messages") || json_object_get(given, "add_generation_prompt") ||
		 (tools && json_object_get(given, "tools")))
		error_usage(err, "\"chat_template_kwargs\" holds what the line says itself: messages, tools or "
				 "add_generation_prompt");
	else if (tools && !json_is_array(tools))
		error_usage(err, "\"tools\" must be a list");
	else if (!(variables = given ? json_copy(given) : json_object()) ||
		 (tools && json_object_set(variables, "tools", tools)))
		error_memory(err, "the chat template's variables");
	else
		return variables;
	json_decref(variables);
	return NULL;
}

static int take_messages(struct batch_request *out, const struct batch_context *context,
			 const json_t *line, struct error *err)
{
	const json_t *messages = json_member(line, "messages");
	bool add;
	char *text;
	size_t length;
	if (!context->chat_template)
		return error_usage(err, "this model has no chat template: give \"prompt\"");
	if (choose_prompt(line, messages, &add, err))
		return -1;
	json_t *variables = choose_variables(line, err);
	if (!variables)
		return -1;
	int result = chat_template_render(context->chat_template, messages, add, variables,
					  context->now, &text, &length, err);
	json_decref(variables);
	if (result)
		return error_context(err, "the chat template");
	result = encode(out, context, text, length, false, err);
	free(text);
	return result;
}

static int take_prompt(struct batch_request *out, const struct batch_context *context,
		       const json_t *line, struct error *err)
{
	const json_t *ids = json_member(line, "prompt_ids"), *text = json_member(line, "prompt");
	out->by_ids = ids != NULL;
	if (ids)
		return take_ids(out, context, ids, err);
	if (!context->tokenizer)
		return error_usage(err, "this model has no tokenizer: give \"prompt_ids\"");
	if (!text)
		return take_messages(out, context, line, err);
	if (!json_is_string(text))
		return error_usage(err, "\"prompt\" must be a string");
	return encode(out, context, json_string_value(text), json_string_length(text), true, err);
}

/* ---- the whole --------------------------------------------------------------------------- */

static int check_prompt(struct batch_request *out, const struct batch_context *context,
			struct error *err)
{
	if (!out->count)
		return error_usage(err, "the prompt is empty, and this tokenizer puts no token before it");
	if (out->count >= context->context)
		return error_usage(err, "the prompt has %d tokens; the context of %d leaves no room for more",
				   out->count, context->context);
	for (int32_t i = 0; i < out->count; i++)
		if (out->ids[i] < 0 || out->ids[i] >= context->vocab)
			return error_usage(err, "token id %d is outside the model's vocabulary of %d",
					   out->ids[i], context->vocab);
	int64_t length = generation_settings_length(&out->settings, context->defaults, out->count);
	if (length < 1)
		return error_usage(err, "the prompt has %d tokens, and a max_length of %lld leaves no room for "
					"more; give max_new_tokens", out->count,
				   (long long)(out->count + length));
	if (length > context->context - out->count)
		length = context->context - out->count;
	out->max_new_tokens = (int32_t)length;
	return 0;
}

int batch_request_parse(struct batch_request *out, const struct batch_context *context,
			const char *text, size_t length, struct error *err)
{
	struct batch_key key;
	json_t *id, *line = batch_line_parse(text, length, &id, err);
	*out = (struct batch_request){0};
	if (!line)
		return -1;
	out->id = json_incref(id);
	batch_key_of_id(id, &key);
	out->request = key.a;
	if (check_keys(line, err) ||
	    generation_settings_override(&out->settings, context->settings, line, err) ||
	    take_prompt(out, context, line, err) || check_prompt(out, context, err))
		goto fail;
	if (out->settings.stop.count && !context->tokenizer) {
		error_usage(err, "this model has no tokenizer: \"stop\" cannot be told");
		goto fail;
	}
	json_decref(line);
	return 0;
fail:
	json_decref(line);
	batch_request_close(out);
	return -1;
}

/* ---- the output -------------------------------------------------------------------------- */

static int add_sample(const struct batch_request *request, json_t *object,
		      const struct batch_sample *sample)
{
	json_t *text = sample->text ? json_stringn(sample->text, sample->length) : json_null();
	return json_object_set_new(object, "text", text) ||
	       json_object_set_new(object, "finish_reason",
				   json_string(sample->stopped ? "stop" : "length")) ||
	       (request->settings.n == 1 &&
		json_object_set_new(object, "prompt_tokens", json_integer(request->count))) ||
	       json_object_set_new(object, "output_tokens", json_integer(sample->count));
}

static int add_ids(json_t *object, const struct batch_sample *sample)
{
	json_t *ids = json_array();
	int bad = 0;
	for (int32_t i = 0; i < sample->count; i++)
		bad |= json_array_append_new(ids, json_integer(sample->ids[i]));
	return json_object_set_new(object, "output_ids", ids) | bad;
}

/* Adds each sample to the line itself or to an object of its own. */
static int add_samples(const struct batch_request *request, json_t *line,
		       const struct batch_sample *samples)
{
	json_t *list = NULL;
	if (request->settings.n > 1) {
		list = json_array();
		if (json_object_set_new(line, "prompt_tokens", json_integer(request->count)) ||
		    json_object_set_new(line, "completions", list))
			return -1;
	}
	for (int32_t i = 0; i < request->settings.n; i++) {
		json_t *object = list ? json_object() : line;
		if ((list && json_array_append_new(list, object)) ||
		    add_sample(request, object, &samples[i]) ||
		    (request->by_ids && add_ids(object, &samples[i])))
			return -1;
	}
	return 0;
}

json_t *batch_request_result(const struct batch_request *request,
			     const struct batch_sample *samples)
{
	json_t *line = json_object();
	if (!json_object_set(line, "id", request->id) && !add_samples(request, line, samples))
		return line;
	json_decref(line);
	return NULL;
}

json_t *batch_request_error(json_t *id, const char *message)
{
	return batch_error_line(id, 0, message);
}
