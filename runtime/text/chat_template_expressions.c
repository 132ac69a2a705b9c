/* Expressions, by jinja2's precedence: a if b else c; or; and; not; comparisons, in; + -; ~;
 * * / // %; **; signs; then filters, tests, and nearest to a value .name [item] (arguments). */
#include "runtime/text/chat_template_internal.h"

#include <string.h>

static int parse_unary(struct parser *p, bool filters, struct node **out);

/* Puts a node of `kind` above *node, which becomes its a. */
static int wrap(struct parser *p, enum node_kind kind, struct node **node)
{
	struct node *above = parser_node(p, kind);
	if (!above)
		return -1;
	above->line = (*node)->line;
	above->a = *node;
	*node = above;
	return 0;
}

/* One level of binary operators: the operators of `operators`, ended by 0, over what `below`
 * parses. */
static int parse_binary(struct parser *p, const int *operators,
			int (*below)(struct parser *, struct node **), struct node **out)
{
	if (below(p, out))
		return -1;
	for (;;) {
		const int *operator = operators;
		while (*operator && !parser_is_operator(p, *operator))
			operator++;
		if (!*operator)
			return 0;
		p->at = p->at->next;
		if (wrap(p, NODE_BINARY, out))
			return -1;
		(*out)->operator = *operator;
		if (below(p, &(*out)->b))
			return -1;
	}
}

static int parse_signed(struct parser *p, struct node **out)
{
	return parse_unary(p, true, out);
}

static int parse_power(struct parser *p, struct node **out)
{
	static const int operators[] = {OPERATOR_POWER, 0};
	return parse_binary(p, operators, parse_signed, out);
}

static int parse_product(struct parser *p, struct node **out)
{
	static const int operators[] = {'*', '/', OPERATOR_FLOOR_DIVIDE, '%', 0};
	return parse_binary(p, operators, parse_power, out);
}

static int parse_concatenation(struct parser *p, struct node **out)
{
	static const int operators[] = {'~', 0};
	return parse_binary(p, operators, parse_product, out);
}

static int parse_sum(struct parser *p, struct node **out)
{
	static const int operators[] = {'+', '-', 0};
	return parse_binary(p, operators, parse_concatenation, out);
}

static int parse_compare(struct parser *p, struct node **out)
{
	static const int operators[] = {OPERATOR_EQUAL, OPERATOR_NOT_EQUAL, OPERATOR_AT_MOST,
					OPERATOR_AT_LEAST, '<', '>', 0};
	struct node **link = NULL;
	if (parse_sum(p, out))
		return -1;
	for (;;) {
		const int *found = operators;
		int operator;
		while (*found && !parser_is_operator(p, *found))
			found++;
		operator = *found;
		if (parser_is_name(p, "in"))
			operator = OPERATOR_IN;
		else if (parser_is_name(p, "not") && p->at->next->kind == LEXEME_NAME &&
			 text_is(p->at->next->text, "in"))
			operator = OPERATOR_NOT_IN;
		if (!operator)
			return 0;
		p->at = operator == OPERATOR_NOT_IN ? p->at->next->next : p->at->next;
		if (!link) {
			if (wrap(p, NODE_COMPARE, out))
				return -1;
			link = &(*out)->list;
		}
		*link = parser_node(p, NODE_OPERAND);
		if (!*link || parse_sum(p, &(*link)->a))
			return -1;
		(*link)->operator = operator;
		link = &(*link)->next;
	}
}

static int parse_not(struct parser *p, struct node **out)
{
	bool odd = false, any = false;
	while (parser_skip_name(p, "not")) {
		any = true;
		odd = !odd;
	}
	if (parse_compare(p, out) || (any && wrap(p, NODE_NOT, out)))
		return -1;
	return any && !odd ? wrap(p, NODE_NOT, out) : 0;
}

static int parse_and(struct parser *p, struct node **out)
{
	if (parse_not(p, out))
		return -1;
	while (parser_skip_name(p, "and"))
		if (wrap(p, NODE_AND, out) || parse_not(p, &(*out)->b))
			return -1;
	return 0;
}

static int parse_or(struct parser *p, struct node **out)
{
	if (parse_and(p, out))
		return -1;
	while (parser_skip_name(p, "or"))
		if (wrap(p, NODE_OR, out) || parse_and(p, &(*out)->b))
			return -1;
	return 0;
}

static int parse_condition(struct parser *p, bool condition, struct node **out)
{
	if (++p->nesting > TEMPLATE_MAX_NESTING)
		return parser_fail(p, p->at->line, "expressions are nested too deeply");
	if (parse_or(p, out))
		return -1;
	while (condition && parser_skip_name(p, "if")) {
		struct node *value = *out;
		if (parse_or(p, out) || wrap(p, NODE_CONDITION, out))
			return -1;
		(*out)->b = value;
		if (parser_skip_name(p, "else") && parse_condition(p, true, &(*out)->c))
			return -1;
	}
	p->nesting--;
	return 0;
}

int parser_expression(struct parser *p, struct node **out)
{
	return parse_condition(p, true, out);
}

int parser_tuple(struct parser *p, bool condition, bool parentheses, struct node **out)
{
	struct node *tuple = parser_node(p, NODE_TUPLE), **link;
	bool comma = false;
	if (!tuple)
		return -1;
	for (link = &tuple->list;; link = &(*link)->next) {
		if (p->at->kind == LEXEME_PRINT_END || p->at->kind == LEXEME_TAG_END ||
		    parser_is_operator(p, ')'))
			break;
		if (parse_condition(p, condition, link))
			return -1;
		if (!parser_skip_operator(p, ',')) {
			break;
		}
		comma = true;
	}
	if (!comma && !tuple->list && !parentheses)
		return parser_fail(p, p->at->line, "an expression is missing");
	*out = comma || !tuple->list ? tuple : tuple->list;
	return 0;
}

/* Elements up to `end`, a comma after each but perhaps the last; `pairs`: key and value. */
static int parse_elements(struct parser *p, int end, bool pairs, struct node **link)
{
	while (!parser_skip_operator(p, end)) {
		if (parser_expression(p, link))
			return -1;
		link = &(*link)->next;
		if (pairs) {
			if (parser_expect_operator(p, ':') || parser_expression(p, link))
				return -1;
			link = &(*link)->next;
		}
		if (!parser_is_operator(p, end) && parser_expect_operator(p, ','))
			return -1;
	}
	return 0;
}

/* Strings side by side are one. */
static int parse_string(struct parser *p, struct node *node)
{
	size_t length = 0;
	for (struct lexeme *l = p->at; l->kind == LEXEME_STRING; l = l->next)
		length += l->text.length;
	char *joined = arena_take(&p->program->arena, length + 1);
	if (!joined)
		return error_memory(p->err, "a chat template");
	node->constant = value_string(joined, length);
	for (; p->at->kind == LEXEME_STRING; p->at = p->at->next) {
		memcpy(joined, p->at->text.data, p->at->text.length);
		joined += p->at->text.length;
	}
	return 0;
}

int parser_primary(struct parser *p, struct node **out)
{
	struct lexeme *lexeme = p->at;
	struct node *node = parser_node(p, NODE_CONSTANT);
	struct text text = lexeme->text;
	if (!node)
		return -1;
	*out = node;
	if (lexeme->kind == LEXEME_STRING)
		return parse_string(p, node);
	p->at = lexeme->next;
	if (lexeme->kind == LEXEME_INTEGER) {
		node->constant = value_integer(lexeme->integer);
	} else if (lexeme->kind == LEXEME_FLOAT) {
		node->constant = value_float(lexeme->real);
	} else if (lexeme->kind == LEXEME_NAME) {
		if (text_is(text, "true") || text_is(text, "True")) {
			node->constant = value_bool(true);
		} else if (text_is(text, "false") || text_is(text, "False")) {
			node->constant = value_bool(false);
		} else if (text_is(text, "none") || text_is(text, "None")) {
			node->constant = value_none();
		} else if (text_is(text, "varargs") || text_is(text, "kwargs") ||
			   text_is(text, "caller")) {
			return parser_fail(p, lexeme->line, "'%.*s' of a macro is not known",
					   (int)text.length, text.data);
		} else {
			node->kind = NODE_NAME;
			node->name = parser_intern(p, text, false);
			return node->name ? 0 : -1;
		}
	} else if (lexeme->kind == LEXEME_OPERATOR && lexeme->operator == '(') {
		return parser_tuple(p, true, true, out) || parser_expect_operator(p, ')') ? -1 : 0;
	} else if (lexeme->kind == LEXEME_OPERATOR && lexeme->operator == '[') {
		node->kind = NODE_LIST;
		return parse_elements(p, ']', false, &node->list);
	} else if (lexeme->kind == LEXEME_OPERATOR && lexeme->operator == '{') {
		node->kind = NODE_DICT;
		return parse_elements(p, '}', true, &node->list);
	} else {
		return parser_fail(p, lexeme->line, "unexpected '%.*s' in an expression",
				   (int)(text.length < 80 ? text.length : 80), text.data);
	}
	return 0;
}

static int parse_arguments(struct parser *p, struct node **link)
{
	bool keywords = false;
	if (parser_expect_operator(p, '('))
		return -1;
	while (!parser_skip_operator(p, ')')) {
		struct node **value = link;
		if (parser_is_operator(p, '*') || parser_is_operator(p, OPERATOR_POWER))
			return parser_fail(p, p->at->line, "unpacking of arguments (*) is not known");
		if (p->at->kind == LEXEME_NAME && p->at->next->kind == LEXEME_OPERATOR &&
		    p->at->next->operator == '=') {
			*link = parser_node(p, NODE_KEYWORD);
			if (!*link)
				return -1;
			(*link)->text = p->at->text;
			p->at = p->at->next->next;
			value = &(*link)->a;
			keywords = true;
		} else if (keywords) {
			return parser_fail(p, p->at->line, "an argument without a name follows one with");
		}
		if (parser_expression(p, value))
			return -1;
		link = &(*link)->next;
		if (!parser_is_operator(p, ')') && parser_expect_operator(p, ','))
			return -1;
	}
	return 0;
}

/* What stands between the brackets of an item: an index, or a slice. */
static int parse_subscript(struct parser *p, struct node *node)
{
	struct node **parts[] = {&node->b, &node->c, &node->d};
	size_t part = 0;
	do {
		if (!parser_is_operator(p, ':') && !parser_is_operator(p, ']') &&
		    parser_expression(p, parts[part]))
			return -1;
		if (!parser_is_operator(p, ':'))
			break;
		node->kind = NODE_SLICE;
	} while (++part < 3 && parser_skip_operator(p, ':'));
	if (node->kind == NODE_ITEM && !node->b)
		return parser_fail(p, p->at->line, "an index is missing");
	return parser_expect_operator(p, ']');
}

static int parse_call(struct parser *p, struct node **node)
{
	int line = p->at->line;
	if (wrap(p, NODE_CALL, node))
		return -1;
	(*node)->line = line;
	if ((*node)->a->kind == NODE_NAME) {
		(*node)->d = p->calls;
		p->calls = *node;
	}
	return parse_arguments(p, &(*node)->list);
}

static int parse_postfix(struct parser *p, struct node **node)
{
	for (;;) {
		if (parser_is_operator(p, '(')) {
			if (parse_call(p, node))
				return -1;
		} else if (parser_skip_operator(p, '[')) {
			if (wrap(p, NODE_ITEM, node) || parse_subscript(p, *node))
				return -1;
		} else if (parser_skip_operator(p, '.')) {
			struct lexeme *name = p->at;
			if (wrap(p, name->kind == LEXEME_INTEGER ? NODE_ITEM : NODE_ATTRIBUTE, node))
				return -1;
			(*node)->line = name->line;
			if (name->kind == LEXEME_INTEGER) {
				(*node)->b = parser_node(p, NODE_CONSTANT);
				if (!(*node)->b)
					return -1;
				(*node)->b->constant = value_integer(name->integer);
			} else if (name->kind == LEXEME_NAME) {
				(*node)->text = name->text;
			} else {
				return parser_fail(p, name->line, "a name is missing behind '.'");
			}
			p->at = name->next;
		} else {
			return 0;
		}
	}
}

/* The functions that map, select and the like are told by name are known at open where the name
 * is written out. */
static int check_named_callable(struct parser *p, const struct node *node)
{
	const char *filter = node->callable->name;
	bool map = strcmp(filter, "map") == 0, attribute = strstr(filter, "attr") != NULL;
	if (!map && strncmp(filter, "select", 6) != 0 && strncmp(filter, "reject", 6) != 0)
		return 0;
	const struct node *name = node->list;
	if (name && attribute)
		name = name->next;
	if (!name || name->kind != NODE_CONSTANT || name->constant.kind != VALUE_STRING)
		return 0;
	struct text text = name->constant.text;
	if (map ? !filter_find(text) : !test_find(text))
		return parser_fail(p, node->line, "unknown %s '%.*s'", map ? "filter" : "test",
				   (int)text.length, text.data);
	return 0;
}

int parser_filter(struct parser *p, struct node **node)
{
	while (parser_skip_operator(p, '|')) {
		struct lexeme *name = p->at;
		if (wrap(p, NODE_FILTER, node))
			return -1;
		if (name->kind != LEXEME_NAME)
			return parser_fail(p, name->line, "the name of a filter is missing behind '|'");
		p->at = name->next;
		(*node)->line = name->line;
		(*node)->callable = filter_find(name->text);
		if (!(*node)->callable)
			return parser_fail(p, name->line, "unknown filter '%.*s'",
					   (int)name->text.length, name->text.data);
		if (parser_is_operator(p, '(') && parse_arguments(p, &(*node)->list))
			return -1;
		if (check_named_callable(p, *node))
			return -1;
	}
	return 0;
}

static int parse_test(struct parser *p, struct node **node)
{
	bool negated = parser_skip_name(p, "not");
	struct lexeme *name = p->at;
	if (wrap(p, NODE_TEST, node))
		return -1;
	if (name->kind != LEXEME_NAME)
		return parser_fail(p, name->line, "the name of a test is missing behind 'is'");
	p->at = name->next;
	(*node)->line = name->line;
	(*node)->callable = test_find(name->text);
	if (!(*node)->callable)
		return parser_fail(p, name->line, "unknown test '%.*s'", (int)name->text.length,
				   name->text.data);
	if (parser_is_operator(p, '(')) {
		if (parse_arguments(p, &(*node)->list))
			return -1;
	} else if (parser_is_name(p, "is")) {
		return parser_fail(p, p->at->line, "one 'is' follows another");
	} else if ((p->at->kind >= LEXEME_NAME && p->at->kind <= LEXEME_FLOAT &&
		    !parser_is_name(p, "else") && !parser_is_name(p, "or") &&
		    !parser_is_name(p, "and")) ||
		   parser_is_operator(p, '[') || parser_is_operator(p, '{')) {
		/* One argument goes without parentheses. */
		if (parser_primary(p, &(*node)->list) || parse_postfix(p, &(*node)->list))
			return -1;
	}
	return negated ? wrap(p, NODE_NOT, node) : 0;
}

static int parse_unary(struct parser *p, bool filters, struct node **out)
{
	bool minus = parser_is_operator(p, '-');
	if (++p->nesting > TEMPLATE_MAX_NESTING)
		return parser_fail(p, p->at->line, "expressions are nested too deeply");
	if (minus || parser_is_operator(p, '+')) {
		p->at = p->at->next;
		if (parse_unary(p, false, out) || wrap(p, minus ? NODE_NEGATE : NODE_PLUS, out))
			return -1;
	} else if (parser_primary(p, out)) {
		return -1;
	}
	if (parse_postfix(p, out))
		return -1;
	while (filters) {
		if (parser_is_operator(p, '|')) {
			if (parser_filter(p, out))
				return -1;
		} else if (parser_skip_name(p, "is")) {
			if (parse_test(p, out))
				return -1;
		} else if (parser_is_operator(p, '(')) {
			if (parse_call(p, out))
				return -1;
		} else {
			break;
		}
	}
	p->nesting--;
	return 0;
}
