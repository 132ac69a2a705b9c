/*
 * chat_template_internal.h - what the files of the chat-template interpreter share.
 *
 *	text -> lexemes		chat_template_lexer.c
 *	lexemes -> a tree	chat_template_parser.c (statements), _expressions.c
 *	tree -> text		chat_template_run.c (statements), _evaluate.c (expressions),
 *				_operators.c
 *	values			chat_template_value.c, _json.c (printed as JSON), _text.c (strings)
 *	what a name stands for	chat_template_filters.c, _sequences.c (filters of lists), _tests.c,
 *				_methods.c
 *
 * Values are those of Python, for which the templates were written: its printing, its
 * comparisons, its errors; strings count in characters. None but a namespace can change. All
 * memory comes from an arena, one for the tree and one for each rendering. Text under
 * construction always stands at the end of the rendering's output: a macro, a filter or a join
 * marks where it begins, appends, and cuts its own part off again (render_cut).
 */
#ifndef TPRUN_TEXT_CHAT_TEMPLATE_INTERNAL_H
#define TPRUN_TEXT_CHAT_TEMPLATE_INTERNAL_H

#include "runtime/base/error.h"
#include "runtime/text/chat_template.h"

#include <stdint.h>

#define TEMPLATE_MAX_BYTES ((size_t)1 << 20) /* of a template; published ones have up to 50 KB */
#define TEMPLATE_MAX_NAMES 2000 /* different ones in a template */
#define TEMPLATE_MAX_NESTING 200	     /* of brackets and blocks in its text */
#define TEMPLATE_MAX_DEPTH 1000		     /* of evaluation: nesting, recursion, data */
#define TEMPLATE_MAX_STEPS 10000000	     /* of a rendering: nodes evaluated, kilobytes handled */
#define TEMPLATE_MAX_OUTPUT ((size_t)64 << 20)
#define TEMPLATE_MAX_MEMORY ((size_t)512 << 20)
#define TEMPLATE_MAX_RANGE 100000 /* jinja2's sandbox has the same */
#define TEMPLATE_MAX_ARGUMENTS 6  /* of a filter, test, function or method with named ones */

/* ---- memory (chat_template_value.c) ---- */

struct arena {
	struct arena_block *blocks;
	size_t used, limit;
};
/* Zeroed memory that lasts until arena_free; NULL beyond the limit. */
void *arena_take(struct arena *, size_t bytes);
void arena_free(struct arena *);

struct text {
	const char *data;
	size_t length;
};
bool text_is(struct text, const char *word);
bool text_equal(struct text, struct text);

/* ---- values ---- */

enum value_kind {
	VALUE_ABSENT, /* an argument that was not given */
	VALUE_UNDEFINED,
	VALUE_NONE,
	VALUE_BOOL,
	VALUE_INTEGER,
	VALUE_FLOAT,
	VALUE_STRING,
	VALUE_LIST, /* from here to VALUE_ITERATOR: a struct sequence */
	VALUE_TUPLE,
	VALUE_RANGE,
	VALUE_VIEW,	/* of a dict's keys, values or items: no indexing */
	VALUE_ITERATOR, /* what a lazy filter gives: always true, no length, read once */
	VALUE_DICT,
	VALUE_NAMESPACE,
	VALUE_LOOP,
	VALUE_MACRO,
	VALUE_FUNCTION,
};

struct value {
	unsigned char kind;
	unsigned char owner; /* UNDEFINED: kind of value that lacks it, or VALUE_ABSENT: a variable */
	bool safe;	     /* STRING: marked with |safe or |escape */
	union {
		bool truth;
		int64_t integer;
		double real;
		struct text text; /* also the name of what is UNDEFINED */
		struct sequence *sequence;
		struct dict *dict; /* also of a NAMESPACE */
		struct loop *loop;
		const struct macro *macro;
		const struct function *function;
	};
};

struct sequence {
	struct value *values;
	size_t count;
};
/* Keys differ from each other and stand in the order of their coming. */
struct dict {
	struct pair {
		struct value key, value;
	} *pairs;
	size_t count, capacity;
};
struct macro {
	const struct node *node;
	struct scope *scope; /* where it was defined */
};
struct function {
	const struct callable *callable;
	struct value self;
};
struct loop {
	struct value *source;  /* what is gone through, */
	size_t source_count, source_at;
	struct value *values;  /* and what the loop's own condition has let through so far */
	size_t count, index;
	const struct node *node;
	struct scope *outer;
};

/* Names seen by a body: one for a macro's call, an iteration, a captured block. */
struct scope {
	struct scope *parent;
	struct binding {
		struct binding *next;
		const char *name; /* interned: compared by address */
		struct value value;
	} *bindings;
};

/* ---- what a name stands for ---- */

struct arguments {
	struct value *values;
	size_t count;
	struct named_value {
		struct text name;
		struct value value;
	} *named;
	size_t named_count;
	struct value bound[TEMPLATE_MAX_ARGUMENTS]; /* by the callable's parameters */
};

struct render;
struct callable {
	const char *name;
	/* `self` is what stands left of | or . (ABSENT for a function). */
	int (*call)(struct render *, struct value self, struct arguments *, struct value *out);
	int required;
	/* Names of parameters, in order; NULL: it reads values and named itself. */
	const char *parameters[TEMPLATE_MAX_ARGUMENTS];
	bool variadic;
};
/* NULL: unknown. */
const struct callable *filter_find(struct text name);
const struct callable *sequence_filter_find(struct text name);
const struct callable *test_find(struct text name);
const struct callable *function_find(struct text name);
/* A method of a kind of value. *refused: Python has one that is not known here. */
const struct callable *method_find(enum value_kind, struct text name, bool *refused);
/* Checks the arguments against the parameters and calls. `what` is "filter", "test", … */
int callable_call(struct render *, const struct callable *, const char *what, struct value self,
		  struct arguments *, struct value *out);

/* ---- the tree ---- */

enum node_kind {
	/* expressions */
	NODE_CONSTANT,
	NODE_NAME,
	NODE_LIST,  /* list: the elements */
	NODE_TUPLE,
	NODE_DICT,  /* list: key, value, key, value, ... */
	NODE_ATTRIBUTE, /* a.text */
	NODE_ITEM,  /* a[b] */
	NODE_SLICE, /* a[b:c:d] */
	NODE_CALL,  /* a(list) */
	NODE_FILTER, /* a|callable(list) */
	NODE_TEST,
	NODE_KEYWORD, /* text=a, in a list of arguments */
	NODE_NOT,
	NODE_NEGATE,
	NODE_PLUS,
	NODE_AND,
	NODE_OR,
	NODE_BINARY,	/* a operator b */
	NODE_COMPARE,	/* a, then list: NODE_OPERAND */
	NODE_OPERAND,	/* operator a */
	NODE_CONDITION, /* b if a else c */
	NODE_CAPTURED,	/* the text of the block that a filter is applied to */
	/* statements */
	NODE_DATA,
	NODE_PRINT,
	NODE_IF,	/* a: test, body, b: the next elif, otherwise */
	NODE_FOR,	/* for a in b if c: body, otherwise */
	NODE_SET,	/* a = b */
	NODE_SET_BLOCK, /* a = b (of NODE_CAPTURED) of body */
	NODE_FILTER_BLOCK,
	NODE_SCOPE,	/* body with names of its own */
	NODE_MACRO,	/* name(list of NODE_NAME, default in a): body */
	NODE_BREAK,
	NODE_CONTINUE,
};

/* Beside characters that are operators by themselves. */
enum operator {
	OPERATOR_POWER = 256,
	OPERATOR_FLOOR_DIVIDE,
	OPERATOR_EQUAL,
	OPERATOR_NOT_EQUAL,
	OPERATOR_AT_MOST,
	OPERATOR_AT_LEAST,
	OPERATOR_IN,
	OPERATOR_NOT_IN,
};

struct node {
	enum node_kind kind;
	int line, operator;
	const char *name; /* interned */
	struct text text;
	struct value constant;
	const struct callable *callable;
	struct node *a, *b, *c, *d, *list, *body, *otherwise;
	struct node *next; /* of the list that it is in */
};

struct program {
	const char *label; /* what errors call the template */
	struct arena arena;
	struct node *body;
	struct name {
		struct name *next;
		struct text text;
		bool assigned; /* somewhere in the template */
	} *names;
	size_t name_count;
};

/* ---- from text to the tree ---- */

enum lexeme_kind {
	LEXEME_END,
	LEXEME_DATA,
	LEXEME_PRINT_BEGIN,
	LEXEME_PRINT_END,
	LEXEME_TAG_BEGIN,
	LEXEME_TAG_END,
	LEXEME_NAME,
	LEXEME_STRING,
	LEXEME_INTEGER,
	LEXEME_FLOAT,
	LEXEME_OPERATOR,
};
struct lexeme {
	enum lexeme_kind kind;
	int line, operator;
	struct text text; /* as written; a string without quotes and escapes */
	int64_t integer;
	double real;
	struct lexeme *next; /* LEXEME_END is its own */
};
struct parser {
	struct program *program;
	struct lexeme *at;
	int nesting, loops;
	struct node *calls; /* of plain names, to be checked at the end; linked by d */
	struct error *err;
};
/* The lexemes of a whole template, in the program's arena. */
int lexer_run(struct program *, struct text source, struct lexeme **out, struct error *err);
int parser_run(struct program *, struct text source, struct error *err);

int parser_fail(struct parser *, int line, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
struct node *parser_node(struct parser *, enum node_kind);
const char *parser_intern(struct parser *, struct text, bool assigned);
bool parser_is_operator(const struct parser *, int operator);
bool parser_is_name(const struct parser *, const char *word);
bool parser_skip_operator(struct parser *, int operator);
bool parser_skip_name(struct parser *, const char *word);
int parser_expect_operator(struct parser *, int operator);
/* A name, interned. */
int parser_expect_name(struct parser *, bool assigned, const char **out);
int parser_expression(struct parser *, struct node **out);
/* An expression or, with commas, a tuple of them. `condition`: "a if b" is part of it. */
int parser_tuple(struct parser *, bool condition, bool parentheses, struct node **out);
int parser_primary(struct parser *, struct node **out);
/* |filter|filter behind *node. */
int parser_filter(struct parser *, struct node **node);

/* ---- a rendering ---- */

struct render {
	const struct program *program;
	struct arena arena;
	struct {
		char *data;
		size_t length, capacity;
	} out;
	struct scope *scope;
	struct value captured;
	enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;
	int line, depth;
	int64_t steps;
	time_t now;
	struct error *err;
};
int render_fail(struct render *, const char *format, ...) __attribute__((format(printf, 2, 3)));
int render_fail_undefined(struct render *, struct value);
void *render_take(struct render *, size_t bytes); /* NULL with the error set */
/* Counts work; an error when there is too much of it. */
int render_work(struct render *, size_t bytes);
/* Around everything that recurses. After an error nobody looks at the depth. */
int render_enter(struct render *);
void render_leave(struct render *);
int render_put(struct render *, const char *data, size_t length);
int render_put_text(struct render *, const char *word);
/* The output from `mark` on as a string, no longer part of it. */
int render_cut(struct render *, size_t mark, struct value *out);
int render_body(struct render *, const struct node *statements);
int render_bind(struct render *, struct scope *, const char *name, struct value);
struct scope *render_scope(struct render *, struct scope *parent);
int render_macro(struct render *, const struct macro *, struct arguments *, struct value *out);
/* Lets items of a loop through its condition until there are `count`, or all. */
int render_loop_fill(struct render *, struct loop *, size_t count);
int render_assign(struct render *, const struct node *target, struct value);
int render_evaluate(struct render *, const struct node *, struct value *out);
int render_attribute(struct render *, struct value object, struct text name, struct value *out);
int render_item(struct render *, struct value object, struct value key, struct value *out);
int render_call(struct render *, struct value callee, struct arguments *, struct value *out);
/* What operators do (chat_template_operators.c). */
int render_binary(struct render *, int operator, struct value, struct value, struct value *out);
int render_sign(struct render *, bool negate, struct value *);
/* By one of the comparing operators. */
int render_compare(struct render *, int operator, struct value, struct value, bool *out);

/* ---- operations on values (chat_template_value.c, _json.c) ---- */

static inline struct value value_none(void)
{
	return (struct value){.kind = VALUE_NONE};
}
static inline struct value value_bool(bool truth)
{
	return (struct value){.kind = VALUE_BOOL, .truth = truth};
}
static inline struct value value_integer(int64_t integer)
{
	return (struct value){.kind = VALUE_INTEGER, .integer = integer};
}
static inline struct value value_float(double real)
{
	return (struct value){.kind = VALUE_FLOAT, .real = real};
}
static inline struct value value_string(const char *data, size_t length)
{
	return (struct value){.kind = VALUE_STRING, .text = {data, length}};
}
static inline bool value_is_sequence(struct value value)
{
	return value.kind >= VALUE_LIST && value.kind <= VALUE_ITERATOR;
}
static inline bool value_given(struct value value)
{
	return value.kind != VALUE_ABSENT;
}
const char *value_type(struct value); /* Python's name of its type */
bool value_truth(struct value);
/* A bool or an integer, as Python's arithmetic takes it. */
bool value_to_integer(struct value, int64_t *out);
bool value_to_float(struct value, double *out);
int value_equal(struct render *, struct value, struct value, bool *out);
/* *out: -1, 0, 1; 2 where one is not a number. */
int value_order(struct render *, struct value, struct value, int *out);
int value_contains(struct render *, struct value container, struct value item, bool *out);
int value_length(struct render *, struct value, int64_t *out);
/* What iterating gives: keys of a dict, characters of a string. Borrowed where it can be. */
int value_items(struct render *, struct value, struct sequence *out);
/* A sequence of `count` undefined values for the caller to fill. */
int value_sequence(struct render *, enum value_kind, size_t count, struct value *out);
int value_dict(struct render *, size_t capacity, struct value *out);
/* Replaces or appends; there must be room for it. */
int dict_set(struct render *, struct dict *, struct value key, struct value);
/* NULL: no such key. A key that Python could not hash is an error. */
int dict_find(struct render *, const struct dict *, struct value key, const struct value **out);
/* By dict.keys(), .values(), .items(): `part` is their first letter. */
int dict_list(struct render *, const struct dict *, char part, enum value_kind, struct value *out);
/* Appends str(value), repr(value) to the output. */
int value_put(struct render *, struct value);
int value_put_repr(struct render *, struct value);
/* str(value) as a string. */
int value_to_text(struct render *, struct value, struct text *out);
struct json_style {
	bool ascii, sort_keys;
	const char *indent; /* of one level, or NULL: all on one line */
	size_t indent_length;
	struct text between, colon;
};
int value_put_json(struct render *, struct value, const struct json_style *, int level);
/* Python's repr of a float: the shortest digits that read back the same. */
void float_print(double, char out[40]);

/* ---- strings (chat_template_text.c) ---- */

bool text_is_space(int32_t code_point); /* by Python's str.isspace */
int32_t text_decode(struct text, size_t at, size_t *width);
size_t text_characters(struct text);
/* Bytes before character number `index`. */
size_t text_offset(struct text, size_t index);
/* chars NULL: white space. */
struct text text_strip(struct text, const struct text *chars, bool left, bool right);
/* Offset of the first (or last) occurrence at or behind `from`, or SIZE_MAX. */
size_t text_find(struct text, struct text part, size_t from);
size_t text_find_last(struct text, struct text part);
enum text_case { CASE_UPPER, CASE_LOWER, CASE_CAPITALIZE, CASE_TITLE, CASE_TITLE_FILTER };
int text_put_case(struct render *, struct text, enum text_case);
/* Whether all letters, of which there is one, are of that case. */
bool text_has_case(struct text, bool upper);
int text_put_replaced(struct render *, struct text, struct text old, struct text new, int64_t limit);
/* separator NULL: white space. limit -1: none. */
int text_split(struct render *, struct text, const struct text *separator, int64_t limit,
	       bool from_right, struct value *out);
int text_lines(struct render *, struct text, bool keep_ends, struct value *out);
int text_put_encoded(struct render *, int32_t code_point);

#endif
