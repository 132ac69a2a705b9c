/*
 * batch_request.h - a line of a batch as what is to be run, and its result as a line of output.
 *
 * A line is a JSON object of these keys:
 *   "id"           a string or a whole number; comes back with the result
 *   "prompt"       a text; it gets what the tokenizer puts before texts (BOS)
 *   "messages"     or a conversation, rendered by the model's chat template, with "tools" (a list),
 *                  "chat_template_kwargs" (an object: further variables of the template) and
 *                  "add_generation_prompt" (false only after a last message of the assistant)
 *   "prompt_ids"   or token ids, taken as they are
 *   "metadata"     anything; not looked at
 * and those of generation_settings.h. Any other key is an error, for it would be a misspelt option.
 */
#ifndef TPRUN_LAUNCHER_BATCH_REQUEST_H
#define TPRUN_LAUNCHER_BATCH_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "launcher/generation_settings.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

/* What all lines share; borrowed. */
struct batch_context {
	const struct tokenizer *tokenizer;	   /* NULL: the folder has none */
	const struct chat_template *chat_template; /* NULL: the folder has none */
	int32_t vocab;				   /* of the model */
	int32_t context;			   /* most ids of a sequence */
	const struct generation_settings *settings;
	const struct generation_defaults *defaults;
	time_t now; /* for templates that write the date: one time for the whole run */
};

struct batch_request {
	json_t *id; /* owned */
	int32_t *ids, count; /* the prompt, 1 or more ids below vocab, less than context */
	bool by_ids;	     /* given as ids: the result has ids too */
	struct generation_settings settings;
	int32_t max_new_tokens; /* at least 1; within the context */
	uint64_t request;	/* of the id alone: see batch_request_draw */
};

/* Reads a line; whatever is wrong with it is an error that is to become its error line
 * (batch_request_error). On an error *out needs no closing. */
int batch_request_parse(struct batch_request *out, const struct batch_context *, const char *text,
			size_t length, struct error *err);
void batch_request_close(struct batch_request *);

/* The draws' request number of sample i of a request (0 where there is one): all samples of a
 * request differ. With the seed and the position it makes draws depend on nothing else. */
uint64_t batch_request_draw(uint64_t request, int32_t sample);

/* A completion of a request. */
struct batch_sample {
	const char *text; /* valid UTF-8 that may hold NUL; NULL without a tokenizer */
	size_t length;
	const int32_t *ids; /* with the final EOS */
	int32_t count;
	bool stopped; /* by an EOS or a stop string, not by length */
};

/* The line of output, of settings.n samples in order:
 *   {"id", "text", "finish_reason": "stop"|"length", "prompt_tokens", "output_tokens"}, or for n > 1
 *   {"id", "prompt_tokens", "completions": [{"text", "finish_reason", "output_tokens"}, ...]}
 * and with prompt_ids also "output_ids". NULL: out of memory, or a text is not UTF-8. */
json_t *batch_request_result(const struct batch_request *, const struct batch_sample *samples);
/* {"id", "error"}. The id of a line that batch_lines_next gave out. */
json_t *batch_request_error(json_t *id, const char *message);

#endif
