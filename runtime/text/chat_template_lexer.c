/* Cuts a template into lexemes, with jinja2's rules for white space around tags: trim_blocks (a
 * line's end behind a tag goes), lstrip_blocks (the white space between a line's start and a tag
 * goes), "-" (all white space goes), "+" (all stays). */
#include "runtime/text/chat_template_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_internal.h"

struct lexer {
	struct program *program;
	struct error *err;
	struct text source;
	size_t at;
	int line;
	bool line_starting; /* the text before `at` ends a line */
	char brackets[TEMPLATE_MAX_NESTING];
	int depth;
	struct lexeme **end; /* where the next lexeme is linked */
};

static int lexer_fail(const struct lexer *l, const char *what)
{
	return error_run(l->err, "%s, line %d: %s", l->program->label, l->line, what);
}

static struct lexeme *add(struct lexer *l, enum lexeme_kind kind, struct text text)
{
	struct lexeme *lexeme = arena_take(&l->program->arena, sizeof *lexeme);
	if (!lexeme) {
		error_memory(l->err, "a chat template");
		return NULL;
	}
	*lexeme = (struct lexeme){.kind = kind, .line = l->line, .text = text};
	*l->end = lexeme;
	l->end = &lexeme->next;
	return lexeme;
}

static bool sees(const struct lexer *l, const char *word)
{
	size_t length = strlen(word);
	return l->source.length - l->at >= length &&
	       memcmp(l->source.data + l->at, word, length) == 0;
}

static void advance(struct lexer *l, size_t to)
{
	for (; l->at < to; l->at++)
		if (l->source.data[l->at] == '\n')
			l->line++;
}

static size_t space_end(const struct lexer *l, size_t at)
{
	size_t width;
	while (at < l->source.length && text_is_space(text_decode(l->source, at, &width)))
		at += width;
	return at;
}

/* Passes the end of a tag, "%}" or the like, with what it takes of the text behind. `plus`: it may
 * be "+%}", and "%}" takes a line's end. False: there is no such end here. */
static bool pass_end(struct lexer *l, const char *end, bool plus)
{
	char sign = l->source.data[l->at];
	bool signed_end = sign == '-' || (plus && sign == '+');
	l->at += signed_end;
	if (!sees(l, end)) {
		l->at -= signed_end;
		return false;
	}
	size_t to = l->at + 2;
	if (signed_end && sign == '-')
		to = space_end(l, to);
	else if (!signed_end && plus && to < l->source.length && l->source.data[to] == '\n')
		to++;
	advance(l, to);
	l->line_starting = l->source.data[l->at - 1] == '\n';
	return true;
}

/* Adds the text before a tag, less what the tag takes of it. `sign` stands behind the tag's
 * opening bracket; `block`: lstrip_blocks applies. */
static int add_data(struct lexer *l, size_t start, size_t end, char sign, bool block)
{
	struct text text = {l->source.data + start, end - start};
	if (sign == '-') {
		text = text_strip(text, NULL, false, true);
	} else if (sign != '+' && block) {
		size_t from = text.length;
		while (from > 0 && text.data[from - 1] != '\n')
			from--;
		struct text last = {text.data + from, text.length - from};
		if ((from > 0 || l->line_starting) && text_strip(last, NULL, true, false).length == 0)
			text.length = from;
	}
	if (text.length && !add(l, LEXEME_DATA, text))
		return -1;
	advance(l, end);
	return 0;
}

static char sign_at(const struct lexer *l, size_t at)
{
	char sign = at < l->source.length ? l->source.data[at] : '\0';
	return sign == '-' || sign == '+' ? sign : '\0';
}

/* Whether "{%", at `at`, with a sign, is followed by `word` alone; *behind gets what follows. */
static bool is_tag(const struct lexer *l, size_t at, const char *word, size_t *behind)
{
	size_t length = strlen(word);
	at += 2;
	at = space_end(l, at + (sign_at(l, at) != '\0'));
	if (l->source.length - at < length || memcmp(l->source.data + at, word, length) != 0)
		return false;
	*behind = space_end(l, at + length);
	size_t end = *behind + (*behind < l->source.length && l->source.data[*behind] == '-');
	/* "+%}" ends only endraw. */
	if (strcmp(word, "endraw") == 0)
		end = *behind + (sign_at(l, *behind) != '\0');
	return l->source.length - end >= 2 && memcmp(l->source.data + end, "%}", 2) == 0;
}

static int lex_raw(struct lexer *l, size_t behind)
{
	advance(l, behind);
	pass_end(l, "%}", false);
	size_t start = l->at, end = start;
	while (end + 2 <= l->source.length && !(memcmp(l->source.data + end, "{%", 2) == 0 &&
						is_tag(l, end, "endraw", &behind)))
		end++;
	if (end + 2 > l->source.length)
		return lexer_fail(l, "{% raw %} is never closed");
	if (add_data(l, start, end, sign_at(l, end + 2), true))
		return -1;
	advance(l, behind);
	pass_end(l, "%}", true);
	return 0;
}

static int lex_comment(struct lexer *l)
{
	int line = l->line;
	while (l->at < l->source.length) {
		if (pass_end(l, "#}", true))
			return 0;
		advance(l, l->at + 1);
	}
	l->line = line;
	return lexer_fail(l, "a comment is never closed");
}

static int digit_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
				      : 99;
}

/* A number in hexadecimal or octal digits, of at most `width`. */
static size_t read_digits(struct text text, size_t at, size_t width, int base, int32_t *out)
{
	size_t start = at;
	*out = 0;
	while (at < text.length && at - start < width && digit_value(text.data[at]) < base)
		*out = *out * base + digit_value(text.data[at++]);
	return at - start;
}

/* Writes what the escape behind a backslash at text[*at] stands for and passes it. */
static int unescape(struct lexer *l, struct text text, size_t *at, char *out, size_t *length)
{
	static const char letters[] = "abfnrtv\\'\"", meanings[] = "\a\b\f\n\r\t\v\\'\"";
	char c = text.data[*at];
	const char *letter = c ? strchr(letters, c) : NULL;
	int32_t code = c;
	size_t width = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;

	if (c == '\n') { /* the string goes on in the next line */
		++*at;
		return 0;
	} else if (letter) {
		out[(*length)++] = meanings[letter - letters];
		++*at;
		return 0;
	} else if (width) {
		if (read_digits(text, *at + 1, width, 16, &code) != width)
			return lexer_fail(l, "a string has an escape with too few digits");
		*at += 1 + width;
	} else if (digit_value(c) < 8) {
		*at += read_digits(text, *at, 3, 8, &code);
	} else if (c == 'N') {
		return lexer_fail(l, "characters by name (\\N{...}) are not known");
	} else { /* no escape at all */
		out[(*length)++] = '\\';
		return 0;
	}
	if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
		return lexer_fail(l, "a string has an escape that is no character");
	struct bytes bytes = {0};
	if (bytes_append_char(&bytes, code, l->err))
		return -1;
	memcpy(out + *length, bytes.data, bytes.length);
	*length += bytes.length;
	bytes_free(&bytes);
	return 0;
}

static int lex_string(struct lexer *l)
{
	char quote = l->source.data[l->at];
	size_t start = l->at + 1, end = start, length = 0;
	while (end < l->source.length && l->source.data[end] != quote)
		end += l->source.data[end] == '\\' ? 2 : 1;
	if (end >= l->source.length)
		return lexer_fail(l, "a string is never closed");

	struct text raw = {l->source.data + start, end - start};
	char *out = arena_take(&l->program->arena, raw.length + 1);
	if (!out)
		return error_memory(l->err, "a chat template");
	for (size_t at = 0; at < raw.length;) {
		if (raw.data[at] != '\\')
			out[length++] = raw.data[at++];
		else if (++at, unescape(l, raw, &at, out, &length))
			return -1;
	}
	if (!add(l, LEXEME_STRING, (struct text){out, length}))
		return -1;
	advance(l, end + 1);
	return 0;
}

static bool is_digit(const struct lexer *l, size_t at)
{
	return at < l->source.length && l->source.data[at] >= '0' && l->source.data[at] <= '9';
}

/* Passes digits with single "_" between them. */
static size_t pass_digits(const struct lexer *l, size_t at)
{
	while (is_digit(l, at) || (at < l->source.length && l->source.data[at] == '_' &&
				   is_digit(l, at - 1) && is_digit(l, at + 1)))
		at++;
	return at;
}

static int lex_number(struct lexer *l, bool behind_dot)
{
	const char *data = l->source.data;
	size_t start = l->at, end = pass_digits(l, start), digits = 0;
	bool is_float = false;
	if (!behind_dot) {
		if (end < l->source.length && data[end] == '.' && is_digit(l, end + 1)) {
			is_float = true;
			end = pass_digits(l, end + 1);
		}
		if (end < l->source.length && (data[end] | 0x20) == 'e') {
			size_t exponent = end + 1 + (sign_at(l, end + 1) != '\0');
			if (is_digit(l, exponent)) {
				is_float = true;
				end = pass_digits(l, exponent);
			}
		}
	}
	char number[400];
	for (size_t i = start; i < end && digits < sizeof number - 1; i++)
		if (data[i] != '_')
			number[digits++] = data[i];
	number[digits] = '\0';
	if (end - start >= sizeof number)
		return lexer_fail(l, "a number has too many digits");
	if (!is_float && end - start == 1 && data[start] == '0' && end < l->source.length &&
	    strchr("xXoObB", data[end]))
		return lexer_fail(l, "numbers that are not decimal are not known");
	if (!is_float && number[0] == '0' && strspn(number, "0") != digits)
		return lexer_fail(l, "a number begins with 0");

	struct lexeme *lexeme = add(l, is_float ? LEXEME_FLOAT : LEXEME_INTEGER,
				    (struct text){data + start, end - start});
	if (!lexeme)
		return -1;
	errno = 0;
	if (is_float)
		lexeme->real = strtod(number, NULL);
	else
		lexeme->integer = strtoll(number, NULL, 10);
	if (!is_float && errno)
		return lexer_fail(l, "an integer is beyond 64 bits");
	l->at = end;
	return 0;
}

static int lex_operator(struct lexer *l)
{
	static const struct {
		char spelling[3];
		int operator;
	} pairs[] = {
		{"**", OPERATOR_POWER},	    {"//", OPERATOR_FLOOR_DIVIDE}, {"==", OPERATOR_EQUAL},
		{"!=", OPERATOR_NOT_EQUAL}, {"<=", OPERATOR_AT_MOST},	   {">=", OPERATOR_AT_LEAST},
	};
	char c = l->source.data[l->at];
	int operator = c && strchr("+-*/%~[](){}<>=.:|,", c) ? c : 0;
	size_t width = 1;
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
		if (sees(l, pairs[i].spelling)) {
			operator = pairs[i].operator;
			width = 2;
		}
	if (!operator) {
		char what[40];
		snprintf(what, sizeof what, c >= ' ' && c < 127 ? "unexpected character '%c'"
								: "unexpected byte 0x%02x", (unsigned char)c);
		return lexer_fail(l, what);
	}

	const char *opening = strchr("([{", operator), *closing = strchr(")]}", operator);
	if (width == 1 && opening) {
		if (l->depth == TEMPLATE_MAX_NESTING)
			return lexer_fail(l, "brackets are nested too deeply");
		l->brackets[l->depth++] = ")]}"[opening - "([{"];
	} else if (width == 1 && closing) {
		if (l->depth == 0 || l->brackets[--l->depth] != c)
			return lexer_fail(l, "a bracket is closed that was not opened");
	}
	struct lexeme *lexeme = add(l, LEXEME_OPERATOR, (struct text){l->source.data + l->at, width});
	if (!lexeme)
		return -1;
	lexeme->operator = operator;
	l->at += width;
	return 0;
}

static bool is_name_byte(char c)
{
	return c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

/* The inside of a tag, to its end. */
static int lex_tag(struct lexer *l, bool block)
{
	const char *end = block ? "%}" : "}}";
	int line = l->line;
	bool behind_dot = false;
	l->depth = 0;
	for (;;) {
		advance(l, space_end(l, l->at));
		if (l->at == l->source.length) {
			l->line = line;
			return lexer_fail(l, block ? "a tag is never closed with %}"
						   : "an expression is never closed with }}");
		}
		int at_line = l->line;
		if (l->depth == 0 && pass_end(l, end, block)) {
			struct lexeme *lexeme = add(l, block ? LEXEME_TAG_END : LEXEME_PRINT_END,
						    (struct text){end, 2});
			if (lexeme)
				lexeme->line = at_line;
			return lexeme ? 0 : -1;
		}
		char c = l->source.data[l->at];
		int result;
		if (c == '"' || c == '\'') {
			result = lex_string(l);
		} else if (c >= '0' && c <= '9') {
			result = lex_number(l, behind_dot);
		} else if (is_name_byte(c)) {
			size_t start = l->at;
			while (l->at < l->source.length && is_name_byte(l->source.data[l->at]))
				l->at++;
			result = add(l, LEXEME_NAME, (struct text){l->source.data + start, l->at - start})
					 ? 0
					 : -1;
		} else {
			result = lex_operator(l);
		}
		if (result)
			return -1;
		behind_dot = c == '.';
	}
}

int lexer_run(struct program *program, struct text source, struct lexeme **out, struct error *err)
{
	struct lexer l = {program, err, source, .line = 1, .line_starting = true, .end = out};
	*out = NULL;
	while (l.at < source.length) {
		size_t start = l.at, tag = start, behind;
		while (tag < source.length &&
		       !(source.data[tag] == '{' && tag + 1 < source.length &&
			 strchr("{%#", source.data[tag + 1]) && source.data[tag + 1]))
			tag++;
		if (tag == source.length) {
			if (!add(&l, LEXEME_DATA, (struct text){source.data + start, tag - start}))
				return -1;
			advance(&l, tag);
			break;
		}
		char kind = source.data[tag + 1], sign = sign_at(&l, tag + 2);
		if (add_data(&l, start, tag, sign, kind != '{'))
			return -1;
		if (kind == '%' && is_tag(&l, tag, "raw", &behind)) {
			if (lex_raw(&l, behind))
				return -1;
			continue;
		}
		if (kind != '#' && !add(&l, kind == '%' ? LEXEME_TAG_BEGIN : LEXEME_PRINT_BEGIN,
					(struct text){source.data + tag, 2}))
			return -1;
		l.at = tag + 2 + (sign != '\0');
		if (kind == '#' ? lex_comment(&l) : lex_tag(&l, kind == '%'))
			return -1;
	}
	struct lexeme *last = add(&l, LEXEME_END, (struct text){"the end of the template", 23});
	if (!last)
		return -1;
	last->next = last;
	return 0;
}
