/*
 * added_tokens.c - finds tokens that stand in the text as they are, such as "<|eot_id|>".
 */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/text/tokenizer_internal.h"

int added_set_add(struct added_set *set, struct added_token token, struct error *err)
{
	if (array_reserve(&set->tokens, &set->capacity, set->count + 1, sizeof token, err))
		return -1;
	char *text = malloc(token.length);
	if (!text)
		return error_memory(err, "an added token");
	memcpy(text, token.text, token.length);
	token.text = text;
	set->first[(unsigned char)text[0]] = true;
	set->tokens[set->count++] = token;
	return 0;
}

static int compare_tokens(const void *left, const void *right)
{
	const struct added_token *a = left, *b = right;
	int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
	return order ? order : (a->length > b->length) - (a->length < b->length);
}

void added_set_finish(struct added_set *set)
{
	if (set->count)
		qsort(set->tokens, set->count, sizeof *set->tokens, compare_tokens);
}

void added_set_free(struct added_set *set)
{
	for (size_t i = 0; i < set->count; i++)
		free(set->tokens[i].text);
	free(set->tokens);
}

/* The first of tokens[low..high), which agree up to `depth`, whose byte there is at least
 * `byte`; a token that ends before it comes first. */
static size_t lower_bound(const struct added_set *set, size_t low, size_t high, size_t depth,
			  unsigned int byte)
{
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct added_token *token = &set->tokens[middle];
		if (token->length <= depth || (unsigned char)token->text[depth] < byte)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const struct added_token *longest_at(const struct added_set *set, const char *text,
					    size_t left)
{
	const struct added_token *best = NULL;
	size_t low = 0, high = set->count;
	for (size_t depth = 0; depth < left && low < high; depth++) {
		unsigned int byte = (unsigned char)text[depth];
		low = lower_bound(set, low, high, depth, byte);
		high = lower_bound(set, low, high, depth, byte + 1);
		if (low < high && set->tokens[low].length == depth + 1)
			best = &set->tokens[low];
	}
	return best;
}

/* \w as Rust's regex has it: Alphabetic, marks, decimal digits, connectors, joiners. */
static bool is_word(int32_t code)
{
	switch (utf8proc_category(code)) {
	case UTF8PROC_CATEGORY_LU:
	case UTF8PROC_CATEGORY_LL:
	case UTF8PROC_CATEGORY_LT:
	case UTF8PROC_CATEGORY_LM:
	case UTF8PROC_CATEGORY_LO:
	case UTF8PROC_CATEGORY_MN:
	case UTF8PROC_CATEGORY_MC:
	case UTF8PROC_CATEGORY_ME:
	case UTF8PROC_CATEGORY_ND:
	case UTF8PROC_CATEGORY_NL:
	case UTF8PROC_CATEGORY_PC:
		return true;
	default:
		return code == 0x200c || code == 0x200d || (code >= 0x24b6 && code <= 0x24e9);
	}
}

/* The character that ends at `at`; `at` is above 0. */
static int32_t char_before(const char *text, size_t at, size_t *width)
{
	size_t start = at - 1;
	while (start && ((unsigned char)text[start] & 0xc0) == 0x80)
		start--;
	return utf8_decode(text + start, width);
}

static bool stands_alone(const char *text, size_t length, size_t start, size_t end)
{
	size_t width;
	return (start == 0 || !is_word(char_before(text, start, &width))) &&
	       (end == length || !is_word(utf8_decode(text + end, &width)));
}

const struct added_token *added_set_next(const struct added_set *set, const char *text, size_t length,
					 struct added_match *match)
{
	if (!set->count)
		return NULL;
	size_t done = match->end, width;
	for (size_t at = match->from; at < length; at++) {
		if (!set->first[(unsigned char)text[at]])
			continue;
		const struct added_token *token = longest_at(set, text + at, length - at);
		if (!token)
			continue;
		size_t start = at, end = at + token->length;
		at = end - 1;
		if (token->single_word && !stands_alone(text, length, start, end))
			continue;
		match->from = end;
		while (token->lstrip && start > done &&
		       utf8_is_space(char_before(text, start, &width)))
			start -= width;
		while (token->rstrip && end < length && utf8_is_space(utf8_decode(text + end, &width)))
			end += width;
		match->start = start;
		match->end = end;
		return token;
	}
	return NULL;
}
