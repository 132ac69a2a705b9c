/* Values as json.dumps of Python prints them, floats among them. */
#include "runtime/text/chat_template_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void float_print(double value, char out[40])
{
	char digits[32];
	int precision = 0, exponent;
	if (isnan(value) || isinf(value)) {
		snprintf(out, 40, isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
		return;
	}
	do
		snprintf(digits, sizeof digits, "%.*e", precision, value);
	while (strtod(digits, NULL) != value && ++precision < 17);

	/* d.ddde±xx: Python writes it so below 1e-4 and from 1e16 on, and plainly between. */
	exponent = atoi(strchr(digits, 'e') + 1);
	if (exponent >= -4 && exponent < 16)
		snprintf(out, 40, "%.*f", precision > exponent ? precision - exponent : 0, value);
	else
		snprintf(out, 40, "%s", digits);
	if (!strpbrk(out, ".e"))
		strcat(out, ".0");
}

static int put_string(struct render *r, struct text text, bool ascii)
{
	size_t width, from = 0;
	if (render_put_text(r, "\""))
		return -1;
	for (size_t at = 0; at < text.length; at += width) {
		static const char plain[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";
		int32_t code = text_decode(text, at, &width);
		const char *letter = code > 0 && code < 128 ? strchr(plain, code) : NULL;
		char escape[16] = "";
		if (letter)
			snprintf(escape, sizeof escape, "\\%c", letters[letter - plain]);
		else if (code < 0x20 || (ascii && code > 0x7e && code < 0x10000))
			snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code);
		else if (ascii && code >= 0x10000)
			snprintf(escape, sizeof escape, "\\u%04x\\u%04x",
				 0xd800 + (unsigned)(code - 0x10000) / 0x400,
				 0xdc00 + (unsigned)code % 0x400);
		if (escape[0]) {
			if (render_put(r, text.data + from, at - from) || render_put_text(r, escape))
				return -1;
			from = at + width;
		}
	}
	return render_put(r, text.data + from, text.length - from) || render_put_text(r, "\"");
}

static int put_number(struct render *r, double value)
{
	char number[40];
	float_print(value, number);
	return render_put_text(r, isnan(value)	? "NaN"
				  : isinf(value) ? value < 0 ? "-Infinity" : "Infinity"
						 : number);
}

/* The break between elements, where there is an indent. */
static int put_line(struct render *r, const struct json_style *style, int level)
{
	if (!style->indent)
		return 0;
	if (render_put_text(r, "\n"))
		return -1;
	for (int i = 0; i < level; i++)
		if (render_put(r, style->indent, style->indent_length))
			return -1;
	return 0;
}

static int put_key(struct render *r, struct value key, const struct json_style *style)
{
	if (key.kind == VALUE_STRING)
		return put_string(r, key.text, style->ascii);
	if (key.kind < VALUE_NONE || key.kind > VALUE_FLOAT)
		return render_fail(r, "a value of type '%s' can't be a key in JSON", value_type(key));
	return render_put_text(r, "\"") || value_put_json(r, key, style, 0) || render_put_text(r, "\"")
		       ? -1
		       : 0;
}

/* The pairs by key, as Python sorts them; insertion sort, whose work is counted. */
static int sort_pairs(struct render *r, const struct dict *dict, struct pair **out)
{
	struct pair *pairs = render_take(r, dict->count * sizeof *pairs);
	if (!pairs)
		return -1;
	for (size_t i = 0; i < dict->count; i++) {
		size_t at = i;
		for (; at > 0; at--) {
			int order;
			if (render_work(r, 64) ||
			    value_order(r, dict->pairs[i].key, pairs[at - 1].key, &order))
				return -1;
			if (order >= 0)
				break;
			pairs[at] = pairs[at - 1];
		}
		pairs[at] = dict->pairs[i];
	}
	*out = pairs;
	return 0;
}

static int put_members(struct render *r, const struct dict *dict, const struct json_style *style,
		       int level)
{
	struct pair *pairs = dict->pairs;
	if (style->sort_keys && sort_pairs(r, dict, &pairs))
		return -1;
	for (size_t i = 0; i < dict->count; i++)
		if ((i && render_put(r, style->between.data, style->between.length)) ||
		    put_line(r, style, level + 1) || put_key(r, pairs[i].key, style) ||
		    render_put(r, style->colon.data, style->colon.length) ||
		    value_put_json(r, pairs[i].value, style, level + 1))
			return -1;
	return dict->count ? put_line(r, style, level) : 0;
}

static int put_elements(struct render *r, const struct sequence *sequence,
			const struct json_style *style, int level)
{
	for (size_t i = 0; i < sequence->count; i++)
		if ((i && render_put(r, style->between.data, style->between.length)) ||
		    put_line(r, style, level + 1) ||
		    value_put_json(r, sequence->values[i], style, level + 1))
			return -1;
	return sequence->count ? put_line(r, style, level) : 0;
}

int value_put_json(struct render *r, struct value value, const struct json_style *style, int level)
{
	int result;
	if (render_enter(r))
		return -1;
	switch ((enum value_kind)value.kind) {
	case VALUE_NONE:
		result = render_put_text(r, "null");
		break;
	case VALUE_BOOL:
		result = render_put_text(r, value.truth ? "true" : "false");
		break;
	case VALUE_INTEGER:
		result = value_put(r, value);
		break;
	case VALUE_FLOAT:
		result = put_number(r, value.real);
		break;
	case VALUE_STRING:
		result = put_string(r, value.text, style->ascii);
		break;
	case VALUE_LIST:
	case VALUE_TUPLE:
		result = render_put_text(r, "[") || put_elements(r, value.sequence, style, level) ||
			 render_put_text(r, "]");
		break;
	case VALUE_DICT:
		result = render_put_text(r, "{") || put_members(r, value.dict, style, level) ||
			 render_put_text(r, "}");
		break;
	default:
		result = render_fail(r, "a value of type '%s' can't be written as JSON",
				     value_type(value));
	}
	render_leave(r);
	return result ? -1 : 0;
}
