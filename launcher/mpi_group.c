#include "launcher/mpi_group.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	SPIN_NS = 200 * 1000,	    /* longer than the gap between two steps of a decode */
	SLEEP_MIN_NS = 50 * 1000,
	SLEEP_MAX_NS = 1000 * 1000,
	TESTS_BETWEEN_CLOCKS = 16,
	MESSAGE_MAX = 1 << 30, /* bytes of one MPI call, whose counts are ints */
};

struct mpi_group {
	struct group group;
	int node;
	bool shared_cores;
	char host[HOST_NAME_MAX_BYTES];
};

static int mpi_ok(struct error *err, int code, const char *what)
{
	char text[MPI_MAX_ERROR_STRING];
	int length = 0;
	if (code == MPI_SUCCESS)
		return 1;
	MPI_Error_string(code, text, &length);
	error_run(err, "MPI: %s failed: %.*s", what, length, text);
	return 0;
}

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* A blocked MPI call burns its core for as long as it waits. This one spins while an answer is
 * likely to be near, and then looks from time to time. */
static int wait_gently(const struct mpi_group *self, MPI_Request *request, struct error *err)
{
	int done = 0;
	int64_t start = 0, pause = SLEEP_MIN_NS;
	for (int tests = 1;; tests++) {
		if (!mpi_ok(err, MPI_Test(request, &done, MPI_STATUS_IGNORE), "a test"))
			return -1;
		if (done)
			return 0;
		if (self->shared_cores)
			sched_yield();
		if (tests % TESTS_BETWEEN_CLOCKS)
			continue;
		if (!start)
			start = now_ns();
		if (now_ns() - start < SPIN_NS)
			continue;
		nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
		pause = pause * 2 < SLEEP_MAX_NS ? pause * 2 : SLEEP_MAX_NS;
		tests = TESTS_BETWEEN_CLOCKS - 1;
	}
}

static int group_broadcast(const struct group *group, void *data, size_t bytes, int root,
			   struct error *err)
{
	const struct mpi_group *self = group->context;
	for (size_t done = 0; done < bytes && group->size > 1;) {
		size_t part = bytes - done < MESSAGE_MAX ? bytes - done : MESSAGE_MAX;
		MPI_Request request;
		if (!mpi_ok(err, MPI_Ibcast((char *)data + done, (int)part, MPI_BYTE, root,
					    MPI_COMM_WORLD, &request), "a broadcast") ||
		    wait_gently(self, &request, err))
			return -1;
		done += part;
	}
	return 0;
}

static int group_gather(const struct group *group, const void *data, size_t bytes, void *out,
			struct error *err)
{
	if (bytes > INT_MAX / (size_t)group->size)
		return error_run(err, "a gather of %zu bytes a rank is too large for MPI", bytes);
	return mpi_ok(err, MPI_Gather(data, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, 0,
				      MPI_COMM_WORLD), "a gather") ? 0 : -1;
}

int mpi_group_all_gather(const struct group *group, const void *data, size_t bytes, void *out,
			 struct error *err)
{
	(void)group;
	return mpi_ok(err, MPI_Allgather(data, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE,
					 MPI_COMM_WORLD), "a gather to all ranks") ? 0 : -1;
}

/* Turns sizes into MPI's counts and offsets. */
static int layout_parts(const size_t *bytes, int ranks, int *counts, int *offsets,
			struct error *err)
{
	size_t total = 0;
	for (int r = 0; r < ranks; r++) {
		if (bytes[r] > INT_MAX - total)
			return error_run(err, "an exchange of more than 2^31 bytes");
		counts[r] = (int)bytes[r];
		offsets[r] = (int)total;
		total += bytes[r];
	}
	return 0;
}

static int group_exchange(const struct group *group, const void *send, const size_t *send_bytes,
			  void *receive, const size_t *receive_bytes, struct error *err)
{
	int n = group->size, result = -1;
	int *layout = malloc(4 * (size_t)n * sizeof *layout);
	if (!layout)
		return error_memory(err, "an exchange between ranks");
	if (layout_parts(send_bytes, n, layout, layout + n, err) ||
	    layout_parts(receive_bytes, n, layout + 2 * n, layout + 3 * n, err))
		goto fail;
	if (!mpi_ok(err, MPI_Alltoallv(send, layout, layout + n, MPI_BYTE, receive, layout + 2 * n,
				       layout + 3 * n, MPI_BYTE, MPI_COMM_WORLD), "an exchange"))
		goto fail;
	result = 0;
fail:
	free(layout);
	return result;
}

/* Open MPI's all-reduce takes the same way through the ranks each time, so the sums are too. */
static int group_sum(const struct group *group, float *data, size_t count, struct error *err)
{
	const size_t most = MESSAGE_MAX / sizeof *data;
	for (size_t done = 0; done < count && group->size > 1;) {
		size_t part = count - done < most ? count - done : most;
		if (!mpi_ok(err, MPI_Allreduce(MPI_IN_PLACE, data + done, (int)part, MPI_FLOAT,
					       MPI_SUM, MPI_COMM_WORLD), "an all-reduce"))
			return -1;
		done += part;
	}
	return 0;
}

/* The least of the ranks' values, to all. Waits gently: a rank may be reading its prompt from a
 * person's keyboard. */
static int least(const struct mpi_group *self, int value, int *out, struct error *err)
{
	MPI_Request request;
	if (!mpi_ok(err, MPI_Iallreduce(&value, out, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD, &request),
		    "an agreement"))
		return -1;
	return wait_gently(self, &request, err);
}

/* The first failing rank's error goes to all. Where all ranks met the very same one, or it is
 * named already because an earlier agreement brought it here, no rank is put before it. */
static int group_agree(const struct group *group, int result, struct error *err)
{
	const struct mpi_group *self = group->context;
	struct {
		struct error error;
		char host[HOST_NAME_MAX_BYTES];
	} first = {0};
	int lowest, alike;
	if (group->size == 1)
		return result ? -1 : 0;
	if (least(self, result ? group->rank : group->size, &lowest, err))
		return -1;
	if (lowest == group->size)
		return 0;
	if (lowest == group->rank) {
		first.error = *err;
		memcpy(first.host, self->host, sizeof first.host);
	}
	if (group_broadcast(group, &first, sizeof first, lowest, err) ||
	    least(self, result && !strcmp(first.error.message, err->message), &alike, err))
		return -1;
	*err = first.error;
	if (!alike)
		error_context(err, "rank %d (host %s)", lowest, first.host);
	return -1;
}

__attribute__((noreturn))
static void group_abort(const struct group *group, const struct error *err)
{
	const struct mpi_group *self = group->context;
	if (group->size > 1)
		fprintf(stderr, "tprun: rank %d (host %s): %s\n", group->rank, self->host,
			err->message);
	else
		fprintf(stderr, "tprun: %s\n", err->message);
	fflush(stdout);
	MPI_Abort(MPI_COMM_WORLD, err->kind ? (int)err->kind : ERROR_RUN);
	_exit(ERROR_RUN);
}

int mpi_group_open(struct group **out, struct error *err)
{
	int provided, initialized = 0;
	struct mpi_group *self = calloc(1, sizeof *self);
	MPI_Comm local;
	if (!self)
		return error_memory(err, "the group of ranks");
	/* A rank without a launcher needs no helper daemon, which takes Open MPI 0.1 s to start. */
	if (!launch_hint().size)
		setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
	if (!mpi_ok(err, MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "its start"))
		goto fail;
	initialized = 1;
	if (provided < MPI_THREAD_FUNNELED) {
		error_run(err, "this MPI does not support threads (MPI_THREAD_FUNNELED)");
		goto fail;
	}
	MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);

	self->group = (struct group){
		.context = self, .broadcast = group_broadcast, .gather = group_gather,
		.exchange = group_exchange, .sum = group_sum, .agree = group_agree,
		.abort = group_abort,
	};
	MPI_Comm_rank(MPI_COMM_WORLD, &self->group.rank);
	MPI_Comm_size(MPI_COMM_WORLD, &self->group.size);
	if (!mpi_ok(err, MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, self->group.rank,
					     MPI_INFO_NULL, &local), "the split by node"))
		goto fail;
	MPI_Comm_rank(local, &self->group.local_rank);
	MPI_Comm_size(local, &self->group.local_size);
	self->node = self->group.rank;
	MPI_Bcast(&self->node, 1, MPI_INT, 0, local);
	MPI_Comm_free(&local);
	gethostname(self->host, sizeof self->host - 1);

	self->shared_cores = sysconf(_SC_NPROCESSORS_ONLN) < self->group.local_size;
	*out = &self->group;
	return 0;
fail:
	if (initialized)
		MPI_Finalize();
	free(self);
	return -1;
}

void mpi_group_close(struct group *group)
{
	if (!group)
		return;
	MPI_Finalize();
	free(group->context);
}

const char *mpi_group_host(const struct group *group)
{
	return ((const struct mpi_group *)group->context)->host;
}

int mpi_group_node(const struct group *group)
{
	return ((const struct mpi_group *)group->context)->node;
}

void mpi_group_share_cores(struct group *group, bool shared)
{
	((struct mpi_group *)group->context)->shared_cores = shared;
}

struct launch_hint launch_hint(void)
{
	static const char *const names[][2] = {
		{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
		{"PMI_RANK", "PMI_SIZE"},
		{"SLURM_PROCID", "SLURM_NTASKS"},
	};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		const char *rank = getenv(names[i][0]), *size = getenv(names[i][1]);
		if (rank && size && atoi(size) > 0)
			return (struct launch_hint){atoi(rank), atoi(size)};
	}
	return (struct launch_hint){0, 0};
}
