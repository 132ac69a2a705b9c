/* Memory, and what can be asked of any value: truth, equality, order, length, items, text. */
#include "runtime/text/chat_template_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_internal.h"

#include <utf8proc.h>

struct arena_block {
	struct arena_block *next;
	size_t used, size;
	max_align_t data[];
};

void *arena_take(struct arena *arena, size_t bytes)
{
	struct arena_block *block = arena->blocks;
	if (bytes > TEMPLATE_MAX_MEMORY)
		return NULL;
	bytes = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
	if (!block || bytes > block->size - block->used) {
		size_t size = bytes > 65536 ? bytes : 65536;
		if (arena->limit && size > arena->limit - arena->used)
			return NULL;
		block = calloc(1, sizeof *block + size);
		if (!block)
			return NULL;
		block->size = size;
		block->next = arena->blocks;
		arena->blocks = block;
		arena->used += size;
	}
	void *memory = (char *)block->data + block->used;
	block->used += bytes;
	return memory;
}

void arena_free(struct arena *arena)
{
	while (arena->blocks) {
		struct arena_block *next = arena->blocks->next;
		free(arena->blocks);
		arena->blocks = next;
	}
}

bool text_equal(struct text a, struct text b)
{
	return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

bool text_is(struct text text, const char *word)
{
	return text_equal(text, (struct text){word, strlen(word)});
}

const char *value_type(struct value value)
{
	static const char *const names[] = {
		"", "Undefined", "NoneType", "bool", "int", "float", "str", "list", "tuple", "range",
		"dict view", "generator", "dict", "Namespace", "LoopContext", "Macro", "function",
	};
	return names[value.kind];
}

bool value_truth(struct value value)
{
	switch ((enum value_kind)value.kind) {
	case VALUE_ABSENT:
	case VALUE_UNDEFINED:
	case VALUE_NONE:
		return false;
	case VALUE_BOOL:
		return value.truth;
	case VALUE_INTEGER:
		return value.integer != 0;
	case VALUE_FLOAT:
		return value.real != 0;
	case VALUE_STRING:
		return value.text.length != 0;
	case VALUE_LIST:
	case VALUE_TUPLE:
	case VALUE_RANGE:
	case VALUE_VIEW:
		return value.sequence->count != 0;
	case VALUE_DICT:
		return value.dict->count != 0;
	default:
		return true;
	}
}

bool value_to_integer(struct value value, int64_t *out)
{
	if (value.kind != VALUE_BOOL && value.kind != VALUE_INTEGER)
		return false;
	*out = value.kind == VALUE_BOOL ? value.truth : value.integer;
	return true;
}

bool value_to_float(struct value value, double *out)
{
	int64_t integer;
	if (value.kind == VALUE_FLOAT)
		*out = value.real;
	else if (value_to_integer(value, &integer))
		*out = (double)integer;
	else
		return false;
	return true;
}

static int order_numbers(struct value a, struct value b)
{
	int64_t i, j;
	double x = 0, y = 0;
	if (value_to_integer(a, &i) && value_to_integer(b, &j))
		return (i > j) - (i < j);
	value_to_float(a, &x);
	value_to_float(b, &y);
	return isnan(x) || isnan(y) ? 2 : (x > y) - (x < y);
}

static bool is_number(struct value value)
{
	return value.kind >= VALUE_BOOL && value.kind <= VALUE_FLOAT;
}

static int equal_sequences(struct render *r, const struct sequence *a, const struct sequence *b,
			   bool *out)
{
	*out = a->count == b->count;
	for (size_t i = 0; *out && i < a->count; i++)
		if (value_equal(r, a->values[i], b->values[i], out))
			return -1;
	return 0;
}

static int equal_dicts(struct render *r, const struct dict *a, const struct dict *b, bool *out)
{
	*out = a->count == b->count;
	for (size_t i = 0; *out && i < a->count; i++) {
		const struct value *other;
		if (dict_find(r, b, a->pairs[i].key, &other))
			return -1;
		if (!other)
			*out = false;
		else if (value_equal(r, a->pairs[i].value, *other, out))
			return -1;
	}
	return 0;
}

int value_equal(struct render *r, struct value a, struct value b, bool *out)
{
	int result = 0;
	*out = false;
	if (is_number(a) && is_number(b)) {
		*out = order_numbers(a, b) == 0;
	} else if (a.kind != b.kind) {
		return 0;
	} else if (a.kind == VALUE_STRING) {
		if (a.text.length == b.text.length && render_work(r, a.text.length))
			return -1;
		*out = text_equal(a.text, b.text);
	} else if (a.kind <= VALUE_NONE) {
		*out = true;
	} else if (a.kind == VALUE_LIST || a.kind == VALUE_TUPLE || a.kind == VALUE_RANGE ||
		   a.kind == VALUE_DICT) {
		if (render_enter(r))
			return -1;
		result = a.kind == VALUE_DICT ? equal_dicts(r, a.dict, b.dict, out)
					      : equal_sequences(r, a.sequence, b.sequence, out);
		render_leave(r);
	} else {
		*out = a.dict == b.dict; /* the same thing, of whatever kind */
	}
	return result;
}

static int order_sequences(struct render *r, const struct sequence *a, const struct sequence *b,
			   int *out)
{
	for (size_t i = 0; i < a->count && i < b->count; i++) {
		bool equal;
		if (value_equal(r, a->values[i], b->values[i], &equal))
			return -1;
		if (!equal)
			return value_order(r, a->values[i], b->values[i], out);
	}
	*out = (a->count > b->count) - (a->count < b->count);
	return 0;
}

int value_order(struct render *r, struct value a, struct value b, int *out)
{
	if (a.kind == VALUE_UNDEFINED || b.kind == VALUE_UNDEFINED)
		return render_fail_undefined(r, a.kind == VALUE_UNDEFINED ? a : b);
	if (is_number(a) && is_number(b)) {
		*out = order_numbers(a, b);
		return 0;
	}
	if (a.kind == VALUE_STRING && b.kind == VALUE_STRING) {
		/* UTF-8 sorts as its characters do. */
		size_t length = a.text.length < b.text.length ? a.text.length : b.text.length;
		int order = length ? memcmp(a.text.data, b.text.data, length) : 0;
		if (order == 0)
			order = (a.text.length > b.text.length) - (a.text.length < b.text.length);
		*out = (order > 0) - (order < 0);
		return render_work(r, length);
	}
	if (a.kind == b.kind && (a.kind == VALUE_LIST || a.kind == VALUE_TUPLE)) {
		if (render_enter(r) || order_sequences(r, a.sequence, b.sequence, out))
			return -1;
		render_leave(r);
		return 0;
	}
	return render_fail(r, "'%s' and '%s' have no order", value_type(a), value_type(b));
}

int value_contains(struct render *r, struct value container, struct value item, bool *out)
{
	struct sequence items;
	*out = false;
	if (container.kind == VALUE_STRING) {
		if (item.kind != VALUE_STRING)
			return render_fail(r, "only a string can be in a string, not '%s'",
					   value_type(item));
		*out = text_find(container.text, item.text, 0) != SIZE_MAX;
		return render_work(r, container.text.length);
	}
	if (container.kind == VALUE_DICT) {
		const struct value *found;
		if (dict_find(r, container.dict, item, &found))
			return -1;
		*out = found != NULL;
		return 0;
	}
	if (value_items(r, container, &items))
		return -1;
	for (size_t i = 0; i < items.count && !*out; i++)
		if (render_work(r, 16) || value_equal(r, items.values[i], item, out))
			return -1;
	return 0;
}

int value_length(struct render *r, struct value value, int64_t *out)
{
	if (value.kind == VALUE_UNDEFINED)
		*out = 0;
	else if (value.kind == VALUE_STRING)
		*out = (int64_t)text_characters(value.text);
	else if (value_is_sequence(value) && value.kind != VALUE_ITERATOR)
		*out = (int64_t)value.sequence->count;
	else if (value.kind == VALUE_DICT)
		*out = (int64_t)value.dict->count;
	else
		return render_fail(r, "a value of type '%s' has no length", value_type(value));
	return value.kind == VALUE_STRING ? render_work(r, value.text.length) : 0;
}

int value_sequence(struct render *r, enum value_kind kind, size_t count, struct value *out)
{
	struct sequence *sequence = render_take(r, sizeof *sequence);
	if (!sequence)
		return -1;
	if (count > TEMPLATE_MAX_MEMORY / sizeof *sequence->values)
		return render_fail(r, "a list has too many elements");
	sequence->count = count;
	sequence->values = render_take(r, count * sizeof *sequence->values);
	*out = (struct value){.kind = (unsigned char)kind, .sequence = sequence};
	return sequence->values && !render_work(r, count * sizeof *sequence->values) ? 0 : -1;
}

static int list_characters(struct render *r, struct text text, struct value *out)
{
	if (value_sequence(r, VALUE_LIST, text_characters(text), out))
		return -1;
	for (size_t i = 0, at = 0; at < text.length; i++) {
		size_t width;
		text_decode(text, at, &width);
		out->sequence->values[i] = value_string(text.data + at, width);
		at += width;
	}
	return 0;
}

int value_items(struct render *r, struct value value, struct sequence *out)
{
	struct value list = {0};
	*out = (struct sequence){0};
	if (value.kind == VALUE_UNDEFINED)
		return 0;
	if (value_is_sequence(value)) {
		*out = *value.sequence;
		if (value.kind == VALUE_ITERATOR)
			value.sequence->count = 0;
		return 0;
	}
	if (value.kind == VALUE_STRING) {
		if (list_characters(r, value.text, &list))
			return -1;
	} else if (value.kind == VALUE_DICT) {
		if (dict_list(r, value.dict, 'k', VALUE_LIST, &list))
			return -1;
	} else {
		return render_fail(r, "a value of type '%s' can't be gone through", value_type(value));
	}
	*out = *list.sequence;
	return 0;
}

/* ---- dicts ---- */

int value_dict(struct render *r, size_t capacity, struct value *out)
{
	struct dict *dict = render_take(r, sizeof *dict);
	if (!dict)
		return -1;
	dict->capacity = capacity;
	dict->pairs = render_take(r, capacity * sizeof *dict->pairs);
	*out = (struct value){.kind = VALUE_DICT, .dict = dict};
	return dict->pairs ? 0 : -1;
}

int dict_find(struct render *r, const struct dict *dict, struct value key, const struct value **out)
{
	*out = NULL;
	if (key.kind == VALUE_LIST || key.kind == VALUE_DICT)
		return render_fail(r, "a value of type '%s' can't be a key", value_type(key));
	for (size_t i = 0; i < dict->count && !*out; i++) {
		const struct pair *pair = &dict->pairs[i];
		bool equal;
		if (key.kind == VALUE_STRING && pair->key.kind == VALUE_STRING)
			equal = text_equal(key.text, pair->key.text);
		else if (value_equal(r, pair->key, key, &equal))
			return -1;
		if (equal)
			*out = &pair->value;
	}
	return render_work(r, dict->count * (16 + (key.kind == VALUE_STRING ? key.text.length : 0)));
}

int dict_set(struct render *r, struct dict *dict, struct value key, struct value value)
{
	const struct value *found;
	if (dict_find(r, dict, key, &found))
		return -1;
	if (found)
		dict->pairs[(const struct pair *)((const char *)found -
						  offsetof(struct pair, value)) -
			    dict->pairs]
			.value = value;
	else if (dict->count < dict->capacity)
		dict->pairs[dict->count++] = (struct pair){key, value};
	else
		return render_fail(r, "a dict has too many members");
	return 0;
}

int dict_list(struct render *r, const struct dict *dict, char part, enum value_kind kind,
	      struct value *out)
{
	if (value_sequence(r, kind, dict->count, out))
		return -1;
	for (size_t i = 0; i < dict->count; i++) {
		const struct pair *pair = &dict->pairs[i];
		struct value *item = &out->sequence->values[i];
		if (part == 'i') {
			if (value_sequence(r, VALUE_TUPLE, 2, item))
				return -1;
			item->sequence->values[0] = pair->key;
			item->sequence->values[1] = pair->value;
		} else {
			*item = part == 'k' ? pair->key : pair->value;
		}
	}
	return 0;
}

/* ---- printing ---- */

/* A string as Python shows it: in quotes, what can't be printed escaped. */
static int put_quoted(struct render *r, struct text text)
{
	bool single = memchr(text.data, '\'', text.length) != NULL;
	char quote = single && !memchr(text.data, '"', text.length) ? '"' : '\'';
	size_t width, from = 0;
	if (render_put(r, &quote, 1))
		return -1;
	for (size_t at = 0; at < text.length; at += width) {
		int32_t code = text_decode(text, at, &width);
		utf8proc_category_t category = utf8proc_category(code);
		const char *letter = code == '\n' ? "\\n" : code == '\r' ? "\\r" : code == '\t' ? "\\t"
				     : code == '\\' ? "\\\\" : code == quote ? "\\'" : NULL;
		char escape[12] = "";
		/* Not assigned, controls, formats, surrogates, private use, separators. */
		bool hidden = category == UTF8PROC_CATEGORY_CN || category >= UTF8PROC_CATEGORY_ZS;
		if (letter)
			snprintf(escape, sizeof escape, "%s", letter);
		else if (code != ' ' && hidden)
			snprintf(escape, sizeof escape,
				 code < 0x100 ? "\\x%02x" : code < 0x10000 ? "\\u%04x" : "\\U%08x",
				 (unsigned)code);
		if (escape[0]) {
			if (render_put(r, text.data + from, at - from) || render_put_text(r, escape))
				return -1;
			from = at + width;
		}
	}
	return render_put(r, text.data + from, text.length - from) || render_put(r, &quote, 1) ? -1 : 0;
}

static int put_sequence(struct render *r, struct value value)
{
	const struct sequence *sequence = value.sequence;
	bool tuple = value.kind == VALUE_TUPLE;
	if (render_put_text(r, tuple ? "(" : "["))
		return -1;
	for (size_t i = 0; i < sequence->count; i++)
		if ((i && render_put_text(r, ", ")) || value_put_repr(r, sequence->values[i]))
			return -1;
	return render_put_text(r, !tuple ? "]" : sequence->count == 1 ? ",)" : ")");
}

static int put_dict(struct render *r, const struct dict *dict)
{
	if (render_put_text(r, "{"))
		return -1;
	for (size_t i = 0; i < dict->count; i++)
		if ((i && render_put_text(r, ", ")) || value_put_repr(r, dict->pairs[i].key) ||
		    render_put_text(r, ": ") || value_put_repr(r, dict->pairs[i].value))
			return -1;
	return render_put_text(r, "}");
}

int value_put_repr(struct render *r, struct value value)
{
	int result;
	char number[40];
	if (render_enter(r))
		return -1;
	switch ((enum value_kind)value.kind) {
	case VALUE_UNDEFINED:
		result = render_put_text(r, "Undefined");
		break;
	case VALUE_NONE:
		result = render_put_text(r, "None");
		break;
	case VALUE_BOOL:
		result = render_put_text(r, value.truth ? "True" : "False");
		break;
	case VALUE_INTEGER:
		snprintf(number, sizeof number, "%lld", (long long)value.integer);
		result = render_put_text(r, number);
		break;
	case VALUE_FLOAT:
		float_print(value.real, number);
		result = render_put_text(r, number);
		break;
	case VALUE_STRING:
		result = value.safe ? render_fail(r, "showing marked text in a list is not known")
				    : put_quoted(r, value.text);
		break;
	case VALUE_LIST:
	case VALUE_TUPLE:
		result = put_sequence(r, value);
		break;
	case VALUE_DICT:
		result = put_dict(r, value.dict);
		break;
	default:
		result = render_fail(r, "a value of type '%s' can't be printed", value_type(value));
	}
	render_leave(r);
	return result;
}

int value_put(struct render *r, struct value value)
{
	if (value.kind == VALUE_UNDEFINED)
		return 0;
	if (value.kind == VALUE_STRING)
		return render_put(r, value.text.data, value.text.length);
	return value_put_repr(r, value);
}

int value_to_text(struct render *r, struct value value, struct text *out)
{
	struct value string = value;
	size_t mark = r->out.length;
	if (value.kind != VALUE_STRING && (value_put(r, value) || render_cut(r, mark, &string)))
		return -1;
	*out = string.text;
	return 0;
}
