/*
 * safetensors.h - the header of one .safetensors file, hostile until checked.
 *
 * Layout: 8 bytes little-endian header length; that many bytes of JSON
 * {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {…}}; then the data,
 * which the tensors cover without gaps or overlaps. Source: the format's description in
 * https://github.com/huggingface/safetensors.
 */
#ifndef TPRUN_MODEL_SAFETENSORS_H
#define TPRUN_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/error.h"

enum { SAFETENSORS_DIMENSIONS_MAX = 8 };

struct safetensor {
	char *name;
	const char *type; /* as the file spells it: "F32", "BF16", "I64", "F8_E4M3", …; static */
	int32_t dimensions;
	int64_t shape[SAFETENSORS_DIMENSIONS_MAX];
	uint64_t offset, bytes; /* in the file, header included */
};

struct safetensors {
	char *path;
	struct safetensor *tensors; /* sorted by name */
	size_t count;
};

/* Reads and checks the header of a file (which may also be truncated: told with both sizes). */
int safetensors_open(struct safetensors *out, const char *path, struct error *err);
/* From the first bytes of a file of file_bytes bytes, for tests and fuzzers. */
int safetensors_parse(struct safetensors *out, const void *data, size_t length,
		      uint64_t file_bytes, const char *path, struct error *err);
void safetensors_close(struct safetensors *);
/* The tensor of that name, or NULL. */
const struct safetensor *safetensors_find(const struct safetensors *, const char *name);

#endif
