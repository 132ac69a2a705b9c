/*
 * fake_group.h - ranks as threads of the test, with every call of struct group.
 *
 * fake_group_run starts one thread a rank. A call compares what the ranks ask for, so ranks that
 * disagree on the call, its sizes or its root fail with a message; and where a rank returns while
 * others still wait for it, those fail too instead of hanging. The code under test must not use
 * CHECK from several threads at once: let the body return -1 with an error instead.
 */
#ifndef TPRUN_TESTS_FAKE_GROUP_H
#define TPRUN_TESTS_FAKE_GROUP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/error.h"
#include "runtime/base/group.h"

enum { FAKE_RANKS_MAX = 64 };

/* What one rank brings to the call it is in. */
struct fake_call {
	const char *name;
	size_t size; /* must be the same on all ranks; exchange: 0 */
	int root;
	const void *data;
	const size_t *send_bytes;
	int result;
	const struct error *err;
};

struct fake_world {
	int size;
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int arrived;
	unsigned generation;
	bool left; /* a rank has returned: no further meeting can be complete */
	struct fake_call calls[FAKE_RANKS_MAX];
	int collectives; /* how many calls the ranks made together so far */
	uint64_t bytes_broadcast;
};

/* Waits for all ranks; -1 where one has gone. */
static inline int fake_meet(struct fake_world *world, struct error *err)
{
	pthread_mutex_lock(&world->mutex);
	unsigned generation = world->generation;
	if (!world->left && ++world->arrived == world->size) {
		world->arrived = 0;
		world->generation++;
		pthread_cond_broadcast(&world->changed);
	}
	while (generation == world->generation && !world->left)
		pthread_cond_wait(&world->changed, &world->mutex);
	bool met = generation != world->generation;
	pthread_mutex_unlock(&world->mutex);
	return met ? 0 : error_run(err, "another rank left while this one waited for it");
}

/* Shows this rank's call to the others and returns when all can read all. End with fake_meet
 * before the data may change. */
static inline int fake_enter(const struct group *group, struct fake_call call, struct error *err)
{
	struct fake_world *world = group->context;
	world->calls[group->rank] = call;
	if (fake_meet(world, err))
		return -1;
	const struct fake_call *first = &world->calls[0];
	if (strcmp(call.name, first->name) || call.size != first->size || call.root != first->root)
		return error_run(err, "rank %d calls %s(%zu, root %d), rank 0 %s(%zu, root %d)",
				 group->rank, call.name, call.size, call.root, first->name,
				 first->size, first->root);
	if (group->rank == 0) {
		world->collectives++;
		if (!strcmp(call.name, "broadcast"))
			world->bytes_broadcast += call.size;
	}
	return 0;
}

static inline int fake_broadcast(const struct group *group, void *data, size_t bytes, int root,
				 struct error *err)
{
	struct fake_world *world = group->context;
	struct fake_call call = {.name = "broadcast", .size = bytes, .root = root, .data = data};
	if (root < 0 || root >= group->size)
		return error_run(err, "broadcast from rank %d of %d", root, group->size);
	if (fake_enter(group, call, err))
		return -1;
	if (group->rank != root && bytes)
		memcpy(data, world->calls[root].data, bytes);
	return fake_meet(world, err);
}

static inline int fake_gather(const struct group *group, const void *data, size_t bytes, void *out,
			      struct error *err)
{
	struct fake_world *world = group->context;
	struct fake_call call = {.name = "gather", .size = bytes, .data = data};
	if ((group->rank == 0) != (out != NULL) && bytes)
		return error_run(err, "gather: rank 0 alone passes a buffer for the result");
	if (fake_enter(group, call, err))
		return -1;
	for (int r = 0; group->rank == 0 && bytes && r < group->size; r++)
		memcpy((char *)out + (size_t)r * bytes, world->calls[r].data, bytes);
	return fake_meet(world, err);
}

static inline int fake_exchange(const struct group *group, const void *send,
				const size_t *send_bytes, void *receive,
				const size_t *receive_bytes, struct error *err)
{
	struct fake_world *world = group->context;
	struct fake_call call = {.name = "exchange", .data = send, .send_bytes = send_bytes};
	if (fake_enter(group, call, err))
		return -1;
	char *target = receive;
	for (int r = 0; r < group->size; r++) {
		const struct fake_call *peer = &world->calls[r];
		const char *source = peer->data;
		if (peer->send_bytes[group->rank] != receive_bytes[r])
			return error_run(err, "rank %d sends %zu bytes, rank %d expects %zu", r,
					 peer->send_bytes[group->rank], group->rank,
					 receive_bytes[r]);
		for (int before = 0; before < group->rank; before++)
			source += peer->send_bytes[before];
		if (receive_bytes[r])
			memcpy(target, source, receive_bytes[r]);
		target += receive_bytes[r];
	}
	return fake_meet(world, err);
}

static inline int fake_sum(const struct group *group, float *data, size_t count, struct error *err)
{
	struct fake_world *world = group->context;
	struct fake_call call = {.name = "sum", .size = count, .data = data};
	float *total = calloc(count + 1, sizeof *total);
	int result = total ? fake_enter(group, call, err) : error_memory(err, "a sum");
	for (int r = 0; !result && r < group->size; r++)
		for (size_t i = 0; i < count; i++)
			total[i] += ((const float *)world->calls[r].data)[i];
	if (!result)
		result = fake_meet(world, err);
	if (!result && count)
		memcpy(data, total, count * sizeof *total);
	free(total);
	return result;
}

static inline int fake_agree(const struct group *group, int result, struct error *err)
{
	struct fake_world *world = group->context;
	const struct error own = *err;
	struct fake_call call = {.name = "agree", .result = result, .err = &own};
	if (fake_enter(group, call, err))
		return -1;
	int failed = 0;
	while (failed < group->size && !world->calls[failed].result)
		failed++;
	if (failed < group->size) {
		*err = *world->calls[failed].err;
		error_context(err, "rank %d", failed);
	}
	if (fake_meet(world, err))
		return -1;
	return failed < group->size ? -1 : 0;
}

static inline void __attribute__((noreturn)) fake_abort(const struct group *group,
							const struct error *err)
{
	fprintf(stderr, "rank %d aborts: %s\n", group->rank, err->message);
	_exit(1);
}

/* A rank's part of a test: returns 0, or -1 with err. */
typedef int fake_body(const struct group *, void *context, struct error *err);

struct fake_rank {
	struct group group;
	fake_body *body;
	void *context;
	struct error err;
	int result;
};

static inline void *fake_thread(void *argument)
{
	struct fake_rank *rank = argument;
	struct fake_world *world = rank->group.context;
	rank->result = rank->body(&rank->group, rank->context, &rank->err);
	pthread_mutex_lock(&world->mutex);
	world->left = true;
	pthread_cond_broadcast(&world->changed);
	pthread_mutex_unlock(&world->mutex);
	return NULL;
}

/* Runs body on `size` ranks, all on one node. Returns 0 where every rank did; otherwise -1 with
 * the error of the lowest rank that failed of itself (not because another one left). `world`,
 * where it isn't NULL, then holds the counts of calls. */
static inline int fake_group_run(int size, fake_body *body, void *context,
				 struct fake_world *world_out, struct error *err)
{
	static struct fake_rank ranks[FAKE_RANKS_MAX];
	struct fake_world world = {.size = size, .mutex = PTHREAD_MUTEX_INITIALIZER,
				   .changed = PTHREAD_COND_INITIALIZER};
	pthread_t threads[FAKE_RANKS_MAX];

	if (size < 1 || size > FAKE_RANKS_MAX)
		return error_run(err, "%d ranks: at most %d", size, FAKE_RANKS_MAX);
	for (int r = 0; r < size; r++) {
		ranks[r] = (struct fake_rank){
			.group = {.rank = r, .size = size, .local_rank = r, .local_size = size,
				  .context = &world, .broadcast = fake_broadcast,
				  .gather = fake_gather, .exchange = fake_exchange,
				  .sum = fake_sum, .agree = fake_agree, .abort = fake_abort},
			.body = body, .context = context};
		if (pthread_create(&threads[r], NULL, fake_thread, &ranks[r])) {
			fprintf(stderr, "cannot start thread %d\n", r);
			_exit(1); /* those that run would wait for it */
		}
	}
	for (int r = 0; r < size; r++)
		pthread_join(threads[r], NULL);
	if (world_out)
		*world_out = world;
	const struct fake_rank *failed = NULL;
	for (int r = 0; r < size; r++)
		if (ranks[r].result && (!failed || strstr(failed->err.message, "another rank left")))
			failed = &ranks[r];
	if (!failed)
		return 0;
	*err = failed->err;
	return error_context(err, "rank %d", failed->group.rank);
}

/* A group of one rank, without threads, for tests that need no more. */
static inline struct group fake_group_single(struct fake_world *world)
{
	*world = (struct fake_world){.size = 1, .mutex = PTHREAD_MUTEX_INITIALIZER,
				     .changed = PTHREAD_COND_INITIALIZER};
	return (struct group){.size = 1, .local_size = 1, .context = world,
			      .broadcast = fake_broadcast, .gather = fake_gather,
			      .exchange = fake_exchange, .sum = fake_sum, .agree = fake_agree,
			      .abort = fake_abort};
}

#endif
