#define TEST_SUITE "channel"
#include "tests/test.h"

#include <signal.h>
#include <sys/wait.h>

#include "launcher/channel.h"
#include "launcher/mpi_group.h"
#include "launcher/output.h"

/* Replicas, the messages between their leaders, and requests to stop. The binary starts itself under
 * mpirun; each rank runs the tests, and rank 0 speaks. A check that fails on another rank fails the
 * binary by its status. */

enum { RANKS_MAX = 4 };

static struct group *world;
static struct error err;

/* Every way of cutting the ranks into replicas: calls stay within one, agreements do not. */
static void split(void)
{
	for (int tp = 1; tp <= world->size; tp++) {
		struct group *group;
		if (world->size % tp) {
			CHECK_FAILS(mpi_group_split(&group, world, tp, &err), &err, "does not divide");
			CHECK(err.kind == ERROR_USAGE);
			continue;
		}
		CHECK_OK(mpi_group_split(&group, world, tp, &err), &err);
		CHECK(group->size == tp && group->rank == world->rank % tp);
		CHECK(group->local_rank == world->local_rank && group->local_size == world->local_size);
		CHECK_STR(mpi_group_host(group), mpi_group_host(world));

		int first = world->rank - group->rank, root = tp - 1, value = world->rank;
		int out[RANKS_MAX], all[RANKS_MAX] = {0};
		size_t ints[RANKS_MAX];
		CHECK_OK(group->broadcast(group, &value, sizeof value, root, &err), &err);
		CHECK(value == first + root);
		float sum = (float)world->rank;
		CHECK_OK(group->sum(group, &sum, 1, &err), &err);
		CHECK((int)sum == tp * first + tp * (tp - 1) / 2);
		CHECK_OK(group->gather(group, &world->rank, sizeof(int), group->rank ? NULL : all, &err),
			 &err);
		for (int r = 0; r < tp && group->rank == 0; r++)
			CHECK(all[r] == first + r);
		for (int r = 0; r < tp; r++) {
			ints[r] = sizeof(int);
			out[r] = 100 * world->rank + r;
		}
		CHECK_OK(group->exchange(group, out, ints, all, ints, &err), &err);
		for (int r = 0; r < tp; r++)
			CHECK(all[r] == 100 * (first + r) + group->rank);
		CHECK_OK(mpi_group_least(group, 7 + world->rank, &value, &err), &err);
		CHECK(value == 7 + first);

		/* The last rank of the world fails: all of it learn that, by its number in the world. */
		char expected[160];
		err = (struct error){0};
		int failing = world->size - 1, result = 0;
		if (world->rank == failing)
			result = error_usage(&err, "no such file");
		CHECK(group->agree(group, result, &err) == -1);
		snprintf(expected, sizeof expected, "rank %d (host %s): no such file", failing,
			 mpi_group_host(world));
		CHECK_STR(err.message, world->size == 1 ? "no such file" : expected);
		CHECK(group->agree(group, 0, &err) == 0);
		mpi_group_close(group);
	}
	int tp = 0;
	CHECK_OK(mpi_group_default_tp(world, &tp, &err), &err);
	CHECK(tp == world->local_size); /* one node here */
}

/* ---- messages ---------------------------------------------------------------------------- */

/* Rank 0 sends each leader, itself too, as many messages as it likes, and a leader sends each back
 * with its bytes turned around. Both sides check order and contents. */
enum { MESSAGES = 40, KIND_ECHO = 3, KIND_END = 32767 };

struct message {
	size_t bytes;
	uint8_t first;
};

static struct message plan[RANKS_MAX][MESSAGES]; /* the same on all ranks: from rank 0's seed */

static void make_plan(size_t most)
{
	for (int r = 0; r < world->size; r++)
		for (int i = 0; i < MESSAGES; i++)
			plan[r][i] = (struct message){
				(size_t)test_int(0, test_int(0, 3) ? 50 : (int64_t)most),
				(uint8_t)test_random()};
}

static bool matches(const struct message *message, const char *data, size_t bytes, int step)
{
	bool same = bytes == message->bytes && data[bytes] == '\0';
	for (size_t i = 0; i < bytes && same; i++)
		same = (uint8_t)data[i] == (uint8_t)(message->first + step * (int)i);
	return same;
}

static void send_one(struct channel *channel, int to, const struct message *message, int step,
		     int kind)
{
	uint8_t *data = malloc(message->bytes + 1);
	for (size_t i = 0; i < message->bytes; i++)
		data[i] = (uint8_t)(message->first + step * (int)i);
	CHECK_OK(channel_send(channel, to, kind, message->bytes ? data : NULL, message->bytes, &err),
		 &err);
	free(data); /* it was copied */
}

static void echo_all(struct channel *channel, int tp)
{
	int replicas = world->size / tp, own = world->rank;
	int echoed[RANKS_MAX] = {0}, taken = 0, due = own ? MESSAGES : MESSAGES * (1 + replicas);
	for (int i = 0; i < MESSAGES && own == 0; i++)
		for (int r = 0; r < world->size; r += tp)
			send_one(channel, r, &plan[r][i], 1, 0);
	int done = 0;
	while (done < due && !test_failures) {
		const char *data;
		size_t bytes;
		int from = -1, kind = -1;
		int got = channel_receive(channel, &from, &kind, &data, &bytes, &err);
		CHECK_MSG(got >= 0, "%s", err.message);
		if (got == 0) {
			channel_idle(channel);
			continue;
		}
		done++;
		if (kind == KIND_ECHO) {
			CHECK(own == 0 && from % tp == 0 && from < world->size);
			CHECK(matches(&plan[from][echoed[from]++], data, bytes, 7));
		} else {
			CHECK(kind == 0 && from == 0);
			CHECK(matches(&plan[own][taken], data, bytes, 1));
			send_one(channel, 0, &plan[own][taken++], 7, KIND_ECHO);
		}
	}
	CHECK_OK(channel_flush(channel, 20, &err), &err);
}

static void messages(void)
{
	for (int tp = 1; tp <= world->size; tp++) {
		if (world->size % tp)
			continue;
		struct channel *channel;
		make_plan(tp % 2 ? 300000 : 3000);
		CHECK_OK(channel_open(&channel, world, tp, &err), &err);
		if (world->rank % tp == 0)
			echo_all(channel, tp);
		CHECK(world->agree(world, 0, &err) == 0);
		channel_close(channel);
	}
}

/* A leader that takes nothing is named; a small message needs nobody to take it. */
static void flush_deadline(void)
{
	struct channel *channel;
	const char *data;
	const size_t large = 3000000;
	size_t bytes;
	int from, kind, last = world->size - 1;
	CHECK_OK(channel_open(&channel, world, 1, &err), &err);
	if (world->rank == 0 && last > 0) {
		char expected[64], *zeros = calloc(large, 1);
		CHECK_OK(channel_send(channel, last, 5, "x", 1, &err), &err);
		CHECK_OK(channel_flush(channel, 20, &err), &err);
		CHECK_OK(channel_send(channel, last, KIND_END, zeros, large, &err), &err);
		free(zeros);
		double start = output_now();
		snprintf(expected, sizeof expected, "rank %d has not taken a message of %zu bytes", last,
			 large);
		CHECK_FAILS(channel_flush(channel, 0.1, &err), &err, expected);
		double taken = output_now() - start;
		CHECK_MSG(taken > 0.09 && taken < 5, "%.3f s", taken);
	}
	CHECK(world->agree(world, 0, &err) == 0);
	if (world->rank == last && last > 0) {
		int got = 0;
		while (!(got = channel_receive(channel, &from, &kind, &data, &bytes, &err)))
			channel_idle(channel);
		CHECK(got == 1 && from == 0 && kind == 5 && bytes == 1 && *data == 'x');
		while (!(got = channel_receive(channel, &from, &kind, &data, &bytes, &err)))
			channel_idle(channel);
		CHECK(got == 1 && from == 0 && kind == KIND_END && bytes == large && !data[large - 1]);
	}
	if (world->rank == 0)
		CHECK_OK(channel_flush(channel, 20, &err), &err);
	CHECK(world->agree(world, 0, &err) == 0);
	channel_close(channel);
}

static void wrong_messages(void)
{
	struct channel *channel;
	CHECK_OK(channel_open(&channel, world, world->size, &err), &err);
	CHECK_FAILS(channel_send(channel, world->size, 0, "x", 1, &err), &err, "no message");
	CHECK_FAILS(channel_send(channel, -1, 0, "x", 1, &err), &err, "no message");
	CHECK_FAILS(channel_send(channel, 0, -1, "x", 1, &err), &err, "no message");
	CHECK_FAILS(channel_send(channel, 0, 0, "x", (size_t)1 << 31, &err), &err, "no message");
	if (world->size > 1) /* to or from a rank that leads nothing */
		CHECK_FAILS(channel_send(channel, world->rank ? 0 : 1, 0, "x", 1, &err), &err,
			    "no message");
	channel_close(channel);
}

/* ---- requests to stop -------------------------------------------------------------------- */

/* Asks until the request is known, for at most two seconds; returns the last answer. */
static enum stop_request await(enum stop_request expected)
{
	double end = output_now() + 2;
	while (mpi_group_stop_requested(world) != expected && output_now() < end)
		usleep(1000);
	return mpi_group_stop_requested(world);
}

/* SIGUSR1 on one rank, which sits in a broadcast that rank 0 will end: rank 0 learns of it, and the
 * others from it. */
static void stop(void)
{
	int asked = world->size - 1;
	char byte = 0;
	CHECK_OK(mpi_group_watch_stop(world, &err), &err);
	CHECK(mpi_group_stop_requested(world) == STOP_NONE);
	CHECK(world->agree(world, 0, &err) == 0);
	if (world->rank == asked)
		raise(SIGUSR1);
	if (world->rank == 0)
		CHECK(await(STOP_DRAIN) == STOP_DRAIN);
	CHECK_OK(world->broadcast(world, &byte, 1, 0, &err), &err);
	CHECK(await(STOP_DRAIN) == STOP_DRAIN);
	CHECK(world->agree(world, 0, &err) == 0);
}

static int run_ranks(void)
{
	if (stop_request_open(&err) || mpi_group_open(&world, &err)) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	if (world->rank && !freopen("/dev/null", "w", stdout))
		return 1;
	test_random();
	if (world->broadcast(world, &test_seed, sizeof test_seed, 0, &err))
		return 1;
	test_state = test_seed;
	RUN(split);
	RUN(messages);
	RUN(flush_deadline);
	RUN(wrong_messages);
	RUN(stop);
	mpi_group_close(world);
	TEST_END();
}

/* ---- deadlines, in processes without MPI -------------------------------------------------- */

/* A child that got the signals, the second after `later` seconds, and takes no notice: how many
 * seconds until it ends, with what status and words. */
static double doomed(int first, int second, double later, int *status, char *said, size_t room)
{
	int ends[2];
	CHECK(pipe(ends) == 0);
	double start = output_now();
	pid_t child = fork();
	if (child == 0) {
		dup2(ends[1], STDERR_FILENO);
		if (stop_request_open(&err))
			_exit(99);
		stop_request_message("stopped as asked\n");
		raise(first);
		raise(first); /* a repetition does not put the end off */
		if (second) {
			usleep((useconds_t)(later * 1e6));
			while (output_now() < start + later)
				;
			raise(second);
		}
		for (;;)
			;
	}
	close(ends[1]);
	ssize_t length = read(ends[0], said, room - 1);
	said[length > 0 ? length : 0] = '\0';
	close(ends[0]);
	waitpid(child, status, 0);
	return output_now() - start;
}

static void deadlines(void)
{
	static const struct {
		int first, second;
		double later, expected;
	} cases[] = {
		{SIGTERM, 0, 0, STOP_NOW_MS * 1e-3},
		{SIGUSR1, 0, 0, STOP_DRAIN_MS * 1e-3},
		{SIGUSR1, SIGTERM, 0.5, 0.5 + STOP_NOW_MS * 1e-3},
		{SIGTERM, SIGUSR1, 0.2, STOP_NOW_MS * 1e-3},
		{SIGUSR1, SIGTERM, 4.2, STOP_DRAIN_MS * 1e-3},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int status;
		char said[64];
		double taken = doomed(cases[i].first, cases[i].second, cases[i].later, &status, said,
				      sizeof said);
		CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == ERROR_STOPPED, "status %x", status);
		CHECK_STR(said, "stopped as asked\n");
		CHECK_MSG(taken > cases[i].expected - 0.01 && taken < cases[i].expected + 0.4,
			  "case %zu: %.3f s, not %.3f", i, taken, cases[i].expected);
	}
}

/* Without stop_request_open nothing is seen, and nothing can be raised. */
static void closed(void)
{
	stop_request_raise(STOP_NOW);
	CHECK(stop_request_seen() == STOP_NONE);
}

int main(int argc, char **argv)
{
	(void)argc;
	if (getenv("TPRUN_TEST_RANKS"))
		return run_ranks();
	RUN(closed);
	RUN(deadlines);
	setenv("TPRUN_TEST_RANKS", "1", 1);
	setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* MPI's own would hide ours */
	setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
	setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
	setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
	setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 1);
	for (int ranks = 1; ranks <= RANKS_MAX; ranks++) {
		char command[4200];
		printf("# %d ranks\n", ranks);
		fflush(stdout);
		if (ranks == 1)
			snprintf(command, sizeof command, "\"%s\"", argv[0]);
		else
			snprintf(command, sizeof command, "mpirun -np %d \"%s\"", ranks, argv[0]);
		test_failed |= system(command) != 0;
	}
	TEST_END();
}
