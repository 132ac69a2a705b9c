/* What ranks must have in common: versions of CUDA and NCCL. (Builds and models: tests/faults.py.) */
#define TEST_SUITE "start_checks"
#include "tests/test.h"

#include "launcher/start_checks.h"

enum { RANKS = 5 };

static struct error err;
static char warning[512];

/* All ranks alike, but one. */
static int compare_with(int rank, struct cuda_versions odd)
{
	struct cuda_versions all[RANKS];
	for (int r = 0; r < RANKS; r++)
		all[r] = (struct cuda_versions){.runtime = 13000, .driver = 13010, .nccl = 22803};
	all[rank] = odd;
	return versions_compare(all, RANKS, warning, sizeof warning, &err);
}

static void alike(void)
{
	CHECK_OK(compare_with(3, (struct cuda_versions){13000, 13010, 22803}), &err);
	CHECK(!warning[0]);
}

static void other_nccl(void)
{
	CHECK_FAILS(compare_with(3, (struct cuda_versions){13000, 13010, 22705}), &err,
		    "rank 0 has CUDA 13.0 (driver 13.1), NCCL 2.28.3, rank 3 has CUDA 13.0 (driver 13.1), NCCL 2.27.5;");
	CHECK(strstr(err.message, "LD_LIBRARY_PATH") != NULL);
	CHECK_FAILS(compare_with(0, (struct cuda_versions){13000, 13010, 22705}), &err, "rank 1 has");
}

/* Sums then go through the host, and a line says why. */
static void no_nccl(void)
{
	CHECK_OK(compare_with(2, (struct cuda_versions){13000, 13010, 0}), &err);
	CHECK_OK(compare_with(0, (struct cuda_versions){13000, 13010, 0}), &err);
	CHECK(!warning[0]);
}

static void other_runtime(void)
{
	CHECK_FAILS(compare_with(4, (struct cuda_versions){12080, 13010, 22803}), &err,
		    "rank 4 has CUDA 12.8 (driver 13.1)");
	CHECK(strstr(err.message, "same build") != NULL);
}

static void other_driver(void)
{
	CHECK_OK(compare_with(1, (struct cuda_versions){13000, 12090, 22803}), &err);
	CHECK(strstr(warning, "rank 1 has CUDA 13.0 (driver 12.9)") && strstr(warning, "--constraint"));
}

int main(void)
{
	RUN(alike);
	RUN(other_nccl);
	RUN(no_nccl);
	RUN(other_runtime);
	RUN(other_driver);
	TEST_END();
}
