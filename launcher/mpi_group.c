#include "launcher/mpi_group.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "launcher/launch.h"
#include "launcher/mpi_call.h"
#include "launcher/watchdog.h"

enum {
	SPIN_NS = 200 * 1000,	    /* longer than the gap between two steps of a decode */
	SLEEP_MIN_NS = 50 * 1000,
	SLEEP_MAX_NS = 1000 * 1000,
	TESTS_BETWEEN_CLOCKS = 16,
	MESSAGE_MAX = 1 << 30, /* bytes of one MPI call, whose counts are ints */
};

static const double give_way_s = 0.25; /* for the loss of another rank, the cause maybe, to show */

struct mpi_group {
	struct group group;
	struct mpi_group *world; /* of a replica: whose ranks it is made of; itself otherwise */
	MPI_Comm comm;
	/* Of the world alone. */
	int node;
	bool shared_cores;
	char host[HOST_NAME_MAX_BYTES];
	MPI_Comm stop_comm; /* MPI_COMM_NULL: requests to stop are not watched */
	enum stop_request stop_told;
	struct activity *activity;
	struct watchdog *watchdog;
	struct log log;
	double sum_s; /* of any group: seconds in its sums */
};

static struct mpi_group *world_of(const struct group *group)
{
	return ((const struct mpi_group *)group->context)->world;
}

static void arrive(const struct group *group)
{
	activity_arrive(world_of(group)->activity);
}

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* ---- requests to stop -------------------------------------------------------------------- */

/* Empty messages, whose tag is the request, go from the rank that saw a signal to world rank 0, and
 * from there to all. What comes starts this process's own deadline too. A failure of MPI here shows
 * in the next call that needs it. */
static enum stop_request exchange_stop(struct mpi_group *world)
{
	int arrived = 0, rank = world->group.rank, size = world->group.size;
	MPI_Status status;
	if (world->stop_comm == MPI_COMM_NULL)
		return stop_request_seen();
	while (!MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, world->stop_comm, &arrived, &status) &&
	       arrived) {
		MPI_Recv(NULL, 0, MPI_BYTE, status.MPI_SOURCE, status.MPI_TAG, world->stop_comm,
			 MPI_STATUS_IGNORE);
		stop_request_raise((enum stop_request)status.MPI_TAG);
		if (rank && (enum stop_request)status.MPI_TAG > world->stop_told)
			world->stop_told = (enum stop_request)status.MPI_TAG; /* rank 0 knows */
	}
	enum stop_request seen = stop_request_seen();
	if (seen <= world->stop_told)
		return seen;
	world->stop_told = seen;
	for (int r = rank ? 0 : 1; r < (rank ? 1 : size); r++) {
		MPI_Request request;
		if (!MPI_Isend(NULL, 0, MPI_BYTE, r, (int)seen, world->stop_comm, &request))
			MPI_Request_free(&request);
	}
	return seen;
}

int mpi_group_watch_stop(struct group *group, struct error *err)
{
	struct mpi_group *self = group->context;
	return mpi_ok(err, MPI_Comm_dup(self->comm, &self->stop_comm), "a copy of the world") ? 0 : -1;
}

enum stop_request mpi_group_stop_requested(const struct group *group)
{
	return exchange_stop(world_of(group));
}

/* ---- waiting ----------------------------------------------------------------------------- */

/* A blocked MPI call burns its core for as long as it waits. This one spins while an answer is
 * likely to be near, and then looks from time to time; for requests to stop as well, because here
 * is where a rank that follows sits when nothing is to do. */
static int wait_gently(const struct mpi_group *self, MPI_Request *request, struct error *err)
{
	int done = 0;
	int64_t start = 0, pause = SLEEP_MIN_NS;
	exchange_stop(self->world); /* here too: a busy run's next step may be there already */
	for (int tests = 1;; tests++) {
		if (!mpi_ok(err, MPI_Test(request, &done, MPI_STATUS_IGNORE), "a test"))
			return -1;
		if (done)
			return 0;
		if (self->world->shared_cores)
			sched_yield();
		if (tests % TESTS_BETWEEN_CLOCKS)
			continue;
		exchange_stop(self->world);
		if (!start)
			start = now_ns();
		if (now_ns() - start < SPIN_NS)
			continue;
		nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
		pause = pause * 2 < SLEEP_MAX_NS ? pause * 2 : SLEEP_MAX_NS;
		tests = TESTS_BETWEEN_CLOCKS - 1;
	}
}

/* ---- the calls of struct group ----------------------------------------------------------- */

static int group_broadcast(const struct group *group, void *data, size_t bytes, int root,
			   struct error *err)
{
	const struct mpi_group *self = group->context;
	arrive(group);
	for (size_t done = 0; done < bytes && group->size > 1;) {
		size_t part = bytes - done < MESSAGE_MAX ? bytes - done : MESSAGE_MAX;
		MPI_Request request;
		if (!mpi_ok(err, MPI_Ibcast((char *)data + done, (int)part, MPI_BYTE, root,
					    self->comm, &request), "a broadcast") ||
		    wait_gently(self, &request, err))
			return -1;
		done += part;
	}
	return 0;
}

static int group_gather(const struct group *group, const void *data, size_t bytes, void *out,
			struct error *err)
{
	const struct mpi_group *self = group->context;
	arrive(group);
	if (bytes > INT_MAX / (size_t)group->size)
		return error_run(err, "a gather of %zu bytes a rank is too large for MPI", bytes);
	return mpi_ok(err, MPI_Gather(data, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE, 0,
				      self->comm), "a gather") ? 0 : -1;
}

int mpi_group_all_gather(const struct group *group, const void *data, size_t bytes, void *out,
			 struct error *err)
{
	const struct mpi_group *self = group->context;
	arrive(group);
	return mpi_ok(err, MPI_Allgather(data, (int)bytes, MPI_BYTE, out, (int)bytes, MPI_BYTE,
					 self->comm), "a gather to all ranks") ? 0 : -1;
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
	const struct mpi_group *self = group->context;
	int n = group->size, done = 0, result = -1;
	MPI_Request request;
	int *layout = malloc(4 * (size_t)n * sizeof *layout);
	arrive(group);
	if (!layout)
		return error_memory(err, "an exchange between ranks");
	if (layout_parts(send_bytes, n, layout, layout + n, err) ||
	    layout_parts(receive_bytes, n, layout + 2 * n, layout + 3 * n, err))
		goto fail;
	if (!mpi_ok(err, MPI_Ialltoallv(send, layout, layout + n, MPI_BYTE, receive, layout + 2 * n,
					layout + 3 * n, MPI_BYTE, self->comm, &request), "an exchange"))
		goto fail;
	/* Data is on its way, so this does not sleep; but threads that read may want the core. */
	for (; !done; sched_yield())
		if (!mpi_ok(err, MPI_Test(&request, &done, MPI_STATUS_IGNORE), "a test"))
			goto fail;
	result = 0;
fail:
	free(layout);
	return result;
}

/* Open MPI's all-reduce takes the same way through the ranks each time, so the sums are too. */
static int group_sum(const struct group *group, float *data, size_t count, struct error *err)
{
	struct mpi_group *self = group->context;
	const size_t most = MESSAGE_MAX / sizeof *data;
	arrive(group);
	int64_t begun = now_ns();
	for (size_t done = 0; done < count && group->size > 1;) {
		size_t part = count - done < most ? count - done : most;
		if (!mpi_ok(err, MPI_Allreduce(MPI_IN_PLACE, data + done, (int)part, MPI_FLOAT,
					       MPI_SUM, self->comm), "an all-reduce"))
			return -1;
		done += part;
	}
	self->sum_s += (double)(now_ns() - begun) * 1e-9;
	return 0;
}

/* Waits gently: a rank may be reading its prompt from a person's keyboard. */
int mpi_group_least(const struct group *group, int value, int *out, struct error *err)
{
	const struct mpi_group *self = group->context;
	MPI_Request request;
	arrive(group);
	if (!mpi_ok(err, MPI_Iallreduce(&value, out, 1, MPI_INT, MPI_MIN, self->comm, &request),
		    "an agreement"))
		return -1;
	return wait_gently(self, &request, err);
}

/* The first failing rank's error goes to all. Where all ranks met the very same one, or it is
 * named already because an earlier agreement brought it here, no rank is put before it. Replicas
 * start up through the same phases, so all ranks of the run agree, and one failure ends them all. */
static int group_agree(const struct group *group, int result, struct error *err)
{
	const struct mpi_group *world = world_of(group);
	const struct group *all = &world->group;
	struct {
		struct error error;
		char host[HOST_NAME_MAX_BYTES];
	} first = {0};
	int lowest, alike;
	if (all->size == 1)
		return result ? -1 : 0;
	if (mpi_group_least(all, result ? all->rank : all->size, &lowest, err))
		return -1;
	if (lowest == all->size)
		return 0;
	if (lowest == all->rank) {
		first.error = *err;
		memcpy(first.host, world->host, sizeof first.host);
	}
	if (group_broadcast(all, &first, sizeof first, lowest, err) ||
	    mpi_group_least(all, result && !strcmp(first.error.message, err->message), &alike, err))
		return -1;
	*err = first.error;
	if (!alike)
		error_context(err, "rank %d (host %s)", lowest, first.host);
	return -1;
}

__attribute__((noreturn))
static void group_abort(const struct group *group, const struct error *err)
{
	const struct mpi_group *world = world_of(group);
	if (world->group.size > 1)
		watchdog_give_way(world->watchdog, give_way_s);
	if (world->group.size > 1)
		log_say(&world->log, LOG_ERROR, "tprun: rank %d (host %s): %s", world->group.rank,
			world->host, err->message);
	else
		log_say(&world->log, LOG_ERROR, "tprun: %s", err->message);
	fflush(stdout);
	watchdog_failed();
	MPI_Abort(MPI_COMM_WORLD, err->kind ? (int)err->kind : ERROR_RUN);
	_exit(ERROR_RUN);
}

/* ---- the world --------------------------------------------------------------------------- */

/* Open MPI learns from its own mpirun or through PMIx of the others, rarely through PMI. With none of
 * them it would end the process itself, with a page that does not name srun's option. */
static bool hint_is_lost(struct launch_hint hint)
{
#ifdef OPEN_MPI
	return hint.size > 1 && !getenv("OMPI_COMM_WORLD_SIZE") && !getenv("PMIX_RANK") &&
	       !getenv("PMI_SIZE");
#else
	(void)hint;
	return false;
#endif
}

static int refuse_alone(struct launch_hint hint, struct error *err)
{
	char library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
	int length;
	MPI_Get_library_version(library, &length);
	library[strcspn(library, ",\n")] = '\0';
	/* Rank 0 speaks, and under srun -K the first that ends takes the others along. */
	if (hint.rank > 0)
		sleep(1);
	return error_usage(err, "%d tasks were started together (%s), but to MPI (%s) each is alone: give "
				"srun the type that this MPI speaks (Open MPI: --mpi=pmix, MPICH: "
				"--mpi=pmi2; srun --mpi=list shows what there is), or start them with "
				"the mpirun of this MPI", hint.size, hint.name, library);
}

int mpi_group_open(struct group **out, struct error *err)
{
	int provided, initialized = 0;
	struct launch_hint hint = launch_hint();
	if (hint_is_lost(hint))
		return refuse_alone(hint, err);
	struct mpi_group *self = calloc(1, sizeof *self);
	MPI_Comm local;
	if (!self)
		return error_memory(err, "the group of ranks");
	/* A rank without a launcher needs no helper daemon, which takes Open MPI 0.1 s to start. */
	if (!hint.size)
		setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
	/* Shared memory then carries all messages. To look for networks that could takes Open MPI 0.2 s. */
	if (launch_on_one_node())
		setenv("OMPI_MCA_pml", "ob1", 0);
	/* Else a rank that waits keeps the core from the one it waits for until its time is over: two ranks on
	 * one core then take 45 ms for a token instead of 0.1. */
	bool crowded = launch_is_crowded();
	if (crowded)
		setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
	if (!mpi_ok(err, MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "its start"))
		goto fail;
	initialized = 1;
	if (provided < MPI_THREAD_FUNNELED) {
		error_run(err, "this MPI does not support threads (MPI_THREAD_FUNNELED)");
		goto fail;
	}
	/* Copies and parts of a communicator inherit this. */
	MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);

	self->world = self;
	self->log = (struct log){.level = LOG_INFO};
	self->comm = MPI_COMM_WORLD;
	self->stop_comm = MPI_COMM_NULL;
	self->group = (struct group){
		.context = self, .broadcast = group_broadcast, .gather = group_gather,
		.exchange = group_exchange, .sum = group_sum, .agree = group_agree,
		.abort = group_abort,
	};
	MPI_Comm_rank(MPI_COMM_WORLD, &self->group.rank);
	MPI_Comm_size(MPI_COMM_WORLD, &self->group.size);
	if (self->group.size == 1 && hint.size > 1) {
		refuse_alone(hint, err);
		goto fail;
	}
	if (!mpi_ok(err, MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, self->group.rank,
					     MPI_INFO_NULL, &local), "the split by node"))
		goto fail;
	MPI_Comm_rank(local, &self->group.local_rank);
	MPI_Comm_size(local, &self->group.local_size);
	self->node = self->group.rank;
	MPI_Bcast(&self->node, 1, MPI_INT, 0, local);
	MPI_Comm_free(&local);
	gethostname(self->host, sizeof self->host - 1);

	self->shared_cores = crowded || sysconf(_SC_NPROCESSORS_ONLN) < self->group.local_size;
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
	struct mpi_group *self = group->context;
	arrive(group);
	if (self->world != self)
		MPI_Comm_free(&self->comm);
	else
		MPI_Finalize();
	free(self);
}

double mpi_group_sum_seconds(const struct group *group)
{
	return ((const struct mpi_group *)group->context)->sum_s;
}

void mpi_group_log(struct group *world, const struct log *log)
{
	world_of(world)->log = *log;
}

void mpi_group_watch(struct group *world, struct activity *activity, struct watchdog *watchdog)
{
	world_of(world)->activity = activity;
	world_of(world)->watchdog = watchdog;
}

struct watchdog *mpi_group_watchdog(const struct group *group)
{
	return world_of(group)->watchdog;
}

struct activity *mpi_group_activity(const struct group *group)
{
	return world_of(group)->activity;
}

const char *mpi_group_host(const struct group *group)
{
	return world_of(group)->host;
}

int mpi_group_node(const struct group *group)
{
	return world_of(group)->node;
}

void mpi_group_share_cores(struct group *group, bool shared)
{
	world_of(group)->shared_cores = shared;
}

/* ---- replicas ---------------------------------------------------------------------------- */

int mpi_group_default_tp(const struct group *world, int *tp, struct error *err)
{
	struct {
		int node, ranks;
	} mine = {mpi_group_node(world), world->local_size}, *all;
	int result = -1;
	if (!(all = calloc((size_t)world->size, sizeof *all)))
		return error_memory(err, "the nodes of the ranks");
	if (mpi_group_all_gather(world, &mine, sizeof mine, all, err))
		goto fail;
	for (int r = 0; r < world->size; r++) {
		if (all[r].ranks != all[0].ranks) {
			error_usage(err, "the nodes have unlike numbers of ranks (%d and %d): give "
					 "--tp, the ranks that hold a copy of the model together",
				    all[0].ranks, all[r].ranks);
			goto fail;
		}
		if (all[r].node != r / mine.ranks * mine.ranks) {
			error_usage(err, "ranks of one node are not neighbours: start them with mpirun "
					 "--map-by slot or srun --distribution=block, or give --tp");
			goto fail;
		}
	}
	*tp = mine.ranks;
	result = 0;
fail:
	free(all);
	return result;
}

int mpi_group_split(struct group **out, const struct group *world, int tp, struct error *err)
{
	if (tp < 1 || world->size % tp)
		return error_usage(err, "--tp %d does not divide the %d ranks: start a multiple of %d, "
					"or give a --tp that does", tp, world->size, tp);
	struct mpi_group *self = calloc(1, sizeof *self);
	if (world->agree(world, self ? 0 : error_memory(err, "a replica's group of ranks"), err))
		goto fail;
	if (!mpi_ok(err, MPI_Comm_split(world_of(world)->comm, world->rank / tp, world->rank,
					&self->comm), "the split into replicas"))
		goto fail;
	self->world = world_of(world);
	self->group = *world;
	self->group.context = self;
	self->group.rank = world->rank % tp;
	self->group.size = tp;
	*out = &self->group;
	return 0;
fail:
	free(self);
	return -1;
}
