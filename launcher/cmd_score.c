#include "launcher/commands.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "launcher/output.h"
#include "launcher/prompt.h"
#include "launcher/session.h"
#include "runtime/engine/generate.h"

enum { SCORE_LOGIT_ROWS = 64 };

/* Rank 0: the ids, and the context that they need. */
static int prepare(const struct session *session, int32_t **ids, size_t *count, int32_t *context,
		   struct error *err)
{
	const struct options *options = session->options;
	const struct prompt_source source = {
		OPTION_TEXT, OPTION_TEXT_FILE, OPTION_IDS,
		&options->text, &options->text_file, &options->ids,
	};
	if (prompt_read(options, &source, session->tokenizer, session->config.vocab, ids, count, err))
		return -1;
	if (*count < 2)
		return error_usage(err, "score needs at least 2 tokens; the text has %zu", *count);
	if (session_context(session, (int64_t)*count, context, err))
		return -1;
	if (*count > (size_t)*context)
		return error_usage(err, "the text has %zu tokens; the context is %d", *count, *context);
	return 0;
}

static int write_json(const int32_t *ids, size_t count, const double *logprobs, double perplexity,
		      struct error *err)
{
	json_t *id_list = json_array(), *list = json_array();
	for (size_t i = 0; i < count; i++) {
		json_array_append_new(id_list, json_integer(ids[i]));
		if (i)
			json_array_append_new(list, json_real(logprobs[i - 1]));
	}
	return output_json(json_pack("{s:o, s:o, s:f}", "ids", id_list, "token_logprobs", list,
				     "perplexity", perplexity), err);
}

/* A line a token: id, log-probability, the token's own text as a JSON string. */
static int write_plain(const struct session *session, const int32_t *ids, size_t count,
		       const double *logprobs, double perplexity, struct error *err)
{
	for (size_t i = 0; i < count; i++) {
		char *text = NULL, *quoted = NULL, number[32] = "-";
		size_t length;
		if (session->tokenizer &&
		    tokenizer_decode(session->tokenizer, &ids[i], 1, false, &text, &length, err))
			return -1;
		json_t *string = text ? json_stringn(text, length) : NULL;
		if (string)
			quoted = json_dumps(string, JSON_ENCODE_ANY);
		if (i)
			snprintf(number, sizeof number, "%.6f", logprobs[i - 1]);
		int result = output_print(err, "%7d %12s  %s\n", ids[i], number,
					  quoted ? quoted : "");
		json_decref(string);
		free(quoted);
		free(text);
		if (result)
			return -1;
	}
	return output_print(err, "perplexity %.6f over %zu tokens\n", perplexity, count - 1);
}

/* Rank 0. An error of the engine ends all ranks at once. */
static int run(struct session *session, int32_t context, const int32_t *ids, size_t count,
	       struct error *err)
{
	const struct options *options = session->options;
	struct progress bar;
	double *logprobs = calloc(count, sizeof *logprobs), sum = 0;
	struct score_options score = {
		.config = &session->config, .context = context, .ids = ids,
		.count = (int32_t)count, .progress = progress_tokens, .progress_context = &bar,
	};
	if (!logprobs) {
		error_memory(err, "the log-probabilities");
		session->group->abort(session->group, err);
	}
	progress_start(&bar, "score", options->progress, options->quiet || session->log.stamped);
	double start = output_now();
	if (score_run(session->engine, &score, logprobs, err) || engine_stop(session->engine, err))
		session->group->abort(session->group, err);
	double seconds = output_now() - start;
	progress_end(&bar);

	for (size_t i = 0; i + 1 < count; i++)
		sum += logprobs[i];
	double perplexity = exp(-sum / (double)(count - 1));
	int result = options->json ? write_json(ids, count, logprobs, perplexity, err)
				   : write_plain(session, ids, count, logprobs, perplexity, err);
	if (!result && session_speaks(session))
		log_say(&session->log, LOG_INFO, "score: %zu tokens, %.1f tokens/s", count,
			(double)count / seconds);
	free(logprobs);
	return result;
}

int cmd_score(const struct options *options, struct group *group, struct error *err)
{
	struct session session;
	int32_t *ids = NULL, context = 0;
	size_t count = 0;
	int result = session_open(&session, options, group, group, err);
	if (result)
		goto fail;
	if (group->rank == 0)
		result = prepare(&session, &ids, &count, &context, err);
	result = group->agree(group, result, err);
	if (!result)
		result = group->broadcast(group, &context, sizeof context, 0, err);
	if (!result)
		result = session_start(&session, &(struct session_sizes){
			.context = context, .max_logit_rows = SCORE_LOGIT_ROWS}, err);
	if (result)
		goto fail;
	if (group->rank == 0)
		result = run(&session, context, ids, count, err);
	else if (engine_follow(session.engine, err))
		group->abort(group, err);
	result = group->agree(group, result, err);
fail:
	session_close(&session);
	free(ids);
	return result;
}
