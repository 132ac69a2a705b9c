/*
 * The scheduler, by simulation: worlds of random limits and random requests, against a shadow of
 * the cache that is written and read as the planned steps say. The model of these worlds makes an
 * id out of the hash of all ids before it, which it reads through the table of blocks; so a
 * sequence ends with the right ids only where every step found exactly its own prefix.
 */
#define TEST_SUITE "scheduler"
#include "tests/test.h"

#include "runtime/engine/scheduler.h"

enum {
	REQUESTS = 100000,
	LIVE_MAX = 96,
	BLOCKS_MAX = 400,
	PREFIXES = 6,
	LENGTH_MAX = 640, /* ids of a request */
	VOCAB = 50,
};

struct request {
	struct scheduled *entry;
	int32_t ids[LENGTH_MAX]; /* the truth: the prompt and all ids that the model makes of it */
	uint64_t hashes[LENGTH_MAX];
	int32_t prompt, length, capacity;
	uint64_t sample;     /* tells the n samples of a prompt apart */
	int64_t arrival;
	int64_t deadline;    /* the step before which it must have ended */
	int32_t cached; /* -1 while it does not run */
	int32_t preemptions;
	bool admitted;
};

struct world {
	struct scheduler_options options;
	struct scheduler *scheduler;
	struct request *live[LIVE_MAX]; /* in order of arrival */
	int32_t live_count;
	int32_t prefixes[PREFIXES][LENGTH_MAX];
	/* The shadow of the cache: the hash of the prefix that ends in a slot, and when the slot was
	 * last written and by whom. */
	uint64_t slots[BLOCKS_MAX][KV_BLOCK];
	int64_t written[BLOCKS_MAX][KV_BLOCK];
	int64_t step, arrivals, started, ended, shared, computed, preemptions;
	int32_t longest_prompt, longest_answer, arrivals_a_step;
};

static uint64_t mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15ull;
	return hash ^ hash >> 29;
}

static int32_t model(uint64_t hash, uint64_t sample)
{
	return (int32_t)(mix(hash, sample + 1) >> 33) % VOCAB;
}

/* ---- requests ---------------------------------------------------------------------------------- */

static int32_t smaller(int32_t a, int32_t b)
{
	return a < b ? a : b;
}

/* Adds `samples` requests for one prompt, which may begin as others do. */
static void add_requests(struct world *world, int samples)
{
	struct error err = {0};
	int32_t room = smaller(LENGTH_MAX, KV_BLOCK * smaller(world->options.max_blocks,
							      world->options.kv_blocks));
	int32_t prompt = (int32_t)test_int(1, smaller(room, world->longest_prompt));
	int32_t most = smaller(room - prompt, world->longest_answer);
	int32_t ids[LENGTH_MAX];

	memcpy(ids, world->prefixes[test_int(0, PREFIXES - 1)], sizeof ids);
	for (int32_t i = (int32_t)test_int(0, prompt); i < prompt; i++)
		ids[i] = (int32_t)test_int(0, VOCAB - 1);
	for (int n = 0; n < samples; n++) {
		struct request *request = calloc(1, sizeof *request);
		request->prompt = prompt;
		request->capacity = prompt + most;
		request->length = prompt + (int32_t)test_int(0, most); /* an EOS may come early */
		request->sample = test_random() % 4;
		request->arrival = world->arrivals++;
		request->cached = -1;
		memcpy(request->ids, ids, sizeof ids);
		uint64_t hash = 0;
		for (int32_t i = 0; i < request->length; i++) {
			if (i >= prompt)
				request->ids[i] = model(hash, request->sample);
			request->hashes[i] = hash = mix(hash, (uint64_t)request->ids[i]);
		}
		/* Whoever is oldest runs an id a step at least, and is never put back. */
		request->deadline = world->step + request->capacity + 1;
		for (int32_t i = 0; i < world->live_count; i++)
			request->deadline += world->live[i]->capacity + 1;
		CHECK_OK(scheduler_add(world->scheduler, ids, prompt, request->capacity,
				       test_int(0, 1), request, &request->entry, &err), &err);
		CHECK(request->entry->owner == request && request->entry->prompt_count == prompt);
		world->live[world->live_count++] = request;
	}
}

static void end_request(struct world *world, struct request *request)
{
	int32_t at = 0;

	world->shared += request->admitted ? request->entry->shared : 0;
	scheduler_remove(world->scheduler, request->entry);
	while (world->live[at] != request)
		at++;
	world->live_count--;
	memmove(&world->live[at], &world->live[at + 1],
		(size_t)(world->live_count - at) * sizeof *world->live);
	world->ended++;
	free(request);
}

/* ---- what is checked at every step ------------------------------------------------------------- */

/* The running sequences are the oldest ones, each is in the step, the oldest is never put back, and
 * the blocks in use are those of the tables: a block let go too early, or kept too long, shows in
 * the count. */
static void check_tables(struct world *world)
{
	struct scheduler_counts counts = scheduler_counts(world->scheduler);
	bool held[BLOCKS_MAX] = {0};
	int32_t running = 0, blocks = 0;

	for (int32_t i = 0; i < world->live_count; i++) {
		struct request *request = world->live[i];
		const struct scheduled *entry = request->entry;
		const struct kv_table *table = &entry->sequence.table;
		if (entry->preemptions != request->preemptions) {
			CHECK(i > 0 && entry->preemptions == request->preemptions + 1);
			CHECK(!entry->running); /* not in the same step */
			world->preemptions++;
			request->preemptions = entry->preemptions;
			request->cached = -1;
		}
		CHECK(!entry->running || i == running);
		CHECK(entry->running ? entry->tokens > 0
				     : !entry->tokens && !table->count && !entry->sequence.cached);
		running += entry->running;
		for (int32_t b = 0; b < table->count; b++) {
			CHECK(table->blocks[b] >= 0 && table->blocks[b] < world->options.kv_blocks);
			blocks += !held[table->blocks[b]];
			held[table->blocks[b]] = true;
		}
	}
	CHECK(counts.running == running && counts.waiting == world->live_count - running);
	CHECK(running <= world->options.max_sequences && (running || !world->live_count));
	CHECK_MSG(counts.blocks_used == blocks, "%d, and %d in tables", counts.blocks_used, blocks);
	CHECK(counts.blocks_used_most >= blocks);
}

/* What an entry of the step says of itself; keeps the count of what was run. */
static void check_entry(struct world *world, const struct scheduled *entry)
{
	struct request *request = entry->owner;
	const struct sequence *sequence = &entry->sequence;
	int32_t end = sequence->cached + entry->tokens;

	if (request->cached < 0) {
		CHECK(sequence->cached % KV_BLOCK == 0 && sequence->cached < sequence->count);
		CHECK(world->options.share || sequence->cached == 0);
		CHECK(request->admitted || entry->shared == sequence->cached);
		request->admitted = true;
		request->cached = sequence->cached;
	}
	CHECK(sequence->cached == request->cached && entry->tokens >= 1 && end <= sequence->count);
	CHECK(entry->logits == (end == sequence->count));
	CHECK(sequence->table.count * KV_BLOCK >= end);
	if (world->options.one_by_one && end > entry->prompt_count)
		CHECK(entry->tokens == 1);
	request->cached = end;
}

/* Within the limits, and in order of arrival: all that run are in the step, and of them only the
 * last can have a prompt that does not end in it. */
static void check_order(const struct world *world, const struct scheduler_step *step)
{
	int32_t tokens = 0;

	for (int32_t i = 0; i < step->count; i++) {
		const struct scheduled *entry = step->entries[i];
		tokens += entry->tokens;
		if (i == 0)
			continue;
		const struct scheduled *before = step->entries[i - 1];
		const struct request *one = before->owner, *two = entry->owner;
		CHECK(one->arrival < two->arrival);
		CHECK(before->logits || (world->options.one_by_one &&
					 before->sequence.cached + before->tokens >= one->prompt));
	}
	CHECK(tokens == step->tokens && tokens <= world->options.max_tokens);
	CHECK(step->count <= world->options.max_sequences);
}

/* Writes the step's keys, then reads what each sequence attends to. */
static void run_model(struct world *world, const struct scheduler_step *step)
{
	for (int32_t i = 0; i < step->count; i++) {
		const struct scheduled *entry = step->entries[i];
		const struct request *request = entry->owner;
		const struct sequence *sequence = &entry->sequence;
		for (int32_t p = sequence->cached; p < sequence->cached + entry->tokens; p++) {
			int32_t block = sequence->table.blocks[p / KV_BLOCK], slot = p % KV_BLOCK;
			CHECK(world->written[block][slot] < world->step);
			CHECK(sequence->ids[p] == request->ids[p]);
			world->written[block][slot] = world->step;
			world->slots[block][slot] = request->hashes[p];
		}
	}
	for (int32_t i = 0; i < step->count; i++) {
		const struct scheduled *entry = step->entries[i];
		const struct request *request = entry->owner;
		const int32_t *blocks = entry->sequence.table.blocks;
		int32_t end = entry->sequence.cached + entry->tokens, wrong = 0;
		for (int32_t p = 0; p < end; p++)
			wrong += world->slots[blocks[p / KV_BLOCK]][p % KV_BLOCK] !=
				 request->hashes[p];
		CHECK_MSG(!wrong, "%d of %d positions are another's", wrong, end);
	}
}

/* ---- a world ----------------------------------------------------------------------------------- */

static void run_step(struct world *world)
{
	struct scheduler_step step = scheduler_plan(world->scheduler);

	world->step++;
	check_tables(world);
	for (int32_t i = 0; i < step.count; i++)
		check_entry(world, step.entries[i]);
	check_order(world, &step);
	run_model(world, &step);
	scheduler_ran(world->scheduler);
	world->computed += step.tokens;
	for (int32_t i = 0; i < world->live_count; i++) {
		struct request *request = world->live[i];
		struct scheduled *entry = request->entry;
		CHECK_MSG(world->step <= request->deadline, "request %lld waits too long",
			  (long long)request->arrival);
		if (!entry->running || !entry->logits)
			continue;
		int32_t count = entry->sequence.count, last = count - 1;
		uint64_t hash = world->slots[entry->sequence.table.blocks[last / KV_BLOCK]]
					    [last % KV_BLOCK];
		if (count < request->length) {
			scheduler_append(world->scheduler, entry, model(hash, request->sample));
			continue;
		}
		CHECK(!memcmp(entry->sequence.ids, request->ids, (size_t)count * sizeof(int32_t)));
		end_request(world, request);
		i--;
	}
}

/* Random limits: caches that are tiny for their sequences, and large ones; small and large steps. */
static void open_world(struct world *world, bool share, bool one_by_one)
{
	struct error err = {0};
	int32_t sequences = (int32_t)test_int(1, test_int(0, 1) ? 8 : 40);

	memset(world, 0, sizeof *world);
	world->options = (struct scheduler_options){
		.kv_blocks = (int32_t)test_int(1, test_int(0, 2) ? 80 : BLOCKS_MAX),
		.max_blocks = (int32_t)test_int(1, LENGTH_MAX / KV_BLOCK),
		.max_tokens = sequences + (int32_t)test_int(0, test_int(0, 1) ? 20 : 500),
		.max_sequences = sequences, .vocab = VOCAB, .share = share, .one_by_one = one_by_one,
	};
	world->longest_prompt = (int32_t)test_int(1, test_int(0, 2) ? 80 : LENGTH_MAX);
	world->longest_answer = (int32_t)test_int(0, test_int(0, 2) ? 100 : 500);
	world->arrivals_a_step = (int32_t)test_int(1, 20);
	/* They have a beginning in common, and one has blocks that are alike in different places. */
	for (int p = 0; p < PREFIXES; p++)
		for (int32_t i = 0; i < LENGTH_MAX; i++)
			world->prefixes[p][i] = p == 1 ? i % KV_BLOCK
						: i < 40 && p ? world->prefixes[0][i]
							      : (int32_t)test_int(0, VOCAB - 1);
	CHECK_OK(scheduler_open(&world->scheduler, &world->options, &err), &err);
}

/* Serves `count` requests, and some that are given up; adds to *preemptions and *shared. */
static void run_world(struct world *world, int count, int64_t *preemptions, int64_t *shared)
{
	while (world->arrivals < count || world->live_count) {
		for (int64_t i = test_int(0, world->arrivals_a_step);
		     i > 0 && world->arrivals < count && world->live_count + 8 <= LIVE_MAX; i--)
			add_requests(world, test_int(0, 9) ? 1 : (int)test_int(2, 8));
		if (world->live_count && test_int(0, 49) == 0)
			end_request(world, world->live[test_int(0, world->live_count - 1)]);
		run_step(world);
	}
	struct scheduler_counts counts = scheduler_counts(world->scheduler);
	struct scheduler_step step = scheduler_plan(world->scheduler);
	CHECK(step.count == 0 && step.tokens == 0 && counts.blocks_used == 0);
	CHECK(world->ended == world->arrivals && counts.steps == (uint64_t)world->step);
	CHECK(counts.computed_tokens == (uint64_t)world->computed);
	CHECK(counts.shared_tokens == (uint64_t)world->shared);
	CHECK(counts.preemptions == (uint64_t)world->preemptions);
	*preemptions += (int64_t)counts.preemptions;
	*shared += world->shared;
	scheduler_close(world->scheduler);
}

static void simulate(int requests, bool share, bool one_by_one)
{
	static struct world world;
	int64_t preemptions = 0, shared = 0, steps = 0;

	for (int done = 0; done < requests && !test_failures;) {
		int count = (int)test_int(1, smaller(500, requests - done));
		open_world(&world, share, one_by_one);
		run_world(&world, count, &preemptions, &shared);
		done += (int)world.arrivals;
		steps += world.step;
	}
	fprintf(stderr, "%d requests: %lld steps, %lld times put back, %lld tokens shared\n", requests,
		(long long)steps, (long long)preemptions, (long long)shared);
	CHECK(preemptions > 0 && share == (shared > 0));
}

static void hundred_thousand_requests(void) { simulate(REQUESTS, true, false); }
static void without_sharing(void) { simulate(REQUESTS / 10, false, false); }
static void one_by_one(void) { simulate(REQUESTS / 10, false, true); }

/* ---- cases with known figures ------------------------------------------------------------------ */

static struct scheduler *open_scheduler(int32_t blocks, int32_t tokens, int32_t sequences)
{
	struct error err = {0};
	struct scheduler *scheduler = NULL;
	struct scheduler_options options = {
		.kv_blocks = blocks, .max_blocks = blocks, .max_tokens = tokens,
		.max_sequences = sequences, .vocab = 1000, .share = true};

	CHECK_OK(scheduler_open(&scheduler, &options, &err), &err);
	return scheduler;
}

static struct scheduled *add(struct scheduler *scheduler, const int32_t *ids, int32_t count,
			     int32_t capacity)
{
	struct error err = {0};
	struct scheduled *out = NULL;

	CHECK_OK(scheduler_add(scheduler, ids, count, capacity, false, NULL, &out, &err), &err);
	return out;
}

/* Eight samples of a prompt of 100 ids, in one step: 6 whole blocks are there once. */
static void samples_share(void)
{
	struct scheduler *scheduler = open_scheduler(100, 1000, 16);
	struct scheduled *samples[8];
	int32_t ids[112];

	for (int32_t i = 0; i < 112; i++)
		ids[i] = (int32_t)test_int(0, 999);
	for (int i = 0; i < 8; i++)
		samples[i] = add(scheduler, ids, 100, 200);
	struct scheduler_step step = scheduler_plan(scheduler);
	CHECK(step.count == 8 && step.tokens == 100 + 7 * 4);
	scheduler_ran(scheduler);
	struct scheduler_counts counts = scheduler_counts(scheduler);
	CHECK(counts.shared_tokens == 7 * 96 && counts.computed_tokens == 128);
	CHECK(counts.blocks_used == 6 + 8 && counts.blocks_used_most == 14 && counts.running == 8);
	for (int i = 0; i < 8; i++) {
		CHECK(samples[i]->logits && samples[i]->shared == (i ? 96 : 0));
		CHECK(samples[i]->sequence.table.blocks[5] == samples[0]->sequence.table.blocks[5]);
	}
	for (int i = 0; i < 8; i++)
		scheduler_remove(scheduler, samples[i]);
	CHECK(scheduler_counts(scheduler).blocks_used == 0);
	/* Long after, the blocks are found; the last of a prompt of whole blocks is run all the same. */
	struct scheduled *late = add(scheduler, ids, 96, 200);
	step = scheduler_plan(scheduler);
	CHECK(step.count == 1 && step.tokens == 16 && late->shared == 80);
	scheduler_ran(scheduler);
	scheduler_close(scheduler); /* with a sequence left */
	scheduler_close(NULL);
}

/* A prompt longer than a step goes on beside decodes, in whole blocks, and nothing overtakes it. */
static void long_prompt(void)
{
	struct scheduler *scheduler = open_scheduler(100, 64, 8);
	int32_t one[10] = {1}, two[200] = {2}, three[10] = {3};
	struct scheduled *first = add(scheduler, one, 10, 100), *second, *third;

	scheduler_plan(scheduler);
	scheduler_ran(scheduler);
	scheduler_append(scheduler, first, 7);
	second = add(scheduler, two, 200, 300);
	third = add(scheduler, three, 10, 100);
	for (int step = 0; step < 4; step++) {
		struct scheduler_step plan = scheduler_plan(scheduler);
		CHECK(plan.entries[0] == first && first->tokens == 1 && first->logits);
		CHECK(plan.entries[1] == second && second->tokens == (step < 3 ? 48 : 56));
		CHECK(second->logits == (step == 3) && third->running == (step == 3));
		CHECK(plan.count == (step < 3 ? 2 : 3));
		scheduler_ran(scheduler);
		scheduler_append(scheduler, first, 7);
	}
	CHECK(third->tokens == 7 && !third->logits);
	scheduler_close(scheduler);
}

/* The youngest is put back for the oldest, its ids are run again, and until there is room for it
 * with some to spare it waits. */
static void put_back(void)
{
	struct scheduler *scheduler = open_scheduler(5, 64, 4);
	int32_t one[16] = {1}, two[16] = {2};
	struct scheduled *first = add(scheduler, one, 16, 80), *second = add(scheduler, two, 16, 80);
	int put_back_at = 0, back_at = 0;

	for (int step = 1; step <= 70; step++) {
		scheduler_plan(scheduler);
		scheduler_ran(scheduler);
		if (!put_back_at && second->preemptions)
			put_back_at = step;
		if (put_back_at && !back_at && second->running) {
			back_at = step;
			CHECK(second->tokens == 33 && second->sequence.count == 33);
		}
		if (first && first->sequence.count == 80) {
			scheduler_remove(scheduler, first);
			first = NULL;
		}
		if (first)
			scheduler_append(scheduler, first, 1);
		if (second->running)
			scheduler_append(scheduler, second, 2);
	}
	/* Step 18 runs the 33rd id of each: two more blocks, where one is left. The first has the
	 * whole cache at the end, so that nothing is found of the second, which waits until then. */
	CHECK_MSG(put_back_at == 18 && back_at == 66, "%d, %d", put_back_at, back_at);
	CHECK(second->preemptions == 1 && second->prompt_count == 16);
	CHECK(scheduler_counts(scheduler).preemptions == 1);
	scheduler_close(scheduler);
}

/* A prompt that would fit waits where those that run, itself included, could not go on after. */
static void spare_room(void)
{
	int32_t one[16] = {1}, two[48] = {2};

	for (int32_t capacity = 48; capacity <= 49; capacity++) {
		struct scheduler *scheduler = open_scheduler(5, 64, 4);
		struct scheduled *first = add(scheduler, one, 16, 80);
		struct scheduled *second = add(scheduler, two, 48, capacity);
		scheduler_plan(scheduler);
		CHECK(first->running && second->running == (capacity == 48));
		scheduler_close(scheduler);
	}
}

/* What runs goes on to its end; the rest waits for good. */
static void drain(void)
{
	struct scheduler *scheduler = open_scheduler(20, 64, 1);
	int32_t ids[20] = {1};
	struct scheduled *first = add(scheduler, ids, 20, 40), *second = add(scheduler, ids, 20, 40);

	scheduler_plan(scheduler);
	scheduler_ran(scheduler);
	scheduler_drain(scheduler);
	scheduler_append(scheduler, first, 1);
	CHECK(scheduler_plan(scheduler).count == 1 && first->tokens == 1);
	scheduler_ran(scheduler);
	scheduler_remove(scheduler, first);
	CHECK(scheduler_plan(scheduler).count == 0 && !second->running);
	CHECK(scheduler_counts(scheduler).waiting == 1);
	scheduler_close(scheduler);
}

static void refusals(void)
{
	struct error err = {0};
	struct scheduler *scheduler = open_scheduler(4, 8, 4);
	struct scheduler_options options = {.kv_blocks = 8, .max_blocks = 2, .max_tokens = 4,
					    .max_sequences = 5, .vocab = 10};
	struct scheduled *out;
	int32_t ids[70] = {0};

	CHECK_FAILS(scheduler_add(scheduler, ids, 0, 10, false, NULL, &out, &err), &err, "0 tokens");
	CHECK_FAILS(scheduler_add(scheduler, ids, 11, 10, false, NULL, &out, &err), &err, "11 tokens");
	CHECK_FAILS(scheduler_add(scheduler, ids, 1, 65, false, NULL, &out, &err), &err, "4 blocks");
	CHECK_FAILS(scheduler_add(scheduler, ids, 1, INT32_MAX, false, NULL, &out, &err), &err,
		    "4 blocks");
	CHECK(err.kind == ERROR_USAGE);
	CHECK(scheduler_plan(scheduler).count == 0 && scheduler_counts(scheduler).waiting == 0);
	scheduler_close(scheduler);
	CHECK_FAILS(scheduler_open(&scheduler, &options, &err), &err, "5 sequences");
	options.max_sequences = 4;
	CHECK_OK(scheduler_open(&scheduler, &options, &err), &err);
	CHECK_FAILS(scheduler_add(scheduler, ids, 1, 33, false, NULL, &out, &err), &err, "2 blocks");
	scheduler_close(scheduler);
}

/* 256 sequences that make an id each: the cost of a step's plan, which must stay a small part of
 * the few milliseconds that a device needs for it. The bound has room for a slow, busy machine. */
static void cheap_plan(void)
{
	enum { SEQUENCES = 256, STEPS = 512 };
	struct scheduler *scheduler = open_scheduler(SEQUENCES * 41, 8192, SEQUENCES);
	struct scheduled *entries[SEQUENCES];
	struct timespec start, end;
	double best = 1e9, total = 0;
	int32_t ids[128];

	for (int i = 0; i < SEQUENCES; i++) {
		for (int32_t p = 0; p < 128; p++)
			ids[p] = (int32_t)test_int(0, 999);
		/* Out of step with each other, so that each step fills some blocks. */
		entries[i] = add(scheduler, ids, 113 + i % 16, 113 + i % 16 + STEPS + 16);
	}
	do {
		scheduler_plan(scheduler);
		scheduler_ran(scheduler);
		for (int i = 0; i < SEQUENCES; i++)
			if (entries[i]->logits)
				scheduler_append(scheduler, entries[i], i);
	} while (!entries[SEQUENCES - 1]->logits);
	for (int step = 0; step < STEPS - 16; step++) {
		clock_gettime(CLOCK_MONOTONIC, &start);
		struct scheduler_step plan = scheduler_plan(scheduler);
		scheduler_ran(scheduler);
		for (int i = 0; i < SEQUENCES; i++)
			scheduler_append(scheduler, plan.entries[i], i);
		clock_gettime(CLOCK_MONOTONIC, &end);
		CHECK(plan.count == SEQUENCES && plan.tokens == SEQUENCES);
		double took = (double)(end.tv_sec - start.tv_sec) * 1e6 +
			      (double)(end.tv_nsec - start.tv_nsec) * 1e-3;
		best = took < best ? took : best;
		total += took;
	}
	fprintf(stderr, "plan, ran and append of %d sequences: %.1f us at best, %.1f us on average\n",
		SEQUENCES, best, total / (STEPS - 16));
	CHECK(best < 500);
	scheduler_close(scheduler);
}

int main(void)
{
	RUN(samples_share);
	RUN(long_prompt);
	RUN(put_back);
	RUN(spare_room);
	RUN(drain);
	RUN(refusals);
	RUN(cheap_plan);
	RUN(hundred_thousand_requests);
	RUN(without_sharing);
	RUN(one_by_one);
	TEST_END();
}
