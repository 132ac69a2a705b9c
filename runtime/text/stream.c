/*
 * stream.c - ids to text, as the list of decoders says.
 *
 * A token's spelling runs down the list; each decoder hands on what it is sure of and holds
 * the rest back: byte fallback until the run of bytes has ended, since Hugging Face replaces
 * all of a run that is not UTF-8; byte level until a character is whole; Strip the
 * characters that may be the text's last. So a decode of the whole is the same walk, taken
 * to its end, and a stream agrees with it by construction.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_internal.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */
#define MAX_REPLACED (1 << 20)

struct decoder_state {
	struct bytes scratch; /* what a decoder has rewritten */
	struct bytes held;    /* byte fallback: the run; byte level: the unfinished character */
	size_t tokens;	      /* seen so far */
	size_t stripped;      /* Strip behind a fuse: how often at the start; done: SIZE_MAX */
	size_t held_back;     /* Strip behind a fuse: characters that may yet be stripped */
};

struct token_stream {
	const struct tokenizer *tokenizer;
	bool skip_special, begun;
	struct bytes out;
	struct decoder_state *states; /* one a decoder */
	size_t fuse;		      /* the first decoder whose output is one text */
};

static int pass_on(struct token_stream *stream, size_t number, const char *text, size_t length,
		   struct error *err);

static int decode_replace(struct token_stream *stream, size_t number, const char *text, size_t length,
			  struct error *err)
{
	const struct decoder *decoder = &stream->tokenizer->decoders[number];
	struct decoder_state *state = &stream->states[number];
	const struct bytes *content = &decoder->content, *pattern = &decoder->pattern;
	bool drop = decoder->first_bare && state->tokens == 0;
	state->tokens++;
	state->scratch.length = 0;
	size_t done = 0;
	const char *found;
	while ((found = memmem(text + done, length - done, pattern->data, pattern->length))) {
		size_t at = (size_t)(found - text);
		if (bytes_append(&state->scratch, text + done, at - done, err) ||
		    bytes_append(&state->scratch, content->data, drop ? 0 : content->length, err))
			return -1;
		done = at + pattern->length;
	}
	if (bytes_append(&state->scratch, text + done, length - done, err))
		return -1;
	/* Decoders that each double a token would fill any memory. */
	if (state->scratch.length > length && state->scratch.length > MAX_REPLACED)
		return error_run(err, "the tokenizer's decoders blow a token up to more than %d bytes",
				 MAX_REPLACED);
	return pass_on(stream, number + 1, state->scratch.data, state->scratch.length, err);
}

/* Strip on a single token. */
static int decode_strip(struct token_stream *stream, size_t number, const char *text, size_t length,
			struct error *err)
{
	const struct decoder *decoder = &stream->tokenizer->decoders[number];
	const struct bytes *content = &decoder->content;
	for (size_t i = 0; i < decoder->start && length >= content->length &&
			   memcmp(text, content->data, content->length) == 0;
	     i++) {
		text += content->length;
		length -= content->length;
	}
	for (size_t i = 0;
	     i < decoder->stop && length >= content->length &&
	     memcmp(text + length - content->length, content->data, content->length) == 0;
	     i++)
		length -= content->length;
	return pass_on(stream, number + 1, text, length, err);
}

static int release_held_back(struct token_stream *stream, size_t number, size_t keep,
			     struct error *err)
{
	struct decoder_state *state = &stream->states[number];
	const struct bytes *content = &stream->tokenizer->decoders[number].content;
	for (; state->held_back > keep; state->held_back--)
		if (pass_on(stream, number + 1, content->data, content->length, err))
			return -1;
	return 0;
}

/* Strip on the fused text, which arrives in parts of whole characters. */
static int decode_strip_fused(struct token_stream *stream, size_t number, const char *text,
			      size_t length, struct error *err)
{
	const struct decoder *decoder = &stream->tokenizer->decoders[number];
	struct decoder_state *state = &stream->states[number];
	const struct bytes *content = &decoder->content;
	while (length) {
		size_t width = utf8_width(text[0]);
		bool same = width == content->length && memcmp(text, content->data, width) == 0;
		if (same && state->stripped < decoder->start) {
			state->stripped++;
			text += width;
			length -= width;
			continue;
		}
		state->stripped = SIZE_MAX;
		if (!decoder->stop)
			return pass_on(stream, number + 1, text, length, err);
		state->held_back += same;
		if (release_held_back(stream, number, same ? decoder->stop : 0, err) ||
		    (!same && pass_on(stream, number + 1, text, width, err)))
			return -1;
		text += width;
		length -= width;
	}
	return 0;
}

/* The run of byte tokens has ended: text if it is UTF-8, else a U+FFFD for every byte. */
static int end_byte_run(struct token_stream *stream, size_t number, struct error *err)
{
	struct bytes *run = &stream->states[number].held;
	size_t length = run->length;
	run->length = 0;
	if (!length)
		return 0;
	if (utf8_check(run->data, length) == length)
		return pass_on(stream, number + 1, run->data, length, err);
	for (size_t i = 0; i < length; i++)
		if (pass_on(stream, number + 1, REPLACEMENT, strlen(REPLACEMENT), err))
			return -1;
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int decode_byte_fallback(struct token_stream *stream, size_t number, const char *text,
				size_t length, struct error *err)
{
	if (length == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>') {
		int high = hex_digit(text[3]), low = hex_digit(text[4]);
		if (high >= 0 && low >= 0) {
			char byte = (char)(high << 4 | low);
			return bytes_append(&stream->states[number].held, &byte, 1, err);
		}
	}
	return end_byte_run(stream, number, err) || pass_on(stream, number + 1, text, length, err) ? -1
												   : 0;
}

/* How many bytes at `text`, which does not begin a valid character, become one U+FFFD: the
 * longest part that a valid character could begin with (Unicode 15, section 3.9). 0: more
 * bytes may yet complete it. */
static size_t broken_width(const unsigned char *text, size_t left)
{
	if (text[0] < 0xc2 || text[0] > 0xf4)
		return 1;
	size_t width = utf8_width((char)text[0]);
	for (size_t i = 1; i < width; i++) {
		if (i == left)
			return 0;
		unsigned char low = 0x80, high = 0xbf;
		if (i == 1) {
			low = text[0] == 0xe0 ? 0xa0 : text[0] == 0xf0 ? 0x90 : 0x80;
			high = text[0] == 0xed ? 0x9f : text[0] == 0xf4 ? 0x8f : 0xbf;
		}
		if (text[i] < low || text[i] > high)
			return i;
	}
	return width;
}

/* Hands on the whole characters of the held bytes; at the end, what is left is broken. */
static int release_characters(struct token_stream *stream, size_t number, bool end, struct error *err)
{
	struct bytes *held = &stream->states[number].held;
	size_t at = 0;
	if (!held->length)
		return 0;
	while (at < held->length) {
		size_t valid = utf8_check(held->data + at, held->length - at);
		if (valid && pass_on(stream, number + 1, held->data + at, valid, err))
			return -1;
		at += valid;
		if (at == held->length)
			break;
		size_t broken = broken_width((unsigned char *)held->data + at, held->length - at);
		if (!broken && !end)
			break;
		if (pass_on(stream, number + 1, REPLACEMENT, strlen(REPLACEMENT), err))
			return -1;
		at += broken ? broken : held->length - at;
	}
	held->length -= at;
	memmove(held->data, held->data + at, held->length);
	return 0;
}

static int decode_byte_level(struct token_stream *stream, size_t number, const char *text,
			     size_t length, struct error *err)
{
	struct bytes *held = &stream->states[number].held;
	size_t before = held->length, width;
	for (size_t at = 0; at < length; at += width) {
		int byte = byte_level_byte(utf8_decode(text + at, &width));
		char value = (char)byte;
		if (byte < 0) {
			/* A character that stands for no byte: the token is taken as it is. */
			held->length = before;
			if (bytes_append(held, text, length, err))
				return -1;
			break;
		}
		if (bytes_append(held, &value, 1, err))
			return -1;
	}
	return release_characters(stream, number, false, err);
}

/* Hands text to decoder `number`, or out. */
static int pass_on(struct token_stream *stream, size_t number, const char *text, size_t length,
		   struct error *err)
{
	const struct tokenizer *tokenizer = stream->tokenizer;
	if (number == tokenizer->decoder_count)
		return bytes_append(&stream->out, text, length, err);
	switch (tokenizer->decoders[number].kind) {
	case DECODE_REPLACE:
	case DECODE_METASPACE:
		return decode_replace(stream, number, text, length, err);
	case DECODE_STRIP:
		return number > stream->fuse ? decode_strip_fused(stream, number, text, length, err)
					     : decode_strip(stream, number, text, length, err);
	case DECODE_BYTE_FALLBACK:
		return decode_byte_fallback(stream, number, text, length, err);
	case DECODE_FUSE:
		return pass_on(stream, number + 1, text, length, err);
	case DECODE_BYTE_LEVEL:
		return decode_byte_level(stream, number, text, length, err);
	}
	return 0;
}

int token_stream_open(struct token_stream **out, const struct tokenizer *tokenizer, bool skip_special,
		      struct error *err)
{
	struct token_stream *stream = calloc(1, sizeof *stream);
	if (stream)
		stream->states = calloc(tokenizer->decoder_count + 1, sizeof *stream->states);
	if (!stream || !stream->states) {
		token_stream_close(stream);
		return error_memory(err, "a stream of tokens");
	}
	stream->tokenizer = tokenizer;
	stream->skip_special = skip_special;
	while (stream->fuse < tokenizer->decoder_count &&
	       tokenizer->decoders[stream->fuse].kind != DECODE_FUSE &&
	       tokenizer->decoders[stream->fuse].kind != DECODE_BYTE_LEVEL)
		stream->fuse++;
	*out = stream;
	return 0;
}

void token_stream_close(struct token_stream *stream)
{
	if (!stream)
		return;
	for (size_t i = 0; stream->states && i < stream->tokenizer->decoder_count; i++) {
		bytes_free(&stream->states[i].scratch);
		bytes_free(&stream->states[i].held);
	}
	free(stream->states);
	bytes_free(&stream->out);
	free(stream);
}

/* An added token that is looked for in normalized text is also written as normalized. */
static const struct added_token *respelled(const struct tokenizer *tokenizer, int32_t id)
{
	const struct added_set *set = &tokenizer->added_normalized;
	for (size_t i = 0; i < set->count; i++)
		if (set->tokens[i].id == id)
			return &set->tokens[i];
	return NULL;
}

static int add_token(struct token_stream *stream, int32_t id, struct error *err)
{
	const struct tokenizer *tokenizer = stream->tokenizer;
	const struct token *token =
		id < tokenizer->vocab_size ? vocabulary_token(&tokenizer->vocabulary, id) : NULL;
	if (!token)
		return error_usage(err, "the tokenizer has no token with the id %d; ids go from 0 to %d",
				   id, tokenizer->vocab_size - 1);
	if (stream->skip_special && token->flags & TOKEN_SPECIAL)
		return 0;
	if (tokenizer->no_decoder && stream->begun && bytes_append(&stream->out, " ", 1, err))
		return -1;
	stream->begun = true;
	const struct added_token *added =
		token->flags & TOKEN_NORMALIZED ? respelled(tokenizer, id) : NULL;
	if (added)
		return pass_on(stream, 0, added->text, added->length, err);
	return pass_on(stream, 0, tokenizer->vocabulary.text.data + token->offset, token->length, err);
}

/* Lets every decoder give up what it holds, the first one first. */
static int end_tokens(struct token_stream *stream, struct error *err)
{
	for (size_t i = 0; i < stream->tokenizer->decoder_count; i++) {
		enum decoder_kind kind = stream->tokenizer->decoders[i].kind;
		size_t stop = stream->tokenizer->decoders[i].stop;
		if ((kind == DECODE_BYTE_FALLBACK && end_byte_run(stream, i, err)) ||
		    (kind == DECODE_BYTE_LEVEL && release_characters(stream, i, true, err)) ||
		    (kind == DECODE_STRIP && i > stream->fuse &&
		     stream->states[i].held_back > stop && release_held_back(stream, i, stop, err)))
			return -1;
	}
	return 0;
}

int token_stream_put(struct token_stream *stream, int32_t id, const char **text, size_t *length,
		     struct error *err)
{
	stream->out.length = 0;
	if (add_token(stream, id, err))
		return -1;
	*text = stream->out.data ? stream->out.data : "";
	*length = stream->out.length;
	return 0;
}

int token_stream_end(struct token_stream *stream, const char **text, size_t *length, struct error *err)
{
	stream->out.length = 0;
	if (end_tokens(stream, err))
		return -1;
	*text = stream->out.data ? stream->out.data : "";
	*length = stream->out.length;
	return 0;
}

int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
		     bool skip_special, char **text, size_t *length, struct error *err)
{
	struct token_stream *stream = NULL;
	if (token_stream_open(&stream, tokenizer, skip_special, err))
		return -1;
	int result = -1;
	for (size_t i = 0; i < count; i++)
		if (add_token(stream, ids[i], err))
			goto fail;
	if (end_tokens(stream, err) || bytes_append(&stream->out, "", 0, err))
		goto fail;
	*text = stream->out.data;
	*length = stream->out.length;
	stream->out = (struct bytes){0};
	result = 0;
fail:
	token_stream_close(stream);
	return result;
}
