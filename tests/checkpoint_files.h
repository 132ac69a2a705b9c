/*
 * checkpoint_files.h - writes small checkpoints for tests: folders of .safetensors files.
 */
#ifndef TPRUN_TESTS_CHECKPOINT_FILES_H
#define TPRUN_TESTS_CHECKPOINT_FILES_H

#include <dirent.h>
#include <stdarg.h>

#include "tests/test.h"

/* A growing text or file content. */
struct bytes {
	char *data;
	size_t length, capacity;
};

static inline void bytes_add(struct bytes *bytes, const void *data, size_t length)
{
	if (bytes->length + length > bytes->capacity) {
		bytes->capacity = 2 * (bytes->length + length);
		bytes->data = realloc(bytes->data, bytes->capacity);
	}
	if (length)
		memcpy(bytes->data + bytes->length, data, length);
	bytes->length += length;
}

static inline void __attribute__((format(printf, 2, 3)))
bytes_print(struct bytes *bytes, const char *format, ...)
{
	char text[2048];
	va_list args;
	va_start(args, format);
	int length = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	bytes_add(bytes, text, (size_t)length);
}

static inline void bytes_free(struct bytes *bytes)
{
	free(bytes->data);
	*bytes = (struct bytes){0};
}

/* The whole of a safetensors file from its header's JSON and its data. */
static inline struct bytes safetensors_content(const char *header, const void *data, size_t length)
{
	struct bytes out = {0};
	uint64_t header_length = strlen(header);
	for (int i = 0; i < 8; i++)
		bytes_add(&out, &(char){(char)(header_length >> 8 * i)}, 1);
	bytes_add(&out, header, (size_t)header_length);
	bytes_add(&out, data, length);
	return out;
}

static inline void folder_make(char folder[64])
{
	snprintf(folder, 64, "/tmp/tprun-test-XXXXXX");
	if (!mkdtemp(folder))
		abort();
}

static inline void folder_write(const char *folder, const char *name, const void *data,
				size_t length)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *file = fopen(path, "wb");
	if (!file || fwrite(data, 1, length, file) != length || fclose(file))
		abort();
}

static inline void folder_print(const char *folder, const char *name, const char *text)
{
	folder_write(folder, name, text, strlen(text));
}

static inline void folder_remove_file(const char *folder, const char *name)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	unlink(path);
}

/* Removes the folder and the files in it. */
static inline void folder_remove(const char *folder)
{
	DIR *dir = opendir(folder);
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		folder_remove_file(folder, entry->d_name);
	if (dir)
		closedir(dir);
	rmdir(folder);
}

#endif
