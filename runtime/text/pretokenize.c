/*
 * pretokenize.c - cuts a text into the words that BPE works on.
 *
 * Hugging Face's pre-tokenizers are put together from four elementary splits. Each hands its
 * parts, one after the other, to the next, so that at any time only one way down the list is
 * in memory.
 */
#include <string.h>

#include "runtime/text/tokenizer_internal.h"

/* The text as alternating gaps and matches, without holes. */
static int find_pieces(struct encoder *encoder, struct encoder_level *level,
		       const struct split *split, const char *text, size_t length, struct error *err)
{
	struct match match = {0};
	size_t done = 0;
	level->count = 0;
	for (;;) {
		int found = pattern_next(split->pattern, encoder->matcher, text, length, &match, err);
		if (found < 0 || array_reserve(&level->pieces, &level->capacity, level->count + 2,
					       sizeof *level->pieces, err))
			return -1;
		size_t gap_end = found ? match.start : length;
		if (gap_end > done)
			level->pieces[level->count++] = (struct piece){done, gap_end, split->invert};
		if (!found)
			return 0;
		level->pieces[level->count++] =
			(struct piece){match.start, match.end, !split->invert};
		done = match.end;
	}
}

/* Joins pieces in place as the behavior says; afterwards `match` means "drop it". */
static void join_pieces(struct encoder_level *level, enum split_behavior behavior)
{
	struct piece *pieces = level->pieces;
	size_t count = 0;
	bool before = false; /* the piece before, in the order of the walk, was a match */
	if (behavior == SPLIT_REMOVED)
		return;
	if (behavior == SPLIT_MERGED_WITH_NEXT) {
		/* From the end, filling the array from its end. */
		size_t kept = level->count;
		for (size_t i = level->count; i-- > 0;) {
			struct piece piece = pieces[i];
			if (piece.match && !before && kept < level->count)
				pieces[kept].start = piece.start;
			else
				pieces[--kept] = (struct piece){piece.start, piece.end, false};
			before = piece.match;
		}
		level->count -= kept;
		memmove(pieces, pieces + kept, level->count * sizeof *pieces);
		return;
	}
	for (size_t i = 0; i < level->count; i++) {
		struct piece piece = pieces[i];
		bool join = (behavior == SPLIT_CONTIGUOUS && piece.match == before) ||
			    (behavior == SPLIT_MERGED_WITH_PREVIOUS && piece.match && !before);
		if (join && count)
			pieces[count - 1].end = piece.end;
		else
			pieces[count++] = (struct piece){piece.start, piece.end, false};
		before = piece.match;
	}
	level->count = count;
}

static int split_matches(struct encoder *encoder, size_t number, const char *text, size_t length,
			 bool at_start, struct error *err)
{
	const struct split *split = &encoder->tokenizer->splits[number];
	struct encoder_level *level = &encoder->levels[number];
	if (find_pieces(encoder, level, split, text, length, err))
		return -1;
	join_pieces(level, split->behavior);
	for (size_t i = 0; i < level->count; i++) {
		struct piece piece = level->pieces[i];
		if (!piece.match && piece.end > piece.start &&
		    split_run(encoder, number + 1, text + piece.start, piece.end - piece.start,
			      at_start && piece.start == 0, err))
			return -1;
	}
	return 0;
}

int split_run(struct encoder *encoder, size_t number, const char *text, size_t length, bool at_start,
	      struct error *err)
{
	if (number == encoder->tokenizer->split_count)
		return bpe_encode(encoder, text, length, err);
	const struct split *split = &encoder->tokenizer->splits[number];
	const struct bytes *content = &split->content;
	struct bytes *out = &encoder->levels[number].text;
	out->length = 0;
	switch (split->kind) {
	case SPLIT_MATCHES:
		return split_matches(encoder, number, text, length, at_start, err);
	case SPLIT_PREFIX:
		if ((split->first_only && !at_start) ||
		    (length >= content->length && memcmp(text, content->data, content->length) == 0))
			return split_run(encoder, number + 1, text, length, at_start, err);
		if (bytes_append(out, content->data, content->length, err) ||
		    bytes_append(out, text, length, err))
			return -1;
		break;
	case SPLIT_REPLACE_SPACE:
		for (size_t i = 0; i < length; i++)
			if (text[i] == ' ' ? bytes_append(out, content->data, content->length, err)
					   : bytes_append(out, &text[i], 1, err))
				return -1;
		break;
	case SPLIT_BYTES:
		for (size_t i = 0; i < length; i++)
			if (bytes_append_char(out, byte_level_char((unsigned char)text[i]), err))
				return -1;
		break;
	}
	if (tokenizer_check_growth(encoder->length, out->length, err))
		return -1;
	return split_run(encoder, number + 1, out->data, out->length, at_start, err);
}
