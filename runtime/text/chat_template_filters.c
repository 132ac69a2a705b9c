/* Filters of single values: texts, numbers, JSON. Those of lists are in chat_template_sequences.c. */
#include "runtime/text/chat_template_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What most filters of text begin with: the value as text, and where the result will start. */
static int begin(struct render *r, struct value self, struct text *text, size_t *mark)
{
	int result = value_to_text(r, self, text);
	*mark = r->out.length;
	return result;
}

static int put_case(struct render *r, struct value self, enum text_case text_case, struct value *out)
{
	struct text text;
	size_t mark;
	return begin(r, self, &text, &mark) || text_put_case(r, text, text_case) ||
	       render_cut(r, mark, out);
}

static int filter_upper(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return put_case(r, self, CASE_UPPER, out);
}

static int filter_lower(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return put_case(r, self, CASE_LOWER, out);
}

static int filter_capitalize(struct render *r, struct value self, struct arguments *args,
			     struct value *out)
{
	(void)args;
	return put_case(r, self, CASE_CAPITALIZE, out);
}

static int filter_title(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return put_case(r, self, CASE_TITLE_FILTER, out);
}

static int filter_string(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	struct text text;
	(void)args;
	if (value_to_text(r, self, &text))
		return -1;
	*out = value_string(text.data, text.length);
	return 0;
}

static int filter_trim(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct value chars = args->bound[0];
	struct text text;
	if (value_to_text(r, self, &text) ||
	    render_work(r, text.length * (chars.kind == VALUE_STRING ? chars.text.length : 1)))
		return -1;
	if (value_given(chars) && chars.kind != VALUE_NONE && chars.kind != VALUE_STRING)
		return render_fail(r, "filter 'trim' takes characters, not '%s'", value_type(chars));
	text = text_strip(text, chars.kind == VALUE_STRING ? &chars.text : NULL, true, true);
	*out = value_string(text.data, text.length);
	return 0;
}

static int filter_replace(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	struct text text, old, new;
	int64_t count = -1;
	size_t mark;
	if (value_to_text(r, args->bound[0], &old) || value_to_text(r, args->bound[1], &new) ||
	    begin(r, self, &text, &mark))
		return -1;
	if (value_given(args->bound[2]) && args->bound[2].kind != VALUE_NONE &&
	    !value_to_integer(args->bound[2], &count))
		return render_fail(r, "filter 'replace' counts with an integer");
	return text_put_replaced(r, text, old, new, count) || render_cut(r, mark, out);
}

/* Marked as safe, like the result of |safe: not to be escaped, were it escaped. */
static int filter_escape(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	struct text text;
	size_t mark, from = 0;
	(void)args;
	if (begin(r, self, &text, &mark))
		return -1;
	for (size_t i = 0; i < text.length; i++) {
		char c = text.data[i];
		const char *escape = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;"
				     : c == '\'' ? "&#39;" : c == '"' ? "&#34;" : NULL;
		if (escape) {
			if (render_put(r, text.data + from, i - from) || render_put_text(r, escape))
				return -1;
			from = i + 1;
		}
	}
	if (render_put(r, text.data + from, text.length - from) || render_cut(r, mark, out))
		return -1;
	out->safe = true;
	return 0;
}

static int filter_safe(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	if (filter_string(r, self, args, out))
		return -1;
	out->safe = true;
	return 0;
}

static int filter_default(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	bool falsy = value_truth(args->bound[1]) && !value_truth(self);
	(void)r;
	*out = self;
	if (self.kind == VALUE_UNDEFINED || falsy)
		*out = value_given(args->bound[0]) ? args->bound[0] : value_string("", 0);
	return 0;
}

static int filter_indent(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	struct value width = args->bound[0], lines;
	struct text text;
	int64_t spaces = 4;
	size_t mark;
	bool blank = value_truth(args->bound[2]);
	if (self.kind != VALUE_STRING)
		return render_fail(r, "filter 'indent' takes text, not '%s'", value_type(self));
	if (value_given(width) && width.kind != VALUE_STRING && !value_to_integer(width, &spaces))
		return render_fail(r, "filter 'indent' takes a width or a text");
	if (begin(r, self, &text, &mark))
		return -1;
	/* A line's end at the very end begins one more line. */
	if (value_put(r, self) || render_put_text(r, "\n") || render_cut(r, mark, &self) ||
	    text_lines(r, self.text, false, &lines))
		return -1;
	for (size_t i = 0; i < lines.sequence->count; i++) {
		struct value line = lines.sequence->values[i];
		bool indented = i ? blank || line.text.length : value_truth(args->bound[1]);
		if (i && render_put_text(r, "\n"))
			return -1;
		if (indented && width.kind == VALUE_STRING && value_put(r, width))
			return -1;
		for (int64_t s = 0; indented && width.kind != VALUE_STRING && s < spaces; s++)
			if (render_put_text(r, " "))
				return -1;
		if (value_put(r, line))
			return -1;
	}
	return render_cut(r, mark, out);
}

/* ---- JSON ---- */

static int filter_tojson(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	struct value ascii = args->bound[0], indent = args->bound[1], separators = args->bound[2];
	struct json_style style = {.ascii = value_truth(ascii), .sort_keys = value_truth(args->bound[3]),
				   .between = {", ", 2}, .colon = {": ", 2}};
	int64_t spaces;
	size_t mark = r->out.length;
	if (indent.kind == VALUE_STRING) {
		style.indent = indent.text.data;
		style.indent_length = indent.text.length;
	} else if (value_to_integer(indent, &spaces)) {
		struct value text;
		if (spaces > 100)
			return render_fail(r, "filter 'tojson' indents by 100 spaces at most");
		for (int64_t i = 0; i < spaces; i++)
			if (render_put_text(r, " "))
				return -1;
		if (render_cut(r, mark, &text))
			return -1;
		style.indent = text.text.data;
		style.indent_length = text.text.length;
	} else if (indent.kind > VALUE_NONE) {
		return render_fail(r, "filter 'tojson' indents by a number or a text");
	}
	if (style.indent)
		style.between.length = 1;
	if (separators.kind > VALUE_NONE) {
		struct sequence pair;
		if (value_items(r, separators, &pair))
			return -1;
		if (pair.count != 2 || pair.values[0].kind != VALUE_STRING ||
		    pair.values[1].kind != VALUE_STRING)
			return render_fail(r, "filter 'tojson' takes two texts as separators");
		style.between = pair.values[0].text;
		style.colon = pair.values[1].text;
	}
	return value_put_json(r, self, &style, 0) || render_cut(r, mark, out);
}

/* ---- numbers ---- */

static int filter_abs(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	int64_t integer;
	(void)args;
	*out = self;
	if (self.kind == VALUE_FLOAT)
		*out = value_float(fabs(self.real));
	else if (value_to_integer(self, &integer))
		return render_sign(r, integer < 0, out);
	else
		return render_fail(r, "filter 'abs' takes a number, not '%s'", value_type(self));
	return 0;
}

/* A number as Python reads it from text: white space around it and "_" between digits. */
static bool read_number(struct text text, int64_t *integer, double *real, bool *whole)
{
	char digits[400], *end;
	size_t length = 0;
	text = text_strip(text, NULL, true, true);
	if (text.length == 0 || text.length >= sizeof digits)
		return false;
	for (size_t i = 0; i < text.length; i++) {
		char c = text.data[i];
		if (c == '_' && i > 0 && i + 1 < text.length &&
		    strchr("0123456789", text.data[i - 1]) && strchr("0123456789", text.data[i + 1]) &&
		    text.data[i - 1] && text.data[i + 1])
			continue;
		if (!c || c == '_' || c == 'x' || c == 'X' || c == '(')
			return false;
		digits[length++] = c;
	}
	digits[length] = '\0';
	errno = 0;
	*integer = strtoll(digits, &end, 10);
	*whole = !*end && !errno;
	*real = strtod(digits, &end);
	return !*end;
}

static int filter_int(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	double real = NAN;
	int64_t integer = 0;
	bool whole = value_to_integer(self, &integer);
	if (value_given(args->bound[1]) && !(args->bound[1].kind == VALUE_INTEGER &&
					     args->bound[1].integer == 10))
		return render_fail(r, "filter 'int' knows base 10 only");
	if (self.kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, self);
	if (self.kind == VALUE_FLOAT)
		real = self.real;
	else if (self.kind == VALUE_STRING && !read_number(self.text, &integer, &real, &whole))
		real = NAN;
	if (!whole && fabs(real) >= 0x1p63 && !isinf(real))
		return render_fail(r, "an integer grows beyond 64 bits");
	if (whole)
		*out = value_integer(integer);
	else if (isfinite(real))
		*out = value_integer((int64_t)real);
	else
		*out = value_given(args->bound[0]) ? args->bound[0] : value_integer(0);
	return 0;
}

static int filter_float(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	double real;
	int64_t integer;
	bool whole, read = value_to_float(self, &real);
	if (self.kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, self);
	if (self.kind == VALUE_STRING)
		read = read_number(self.text, &integer, &real, &whole);
	if (read)
		*out = value_float(real);
	else
		*out = value_given(args->bound[0]) ? args->bound[0] : value_float(0);
	return 0;
}

static int filter_round(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct value method = args->bound[1];
	int64_t precision = 0, integer;
	double real, scale;
	if (value_given(args->bound[0]) && !value_to_integer(args->bound[0], &precision))
		return render_fail(r, "filter 'round' takes a number of digits");
	if (precision < 0 || precision > 15)
		return render_fail(r, "filter 'round' knows 0 to 15 digits");
	if (!value_to_float(self, &real))
		return render_fail(r, "filter 'round' takes a number, not '%s'", value_type(self));
	if (!value_given(method) || (method.kind == VALUE_STRING && text_is(method.text, "common"))) {
		char number[400];
		snprintf(number, sizeof number, "%.*f", (int)precision, real);
		*out = value_to_integer(self, &integer) ? value_integer(integer)
							: value_float(strtod(number, NULL));
		return 0;
	}
	if (method.kind != VALUE_STRING ||
	    (!text_is(method.text, "ceil") && !text_is(method.text, "floor")))
		return render_fail(r, "filter 'round' knows the methods common, ceil and floor");
	scale = pow(10, (double)precision);
	*out = value_float((text_is(method.text, "ceil") ? ceil(real * scale) : floor(real * scale)) /
			   scale);
	return 0;
}

static int filter_length(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	int64_t length;
	(void)args;
	if (value_length(r, self, &length))
		return -1;
	*out = value_integer(length);
	return 0;
}

const struct callable *filter_find(struct text name)
{
	static const struct callable filters[] = {
		{"abs", filter_abs, 0, {0}, false},
		{"capitalize", filter_capitalize, 0, {0}, false},
		{"count", filter_length, 0, {0}, false},
		{"d", filter_default, 0, {"default_value", "boolean"}, false},
		{"default", filter_default, 0, {"default_value", "boolean"}, false},
		{"e", filter_escape, 0, {0}, false},
		{"escape", filter_escape, 0, {0}, false},
		{"float", filter_float, 0, {"default"}, false},
		{"indent", filter_indent, 0, {"width", "first", "blank"}, false},
		{"int", filter_int, 0, {"default", "base"}, false},
		{"length", filter_length, 0, {0}, false},
		{"lower", filter_lower, 0, {0}, false},
		{"replace", filter_replace, 2, {"old", "new", "count"}, false},
		{"round", filter_round, 0, {"precision", "method"}, false},
		{"safe", filter_safe, 0, {0}, false},
		{"string", filter_string, 0, {0}, false},
		{"title", filter_title, 0, {0}, false},
		{"tojson", filter_tojson, 0, {"ensure_ascii", "indent", "separators", "sort_keys"},
		 false},
		{"trim", filter_trim, 0, {"chars"}, false},
		{"upper", filter_upper, 0, {0}, false},
	};
	for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
		if (text_is(name, filters[i].name))
			return &filters[i];
	return sequence_filter_find(name);
}
