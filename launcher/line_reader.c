#include "launcher/line_reader.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 256 << 10 };

int line_reader_open(struct line_reader *reader, int fd, const char *path, size_t max,
		     struct error *err)
{
	*reader = (struct line_reader){.fd = fd, .path = path, .max = max, .capacity = CHUNK};
	reader->buffer = malloc(reader->capacity);
	return reader->buffer ? 0 : error_memory(err, "the lines of a file");
}

void line_reader_close(struct line_reader *reader)
{
	if (reader)
		free(reader->buffer);
}

/* Makes room behind `end`: by forgetting what was given out, by growing, or, where the line is too
 * long already, by dropping what lies beyond max. The buffer never exceeds max + 2 CHUNK. */
static int make_room(struct line_reader *reader, struct error *err)
{
	size_t held = reader->end - reader->start;
	if (held > reader->max) {
		reader->dropped += held - reader->max;
		reader->end = reader->start + reader->max;
		reader->scanned = held = reader->max;
	}
	if (reader->end < reader->capacity)
		return 0;
	memmove(reader->buffer, reader->buffer + reader->start, held);
	reader->start = 0;
	reader->end = held;
	if (held < reader->capacity / 2)
		return 0;
	size_t most = reader->max + CHUNK;
	size_t capacity = 2 * reader->capacity < most ? 2 * reader->capacity : most;
	if (capacity < held + CHUNK)
		capacity = held + CHUNK;
	char *larger = realloc(reader->buffer, capacity);
	if (!larger)
		return error_memory(err, "a long line");
	reader->buffer = larger;
	reader->capacity = capacity;
	return 0;
}

/* Reads more. Returns 1, or 2 where nothing is there yet and nobody wants to wait. */
static int fill(struct line_reader *reader, bool wait, struct error *err)
{
	struct pollfd ready = {.fd = reader->fd, .events = POLLIN};
	if (make_room(reader, err))
		return -1;
	if (!wait && poll(&ready, 1, 0) < 1) /* nothing there, or a signal came */
		return 2;
	ssize_t count;
	do
		count = read(reader->fd, reader->buffer + reader->end,
			     reader->capacity - reader->end);
	while (count < 0 && errno == EINTR);
	if (count < 0)
		return error_run(err, "cannot read %s: %s", reader->path, strerror(errno));
	reader->end += (size_t)count;
	reader->ended = count == 0;
	return 1;
}

int line_reader_next(struct line_reader *reader, bool wait, struct text_line *out,
		     struct error *err)
{
	for (;;) {
		const char *line = reader->buffer + reader->start;
		size_t held = reader->end - reader->start;
		const char *newline = memchr(line + reader->scanned, '\n', held - reader->scanned);
		if (newline || (reader->ended && held)) {
			size_t length = newline ? (size_t)(newline - line) : held;
			bool too_long = reader->dropped || length > reader->max;
			*out = (struct text_line){line, too_long ? reader->max : length,
						  reader->offset, newline, too_long};
			reader->start += length + (newline ? 1 : 0);
			reader->offset += reader->dropped + length + (newline ? 1 : 0);
			reader->scanned = 0;
			reader->dropped = 0;
			return 1;
		}
		if (reader->ended)
			return 0;
		reader->scanned = held;
		int filled = fill(reader, wait, err);
		if (filled != 1)
			return filled;
	}
}
