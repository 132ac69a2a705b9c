/*
 * pattern.c - regular expressions, written for Oniguruma, run by PCRE2.
 *
 * The two agree on most of what pre-tokenizers use and differ in places that would change ids
 * without a word: what \s, \w and \h mean, whether ^ and $ know lines, what \p{Han} covers,
 * nested classes, "{2,3}+". pattern_translate spells the first kind out in a way that PCRE2
 * reads as Oniguruma does (doc/RE of kkos/oniguruma, syntax ONIG_SYNTAX_ONIGURUMA), and
 * refuses what it can't.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "runtime/text/tokenizer_internal.h"

#define PATTERN_MAX_LENGTH 16384
#define MATCH_LIMIT 10000000 /* of one search: well below a second, well above honest use */
#define MATCH_HEAP_KIB 65536
#define JIT_STACK_BYTES ((size_t)64 << 20)
/* A pattern may take time quadratic in the text without hitting a limit of PCRE2. Searches
 * advance by few characters, so that the clock can be watched in between. */
#define SEARCH_STRIDE 256
#define SECONDS_FOR_ANY 10.0
#define SECONDS_PER_BYTE 1e-5 /* honest patterns take a hundredth of that */

/* White_Space, and what is not; \x{180e} is space to PCRE2 alone. */
#define SPACE                                                                                      \
	"\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"          \
	"\\x{3000}"
#define NOT_SPACE                                                                                  \
	"\\x{00}-\\x{08}\\x{0e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-"        \
	"\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-"             \
	"\\x{2fff}\\x{3001}-\\x{10ffff}"
/* Alphabetic, marks, decimal digits, connecting punctuation, and Latin-1's six superscripts
 * and fractions, which Oniguruma's table counts in. */
#define WORD                                                                                       \
	"\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"                   \
	"\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"                                             \
	"\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define HEX "0-9A-Fa-f"

struct pattern {
	pcre2_code *code;
	char *name; /* for errors: the file */
};

struct matcher {
	pcre2_match_data *data;
	pcre2_match_context *context;
	pcre2_jit_stack *stack;
	double deadline; /* in this thread's own time, which other processes don't take from */
	unsigned int searches;
};

/* Where the translation of a pattern stands. */
struct translation {
	const char *at, *end;
	struct bytes out;
	bool in_class, class_starts;
	const char *refused; /* what can't be translated */
};

static int put(struct translation *t, const char *text, struct error *err)
{
	return bytes_append(&t->out, text, strlen(text), err);
}

static int copy(struct translation *t, size_t length, struct error *err)
{
	const char *from = t->at;
	t->at += length;
	return bytes_append(&t->out, from, length, err);
}

/* \p{Han} is a script in Oniguruma, but in PCRE2 that and its extensions. */
static int translate_property(struct translation *t, struct error *err)
{
	const char *close = t->end - t->at > 2 && t->at[2] == '{'
				    ? memchr(t->at, '}', (size_t)(t->end - t->at))
				    : NULL;
	if (!close) {
		t->refused = "\\p without braces";
		return 0;
	}
	const char *name = t->at + 3;
	bool negated = *name == '^';
	size_t length = (size_t)(close - name) - negated;
	if (length > 2 && !(length == 3 && memcmp(name + negated, "Any", 3) == 0)) {
		if (bytes_append(&t->out, t->at, 3 + negated, err) || put(t, "sc:", err))
			return -1;
		t->at += 3 + negated;
	}
	return copy(t, (size_t)(close + 1 - t->at), err);
}

static int translate_escape(struct translation *t, struct error *err)
{
	static const struct {
		char letter;
		const char *outside, *inside;
	} table[] = {
		{'s', "[" SPACE "]", SPACE},
		{'S', "[^" SPACE "]", NOT_SPACE},
		{'w', "[" WORD "]", WORD},
		{'W', "[^" WORD "]", NULL},
		{'h', "[" HEX "]", HEX},
		{'H', "[^" HEX "]", NULL},
		{'b', "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))", "\\x08"},
		{'B', "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))", NULL},
		{'v', "\\x0b", "\\x0b"},
		{'A', "\\A", NULL},
		{'Z', "\\Z", NULL},
		{'z', "\\z", NULL},
		{'d', "\\d", "\\d"},
		{'D', "\\D", "\\D"},
		{'r', "\\r", "\\r"},
		{'n', "\\n", "\\n"},
		{'t', "\\t", "\\t"},
		{'f', "\\f", "\\f"},
	};
	if (t->end - t->at < 2) {
		t->refused = "a backslash at the end";
		return 0;
	}
	char letter = t->at[1];
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		if (table[i].letter != letter)
			continue;
		const char *text = t->in_class ? table[i].inside : table[i].outside;
		t->refused = text ? NULL : "\\W, \\H, \\B or an anchor inside a class";
		t->at += 2;
		return text ? put(t, text, err) : 0;
	}
	if (letter == 'p' || letter == 'P')
		return translate_property(t, err);
	if (letter == 'x' && t->end - t->at > 2 && t->at[2] == '{')
		return copy(t, 2, err);
	if (letter == 'u' && t->end - t->at >= 6) {
		if (put(t, "\\x{", err) || bytes_append(&t->out, t->at + 2, 4, err) || put(t, "}", err))
			return -1;
		t->at += 6;
		return 0;
	}
	if ((letter >= '0' && letter <= '9') || (letter >= 'A' && letter <= 'Z') ||
	    (letter >= 'a' && letter <= 'z')) {
		t->refused = "an escape that is not known here";
		return 0;
	}
	/* Any other character stands for itself. */
	if ((unsigned char)letter >= 0x80) {
		t->at++;
		return copy(t, utf8_width(letter), err);
	}
	return copy(t, 2, err);
}

/* "{2,3}" and what follows it: "+" repeats an interval again in Oniguruma and makes it
 * possessive in PCRE2; "{2}?" is optional in one and lazy in the other. */
static int translate_brace(struct translation *t, struct error *err)
{
	const char *p = t->at + 1;
	bool comma = false;
	while (p < t->end && ((*p >= '0' && *p <= '9') || *p == ',')) {
		comma |= *p == ',';
		p++;
	}
	if (p == t->end || *p != '}')
		t->refused = "a brace that begins no interval";
	else if (t->at[1] == ',' || t->at[1] == '}')
		t->refused = "an interval without a lower bound";
	else if (p + 1 < t->end && (p[1] == '+' || (p[1] == '?' && !comma)))
		t->refused = "an interval with + or ? behind it";
	return t->refused ? 0 : copy(t, (size_t)(p + 1 - t->at), err);
}

/* "(?" is followed by a group kind that both know, or by options of which only i means the
 * same. */
static int translate_group(struct translation *t, struct error *err)
{
	const char *p = t->at + 1;
	if (p < t->end && *p == '*')
		t->refused = "(*";
	if (p == t->end || *p != '?')
		return copy(t, 1, err);
	p++;
	if (p < t->end && strchr(":=!>", *p))
		return copy(t, (size_t)(p + 1 - t->at), err);
	if (p + 1 < t->end && *p == '<' && (p[1] == '=' || p[1] == '!'))
		return copy(t, (size_t)(p + 2 - t->at), err);
	while (p < t->end && (*p == 'i' || *p == '-'))
		p++;
	if (p == t->end || (*p != ':' && *p != ')')) {
		t->refused = "a group that is not known here";
		return 0;
	}
	return copy(t, (size_t)(p + 1 - t->at), err);
}

static int translate_class(struct translation *t, struct error *err)
{
	char c = *t->at;
	bool starts = t->class_starts;
	t->class_starts = false;
	if (c == '[')
		t->refused = "a class inside a class";
	else if (c == '&' && t->at + 1 < t->end && t->at[1] == '&')
		t->refused = "&& inside a class";
	else if (c == ']' && !starts)
		t->in_class = false;
	return t->refused ? 0 : copy(t, 1, err);
}

static int pattern_translate(struct translation *t, struct error *err)
{
	while (t->at < t->end && !t->refused) {
		int result;
		if (*t->at == '\\') {
			t->class_starts = false;
			result = translate_escape(t, err);
		} else if (t->in_class) {
			result = translate_class(t, err);
		} else if (*t->at == '(') {
			result = translate_group(t, err);
		} else if (*t->at == '{') {
			result = translate_brace(t, err);
		} else {
			t->in_class = t->class_starts = *t->at == '[';
			result = copy(t, 1, err);
			if (!result && t->in_class && t->at < t->end && *t->at == '^')
				result = copy(t, 1, err);
		}
		if (result)
			return -1;
	}
	return 0;
}

static int pattern_compile(struct pattern **out, const char *regex, size_t length, uint32_t options,
			   const char *name, struct error *err)
{
	struct pattern *pattern = calloc(1, sizeof *pattern);
	pcre2_compile_context *context = pcre2_compile_context_create(NULL);
	int code = 0, result = -1;
	PCRE2_SIZE at = 0;
	if (!pattern || !context || !(pattern->name = strdup(name))) {
		error_memory(err, "a pattern");
		goto fail;
	}
	pcre2_set_newline(context, PCRE2_NEWLINE_LF);
	pcre2_set_max_pattern_length(context, 8 * PATTERN_MAX_LENGTH);
	pattern->code = pcre2_compile((PCRE2_SPTR)regex, length,
				      PCRE2_UTF | PCRE2_USE_OFFSET_LIMIT | options, &code, &at, context);
	if (!pattern->code) {
		PCRE2_UCHAR text[200];
		pcre2_get_error_message(code, text, sizeof text);
		error_run(err, "%s: bad pattern: %s near its character %zu", name, (char *)text, at);
		goto fail;
	}
	/* Where there is no JIT, or not for this pattern, the interpreter serves. */
	pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
	*out = pattern;
	pattern = NULL;
	result = 0;
fail:
	pcre2_compile_context_free(context);
	pattern_close(pattern);
	return result;
}

int pattern_open(struct pattern **out, const char *regex, size_t length, const char *name,
		 struct error *err)
{
	struct translation t = {.at = regex, .end = regex + length};
	int result = -1;
	if (length > PATTERN_MAX_LENGTH)
		error_run(err, "%s: a pattern is %zu bytes long; the limit is %d", name, length,
			  PATTERN_MAX_LENGTH);
	else if (!pattern_translate(&t, err)) {
		if (t.refused)
			error_run(err, "%s: the pattern \"%.200s\" has %s, which is not supported",
				  name, regex, t.refused);
		else
			result = pattern_compile(out, t.out.length ? t.out.data : "", t.out.length,
						 PCRE2_UCP | PCRE2_MULTILINE |
							 PCRE2_NEVER_BACKSLASH_C,
						 name, err);
	}
	bytes_free(&t.out);
	return result;
}

int pattern_open_literal(struct pattern **out, const char *text, size_t length, const char *name,
			 struct error *err)
{
	if (!length)
		return error_run(err, "%s: an empty pattern", name);
	return pattern_compile(out, text, length, PCRE2_LITERAL, name, err);
}

void pattern_close(struct pattern *pattern)
{
	if (!pattern)
		return;
	pcre2_code_free(pattern->code);
	free(pattern->name);
	free(pattern);
}

static double thread_seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int matcher_open(struct matcher **out, size_t length, struct error *err)
{
	struct matcher *matcher = calloc(1, sizeof *matcher);
	if (matcher) {
		matcher->data = pcre2_match_data_create(1, NULL);
		matcher->context = pcre2_match_context_create(NULL);
		matcher->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_BYTES, NULL);
	}
	if (!matcher || !matcher->data || !matcher->context) {
		matcher_close(matcher);
		return error_memory(err, "a pattern");
	}
	pcre2_set_match_limit(matcher->context, MATCH_LIMIT);
	pcre2_set_heap_limit(matcher->context, MATCH_HEAP_KIB);
	pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
	matcher->deadline = thread_seconds() + SECONDS_FOR_ANY + SECONDS_PER_BYTE * (double)length;
	*out = matcher;
	return 0;
}

void matcher_close(struct matcher *matcher)
{
	if (!matcher)
		return;
	pcre2_match_data_free(matcher->data);
	pcre2_match_context_free(matcher->context);
	pcre2_jit_stack_free(matcher->stack);
	free(matcher);
}

/* One search for a match that starts at `from` or a little behind. */
static int search(const struct pattern *pattern, struct matcher *matcher, const char *text,
		  size_t length, size_t from, struct error *err)
{
	PCRE2_UCHAR reason[200];
	if (++matcher->searches % 32 == 0 && thread_seconds() > matcher->deadline)
		return error_run(err, "%s: a pattern takes too long on this text", pattern->name);
	/* The text was checked to be UTF-8 once; checking it for each match would take
	 * quadratic time. */
	pcre2_set_offset_limit(matcher->context, from + SEARCH_STRIDE);
	int code = pcre2_match(pattern->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK,
			       matcher->data, matcher->context);
	if (code >= 0 || code == PCRE2_ERROR_NOMATCH)
		return code >= 0;
	pcre2_get_error_message(code, reason, sizeof reason);
	return error_run(err, "%s: a pattern fails on this text: %s", pattern->name, (char *)reason);
}

int pattern_next(const struct pattern *pattern, struct matcher *matcher, const char *text,
		 size_t length, struct match *match, struct error *err)
{
	while (length && match->from <= length) {
		int found = search(pattern, matcher, text, length, match->from, err);
		if (found < 0)
			return -1;
		if (!found) {
			match->from += SEARCH_STRIDE + 1;
			while (match->from < length &&
			       ((unsigned char)text[match->from] & 0xc0) == 0x80)
				match->from++;
			continue;
		}
		const PCRE2_SIZE *place = pcre2_get_ovector_pointer(matcher->data);
		size_t start = place[0], end = place[1];
		if (start < match->from || end < start || end > length)
			return error_run(err, "%s: a pattern matches backwards", pattern->name);
		if (start == end && match->any && match->end == end) {
			/* An empty match right behind the last one does not count. */
			match->from += match->from < length ? utf8_width(text[match->from]) : 1;
			continue;
		}
		match->start = start;
		match->end = match->from = end;
		match->any = true;
		return 1;
	}
	return 0;
}
