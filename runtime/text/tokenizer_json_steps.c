/*
 * tokenizer_json_steps.c - the normalizer, pre-tokenizer, decoder and post-processor of a
 * tokenizer.json, turned into the elementary steps of tokenizer_internal.h. A type that is
 * not known is refused by name: a guess would give other ids without a word.
 */
#include <string.h>

#include "runtime/text/tokenizer_internal.h"

/* "'s|'t|…": what ByteLevel splits at by itself (encoder.py of openai/gpt-2). */
#define GPT2_PATTERN                                                                               \
	"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* A step's own "type"; NULL with an error where it has none. */
static const char *step_type(const json_t *step, const char *what, const char *name,
			     struct error *err)
{
	const char *type = NULL;
	if (!json_is_object(step)) {
		error_run(err, "%s: a %s is no JSON object", name, what);
		return NULL;
	}
	if (json_need(step, "type", name, err) || json_get_string(step, "type", &type, name, err)) {
		error_context(err, "%s", what);
		return NULL;
	}
	return type;
}

static int refuse_type(const char *what, const char *type, const char *name, struct error *err)
{
	return error_run(err, "%s: the %s \"%.60s\" is not supported", name, what, type);
}

static int get_text(const json_t *step, const char *key, struct bytes *out, const char *name,
		    struct error *err)
{
	const json_t *value = json_member(step, key);
	if (!json_is_string(value))
		return error_run(err, "%s: %s must be a string", name, key);
	return bytes_append(out, json_string_value(value), json_string_length(value), err);
}

/* As get_text, for exactly one character. */
static int get_char(const json_t *step, const char *key, struct bytes *out, const char *name,
		    struct error *err)
{
	if (get_text(step, key, out, name, err))
		return -1;
	if (!out->length || utf8_width(out->data[0]) != out->length)
		return error_run(err, "%s: %s must be one character", name, key);
	return 0;
}

/* {"String": "…"} or {"Regex": "…"}. */
static int get_pattern(const json_t *step, struct pattern **out, const char *name, struct error *err)
{
	const json_t *pattern = json_member(step, "pattern");
	const json_t *literal = json_member(pattern, "String"), *regex = json_member(pattern, "Regex");
	if (json_is_string(literal))
		return pattern_open_literal(out, json_string_value(literal),
					    json_string_length(literal), name, err);
	if (json_is_string(regex))
		return pattern_open(out, json_string_value(regex), json_string_length(regex), name,
				    err);
	return error_run(err, "%s: a pattern must be a String or a Regex", name);
}

int tokenizer_read_normalizer(struct tokenizer *tokenizer, const json_t *step, const char *name,
			      struct error *err)
{
	static const struct {
		const char *type;
		enum normalizer_kind kind;
		bool compose, compatible;
	} table[] = {
		{"NFC", NORMALIZE_UNICODE, true, false},  {"NFD", NORMALIZE_UNICODE, false, false},
		{"NFKC", NORMALIZE_UNICODE, true, true},  {"NFKD", NORMALIZE_UNICODE, false, true},
		{"Lowercase", NORMALIZE_LOWERCASE, 0, 0}, {"Prepend", NORMALIZE_PREPEND, 0, 0},
		{"Replace", NORMALIZE_REPLACE, 0, 0},	  {"Strip", NORMALIZE_STRIP, 0, 0},
	};
	if (!step)
		return 0;
	const char *type = step_type(step, "normalizer", name, err);
	if (!type)
		return -1;
	if (strcmp(type, "Sequence") == 0) {
		size_t i;
		const json_t *part;
		json_array_foreach(json_member(step, "normalizers"), i, part)
			if (tokenizer_read_normalizer(tokenizer, part, name, err))
				return -1;
		return 0;
	}
	size_t row = 0;
	while (row < sizeof table / sizeof *table && strcmp(table[row].type, type) != 0)
		row++;
	if (row == sizeof table / sizeof *table)
		return refuse_type("normalizer", type, name, err);
	struct normalizer *normalizer =
		tokenizer_add_normalizer(tokenizer, table[row].kind, name, err);
	if (!normalizer)
		return -1;
	normalizer->compose = table[row].compose;
	normalizer->compatible = table[row].compatible;
	switch (normalizer->kind) {
	case NORMALIZE_PREPEND:
		return get_text(step, "prepend", &normalizer->content, name, err);
	case NORMALIZE_REPLACE:
		return get_text(step, "content", &normalizer->content, name, err) ||
				       get_pattern(step, &normalizer->pattern, name, err)
			       ? -1
			       : 0;
	case NORMALIZE_STRIP:
		return json_get_bool(step, "strip_left", &normalizer->left, name, err) ||
				       json_get_bool(step, "strip_right", &normalizer->right, name, err)
			       ? -1
			       : 0;
	default:
		return 0;
	}
}

static struct split *add_regex_split(struct tokenizer *tokenizer, const char *regex,
				     enum split_behavior behavior, const char *name,
				     struct error *err)
{
	struct split *split = tokenizer_add_split(tokenizer, SPLIT_MATCHES, name, err);
	if (!split || pattern_open(&split->pattern, regex, strlen(regex), name, err))
		return NULL;
	split->behavior = behavior;
	return split;
}

static int get_behavior(const json_t *step, enum split_behavior *behavior, const char *name,
			struct error *err)
{
	static const char *const names[] = {
		[SPLIT_ISOLATED] = "Isolated",
		[SPLIT_REMOVED] = "Removed",
		[SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
		[SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
		[SPLIT_CONTIGUOUS] = "Contiguous",
	};
	const char *text = "Isolated";
	if (json_get_string(step, "behavior", &text, name, err))
		return -1;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(names[i], text) == 0) {
			*behavior = (enum split_behavior)i;
			return 0;
		}
	return refuse_type("split behavior", text, name, err);
}

static int read_split(struct tokenizer *tokenizer, const json_t *step, const char *name,
		      struct error *err)
{
	struct split *split = tokenizer_add_split(tokenizer, SPLIT_MATCHES, name, err);
	if (!split || json_need(step, "behavior", name, err) ||
	    get_behavior(step, &split->behavior, name, err) ||
	    json_get_bool(step, "invert", &split->invert, name, err) ||
	    get_pattern(step, &split->pattern, name, err))
		return -1;
	return 0;
}

static int read_byte_level(struct tokenizer *tokenizer, const json_t *step, const char *name,
			   struct error *err)
{
	bool prefix = true, use_regex = true;
	if (json_get_bool(step, "add_prefix_space", &prefix, name, err) ||
	    json_get_bool(step, "use_regex", &use_regex, name, err))
		return -1;
	if (prefix) {
		struct split *split = tokenizer_add_split(tokenizer, SPLIT_PREFIX, name, err);
		if (!split || bytes_append(&split->content, " ", 1, err))
			return -1;
	}
	if (use_regex && !add_regex_split(tokenizer, GPT2_PATTERN, SPLIT_ISOLATED, name, err))
		return -1;
	return tokenizer_add_split(tokenizer, SPLIT_BYTES, name, err) ? 0 : -1;
}

/* Metaspace's prepend_scheme, or what older files say in its place: "always", "first" or
 * "never". */
static const char *get_prepend_scheme(const json_t *step, const char *name, struct error *err)
{
	bool prefix = true;
	const char *scheme = NULL;
	if (json_get_bool(step, "add_prefix_space", &prefix, name, err) ||
	    json_get_string(step, "prepend_scheme", &scheme, name, err))
		return NULL;
	if (!scheme)
		return prefix ? "always" : "never";
	if (strcmp(scheme, "always") == 0 || strcmp(scheme, "first") == 0 ||
	    strcmp(scheme, "never") == 0)
		return scheme;
	refuse_type("prepend_scheme", scheme, name, err);
	return NULL;
}

static int read_metaspace(struct tokenizer *tokenizer, const json_t *step, const char *name,
			  struct error *err)
{
	bool cut = true;
	const char *scheme = get_prepend_scheme(step, name, err);
	struct split *split = tokenizer_add_split(tokenizer, SPLIT_REPLACE_SPACE, name, err);
	if (!scheme || !split || get_char(step, "replacement", &split->content, name, err) ||
	    json_get_bool(step, "split", &cut, name, err))
		return -1;
	const struct bytes *mark = &split->content;
	if (strcmp(scheme, "never") != 0) {
		split = tokenizer_add_split(tokenizer, SPLIT_PREFIX, name, err);
		if (!split || bytes_append(&split->content, mark->data, mark->length, err))
			return -1;
		split->first_only = strcmp(scheme, "first") == 0;
	}
	if (!cut)
		return 0;
	split = tokenizer_add_split(tokenizer, SPLIT_MATCHES, name, err);
	if (!split || pattern_open_literal(&split->pattern, mark->data, mark->length, name, err))
		return -1;
	split->behavior = SPLIT_MERGED_WITH_NEXT;
	return 0;
}

/* "\w+|[^\w\s]+" where \w is Rust's: with the joiners, without Oniguruma's superscripts. */
static int read_whitespace(struct tokenizer *tokenizer, const char *name, struct error *err)
{
	static const char regex[] = "(?:(?![\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}])"
				    "[\\w\\x{200c}\\x{200d}])+|"
				    "(?:[\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}]|"
				    "[^\\w\\s\\x{200c}\\x{200d}])+";
	struct split *split = add_regex_split(tokenizer, regex, SPLIT_REMOVED, name, err);
	if (!split)
		return -1;
	split->invert = true;
	return 0;
}

static int read_digits(struct tokenizer *tokenizer, const json_t *step, const char *name,
		       struct error *err)
{
	bool each = false;
	if (json_get_bool(step, "individual_digits", &each, name, err))
		return -1;
	return add_regex_split(tokenizer, "\\p{N}", each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, name, err)
		       ? 0
		       : -1;
}

static int read_punctuation(struct tokenizer *tokenizer, const json_t *step, const char *name,
			    struct error *err)
{
	enum split_behavior behavior = SPLIT_ISOLATED;
	if (get_behavior(step, &behavior, name, err))
		return -1;
	return add_regex_split(tokenizer, "[!-/:-@\\[-`{-~\\p{P}]", behavior, name, err) ? 0 : -1;
}

int tokenizer_read_pre_tokenizer(struct tokenizer *tokenizer, const json_t *step, const char *name,
				 struct error *err)
{
	if (!step)
		return 0;
	const char *type = step_type(step, "pre-tokenizer", name, err);
	if (!type)
		return -1;
	if (strcmp(type, "Sequence") == 0) {
		size_t i;
		const json_t *part;
		json_array_foreach(json_member(step, "pretokenizers"), i, part)
			if (tokenizer_read_pre_tokenizer(tokenizer, part, name, err))
				return -1;
		return 0;
	}
	if (strcmp(type, "Split") == 0)
		return read_split(tokenizer, step, name, err);
	if (strcmp(type, "ByteLevel") == 0)
		return read_byte_level(tokenizer, step, name, err);
	if (strcmp(type, "Metaspace") == 0)
		return read_metaspace(tokenizer, step, name, err);
	if (strcmp(type, "Digits") == 0)
		return read_digits(tokenizer, step, name, err);
	if (strcmp(type, "Punctuation") == 0)
		return read_punctuation(tokenizer, step, name, err);
	if (strcmp(type, "Whitespace") == 0)
		return read_whitespace(tokenizer, name, err);
	if (strcmp(type, "WhitespaceSplit") == 0)
		return add_regex_split(tokenizer, "\\s", SPLIT_REMOVED, name, err) ? 0 : -1;
	return refuse_type("pre-tokenizer", type, name, err);
}

static int read_decoder_fields(struct decoder *decoder, const json_t *step, const char *name,
			       struct error *err)
{
	int64_t start = 0, stop = 0;
	const char *scheme;
	switch (decoder->kind) {
	case DECODE_REPLACE:
		if (get_text(step, "content", &decoder->content, name, err) ||
		    get_text(json_member(step, "pattern"), "String", &decoder->pattern, name, err))
			return -1;
		return decoder->pattern.length ? 0 : error_run(err, "%s: an empty pattern", name);
	case DECODE_STRIP:
		if (get_char(step, "content", &decoder->content, name, err) ||
		    json_get_int(step, "start", 0, INT32_MAX, &start, name, err) ||
		    json_get_int(step, "stop", 0, INT32_MAX, &stop, name, err))
			return -1;
		decoder->start = (size_t)start;
		decoder->stop = (size_t)stop;
		return 0;
	case DECODE_METASPACE:
		scheme = get_prepend_scheme(step, name, err);
		if (!scheme || get_char(step, "replacement", &decoder->pattern, name, err))
			return -1;
		decoder->first_bare = strcmp(scheme, "never") != 0;
		return bytes_append(&decoder->content, " ", 1, err);
	default:
		return 0;
	}
}

/* Behind a fuse the decoders see one text, which a stream has only in parts: only what works
 * character by character may stand there. */
static int check_decoder_order(const struct tokenizer *tokenizer, const char *name, struct error *err)
{
	bool fused = false, fallback = false;
	for (size_t i = 0; i < tokenizer->decoder_count; i++) {
		const struct decoder *decoder = &tokenizer->decoders[i];
		enum decoder_kind kind = decoder->kind;
		bool by_character = kind == DECODE_FUSE || kind == DECODE_STRIP ||
				    (kind == DECODE_REPLACE && decoder->pattern.length ==
								       utf8_width(decoder->pattern.data[0]));
		if ((fused && !by_character) || (fallback && kind == DECODE_BYTE_FALLBACK))
			return error_run(err, "%s: the order of the decoders is not supported: number "
					      "%zu can't follow the others",
					 name, i);
		fused |= kind == DECODE_FUSE || kind == DECODE_BYTE_LEVEL;
		fallback |= kind == DECODE_BYTE_FALLBACK;
	}
	return 0;
}

int tokenizer_read_decoder(struct tokenizer *tokenizer, const json_t *step, const char *name,
			   struct error *err)
{
	static const char *const types[] = {
		[DECODE_REPLACE] = "Replace",
		[DECODE_STRIP] = "Strip",
		[DECODE_METASPACE] = "Metaspace",
		[DECODE_BYTE_FALLBACK] = "ByteFallback",
		[DECODE_FUSE] = "Fuse",
		[DECODE_BYTE_LEVEL] = "ByteLevel",
	};
	if (!step) {
		tokenizer->no_decoder = true;
		return 0;
	}
	const char *type = step_type(step, "decoder", name, err);
	if (!type)
		return -1;
	if (strcmp(type, "Sequence") == 0) {
		size_t i;
		const json_t *part;
		json_array_foreach(json_member(step, "decoders"), i, part)
			if (tokenizer_read_decoder(tokenizer, part, name, err))
				return -1;
		return 0;
	}
	size_t kind = 0;
	while (kind < sizeof types / sizeof *types && strcmp(types[kind], type) != 0)
		kind++;
	if (kind == sizeof types / sizeof *types)
		return refuse_type("decoder", type, name, err);
	struct decoder *decoder =
		tokenizer_add_decoder(tokenizer, (enum decoder_kind)kind, name, err);
	if (!decoder || read_decoder_fields(decoder, step, name, err))
		return -1;
	return check_decoder_order(tokenizer, name, err);
}

/* The ids that a template writes for one of its special tokens. */
static int append_special(struct tokenizer *tokenizer, struct id_list *list, const json_t *processor,
			  const json_t *special, const char *name, struct error *err)
{
	const char *key = NULL;
	size_t i;
	const json_t *value;
	if (json_need(special, "id", name, err) || json_get_string(special, "id", &key, name, err))
		return -1;
	const json_t *ids = json_member(
		json_member(json_member(processor, "special_tokens"), key), "ids");
	if (!json_is_array(ids))
		return error_run(err, "%s: the template's token \"%.60s\" has no ids", name, key);
	json_array_foreach(ids, i, value) {
		int64_t id;
		if (json_to_int(value, &id) || id < 0 || id >= tokenizer->vocab_size ||
		    !vocabulary_token(&tokenizer->vocabulary, (int32_t)id))
			return error_run(err, "%s: the template's token \"%.60s\" has an id that the "
					      "vocabulary doesn't have",
					 name, key);
		if (id_list_append(list, (int32_t)id, err))
			return -1;
	}
	return 0;
}

static int read_template(struct tokenizer *tokenizer, const json_t *step, const char *name,
			 struct error *err)
{
	struct id_list *list = &tokenizer->before;
	size_t i;
	const json_t *part;
	if (tokenizer->has_template)
		return error_run(err, "%s: two templates after one another are not supported", name);
	tokenizer->has_template = true;
	json_array_foreach(json_member(step, "single"), i, part) {
		const json_t *special = json_member(part, "SpecialToken");
		if (special) {
			if (append_special(tokenizer, list, step, special, name, err))
				return -1;
		} else if (json_member(part, "Sequence") && list == &tokenizer->before) {
			list = &tokenizer->after;
		} else {
			list = NULL;
			break;
		}
	}
	if (list != &tokenizer->after)
		return error_run(err, "%s: the template must hold one sequence and special tokens", name);
	return 0;
}

int tokenizer_read_post_processor(struct tokenizer *tokenizer, const json_t *step, const char *name,
				  struct error *err)
{
	if (!step)
		return 0;
	const char *type = step_type(step, "post-processor", name, err);
	if (!type)
		return -1;
	if (strcmp(type, "Sequence") == 0) {
		size_t i;
		const json_t *part;
		json_array_foreach(json_member(step, "processors"), i, part)
			if (tokenizer_read_post_processor(tokenizer, part, name, err))
				return -1;
		return 0;
	}
	if (strcmp(type, "TemplateProcessing") == 0)
		return read_template(tokenizer, step, name, err);
	/* ByteLevel only moves offsets. */
	return strcmp(type, "ByteLevel") == 0 ? 0 : refuse_type("post-processor", type, name, err);
}
