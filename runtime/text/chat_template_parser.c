/* Statements: for, if, set, macro, filter, generation, with, break, continue. Everything unknown is
 * refused here by name, before anything is rendered. */
#include "runtime/text/chat_template_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int parser_fail(struct parser *p, int line, const char *format, ...)
{
	char message[512];
	va_list args;
	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	return error_run(p->err, "%s, line %d: %s", p->program->label, line, message);
}

static int unexpected(struct parser *p, const char *wanted)
{
	return parser_fail(p, p->at->line, "expected %s, found '%.*s'", wanted,
			   (int)(p->at->text.length < 80 ? p->at->text.length : 80),
			   p->at->text.data);
}

struct node *parser_node(struct parser *p, enum node_kind kind)
{
	struct node *node = arena_take(&p->program->arena, sizeof *node);
	if (!node) {
		error_memory(p->err, "a chat template");
		return NULL;
	}
	node->kind = kind;
	node->line = p->at->line;
	return node;
}

const char *parser_intern(struct parser *p, struct text text, bool assigned)
{
	struct name *name = p->program->names;
	while (name && !text_equal(name->text, text))
		name = name->next;
	if (!name) {
		if (p->program->name_count++ == TEMPLATE_MAX_NAMES) {
			parser_fail(p, p->at->line, "there are too many names");
			return NULL;
		}
		char *copy = arena_take(&p->program->arena, text.length + 1);
		name = arena_take(&p->program->arena, sizeof *name);
		if (!copy || !name) {
			error_memory(p->err, "a chat template");
			return NULL;
		}
		memcpy(copy, text.data, text.length);
		*name = (struct name){p->program->names, {copy, text.length}, false};
		p->program->names = name;
	}
	name->assigned |= assigned;
	return name->text.data;
}

bool parser_is_operator(const struct parser *p, int operator)
{
	return p->at->kind == LEXEME_OPERATOR && p->at->operator == operator;
}

bool parser_is_name(const struct parser *p, const char *word)
{
	return p->at->kind == LEXEME_NAME && text_is(p->at->text, word);
}

bool parser_skip_operator(struct parser *p, int operator)
{
	bool found = parser_is_operator(p, operator);
	if (found)
		p->at = p->at->next;
	return found;
}

bool parser_skip_name(struct parser *p, const char *word)
{
	bool found = parser_is_name(p, word);
	if (found)
		p->at = p->at->next;
	return found;
}

int parser_expect_operator(struct parser *p, int operator)
{
	char wanted[4] = {'\'', (char)operator, '\''};
	return parser_skip_operator(p, operator) ? 0 : unexpected(p, wanted);
}

int parser_expect_name(struct parser *p, bool assigned, const char **out)
{
	if (p->at->kind != LEXEME_NAME)
		return unexpected(p, "a name");
	*out = parser_intern(p, p->at->text, assigned);
	p->at = p->at->next;
	return *out ? 0 : -1;
}

static int expect(struct parser *p, enum lexeme_kind kind, const char *wanted)
{
	if (p->at->kind != kind)
		return unexpected(p, wanted);
	p->at = p->at->next;
	return 0;
}

static int parse_body(struct parser *p, const struct node *opening, const char *const *ends,
		      struct node **out);

/* The names (or names in brackets) that a value is unpacked into. `attributes`: namespace.name is
 * allowed. `end`: the word behind them, which may follow a comma. */
static int parse_target(struct parser *p, bool attributes, const char *end, struct node **out)
{
	struct node *first = NULL, **link = &first;
	bool tuple = false;
	int line = p->at->line;
	if (++p->nesting > TEMPLATE_MAX_NESTING)
		return parser_fail(p, line, "names are nested too deeply");
	do {
		if (first && (parser_is_operator(p, ')') || (end && parser_is_name(p, end)) ||
			      parser_is_operator(p, '=')))
			break;
		struct node *node;
		if (parser_skip_operator(p, '(')) {
			if (parse_target(p, attributes, NULL, &node) || parser_expect_operator(p, ')'))
				return -1;
		} else {
			node = parser_node(p, NODE_NAME);
			if (!node || parser_expect_name(p, true, &node->name))
				return -1;
			if (attributes && parser_skip_operator(p, '.')) {
				struct node *attribute = parser_node(p, NODE_ATTRIBUTE);
				if (!attribute)
					return -1;
				attribute->a = node;
				attribute->text = p->at->text;
				if (expect(p, LEXEME_NAME, "a name"))
					return -1;
				node = attribute;
			} else if (strcmp(node->name, "loop") == 0 || strcmp(node->name, "true") == 0 ||
				   strcmp(node->name, "false") == 0 || strcmp(node->name, "none") == 0) {
				return parser_fail(p, line, "can't assign to '%s'", node->name);
			}
		}
		*link = node;
		link = &node->next;
		if (!parser_is_operator(p, ','))
			break;
		tuple = true;
	} while (parser_skip_operator(p, ','));
	p->nesting--;
	*out = first;
	if (tuple) {
		*out = parser_node(p, NODE_TUPLE);
		if (!*out)
			return -1;
		(*out)->list = first;
	}
	return 0;
}

static int parse_for(struct parser *p, struct node *node)
{
	static const char *const ends[] = {"endfor", "else", NULL}, *const last[] = {"endfor", NULL};
	node->kind = NODE_FOR;
	node->name = parser_intern(p, (struct text){"loop", 4}, true);
	if (!node->name || parse_target(p, false, "in", &node->a))
		return -1;
	if (!parser_skip_name(p, "in"))
		return unexpected(p, "'in'");
	if (parser_tuple(p, false, false, &node->b))
		return -1;
	if (parser_skip_name(p, "if") && parser_expression(p, &node->c))
		return -1;
	if (parser_is_name(p, "recursive"))
		return parser_fail(p, p->at->line, "recursive loops are not known");
	p->loops++;
	if (parse_body(p, node, ends, &node->body))
		return -1;
	p->loops--;
	if (parser_skip_name(p, "else")) {
		if (parse_body(p, node, last, &node->otherwise))
			return -1;
	}
	p->at = p->at->next; /* endfor */
	return 0;
}

static int parse_if(struct parser *p, struct node *node)
{
	static const char *const ends[] = {"elif", "else", "endif", NULL};
	static const char *const last[] = {"endif", NULL};
	struct node *branch = node;
	for (;;) {
		branch->kind = NODE_IF;
		if (parser_tuple(p, false, false, &branch->a) ||
		    parse_body(p, node, ends, &branch->body))
			return -1;
		if (!parser_skip_name(p, "elif"))
			break;
		branch->b = parser_node(p, NODE_IF);
		branch = branch->b;
		if (!branch)
			return -1;
	}
	if (parser_skip_name(p, "else") && parse_body(p, node, last, &branch->otherwise))
		return -1;
	p->at = p->at->next; /* endif */
	return 0;
}

/* A body whose text is captured, or that is run as if it were a macro: loops around it can't be
 * left from within. */
static int parse_closed_body(struct parser *p, struct node *node, const char *end)
{
	const char *const ends[] = {end, NULL};
	int loops = p->loops;
	p->loops = 0;
	if (parse_body(p, node, ends, &node->body))
		return -1;
	p->loops = loops;
	p->at = p->at->next;
	return 0;
}

static int parse_set(struct parser *p, struct node *node)
{
	if (parse_target(p, true, NULL, &node->a))
		return -1;
	if (parser_skip_operator(p, '=')) {
		node->kind = NODE_SET;
		return parser_tuple(p, true, false, &node->b);
	}
	node->kind = NODE_SET_BLOCK;
	node->b = parser_node(p, NODE_CAPTURED);
	return node->b && !parser_filter(p, &node->b) ? parse_closed_body(p, node, "endset") : -1;
}

static int parse_macro(struct parser *p, struct node *node)
{
	struct node **link = &node->list;
	node->kind = NODE_MACRO;
	if (parser_expect_name(p, true, &node->name) || parser_expect_operator(p, '('))
		return -1;
	while (!parser_skip_operator(p, ')')) {
		if (node->list && parser_expect_operator(p, ','))
			return -1;
		struct node *parameter = parser_node(p, NODE_NAME);
		if (!parameter || parser_expect_name(p, true, &parameter->name))
			return -1;
		if (parser_skip_operator(p, '=') && parser_expression(p, &parameter->a))
			return -1;
		*link = parameter;
		link = &parameter->next;
	}
	return parse_closed_body(p, node, "endmacro");
}

static int parse_with(struct parser *p, struct node *node)
{
	static const char *const ends[] = {"endwith", NULL};
	struct node **link = &node->list;
	node->kind = NODE_SCOPE;
	while (p->at->kind != LEXEME_TAG_END) {
		struct node *set;
		if (node->list && parser_expect_operator(p, ','))
			return -1;
		set = parser_node(p, NODE_SET);
		if (!set || !(set->a = parser_node(p, NODE_NAME)) ||
		    parser_expect_name(p, true, &set->a->name) || parser_expect_operator(p, '=') ||
		    parser_expression(p, &set->b))
			return -1;
		*link = set;
		link = &set->next;
	}
	if (parse_body(p, node, ends, &node->body))
		return -1;
	p->at = p->at->next; /* endwith */
	return 0;
}

static int parse_statement(struct parser *p, const struct node *opening, struct node **out)
{
	struct lexeme *tag = p->at;
	struct node *node = parser_node(p, NODE_SCOPE);
	if (!node || expect(p, LEXEME_NAME, "the name of a tag"))
		return -1;
	*out = node;
	node->text = tag->text; /* what an error calls the block */
	if (text_is(tag->text, "for"))
		return parse_for(p, node);
	if (text_is(tag->text, "if"))
		return parse_if(p, node);
	if (text_is(tag->text, "set"))
		return parse_set(p, node);
	if (text_is(tag->text, "macro"))
		return parse_macro(p, node);
	if (text_is(tag->text, "with"))
		return parse_with(p, node);
	if (text_is(tag->text, "generation")) /* transformers': marks what the model says */
		return parse_closed_body(p, node, "endgeneration");
	if (text_is(tag->text, "filter")) {
		node->kind = NODE_FILTER_BLOCK;
		node->b = parser_node(p, NODE_CAPTURED);
		/* The first filter stands without its |. */
		struct lexeme bar = {LEXEME_OPERATOR, tag->line, '|', {"|", 1}, .next = p->at};
		p->at = &bar;
		return node->b && !parser_filter(p, &node->b) ? parse_closed_body(p, node, "endfilter")
							     : -1;
	}
	if (text_is(tag->text, "break") || text_is(tag->text, "continue")) {
		node->kind = text_is(tag->text, "break") ? NODE_BREAK : NODE_CONTINUE;
		if (p->loops == 0)
			return parser_fail(p, tag->line, "'%.*s' outside of a loop",
					   (int)tag->text.length, tag->text.data);
		return 0;
	}
	if (opening)
		return parser_fail(p, tag->line,
				   "unknown tag '%.*s' (inside of the '%.*s' of line %d)",
				   (int)tag->text.length, tag->text.data, (int)opening->text.length,
				   opening->text.data, opening->line);
	return parser_fail(p, tag->line, "unknown tag '%.*s'", (int)tag->text.length,
			   tag->text.data);
}

static bool at_end(const struct parser *p, const char *const *ends)
{
	for (; *ends; ends++)
		if (parser_is_name(p, *ends))
			return true;
	return false;
}

/* Statements up to a tag of `ends`, at whose name it stops. */
static int parse_statements(struct parser *p, const struct node *opening, const char *const *ends,
			    struct node **link)
{
	for (;;) {
		struct node *node = NULL;
		struct lexeme *lexeme = p->at;
		if (lexeme->kind == LEXEME_END && !opening)
			return 0;
		if (lexeme->kind == LEXEME_END)
			return parser_fail(p, opening->line, "'%.*s' is never closed",
					   (int)opening->text.length, opening->text.data);
		if (lexeme->kind == LEXEME_DATA) {
			node = parser_node(p, NODE_DATA);
			if (!node)
				return -1;
			node->text = lexeme->text;
			p->at = lexeme->next;
		} else if (lexeme->kind == LEXEME_PRINT_BEGIN) {
			node = parser_node(p, NODE_PRINT);
			p->at = lexeme->next;
			if (!node || parser_tuple(p, true, false, &node->a) ||
			    expect(p, LEXEME_PRINT_END, "}}"))
				return -1;
		} else {
			p->at = lexeme->next; /* nothing else can stand here than {% */
			if (at_end(p, ends))
				return 0;
			if (parse_statement(p, opening, &node) || expect(p, LEXEME_TAG_END, "%}"))
				return -1;
		}
		*link = node;
		link = &node->next;
	}
}

static int parse_body(struct parser *p, const struct node *opening, const char *const *ends,
		      struct node **out)
{
	if (expect(p, LEXEME_TAG_END, "%}"))
		return -1;
	if (++p->nesting > TEMPLATE_MAX_NESTING)
		return parser_fail(p, opening->line, "blocks are nested too deeply");
	int result = parse_statements(p, opening, ends, out);
	p->nesting--;
	return result;
}

/* A variable of the caller's can't be called: what is neither a function nor assigned anywhere in
 * the template is unknown. */
static int check_calls(struct parser *p)
{
	for (const struct node *call = p->calls; call; call = call->d) {
		struct text text = {call->a->name, strlen(call->a->name)};
		const struct name *name = p->program->names;
		while (name->text.data != call->a->name)
			name = name->next;
		if (!name->assigned && !text_is(text, "loop") && !function_find(text))
			return parser_fail(p, call->line, "unknown function '%s'", call->a->name);
	}
	return 0;
}

int parser_run(struct program *program, struct text source, struct error *err)
{
	static const char *const none[] = {NULL};
	struct parser p = {.program = program, .err = err};
	if (lexer_run(program, source, &p.at, err) ||
	    parse_statements(&p, NULL, none, &program->body))
		return -1;
	return check_calls(&p);
}
