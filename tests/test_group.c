#define TEST_SUITE "group"
#include "tests/test.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include "launcher/mpi_group.h"
#include "launcher/start_checks.h"

/* The binary starts itself under mpirun; each rank runs the tests, and rank 0 speaks. Random inputs
 * are the same on all ranks: they come from rank 0's seed. */

static struct group *group;
static struct error err;

static double cpu_seconds(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return (double)usage.ru_utime.tv_sec + 1e-6 * (double)usage.ru_utime.tv_usec +
	       (double)usage.ru_stime.tv_sec + 1e-6 * (double)usage.ru_stime.tv_usec;
}

static void broadcast(void)
{
	for (int i = 0; i < 20; i++) {
		int root = (int)test_int(0, group->size - 1);
		size_t bytes = (size_t)test_int(0, i < 10 ? 40 : 3000000);
		uint8_t *expected = malloc(bytes + 1), *data = calloc(bytes + 1, 1);
		for (size_t b = 0; b < bytes; b++)
			expected[b] = (uint8_t)test_random();
		if (group->rank == root)
			memcpy(data, expected, bytes);
		CHECK_OK(group->broadcast(group, data, bytes, root, &err), &err);
		CHECK(!memcmp(data, expected, bytes) && data[bytes] == 0);
		free(expected);
		free(data);
	}
}

static void gather(void)
{
	int *all = calloc((size_t)group->size, sizeof *all), mine = 100 + group->rank;
	CHECK_OK(group->gather(group, &mine, sizeof mine, group->rank ? NULL : all, &err), &err);
	for (int r = 0; r < group->size && group->rank == 0; r++)
		CHECK(all[r] == 100 + r);
	memset(all, 0, (size_t)group->size * sizeof *all);
	CHECK_OK(mpi_group_all_gather(group, &mine, sizeof mine, all, &err), &err);
	for (int r = 0; r < group->size; r++)
		CHECK(all[r] == 100 + r);
	free(all);
}

/* Byte b of the part from rank s to rank r is a mix of the three. */
static uint8_t mixed(int s, int r, size_t b)
{
	return (uint8_t)(s * 31 + r * 7 + (int)(b * 13));
}

static void exchange(void)
{
	for (int i = 0; i < 10; i++) {
		size_t sizes[8][8], send = 0, receive = 0, from[8], *to;
		for (int s = 0; s < group->size; s++)
			for (int r = 0; r < group->size; r++)
				sizes[s][r] = (size_t)test_int(0, i < 5 ? 9 : 100000);
		to = sizes[group->rank];
		for (int r = 0; r < group->size; r++) {
			from[r] = sizes[r][group->rank];
			send += to[r];
			receive += from[r];
		}
		uint8_t *out = malloc(send + 1), *in = malloc(receive + 1), *at = out;
		for (int r = 0; r < group->size; r++)
			for (size_t b = 0; b < to[r]; b++)
				*at++ = mixed(group->rank, r, b);
		CHECK_OK(group->exchange(group, out, to, in, from, &err), &err);
		at = in;
		int wrong = 0;
		for (int r = 0; r < group->size; r++)
			for (size_t b = 0; b < from[r]; b++)
				wrong += *at++ != mixed(r, group->rank, b);
		CHECK(wrong == 0);
		free(out);
		free(in);
	}
}

/* Every rank gets the same bits, near the sum in double. */
static void sum(void)
{
	for (int i = 0; i < 10; i++) {
		int count = (int)test_int(1, i < 5 ? 10 : 100000);
		float *data = malloc((size_t)count * sizeof *data);
		float *reference = malloc((size_t)count * sizeof *reference);
		double *expected = calloc((size_t)count, sizeof *expected);
		for (int r = 0; r < group->size; r++)
			for (int c = 0; c < count; c++) {
				float value = (float)test_normal();
				expected[c] += value;
				if (r == group->rank)
					data[c] = value;
			}
		CHECK_OK(group->sum(group, data, (size_t)count, &err), &err);
		memcpy(reference, data, (size_t)count * sizeof *data);
		CHECK_OK(group->broadcast(group, reference, (size_t)count * sizeof *data, 0, &err),
			 &err);
		CHECK(!memcmp(reference, data, (size_t)count * sizeof *data));
		int wrong = 0;
		for (int c = 0; c < count; c++)
			wrong += fabs(data[c] - expected[c]) > 1e-5;
		CHECK_MSG(wrong == 0, "%d of %d", wrong, count);
		free(data);
		free(reference);
		free(expected);
	}
}

static void agree(void)
{
	CHECK(group->agree(group, 0, &err) == 0);

	/* One rank fails: all learn who, what and which status. */
	int failing = group->size - 1, result = 0;
	char expected[256];
	err = (struct error){0};
	if (group->rank == failing)
		result = error_usage(&err, "no such file");
	CHECK(group->agree(group, result, &err) == -1);
	snprintf(expected, sizeof expected, "rank %d (host %s): no such file", failing,
		 mpi_group_host(group));
	CHECK_STR(err.message, group->size == 1 ? "no such file" : expected);
	CHECK(err.kind == ERROR_USAGE);

	/* Agreeing again on what came from an agreement changes nothing. */
	struct error before = err;
	CHECK(group->agree(group, -1, &err) == -1);
	CHECK_STR(err.message, before.message);

	/* All fail alike: no rank is to blame. All fail differently: the first is named. */
	error_run(&err, "the same");
	CHECK(group->agree(group, -1, &err) == -1);
	CHECK_STR(err.message, "the same");
	CHECK(err.kind == ERROR_RUN);
	error_run(&err, "cause %d", group->rank);
	CHECK(group->agree(group, -1, &err) == -1);
	CHECK(group->size == 1 || strstr(err.message, "rank 0 (host"));
	CHECK(strstr(err.message, "cause 0") != NULL);
}

/* Ranks that wait for rank 0 leave their cores alone. */
static void idle_wait(void)
{
	char byte = 0;
	double before = cpu_seconds();
	if (group->rank == 0)
		usleep(600 * 1000);
	CHECK_OK(group->broadcast(group, &byte, 1, 0, &err), &err);
	double used = cpu_seconds() - before;
	CHECK_MSG(used < 0.15, "%.3f s of processor time in 0.6 s of waiting", used);
}

static void local_ranks(void)
{
	int *nodes = calloc((size_t)group->size, sizeof *nodes), mine = mpi_group_node(group), same = 0;
	CHECK(group->local_rank >= 0 && group->local_rank < group->local_size);
	CHECK((group->local_rank == 0) == (mine == group->rank));
	CHECK_OK(mpi_group_all_gather(group, &mine, sizeof mine, nodes, &err), &err);
	for (int r = 0; r < group->size; r++)
		same += nodes[r] == mine;
	CHECK(same == group->local_size);
	free(nodes);
}

static int wrong_sum(const struct group *ranks, float *data, size_t count, struct error *error)
{
	int result = group->sum(group, data, count, error);
	data[test_int(0, (int64_t)count - 1)] += (float)(ranks->rank + 1);
	return result;
}

static void known_sums(void)
{
	struct group wrong = *group;
	CHECK_OK(sums_check(group, &err), &err);
	wrong.sum = wrong_sum;
	CHECK(sums_check(&wrong, &err) != 0);
	CHECK(strstr(err.message, "known values") != NULL);
}

static int run_ranks(void)
{
	if (mpi_group_open(&group, &err)) {
		fprintf(stderr, "%s\n", err.message);
		return 1;
	}
	if (group->rank && !freopen("/dev/null", "w", stdout))
		return 1;
	test_random();
	if (group->broadcast(group, &test_seed, sizeof test_seed, 0, &err))
		return 1;
	test_state = test_seed;
	RUN(broadcast);
	RUN(gather);
	RUN(exchange);
	RUN(sum);
	RUN(agree);
	RUN(idle_wait);
	RUN(local_ranks);
	RUN(known_sums);
	mpi_group_close(group);
	TEST_END();
}

int main(int argc, char **argv)
{
	(void)argc;
	if (getenv("TPRUN_TEST_RANKS"))
		return run_ranks();
	setenv("TPRUN_TEST_RANKS", "1", 1);
	setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* MPI's own would hide ours */
	setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
	setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
	setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
	setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 1);
	int failed = 0;
	for (int ranks = 1; ranks <= 4; ranks += ranks == 1 ? 2 : 1) {
		char command[4200];
		printf("# %d ranks\n", ranks);
		fflush(stdout);
		if (ranks == 1)
			snprintf(command, sizeof command, "\"%s\"", argv[0]);
		else
			snprintf(command, sizeof command, "mpirun -np %d \"%s\"", ranks, argv[0]);
		failed |= system(command) != 0;
	}
	return failed;
}
