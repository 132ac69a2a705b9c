#include "launcher/launch.h"

#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct launch_hint launch_hint(void)
{
	/* The innermost launcher first: mpirun's daemons are tasks of srun. A batch script's own
	 * programs are of no step, and alone. */
	static const char *const names[][2] = {
		{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
		{"PMI_RANK", "PMI_SIZE"},
		{"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"},
	};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		const char *rank = getenv(names[i][0]), *size = getenv(names[i][1]);
		if (size && atoi(size) > 0)
			return (struct launch_hint){rank ? atoi(rank) : 0, atoi(size), names[i][1]};
	}
	return (struct launch_hint){0, 0, NULL};
}

bool launch_is_doubtful(void)
{
#ifdef OPEN_MPI
	return launch_hint().size > 1 && getenv("PMI_SIZE") && !getenv("PMIX_RANK") &&
	       !getenv("OMPI_COMM_WORLD_SIZE");
#else
	return false;
#endif
}

pid_t launch_process(void)
{
	static const char *const names[] = {"mpirun", "mpiexec", "orterun", "orted", "prterun", "prted",
					    "prte"};
	char path[64], line[512], name[32];
	pid_t process = getppid();
	while (process > 1) {
		int parent = 0;
		snprintf(path, sizeof path, "/proc/%d/stat", (int)process);
		FILE *file = fopen(path, "r");
		size_t length = file ? fread(line, 1, sizeof line - 1, file) : 0;
		if (file)
			fclose(file);
		line[length] = '\0';
		char *open = strchr(line, '('), *close = strrchr(line, ')');
		if (!open || !close || sscanf(close, ") %*c %d", &parent) != 1)
			return 0;
		snprintf(name, sizeof name, "%.*s", (int)(close - open - 1), open + 1);
		for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
			if (!strcmp(name, names[i]) ||
			    (!strncmp(name, names[i], strlen(names[i])) && name[strlen(names[i])] == '.'))
				return process;
		process = parent;
	}
	return 0;
}

bool launch_is_crowded(void)
{
	const char *ranks = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
	pid_t launcher = launch_process();
	cpu_set_t cores;
	return ranks && launcher && !sched_getaffinity(launcher, sizeof cores, &cores) &&
	       atoi(ranks) > CPU_COUNT(&cores);
}
