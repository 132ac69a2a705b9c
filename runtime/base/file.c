#include "runtime/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_AT_ONCE ((size_t)1 << 30) /* Linux reads at most 2 GiB a call */

/* Reads fd to its end, growing the buffer as needed. */
static int read_stream(int fd, const char *path, size_t max_bytes, size_t expected, char **data,
		       size_t *length, struct error *err)
{
	size_t capacity = expected + 1, used = 0;
	char *buffer = malloc(capacity);
	if (!buffer)
		return error_memory(err, path);
	for (;;) {
		if (used + 1 >= capacity) {
			capacity = capacity * 2 + 4096;
			char *larger = realloc(buffer, capacity);
			if (!larger) {
				free(buffer);
				return error_memory(err, path);
			}
			buffer = larger;
		}
		size_t room = capacity - used - 1;
		ssize_t got = read(fd, buffer + used, room < READ_AT_ONCE ? room : READ_AT_ONCE);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			error_run(err, "cannot read %s: %s", path, strerror(errno));
			free(buffer);
			return -1;
		}
		if (got == 0)
			break;
		used += (size_t)got;
		if (used > max_bytes) {
			free(buffer);
			return error_run(err, "%s is larger than the %zu bytes allowed for it", path,
					 max_bytes);
		}
	}
	buffer[used] = '\0';
	*data = buffer;
	*length = used;
	return 0;
}

int file_read(const char *path, size_t max_bytes, char **data, size_t *length, struct error *err)
{
	bool standard_input = strcmp(path, "-") == 0;
	int fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return error_run(err, "cannot open %s: %s", path, strerror(errno));
	struct stat info;
	size_t expected = 4096;
	int result = -1;
	if (fstat(fd, &info))
		error_run(err, "cannot read %s: %s", path, strerror(errno));
	else if (S_ISDIR(info.st_mode))
		error_run(err, "%s is a folder where a file is expected", path);
	else if (S_ISREG(info.st_mode) && (uint64_t)info.st_size > max_bytes)
		error_run(err, "%s is larger than the %zu bytes allowed for it", path, max_bytes);
	else {
		if (S_ISREG(info.st_mode))
			expected = (size_t)info.st_size + 1;
		result = read_stream(fd, standard_input ? "standard input" : path, max_bytes, expected,
				     data, length, err);
	}
	if (!standard_input)
		close(fd);
	return result;
}

int file_read_at(int fd, const char *path, uint64_t offset, void *data, size_t bytes,
		 struct error *err)
{
	char *next = data;
	while (bytes) {
		ssize_t got = pread(fd, next, bytes < READ_AT_ONCE ? bytes : READ_AT_ONCE, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_run(err, "cannot read %s at byte %llu: %s", path,
					 (unsigned long long)offset, strerror(errno));
		if (got == 0)
			return error_run(err, "%s ends at byte %llu, %zu bytes too early: it was cut off",
					 path, (unsigned long long)offset, bytes);
		next += got;
		offset += (uint64_t)got;
		bytes -= (size_t)got;
	}
	return 0;
}

bool file_exists(const char *path)
{
	struct stat info;
	return stat(path, &info) == 0;
}

char *file_join(const char *directory, const char *name, struct error *err)
{
	size_t length = strlen(directory) + strlen(name) + 2;
	char *path = malloc(length);
	if (path)
		snprintf(path, length, "%s/%s", directory, name);
	else
		error_memory(err, name);
	return path;
}
