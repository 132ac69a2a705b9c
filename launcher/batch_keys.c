#include "launcher/batch_keys.h"

#include <stdlib.h>
#include <string.h>

enum { MARKS = 3, FIRST_CAPACITY = 1 << 10 };

struct batch_key_set {
	struct batch_key *slots; /* the lowest two bits of b are the marks; none: a free slot */
	uint64_t capacity;	 /* a power of two */
	uint64_t count;
};

/* ---- the hash ---------------------------------------------------------------------------- */

/* Two bijections of 64 bits (a multiply and shift-xor each way, with different odd factors). */
static uint64_t mix_a(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static uint64_t mix_b(uint64_t z)
{
	z = (z ^ z >> 33) * 0xff51afd7ed558ccdull;
	z = (z ^ z >> 29) * 0xc4ceb9fe1a85ec53ull;
	return z ^ z >> 32;
}

/* Word by word: equal lengths that differ in one word alone never meet. */
static struct batch_key hash(uint64_t kind, const void *data, size_t length)
{
	const char *bytes = data;
	struct batch_key key = {mix_a(kind + 0x9e3779b97f4a7c15ull),
				mix_b(kind + 0xd1b54a32d192ed03ull)};
	for (size_t at = 0; at <= length; at += 8) {
		uint64_t word = 0;
		if (at < length)
			memcpy(&word, bytes + at, length - at < 8 ? length - at : 8);
		key.a = mix_a(key.a ^ word) + 0x9e3779b97f4a7c15ull;
		key.b = mix_b(key.b + word) ^ 0xd1b54a32d192ed03ull;
	}
	key.a = mix_a(key.a ^ length);
	key.b = mix_b(key.b + length);
	return key;
}

int batch_key_of_id(const json_t *id, struct batch_key *key)
{
	if (json_is_string(id) && json_string_length(id) <= BATCH_ID_BYTES_MAX) {
		*key = hash('s', json_string_value(id), json_string_length(id));
		return 0;
	}
	if (json_is_integer(id)) {
		int64_t number = json_integer_value(id);
		*key = hash('i', &number, sizeof number);
		return 0;
	}
	return -1;
}

struct batch_key batch_key_of_line(int64_t number)
{
	return hash('l', &number, sizeof number);
}

/* ---- the set ----------------------------------------------------------------------------- */

int batch_key_set_open(struct batch_key_set **out, struct error *err)
{
	struct batch_key_set *set = calloc(1, sizeof *set);
	*out = NULL;
	if (set)
		set->slots = calloc(FIRST_CAPACITY, sizeof *set->slots);
	if (!set || !set->slots) {
		free(set);
		return error_memory(err, "the ids of the batch");
	}
	set->capacity = FIRST_CAPACITY;
	*out = set;
	return 0;
}

void batch_key_set_close(struct batch_key_set *set)
{
	if (!set)
		return;
	free(set->slots);
	free(set);
}

/* The slot that holds the key, or the free one where it belongs. */
static struct batch_key *find_slot(const struct batch_key_set *set, struct batch_key key)
{
	uint64_t at = key.a;
	for (;; at++) {
		struct batch_key *slot = &set->slots[at & (set->capacity - 1)];
		if (!(slot->b & MARKS) || (slot->a == key.a && !((slot->b ^ key.b) & ~(uint64_t)MARKS)))
			return slot;
	}
}

static int grow(struct batch_key_set *set, struct error *err)
{
	struct batch_key_set larger = {.capacity = 2 * set->capacity, .count = set->count};
	larger.slots = calloc(larger.capacity, sizeof *larger.slots);
	if (!larger.slots)
		return error_memory(err, "the ids of the batch");
	for (uint64_t i = 0; i < set->capacity; i++)
		if (set->slots[i].b & MARKS)
			*find_slot(&larger, set->slots[i]) = set->slots[i];
	free(set->slots);
	*set = larger;
	return 0;
}

int batch_key_set_add(struct batch_key_set *set, struct batch_key key, int marks, int *before,
		      struct error *err)
{
	/* At most three quarters full: short runs of taken slots. */
	if (set->count >= set->capacity / 4 * 3 && grow(set, err))
		return -1;
	struct batch_key *slot = find_slot(set, key);
	*before = (int)(slot->b & MARKS);
	if (!*before) {
		*slot = (struct batch_key){key.a, key.b & ~(uint64_t)MARKS};
		set->count++;
	}
	slot->b |= (uint64_t)marks;
	return 0;
}

int batch_key_set_find(const struct batch_key_set *set, struct batch_key key)
{
	return (int)(find_slot(set, key)->b & MARKS);
}

uint64_t batch_key_set_count(const struct batch_key_set *set)
{
	return set->count;
}
