/* Any bytes as a line of a batch, for a model without tokenizer and template: an error, or a request
 * within its limits. */
#include <stdlib.h>

#include "launcher/batch_lines.h"
#include "launcher/batch_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct generation_defaults defaults = {
		.temperature = 1, .top_p = 1, .top_k = 50, .repetition_penalty = 1, .max_length = 64,
	};
	static const struct generation_settings settings = {
		.sampling = {.top_k = 50, .top_p = 1, .repetition_penalty = 1}, .temperature = 1, .n = 1,
	};
	const struct batch_context context = {
		.vocab = 1000, .context = 100, .settings = &settings, .defaults = &defaults,
	};
	struct batch_request request;
	struct error err = {0};
	json_t *line, *id;
	if (batch_request_parse(&request, &context, (const char *)data, size, &err)) {
		require(err.kind != ERROR_NONE && err.message[0]);
		line = batch_error_line(NULL, 1, err.message);
		require(line != NULL);
		json_decref(line);
		return 0;
	}
	require(request.count > 0 && request.max_new_tokens > 0 && request.settings.n > 0 &&
		request.count + request.max_new_tokens <= context.context);
	for (int32_t i = 0; i < request.count; i++)
		require(request.ids[i] >= 0 && request.ids[i] < context.vocab);
	require(sampling_check(&request.settings.sampling, &err) == 0);
	line = batch_line_parse((const char *)data, size, &id, &err);
	require(line && json_equal(id, request.id));
	json_decref(line);
	batch_request_close(&request);
	return 0;
}
