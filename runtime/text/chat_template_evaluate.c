/* Evaluates expressions. */
#include "runtime/text/chat_template_internal.h"

#include <math.h>
#include <string.h>

static int evaluate_list(struct render *r, const struct node *node, struct value *out)
{
	size_t count = 0, at = 0;
	for (const struct node *n = node->list; n; n = n->next)
		count++;
	if (node->kind != NODE_DICT) {
		if (value_sequence(r, node->kind == NODE_LIST ? VALUE_LIST : VALUE_TUPLE, count, out))
			return -1;
		for (const struct node *n = node->list; n; n = n->next)
			if (render_evaluate(r, n, &out->sequence->values[at++]))
				return -1;
		return 0;
	}
	if (value_dict(r, count / 2, out))
		return -1;
	for (const struct node *n = node->list; n; n = n->next->next) {
		struct value key, value;
		if (render_evaluate(r, n, &key) || render_evaluate(r, n->next, &value) ||
		    dict_set(r, out->dict, key, value))
			return -1;
	}
	return 0;
}

static int evaluate_name(struct render *r, const struct node *node, struct value *out)
{
	size_t passed = 0;
	for (const struct scope *scope = r->scope; scope; scope = scope->parent)
		for (const struct binding *b = scope->bindings; b; b = b->next, passed++)
			if (b->name == node->name) {
				*out = b->value;
				return render_work(r, passed * 16);
			}
	struct text name = {node->name, strlen(node->name)};
	const struct callable *callable = function_find(name);
	if (callable) {
		struct function *function = render_take(r, sizeof *function);
		if (!function)
			return -1;
		*function = (struct function){callable, {.kind = VALUE_ABSENT}};
		*out = (struct value){.kind = VALUE_FUNCTION, .function = function};
		return 0;
	}
	*out = (struct value){.kind = VALUE_UNDEFINED, .owner = VALUE_ABSENT, .text = name};
	return 0;
}

/* ---- attributes and items ---- */

static struct value missing(struct value object, struct text name)
{
	return (struct value){.kind = VALUE_UNDEFINED, .owner = object.kind, .text = name};
}

static int loop_attribute(struct render *r, struct loop *loop, struct text name, struct value *out)
{
	struct value self = {.kind = VALUE_LOOP};
	int64_t index = (int64_t)loop->index;
	bool back = text_is(name, "revindex") || text_is(name, "revindex0");
	*out = missing(self, name);
	if (text_is(name, "index") || text_is(name, "index0")) {
		*out = value_integer(index + (name.length == 5));
	} else if (text_is(name, "first")) {
		*out = value_bool(index == 0);
	} else if (text_is(name, "last") || text_is(name, "nextitem")) {
		if (render_loop_fill(r, loop, loop->index + 2))
			return -1;
		bool last = loop->index + 1 >= loop->count;
		if (name.length == 4)
			*out = value_bool(last);
		else if (!last)
			*out = loop->values[loop->index + 1];
	} else if (text_is(name, "length") || back) {
		if (render_loop_fill(r, loop, SIZE_MAX))
			return -1;
		int64_t count = (int64_t)loop->count;
		*out = value_integer(back ? count - index - (name.length == 9) : count);
	} else if (text_is(name, "previtem")) {
		if (index > 0)
			*out = loop->values[loop->index - 1];
	} else if (text_is(name, "depth") || text_is(name, "depth0")) {
		*out = value_integer(name.length == 5); /* of recursive loops, which are not known */
	} else if (text_is(name, "cycle") || text_is(name, "changed")) {
		return render_fail(r, "loop.%s is not known", name.length == 5 ? "cycle" : "changed");
	}
	return 0;
}

static int find_member(struct render *r, struct value object, struct text name, struct value *out)
{
	const struct value *found;
	struct value key = value_string(name.data, name.length);
	if (dict_find(r, object.dict, key, &found))
		return -1;
	*out = found ? *found : missing(object, name);
	return 0;
}

int render_attribute(struct render *r, struct value object, struct text name, struct value *out)
{
	bool refused = false;
	if (object.kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, object);
	if (object.kind == VALUE_LOOP)
		return loop_attribute(r, object.loop, name, out);
	const struct callable *callable = method_find(object.kind, name, &refused);
	if (refused)
		return render_fail(r, "the method '%.*s' of '%s' is not known", (int)name.length,
				   name.data, value_type(object));
	if (callable) {
		struct function *function = render_take(r, sizeof *function);
		if (!function)
			return -1;
		*function = (struct function){callable, object};
		*out = (struct value){.kind = VALUE_FUNCTION, .function = function};
		return 0;
	}
	if (object.kind == VALUE_DICT || object.kind == VALUE_NAMESPACE)
		return find_member(r, object, name, out);
	*out = missing(object, name);
	return 0;
}

/* An element by its number, from the end where it is negative. */
static int index_item(struct render *r, struct value object, int64_t index, struct value *out)
{
	bool string = object.kind == VALUE_STRING;
	int64_t count;
	if (value_length(r, object, &count))
		return -1;
	int64_t at = index < 0 ? index + count : index;
	if (at < 0 || at >= count) {
		struct value number;
		size_t mark = r->out.length;
		if (value_put(r, value_integer(index)) || render_cut(r, mark, &number))
			return -1;
		*out = missing(object, number.text);
		return 0;
	}
	if (string) {
		size_t width, offset = text_offset(object.text, (size_t)at);
		text_decode(object.text, offset, &width);
		*out = value_string(object.text.data + offset, width);
	} else {
		*out = object.sequence->values[at];
	}
	return 0;
}

static bool is_indexed(struct value value)
{
	return value.kind == VALUE_STRING ||
	       (value.kind >= VALUE_LIST && value.kind <= VALUE_RANGE);
}

int render_item(struct render *r, struct value object, struct value key, struct value *out)
{
	int64_t index;
	if (object.kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, object);
	if (object.kind == VALUE_DICT && key.kind != VALUE_LIST && key.kind != VALUE_DICT) {
		const struct value *found;
		if (dict_find(r, object.dict, key, &found))
			return -1;
		if (found) {
			*out = *found;
			return 0;
		}
	} else if (is_indexed(object) && value_to_integer(key, &index)) {
		return index_item(r, object, index, out);
	}
	if (key.kind == VALUE_STRING)
		return render_attribute(r, object, key.text, out);
	*out = missing(object, (struct text){"such item", 9});
	return 0;
}

/* A bound of a slice, within [low, high]. */
static int slice_bound(struct render *r, const struct node *node, int64_t count, int64_t low,
		       int64_t high, int64_t *out)
{
	struct value value;
	int64_t bound;
	if (!node)
		return 0;
	if (render_evaluate(r, node, &value))
		return -1;
	if (value.kind == VALUE_NONE)
		return 0;
	if (!value_to_integer(value, &bound))
		return render_fail(r, "a slice goes from an integer to an integer, not '%s'",
				   value_type(value));
	if (bound < 0)
		bound += count;
	*out = bound < low ? low : bound > high ? high : bound;
	return 0;
}

static int evaluate_slice(struct render *r, const struct node *node, struct value *out)
{
	struct value object, step_value = value_integer(1);
	int64_t count, step = 1;
	if (render_evaluate(r, node->a, &object) ||
	    (node->d && render_evaluate(r, node->d, &step_value)))
		return -1;
	if (object.kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, object);
	if (!is_indexed(object))
		return render_fail(r, "a value of type '%s' can't be cut into slices",
				   value_type(object));
	if (step_value.kind != VALUE_NONE && !value_to_integer(step_value, &step))
		return render_fail(r, "the step of a slice must be an integer");
	if (step == 0)
		return render_fail(r, "the step of a slice is zero");
	if (value_length(r, object, &count))
		return -1;
	if (step > count)
		step = count + 1;
	if (step < -count)
		step = -count - 1;
	int64_t start = step > 0 ? 0 : count - 1, end = step > 0 ? count : -1;
	int64_t low = step > 0 ? 0 : -1, high = step > 0 ? count : count - 1;
	if (slice_bound(r, node->b, count, low, high, &start) ||
	    slice_bound(r, node->c, count, low, high, &end))
		return -1;
	if (object.kind == VALUE_STRING && step == 1) {
		size_t from = text_offset(object.text, (size_t)start);
		size_t to = end > start ? text_offset(object.text, (size_t)end) : from;
		*out = value_string(object.text.data + from, to - from);
		return 0;
	}

	int64_t length = step > 0 ? (end - start + step - 1) / step : (start - end - step - 1) / -step;
	struct value items = object;
	struct sequence characters;
	if (object.kind == VALUE_STRING) {
		if (value_items(r, object, &characters))
			return -1;
		items.sequence = &characters;
	}
	enum value_kind kind = object.kind == VALUE_STRING ? VALUE_LIST : object.kind;
	if (value_sequence(r, kind, length > 0 ? (size_t)length : 0, out))
		return -1;
	for (size_t i = 0; i < out->sequence->count; i++)
		out->sequence->values[i] = items.sequence->values[start + (int64_t)i * step];
	if (object.kind != VALUE_STRING)
		return 0;
	size_t mark = r->out.length;
	for (size_t i = 0; i < out->sequence->count; i++)
		if (value_put(r, out->sequence->values[i]))
			return -1;
	return render_cut(r, mark, out);
}

/* ---- calls ---- */

static int evaluate_arguments(struct render *r, const struct node *list, struct arguments *args)
{
	for (const struct node *n = list; n; n = n->next)
		*(n->kind == NODE_KEYWORD ? &args->named_count : &args->count) += 1;
	args->values = render_take(r, args->count * sizeof *args->values);
	args->named = render_take(r, args->named_count * sizeof *args->named);
	if (!args->values || !args->named)
		return -1;
	size_t positional = 0, named = 0;
	for (const struct node *n = list; n; n = n->next) {
		if (n->kind == NODE_KEYWORD) {
			args->named[named].name = n->text;
			if (render_evaluate(r, n->a, &args->named[named++].value))
				return -1;
		} else if (render_evaluate(r, n, &args->values[positional++])) {
			return -1;
		}
	}
	return 0;
}

/* Marked text stays marked through much of what jinja2 does, and then escapes what it meets:
 * nothing that templates rely on, so only what ends in plain text is known here. */
static bool takes_safe(const struct callable *callable, const char *what)
{
	static const char *const names[] = {"safe", "length", "count", "default", "d", "tojson"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(callable->name, names[i]) == 0)
			return true;
	return strcmp(what, "test") == 0;
}

int callable_call(struct render *r, const struct callable *callable, const char *what,
		  struct value self, struct arguments *args, struct value *out)
{
	size_t parameters = 0;
	if (self.kind == VALUE_STRING && self.safe && !takes_safe(callable, what))
		return render_fail(r, "%s '%s' of text marked with |safe or |escape is not known",
				   what, callable->name);
	if (callable->variadic)
		return callable->call(r, self, args, out) ? -1 : 0;
	while (parameters < TEMPLATE_MAX_ARGUMENTS && callable->parameters[parameters])
		parameters++;
	if (args->count > parameters)
		return render_fail(r, "%s '%s' takes no more than %zu arguments", what, callable->name,
				   parameters);
	memset(args->bound, 0, sizeof args->bound);
	for (size_t i = 0; i < args->count; i++)
		args->bound[i] = args->values[i];
	for (size_t i = 0; i < args->named_count; i++) {
		size_t p = 0;
		while (p < parameters && !text_is(args->named[i].name, callable->parameters[p]))
			p++;
		if (p == parameters || value_given(args->bound[p]))
			return render_fail(r, "%s '%s' takes no argument '%.*s' here", what,
					   callable->name, (int)args->named[i].name.length,
					   args->named[i].name.data);
		args->bound[p] = args->named[i].value;
	}
	for (int i = 0; i < callable->required; i++)
		if (!value_given(args->bound[i]))
			return render_fail(r, "%s '%s' lacks its argument '%s'", what, callable->name,
					   callable->parameters[i]);
	return callable->call(r, self, args, out) ? -1 : 0;
}

int render_call(struct render *r, struct value callee, struct arguments *args, struct value *out)
{
	if (callee.kind == VALUE_MACRO)
		return render_macro(r, callee.macro, args, out);
	if (callee.kind == VALUE_FUNCTION) {
		bool method = value_given(callee.function->self);
		return callable_call(r, callee.function->callable, method ? "method" : "function",
				     callee.function->self, args, out);
	}
	if (callee.kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, callee);
	return render_fail(r, "a value of type '%s' can't be called", value_type(callee));
}

static int evaluate_call(struct render *r, const struct node *node, struct value *out)
{
	struct arguments args = {0};
	struct value self;
	if (render_evaluate(r, node->a, &self) || evaluate_arguments(r, node->list, &args))
		return -1;
	r->line = node->line;
	if (node->kind == NODE_CALL)
		return render_call(r, self, &args, out);
	return callable_call(r, node->callable, node->kind == NODE_FILTER ? "filter" : "test", self,
			     &args, out);
}

/* ---- operators ---- */

static int evaluate_compare(struct render *r, const struct node *node, struct value *out)
{
	struct value left, right;
	bool holds = true;
	if (render_evaluate(r, node->a, &left))
		return -1;
	for (const struct node *n = node->list; n && holds; n = n->next) {
		if (render_evaluate(r, n->a, &right) ||
		    render_compare(r, n->operator, left, right, &holds))
			return -1;
		left = right;
	}
	*out = value_bool(holds);
	return 0;
}

static int evaluate_condition(struct render *r, const struct node *node, struct value *out)
{
	if (render_evaluate(r, node->a, out))
		return -1;
	if (value_truth(*out))
		return render_evaluate(r, node->b, out);
	if (node->c)
		return render_evaluate(r, node->c, out);
	*out = (struct value){.kind = VALUE_UNDEFINED, .text = {"an if without else", 18}};
	return 0;
}

static int evaluate_unary(struct render *r, const struct node *node, struct value *out)
{
	if (render_evaluate(r, node->a, out))
		return -1;
	if (node->kind == NODE_NOT)
		*out = value_bool(!value_truth(*out));
	return node->kind == NODE_NOT ? 0 : render_sign(r, node->kind == NODE_NEGATE, out);
}

static int evaluate(struct render *r, const struct node *node, struct value *out)
{
	struct value left, right;
	switch (node->kind) {
	case NODE_LIST:
	case NODE_TUPLE:
	case NODE_DICT:
		return evaluate_list(r, node, out);
	case NODE_ATTRIBUTE:
		return render_evaluate(r, node->a, &left) ? -1
							  : render_attribute(r, left, node->text, out);
	case NODE_ITEM:
		return render_evaluate(r, node->a, &left) || render_evaluate(r, node->b, &right)
			       ? -1
			       : render_item(r, left, right, out);
	case NODE_SLICE:
		return evaluate_slice(r, node, out);
	case NODE_CALL:
	case NODE_FILTER:
	case NODE_TEST:
		return evaluate_call(r, node, out);
	case NODE_AND:
	case NODE_OR:
		if (render_evaluate(r, node->a, out))
			return -1;
		return value_truth(*out) == (node->kind == NODE_AND) ? render_evaluate(r, node->b, out)
								     : 0;
	case NODE_BINARY:
		return render_evaluate(r, node->a, &left) || render_evaluate(r, node->b, &right)
			       ? -1
			       : render_binary(r, node->operator, left, right, out);
	case NODE_COMPARE:
		return evaluate_compare(r, node, out);
	case NODE_CONDITION:
		return evaluate_condition(r, node, out);
	default:
		return evaluate_unary(r, node, out);
	}
}

int render_evaluate(struct render *r, const struct node *node, struct value *out)
{
	r->line = node->line;
	if (node->kind == NODE_CONSTANT) {
		*out = node->constant;
		return 0;
	}
	if (node->kind == NODE_CAPTURED) {
		*out = r->captured;
		return 0;
	}
	if (render_enter(r))
		return -1;
	int result = node->kind == NODE_NAME ? evaluate_name(r, node, out) : evaluate(r, node, out);
	render_leave(r);
	return result;
}
