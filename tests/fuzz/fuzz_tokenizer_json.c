/* Any bytes as a tokenizer.json: an error that says something, or a tokenizer that works. */
#include "tests/fuzz/tokenizer_exercise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tokenizer *tokenizer;
	struct error err = {0};
	if (tokenizer_open_json(&tokenizer, (const char *)data, size, "tokenizer.json", &err)) {
		require(strstr(err.message, "tokenizer.json") != NULL || strstr(err.message, "memory"));
		return 0;
	}
	exercise(tokenizer);
	tokenizer_close(tokenizer);
	return 0;
}
