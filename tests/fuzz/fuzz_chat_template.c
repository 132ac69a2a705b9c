/* Any bytes as a chat template: an error that says something, or a text within its bounds. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/chat_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static json_t *read_json(const char *text)
{
	json_t *json = json_loads(text, 0, NULL);
	require(json != NULL);
	return json;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static json_t *messages, *variables;
	struct chat_template *template;
	struct error err = {0};
	char *text;
	size_t length;
	if (!messages) {
		messages = read_json("[{\"role\": \"system\", \"content\": \" S\\u00fc\\u00df \"},"
				     "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"hi\"}]},"
				     "{\"role\": \"assistant\", \"content\": \"<think>a</think>b\","
				     " \"tool_calls\": [{\"function\": {\"name\": \"f\","
				     " \"arguments\": {\"x\": 1, \"y\": [2.5, null]}}}]}]");
		variables = read_json("{\"tools\": [{\"name\": \"f\"}], \"n\": 7, \"s\": \"a,b\","
				      " \"l\": [3, 1, 2], \"d\": {\"b\": 1, \"a\": \"x\"}}");
	}
	if (chat_template_open_text(&template, (const char *)data, size, NULL, "template", &err)) {
		require(strstr(err.message, "template") != NULL);
		return 0;
	}
	int result = chat_template_render(template, messages, true, variables, 1700000000, &text,
					  &length, &err);
	require(result == 0 || result == -1);
	require(result ? err.message[0] && !text : text[length] == '\0');
	free(text);
	chat_template_close(template);
	return 0;
}
