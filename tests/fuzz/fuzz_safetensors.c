/* Any bytes as a safetensors file: an error, or tensors that lie within the file. */
#include <stdlib.h>
#include <string.h>

#include "runtime/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct safetensors file;
	struct error err = {0};
	/* The first two bytes say how much data, beyond the input, the file pretends to hold. */
	if (size < 2)
		return 0;
	uint64_t beyond = (uint64_t)data[0] << (data[1] % 57);
	data += 2;
	size -= 2;
	if (safetensors_parse(&file, data, size, size + beyond, "x.safetensors", &err)) {
		if (!err.message[0] || file.tensors)
			abort();
		return 0;
	}
	uint64_t bytes = 0;
	for (size_t i = 0; i < file.count; i++) {
		const struct safetensor *tensor = &file.tensors[i];
		if (tensor->offset < 8 || tensor->offset > size + beyond ||
		    tensor->bytes > size + beyond - tensor->offset ||
		    safetensors_find(&file, tensor->name) != tensor)
			abort();
		bytes += tensor->bytes;
	}
	if (bytes > size + beyond - 8)
		abort();
	safetensors_close(&file);
	return 0;
}
