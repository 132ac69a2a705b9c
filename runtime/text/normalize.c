#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/text/tokenizer_internal.h"

static int append_replaced(const struct normalizer *normalizer, struct matcher *matcher,
			   const struct bytes *text, struct bytes *out, struct error *err)
{
	struct match match = {0};
	size_t done = 0;
	int found;
	while ((found = pattern_next(normalizer->pattern, matcher, text->data, text->length, &match,
				     err)) > 0) {
		if (tokenizer_check_growth(text->length, out->length, err) ||
		    bytes_append(out, text->data + done, match.start - done, err) ||
		    bytes_append(out, normalizer->content.data, normalizer->content.length, err))
			return -1;
		done = match.end;
	}
	return found < 0 ? -1 : bytes_append(out, text->data + done, text->length - done, err);
}

struct code_points {
	int32_t *data;
	size_t count, capacity;
};

static int append_decomposed(struct code_points *points, int32_t code, int options,
			     struct error *err)
{
	for (;;) {
		int boundary = 0;
		size_t room = points->capacity - points->count;
		utf8proc_ssize_t count = utf8proc_decompose_char(
			code, points->data + points->count, (utf8proc_ssize_t)room, options, &boundary);
		if (count < 0)
			return error_run(err, "Unicode normalization fails: %s",
					 utf8proc_errmsg(count));
		if ((size_t)count <= room) {
			points->count += (size_t)count;
			return 0;
		}
		if (array_reserve(&points->data, &points->capacity, points->count + (size_t)count + 64,
				  sizeof *points->data, err))
			return -1;
	}
}

static int combining_class(int32_t code)
{
	return code < 0x300 ? 0 : (int)utf8proc_get_property(code)->combining_class;
}

/* Unicode's canonical ordering: runs of combining marks in the order of their class, equals
 * as they were. Counting keeps a hostile run of a million marks linear. */
static int order_marks(struct code_points *points, struct error *err)
{
	struct code_points sorted = {0};
	int result = -1;
	for (size_t i = 0, end; i < points->count; i = end) {
		end = i + 1;
		if (!combining_class(points->data[i]))
			continue;
		size_t places[257] = {0};
		for (end = i; end < points->count && combining_class(points->data[end]); end++)
			places[combining_class(points->data[end]) + 1]++;
		for (size_t c = 1; c <= 256; c++)
			places[c] += places[c - 1];
		if (array_reserve(&sorted.data, &sorted.capacity, end - i, sizeof *sorted.data, err))
			goto fail;
		for (size_t j = i; j < end; j++)
			sorted.data[places[combining_class(points->data[j])]++] = points->data[j];
		memcpy(points->data + i, sorted.data, (end - i) * sizeof *sorted.data);
	}
	result = 0;
fail:
	free(sorted.data);
	return result;
}

/* Hugging Face normalizes by Unicode 9 and takes what later versions added as unassigned. These
 * are the later characters that have a combining class or a decomposition. */
static bool is_later_than_9(int32_t code)
{
	static const struct {
		int32_t first, last;
	} ranges[] = {
		{0x7fd, 0x7fd}, {0x898, 0x89f}, {0x8ca, 0x8d3}, {0x9fe, 0x9fe}, {0xc3c, 0xc3c},
		{0xd3b, 0xd3c}, {0xeba, 0xeba}, {0x1715, 0x1715}, {0x1abf, 0x1ace},
		{0x1df6, 0x1dfa}, {0x32ff, 0x32ff}, {0xa7f2, 0xa7f4}, {0xa82c, 0xa82c},
		{0xab69, 0xab69}, {0x10781, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba},
		{0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50},
		{0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e},
		{0x11839, 0x1183a}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
		{0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
		{0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
		{0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
		{0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c},
		{0x1fbf0, 0x1fbf9},
	};
	size_t low = 0, high = sizeof ranges / sizeof *ranges;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (ranges[middle].last < code)
			low = middle + 1;
		else
			high = middle;
	}
	return low < sizeof ranges / sizeof *ranges && ranges[low].first <= code;
}

/* Appends the normal form of decomposed characters, and forgets them. */
static int flush_points(struct code_points *points, int options, struct bytes *out,
			struct error *err)
{
	if (!points->count)
		return 0;
	if (order_marks(points, err))
		return -1;
	utf8proc_ssize_t count = utf8proc_normalize_utf32(
		points->data, (utf8proc_ssize_t)points->count, (utf8proc_option_t)options);
	if (count < 0)
		return error_run(err, "Unicode normalization fails: %s", utf8proc_errmsg(count));
	for (size_t i = 0; i < (size_t)count; i++)
		if (bytes_append_char(out, points->data[i], err))
			return -1;
	points->count = 0;
	return 0;
}

static int append_unicode(const struct normalizer *normalizer, const struct bytes *text,
			  struct bytes *out, struct error *err)
{
	int options = UTF8PROC_STABLE | (normalizer->compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
		      (normalizer->compatible ? UTF8PROC_COMPAT : 0);
	struct code_points points = {0};
	int result = -1;
	bool plain = true; /* ASCII is normal in every form */
	for (size_t i = 0; plain && i < text->length; i++)
		plain = (unsigned char)text->data[i] < 0x80;
	if (plain)
		return bytes_append(out, text->data, text->length, err);
	if (array_reserve(&points.data, &points.capacity, text->length, sizeof *points.data, err))
		goto fail;
	for (size_t at = 0, width; at < text->length; at += width) {
		int32_t code = utf8_decode(text->data + at, &width);
		if (is_later_than_9(code) ? flush_points(&points, options, out, err) ||
						    bytes_append_char(out, code, err)
					  : append_decomposed(&points, code, options, err))
			goto fail;
	}
	result = flush_points(&points, options, out, err);
fail:
	free(points.data);
	return result;
}

static int append_lowercase(const struct bytes *text, struct bytes *out, struct error *err)
{
	for (size_t at = 0, width; at < text->length; at += width) {
		int32_t code = utf8_decode(text->data + at, &width);
		/* The one character whose lower case is two: I with a dot above. */
		if (code == 0x130 ? bytes_append(out, "i\xcc\x87", 3, err)
				  : bytes_append_char(out, utf8proc_tolower(code), err))
			return -1;
	}
	return 0;
}

static int append_stripped(const struct normalizer *normalizer, const struct bytes *text,
			   struct bytes *out, struct error *err)
{
	size_t start = 0, end = text->length, width;
	while (normalizer->left && start < end &&
	       utf8_is_space(utf8_decode(text->data + start, &width)))
		start += width;
	while (normalizer->right && end > start) {
		size_t last = end - 1;
		while (((unsigned char)text->data[last] & 0xc0) == 0x80)
			last--;
		if (!utf8_is_space(utf8_decode(text->data + last, &width)))
			break;
		end = last;
	}
	return bytes_append(out, text->data + start, end - start, err);
}

/* No space at the start, single ones inside, none at the end, where a visible space counts
 * as one too (normalizer.cc of google/sentencepiece). */
static int append_collapsed(const struct bytes *text, struct bytes *out, struct error *err)
{
	size_t visible = strlen(TOKENIZER_SPACE);
	bool after_space = true;
	for (size_t at = 0; at < text->length; at++) {
		bool space = text->data[at] == ' ';
		if (!(space && after_space) && bytes_append(out, &text->data[at], 1, err))
			return -1;
		after_space = space;
	}
	for (;;) {
		if (out->length && out->data[out->length - 1] == ' ')
			out->length--;
		else if (out->length >= visible && memcmp(out->data + out->length - visible,
							  TOKENIZER_SPACE, visible) == 0)
			out->length -= visible;
		else
			return 0;
	}
}

int normalizer_run(const struct normalizer *normalizer, struct matcher *matcher, struct bytes *text,
		   struct bytes *spare, struct error *err)
{
	spare->length = 0;
	int result = bytes_append(spare, "", 0, err); /* empty text is no NULL */
	if (result)
		return -1;
	switch (normalizer->kind) {
	case NORMALIZE_PREPEND:
		if (text->length)
			result = bytes_append(spare, normalizer->content.data,
					      normalizer->content.length, err);
		if (!result)
			result = bytes_append(spare, text->data, text->length, err);
		break;
	case NORMALIZE_REPLACE:
		result = append_replaced(normalizer, matcher, text, spare, err);
		break;
	case NORMALIZE_UNICODE:
		result = append_unicode(normalizer, text, spare, err);
		break;
	case NORMALIZE_LOWERCASE:
		result = append_lowercase(text, spare, err);
		break;
	case NORMALIZE_STRIP:
		result = append_stripped(normalizer, text, spare, err);
		break;
	case NORMALIZE_COLLAPSE:
		result = append_collapsed(text, spare, err);
		break;
	}
	if (result)
		return -1;
	struct bytes swap = *text;
	*text = *spare;
	*spare = swap;
	return 0;
}
