/*
 * tokenizer_json.c - Hugging Face's tokenizer.json: the BPE model and the added tokens. The
 * steps around them are read in tokenizer_json_steps.c.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_internal.h"

static int read_vocabulary(struct tokenizer *tokenizer, json_t *vocab, const char *name,
			   struct error *err)
{
	const char *text;
	json_t *value;
	if (!json_is_object(vocab) || !json_object_size(vocab))
		return error_run(err, "%s: model.vocab must be an object that holds the tokens", name);
	json_object_foreach(vocab, text, value) {
		int64_t id;
		if (json_to_int(value, &id) || id < 0 || id >= TOKENIZER_MAX_IDS)
			return error_run(err, "%s: the id of the token \"%.60s\" must be an integer "
					      "from 0 to %d",
					 name, text, TOKENIZER_MAX_IDS - 1);
		if (vocabulary_add(&tokenizer->vocabulary, text, strlen(text), (int32_t)id, TOKEN_MODEL,
				   name, err))
			return -1;
	}
	return 0;
}

/* The two halves of a merge, which is "a b" or ["a", "b"]. */
static int merge_halves(const json_t *merge, size_t number, const char *half[2], size_t length[2],
			const char *name, struct error *err)
{
	if (json_is_string(merge)) {
		half[0] = json_string_value(merge);
		size_t total = json_string_length(merge);
		const char *space = memchr(half[0], ' ', total);
		if (space) {
			half[1] = space + 1;
			length[0] = (size_t)(space - half[0]);
			length[1] = total - length[0] - 1;
			if (!memchr(half[1], ' ', length[1]))
				return 0;
		}
	} else if (json_array_size(merge) == 2 && json_is_string(json_array_get(merge, 0)) &&
		   json_is_string(json_array_get(merge, 1))) {
		for (size_t i = 0; i < 2; i++) {
			half[i] = json_string_value(json_array_get(merge, i));
			length[i] = json_string_length(json_array_get(merge, i));
		}
		return 0;
	}
	return error_run(err, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", name, number);
}

static bool spells(const struct vocabulary *vocabulary, int32_t id, const struct bytes *text)
{
	const struct token *token = vocabulary_token(vocabulary, id);
	return token && token->length == text->length &&
	       memcmp(vocabulary->text.data + token->offset, text->data, text->length) == 0;
}

static int read_merges(struct tokenizer *tokenizer, const json_t *merges, const char *name,
		       struct error *err)
{
	const struct vocabulary *vocabulary = &tokenizer->vocabulary;
	struct bytes both = {0};
	size_t i;
	const json_t *merge;
	int32_t merged = -1;
	int result = -1;
	if (!json_is_array(merges))
		return error_run(err, "%s: model.merges must be an array", name);
	json_array_foreach(merges, i, merge) {
		const char *half[2];
		size_t length[2];
		int32_t ids[2];
		if (merge_halves(merge, i, half, length, name, err))
			goto fail;
		both.length = 0;
		for (int j = 0; j < 2; j++) {
			ids[j] = vocabulary_find(vocabulary, half[j], length[j]);
			if (bytes_append(&both, half[j], length[j], err))
				goto fail;
		}
		/* Ids were given in the order of merges: mostly it is the last one again, or the
		 * next, which saves a search in cold memory. */
		if (!spells(vocabulary, merged, &both) && !spells(vocabulary, ++merged, &both))
			merged = vocabulary_find(vocabulary, both.data, both.length);
		if (ids[0] < 0 || ids[1] < 0 || merged < 0) {
			error_run(err,
				  "%s: merge %zu, \"%.60s\" and \"%.60s\", names a token that the "
				  "vocabulary doesn't have",
				  name, i, half[0], half[1]);
			goto fail;
		}
		if (merge_table_add(&tokenizer->merges,
				    (struct merge){ids[0], ids[1], (uint32_t)i, merged}, err))
			goto fail;
	}
	result = 0;
fail:
	bytes_free(&both);
	return result;
}

/* Options that would change ids and that this tokenizer doesn't know must be off. */
static int refuse_options(const json_t *model, const char *name, struct error *err)
{
	static const char *const keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
	double dropout = 0;
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		const char *value = "";
		if (json_get_string(model, keys[i], &value, name, err))
			return -1;
		if (*value)
			return error_run(err, "%s: model.%s \"%.60s\" is not supported", name, keys[i],
					 value);
	}
	if (json_get_real(model, "dropout", 0, 1, &dropout, name, err))
		return -1;
	if (dropout > 0)
		return error_run(err, "%s: model.dropout %g is not supported", name, dropout);
	return 0;
}

static int read_model(struct tokenizer *tokenizer, const json_t *model, const char *name,
		      struct error *err)
{
	const char *type = "BPE", *unk = NULL;
	if (!json_is_object(model))
		return error_run(err, "%s has no model", name);
	/* Old files leave the type out; only a BPE model has merges. */
	if (json_get_string(model, "type", &type, name, err))
		return -1;
	if (strcmp(type, "BPE") != 0 || json_need(model, "merges", name, err))
		return error_run(err, "%s: the model type \"%.60s\" is not supported, only BPE is", name,
				 strcmp(type, "BPE") ? type : "without merges");
	if (refuse_options(model, name, err) ||
	    json_get_bool(model, "fuse_unk", &tokenizer->fuse_unk, name, err) ||
	    json_get_bool(model, "byte_fallback", &tokenizer->byte_fallback, name, err) ||
	    json_get_bool(model, "ignore_merges", &tokenizer->ignore_merges, name, err) ||
	    json_get_string(model, "unk_token", &unk, name, err) ||
	    read_vocabulary(tokenizer, json_member(model, "vocab"), name, err) ||
	    read_merges(tokenizer, json_member(model, "merges"), name, err))
		return -1;
	if (unk) {
		tokenizer->unk_id = vocabulary_find(&tokenizer->vocabulary, unk, strlen(unk));
		tokenizer->unk_missing = tokenizer->unk_id < 0;
	}
	tokenizer_index(tokenizer);
	return 0;
}

/* An added token either names one of the model's, or brings its own id. */
static int enter_token(struct tokenizer *tokenizer, const char *text, size_t length, int32_t id,
		       uint32_t flags, const char *name, struct error *err)
{
	int32_t known = vocabulary_find(&tokenizer->vocabulary, text, length);
	if (known < 0)
		return vocabulary_add(&tokenizer->vocabulary, text, length, id, flags, name, err);
	if (known != id)
		return error_run(err, "%s: the token \"%.60s\" has two ids, %d and %d", name, text,
				 known, id);
	tokenizer->vocabulary.tokens[id].flags |= flags;
	return 0;
}

static int read_added_token(struct tokenizer *tokenizer, struct matcher *matcher, const json_t *entry,
			    const char *name, struct error *err)
{
	struct added_token token = {0};
	struct bytes text = {0}, spare = {0};
	bool normalized = true, special = false;
	const json_t *content = json_member(entry, "content");
	int64_t id = -1;
	int result = -1;
	if (!json_is_string(content))
		return error_run(err, "%s: an added token has no content", name);
	if (json_need(entry, "id", name, err) ||
	    json_get_int(entry, "id", 0, TOKENIZER_MAX_IDS - 1, &id, name, err) ||
	    json_get_bool(entry, "single_word", &token.single_word, name, err) ||
	    json_get_bool(entry, "lstrip", &token.lstrip, name, err) ||
	    json_get_bool(entry, "rstrip", &token.rstrip, name, err) ||
	    json_get_bool(entry, "normalized", &normalized, name, err) ||
	    json_get_bool(entry, "special", &special, name, err))
		return error_context(err, "added token \"%.60s\"", json_string_value(content));
	if (!json_string_length(content))
		return 0; /* as Hugging Face does */
	token.id = (int32_t)id;
	uint32_t flags = TOKEN_ADDED | (special ? TOKEN_SPECIAL : 0) |
			 (normalized ? TOKEN_NORMALIZED : 0);
	if (enter_token(tokenizer, json_string_value(content), json_string_length(content), token.id,
			flags, name, err) ||
	    bytes_append(&text, json_string_value(content), json_string_length(content), err))
		goto fail;
	if (normalized && tokenizer_normalize(tokenizer, matcher, &text, &spare, err)) {
		error_context(err, "%s: added token \"%.60s\"", name, json_string_value(content));
		goto fail;
	}
	token.text = text.data;
	token.length = text.length;
	result = text.length ? added_set_add(normalized ? &tokenizer->added_normalized
						       : &tokenizer->added,
					     token, err)
			     : 0;
fail:
	bytes_free(&text);
	bytes_free(&spare);
	return result;
}

static int read_added_tokens(struct tokenizer *tokenizer, const json_t *added, const char *name,
			     struct error *err)
{
	struct matcher *matcher = NULL;
	size_t i;
	const json_t *entry;
	int result = -1;
	if (added && !json_is_array(added))
		return error_run(err, "%s: added_tokens must be an array", name);
	if (matcher_open(&matcher, 0, err))
		return -1;
	json_array_foreach(added, i, entry)
		if (read_added_token(tokenizer, matcher, entry, name, err))
			goto fail;
	added_set_finish(&tokenizer->added);
	added_set_finish(&tokenizer->added_normalized);
	result = 0;
fail:
	matcher_close(matcher);
	return result;
}

int tokenizer_open_json(struct tokenizer **out, const char *text, size_t length, const char *name,
			struct error *err)
{
	json_t *root = json_parse(text, length, name, err);
	struct tokenizer *tokenizer = root ? tokenizer_new(err) : NULL;
	int result = -1;
	if (!tokenizer)
		goto fail;
	if (!json_is_object(root)) {
		error_run(err, "%s is not a JSON object", name);
		goto fail;
	}
	if (read_model(tokenizer, json_member(root, "model"), name, err) ||
	    tokenizer_read_normalizer(tokenizer, json_member(root, "normalizer"), name, err) ||
	    tokenizer_read_pre_tokenizer(tokenizer, json_member(root, "pre_tokenizer"), name, err) ||
	    tokenizer_read_decoder(tokenizer, json_member(root, "decoder"), name, err) ||
	    read_added_tokens(tokenizer, json_member(root, "added_tokens"), name, err))
		goto fail;
	tokenizer->vocab_size = (int32_t)tokenizer->vocabulary.size;
	if (tokenizer_read_post_processor(tokenizer, json_member(root, "post_processor"), name, err))
		goto fail;
	*out = tokenizer;
	tokenizer = NULL;
	result = 0;
fail:
	tokenizer_close(tokenizer);
	json_decref(root);
	return result;
}
