#include "launcher/completion_text.h"

#include <stdlib.h>
#include <string.h>

int completion_text_open(struct completion_text *self, const struct tokenizer *tokenizer,
			 const struct option_texts *stop, struct error *err)
{
	*self = (struct completion_text){0};
	if (!tokenizer)
		return 0;
	return token_stream_open(&self->stream, tokenizer, true, err) ||
	       stop_filter_open(&self->filter, (const char *const *)stop->data, stop->count, err)
		       ? -1 : 0;
}

void completion_text_close(struct completion_text *self)
{
	token_stream_close(self->stream);
	stop_filter_close(self->filter);
	free(self->data);
	*self = (struct completion_text){0};
}

static int append(struct completion_text *self, const char *text, size_t length, struct error *err)
{
	if (self->length + length > self->capacity) {
		size_t capacity = 2 * (self->length + length) + 256;
		char *grown = realloc(self->data, capacity);
		if (!grown)
			return error_memory(err, "the completion's text");
		self->data = grown;
		self->capacity = capacity;
	}
	if (length)
		memcpy(self->data + self->length, text, length);
	self->length += length;
	return 0;
}

int completion_text_prompt(struct completion_text *self, const int32_t *ids, size_t count,
			   struct error *err)
{
	const char *text;
	size_t length;
	for (size_t i = 0; self->stream && i < count; i++)
		if (token_stream_put(self->stream, ids[i], &text, &length, err) ||
		    append(self, text, length, err))
			return -1;
	return 0;
}

/* What the stream gives goes through the filter. */
static int filter(struct completion_text *self, const char *text, size_t length, struct error *err)
{
	return stop_filter_put(self->filter, text, length, &text, &length, &self->stopped, err) ||
	       append(self, text, length, err) ? -1 : 0;
}

int completion_text_put(struct completion_text *self, int32_t id, struct error *err)
{
	const char *text;
	size_t length;
	if (!self->stream)
		return 0;
	return token_stream_put(self->stream, id, &text, &length, err) ||
	       filter(self, text, length, err) ? -1 : 0;
}

int completion_text_end(struct completion_text *self, struct error *err)
{
	const char *text;
	size_t length;
	if (!self->stream || self->stopped)
		return 0;
	if (token_stream_end(self->stream, &text, &length, err) || filter(self, text, length, err))
		return -1;
	if (self->stopped)
		return 0;
	stop_filter_end(self->filter, &text, &length);
	return append(self, text, length, err);
}
