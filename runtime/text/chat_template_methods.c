/* Methods of strings and dicts. Those of Python that are not known here are refused by name, where
 * jinja2 would find them; those that would change a value are undefined, as in its sandbox. */
#include "runtime/text/chat_template_internal.h"

#include <string.h>

/* A text argument, or NULL in *out where it is not given or None. */
static int text_argument(struct render *r, const char *method, const struct value *argument,
			 const struct text **out)
{
	*out = argument->kind == VALUE_STRING ? &argument->text : NULL;
	if (argument->kind != VALUE_STRING && argument->kind > VALUE_NONE)
		return render_fail(r, "method '%s' takes text, not '%s'", method,
				   value_type(*argument));
	return argument->kind == VALUE_UNDEFINED ? render_fail_undefined(r, *argument) : 0;
}

/* The same where there must be one. */
static int need_text(struct render *r, const char *method, const struct value *argument,
		     struct text *out)
{
	const struct text *text;
	*out = (struct text){"", 0};
	if (text_argument(r, method, argument, &text))
		return -1;
	if (!text)
		return render_fail(r, "method '%s' takes text, not 'NoneType'", method);
	*out = *text;
	return 0;
}

static int strip(struct render *r, struct value self, struct arguments *args, bool left, bool right,
		 struct value *out)
{
	const struct text *chars;
	if (text_argument(r, "strip", &args->bound[0], &chars))
		return -1;
	if (render_work(r, self.text.length * (chars ? chars->length : 1)))
		return -1;
	struct text text = text_strip(self.text, chars, left, right);
	*out = value_string(text.data, text.length);
	return 0;
}

static int str_strip(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return strip(r, self, args, true, true, out);
}

static int str_lstrip(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return strip(r, self, args, true, false, out);
}

static int str_rstrip(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return strip(r, self, args, false, true, out);
}

static int split(struct render *r, struct value self, struct arguments *args, bool from_right,
		 struct value *out)
{
	const struct text *separator;
	int64_t limit = -1;
	if (text_argument(r, "split", &args->bound[0], &separator))
		return -1;
	if (value_given(args->bound[1]) && !value_to_integer(args->bound[1], &limit))
		return render_fail(r, "method 'split' counts with an integer");
	return text_split(r, self.text, separator, limit < 0 ? -1 : limit, from_right, out);
}

static int str_split(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return split(r, self, args, false, out);
}

static int str_rsplit(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return split(r, self, args, true, out);
}

static int str_splitlines(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	return text_lines(r, self.text, value_truth(args->bound[0]), out);
}

/* Whether the text begins or ends with the argument, or with one of a tuple. */
static int has_end(struct render *r, struct value self, struct value argument, bool start,
		   struct value *out)
{
	struct sequence one = {&argument, 1}, *parts = &one;
	const char *method = start ? "startswith" : "endswith";
	bool found = false;
	if (argument.kind == VALUE_TUPLE)
		parts = argument.sequence;
	for (size_t i = 0; i < parts->count; i++) {
		struct text part;
		if (need_text(r, method, &parts->values[i], &part) || render_work(r, part.length))
			return -1;
		if (part.length <= self.text.length) {
			size_t at = start ? 0 : self.text.length - part.length;
			found |= text_equal((struct text){self.text.data + at, part.length}, part);
		}
	}
	*out = value_bool(found);
	return 0;
}

static int str_startswith(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	return has_end(r, self, args->bound[0], true, out);
}

static int str_endswith(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return has_end(r, self, args->bound[0], false, out);
}

static int without_end(struct render *r, struct value self, struct value end, bool start,
		       struct value *out)
{
	struct value found;
	struct text text = self.text, part;
	if (need_text(r, "remove", &end, &part) || has_end(r, self, end, start, &found))
		return -1;
	if (found.truth) {
		text.data += start ? part.length : 0;
		text.length -= part.length;
	}
	*out = value_string(text.data, text.length);
	return 0;
}

static int str_removeprefix(struct render *r, struct value self, struct arguments *args,
			    struct value *out)
{
	return without_end(r, self, args->bound[0], true, out);
}

static int str_removesuffix(struct render *r, struct value self, struct arguments *args,
			    struct value *out)
{
	return without_end(r, self, args->bound[0], false, out);
}

static int str_replace(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct text old, new;
	int64_t count = -1;
	size_t mark = r->out.length;
	if (need_text(r, "replace", &args->bound[0], &old) ||
	    need_text(r, "replace", &args->bound[1], &new))
		return -1;
	if (value_given(args->bound[2]) && !value_to_integer(args->bound[2], &count))
		return render_fail(r, "method 'replace' counts with an integer");
	return render_work(r, self.text.length) ||
	       text_put_replaced(r, self.text, old, new, count) || render_cut(r, mark, out);
}

static int put_case(struct render *r, struct value self, enum text_case text_case, struct value *out)
{
	size_t mark = r->out.length;
	return text_put_case(r, self.text, text_case) || render_cut(r, mark, out);
}

static int str_upper(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return put_case(r, self, CASE_UPPER, out);
}

static int str_lower(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return put_case(r, self, CASE_LOWER, out);
}

static int str_title(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return put_case(r, self, CASE_TITLE, out);
}

static int str_capitalize(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	(void)args;
	return put_case(r, self, CASE_CAPITALIZE, out);
}

static int str_join(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct sequence items;
	if (value_items(r, args->bound[0], &items))
		return -1;
	size_t mark = r->out.length;
	for (size_t i = 0; i < items.count; i++) {
		if (items.values[i].kind != VALUE_STRING)
			return render_fail(r, "method 'join' joins texts, not '%s'",
					   value_type(items.values[i]));
		if ((i && value_put(r, self)) || value_put(r, items.values[i]))
			return -1;
	}
	return render_cut(r, mark, out);
}

/* The number of characters before a byte, -1 for SIZE_MAX. */
static struct value character_number(struct text text, size_t at)
{
	return value_integer(at == SIZE_MAX ? -1
					    : (int64_t)text_characters((struct text){text.data, at}));
}

static int str_find(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct text part;
	if (need_text(r, "find", &args->bound[0], &part))
		return -1;
	*out = character_number(self.text, text_find(self.text, part, 0));
	return render_work(r, self.text.length);
}

static int str_rfind(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct text part;
	if (need_text(r, "rfind", &args->bound[0], &part) ||
	    render_work(r, self.text.length * (1 + part.length)))
		return -1;
	*out = character_number(self.text, text_find_last(self.text, part));
	return 0;
}

static int str_count(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct text part;
	int64_t count = 0;
	if (need_text(r, "count", &args->bound[0], &part))
		return -1;
	if (part.length == 0)
		count = (int64_t)text_characters(self.text) + 1;
	else
		for (size_t at = 0; (at = text_find(self.text, part, at)) != SIZE_MAX;
		     at += part.length)
			count++;
	*out = value_integer(count);
	return render_work(r, self.text.length);
}

static int str_isdigit(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	bool digits = self.text.length > 0;
	(void)args;
	for (size_t i = 0; i < self.text.length; i++) {
		unsigned char c = (unsigned char)self.text.data[i];
		if (c >= 0x80)
			return render_fail(r, "method 'isdigit' knows ASCII only");
		digits &= c >= '0' && c <= '9';
	}
	*out = value_bool(digits);
	return render_work(r, self.text.length);
}

static int dict_get(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	const struct value *found;
	if (dict_find(r, self.dict, args->bound[0], &found))
		return -1;
	*out = found ? *found : value_given(args->bound[1]) ? args->bound[1] : value_none();
	return 0;
}

static int dict_items(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return dict_list(r, self.dict, 'i', VALUE_VIEW, out);
}

static int dict_keys(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return dict_list(r, self.dict, 'k', VALUE_VIEW, out);
}

static int dict_values(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return dict_list(r, self.dict, 'v', VALUE_VIEW, out);
}

static const struct callable string_methods[] = {
	{"capitalize", str_capitalize, 0, {0}, false},
	{"count", str_count, 1, {"sub"}, false},
	{"endswith", str_endswith, 1, {"suffix"}, false},
	{"find", str_find, 1, {"sub"}, false},
	{"isdigit", str_isdigit, 0, {0}, false},
	{"join", str_join, 1, {"iterable"}, false},
	{"lower", str_lower, 0, {0}, false},
	{"lstrip", str_lstrip, 0, {"chars"}, false},
	{"removeprefix", str_removeprefix, 1, {"prefix"}, false},
	{"removesuffix", str_removesuffix, 1, {"suffix"}, false},
	{"replace", str_replace, 2, {"old", "new", "count"}, false},
	{"rfind", str_rfind, 1, {"sub"}, false},
	{"rsplit", str_rsplit, 0, {"sep", "maxsplit"}, false},
	{"rstrip", str_rstrip, 0, {"chars"}, false},
	{"split", str_split, 0, {"sep", "maxsplit"}, false},
	{"splitlines", str_splitlines, 0, {"keepends"}, false},
	{"startswith", str_startswith, 1, {"prefix"}, false},
	{"strip", str_strip, 0, {"chars"}, false},
	{"title", str_title, 0, {0}, false},
	{"upper", str_upper, 0, {0}, false},
	{NULL, NULL, 0, {0}, false},
};
static const struct callable dict_methods[] = {
	{"get", dict_get, 1, {"key", "default"}, false},
	{"items", dict_items, 0, {0}, false},
	{"keys", dict_keys, 0, {0}, false},
	{"values", dict_values, 0, {0}, false},
	{NULL, NULL, 0, {0}, false},
};
static const char *const refused_of_string[] = {
	"casefold", "center",	 "encode",	"expandtabs",  "format",       "format_map", "index",
	"isalnum",  "isalpha",	 "isascii",	"isdecimal",   "isidentifier", "islower",    "isnumeric",
	"isspace",  "istitle",	 "isupper",	"isprintable", "ljust",	       "maketrans",  "partition",
	"rindex",   "rjust",	 "rpartition",	"swapcase",    "translate",    "zfill",	     NULL,
};
static const char *const refused_of_dict[] = {"copy", "fromkeys", NULL};
static const char *const refused_of_list[] = {"copy", "count", "index", NULL};
static const char *const changing_of_dict[] = {"clear", "pop", "popitem", "setdefault", "update",
					       NULL};

static bool is_among(struct text name, const char *const *words)
{
	while (*words && !text_is(name, *words))
		words++;
	return *words != NULL;
}

static int refuse_change(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	(void)args, (void)out;
	return render_fail(r, "a method that would change a value of type '%s' is not allowed",
			   value_type(self));
}

const struct callable *method_find(enum value_kind kind, struct text name, bool *refused)
{
	static const struct callable change = {"change", refuse_change, 0, {0}, true};
	const struct callable *method = kind == VALUE_STRING ? string_methods : dict_methods;
	*refused = (kind == VALUE_STRING && is_among(name, refused_of_string)) ||
		   (kind == VALUE_DICT && is_among(name, refused_of_dict)) ||
		   ((kind == VALUE_LIST || kind == VALUE_TUPLE) && is_among(name, refused_of_list));
	if (kind == VALUE_DICT && is_among(name, changing_of_dict))
		return &change;
	if (kind != VALUE_STRING && kind != VALUE_DICT)
		return NULL;
	while (method->name && !text_is(name, method->name))
		method++;
	return method->name ? method : NULL;
}
