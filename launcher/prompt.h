/*
 * prompt.h - from what the user gave, a text, a file or ids, to token ids.
 */
#ifndef TPRUN_LAUNCHER_PROMPT_H
#define TPRUN_LAUNCHER_PROMPT_H

#include "launcher/options.h"
#include "runtime/text/tokenizer.h"

enum { PROMPT_BYTES_MAX = 256 << 20 };

/* The options that a command takes a text by; exactly one must be given. */
struct prompt_source {
	enum option_id text_option, file_option, ids_option;
	const struct option_text *text, *file;
	const struct option_ids *ids;
};

/* Rank 0: malloc'ed ids, all below `vocab`. Texts get what the tokenizer's post-processor adds (BOS);
 * ids are taken as they are. Refuses an empty result, bad UTF-8 and ids outside the vocabulary. */
int prompt_read(const struct options *, const struct prompt_source *, const struct tokenizer *,
		int32_t vocab, int32_t **ids, size_t *count, struct error *err);

#endif
