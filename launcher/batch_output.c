#include "launcher/batch_output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher/line_reader.h"

enum { OUTPUT_LINE_MAX = 1 << 30 };

/* How every line begins that batch writes. */
static const char line_begin[] = "{\"id\":";

struct batch_output {
	const char *path;
	int fd;
	bool regular; /* a file: locked, with a length that we alone change */
	bool failed;
	uint64_t length, count, torn_bytes;
	char *buffer; /* of write_text */
	size_t capacity;
	struct batch_key_set *keys;
};

void batch_output_close(struct batch_output *output)
{
	if (!output)
		return;
	if (output->fd >= 0)
		close(output->fd);
	batch_key_set_close(output->keys);
	free(output->buffer);
	free(output);
}

/* ---- what is done ------------------------------------------------------------------------ */

/* The key of a line that batch wrote; -1 for any other. */
static int key_of_line(const char *text, size_t length, struct batch_key *key)
{
	json_t *line = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
	const json_t *number = json_object_get(line, "line");
	int result = -1;
	if (!json_object_get(line, "text") && !json_object_get(line, "completions") &&
	    !json_object_get(line, "error"))
		goto fail;
	if (!number) {
		result = batch_key_of_id(json_object_get(line, "id"), key);
	} else if (json_is_integer(number)) {
		*key = batch_key_of_line(json_integer_value(number));
		result = 0;
	}
fail:
	json_decref(line);
	return result;
}

/* A last line without its newline is cut off, once it is clear that it is the beginning of one of
 * ours and not the only line of something else. */
static int cut_torn(struct batch_output *output, const struct text_line *line, struct error *err)
{
	size_t known = sizeof line_begin - 1 < line->length ? sizeof line_begin - 1 : line->length;
	json_t *other = NULL;
	struct batch_key key;
	bool ours = !memcmp(line->text, line_begin, known);
	if (ours && !line->too_long && key_of_line(line->text, line->length, &key)) {
		other = json_loadb(line->text, line->length, JSON_ALLOW_NUL, NULL);
		ours = !other;
		json_decref(other);
	}
	if (!ours)
		return error_usage(err, "--output %s ends in something that batch did not write: give "
					"another file, or cut it off with: truncate -s %llu",
				   output->path, (unsigned long long)line->offset);
	if (ftruncate(output->fd, (off_t)line->offset))
		return error_run(err, "cannot cut a torn last line off %s: %s", output->path,
				 strerror(errno));
	output->torn_bytes = output->length - line->offset;
	output->length = line->offset;
	return 0;
}

static int read_done(struct batch_output *output, struct error *err)
{
	struct line_reader reader;
	struct text_line line;
	struct batch_key key;
	int found, marks;
	if (line_reader_open(&reader, output->fd, output->path, OUTPUT_LINE_MAX, err))
		return -1;
	while ((found = line_reader_next(&reader, true, &line, err)) == 1) {
		output->length = reader.offset;
		if (!line.whole) {
			found = cut_torn(output, &line, err);
			break;
		}
		output->count++;
		if (line.too_long || key_of_line(line.text, line.length, &key)) {
			found = error_usage(err, "--output %s: line %llu is none that batch wrote: give "
						 "another file, or remove the line", output->path,
					    (unsigned long long)output->count);
			break;
		}
		if ((found = batch_key_set_add(output->keys, key, BATCH_DONE, &marks, err)))
			break;
	}
	line_reader_close(&reader);
	return found;
}

/* ---- opening ----------------------------------------------------------------------------- */

/* The lock belongs to the open file, not to the process, and ends with it however that dies. */
static int lock(const struct batch_output *output, struct error *err)
{
	struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	if (!fcntl(output->fd, F_OFD_SETLK, &whole))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return error_usage(err, "--output %s is being written by another job: wait for its end, "
					"or give another file", output->path);
	return error_run(err, "cannot lock --output %s: %s; its file system must support locks, so that "
			      "no two jobs append to one file", output->path, strerror(errno));
}

static int open_file(struct batch_output *output, struct error *err)
{
	struct stat status;
	/* A pipe that was opened for reading too would never tell that its reader went away. */
	bool other = !stat(output->path, &status) && !S_ISREG(status.st_mode);
	if (other && S_ISDIR(status.st_mode))
		return error_usage(err, "--output %s is a directory: give a file", output->path);
	output->fd = open(output->path,
			  other ? O_WRONLY | O_APPEND | O_CLOEXEC
				: O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
	if (output->fd < 0 || fstat(output->fd, &status))
		return error_usage(err, "cannot open --output %s: %s", output->path, strerror(errno));
	output->regular = S_ISREG(status.st_mode);
	return output->regular ? lock(output, err) : 0;
}

int batch_output_open(struct batch_output **out, const char *path, struct error *err)
{
	struct batch_output *output = calloc(1, sizeof *output);
	*out = NULL;
	if (!output)
		return error_memory(err, "the output");
	output->path = path;
	output->fd = -1;
	if (batch_key_set_open(&output->keys, err) || open_file(output, err) ||
	    (output->regular && read_done(output, err)))
		goto fail;
	*out = output;
	return 0;
fail:
	batch_output_close(output);
	return -1;
}

/* ---- writing ----------------------------------------------------------------------------- */

/* One write as a rule; a signal or a full pipe may cut it in two. */
static int write_all(struct batch_output *output, const char *text, size_t length,
		     struct error *err)
{
	for (size_t done = 0; done < length;) {
		ssize_t count = write(output->fd, text + done, length - done);
		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0) {
			error_run(err, "cannot write to %s: %s", output->path,
				  count ? strerror(errno) : "nothing was written");
			return -1;
		}
		done += (size_t)count;
	}
	return 0;
}

int batch_output_write_text(struct batch_output *output, const char *text, size_t length,
			    struct error *err)
{
	if (output->failed)
		return error_run(err, "%s failed before: nothing more is written to it", output->path);
	if (length + 1 > output->capacity) {
		size_t capacity = 2 * (length + 1);
		char *larger = realloc(output->buffer, capacity);
		if (!larger)
			return error_memory(err, "a line of output");
		output->buffer = larger;
		output->capacity = capacity;
	}
	memcpy(output->buffer, text, length);
	output->buffer[length] = '\n';
	if (!write_all(output, output->buffer, length + 1, err)) {
		output->length += length + 1;
		return 0;
	}
	output->failed = true;
	if (output->regular && ftruncate(output->fd, (off_t)output->length))
		error_context(err, "a torn line stays at the end (the next start cuts it off)");
	return -1;
}

int batch_output_write(struct batch_output *output, json_t *line, struct error *err)
{
	char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	json_decref(line);
	if (!text)
		return error_memory(err, "a line of output");
	int result = batch_output_write_text(output, text, strlen(text), err);
	free(text);
	return result;
}

int batch_output_sync(struct batch_output *output, struct error *err)
{
	if (output->regular && fdatasync(output->fd))
		return error_run(err, "cannot write to %s: %s", output->path, strerror(errno));
	return 0;
}

/* ---- questions --------------------------------------------------------------------------- */

bool batch_output_done(const struct batch_output *output, struct batch_key key)
{
	return batch_key_set_find(output->keys, key) & BATCH_DONE;
}

uint64_t batch_output_count(const struct batch_output *output)
{
	return output->count;
}

uint64_t batch_output_torn_bytes(const struct batch_output *output)
{
	return output->torn_bytes;
}

struct batch_key_set *batch_output_keys(struct batch_output *output)
{
	return output->keys;
}
