/* Strings as Python's str has them: characters are Unicode's, and so are white space and case
 * (utf8proc's mapping of one character to one, and the longer ones of Latin letters; those of
 * Greek letters with an iota below and of Armenian ligatures are not known). */
#include "runtime/text/chat_template_internal.h"

#include <string.h>

#include "runtime/text/tokenizer_internal.h"

#include <utf8proc.h>

bool text_is_space(int32_t code)
{
	return utf8_is_space(code) || (code >= 0x1c && code <= 0x1f);
}

int32_t text_decode(struct text text, size_t at, size_t *width)
{
	return utf8_decode(text.data + at, width);
}

size_t text_characters(struct text text)
{
	size_t count = 0;
	for (size_t i = 0; i < text.length; i++)
		count += ((unsigned char)text.data[i] & 0xc0) != 0x80;
	return count;
}

size_t text_offset(struct text text, size_t index)
{
	size_t at = 0;
	while (index-- && at < text.length)
		at += utf8_width(text.data[at]);
	return at;
}

/* Where the character that ends before `end` begins. */
static size_t before(struct text text, size_t end)
{
	do
		end--;
	while (end > 0 && ((unsigned char)text.data[end] & 0xc0) == 0x80);
	return end;
}

static bool is_stripped(struct text text, size_t at, const struct text *chars)
{
	size_t width;
	int32_t code = text_decode(text, at, &width);
	return chars ? text_find(*chars, (struct text){text.data + at, width}, 0) != SIZE_MAX
		     : text_is_space(code);
}

struct text text_strip(struct text text, const struct text *chars, bool left, bool right)
{
	size_t start = 0, end = text.length;
	while (left && start < end && is_stripped(text, start, chars))
		start += utf8_width(text.data[start]);
	while (right && start < end && is_stripped(text, before(text, end), chars))
		end = before(text, end);
	return (struct text){text.data + start, end - start};
}

size_t text_find(struct text text, struct text part, size_t from)
{
	if (part.length == 0)
		return from <= text.length ? from : SIZE_MAX;
	if (from > text.length)
		return SIZE_MAX;
	const char *found = memmem(text.data + from, text.length - from, part.data, part.length);
	return found ? (size_t)(found - text.data) : SIZE_MAX;
}

size_t text_find_last(struct text text, struct text part)
{
	if (part.length > text.length)
		return SIZE_MAX;
	for (size_t at = text.length - part.length + 1; at-- > 0;)
		if (memcmp(text.data + at, part.data, part.length) == 0)
			return at;
	return SIZE_MAX;
}

static bool is_cased(int32_t code)
{
	utf8proc_category_t category = utf8proc_category(code);
	return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
	       category == UTF8PROC_CATEGORY_LT;
}

bool text_has_case(struct text text, bool upper)
{
	bool any = false;
	size_t width;
	for (size_t at = 0; at < text.length; at += width) {
		int32_t code = text_decode(text, at, &width);
		if (!is_cased(code))
			continue;
		if (utf8proc_category(code) !=
		    (upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL))
			return false;
		any = true;
	}
	return any;
}

int text_put_encoded(struct render *r, int32_t code)
{
	utf8proc_uint8_t bytes[4];
	utf8proc_ssize_t width = utf8proc_encode_char(code, bytes);
	return render_put(r, (const char *)bytes, (size_t)width);
}

/* Capitals of more than one letter (Unicode's SpecialCasing.txt); in a title the others of them are
 * small. */
static const char *long_capital(int32_t code, bool title)
{
	static const struct {
		int32_t code;
		const char *upper, *title;
	} capitals[] = {
		{0xdf, "SS", "Ss"},	 {0x149, "\xca\xbcN", "\xca\xbcN"},
		{0x1f0, "J\xcc\x8c", "J\xcc\x8c"},
		{0x1e96, "H\xcc\xb1", "H\xcc\xb1"}, {0x1e97, "T\xcc\x88", "T\xcc\x88"},
		{0x1e98, "W\xcc\x8a", "W\xcc\x8a"}, {0x1e99, "Y\xcc\x8a", "Y\xcc\x8a"},
		{0x1e9a, "A\xca\xbe", "A\xca\xbe"}, {0xfb00, "FF", "Ff"}, {0xfb01, "FI", "Fi"},
		{0xfb02, "FL", "Fl"},	 {0xfb03, "FFI", "Ffi"}, {0xfb04, "FFL", "Ffl"},
		{0xfb05, "ST", "St"},	 {0xfb06, "ST", "St"},
	};
	for (size_t i = 0; i < sizeof capitals / sizeof *capitals; i++)
		if (capitals[i].code == code)
			return title ? capitals[i].title : capitals[i].upper;
	return NULL;
}

/* Whether a sigma between at and end is the last letter of a word, where it has its own form. */
static bool is_final(struct text text, size_t at, size_t end)
{
	size_t width;
	return at > 0 && is_cased(text_decode(text, before(text, at), &width)) &&
	       (end == text.length || !is_cased(text_decode(text, end, &width)));
}

int text_put_case(struct render *r, struct text text, enum text_case text_case)
{
	bool starts = true; /* a word, by the kind of title, or the text */
	size_t width;
	for (size_t at = 0; at < text.length; at += width) {
		int32_t code = text_decode(text, at, &width), mapped;
		bool breaks = !is_cased(code), title = starts && text_case != CASE_TITLE_FILTER;
		const char *capital = NULL;
		/* The filter's words begin behind these alone. */
		if (text_case == CASE_TITLE_FILTER)
			breaks = text_is_space(code) ||
				 (code > 0 && code < 128 && strchr("-({[<", code));
		if (text_case == CASE_LOWER || (text_case != CASE_UPPER && !starts)) {
			mapped = code == 0x3a3 && is_final(text, at, at + width)
					 ? 0x3c2
					 : utf8proc_tolower(code);
			capital = code == 0x130 ? "i\xcc\x87" : NULL;
		} else {
			title = title && text_case != CASE_UPPER;
			mapped = title ? utf8proc_totitle(code) : utf8proc_toupper(code);
			capital = long_capital(code, title);
		}
		starts = breaks && text_case != CASE_CAPITALIZE;
		if (capital ? render_put_text(r, capital) : text_put_encoded(r, mapped))
			return -1;
	}
	return render_work(r, text.length);
}

int text_put_replaced(struct render *r, struct text text, struct text old, struct text new,
		      int64_t limit)
{
	size_t from = 0, found = 0;
	for (; limit != 0 && (found = text_find(text, old, found)) != SIZE_MAX; limit--) {
		if (render_put(r, text.data + from, found - from) ||
		    render_put(r, new.data, new.length))
			return -1;
		from = found;
		found += old.length;
		/* Nothing is found before every character and at the end. */
		if (old.length == 0) {
			if (found == text.length)
				break;
			found += utf8_width(text.data[found]);
		} else {
			from = found;
		}
	}
	return render_put(r, text.data + from, text.length - from);
}

/* Growing lists for what a text is split into. */
struct parts {
	struct render *r;
	struct value *values;
	size_t count, capacity;
};

static int add_part(struct parts *parts, struct text text)
{
	if (parts->count == parts->capacity) {
		size_t capacity = parts->capacity ? 2 * parts->capacity : 16;
		struct value *values = render_take(parts->r, capacity * sizeof *values);
		if (!values)
			return -1;
		if (parts->count)
			memcpy(values, parts->values, parts->count * sizeof *values);
		parts->values = values;
		parts->capacity = capacity;
	}
	parts->values[parts->count++] = value_string(text.data, text.length);
	return render_work(parts->r, 16);
}

static int finish_parts(struct parts *parts, struct value *out)
{
	if (value_sequence(parts->r, VALUE_LIST, 0, out))
		return -1;
	*out->sequence = (struct sequence){parts->values, parts->count};
	return 0;
}

/* Cuts one part off *text, at its start or its end. False: there is no more to cut off. */
static bool cut_part(struct text *text, const struct text *separator, bool from_right,
		     struct text *part)
{
	size_t start, end; /* of the separator */
	if (separator) {
		start = from_right ? text_find_last(*text, *separator)
				   : text_find(*text, *separator, 0);
		if (start == SIZE_MAX)
			return false;
		end = start + separator->length;
	} else {
		*text = text_strip(*text, NULL, !from_right, from_right);
		if (text->length == 0)
			return false;
		start = from_right ? text->length : 0;
		if (from_right)
			while (start > 0 && !is_stripped(*text, before(*text, start), NULL))
				start = before(*text, start);
		else
			while (start < text->length && !is_stripped(*text, start, NULL))
				start += utf8_width(text->data[start]);
		end = start;
	}
	if (from_right) {
		*part = (struct text){text->data + end, text->length - end};
		text->length = start;
	} else {
		*part = (struct text){text->data, start};
		*text = (struct text){text->data + end, text->length - end};
	}
	return true;
}

int text_split(struct render *r, struct text text, const struct text *separator, int64_t limit,
	       bool from_right, struct value *out)
{
	struct parts parts = {.r = r};
	struct text part;
	if (separator && separator->length == 0)
		return render_fail(r, "a text can't be split at an empty separator");
	if (render_work(r, text.length * (separator && from_right ? separator->length : 1)))
		return -1;
	for (; limit != 0 && cut_part(&text, separator, from_right, &part); limit--)
		if (add_part(&parts, part))
			return -1;
	if (!separator)
		text = text_strip(text, NULL, !from_right, from_right);
	if ((separator || text.length) && add_part(&parts, text))
		return -1;
	if (finish_parts(&parts, out))
		return -1;
	for (size_t i = 0; from_right && i < parts.count / 2; i++) {
		struct value swap = parts.values[i];
		parts.values[i] = parts.values[parts.count - 1 - i];
		parts.values[parts.count - 1 - i] = swap;
	}
	return 0;
}

int text_lines(struct render *r, struct text text, bool keep_ends, struct value *out)
{
	struct parts parts = {.r = r};
	size_t width, from = 0;
	if (render_work(r, text.length))
		return -1;
	for (size_t at = 0; at < text.length; at += width) {
		int32_t code = text_decode(text, at, &width);
		if (!((code >= 0x0a && code <= 0x0d) || (code >= 0x1c && code <= 0x1e) ||
		      code == 0x85 || code == 0x2028 || code == 0x2029))
			continue;
		if (code == '\r' && at + 1 < text.length && text.data[at + 1] == '\n')
			width = 2;
		size_t end = keep_ends ? at + width : at;
		if (add_part(&parts, (struct text){text.data + from, end - from}))
			return -1;
		from = at + width;
	}
	if (from < text.length &&
	    add_part(&parts, (struct text){text.data + from, text.length - from}))
		return -1;
	return finish_parts(&parts, out);
}
