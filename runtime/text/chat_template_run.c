/* Runs statements: the output, scopes, loops, macros, and the bounds on all of them. */
#include "runtime/text/chat_template_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int render_fail(struct render *r, const char *format, ...)
{
	char message[512];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	return error_run(r->err, "%s, line %d: %s", r->program->label, r->line, message);
}

int render_fail_undefined(struct render *r, struct value value)
{
	int length = (int)(value.text.length < 200 ? value.text.length : 200);
	struct value owner = {.kind = value.owner};
	if (value.owner == VALUE_ABSENT)
		return render_fail(r, "'%.*s' is undefined", length, value.text.data);
	return render_fail(r, "a value of type '%s' has no '%.*s'", value_type(owner), length,
			   value.text.data);
}

void *render_take(struct render *r, size_t bytes)
{
	void *memory = arena_take(&r->arena, bytes);
	if (!memory)
		render_fail(r, "the template takes too much memory");
	return memory;
}

int render_work(struct render *r, size_t bytes)
{
	r->steps += 1 + (int64_t)(bytes / 1024);
	if (r->steps > TEMPLATE_MAX_STEPS)
		return render_fail(r, "the template takes too many steps (over %d)",
				   TEMPLATE_MAX_STEPS);
	return 0;
}

int render_enter(struct render *r)
{
	if (++r->depth > TEMPLATE_MAX_DEPTH)
		return render_fail(r, "nesting or recursion goes too deep (over %d)",
				   TEMPLATE_MAX_DEPTH);
	return render_work(r, 0);
}

void render_leave(struct render *r)
{
	r->depth--;
}

int render_put(struct render *r, const char *data, size_t length)
{
	if (length == 0)
		return 0;
	if (length > TEMPLATE_MAX_OUTPUT - r->out.length)
		return render_fail(r, "the text grows beyond %zu MiB", TEMPLATE_MAX_OUTPUT >> 20);
	if (r->out.length + length >= r->out.capacity) {
		size_t capacity = 2 * (r->out.length + length) + 1024;
		char *larger = realloc(r->out.data, capacity);
		if (!larger)
			return error_memory(r->err, "the text of a chat");
		r->out.data = larger;
		r->out.capacity = capacity;
	}
	memcpy(r->out.data + r->out.length, data, length);
	r->out.length += length;
	return length < 1024 ? 0 : render_work(r, length);
}

int render_put_text(struct render *r, const char *word)
{
	return render_put(r, word, strlen(word));
}

int render_cut(struct render *r, size_t mark, struct value *out)
{
	size_t length = r->out.length - mark;
	char *copy = render_take(r, length);
	if (!copy)
		return -1;
	if (length)
		memcpy(copy, r->out.data + mark, length);
	r->out.length = mark;
	*out = value_string(copy, length);
	return 0;
}

/* ---- names ---- */

struct scope *render_scope(struct render *r, struct scope *parent)
{
	struct scope *scope = render_take(r, sizeof *scope);
	if (scope)
		scope->parent = parent;
	return scope;
}

int render_bind(struct render *r, struct scope *scope, const char *name, struct value value)
{
	struct binding *binding = scope->bindings;
	while (binding && binding->name != name)
		binding = binding->next;
	if (!binding) {
		binding = render_take(r, sizeof *binding);
		if (!binding)
			return -1;
		*binding = (struct binding){scope->bindings, name, value};
		scope->bindings = binding;
	}
	binding->value = value;
	return 0;
}

static int assign_attribute(struct render *r, const struct node *target, struct value value)
{
	struct value object, key = value_string(target->text.data, target->text.length);
	if (render_evaluate(r, target->a, &object))
		return -1;
	if (object.kind != VALUE_NAMESPACE)
		return render_fail(r, "'%s' is no namespace: its attributes can't be set",
				   target->a->name);
	struct dict *dict = object.dict;
	if (dict->count == dict->capacity) {
		size_t capacity = 2 * dict->capacity + 8;
		struct pair *pairs = render_take(r, capacity * sizeof *pairs);
		if (!pairs)
			return -1;
		if (dict->count)
			memcpy(pairs, dict->pairs, dict->count * sizeof *pairs);
		dict->pairs = pairs;
		dict->capacity = capacity;
	}
	return dict_set(r, dict, key, value);
}

int render_assign(struct render *r, const struct node *target, struct value value)
{
	struct sequence items;
	if (target->kind == NODE_NAME)
		return render_bind(r, r->scope, target->name, value);
	if (target->kind == NODE_ATTRIBUTE)
		return assign_attribute(r, target, value);
	if (value_items(r, value, &items))
		return -1;
	const struct node *name = target->list;
	size_t at = 0;
	for (; name && at < items.count; name = name->next, at++)
		if (render_assign(r, name, items.values[at]))
			return -1;
	return name || at < items.count
		       ? render_fail(r, "%zu values can't be unpacked into the names here", items.count)
		       : 0;
}

/* ---- loops ---- */

int render_loop_fill(struct render *r, struct loop *loop, size_t count)
{
	if (!loop->node->c) {
		loop->count = loop->source_count;
		return 0;
	}
	struct scope *scope = r->scope;
	while (loop->count < count && loop->source_at < loop->source_count) {
		struct value item = loop->source[loop->source_at++], kept;
		r->scope = render_scope(r, loop->outer);
		if (!r->scope || render_assign(r, loop->node->a, item) ||
		    render_evaluate(r, loop->node->c, &kept))
			return -1;
		if (value_truth(kept))
			loop->values[loop->count++] = item;
	}
	r->scope = scope;
	return 0;
}

static int run_for(struct render *r, const struct node *node)
{
	struct scope *outer = r->scope;
	struct sequence items;
	struct value iterable;
	bool completed = false; /* jinja2 takes `else` where no iteration came to its end */
	if (render_evaluate(r, node->b, &iterable) || value_items(r, iterable, &items))
		return -1;
	struct loop *loop = render_take(r, sizeof *loop);
	if (!loop)
		return -1;
	*loop = (struct loop){.source = items.values, .source_count = items.count,
			      .values = items.values, .node = node, .outer = outer};
	if (node->c && !(loop->values = render_take(r, items.count * sizeof *loop->values)))
		return -1;

	for (;; loop->index++) {
		if (render_loop_fill(r, loop, loop->index + 1))
			return -1;
		if (loop->index >= loop->count)
			break;
		r->scope = render_scope(r, outer);
		if (!r->scope || render_work(r, 0) ||
		    render_bind(r, r->scope, node->name,
				(struct value){.kind = VALUE_LOOP, .loop = loop}) ||
		    render_assign(r, node->a, loop->values[loop->index]) ||
		    render_body(r, node->body))
			return -1;
		completed |= r->flow == FLOW_ON;
		bool broken = r->flow == FLOW_BREAK;
		r->flow = FLOW_ON;
		if (broken)
			break;
	}
	int result = 0;
	if (!completed && node->otherwise) {
		r->scope = render_scope(r, outer);
		result = r->scope ? render_body(r, node->otherwise) : -1;
	}
	r->scope = outer;
	return result;
}

/* ---- blocks ---- */

/* The body's text as a value, its names gone. */
static int capture(struct render *r, const struct node *body, struct scope *scope, struct value *out)
{
	struct scope *outer = r->scope;
	size_t mark = r->out.length;
	r->scope = scope;
	if (!scope || render_body(r, body) || render_cut(r, mark, out))
		return -1;
	r->scope = outer;
	return 0;
}

int render_macro(struct render *r, const struct macro *macro, struct arguments *args,
		 struct value *out)
{
	const struct node *node = macro->node;
	struct scope *scope = render_scope(r, macro->scope), *outer = r->scope;
	size_t position = 0, used = 0;
	if (!scope)
		return -1;
	r->scope = scope; /* defaults may name the parameters before them */
	for (const struct node *p = node->list; p; p = p->next, position++) {
		struct value value = {.kind = VALUE_UNDEFINED, .text = {p->name, strlen(p->name)}};
		size_t named = 0;
		while (named < args->named_count && !text_is(args->named[named].name, p->name))
			named++;
		if (position < args->count)
			value = args->values[position];
		else if (named < args->named_count && ++used)
			value = args->named[named].value;
		else if (p->a && render_evaluate(r, p->a, &value))
			return -1;
		if (render_bind(r, scope, p->name, value))
			return -1;
	}
	if (args->count > position || used < args->named_count)
		return render_fail(r, "macro '%s' is called with arguments that it does not have",
				   node->name);
	r->scope = outer;
	return capture(r, node->body, scope, out);
}

static int run_scope(struct render *r, const struct node *node)
{
	struct scope *outer = r->scope, *scope = render_scope(r, outer);
	if (!scope)
		return -1;
	for (const struct node *set = node->list; set; set = set->next) {
		struct value value;
		if (render_evaluate(r, set->b, &value) ||
		    render_bind(r, scope, set->a->name, value))
			return -1;
	}
	r->scope = scope;
	int result = render_body(r, node->body);
	r->scope = outer;
	return result;
}

static int run_if(struct render *r, const struct node *node)
{
	for (;; node = node->b) {
		struct value test;
		if (render_evaluate(r, node->a, &test))
			return -1;
		if (value_truth(test))
			return render_body(r, node->body);
		if (!node->b)
			return render_body(r, node->otherwise);
	}
}

/* {% set %} and {% filter %} around a body: the body's text, through the filters. */
static int run_captured(struct render *r, const struct node *node, struct value *value)
{
	struct value before = r->captured, text;
	if (capture(r, node->body, render_scope(r, r->scope), &text))
		return -1;
	r->captured = text;
	if (render_evaluate(r, node->b, value))
		return -1;
	r->captured = before;
	return 0;
}

static int run_statement(struct render *r, const struct node *node)
{
	struct value value;
	r->line = node->line;
	switch (node->kind) {
	case NODE_DATA:
		return render_put(r, node->text.data, node->text.length);
	case NODE_PRINT:
		return render_evaluate(r, node->a, &value) || value_put(r, value) ? -1 : 0;
	case NODE_IF:
		return run_if(r, node);
	case NODE_FOR:
		return run_for(r, node);
	case NODE_SET:
		return render_evaluate(r, node->b, &value) || render_assign(r, node->a, value) ? -1 : 0;
	case NODE_SET_BLOCK:
		return run_captured(r, node, &value) || render_assign(r, node->a, value) ? -1 : 0;
	case NODE_FILTER_BLOCK:
		return run_captured(r, node, &value) || value_put(r, value) ? -1 : 0;
	case NODE_SCOPE:
		return run_scope(r, node);
	case NODE_MACRO: {
		struct macro *macro = render_take(r, sizeof *macro);
		if (!macro)
			return -1;
		*macro = (struct macro){node, r->scope};
		return render_bind(r, r->scope, node->name,
				   (struct value){.kind = VALUE_MACRO, .macro = macro});
	}
	case NODE_BREAK:
		r->flow = FLOW_BREAK;
		return 0;
	default:
		r->flow = FLOW_CONTINUE;
		return 0;
	}
}

int render_body(struct render *r, const struct node *statements)
{
	if (render_enter(r))
		return -1;
	for (; statements && r->flow == FLOW_ON; statements = statements->next)
		if (run_statement(r, statements))
			return -1;
	render_leave(r);
	return 0;
}
