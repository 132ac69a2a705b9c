/*
 * Preloaded into programs: notes what they read of safetensors files, and makes reads fail.
 *
 *   TPRUN_READS=FILE         a line "offset bytes" for each read, and at the end of each process "fetched
 *                            BYTES", what it made the system fetch from disks (-1: not told)
 *   TPRUN_READ_FAULT=KIND:RANK  once this rank has read a few parts, reads of it end in EIO ("eio"), or
 *                            the file is cut off behind what it has read ("cut")
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { GOOD_PARTS = 2, PART = 4096 }; /* shorter reads are headers' */

static _Atomic int parts;

static void note(const char *line)
{
	const char *path = getenv("TPRUN_READS");
	int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
	if (fd < 0)
		return;
	if (write(fd, line, strlen(line)) < 0)
		abort();
	close(fd);
}

static int fault_is(const char *kind)
{
	const char *fault = getenv("TPRUN_READ_FAULT"), *rank = getenv("OMPI_COMM_WORLD_RANK");
	size_t length = strlen(kind);
	return fault && !strncmp(fault, kind, length) && atoi(fault + length + 1) == (rank ? atoi(rank) : 0);
}

ssize_t pread(int fd, void *data, size_t bytes, off_t offset);
ssize_t pread(int fd, void *data, size_t bytes, off_t offset)
{
	char link[64], path[4096] = "", line[96];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof path - 1) < 0 || !strstr(path, ".safetensors"))
		return syscall(SYS_pread64, fd, data, bytes, offset);
	if (bytes >= PART && parts++ >= GOOD_PARTS) {
		if (fault_is("eio")) {
			errno = EIO;
			return -1;
		}
		if (fault_is("cut") && truncate(path, offset))
			abort();
	}
	ssize_t got = syscall(SYS_pread64, fd, data, bytes, offset);
	snprintf(line, sizeof line, "%lld %lld\n", (long long)offset, (long long)got);
	note(line);
	return got;
}

__attribute__((destructor))
static void note_fetched(void)
{
	char line[128], out[64];
	long long bytes = -1;
	FILE *file = parts ? fopen("/proc/self/io", "r") : NULL;
	if (!parts)
		return;
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "read_bytes: %lld", &bytes) == 1)
			break;
	snprintf(out, sizeof out, "fetched %lld\n", bytes);
	note(out);
}
