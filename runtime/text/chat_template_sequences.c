/* Filters of lists and dicts. */
#include "runtime/text/chat_template_internal.h"

#include <string.h>

/* item.a.b for the attribute "a.b"; numbers among the parts are indices. */
static int get_attribute(struct render *r, struct value item, struct value attribute,
			 struct value fallback, struct value *out)
{
	struct text rest = attribute.text, part;
	*out = item;
	if (attribute.kind == VALUE_INTEGER)
		return render_item(r, item, attribute, out);
	if (attribute.kind != VALUE_STRING)
		return render_fail(r, "an attribute is named by text, not '%s'", value_type(attribute));
	for (bool more = true; more;) {
		size_t dot = text_find(rest, (struct text){".", 1}, 0);
		more = dot != SIZE_MAX;
		part = (struct text){rest.data, more ? dot : rest.length};
		struct value key = value_integer(0);
		for (size_t i = 0; i < part.length && key.kind == VALUE_INTEGER; i++) {
			if (part.data[i] >= '0' && part.data[i] <= '9' && i < 9)
				key.integer = key.integer * 10 + (part.data[i] - '0');
			else
				key = value_string(part.data, part.length);
		}
		if (render_item(r, *out, key, out))
			return -1;
		if (out->kind == VALUE_UNDEFINED && fallback.kind > VALUE_NONE)
			*out = fallback;
		if (more)
			rest = (struct text){rest.data + dot + 1, rest.length - dot - 1};
	}
	return 0;
}

static int filter_list(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct sequence items;
	(void)args;
	if (value_items(r, self, &items) || value_sequence(r, VALUE_LIST, 0, out))
		return -1;
	*out->sequence = items;
	return 0;
}

static int filter_join(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct value attribute = args->bound[1];
	struct sequence items;
	if (value_items(r, self, &items))
		return -1;
	size_t mark = r->out.length;
	for (size_t i = 0; i < items.count; i++) {
		struct value item = items.values[i];
		if (i && value_given(args->bound[0]) && value_put(r, args->bound[0]))
			return -1;
		if (attribute.kind > VALUE_NONE &&
		    get_attribute(r, item, attribute, value_none(), &item))
			return -1;
		if (value_put(r, item))
			return -1;
	}
	return render_cut(r, mark, out);
}

static int pick(struct render *r, struct value self, bool last, struct value *out)
{
	struct sequence items;
	if (last && self.kind == VALUE_ITERATOR)
		return render_fail(r, "filter 'last' takes a list: put |list before it");
	if (value_items(r, self, &items))
		return -1;
	if (items.count)
		*out = items.values[last ? items.count - 1 : 0];
	else
		*out = (struct value){.kind = VALUE_UNDEFINED, .text = {"an item of an empty list", 24}};
	if (self.kind == VALUE_ITERATOR && items.count) { /* the others stay in it */
		self.sequence->values = items.values + 1;
		self.sequence->count = items.count - 1;
	}
	return 0;
}

static int filter_first(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return pick(r, self, false, out);
}

static int filter_last(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	return pick(r, self, true, out);
}

static int filter_reverse(struct render *r, struct value self, struct arguments *args,
			  struct value *out)
{
	struct sequence items;
	size_t mark = r->out.length;
	(void)args;
	if (value_items(r, self, &items) || value_sequence(r, VALUE_LIST, items.count, out))
		return -1;
	for (size_t i = 0; i < items.count; i++)
		out->sequence->values[i] = items.values[items.count - 1 - i];
	if (self.kind != VALUE_ITERATOR)
		out->kind = VALUE_ITERATOR;
	if (self.kind != VALUE_STRING)
		return 0;
	for (size_t i = 0; i < items.count; i++)
		if (value_put(r, items.values[items.count - 1 - i]))
			return -1;
	return render_cut(r, mark, out);
}

static int filter_items(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	(void)args;
	if (self.kind == VALUE_UNDEFINED)
		return value_sequence(r, VALUE_ITERATOR, 0, out);
	if (self.kind != VALUE_DICT)
		return render_fail(r, "filter 'items' takes a dict, not '%s'", value_type(self));
	return dict_list(r, self.dict, 'i', VALUE_ITERATOR, out);
}

/* ---- by a function told by name ---- */

/* The arguments that are left for the function itself. */
static struct arguments rest_of(const struct arguments *args, size_t used)
{
	struct arguments rest = *args;
	rest.values += used;
	rest.count -= used;
	return rest;
}

static int map_attribute(struct render *r, struct sequence items, struct arguments *args,
			 struct value *out)
{
	struct value attribute = value_none(), fallback = value_none();
	for (size_t i = 0; i < args->named_count; i++) {
		if (text_is(args->named[i].name, "attribute"))
			attribute = args->named[i].value;
		else if (text_is(args->named[i].name, "default"))
			fallback = args->named[i].value;
		else
			return render_fail(r, "filter 'map' takes no argument '%.*s' here",
					   (int)args->named[i].name.length, args->named[i].name.data);
	}
	for (size_t i = 0; i < items.count; i++)
		if (get_attribute(r, items.values[i], attribute, fallback, &out->sequence->values[i]))
			return -1;
	return 0;
}

static int filter_map(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct sequence items = {0};
	if ((value_truth(self) && value_items(r, self, &items)) ||
	    value_sequence(r, VALUE_ITERATOR, items.count, out))
		return -1;
	if (args->count == 0 && args->named_count)
		return map_attribute(r, items, args, out);
	struct value name = args->count ? args->values[0] : value_none();
	if (name.kind != VALUE_STRING)
		return render_fail(r, "filter 'map' takes the name of a filter");
	const struct callable *filter = filter_find(name.text);
	if (!filter)
		return render_fail(r, "unknown filter '%.*s'", (int)name.text.length, name.text.data);
	for (size_t i = 0; i < items.count; i++) {
		struct arguments rest = rest_of(args, 1);
		if (render_enter(r) || callable_call(r, filter, "filter", items.values[i], &rest,
						     &out->sequence->values[i]))
			return -1;
		render_leave(r);
	}
	return 0;
}

/* select, reject, and of an attribute: keeps the items for which a test gives `wanted`. */
static int choose(struct render *r, struct value self, struct arguments *args, bool attribute,
		  bool wanted, struct value *out)
{
	const struct callable *test = NULL;
	struct sequence items = {0};
	size_t kept = 0, first = attribute;
	if (attribute && args->count == 0)
		return render_fail(r, "the name of an attribute is missing");
	if (args->count > first) {
		struct value name = args->values[first];
		if (name.kind != VALUE_STRING || !(test = test_find(name.text)))
			return render_fail(r, "unknown test '%.*s'",
					   name.kind == VALUE_STRING ? (int)name.text.length : 0,
					   name.kind == VALUE_STRING ? name.text.data : "");
	}
	if ((value_truth(self) && value_items(r, self, &items)) ||
	    value_sequence(r, VALUE_ITERATOR, items.count, out))
		return -1;
	for (size_t i = 0; i < items.count; i++) {
		struct value item = items.values[i];
		if (render_enter(r))
			return -1;
		if (attribute && get_attribute(r, item, args->values[0], value_none(), &item))
			return -1;
		if (test) {
			struct arguments rest = rest_of(args, first + 1);
			if (callable_call(r, test, "test", item, &rest, &item))
				return -1;
		}
		if (value_truth(item) == wanted)
			out->sequence->values[kept++] = items.values[i];
		render_leave(r);
	}
	out->sequence->count = kept;
	return 0;
}

static int filter_select(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	return choose(r, self, args, false, true, out);
}

static int filter_reject(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	return choose(r, self, args, false, false, out);
}

static int filter_selectattr(struct render *r, struct value self, struct arguments *args,
			     struct value *out)
{
	return choose(r, self, args, true, true, out);
}

static int filter_rejectattr(struct render *r, struct value self, struct arguments *args,
			     struct value *out)
{
	return choose(r, self, args, true, false, out);
}

/* ---- by order ---- */

struct sorted {
	struct value key, item;
};

/* What an item is sorted by: its attribute, texts without regard to case unless `exact`. */
static int make_key(struct render *r, struct value item, struct value attribute, struct value exact,
		    struct value *out)
{
	size_t mark = r->out.length;
	*out = item;
	if (attribute.kind > VALUE_NONE && get_attribute(r, item, attribute, value_none(), out))
		return -1;
	if (out->kind == VALUE_STRING && !value_truth(exact))
		return text_put_case(r, out->text, CASE_LOWER) || render_cut(r, mark, out);
	return 0;
}

/* A stable merge sort of [from, to), through `spare`. */
static int merge_sort(struct render *r, struct sorted *all, struct sorted *spare, size_t from,
		      size_t to, bool reverse)
{
	size_t middle = from + (to - from) / 2, left = from, right = middle;
	if (to - from < 2)
		return 0;
	if (merge_sort(r, all, spare, from, middle, reverse) ||
	    merge_sort(r, all, spare, middle, to, reverse))
		return -1;
	for (size_t i = from; i < to; i++) {
		int order = 0;
		bool both = left < middle && right < to, equal;
		/* Equal values need no order: None, or what is undefined. */
		if (both && (render_work(r, 0) || value_equal(r, all[right].key, all[left].key, &equal)))
			return -1;
		if (both && !equal && value_order(r, all[right].key, all[left].key, &order))
			return -1;
		bool take_right = left == middle || (right < to && order == (reverse ? 1 : -1));
		spare[i] = all[take_right ? right++ : left++];
	}
	memcpy(all + from, spare + from, (to - from) * sizeof *all);
	return 0;
}

static int sort_items(struct render *r, struct sequence items, struct value attribute,
		      struct value exact, bool reverse, struct value *out)
{
	struct sorted *all = render_take(r, items.count * sizeof *all);
	struct sorted *spare = render_take(r, items.count * sizeof *spare);
	if (!all || !spare || value_sequence(r, VALUE_LIST, items.count, out))
		return -1;
	for (size_t i = 0; i < items.count; i++) {
		all[i].item = items.values[i];
		if (make_key(r, items.values[i], attribute, exact, &all[i].key))
			return -1;
	}
	if (merge_sort(r, all, spare, 0, items.count, reverse))
		return -1;
	for (size_t i = 0; i < items.count; i++)
		out->sequence->values[i] = all[i].item;
	return 0;
}

static int filter_sort(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct value attribute = args->bound[2];
	struct sequence items;
	if (attribute.kind == VALUE_STRING && memchr(attribute.text.data, ',', attribute.text.length))
		return render_fail(r, "filter 'sort' by several attributes is not known");
	return value_items(r, self, &items) ||
	       sort_items(r, items, attribute, args->bound[1], value_truth(args->bound[0]), out);
}

static int filter_dictsort(struct render *r, struct value self, struct arguments *args,
			   struct value *out)
{
	struct value by = args->bound[1], part = value_integer(0), list;
	if (self.kind != VALUE_DICT)
		return render_fail(r, "filter 'dictsort' takes a dict, not '%s'", value_type(self));
	if (by.kind == VALUE_STRING && text_is(by.text, "value"))
		part.integer = 1;
	else if (value_given(by) && !(by.kind == VALUE_STRING && text_is(by.text, "key")))
		return render_fail(r, "filter 'dictsort' sorts by 'key' or 'value'");
	return dict_list(r, self.dict, 'i', VALUE_LIST, &list) ||
	       sort_items(r, *list.sequence, part, args->bound[0], value_truth(args->bound[2]), out);
}

static int extreme(struct render *r, struct value self, struct arguments *args, int wanted,
		   struct value *out)
{
	struct value best = {0}, key;
	struct sequence items;
	if (value_items(r, self, &items))
		return -1;
	*out = (struct value){.kind = VALUE_UNDEFINED, .text = {"an item of an empty list", 24}};
	for (size_t i = 0; i < items.count; i++) {
		int order = wanted;
		if (make_key(r, items.values[i], args->bound[1], args->bound[0], &key) ||
		    (i && value_order(r, key, best, &order)))
			return -1;
		if (order == wanted) {
			best = key;
			*out = items.values[i];
		}
	}
	return 0;
}

static int filter_min(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return extreme(r, self, args, -1, out);
}

static int filter_max(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	return extreme(r, self, args, 1, out);
}

static int filter_sum(struct render *r, struct value self, struct arguments *args, struct value *out)
{
	struct value attribute = args->bound[0];
	struct sequence items;
	*out = value_given(args->bound[1]) ? args->bound[1] : value_integer(0);
	if (value_items(r, self, &items))
		return -1;
	if (out->kind == VALUE_STRING)
		return render_fail(r, "filter 'sum' does not join texts");
	for (size_t i = 0; i < items.count; i++) {
		struct value item = items.values[i];
		if (attribute.kind > VALUE_NONE &&
		    get_attribute(r, item, attribute, value_none(), &item))
			return -1;
		if (render_binary(r, '+', *out, item, out))
			return -1;
	}
	return 0;
}

static int filter_unique(struct render *r, struct value self, struct arguments *args,
			 struct value *out)
{
	struct sequence items;
	size_t kept = 0;
	if (value_items(r, self, &items) || value_sequence(r, VALUE_ITERATOR, items.count, out))
		return -1;
	struct value *keys = render_take(r, items.count * sizeof *keys);
	if (!keys)
		return -1;
	for (size_t i = 0; i < items.count; i++) {
		bool seen = false;
		if (make_key(r, items.values[i], args->bound[1], args->bound[0], &keys[kept]))
			return -1;
		if (keys[kept].kind == VALUE_LIST || keys[kept].kind == VALUE_DICT)
			return render_fail(r, "filter 'unique' can't compare values of type '%s'",
					   value_type(keys[kept]));
		for (size_t j = 0; j < kept && !seen; j++)
			if (render_work(r, 0) || value_equal(r, keys[j], keys[kept], &seen))
				return -1;
		if (!seen)
			out->sequence->values[kept++] = items.values[i];
	}
	out->sequence->count = kept;
	return 0;
}

const struct callable *sequence_filter_find(struct text name)
{
	static const struct callable filters[] = {
		{"dictsort", filter_dictsort, 0, {"case_sensitive", "by", "reverse"}, false},
		{"first", filter_first, 0, {0}, false},
		{"items", filter_items, 0, {0}, false},
		{"join", filter_join, 0, {"d", "attribute"}, false},
		{"last", filter_last, 0, {0}, false},
		{"list", filter_list, 0, {0}, false},
		{"map", filter_map, 0, {0}, true},
		{"max", filter_max, 0, {"case_sensitive", "attribute"}, false},
		{"min", filter_min, 0, {"case_sensitive", "attribute"}, false},
		{"reject", filter_reject, 0, {0}, true},
		{"rejectattr", filter_rejectattr, 0, {0}, true},
		{"reverse", filter_reverse, 0, {0}, false},
		{"select", filter_select, 0, {0}, true},
		{"selectattr", filter_selectattr, 0, {0}, true},
		{"sort", filter_sort, 0, {"reverse", "case_sensitive", "attribute"}, false},
		{"sum", filter_sum, 0, {"attribute", "start"}, false},
		{"unique", filter_unique, 0, {"case_sensitive", "attribute"}, false},
	};
	for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
		if (text_is(name, filters[i].name))
			return &filters[i];
	return NULL;
}
