#include "runtime/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/text/tokenizer_internal.h"

struct tokenizer *tokenizer_new(struct error *err)
{
	struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
	if (!tokenizer) {
		error_memory(err, "a tokenizer");
		return NULL;
	}
	tokenizer->unk_id = -1;
	return tokenizer;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
	if (!tokenizer)
		return;
	vocabulary_free(&tokenizer->vocabulary);
	free(tokenizer->merges.slots);
	added_set_free(&tokenizer->added);
	added_set_free(&tokenizer->added_normalized);
	for (size_t i = 0; i < tokenizer->normalizer_count; i++) {
		pattern_close(tokenizer->normalizers[i].pattern);
		bytes_free(&tokenizer->normalizers[i].content);
	}
	for (size_t i = 0; i < tokenizer->split_count; i++) {
		pattern_close(tokenizer->splits[i].pattern);
		bytes_free(&tokenizer->splits[i].content);
	}
	for (size_t i = 0; i < tokenizer->decoder_count; i++) {
		bytes_free(&tokenizer->decoders[i].pattern);
		bytes_free(&tokenizer->decoders[i].content);
	}
	free(tokenizer->before.data);
	free(tokenizer->after.data);
	free(tokenizer);
}

static int32_t model_id(const struct tokenizer *tokenizer, const char *text, size_t length)
{
	int32_t id = vocabulary_find(&tokenizer->vocabulary, text, length);
	return id >= 0 && tokenizer->vocabulary.tokens[id].flags & TOKEN_MODEL ? id : -1;
}

void tokenizer_index(struct tokenizer *tokenizer)
{
	for (int byte = 0; byte < 256; byte++) {
		char text[8];
		snprintf(text, sizeof text, "<0x%02X>", byte);
		tokenizer->byte_ids[byte] = model_id(tokenizer, text, 6);
	}
	for (int32_t code = 0; code < (int32_t)(sizeof tokenizer->char_ids / 4); code++) {
		char text[2] = {(char)code};
		if (code >= 0x80) {
			text[0] = (char)(0xc0 | code >> 6);
			text[1] = (char)(0x80 | (code & 0x3f));
		}
		tokenizer->char_ids[code] = model_id(tokenizer, text, code < 0x80 ? 1 : 2);
	}
}

static int too_many(const char *what, const char *name, struct error *err)
{
	return error_run(err, "%s has more than %d %s", name, TOKENIZER_MAX_STEPS, what);
}

struct normalizer *tokenizer_add_normalizer(struct tokenizer *tokenizer, enum normalizer_kind kind,
					    const char *name, struct error *err)
{
	if (tokenizer->normalizer_count == TOKENIZER_MAX_STEPS) {
		too_many("normalizers", name, err);
		return NULL;
	}
	struct normalizer *step = &tokenizer->normalizers[tokenizer->normalizer_count++];
	step->kind = kind;
	return step;
}

struct split *tokenizer_add_split(struct tokenizer *tokenizer, enum split_kind kind, const char *name,
				  struct error *err)
{
	if (tokenizer->split_count == TOKENIZER_MAX_STEPS) {
		too_many("pre-tokenizers", name, err);
		return NULL;
	}
	struct split *step = &tokenizer->splits[tokenizer->split_count++];
	step->kind = kind;
	return step;
}

struct decoder *tokenizer_add_decoder(struct tokenizer *tokenizer, enum decoder_kind kind,
				      const char *name, struct error *err)
{
	if (tokenizer->decoder_count == TOKENIZER_MAX_STEPS) {
		too_many("decoders", name, err);
		return NULL;
	}
	struct decoder *step = &tokenizer->decoders[tokenizer->decoder_count++];
	step->kind = kind;
	return step;
}

/* A token as tokenizer_config.json names it: its spelling, or an object that holds it. */
static int config_token(const struct tokenizer *tokenizer, const json_t *config, const char *key,
			int32_t *id, const char *name, struct error *err)
{
	const json_t *value = json_member(config, key);
	if (json_is_object(value))
		value = json_member(value, "content");
	if (!value)
		return 0;
	if (!json_is_string(value))
		return error_run(err, "%s: %s must be a string", name, key);
	*id = tokenizer_find(tokenizer, json_string_value(value));
	if (*id < 0)
		return error_run(err, "%s: %s is \"%.60s\", which the tokenizer doesn't have", name, key,
				 json_string_value(value));
	return 0;
}

/* Where the tokenizer's own file has no template, its configuration says whether BOS and EOS
 * stand around a text. A tokenizer.model brings its own ids and defaults in before and
 * after. */
static int apply_config(struct tokenizer *tokenizer, const json_t *config, const char *name,
			struct error *err)
{
	static const char *const keys[2][2] = {{"add_bos_token", "bos_token"},
					       {"add_eos_token", "eos_token"}};
	struct id_list *lists[2] = {&tokenizer->before, &tokenizer->after};
	if (!json_is_object(config))
		return error_run(err, "%s is not a JSON object", name);
	for (int i = 0; i < 2; i++) {
		struct id_list *list = lists[i];
		bool add = list->count > 0;
		int32_t id = list->data ? list->data[0] : -1;
		if (json_get_bool(config, keys[i][0], &add, name, err))
			return -1;
		list->count = 0;
		if (!add)
			continue;
		if (config_token(tokenizer, config, keys[i][1], &id, name, err))
			return -1;
		if (id < 0)
			return error_run(err, "%s: %s is true, but no %s is named", name, keys[i][0],
					 keys[i][1]);
		if (id_list_append(list, id, err))
			return -1;
	}
	return 0;
}

int tokenizer_open(struct tokenizer **out, const char *folder, struct error *err)
{
	struct tokenizer *tokenizer = NULL;
	json_t *config = NULL;
	char *json_path = file_join(folder, "tokenizer.json", err), *model_path = NULL;
	char *config_path = NULL, *data = NULL;
	size_t length;
	int result = -1;
	if (!json_path || !(model_path = file_join(folder, "tokenizer.model", err)) ||
	    !(config_path = file_join(folder, "tokenizer_config.json", err)))
		goto fail;
	bool is_json = file_exists(json_path);
	if (!is_json && !file_exists(model_path)) {
		error_usage(err, "%s holds neither tokenizer.json nor tokenizer.model", folder);
		goto fail;
	}
	const char *path = is_json ? json_path : model_path;
	if (file_read(path, TOKENIZER_MAX_FILE, &data, &length, err) ||
	    (is_json ? tokenizer_open_json(&tokenizer, data, length, path, err)
		     : tokenizer_open_sentencepiece(&tokenizer, data, length, path, err)))
		goto fail;
	if (!tokenizer->has_template && file_exists(config_path)) {
		config = json_read_file(config_path, TOKENIZER_MAX_FILE, err);
		if (!config || apply_config(tokenizer, config, config_path, err))
			goto fail;
	}
	*out = tokenizer;
	tokenizer = NULL;
	result = 0;
fail:
	tokenizer_close(tokenizer);
	json_decref(config);
	free(data);
	free(json_path);
	free(model_path);
	free(config_path);
	return result;
}

int32_t tokenizer_vocab_size(const struct tokenizer *tokenizer)
{
	return tokenizer->vocab_size;
}

int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *token)
{
	int32_t id = vocabulary_find(&tokenizer->vocabulary, token, strlen(token));
	return id < tokenizer->vocab_size ? id : -1;
}

int tokenizer_check_growth(size_t before, size_t after, struct error *err)
{
	if (after / 64 <= before + 1024)
		return 0;
	return error_run(err, "the tokenizer's own rules blow a text of %zu bytes up to more than %zu",
			 before, after);
}

int tokenizer_normalize(const struct tokenizer *tokenizer, struct matcher *matcher,
			struct bytes *text, struct bytes *spare, struct error *err)
{
	size_t before = text->length;
	for (size_t i = 0; i < tokenizer->normalizer_count; i++)
		if (normalizer_run(&tokenizer->normalizers[i], matcher, text, spare, err) ||
		    tokenizer_check_growth(before, text->length, err))
			return -1;
	return 0;
}

/* A part of the input between added tokens: normalized, searched for the added tokens that
 * are looked for in normalized text, split and encoded. */
static int encode_plain(struct encoder *encoder, const char *text, size_t length, bool at_start,
			struct error *err)
{
	const struct tokenizer *tokenizer = encoder->tokenizer;
	struct bytes *normal = &encoder->text;
	struct added_match match = {0};
	normal->length = 0;
	if (bytes_append(normal, text, length, err) ||
	    tokenizer_normalize(tokenizer, encoder->matcher, normal, &encoder->spare, err))
		return -1;
	if (normal->length > INT32_MAX)
		return error_run(err, "a text of %zu bytes is too long to tokenize", normal->length);
	for (;;) {
		size_t done = match.end;
		const struct added_token *token = added_set_next(
			&tokenizer->added_normalized, normal->data, normal->length, &match);
		size_t end = token ? match.start : normal->length;
		if (end > done && split_run(encoder, 0, normal->data + done, end - done,
					    at_start && done == 0, err))
			return -1;
		if (!token)
			return 0;
		if (id_list_append(&encoder->ids, token->id, err))
			return -1;
	}
}

static int encode_text(struct encoder *encoder, const char *text, size_t length, struct error *err)
{
	struct added_match match = {0};
	for (;;) {
		size_t done = match.end;
		const struct added_token *token =
			added_set_next(&encoder->tokenizer->added, text, length, &match);
		size_t end = token ? match.start : length;
		if (end > done && encode_plain(encoder, text + done, end - done, done == 0, err))
			return -1;
		if (!token)
			return 0;
		if (id_list_append(&encoder->ids, token->id, err))
			return -1;
	}
}

static int append_all(struct id_list *ids, const struct id_list *more, struct error *err)
{
	for (size_t i = 0; i < more->count; i++)
		if (id_list_append(ids, more->data[i], err))
			return -1;
	return 0;
}

static void encoder_free(struct encoder *encoder)
{
	matcher_close(encoder->matcher);
	free(encoder->ids.data);
	bytes_free(&encoder->text);
	bytes_free(&encoder->spare);
	for (size_t i = 0; i < encoder->tokenizer->split_count; i++) {
		bytes_free(&encoder->levels[i].text);
		free(encoder->levels[i].pieces);
	}
	free(encoder->symbols);
	free(encoder->heap);
}

int tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, bool special,
		     int32_t **ids, size_t *count, struct error *err)
{
	struct encoder encoder = {.tokenizer = tokenizer, .length = length};
	int result = -1;
	size_t valid = utf8_check(text, length);
	if (valid < length)
		return error_usage(err, "the text is not UTF-8: byte %zu is 0x%02x", valid,
				   (unsigned char)text[valid]);
	if (length > INT32_MAX)
		return error_usage(err, "a text of %zu bytes is too long to tokenize", length);
	/* Room for one id at least, so that an empty list is no NULL. */
	if (matcher_open(&encoder.matcher, length, err) ||
	    array_reserve(&encoder.ids.data, &encoder.ids.capacity, 1, sizeof **ids, err) ||
	    (special && append_all(&encoder.ids, &tokenizer->before, err)) ||
	    encode_text(&encoder, text, length, err) ||
	    (special && append_all(&encoder.ids, &tokenizer->after, err)))
		goto fail;
	*ids = encoder.ids.data;
	*count = encoder.ids.count;
	encoder.ids.data = NULL;
	result = 0;
fail:
	encoder_free(&encoder);
	return result;
}
