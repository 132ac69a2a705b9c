/* Tests, the words behind "is", and global functions. */
#include "runtime/text/chat_template_internal.h"

#include <string.h>

static int test_defined(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind != VALUE_UNDEFINED);
	return 0;
}

static int test_undefined(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_UNDEFINED);
	return 0;
}

static int test_none(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_NONE);
	return 0;
}

static int test_boolean(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_BOOL);
	return 0;
}

static int test_true(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_BOOL && self.truth);
	return 0;
}

static int test_false(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_BOOL && !self.truth);
	return 0;
}

static int test_integer(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_INTEGER);
	return 0;
}

static int test_float(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_FLOAT);
	return 0;
}

static int test_number(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind >= VALUE_BOOL && self.kind <= VALUE_FLOAT);
	return 0;
}

static int test_string(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_STRING);
	return 0;
}

static int test_mapping(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_DICT);
	return 0;
}

/* What is undefined counts as an empty one, and as callable: jinja2's has all of Python's hooks. */
static int test_iterable(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_UNDEFINED || self.kind == VALUE_STRING ||
			  value_is_sequence(self) || self.kind == VALUE_DICT ||
			  self.kind == VALUE_LOOP);
	return 0;
}

static int test_sequence(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_UNDEFINED || self.kind == VALUE_DICT ||
			  (self.kind >= VALUE_STRING && self.kind <= VALUE_RANGE));
	return 0;
}

static int test_callable(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	(void)r, (void)args;
	*out = value_bool(self.kind == VALUE_UNDEFINED || self.kind == VALUE_LOOP ||
			  self.kind == VALUE_MACRO || self.kind == VALUE_FUNCTION);
	return 0;
}

static int test_case(struct render *r, struct value self, bool upper, struct value *out)
{
	struct text text;
	if (value_to_text(r, self, &text))
		return -1;
	*out = value_bool(text_has_case(text, upper));
	return render_work(r, text.length);
}

static int test_upper(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return test_case(r, self, true, out);
}

static int test_lower(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return test_case(r, self, false, out);
}

static int test_remainder(struct render *r, struct value self, struct value divisor, int64_t wanted,
			  struct value *out)
{
	struct value rest;
	bool equal;
	if (render_binary(r, '%', self, divisor, &rest) ||
	    value_equal(r, rest, value_integer(wanted), &equal))
		return -1;
	*out = value_bool(equal);
	return 0;
}

static int test_odd(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return test_remainder(r, self, value_integer(2), 1, out);
}

static int test_even(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return test_remainder(r, self, value_integer(2), 0, out);
}

static int test_divisible(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	return test_remainder(r, self, args->bound[0], 0, out);
}

static int compare(struct render *r, int operator, struct value self, struct arguments *args,
		   struct value *out)
{
	bool holds;
	if (render_compare(r, operator, self, args->bound[0], &holds))
		return -1;
	*out = value_bool(holds);
	return 0;
}

static int test_equal(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return compare(r, OPERATOR_EQUAL, self, args, out);
}

static int test_not_equal(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	return compare(r, OPERATOR_NOT_EQUAL, self, args, out);
}

static int test_less(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return compare(r, '<', self, args, out);
}

static int test_at_most(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return compare(r, OPERATOR_AT_MOST, self, args, out);
}

static int test_greater(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return compare(r, '>', self, args, out);
}

static int test_at_least(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	return compare(r, OPERATOR_AT_LEAST, self, args, out);
}

static int test_in(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return compare(r, OPERATOR_IN, self, args, out);
}

const struct callable *test_find(struct text name)
{
	static const struct callable tests[] = {
		{"!=", test_not_equal, 1, {"other"}, false},
		{"<", test_less, 1, {"other"}, false},
		{"<=", test_at_most, 1, {"other"}, false},
		{"==", test_equal, 1, {"other"}, false},
		{">", test_greater, 1, {"other"}, false},
		{">=", test_at_least, 1, {"other"}, false},
		{"boolean", test_boolean, 0, {0}, false},
		{"callable", test_callable, 0, {0}, false},
		{"defined", test_defined, 0, {0}, false},
		{"divisibleby", test_divisible, 1, {"num"}, false},
		{"eq", test_equal, 1, {"other"}, false},
		{"equalto", test_equal, 1, {"other"}, false},
		{"even", test_even, 0, {0}, false},
		{"false", test_false, 0, {0}, false},
		{"float", test_float, 0, {0}, false},
		{"ge", test_at_least, 1, {"other"}, false},
		{"greaterthan", test_greater, 1, {"other"}, false},
		{"gt", test_greater, 1, {"other"}, false},
		{"in", test_in, 1, {"seq"}, false},
		{"integer", test_integer, 0, {0}, false},
		{"iterable", test_iterable, 0, {0}, false},
		{"le", test_at_most, 1, {"other"}, false},
		{"lessthan", test_less, 1, {"other"}, false},
		{"lower", test_lower, 0, {0}, false},
		{"lt", test_less, 1, {"other"}, false},
		{"mapping", test_mapping, 0, {0}, false},
		{"ne", test_not_equal, 1, {"other"}, false},
		{"none", test_none, 0, {0}, false},
		{"number", test_number, 0, {0}, false},
		{"odd", test_odd, 0, {0}, false},
		{"sequence", test_sequence, 0, {0}, false},
		{"string", test_string, 0, {0}, false},
		{"true", test_true, 0, {0}, false},
		{"undefined", test_undefined, 0, {0}, false},
		{"upper", test_upper, 0, {0}, false},
	};
	for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
		if (text_is(name, tests[i].name))
			return &tests[i];
	return NULL;
}

/* ---- functions ---- */

static int call_raise_exception(struct render *r, struct value self, struct arguments *args,
				struct value *out)
{
	struct text message;
	(void)self, (void)out;
	if (value_to_text(r, args->bound[0], &message))
		return -1;
	int length = (int)(message.length < 900 ? message.length : 900);
	return error_usage(r->err, "%s: %.*s", r->program->label, length, message.data);
}

static int call_strftime_now(struct render *r, struct value self, struct arguments *args,
			     struct value *out)
{
	struct value format = args->bound[0];
	struct tm local;
	char text[512], zero[256];
	(void)self;
	if (format.kind != VALUE_STRING || format.text.length >= sizeof zero)
		return render_fail(r, "strftime_now takes a format of at most %zu bytes",
				   sizeof zero - 1);
	memcpy(zero, format.text.data, format.text.length);
	zero[format.text.length] = '\0';
	if (!localtime_r(&r->now, &local))
		return render_fail(r, "the time is not one that a calendar has");
	size_t length = strftime(text, sizeof text, zero, &local), mark = r->out.length;
	return render_put(r, text, length) || render_cut(r, mark, out);
}

static int call_range(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	int64_t numbers[3] = {0, 0, 1};
	(void)self;
	for (int i = 0; i < 3 && value_given(args->bound[i]); i++)
		if (!value_to_integer(args->bound[i], &numbers[i]))
			return render_fail(r, "range takes integers, not '%s'",
					   value_type(args->bound[i]));
	if (!value_given(args->bound[1])) {
		numbers[1] = numbers[0];
		numbers[0] = 0;
	}
	int64_t start = numbers[0], step = numbers[2], distance;
	if (step == 0 || step == INT64_MIN)
		return render_fail(r, "the step of range is zero");
	if (__builtin_sub_overflow(numbers[1], start, &distance) || distance == INT64_MIN)
		return render_fail(r, "range gives more than %d numbers", TEMPLATE_MAX_RANGE);
	if (step < 0) {
		distance = -distance;
		numbers[2] = -step;
	}
	int64_t count = distance <= 0 ? 0 : (distance - 1) / numbers[2] + 1;
	if (count > TEMPLATE_MAX_RANGE)
		return render_fail(r, "range gives more than %d numbers", TEMPLATE_MAX_RANGE);
	if (value_sequence(r, VALUE_RANGE, (size_t)count, out))
		return -1;
	for (int64_t i = 0; i < count; i++)
		out->sequence->values[i] = value_integer(start + i * step);
	return 0;
}

/* dict(a=1), dict(other, a=1), dict(pairs). */
static int call_dict(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct value from = args->count ? args->values[0] : value_none();
	struct sequence items = {0}, pair;
	struct value list;
	(void)self;
	if (args->count > 1)
		return render_fail(r, "dict takes one argument without a name at most");
	if (from.kind == VALUE_DICT) {
		if (dict_list(r, from.dict, 'i', VALUE_LIST, &list))
			return -1;
		items = *list.sequence;
	} else if (args->count && value_items(r, from, &items)) {
		return -1;
	}
	if (value_dict(r, items.count + args->named_count, out))
		return -1;
	for (size_t i = 0; i < items.count; i++) {
		if (value_items(r, items.values[i], &pair))
			return -1;
		if (pair.count != 2)
			return render_fail(r, "dict takes pairs of a key and a value");
		if (dict_set(r, out->dict, pair.values[0], pair.values[1]))
			return -1;
	}
	for (size_t i = 0; i < args->named_count; i++) {
		struct text name = args->named[i].name;
		if (dict_set(r, out->dict, value_string(name.data, name.length),
			     args->named[i].value))
			return -1;
	}
	return 0;
}

static int call_namespace(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	if (call_dict(r, self, args, out))
		return -1;
	out->kind = VALUE_NAMESPACE;
	return 0;
}

const struct callable *function_find(struct text name)
{
	static const struct callable functions[] = {
		{"dict", call_dict, 0, {0}, true},
		{"namespace", call_namespace, 0, {0}, true},
		{"raise_exception", call_raise_exception, 1, {"message"}, false},
		{"range", call_range, 1, {"start", "stop", "step"}, false},
		{"strftime_now", call_strftime_now, 1, {"format"}, false},
	};
	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
		if (text_is(name, functions[i].name))
			return &functions[i];
	return NULL;
}
