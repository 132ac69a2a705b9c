#include "runtime/text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

/* Multiplies and folds eight bytes at a time: spellings are short, and load time is what a
 * user waits for. */
static uint32_t hash_text(const char *text, size_t length)
{
	uint64_t hash = length * 0x9e3779b97f4a7c15ull, word;
	for (; length >= 8; text += 8, length -= 8) {
		memcpy(&word, text, 8);
		hash = (hash ^ word) * 0xff51afd7ed558ccdull;
		hash ^= hash >> 32;
	}
	word = 0;
	memcpy(&word, text, length);
	hash = (hash ^ word) * 0xc4ceb9fe1a85ec53ull;
	return (uint32_t)(hash ^ hash >> 32);
}

static struct vocabulary_slot *vocabulary_slot(const struct vocabulary *vocabulary, const char *text,
					       size_t length, uint32_t hash)
{
	size_t mask = vocabulary->slot_count - 1, at = hash & mask;
	for (;; at = (at + 1) & mask) {
		struct vocabulary_slot *slot = &vocabulary->slots[at];
		if (slot->id < 0)
			return slot;
		if (slot->hash != hash)
			continue;
		const struct token *token = &vocabulary->tokens[slot->id];
		if (token->length == length &&
		    memcmp(vocabulary->text.data + token->offset, text, length) == 0)
			return slot;
	}
}

static int vocabulary_grow(struct vocabulary *vocabulary, struct error *err)
{
	size_t count = vocabulary->slot_count ? vocabulary->slot_count * 2 : 256;
	struct vocabulary_slot *slots = malloc(count * sizeof *slots);
	if (!slots)
		return error_memory(err, "a vocabulary");
	for (size_t i = 0; i < count; i++)
		slots[i].id = -1;
	for (size_t i = 0; i < vocabulary->slot_count; i++) {
		struct vocabulary_slot slot = vocabulary->slots[i];
		if (slot.id < 0)
			continue;
		size_t at = slot.hash & (count - 1);
		while (slots[at].id >= 0)
			at = (at + 1) & (count - 1);
		slots[at] = slot;
	}
	free(vocabulary->slots);
	vocabulary->slots = slots;
	vocabulary->slot_count = count;
	return 0;
}

int vocabulary_add(struct vocabulary *vocabulary, const char *text, size_t length, int32_t id,
		   uint32_t flags, const char *name, struct error *err)
{
	if (id < 0 || id >= TOKENIZER_MAX_IDS)
		return error_run(err, "%s: the token \"%.60s\" has the id %d; ids go from 0 to %d", name,
				 text, id, TOKENIZER_MAX_IDS - 1);
	if (vocabulary->text.length + length >= UINT32_MAX)
		return error_run(err, "%s: the vocabulary's spellings exceed 4 GiB", name);
	if (vocabulary_token(vocabulary, id))
		return error_run(err, "%s: the id %d belongs to two tokens, one is \"%.60s\"", name, id,
				 text);
	if (vocabulary->used * 2 >= vocabulary->slot_count && vocabulary_grow(vocabulary, err))
		return -1;
	uint32_t hash = hash_text(text, length);
	struct vocabulary_slot *slot = vocabulary_slot(vocabulary, text, length, hash);
	if (slot->id >= 0)
		return error_run(err, "%s: the token \"%.60s\" has two ids, %d and %d", name, text,
				 slot->id, id);
	size_t size = (size_t)id + 1;
	if (array_reserve(&vocabulary->tokens, &vocabulary->capacity, size,
			  sizeof *vocabulary->tokens, err))
		return -1;
	for (; vocabulary->size < size; vocabulary->size++)
		vocabulary->tokens[vocabulary->size] = (struct token){0};
	vocabulary->tokens[id] =
		(struct token){(uint32_t)vocabulary->text.length, (uint32_t)length, flags};
	if (bytes_append(&vocabulary->text, text, length, err))
		return -1;
	*slot = (struct vocabulary_slot){hash, id};
	vocabulary->used++;
	return 0;
}

int32_t vocabulary_find(const struct vocabulary *vocabulary, const char *text, size_t length)
{
	if (!vocabulary->used)
		return -1;
	return vocabulary_slot(vocabulary, text, length, hash_text(text, length))->id;
}

const struct token *vocabulary_token(const struct vocabulary *vocabulary, int32_t id)
{
	if (id < 0 || (size_t)id >= vocabulary->size || !vocabulary->tokens[id].flags)
		return NULL;
	return &vocabulary->tokens[id];
}

void vocabulary_free(struct vocabulary *vocabulary)
{
	bytes_free(&vocabulary->text);
	free(vocabulary->tokens);
	free(vocabulary->slots);
}

static struct merge *merge_slot(const struct merge_table *table, int32_t left, int32_t right)
{
	uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15ull;
	size_t mask = table->slot_count - 1, at = (hash >> 32) & mask;
	while (table->slots[at].left >= 0 &&
	       (table->slots[at].left != left || table->slots[at].right != right))
		at = (at + 1) & mask;
	return &table->slots[at];
}

static int merge_table_grow(struct merge_table *table, struct error *err)
{
	struct merge_table grown = {.slot_count = table->slot_count ? table->slot_count * 2 : 256};
	grown.slots = malloc(grown.slot_count * sizeof *grown.slots);
	if (!grown.slots)
		return error_memory(err, "a tokenizer's merges");
	for (size_t i = 0; i < grown.slot_count; i++)
		grown.slots[i].left = -1;
	for (size_t i = 0; i < table->slot_count; i++)
		if (table->slots[i].left >= 0)
			*merge_slot(&grown, table->slots[i].left, table->slots[i].right) =
				table->slots[i];
	grown.used = table->used;
	free(table->slots);
	*table = grown;
	return 0;
}

int merge_table_add(struct merge_table *table, struct merge merge, struct error *err)
{
	if (table->used * 3 >= table->slot_count * 2 && merge_table_grow(table, err))
		return -1;
	struct merge *slot = merge_slot(table, merge.left, merge.right);
	table->used += slot->left < 0;
	*slot = merge;
	return 0;
}

const struct merge *merge_table_find(const struct merge_table *table, int32_t left, int32_t right)
{
	if (!table->used || left < 0 || right < 0)
		return NULL;
	const struct merge *slot = merge_slot(table, left, right);
	return slot->left < 0 ? NULL : slot;
}
