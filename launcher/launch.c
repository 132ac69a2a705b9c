#include "launcher/launch.h"

#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
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

bool launch_on_one_node(void)
{
	const char *all = getenv("OMPI_COMM_WORLD_SIZE"), *here = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
	const char *nodes = getenv("SLURM_STEP_NUM_NODES");
	if (!launch_hint().size)
		return true;
	return all ? here && atoi(here) == atoi(all) : nodes && atoi(nodes) == 1;
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

/* What /proc tells of a process. */
struct process {
	char name[32], state; /* 'Z': it has ended, and its parent has not asked for its status */
	int parent;
};

/* False where it is not there or cannot be asked, which errno tells apart. */
static bool process_read(struct process *out, pid_t process)
{
	char path[64], line[512];
	snprintf(path, sizeof path, "/proc/%d/stat", (int)process);
	FILE *file = fopen(path, "r");
	if (!file)
		return false;
	errno = ESRCH; /* one that ends meanwhile reads as nothing */
	size_t length = fread(line, 1, sizeof line - 1, file);
	fclose(file);
	line[length] = '\0';
	char *open = strchr(line, '('), *close = strrchr(line, ')');
	if (!open || !close || sscanf(close, ") %c %d", &out->state, &out->parent) != 2)
		return false;
	snprintf(out->name, sizeof out->name, "%.*s", (int)(close - open - 1), open + 1);
	return true;
}

pid_t launch_process(void)
{
	static const char *const names[] = {"mpirun", "mpiexec", "orterun", "orted", "prterun", "prted",
					    "prte"};
	struct process found;
	for (pid_t process = getppid(); process > 1 && process_read(&found, process); process = found.parent)
		for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
			size_t length = strlen(names[i]);
			if (!strncmp(found.name, names[i], length) &&
			    (!found.name[length] || found.name[length] == '.'))
				return process;
		}
	return 0;
}

bool launch_process_ended(pid_t launcher)
{
	struct process found;
	if (process_read(&found, launcher))
		return found.state == 'Z' || found.state == 'X';
	return errno == ENOENT || errno == ESRCH;
}

bool launch_is_crowded(void)
{
	const char *ranks = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
	pid_t launcher = launch_process();
	cpu_set_t cores;
	return ranks && launcher && !sched_getaffinity(launcher, sizeof cores, &cores) &&
	       atoi(ranks) > CPU_COUNT(&cores);
}

static bool any_set(const char *const *names)
{
	for (; *names; names++)
		if (getenv(*names))
			return true;
	return false;
}

/* Whether the words of the launcher's command line, or else the parent's, ask for a binding. */
static bool launcher_asks_for_binding(pid_t launcher)
{
	static const char *const words[] = {"bind-to", "rankfile", "-rf", "cpu-set", "cpu-list",
					    "pe="};
	char path[64], line[16384];
	snprintf(path, sizeof path, "/proc/%d/cmdline", (int)(launcher ? launcher : getppid()));
	FILE *file = fopen(path, "r");
	size_t length = file ? fread(line, 1, sizeof line - 1, file) : 0;
	if (file)
		fclose(file);
	line[length] = '\0';
	for (const char *word = line; word < line + length; word += strlen(word) + 1)
		for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
			if (*words[i] == '-' ? !strcmp(word, words[i])
					     : strcasestr(word, words[i]) != NULL)
				return true;
	return false;
}

/* Open MPI 4 marks its ranks and passes explicit policies on in the environment; Open MPI 5 (PRRTE)
 * passes on what stands in the environment or a file, so the command line is read as well. */
bool launch_bound_by_default(pid_t launcher)
{
	static const char *const marks[] = {"OMPI_MCA_orte_bound_at_launch", "PRTE_LAUNCHED", NULL};
	static const char *const wishes[] = {
		"OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_hwloc_base_bind_to_core",
		"OMPI_MCA_hwloc_base_bind_to_socket", "OMPI_MCA_hwloc_base_cpu_set",
		"OMPI_MCA_hwloc_base_cpu_list", "OMPI_MCA_hwloc_base_slot_list",
		"OMPI_MCA_orte_rankfile", "OMPI_MCA_rmaps_rank_file_path",
		"PRTE_MCA_hwloc_default_binding_policy", "PRTE_MCA_hwloc_default_cpu_list", NULL,
	};
	const char *mapping = getenv("OMPI_MCA_rmaps_base_mapping_policy");
	if (!mapping)
		mapping = getenv("PRTE_MCA_rmaps_default_mapping_policy");
	return any_set(marks) && !any_set(wishes) && !(mapping && strcasestr(mapping, "pe=")) &&
	       !launcher_asks_for_binding(launcher);
}

void launch_widen(char **argv)
{
	char path[PATH_MAX] = "";
	pid_t launcher = launch_process();
	cpu_set_t given, own;
	if (!launcher || !launch_bound_by_default(launcher) ||
	    sched_getaffinity(launcher, sizeof given, &given) ||
	    sched_getaffinity(0, sizeof own, &own) || CPU_EQUAL(&given, &own))
		return;
	/* Only where that has succeeded: the new image is to find nothing left to do. */
	if (!sched_setaffinity(0, sizeof given, &given) && !sched_getaffinity(0, sizeof own, &own) &&
	    CPU_EQUAL(&given, &own) && readlink("/proc/self/exe", path, sizeof path - 1) > 0)
		execv(path, argv);
}
