/*
 * scheduler.h - which sequences run in a step: the policy of continuous batching, and it alone.
 *
 * Pure book-keeping over the paged KV cache, on rank 0; no backend, no MPI, no clock, no text.
 * The rules:
 *  - Sequences are admitted in order of arrival as places and blocks come free; none is passed
 *    over for a later one, so the longest-waiting never starves.
 *  - A step first carries one token of every running sequence that has its prompt behind it, then
 *    chunks of prompts in order of arrival, until max_tokens are used.
 *  - When blocks run out, the youngest running sequence is put back at the head of the queue: its
 *    blocks are given up, and its ids, those generated included, are run again later.
 *  - A sequence whose leading blocks hold the same ids as blocks of the cache shares those, also
 *    with a sequence that writes them in this very step (a layer writes the keys and values of all
 *    its tokens before any is read). At least the last id is always run, for its logits.
 */
#ifndef TPRUN_ENGINE_SCHEDULER_H
#define TPRUN_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/engine/sequence.h"

struct scheduler_options {
	int32_t kv_blocks;     /* of the whole cache */
	int32_t max_blocks;    /* of one sequence */
	int32_t max_tokens;    /* of a step */
	int32_t max_sequences; /* of a step, and of running sequences; at most max_tokens */
	int32_t vocab;
	bool share;	 /* leading blocks are shared */
	bool one_by_one; /* ids made by generation are run again one a step: dynamic rope turns each
			    of them by the length it made */
};

/* A sequence under the scheduler's care, from scheduler_add to scheduler_remove. */
struct scheduled {
	struct sequence sequence; /* `cached` and `table` are the scheduler's to change */
	int32_t prompt_count;	  /* ids that it came with */
	void *owner;		  /* the caller's own */
	int32_t shared;	    /* prompt tokens found in the cache when it was first admitted */
	int32_t preemptions; /* how often it was put back */
	/* Of the planned step: tokens of it in the step, 0 where it is not in it, and whether those
	 * are its last, so that a row of logits is due. */
	int32_t tokens;
	bool logits;
	/* The scheduler's own. */
	bool running;
	struct scheduled *previous, *next; /* in order of arrival */
};

struct scheduler;

int scheduler_open(struct scheduler **out, const struct scheduler_options *, struct error *err);
/* Removes what is left, too. */
void scheduler_close(struct scheduler *);

/* Queues a sequence that will hold at most `capacity` ids, prompt included, and starts with
 * ids[count], 1 or more, below vocab; they are copied. A capacity beyond max_blocks or the whole
 * cache is an ERROR_USAGE. `distinct`: see sequence_open. *out is the scheduler's. */
int scheduler_add(struct scheduler *, const int32_t *ids, int32_t count, int32_t capacity,
		  bool distinct, void *owner, struct scheduled **out, struct error *err);

/* What the next step carries: entries[i]->tokens next uncached ids of each, whose blocks its
 * table has. Borrowed until the next call on the scheduler. No entry: nothing is there to run.
 * Every running sequence must have an uncached id: append one, or remove it, after each step that
 * gave it logits. */
struct scheduler_step {
	int32_t count, tokens;
	struct scheduled *const *entries;
};
struct scheduler_step scheduler_plan(struct scheduler *);
/* The planned step was run: its tokens are cached. */
void scheduler_ran(struct scheduler *);
/* The next id of a sequence that had logits in the step. */
void scheduler_append(struct scheduler *, struct scheduled *, int32_t id);
/* The sequence is done or given up, in whatever state; it is freed, its blocks may be found again
 * until they are needed. Not between scheduler_plan and scheduler_ran. */
void scheduler_remove(struct scheduler *, struct scheduled *);

/* From here on nothing is admitted that does not run already. */
void scheduler_drain(struct scheduler *);

struct scheduler_counts {
	int32_t waiting, running;
	int32_t blocks_used, blocks_used_most; /* held by sequences, a shared one once */
	uint64_t preemptions;
	uint64_t shared_tokens;	  /* ids that did not have to be run, at first admissions */
	uint64_t computed_tokens; /* ids that were run */
	uint64_t steps;
};
struct scheduler_counts scheduler_counts(const struct scheduler *);

#endif
