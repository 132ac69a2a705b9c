/* What a launcher's environment says, and whether it is still there. */
#define TEST_SUITE "launch"
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/launch.h"
#include "tests/test.h"

/* Sets the variables that launch.c looks at, or unsets them where NULL. */
static void environment(const char *ompi, const char *ompi_here, const char *pmi, const char *tasks, const char *nodes)
{
	const char *const set[][2] = {
		{"OMPI_COMM_WORLD_SIZE", ompi}, {"OMPI_COMM_WORLD_LOCAL_SIZE", ompi_here}, {"PMI_SIZE", pmi},
		{"SLURM_STEP_NUM_TASKS", tasks}, {"SLURM_STEP_NUM_NODES", nodes},
	};
	for (size_t i = 0; i < sizeof set / sizeof set[0]; i++)
		if (set[i][1])
			setenv(set[i][0], set[i][1], 1);
		else
			unsetenv(set[i][0]);
}

static void one_node_is_told_from_many(void)
{
	environment(NULL, NULL, NULL, NULL, NULL);
	CHECK(launch_hint().size == 0 && launch_on_one_node());
	environment("4", "4", NULL, NULL, NULL);
	CHECK(launch_hint().size == 4 && launch_on_one_node());
	environment("4", "2", NULL, NULL, NULL);
	CHECK(!launch_on_one_node());
	/* mpirun over the nodes of an allocation starts its daemons by steps of their own. */
	environment("4", "2", NULL, "1", "1");
	CHECK(launch_hint().size == 4 && !launch_on_one_node());
	environment(NULL, NULL, NULL, "4", "1");
	CHECK(launch_hint().size == 4 && launch_on_one_node());
	environment(NULL, NULL, NULL, "4", "2");
	CHECK(!launch_on_one_node());
	/* Nothing tells. */
	environment("4", NULL, NULL, NULL, NULL);
	CHECK(!launch_on_one_node());
	environment(NULL, NULL, "4", NULL, NULL);
	CHECK(launch_hint().size == 4 && !launch_on_one_node());
}

static void the_end_of_a_process_is_told(void)
{
	struct rlimit files, none;
	siginfo_t ended;
	pid_t child = fork();
	while (child == 0)
		pause();
	CHECK(child > 0 && !launch_process_ended(child) && !launch_process_ended(getpid()));
	/* One that cannot be asked has not ended. */
	CHECK(!getrlimit(RLIMIT_NOFILE, &files));
	none = (struct rlimit){0, files.rlim_max};
	CHECK(!setrlimit(RLIMIT_NOFILE, &none) && !launch_process_ended(child));
	CHECK(!setrlimit(RLIMIT_NOFILE, &files));
	CHECK(!kill(child, SIGKILL) && !waitid(P_PID, (id_t)child, &ended, WEXITED | WNOWAIT));
	CHECK(launch_process_ended(child)); /* nobody has asked for its status */
	CHECK(waitpid(child, NULL, 0) == child && launch_process_ended(child));
}

int main(void)
{
	RUN(one_node_is_told_from_many);
	RUN(the_end_of_a_process_is_told);
	TEST_END();
}
