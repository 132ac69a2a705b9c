/* Any bytes as a tokenizer.model: an error that says something, or a tokenizer that works. */
#include "tests/fuzz/tokenizer_exercise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tokenizer *tokenizer;
	struct error err = {0};
	if (tokenizer_open_sentencepiece(&tokenizer, data, size, "tokenizer.model", &err)) {
		require(strstr(err.message, "tokenizer.model") != NULL || strstr(err.message, "memory"));
		return 0;
	}
	exercise(tokenizer);
	tokenizer_close(tokenizer);
	return 0;
}
