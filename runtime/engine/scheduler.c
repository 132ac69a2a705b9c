#include "runtime/engine/scheduler.h"

#include <stdlib.h>

/*
 * All sequences are in one list in order of arrival, and the running ones come first in it: the
 * next in the queue is admitted, and the youngest running one put back, by moving `waiting`, the
 * border, over it. Since a sequence is admitted only where the prompts before it end in the same
 * step, at most one running sequence has a prompt to go on with, and that is the youngest. So
 * every running sequence is in every step.
 *
 * A sequence gets the blocks of all its ids when it is admitted. Later only the ids made take more,
 * one block at a time, and a step begins with these: a sequence is put back before anything that
 * it, or one that shares with it, would run is in the step.
 */
struct scheduler {
	struct scheduler_options options;
	struct kv_pool pool;
	struct scheduled *first, *last, *waiting; /* `waiting` is NULL where all run */
	bool draining;
	bool refused;	 /* there was no room, and no sequence has ended since */
	int32_t growing; /* of the step so far: running sequences that may take more blocks */
	struct scheduled **entries; /* [max_sequences] */
	struct scheduler_step step;
	struct scheduler_counts counts;
};

int scheduler_open(struct scheduler **out, const struct scheduler_options *options,
		   struct error *err)
{
	if (options->max_sequences < 1 || options->max_sequences > options->max_tokens ||
	    options->max_blocks < 1)
		return error_run(err, "a step of %d sequences, %d tokens and %d blocks for a sequence "
				 "cannot be", options->max_sequences, options->max_tokens,
				 options->max_blocks);
	struct scheduler *scheduler = calloc(1, sizeof *scheduler);
	if (!scheduler)
		return error_memory(err, "the scheduler");
	scheduler->options = *options;
	if (kv_pool_open(&scheduler->pool, options->kv_blocks, err))
		goto fail;
	scheduler->entries = calloc((size_t)options->max_sequences, sizeof *scheduler->entries);
	if (!scheduler->entries) {
		error_memory(err, "the entries of a step");
		goto fail;
	}
	*out = scheduler;
	return 0;
fail:
	scheduler_close(scheduler);
	return -1;
}

void scheduler_close(struct scheduler *scheduler)
{
	if (!scheduler)
		return;
	while (scheduler->last)
		scheduler_remove(scheduler, scheduler->last);
	kv_pool_close(&scheduler->pool);
	free(scheduler->entries);
	free(scheduler);
}

int scheduler_add(struct scheduler *scheduler, const int32_t *ids, int32_t count, int32_t capacity,
		  bool distinct, void *owner, struct scheduled **out, struct error *err)
{
	const struct scheduler_options *options = &scheduler->options;
	int32_t limit = options->max_blocks < options->kv_blocks ? options->max_blocks
								 : options->kv_blocks;

	if (count < 1 || count > capacity)
		return error_usage(err, "a prompt of %d tokens in a sequence of %d: give a prompt of 1 "
				   "or more", count, capacity);
	if (kv_blocks_of(capacity) > limit)
		return error_usage(err, "prompt and new tokens are %d, more than the %d blocks of %d "
				   "tokens that the KV cache has for a sequence: shorten them or give "
				   "a larger --context", capacity, limit, KV_BLOCK);
	struct scheduled *entry = calloc(1, sizeof *entry);
	if (!entry)
		return error_memory(err, "a sequence");
	if (sequence_open(&entry->sequence, capacity, options->vocab, distinct, err)) {
		free(entry);
		return -1;
	}
	for (int32_t i = 0; i < count; i++)
		sequence_add(&entry->sequence, ids[i]);
	entry->prompt_count = count;
	entry->owner = owner;
	entry->previous = scheduler->last;
	*(scheduler->last ? &scheduler->last->next : &scheduler->first) = entry;
	scheduler->last = entry;
	if (!scheduler->waiting)
		scheduler->waiting = entry;
	scheduler->counts.waiting++;
	*out = entry;
	return 0;
}

void scheduler_append(struct scheduler *scheduler, struct scheduled *entry, int32_t id)
{
	(void)scheduler;
	sequence_add(&entry->sequence, id);
}

void scheduler_remove(struct scheduler *scheduler, struct scheduled *entry)
{
	if (scheduler->waiting == entry)
		scheduler->waiting = entry->next;
	*(entry->previous ? &entry->previous->next : &scheduler->first) = entry->next;
	*(entry->next ? &entry->next->previous : &scheduler->last) = entry->previous;
	*(entry->running ? &scheduler->counts.running : &scheduler->counts.waiting) -= 1;
	scheduler->refused = false;
	kv_table_release(&entry->sequence.table, &scheduler->pool);
	sequence_close(&entry->sequence);
	free(entry);
}

void scheduler_drain(struct scheduler *scheduler)
{
	scheduler->draining = true;
}

/* ---- a step ------------------------------------------------------------------------------------ */

static struct scheduled *youngest(const struct scheduler *scheduler)
{
	return scheduler->waiting ? scheduler->waiting->previous : scheduler->last;
}

/* The border moves; back over the youngest running sequence, or on over the next in the queue. */
static void set_running(struct scheduler *scheduler, struct scheduled *entry, bool running)
{
	int32_t one = running ? 1 : -1;

	entry->running = running;
	scheduler->waiting = running ? entry->next : entry;
	scheduler->counts.running += one;
	scheduler->counts.waiting -= one;
}

static void put_back(struct scheduler *scheduler, struct scheduled *entry)
{
	kv_table_release(&entry->sequence.table, &scheduler->pool);
	entry->sequence.cached = 0;
	entry->tokens = 0;
	entry->logits = false;
	entry->preemptions++;
	scheduler->counts.preemptions++;
	scheduler->refused = true;
	set_running(scheduler, entry, false);
}

/* Whether a sequence whose ids all have blocks may come to need another. */
static bool grows(const struct scheduled *entry)
{
	return kv_blocks_of(entry->sequence.capacity) > kv_blocks_of(entry->sequence.count);
}

/* Admits the next in the queue, or returns NULL. After it every running sequence that may grow,
 * itself included, must find one more block: without that spare room its prompt would be run only
 * for it to be put back within a few steps. Alone it always fits: see scheduler_add. */
static struct scheduled *admit(struct scheduler *scheduler)
{
	struct scheduled *entry = scheduler->waiting;
	struct kv_pool *pool = &scheduler->pool;

	if (!entry || scheduler->draining || scheduler->refused ||
	    scheduler->counts.running == scheduler->options.max_sequences)
		return NULL;
	struct sequence *sequence = &entry->sequence;
	if (scheduler->options.share) /* never the last id, which is run for its logits */
		kv_table_adopt(&sequence->table, pool, sequence->ids,
			       (sequence->count - 1) / KV_BLOCK);
	int32_t adopted = sequence->table.count * KV_BLOCK;
	int32_t needed = kv_blocks_of(sequence->count) - sequence->table.count;
	if (needed + scheduler->growing + grows(entry) > pool->free_count) {
		kv_table_release(&sequence->table, pool);
		scheduler->refused = true;
		return NULL;
	}
	kv_table_reserve(&sequence->table, pool, sequence->count);
	sequence->cached = adopted;
	if (!entry->preemptions) {
		entry->shared = adopted;
		scheduler->counts.shared_tokens += (uint64_t)adopted;
	}
	scheduler->growing += grows(entry);
	set_running(scheduler, entry, true);
	return entry;
}

/* Puts the next `tokens` ids into the step. Blocks that they fill are findable from now on: what
 * adopts them is in this step or a later one. */
static void put(struct scheduler *scheduler, struct scheduled *entry, int32_t tokens)
{
	struct sequence *sequence = &entry->sequence;
	int32_t end = sequence->cached + tokens;

	if (scheduler->options.share)
		kv_table_publish(&sequence->table, &scheduler->pool, sequence->ids,
				 sequence->cached / KV_BLOCK, end / KV_BLOCK);
	entry->tokens = tokens;
	entry->logits = end == sequence->count;
	scheduler->entries[scheduler->step.count++] = entry;
	scheduler->step.tokens += tokens;
}

/* Ids that can be run in one step, were it large enough: 1 once the prompt is cached, but for ids
 * that have to be run again. */
static int32_t ready(const struct scheduler *scheduler, const struct scheduled *entry)
{
	const struct sequence *sequence = &entry->sequence;
	int32_t end = sequence->count;

	if (scheduler->options.one_by_one && sequence->cached >= entry->prompt_count)
		end = sequence->cached + 1;
	else if (scheduler->options.one_by_one)
		end = entry->prompt_count;
	return end - sequence->cached;
}

static void put_single_tokens(struct scheduler *scheduler)
{
	scheduler->growing = 0;
	for (struct scheduled *entry = scheduler->first; entry && entry->running;
	     entry = entry->next) {
		struct sequence *sequence = &entry->sequence;
		bool single = ready(scheduler, entry) == 1;

		entry->tokens = 0;
		entry->logits = false;
		/* The youngest may be the entry itself. The oldest, alone, has the whole cache. */
		while (single && entry->running &&
		       kv_table_reserve(&sequence->table, &scheduler->pool, sequence->cached + 1))
			put_back(scheduler, youngest(scheduler));
		if (!entry->running)
			return;
		if (single)
			put(scheduler, entry, 1);
		scheduler->growing += grows(entry);
	}
}

static void put_prompts(struct scheduler *scheduler)
{
	struct scheduled *entry = youngest(scheduler);

	/* What is not in the step yet is the youngest, if it has a prompt to go on with. */
	if (!entry || entry->tokens)
		entry = NULL;
	for (;;) {
		int32_t budget = scheduler->options.max_tokens - scheduler->step.tokens;
		if (budget == 0 || (!entry && !(entry = admit(scheduler))))
			return;
		int32_t tokens = ready(scheduler, entry), cached = entry->sequence.cached;
		bool ends = tokens <= budget;
		if (!ends) {
			/* Whole blocks where it can be: others can share only those. */
			int32_t end = (cached + budget) / KV_BLOCK * KV_BLOCK;
			tokens = end > cached ? end - cached : budget;
		}
		put(scheduler, entry, tokens);
		if (!ends)
			return;
		entry = NULL;
	}
}

struct scheduler_step scheduler_plan(struct scheduler *scheduler)
{
	scheduler->step = (struct scheduler_step){.entries = scheduler->entries};
	put_single_tokens(scheduler);
	put_prompts(scheduler);
	int32_t used = scheduler->pool.count - scheduler->pool.free_count;
	if (scheduler->counts.blocks_used_most < used)
		scheduler->counts.blocks_used_most = used;
	return scheduler->step;
}

void scheduler_ran(struct scheduler *scheduler)
{
	for (int32_t i = 0; i < scheduler->step.count; i++)
		scheduler->entries[i]->sequence.cached += scheduler->entries[i]->tokens;
	scheduler->counts.computed_tokens += (uint64_t)scheduler->step.tokens;
	scheduler->counts.steps++;
}

struct scheduler_counts scheduler_counts(const struct scheduler *scheduler)
{
	struct scheduler_counts counts = scheduler->counts;

	counts.blocks_used = scheduler->pool.count - scheduler->pool.free_count;
	return counts;
}
