#include "runtime/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/json.h"

enum { LENGTH_BYTES = 8, HEADER_BYTES_MAX = 100000000 /* the format's own limit */ };

static const struct element_type {
	const char *name;
	uint64_t bits;
} element_types[] = {
	{"F32", 32},	 {"F16", 16},	  {"BF16", 16},	   {"F64", 64},	       {"BOOL", 8},
	{"U8", 8},	 {"I8", 8},	  {"U16", 16},	   {"I16", 16},	       {"U32", 32},
	{"I32", 32},	 {"U64", 64},	  {"I64", 64},	   {"C64", 64},	       {"F4", 4},
	{"F6_E2M3", 6},	 {"F6_E3M2", 6},  {"F8_E5M2", 8},  {"F8_E4M3", 8},     {"F8_E8M0", 8},
	{"F8_E5M2FNUZ", 8}, {"F8_E4M3FNUZ", 8},
};

static uint64_t read_little_endian(const unsigned char *bytes)
{
	uint64_t value = 0;
	for (int i = LENGTH_BYTES - 1; i >= 0; i--)
		value = value << 8 | bytes[i];
	return value;
}

/* The header's length, checked against the file. */
static int check_length(const void *data, uint64_t file_bytes, const char *path, uint64_t *out,
			struct error *err)
{
	uint64_t length = read_little_endian(data);
	if (length > HEADER_BYTES_MAX)
		return error_run(err, "%s: the header claims %llu bytes, more than the %d the format allows",
				 path, (unsigned long long)length, HEADER_BYTES_MAX);
	if (length > file_bytes - LENGTH_BYTES)
		return error_run(err,
				 "%s: the header claims %llu bytes, but the file has only %llu: it was cut "
				 "off or is not a safetensors file",
				 path, (unsigned long long)length, (unsigned long long)file_bytes);
	*out = length;
	return 0;
}

static const struct element_type *find_type(const json_t *entry)
{
	const char *given = json_string_value(json_object_get(entry, "dtype"));
	for (size_t i = 0; given && i < sizeof element_types / sizeof element_types[0]; i++)
		if (strcmp(given, element_types[i].name) == 0)
			return &element_types[i];
	return NULL;
}

/* The shape, and in *bits the size it makes with elements of *bits each. */
static int read_shape(const json_t *entry, struct safetensor *out, uint64_t *bits, const char *path,
		      struct error *err)
{
	const json_t *shape = json_object_get(entry, "shape");
	size_t dimensions = json_array_size(shape);
	if (!json_is_array(shape) || dimensions > SAFETENSORS_DIMENSIONS_MAX)
		return error_run(err, "%s: the shape of %.200s is not a list of at most %d sizes", path,
				 out->name, SAFETENSORS_DIMENSIONS_MAX);
	out->dimensions = (int32_t)dimensions;
	for (size_t i = 0; i < dimensions; i++) {
		if (json_to_int(json_array_get(shape, i), &out->shape[i]) || out->shape[i] < 0)
			return error_run(err, "%s: the shape of %.200s holds something other than a size",
					 path, out->name);
		if (__builtin_mul_overflow(*bits, (uint64_t)out->shape[i], bits))
			return error_run(err, "%s: the shape of %.200s overflows", path, out->name);
	}
	return 0;
}

static int read_tensor(const char *name, const json_t *entry, struct safetensor *out,
		       uint64_t data_bytes, const char *path, struct error *err)
{
	out->name = strdup(name);
	if (!out->name)
		return error_memory(err, path);
	const struct element_type *type = find_type(entry);
	if (!type) {
		const char *given = json_string_value(json_object_get(entry, "dtype"));
		return error_run(err, "%s: %.200s has the unknown dtype \"%.40s\"", path, name,
				 given ? given : "(none)");
	}
	out->type = type->name;
	uint64_t bits = type->bits;
	if (read_shape(entry, out, &bits, path, err))
		return -1;

	const json_t *offsets = json_object_get(entry, "data_offsets");
	int64_t begin, end;
	if (json_array_size(offsets) != 2 || json_to_int(json_array_get(offsets, 0), &begin) ||
	    json_to_int(json_array_get(offsets, 1), &end) || begin < 0 || end < begin)
		return error_run(err, "%s: data_offsets of %.200s are not a begin and an end", path, name);
	if ((uint64_t)end > data_bytes)
		return error_run(err,
				 "%s: %.200s ends at byte %lld of the data, but the file holds %llu: it was "
				 "cut off",
				 path, name, (long long)end, (unsigned long long)data_bytes);
	out->offset = (uint64_t)begin;
	out->bytes = (uint64_t)(end - begin);
	if (bits % 8 || bits / 8 != out->bytes)
		return error_run(err, "%s: %.200s has %llu bytes of data, but its shape and dtype ask for %llu",
				 path, name, (unsigned long long)out->bytes,
				 (unsigned long long)(bits / 8));
	return 0;
}

static int compare_offsets(const void *a, const void *b)
{
	const struct safetensor *x = a, *y = b;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

/* The tensors must cover the data from its first byte to its last, each byte once. */
static int check_cover(struct safetensors *file, uint64_t data_bytes, struct error *err)
{
	if (file->count)
		qsort(file->tensors, file->count, sizeof *file->tensors, compare_offsets);
	uint64_t covered = 0;
	for (size_t i = 0; i < file->count; i++) {
		const struct safetensor *tensor = &file->tensors[i];
		if (tensor->offset < covered)
			return error_run(err, "%s: the data of %.200s and %.200s overlap", file->path,
					 file->tensors[i - 1].name, tensor->name);
		if (tensor->offset > covered)
			return error_run(err, "%s: there is a gap of %llu bytes before the data of %.200s",
					 file->path, (unsigned long long)(tensor->offset - covered),
					 tensor->name);
		covered += tensor->bytes;
	}
	if (covered != data_bytes)
		return error_run(err, "%s: %llu bytes after the last tensor belong to none", file->path,
				 (unsigned long long)(data_bytes - covered));
	return 0;
}

static int read_header(struct safetensors *out, json_t *root, uint64_t header_bytes,
		       uint64_t file_bytes, struct error *err)
{
	if (!json_is_object(root))
		return error_run(err, "%s: the header is not a JSON object", out->path);
	uint64_t data_bytes = file_bytes - header_bytes;
	out->tensors = calloc(json_object_size(root) + 1, sizeof *out->tensors);
	if (!out->tensors)
		return error_memory(err, out->path);
	const char *name;
	json_t *entry;
	json_object_foreach(root, name, entry) {
		if (strcmp(name, "__metadata__") == 0)
			continue;
		/* Counted first, so that safetensors_close frees the name of a bad one too. */
		struct safetensor *tensor = &out->tensors[out->count++];
		if (read_tensor(name, entry, tensor, data_bytes, out->path, err))
			return -1;
	}
	if (check_cover(out, data_bytes, err))
		return -1;
	for (size_t i = 0; i < out->count; i++)
		out->tensors[i].offset += header_bytes;
	if (out->count)
		qsort(out->tensors, out->count, sizeof *out->tensors, compare_names);
	return 0;
}

int safetensors_parse(struct safetensors *out, const void *data, size_t length,
		      uint64_t file_bytes, const char *path, struct error *err)
{
	json_t *root = NULL;
	*out = (struct safetensors){.path = strdup(path)};
	if (!out->path) {
		error_memory(err, path);
		goto fail;
	}
	if (length < LENGTH_BYTES || file_bytes < length) {
		error_run(err, "%s has only %llu bytes: it was cut off or is not a safetensors file", path,
			  (unsigned long long)file_bytes);
		goto fail;
	}
	uint64_t header = 0;
	if (check_length(data, file_bytes, path, &header, err))
		goto fail;
	if (header > length - LENGTH_BYTES) {
		error_run(err, "%s: the header is not in memory whole", path);
		goto fail;
	}
	root = json_parse((const char *)data + LENGTH_BYTES, (size_t)header, path, err);
	if (!root) {
		error_context(err, "safetensors header");
		goto fail;
	}
	if (read_header(out, root, LENGTH_BYTES + header, file_bytes, err))
		goto fail;
	json_decref(root);
	return 0;
fail:
	json_decref(root);
	safetensors_close(out);
	return -1;
}

int safetensors_open(struct safetensors *out, const char *path, struct error *err)
{
	*out = (struct safetensors){0};
	unsigned char length[LENGTH_BYTES];
	char *data = NULL;
	int result = -1;
	struct stat info;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &info)) {
		error_run(err, "cannot open %s: %s", path, strerror(errno));
		goto done;
	}
	if (!S_ISREG(info.st_mode)) {
		error_run(err, "%s is not a regular file", path);
		goto done;
	}
	uint64_t file_bytes = (uint64_t)info.st_size, header = 0;
	if (file_bytes >= LENGTH_BYTES && (file_read_at(fd, path, 0, length, sizeof length, err) ||
					   check_length(length, file_bytes, path, &header, err)))
		goto done;
	size_t wanted = file_bytes < LENGTH_BYTES ? (size_t)file_bytes : (size_t)header + LENGTH_BYTES;
	data = malloc(wanted + 1);
	if (!data) {
		error_memory(err, path);
		goto done;
	}
	if (!file_read_at(fd, path, 0, data, wanted, err))
		result = safetensors_parse(out, data, wanted, file_bytes, path, err);
done:
	free(data);
	if (fd >= 0)
		close(fd);
	return result;
}

void safetensors_close(struct safetensors *file)
{
	if (!file)
		return;
	for (size_t i = 0; i < file->count; i++)
		free(file->tensors[i].name);
	free(file->tensors);
	free(file->path);
	*file = (struct safetensors){0};
}

const struct safetensor *safetensors_find(const struct safetensors *file, const char *name)
{
	struct safetensor key = {.name = (char *)(uintptr_t)name};
	return file->count ? bsearch(&key, file->tensors, file->count, sizeof key, compare_names) : NULL;
}
