/*
 * bpe.c - byte-pair encoding of one word: of all neighbours that may merge, the pair of the
 * lowest rank does, the leftmost of equals, until none is left (Sennrich et al. 2016). A heap
 * of candidates over a linked list of symbols keeps a long word at O(n log n).
 */
#include "runtime/text/tokenizer_internal.h"

static int symbol_add(struct encoder *encoder, size_t *count, int32_t id, struct error *err)
{
	if (array_reserve(&encoder->symbols, &encoder->symbol_capacity, *count + 1,
			  sizeof *encoder->symbols, err))
		return -1;
	encoder->symbols[*count] = (struct symbol){id, (int32_t)*count - 1, (int32_t)*count + 1};
	++*count;
	return 0;
}

static int32_t char_id(const struct tokenizer *tokenizer, const char *text, size_t width)
{
	if (width <= 2) {
		int32_t code = utf8_decode(text, &width);
		if (code < (int32_t)(sizeof tokenizer->char_ids / sizeof *tokenizer->char_ids))
			return tokenizer->char_ids[code];
	}
	int32_t id = vocabulary_find(&tokenizer->vocabulary, text, width);
	return id >= 0 && tokenizer->vocabulary.tokens[id].flags & TOKEN_MODEL ? id : -1;
}

/* Whether all bytes of a character have a token of their own. */
static bool has_bytes(const struct tokenizer *tokenizer, const char *text, size_t width)
{
	for (size_t i = 0; i < width; i++)
		if (tokenizer->byte_ids[(unsigned char)text[i]] < 0)
			return false;
	return tokenizer->byte_fallback;
}

/* The word's characters as symbols: their own tokens, or those of their bytes, or the
 * unknown token, once for a run where fuse_unk says so. An unknown token is only written
 * when the next known character comes, after bytes that stand between, as Hugging Face
 * writes it. */
static int split_word(struct encoder *encoder, const char *word, size_t length, size_t *count,
		      struct error *err)
{
	const struct tokenizer *tokenizer = encoder->tokenizer;
	bool unknown = false;
	*count = 0;
	for (size_t at = 0, width; at < length; at += width) {
		width = utf8_width(word[at]);
		int32_t id = char_id(tokenizer, word + at, width);
		if (id < 0 && has_bytes(tokenizer, word + at, width)) {
			for (size_t i = 0; i < width; i++)
				if (symbol_add(encoder, count,
					       tokenizer->byte_ids[(unsigned char)word[at + i]], err))
					return -1;
			continue;
		}
		if (id < 0 && tokenizer->unk_missing)
			return error_run(err, "the tokenizer knows neither \"%.*s\" nor its own "
					      "unknown token", (int)width, word + at);
		if (id < 0 && tokenizer->unk_id < 0)
			continue;
		if (unknown && (id >= 0 || !tokenizer->fuse_unk) &&
		    symbol_add(encoder, count, tokenizer->unk_id, err))
			return -1;
		unknown = id < 0;
		if (id >= 0 && symbol_add(encoder, count, id, err))
			return -1;
	}
	if (unknown && symbol_add(encoder, count, tokenizer->unk_id, err))
		return -1;
	if (*count)
		encoder->symbols[*count - 1].next = -1;
	return 0;
}

static int heap_push(struct encoder *encoder, struct candidate candidate, struct error *err)
{
	if (array_reserve(&encoder->heap, &encoder->heap_capacity, encoder->heap_count + 1,
			  sizeof *encoder->heap, err))
		return -1;
	struct candidate *heap = encoder->heap;
	size_t at = encoder->heap_count++;
	for (; at && heap[(at - 1) / 2].key > candidate.key; at = (at - 1) / 2)
		heap[at] = heap[(at - 1) / 2];
	heap[at] = candidate;
	return 0;
}

static struct candidate heap_pop(struct encoder *encoder)
{
	struct candidate *heap = encoder->heap, top = heap[0];
	struct candidate last = heap[--encoder->heap_count];
	size_t count = encoder->heap_count, at = 0, child;
	while ((child = 2 * at + 1) < count) {
		if (child + 1 < count && heap[child + 1].key < heap[child].key)
			child++;
		if (heap[child].key >= last.key)
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = last;
	return top;
}

/* Offers the pair that begins at symbol `at`, if it may merge. */
static int offer_pair(struct encoder *encoder, int32_t at, struct error *err)
{
	if (at < 0 || encoder->symbols[at].next < 0)
		return 0;
	const struct merge *merge =
		merge_table_find(&encoder->tokenizer->merges, encoder->symbols[at].id,
				 encoder->symbols[encoder->symbols[at].next].id);
	if (!merge)
		return 0;
	uint64_t key = (uint64_t)merge->rank << 32 | (uint32_t)at;
	return heap_push(encoder, (struct candidate){key, merge}, err);
}

static int merge_symbols(struct encoder *encoder, size_t count, struct error *err)
{
	struct symbol *symbols = encoder->symbols;
	encoder->heap_count = 0;
	for (size_t i = 0; i < count; i++)
		if (offer_pair(encoder, (int32_t)i, err))
			return -1;
	while (encoder->heap_count) {
		struct candidate top = heap_pop(encoder);
		int32_t at = (int32_t)(uint32_t)top.key, next = symbols[at].next;
		/* A candidate is stale when either side has merged meanwhile. */
		if (symbols[at].id != top.merge->left || next < 0 ||
		    symbols[next].id != top.merge->right)
			continue;
		symbols[at].id = top.merge->merged;
		symbols[at].next = symbols[next].next;
		symbols[next].id = -1;
		if (symbols[at].next >= 0)
			symbols[symbols[at].next].previous = at;
		if (offer_pair(encoder, symbols[at].previous, err) || offer_pair(encoder, at, err))
			return -1;
	}
	return 0;
}

/* Writes the symbols out as ids. One that is no token of the model (only SentencePiece has
 * such: characters that occur in pieces without being one) becomes its bytes, or unknown. */
static int emit_symbols(struct encoder *encoder, struct error *err)
{
	const struct tokenizer *tokenizer = encoder->tokenizer;
	int32_t last = -1, id;
	for (int32_t at = 0; at >= 0; last = id, at = encoder->symbols[at].next) {
		id = encoder->symbols[at].id;
		if (id >= tokenizer->vocab_size) {
			const struct token *token = &tokenizer->vocabulary.tokens[id];
			const char *text = tokenizer->vocabulary.text.data + token->offset;
			id = tokenizer->unk_id;
			if (has_bytes(tokenizer, text, token->length)) {
				for (size_t i = 0; i < token->length; i++) {
					id = tokenizer->byte_ids[(unsigned char)text[i]];
					if (id_list_append(&encoder->ids, id, err))
						return -1;
				}
				continue;
			}
		}
		if (id == tokenizer->unk_id && id == last && tokenizer->fuse_unk)
			continue;
		if (id_list_append(&encoder->ids, id, err))
			return -1;
	}
	return 0;
}

int bpe_encode(struct encoder *encoder, const char *word, size_t length, struct error *err)
{
	const struct tokenizer *tokenizer = encoder->tokenizer;
	if (tokenizer->ignore_merges) {
		int32_t id = vocabulary_find(&tokenizer->vocabulary, word, length);
		if (id >= 0 && tokenizer->vocabulary.tokens[id].flags & TOKEN_MODEL)
			return id_list_append(&encoder->ids, id, err);
	}
	size_t count;
	if (split_word(encoder, word, length, &count, err) || merge_symbols(encoder, count, err))
		return -1;
	return count ? emit_symbols(encoder, err) : 0;
}
