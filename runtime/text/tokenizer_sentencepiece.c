/*
 * tokenizer_sentencepiece.c - SentencePiece's tokenizer.model, read from its protobuf
 * (sentencepiece_model.proto of google/sentencepiece names the fields).
 *
 * SentencePiece merges the neighbours whose joined spelling has the best score. That is the
 * table of merges that bpe.c wants once every way to cut a piece in two is written down, with
 * the place of its score as the rank; equal scores get equal ranks, so that the leftmost wins.
 *
 * Control pieces ("<s>") written out in a text are not recognized: sentencepiece doesn't.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/text/tokenizer_internal.h"

#define MAX_PIECE_BYTES 512 /* cutting a piece takes time quadratic in it */

enum piece_type {
	PIECE_NORMAL = 1,
	PIECE_UNKNOWN = 2,
	PIECE_CONTROL = 3,
	PIECE_USER_DEFINED = 4,
	PIECE_UNUSED = 5,
	PIECE_BYTE = 6,
};

/* A protobuf message, or the field of it that was read last. */
struct message {
	const unsigned char *at, *end;
};
struct field {
	uint64_t number;
	int wire;
	uint64_t value;	      /* wire types 0, 1 and 5 */
	struct message bytes; /* wire type 2 */
};

struct scored {
	float score;
	int32_t id;
};

struct model {
	const char *name;
	struct scored *pieces; /* normal ones */
	size_t count, capacity;
	int32_t ids; /* pieces read so far */
	bool dummy_prefix, remove_spaces, escape_spaces;
	int64_t bos_id, eos_id;
	int byte_pieces;
	bool spaced; /* a user-defined piece holds a space */
};

static int malformed(const char *name, struct error *err)
{
	return error_run(err, "%s is not a SentencePiece model: its protobuf is malformed", name);
}

static int read_varint(struct message *message, uint64_t *value)
{
	*value = 0;
	for (int shift = 0; shift < 70 && message->at < message->end; shift += 7) {
		uint64_t byte = *message->at++;
		if (shift == 63 && byte > 1)
			return -1;
		*value |= (byte & 0x7f) << shift;
		if (byte < 0x80)
			return 0;
	}
	return -1;
}

/* 1 with the next field, 0 at the end, -1 where the bytes are no protobuf. */
static int read_field(struct message *message, struct field *field)
{
	uint64_t key;
	if (message->at == message->end)
		return 0;
	if (read_varint(message, &key) || key >> 3 == 0)
		return -1;
	*field = (struct field){.number = key >> 3, .wire = (int)(key & 7)};
	size_t left, width = field->wire == 1 ? 8 : 4;
	switch (field->wire) {
	case 0:
		return read_varint(message, &field->value) ? -1 : 1;
	case 1:
	case 5:
		if ((size_t)(message->end - message->at) < width)
			return -1;
		for (size_t i = 0; i < width; i++)
			field->value |= (uint64_t)message->at[i] << 8 * i;
		message->at += width;
		return 1;
	case 2:
		if (read_varint(message, &field->value))
			return -1;
		left = (size_t)(message->end - message->at);
		if (field->value > left)
			return -1;
		field->bytes = (struct message){message->at, message->at + field->value};
		message->at += field->value;
		return 1;
	default:
		return -1;
	}
}

/* The entry that a piece of each type has in the vocabulary. */
static int add_piece(struct tokenizer *tokenizer, struct model *model, const struct bytes *text,
		     float score, uint64_t type, struct error *err)
{
	uint32_t flags;
	int32_t id = model->ids++;
	struct added_token added = {.text = text->data, .length = text->length, .id = id};
	switch (type) {
	case PIECE_NORMAL:
		flags = TOKEN_MODEL;
		if (text->length > MAX_PIECE_BYTES)
			return error_run(err, "%s: piece %d has %zu bytes; the limit is %d", model->name,
					 id, text->length, MAX_PIECE_BYTES);
		if (!(score >= -3.4e38f && score <= 3.4e38f))
			return error_run(err, "%s: piece %d has no finite score", model->name, id);
		if (array_reserve(&model->pieces, &model->capacity, model->count + 1,
				  sizeof *model->pieces, err))
			return -1;
		model->pieces[model->count++] = (struct scored){score, id};
		break;
	case PIECE_UNKNOWN:
		flags = TOKEN_ADDED | TOKEN_SPECIAL;
		if (tokenizer->unk_id >= 0)
			return error_run(err, "%s has two unknown pieces", model->name);
		tokenizer->unk_id = id;
		break;
	case PIECE_CONTROL:
		flags = TOKEN_ADDED | TOKEN_SPECIAL;
		break;
	case PIECE_USER_DEFINED:
		flags = TOKEN_ADDED;
		model->spaced |= memchr(text->data, ' ', text->length) != NULL;
		if (added_set_add(&tokenizer->added_normalized, added, err))
			return -1;
		break;
	case PIECE_BYTE:
		flags = TOKEN_MODEL;
		model->byte_pieces++;
		break;
	default:
		return error_run(err, "%s: piece %d is of type %llu, which is not supported",
				 model->name, id, (unsigned long long)type);
	}
	return vocabulary_add(&tokenizer->vocabulary, text->data, text->length, id, flags, model->name,
			      err);
}

static int read_piece(struct tokenizer *tokenizer, struct model *model, struct message message,
		      struct error *err)
{
	struct bytes text = {0};
	struct field field;
	float score = 0;
	uint64_t type = PIECE_NORMAL;
	int more, result = -1;
	while ((more = read_field(&message, &field)) > 0) {
		uint32_t bits = (uint32_t)field.value;
		text.length = field.number == 1 ? 0 : text.length;
		if (field.number == 1 && field.wire == 2 &&
		    bytes_append(&text, field.bytes.at, field.value, err))
			goto fail;
		if (field.number == 2 && field.wire == 5)
			memcpy(&score, &bits, sizeof score);
		if (field.number == 3 && field.wire == 0)
			type = field.value;
	}
	if (more < 0)
		malformed(model->name, err);
	else if (!text.length)
		error_run(err, "%s: piece %d is empty", model->name, model->ids);
	else if (memchr(text.data, '\0', text.length) ||
		 utf8_check(text.data, text.length) < text.length)
		error_run(err, "%s: piece %d is not UTF-8 text without NUL", model->name, model->ids);
	else
		result = add_piece(tokenizer, model, &text, score, type, err);
fail:
	bytes_free(&text);
	return result;
}

static int read_trainer(struct tokenizer *tokenizer, struct model *model, struct message message,
			struct error *err)
{
	static const char *const types[] = {"", "Unigram", "BPE", "Word", "Char"};
	struct field field;
	uint64_t type = 1;
	int more;
	while ((more = read_field(&message, &field)) > 0) {
		if (field.wire != 0)
			continue;
		switch (field.number) {
		case 3:
			type = field.value;
			break;
		case 24:
			if (field.value)
				return error_run(err, "%s: treat_whitespace_as_suffix is not supported",
						 model->name);
			break;
		case 35:
			tokenizer->byte_fallback = field.value != 0;
			break;
		case 41:
			model->bos_id = (int64_t)field.value;
			break;
		case 42:
			model->eos_id = (int64_t)field.value;
			break;
		}
	}
	if (more < 0)
		return malformed(model->name, err);
	if (type != 2)
		return error_run(err, "%s: the model type %s is not supported, only BPE is", model->name,
				 type >= 1 && type <= 4 ? types[type] : "given");
	return 0;
}

static int read_normalizer(struct model *model, struct message message, struct error *err)
{
	struct field field;
	int more;
	while ((more = read_field(&message, &field)) > 0) {
		if (field.number == 2 && field.wire == 2 && field.value)
			return error_run(err, "%s: a normalizer with a character map is not supported, "
					      "only \"identity\" is",
					 model->name);
		if (field.wire != 0)
			continue;
		bool value = field.value != 0;
		if (field.number == 3)
			model->dummy_prefix = value;
		if (field.number == 4)
			model->remove_spaces = value;
		if (field.number == 5)
			model->escape_spaces = value;
	}
	return more < 0 ? malformed(model->name, err) : 0;
}

static int read_model(struct tokenizer *tokenizer, struct model *model, struct message message,
		      struct error *err)
{
	struct field field;
	bool has_trainer = false;
	int more;
	while ((more = read_field(&message, &field)) > 0) {
		if (field.wire != 2)
			continue;
		if ((field.number == 1 && read_piece(tokenizer, model, field.bytes, err)) ||
		    (field.number == 2 && read_trainer(tokenizer, model, field.bytes, err)) ||
		    (field.number == 3 && read_normalizer(model, field.bytes, err)))
			return -1;
		has_trainer |= field.number == 2;
	}
	if (more < 0 || !has_trainer)
		return malformed(model->name, err);
	if (!model->count || tokenizer->unk_id < 0)
		return error_run(err, "%s has no %s pieces", model->name,
				 model->count ? "unknown" : "normal");
	if (model->byte_pieces != (tokenizer->byte_fallback ? 256 : 0))
		return error_run(err, "%s has %d byte pieces, but byte_fallback is %s", model->name,
				 model->byte_pieces, tokenizer->byte_fallback ? "true" : "false");
	if (model->spaced && model->remove_spaces)
		return error_run(err, "%s: a user-defined piece with a space in it is not supported "
				      "together with remove_extra_whitespaces",
				 model->name);
	if (!model->escape_spaces)
		return error_run(err, "%s: escape_whitespaces false is not supported", model->name);
	return 0;
}

/* Every character of a piece needs an id of its own to be merged from; where it is no piece,
 * it gets one beyond the vocabulary, which bpe.c turns into bytes. */
static int add_characters(struct tokenizer *tokenizer, const struct model *model, struct error *err)
{
	struct vocabulary *vocabulary = &tokenizer->vocabulary;
	char text[5] = "";
	for (size_t i = 0; i < model->count; i++) {
		struct token token = vocabulary->tokens[model->pieces[i].id];
		for (size_t at = 0, width; at < token.length; at += width) {
			const char *from = vocabulary->text.data + token.offset + at;
			width = utf8_width(*from);
			memcpy(text, from, width);
			text[width] = '\0';
			if (vocabulary_find(vocabulary, text, width) < 0 &&
			    vocabulary_add(vocabulary, text, width, (int32_t)vocabulary->size,
					   TOKEN_MODEL, model->name, err))
				return -1;
		}
	}
	return 0;
}

/* Whether an id may be half of a merge: a normal piece, or a character that is none. */
static bool may_merge(const struct tokenizer *tokenizer, int32_t id)
{
	return id >= 0 && tokenizer->vocabulary.tokens[id].flags & TOKEN_MODEL;
}

static int add_merges_of(struct tokenizer *tokenizer, int32_t id, uint32_t rank, struct error *err)
{
	const struct token token = tokenizer->vocabulary.tokens[id];
	const char *text = tokenizer->vocabulary.text.data + token.offset;
	for (size_t cut = utf8_width(*text); cut < token.length; cut += utf8_width(text[cut])) {
		int32_t left = vocabulary_find(&tokenizer->vocabulary, text, cut);
		if (!may_merge(tokenizer, left))
			continue;
		int32_t right =
			vocabulary_find(&tokenizer->vocabulary, text + cut, token.length - cut);
		if (may_merge(tokenizer, right) &&
		    merge_table_add(&tokenizer->merges, (struct merge){left, right, rank, id}, err))
			return -1;
	}
	return 0;
}

static int compare_scores(const void *left, const void *right)
{
	const struct scored *a = left, *b = right;
	if (a->score != b->score)
		return a->score > b->score ? -1 : 1;
	return a->id < b->id ? -1 : 1;
}

static int add_merges(struct tokenizer *tokenizer, const struct model *model, struct error *err)
{
	uint32_t rank = 0;
	qsort(model->pieces, model->count, sizeof *model->pieces, compare_scores);
	for (size_t i = 0; i < model->count; i++) {
		rank += i && model->pieces[i].score != model->pieces[i - 1].score;
		if (add_merges_of(tokenizer, model->pieces[i].id, rank, err))
			return -1;
	}
	return 0;
}

static int add_steps(struct tokenizer *tokenizer, const struct model *model, struct error *err)
{
	const char *name = model->name;
	struct normalizer *step;
	struct decoder *decoder;
	if (model->remove_spaces && !tokenizer_add_normalizer(tokenizer, NORMALIZE_COLLAPSE, name, err))
		return -1;
	if (model->dummy_prefix) {
		step = tokenizer_add_normalizer(tokenizer, NORMALIZE_PREPEND, name, err);
		if (!step || bytes_append(&step->content, " ", 1, err))
			return -1;
	}
	step = tokenizer_add_normalizer(tokenizer, NORMALIZE_REPLACE, name, err);
	if (!step || bytes_append(&step->content, TOKENIZER_SPACE, strlen(TOKENIZER_SPACE), err) ||
	    pattern_open_literal(&step->pattern, " ", 1, name, err))
		return -1;
	decoder = tokenizer_add_decoder(tokenizer, DECODE_REPLACE, name, err);
	if (!decoder || bytes_append(&decoder->content, " ", 1, err) ||
	    bytes_append(&decoder->pattern, TOKENIZER_SPACE, strlen(TOKENIZER_SPACE), err) ||
	    !tokenizer_add_decoder(tokenizer, DECODE_BYTE_FALLBACK, name, err) ||
	    !tokenizer_add_decoder(tokenizer, DECODE_FUSE, name, err))
		return -1;
	decoder = tokenizer_add_decoder(tokenizer, DECODE_STRIP, name, err);
	if (!decoder || bytes_append(&decoder->content, " ", 1, err))
		return -1;
	/* Where spaces at the start were removed, sentencepiece writes none there either. */
	decoder->start = model->remove_spaces ? INT32_MAX : model->dummy_prefix;
	return 0;
}

/* BOS goes before a text and EOS does not go behind it, as Llama's tokenizer has it where
 * tokenizer_config.json says nothing; its id is kept in the list for the case that the file
 * wants it. */
static int add_specials(struct tokenizer *tokenizer, const struct model *model, struct error *err)
{
	const int64_t ids[2] = {model->bos_id, model->eos_id};
	struct id_list *lists[2] = {&tokenizer->before, &tokenizer->after};
	for (int i = 0; i < 2; i++) {
		if (ids[i] < 0 || ids[i] >= tokenizer->vocab_size)
			continue; /* the model has none */
		if (id_list_append(lists[i], (int32_t)ids[i], err))
			return -1;
	}
	tokenizer->after.count = 0;
	return 0;
}

int tokenizer_open_sentencepiece(struct tokenizer **out, const void *data, size_t length,
				 const char *name, struct error *err)
{
	struct message message = {data, (const unsigned char *)data + length};
	struct model model = {
		.name = name,
		.dummy_prefix = true,
		.remove_spaces = true,
		.escape_spaces = true,
		.bos_id = 1,
		.eos_id = 2,
	};
	struct tokenizer *tokenizer = tokenizer_new(err);
	int result = -1;
	if (!tokenizer || read_model(tokenizer, &model, message, err))
		goto fail;
	tokenizer->vocab_size = model.ids;
	tokenizer->fuse_unk = true;
	added_set_finish(&tokenizer->added_normalized);
	if (add_characters(tokenizer, &model, err) || add_merges(tokenizer, &model, err) ||
	    add_steps(tokenizer, &model, err) || add_specials(tokenizer, &model, err))
		goto fail;
	tokenizer_index(tokenizer);
	*out = tokenizer;
	tokenizer = NULL;
	result = 0;
fail:
	tokenizer_close(tokenizer);
	free(model.pieces);
	return result;
}
