/*
 * file.h - reading files whole or in parts, with errors that name them.
 */
#ifndef TPRUN_BASE_FILE_H
#define TPRUN_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"

/* Reads a file of at most max_bytes into malloc'ed memory (the caller frees it), with a NUL
 * after its end that *length does not count. Pipes and "-" (standard input) work too. */
int file_read(const char *path, size_t max_bytes, char **data, size_t *length, struct error *err);
/* Reads exactly `bytes` at `offset` of an open file, going on after short reads and EINTR. A file
 * that ends earlier is an error. `path` is for the message. */
int file_read_at(int fd, const char *path, uint64_t offset, void *data, size_t bytes,
		 struct error *err);
/* Whether something is there under that name. */
bool file_exists(const char *path);
/* "directory/name" in malloc'ed memory, or NULL with err set. */
char *file_join(const char *directory, const char *name, struct error *err);

#endif
