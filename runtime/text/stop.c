#include "runtime/text/stop.h"

#include <stdlib.h>
#include <string.h>

struct stop_string {
	char *text;
	size_t length;
};

struct stop_filter {
	struct stop_string *strings;
	size_t count;
	char *text; /* what the last call handed out, then what is held back */
	size_t shown, used, capacity;
	bool stopped;
};

void stop_filter_close(struct stop_filter *filter)
{
	if (!filter)
		return;
	for (size_t i = 0; i < filter->count; i++)
		free(filter->strings[i].text);
	free(filter->strings);
	free(filter->text);
	free(filter);
}

int stop_filter_open(struct stop_filter **out, const char *const *strings, size_t count,
		     struct error *err)
{
	struct stop_filter *filter = calloc(1, sizeof *filter);

	*out = NULL;
	if (!filter)
		return error_memory(err, "the stop strings");
	filter->strings = calloc(count + 1, sizeof *filter->strings);
	if (!filter->strings) {
		error_memory(err, "the stop strings");
		goto fail;
	}
	for (; filter->count < count; filter->count++) {
		struct stop_string *string = &filter->strings[filter->count];
		string->length = strlen(strings[filter->count]);
		if (string->length == 0) {
			error_usage(err, "--stop is empty: give the text to stop at");
			goto fail;
		}
		string->text = strdup(strings[filter->count]);
		if (!string->text) {
			error_memory(err, "the stop strings");
			goto fail;
		}
	}
	*out = filter;
	return 0;
fail:
	stop_filter_close(filter);
	return -1;
}

/* The length of the longest stop string that text[0, end) ends with; 0: none. */
static size_t match_at(const struct stop_filter *filter, size_t end)
{
	size_t longest = 0;
	for (size_t i = 0; i < filter->count; i++) {
		const struct stop_string *s = &filter->strings[i];
		if (s->length > longest && s->length <= end &&
		    memcmp(filter->text + end - s->length, s->text, s->length) == 0)
			longest = s->length;
	}
	return longest;
}

/* The length of the longest tail of text[0, used) with which a stop string may begin. */
static size_t open_tail(const struct stop_filter *filter)
{
	size_t longest = 0;
	for (size_t i = 0; i < filter->count; i++) {
		const struct stop_string *s = &filter->strings[i];
		size_t tail = s->length - 1 < filter->used ? s->length - 1 : filter->used;
		while (tail > longest && memcmp(filter->text + filter->used - tail, s->text, tail))
			tail--;
		if (tail > longest)
			longest = tail;
	}
	return longest;
}

/* Forgets what was handed out and appends new text. */
static int append(struct stop_filter *filter, const char *text, size_t length, struct error *err)
{
	filter->used -= filter->shown;
	if (filter->used)
		memmove(filter->text, filter->text + filter->shown, filter->used);
	filter->shown = 0;
	if (length > filter->capacity - filter->used) {
		size_t capacity = 2 * (filter->used + length);
		char *larger = realloc(filter->text, capacity);
		if (!larger)
			return error_memory(err, "text that waits for a stop string");
		filter->text = larger;
		filter->capacity = capacity;
	}
	if (length)
		memcpy(filter->text + filter->used, text, length);
	filter->used += length;
	return 0;
}

int stop_filter_put(struct stop_filter *filter, const char *text, size_t length, const char **out,
		    size_t *out_length, bool *stopped, struct error *err)
{
	if (filter->stopped)
		length = 0;
	if (append(filter, text, length, err))
		return -1;

	/* What was held back holds no whole stop string: only ends in the new text count. */
	for (size_t end = filter->used - length + 1; end <= filter->used && !filter->stopped; end++) {
		size_t match = match_at(filter, end);
		if (match) {
			filter->stopped = true;
			filter->used = end - match;
		}
	}
	filter->shown = filter->used - (filter->stopped ? 0 : open_tail(filter));
	*out = filter->shown ? filter->text : "";
	*out_length = filter->shown;
	*stopped = filter->stopped;
	return 0;
}

void stop_filter_end(struct stop_filter *filter, const char **out, size_t *out_length)
{
	*out = filter->used ? filter->text + filter->shown : "";
	*out_length = filter->used - filter->shown;
	filter->shown = filter->used;
}
