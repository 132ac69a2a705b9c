#include "launcher/commands.h"

#include <stdio.h>
#include <stdlib.h>

#include "launcher/completion_text.h"
#include "launcher/generation_settings.h"
#include "launcher/output.h"
#include "launcher/prompt.h"
#include "launcher/session.h"
#include "runtime/engine/generate.h"

/* What rank 0 finds out and all ranks need. */
struct request {
	int32_t context, max_new_tokens;
};

/* Turns new ids into text: on standard output as they come, or collected for JSON. */
struct writer {
	const struct session *session;
	struct completion_text text; /* of the completion */
	bool plain;
	struct error error; /* of the output; the ranks end in order in spite of it */
	bool failed;
};

/* ---- what is asked ----------------------------------------------------------------------- */

/* Rank 0: the prompt, the settings, and the sizes that follow from them. */
static int prepare(const struct session *session, struct generation_settings *settings,
		   int32_t **ids, size_t *count, struct request *request, struct error *err)
{
	const struct options *options = session->options;
	const struct prompt_source source = {
		OPTION_PROMPT, OPTION_PROMPT_FILE, OPTION_PROMPT_IDS,
		&options->prompt, &options->prompt_file, &options->prompt_ids,
	};
	if (generation_settings_choose(settings, options, &session->defaults, err) ||
	    prompt_read(options, &source, session->tokenizer, session->config.vocab, ids, count, err))
		return -1;
	if (settings->max_new_tokens && settings->max_length && session_speaks(session))
		log_say(&session->log, LOG_WARNING, "tprun: warning: --max-new-tokens and --max-length are "
			"both given; the first is used");
	int64_t prompt = (int64_t)*count;
	int64_t length = generation_settings_length(settings, &session->defaults, prompt);
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

/* Shows what there is of the text. */
static int show(struct writer *writer, struct error *err)
{
	size_t length = writer->text.length;
	if (!writer->plain || !length)
		return 0;
	writer->text.length = 0;
	return output_write(writer->text.data, length, err);
}

/* The prompt as the model read it. Without a tokenizer: its ids. */
static int write_prompt(struct writer *writer, const int32_t *ids, size_t count,
			struct error *err)
{
	if (completion_text_prompt(&writer->text, ids, count, err) || show(writer, err))
		return -1;
	writer->text.length = 0;
	for (size_t i = 0; writer->plain && !writer->text.stream && i < count; i++)
		if (output_print(err, "%s%d", i ? "," : "", ids[i]))
			return -1;
	return 0;
}

static bool is_eos(const struct session *session, int32_t id)
{
	return !session->options->ignore_eos && generation_defaults_is_eos(&session->defaults, id);
}

static int write_id(struct writer *writer, int32_t id, struct error *err)
{
	if (!writer->text.stream)
		return writer->plain ? output_print(err, ",%d", id) : 0;
	if (is_eos(writer->session, id))
		return 0;
	return completion_text_put(&writer->text, id, err) || show(writer, err) ? -1 : 0;
}

/* A failure here is not the engine's: the run is stopped, and told afterwards. */
static int put(void *context, int32_t id, struct error *err)
{
	struct writer *writer = context;
	(void)err;
	writer->failed = write_id(writer, id, &writer->error) != 0;
	return writer->failed || writer->text.stopped;
}

static int write_end(struct writer *writer, struct error *err)
{
	if (completion_text_end(&writer->text, err) || show(writer, err))
		return -1;
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
	const struct completion_text *written = &writer->text;
	json_t *text = written->stream ? json_stringn(written->data ? written->data : "",
						      written->length)
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

/* Rank 0. An error of the engine ends all ranks at once; the result is that of the output. */
static int run(struct session *session, const struct generation_settings *settings,
	       struct writer *writer, const struct request *request, const int32_t *ids,
	       size_t count, struct error *err)
{
	const struct options *options = session->options;
	struct generate_options generate = {
		.config = &session->config, .context = request->context, .prompt = ids,
		.prompt_count = (int32_t)count, .max_new_tokens = request->max_new_tokens,
		.eos = session->defaults.eos,
		.eos_count = settings->ignore_eos ? 0 : session->defaults.eos_count,
		.sampling = settings->sampling, .put = put, .put_context = writer,
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
	double speed = result.decode_s > 0 ? (result.count - 1) / result.decode_s : 0;
	int status = writer->failed ? -1 : write_end(writer, err);
	if (writer->failed)
		*err = writer->error;
	if (!status && options->json)
		status = write_json(writer, ids, count, &result, speed, err);
	if (!status && session_speaks(session))
		log_say(&session->log, LOG_INFO, "prefill: %zu tokens, %.1f tokens/s; decode: %d tokens, "
			"%.1f tokens/s", count, result.prefill_s > 0 ? (double)count / result.prefill_s : 0,
			result.count, speed);
	free(result.ids);
	return status;
}

int cmd_generate(const struct options *options, struct group *group, struct error *err)
{
	struct session session;
	struct generation_settings settings = {0};
	struct writer writer = {.session = &session, .plain = !options->json};
	struct request request = {0};
	int32_t *ids = NULL;
	size_t count = 0;
	int result = session_open(&session, options, group, group, err);
	if (result)
		goto fail;
	if (group->rank == 0)
		result = prepare(&session, &settings, &ids, &count, &request, err) ||
			 completion_text_open(&writer.text, session.tokenizer, &settings.stop, err)
				 ? -1 : 0;
	result = group->agree(group, result, err);
	if (!result)
		result = group->broadcast(group, &request, sizeof request, 0, err);
	if (!result)
		result = session_start(
			&session, &(struct session_sizes){.context = request.context}, err);
	if (result)
		goto fail;
	if (group->rank == 0)
		result = run(&session, &settings, &writer, &request, ids, count, err);
	else if (engine_follow(session.engine, err))
		group->abort(group, err);
	result = group->agree(group, result, err);
fail:
	completion_text_close(&writer.text);
	generation_settings_close(&settings);
	session_close(&session);
	free(ids);
	return result;
}
