#include "launcher/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/output.h"
#include "launcher/prompt.h"
#include "launcher/session.h"
#include "runtime/engine/generate.h"
#include "runtime/text/stop.h"

enum { DEFAULT_MAX_LENGTH = 256 };

/* What rank 0 finds out and all ranks need. */
struct request {
	int32_t context, max_new_tokens;
};

/* Turns new ids into text: on standard output as they come, or collected for JSON. */
struct writer {
	const struct session *session;
	struct token_stream *stream; /* NULL: there is no tokenizer, ids are written */
	struct stop_filter *filter;
	bool plain;
	char *text; /* of the completion */
	size_t length, capacity;
	struct error error; /* of the output; the ranks end in order in spite of it */
	bool failed;
};

/* ---- what is asked ----------------------------------------------------------------------- */

static struct sampling choose_sampling(const struct options *options,
				       const struct generation_defaults *defaults)
{
	const bool *given = options->given;
	bool sample = defaults->sample || given[OPTION_TOP_K] || given[OPTION_TOP_P] ||
		      given[OPTION_MIN_P] || options->temperature > 0;
	struct sampling sampling = {
		.temperature = given[OPTION_TEMPERATURE] ? options->temperature
							 : defaults->temperature,
		.top_k = given[OPTION_TOP_K] ? options->top_k : defaults->top_k,
		.top_p = given[OPTION_TOP_P] ? options->top_p : defaults->top_p,
		.min_p = given[OPTION_MIN_P] ? options->min_p : defaults->min_p,
		.repetition_penalty = given[OPTION_REPETITION_PENALTY]
					      ? options->repetition_penalty
					      : defaults->repetition_penalty,
		.seed = options->seed,
	};
	if (!sample)
		sampling.temperature = 0;
	return sampling;
}

/* Tokens that may be written after `prompt` ones, by the lengths that the call or the model's
 * generation_config.json gives; --max-new-tokens comes first, as in Hugging Face. */
static int64_t choose_length(const struct session *session, int64_t prompt)
{
	const struct options *options = session->options;
	const struct generation_defaults *defaults = &session->defaults;
	if (options->given[OPTION_MAX_NEW_TOKENS]) {
		if (options->given[OPTION_MAX_LENGTH] && session_speaks(session))
			fputs("tprun: warning: --max-new-tokens and --max-length are both given; the "
			      "first is used\n", stderr);
		return options->max_new_tokens;
	}
	if (options->given[OPTION_MAX_LENGTH])
		return options->max_length - prompt;
	if (defaults->max_new_tokens)
		return defaults->max_new_tokens;
	return (defaults->max_length ? defaults->max_length : DEFAULT_MAX_LENGTH) - prompt;
}

/* Rank 0: the prompt, and the sizes that follow from it. */
static int prepare(const struct session *session, int32_t **ids, size_t *count,
		   struct request *request, struct error *err)
{
	const struct options *options = session->options;
	const struct prompt_source source = {
		OPTION_PROMPT, OPTION_PROMPT_FILE, OPTION_PROMPT_IDS,
		&options->prompt, &options->prompt_file, &options->prompt_ids,
	};
	struct sampling sampling = choose_sampling(options, &session->defaults);
	if (sampling_check(&sampling, err) ||
	    prompt_read(options, &source, session->tokenizer, session->config.vocab, ids, count, err))
		return -1;
	int64_t prompt = (int64_t)*count, length = choose_length(session, prompt);
	if (length < 1)
		return error_usage(err, "the prompt has %lld tokens, and a --max-length of %lld leaves "
					"no room for more; give --max-new-tokens", (long long)prompt,
				   (long long)(prompt + length));
	if (session_context(session, prompt + length, &request->context, err))
		return -1;
	if (prompt >= request->context)
		return error_usage(err, "the prompt has %lld tokens; the context of %d leaves no room "
					"for more", (long long)prompt, request->context);
	if (length > request->context - prompt)
		length = request->context - prompt;
	request->max_new_tokens = (int32_t)length;
	return 0;
}

/* ---- what is written --------------------------------------------------------------------- */

static int collect(struct writer *writer, const char *text, size_t length, struct error *err)
{
	if (writer->length + length > writer->capacity) {
		size_t capacity = 2 * (writer->length + length) + 256;
		char *grown = realloc(writer->text, capacity);
		if (!grown)
			return error_memory(err, "the completion's text");
		writer->text = grown;
		writer->capacity = capacity;
	}
	if (length)
		memcpy(writer->text + writer->length, text, length);
	writer->length += length;
	return 0;
}

static int emit(struct writer *writer, const char *text, size_t length, struct error *err)
{
	if (!writer->plain)
		return collect(writer, text, length, err);
	return length ? output_write(text, length, err) : 0;
}

/* The prompt as the model read it; what the stream holds back at its end comes with the
 * completion. Without a tokenizer: its ids. */
static int write_prompt(struct writer *writer, const int32_t *ids, size_t count,
			struct error *err)
{
	for (size_t i = 0; i < count; i++) {
		const char *text;
		size_t length;
		if (!writer->stream) {
			if (writer->plain && output_print(err, "%s%d", i ? "," : "", ids[i]))
				return -1;
		} else if (token_stream_put(writer->stream, ids[i], &text, &length, err) ||
			   (writer->plain && length && output_write(text, length, err))) {
			return -1;
		}
	}
	return 0;
}

static bool is_eos(const struct session *session, int32_t id)
{
	for (int32_t i = 0; i < session->defaults.eos_count; i++)
		if (session->defaults.eos[i] == id)
			return !session->options->ignore_eos;
	return false;
}

static int write_id(struct writer *writer, int32_t id, bool *stopped, struct error *err)
{
	const char *text;
	size_t length;
	if (!writer->stream)
		return writer->plain ? output_print(err, ",%d", id) : 0;
	if (is_eos(writer->session, id)) /* the end is no part of the text, special token or not */
		return 0;
	if (token_stream_put(writer->stream, id, &text, &length, err) ||
	    stop_filter_put(writer->filter, text, length, &text, &length, stopped, err))
		return -1;
	return emit(writer, text, length, err);
}

/* A failure here is not the engine's: the run is stopped, and told afterwards. */
static int put(void *context, int32_t id, struct error *err)
{
	struct writer *writer = context;
	bool stopped = false;
	(void)err;
	writer->failed = write_id(writer, id, &stopped, &writer->error) != 0;
	return writer->failed || stopped;
}

static int write_end(struct writer *writer, bool stopped, struct error *err)
{
	const char *text;
	size_t length;
	bool met = false;
	if (writer->stream && !stopped) {
		if (token_stream_end(writer->stream, &text, &length, err) ||
		    stop_filter_put(writer->filter, text, length, &text, &length, &met, err) ||
		    emit(writer, text, length, err))
			return -1;
		stop_filter_end(writer->filter, &text, &length);
		if (!met && emit(writer, text, length, err))
			return -1;
	}
	return writer->plain ? output_write("\n", 1, err) : 0;
}

static json_t *ids_json(const int32_t *ids, size_t count)
{
	json_t *array = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(array, json_integer(ids[i]));
	return array;
}

static int write_json(const struct writer *writer, const int32_t *prompt, size_t prompt_count,
		      const struct generate_result *result, double speed, struct error *err)
{
	json_t *text = writer->stream ? json_stringn(writer->text ? writer->text : "",
						     writer->length)
				      : json_null();
	return output_json(
		json_pack("{s:o, s:o, s:o, s:s, s:{s:f, s:f, s:f, s:f}}", "prompt_ids",
			  ids_json(prompt, prompt_count), "output_ids",
			  ids_json(result->ids, (size_t)result->count), "text", text,
			  "finish_reason", result->finish == FINISH_STOP ? "stop" : "length",
			  "timing", "load_s", writer->session->load_s, "prefill_s",
			  result->prefill_s, "decode_s", result->decode_s, "decode_tokens_per_s",
			  speed), err);
}

/* ---- the run ----------------------------------------------------------------------------- */

static int writer_open(struct writer *writer, const struct session *session, struct error *err)
{
	const struct option_texts *stop = &session->options->stop;
	*writer = (struct writer){.session = session, .plain = !session->options->json};
	if (!session->tokenizer)
		return 0;
	return token_stream_open(&writer->stream, session->tokenizer, true, err) ||
	       stop_filter_open(&writer->filter, (const char *const *)stop->data, stop->count, err)
		       ? -1 : 0;
}

static void writer_close(struct writer *writer)
{
	token_stream_close(writer->stream);
	stop_filter_close(writer->filter);
	free(writer->text);
}

/* Rank 0. An error of the engine ends all ranks at once; the result is that of the output. */
static int run(struct session *session, struct writer *writer, const struct request *request,
	       const int32_t *ids, size_t count, struct error *err)
{
	const struct options *options = session->options;
	struct generate_options generate = {
		.config = &session->config, .context = request->context, .prompt = ids,
		.prompt_count = (int32_t)count, .max_new_tokens = request->max_new_tokens,
		.eos = session->defaults.eos,
		.eos_count = options->ignore_eos ? 0 : session->defaults.eos_count,
		.sampling = choose_sampling(options, &session->defaults), .put = put,
		.put_context = writer,
	};
	struct generate_result result = {0};
	if (write_prompt(writer, ids, count, err)) {
		if (session->group->size > 1 && engine_stop(session->engine, err))
			session->group->abort(session->group, err);
		return -1;
	}
	if (generate_run(session->engine, &generate, &result, err) ||
	    engine_stop(session->engine, err))
		session->group->abort(session->group, err);

	bool eos = result.count && is_eos(session, result.ids[result.count - 1]);
	bool stopped = result.finish == FINISH_STOP && !eos;
	double speed = result.decode_s > 0 ? (result.count - 1) / result.decode_s : 0;
	int status = writer->failed ? -1 : write_end(writer, stopped, err);
	if (writer->failed)
		*err = writer->error;
	if (!status && options->json)
		status = write_json(writer, ids, count, &result, speed, err);
	if (!status && session_speaks(session))
		fprintf(stderr, "prefill: %zu tokens, %.1f tokens/s; decode: %d tokens, %.1f tokens/s\n",
			count, result.prefill_s > 0 ? (double)count / result.prefill_s : 0,
			result.count, speed);
	free(result.ids);
	return status;
}

int cmd_generate(const struct options *options, struct group *group, struct error *err)
{
	struct session session;
	struct writer writer = {0};
	struct request request = {0};
	int32_t *ids = NULL;
	size_t count = 0;
	int result = session_open(&session, options, group, err);
	if (result)
		goto fail;
	if (group->rank == 0)
		result = prepare(&session, &ids, &count, &request, err) ||
				 writer_open(&writer, &session, err) ? -1 : 0;
	result = group->agree(group, result, err);
	if (!result)
		result = group->broadcast(group, &request, sizeof request, 0, err);
	if (!result)
		result = session_start(&session, request.context, 1, err);
	if (result)
		goto fail;
	if (group->rank == 0)
		result = run(&session, &writer, &request, ids, count, err);
	else if (engine_follow(session.engine, err))
		group->abort(group, err);
	result = group->agree(group, result, err);
fail:
	writer_close(&writer);
	session_close(&session);
	free(ids);
	return result;
}
