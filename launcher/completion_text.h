/*
 * completion_text.h - the text of a completion as its ids come, up to a stop string and cut at
 * whole characters.
 */
#ifndef TPRUN_LAUNCHER_COMPLETION_TEXT_H
#define TPRUN_LAUNCHER_COMPLETION_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher/options.h"
#include "runtime/text/stop.h"
#include "runtime/text/tokenizer.h"

struct completion_text {
	struct token_stream *stream; /* NULL: there is no tokenizer, and no text */
	struct stop_filter *filter;
	char *data; /* what certainly belongs to the text; the caller may set length to 0 to take it */
	size_t length, capacity;
	bool stopped; /* a stop string was met: nothing more is to be put */
};

/* The tokenizer, which may be NULL, is borrowed. completion_text_close is due after an error too. */
int completion_text_open(struct completion_text *, const struct tokenizer *,
			 const struct option_texts *stop, struct error *err);
void completion_text_close(struct completion_text *);

/* The ids of the prompt, in whatever portions. Their text is the prompt's, and no stop string is
 * looked for in it; what is held back at its end comes with the completion, as in a decode of the
 * whole sequence. */
int completion_text_prompt(struct completion_text *, const int32_t *ids, size_t count,
			   struct error *err);
/* A new id, but no EOS: the end is no part of the text, special token or not. */
int completion_text_put(struct completion_text *, int32_t id, struct error *err);
/* The end: adds what was held back. */
int completion_text_end(struct completion_text *, struct error *err);

#endif
