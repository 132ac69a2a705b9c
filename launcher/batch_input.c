#include "launcher/batch_input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/line_reader.h"

enum { COUNT_BYTES_MAX = 1 << 30 };

struct batch_input {
	struct line_reader reader;
	int fd;
	bool owned;	/* not standard input */
	int64_t size;	/* bytes from where reading began; -1 for a pipe */
	int64_t number; /* of the last line */
	int64_t given, total;
};

void batch_input_close(struct batch_input *input)
{
	if (!input)
		return;
	line_reader_close(&input->reader);
	if (input->owned && input->fd >= 0)
		close(input->fd);
	free(input);
}

static bool is_blank(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (!memchr(" \t\r\v\f", text[i], 5))
			return false;
	return true;
}

/* The next line that isn't blank. */
static int next_line(struct line_reader *reader, int64_t *number, bool wait, struct text_line *line,
		     struct error *err)
{
	for (;;) {
		int found = line_reader_next(reader, wait, line, err);
		if (found != 1)
			return found;
		if (!(*number)++ && line->length >= 3 && !memcmp(line->text, "\xef\xbb\xbf", 3)) {
			line->text += 3;
			line->length -= 3;
		}
		if (line->too_long)
			return 1;
		if (line->length && line->text[line->length - 1] == '\r')
			line->length--;
		if (!is_blank(line->text, line->length))
			return 1;
	}
}

/* Reads a file of bearable size through, and goes back to where it began. */
static int count_lines(struct batch_input *input, off_t begin, struct error *err)
{
	struct line_reader reader;
	struct text_line line;
	int64_t number = 0;
	int found;
	if (line_reader_open(&reader, input->fd, input->reader.path, 4096, err))
		return -1;
	input->total = 0;
	while ((found = next_line(&reader, &number, true, &line, err)) == 1)
		input->total++;
	if (!found && lseek(input->fd, begin, SEEK_SET) < 0)
		found = error_run(err, "cannot go back in %s: %s", input->reader.path, strerror(errno));
	line_reader_close(&reader);
	return found;
}

int batch_input_open(struct batch_input **out, const char *path, struct error *err)
{
	struct batch_input *input = calloc(1, sizeof *input);
	struct stat status;
	bool standard = !strcmp(path, "-");
	const char *name = standard ? "standard input" : path;
	*out = NULL;
	if (!input)
		return error_memory(err, "the input");
	input->owned = !standard;
	input->fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	input->size = input->total = -1;
	if (input->fd < 0 || fstat(input->fd, &status)) {
		error_usage(err, "cannot read --input %s: %s", name, strerror(errno));
		goto fail;
	}
	if (S_ISDIR(status.st_mode)) {
		error_usage(err, "--input %s is a directory: give a file of JSON lines", name);
		goto fail;
	}
	if (line_reader_open(&input->reader, input->fd, name, BATCH_LINE_MAX, err))
		goto fail;
	if (S_ISREG(status.st_mode)) {
		off_t begin = lseek(input->fd, 0, SEEK_CUR);
		input->size = begin < 0 || begin > status.st_size ? 0 : status.st_size - begin;
		if (begin >= 0 && input->size <= COUNT_BYTES_MAX && count_lines(input, begin, err))
			goto fail;
	}
	*out = input;
	return 0;
fail:
	batch_input_close(input);
	return -1;
}

int batch_input_next(struct batch_input *input, bool wait, struct batch_line *out,
		     struct error *err)
{
	struct text_line line;
	int found = next_line(&input->reader, &input->number, wait, &line, err);
	if (found == 1) {
		*out = (struct batch_line){input->number, line.text, line.length, line.too_long};
		input->given++;
	} else if (!found) {
		input->total = input->given;
	}
	return found;
}

int64_t batch_input_lines(const struct batch_input *input)
{
	/* A file may grow meanwhile. */
	return input->total < 0 || input->total > input->given ? input->total : input->given;
}

double batch_input_fraction(const struct batch_input *input)
{
	if (input->size < 0)
		return -1;
	double read = (double)input->reader.offset;
	return read < (double)input->size ? read / (double)input->size : 1;
}
