/*
 * tokenizer.h - text to token ids and back.
 *
 * Reads a Hugging Face `tokenizer.json` (byte-level BPE, or SentencePiece-style BPE with
 * byte fallback), or SentencePiece's own `tokenizer.model` (BPE, without a character map). Gives
 * the ids that the Hugging Face tokenizers library, or sentencepiece, gives. What it does not
 * know - another model, another step, a pattern that PCRE2 would read differently - is refused
 * by name when the file is opened.
 *
 * A tokenizer does not change once it is open: threads may share one.
 */
#ifndef TPRUN_TEXT_TOKENIZER_H
#define TPRUN_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"

struct tokenizer;

/* From a model folder: tokenizer.json where it exists, else tokenizer.model;
 * tokenizer_config.json, if there, says whether BOS and EOS are added where the tokenizer's
 * own file doesn't. */
int tokenizer_open(struct tokenizer **out, const char *folder, struct error *err);
/* From one file's contents; `name` is what errors call it. For tests and fuzzers. */
int tokenizer_open_json(struct tokenizer **out, const char *text, size_t length, const char *name,
			struct error *err);
int tokenizer_open_sentencepiece(struct tokenizer **out, const void *data, size_t length,
				 const char *name, struct error *err);
void tokenizer_close(struct tokenizer *);

/* Ids in use: one more than the largest. */
int32_t tokenizer_vocab_size(const struct tokenizer *);

/* Encodes `length` bytes of UTF-8 (NUL is a character like any other) into malloc'ed ids that
 * the caller frees. `special`: add BOS and the like as the tokenizer's post-processor says;
 * special tokens written out in the text (as "<s>") are recognized either way, as Hugging Face
 * does; from a tokenizer.model only user-defined pieces are, as sentencepiece does. Bad UTF-8 is
 * an error that names the byte. Empty text gives what the post-processor gives for it. */
int tokenizer_encode(const struct tokenizer *, const char *text, size_t length, bool special,
		     int32_t **ids, size_t *count, struct error *err);

/* Decodes ids into malloc'ed bytes (NUL-terminated beyond *length), as Hugging Face's decode:
 * with skip_special, special tokens are left out. An unknown id is an error that names it. */
int tokenizer_decode(const struct tokenizer *, const int32_t *ids, size_t count, bool skip_special,
		     char **text, size_t *length, struct error *err);

/* The id of a token as the vocabulary spells it ("</s>", "<|eot_id|>"), or -1. */
int32_t tokenizer_find(const struct tokenizer *, const char *token);

/* A stream turns ids into text one by one; what it has emitted is at any time a prefix of the
 * decode of all ids so far, cut at whole UTF-8 characters. Byte tokens ("<0xF0>") are held until
 * another token ends their run, since one broken byte breaks the whole run in Hugging Face's
 * decode. The tokenizer must outlive the stream. */
struct token_stream;
int token_stream_open(struct token_stream **out, const struct tokenizer *, bool skip_special,
		      struct error *err);
void token_stream_close(struct token_stream *);
/* Adds an id; *text (borrowed until the next call) and *length are what it adds, possibly
 * nothing yet. */
int token_stream_put(struct token_stream *, int32_t id, const char **text, size_t *length,
		     struct error *err);
/* What is still held back at the end: bytes of an unfinished character become U+FFFD, as
 * tokenizer_decode makes them. */
int token_stream_end(struct token_stream *, const char **text, size_t *length, struct error *err);

#endif
