/*
 * launch.h - how this process was started, as far as it shows without MPI: a launcher's environment, and
 * the launcher itself.
 */
#ifndef TPRUN_LAUNCHER_LAUNCH_H
#define TPRUN_LAUNCHER_LAUNCH_H

#include <stdbool.h>
#include <sys/types.h>

/* What the environment of a launcher (Open MPI, MPICH, Slurm) says before MPI is started: a hint for
 * the commands that never start it, and the check of what MPI finds. size is 0 where there is no
 * launcher; name is the variable that tells the size. */
struct launch_hint {
	int rank, size;
	const char *name;
};
struct launch_hint launch_hint(void);
/* Whether all ranks are on this node, as far as a launcher's environment tells. */
bool launch_on_one_node(void);
/* Whether this MPI may not understand how it was started, and may then end the process by itself:
 * Open MPI under PMI, which few of its builds speak. */
bool launch_is_doubtful(void);

/* The nearest ancestor of this process that is mpirun or its daemon, also behind a script that mpirun
 * started; 0 where there is none. */
pid_t launch_process(void);
/* Whether it has ended. False where that cannot be told. */
bool launch_process_ended(pid_t launcher);
/* Whether this rank's cores are a binding that nobody asked for: mpirun binds two ranks to a core each. */
bool launch_bound_by_default(pid_t launcher);
/* Undoes such a binding, and starts this program anew: OpenMP's library looks once, when it is loaded, how
 * many cores there are, and with more threads than that its threads sleep between any two loops, which
 * costs a small model more than half its speed. Before any thread starts; returns where there is nothing
 * to undo, or it cannot be. */
void launch_widen(char **argv);
/* Whether mpirun started more ranks on this node than it has cores for them. Open MPI looks at the whole
 * machine's, not at those that taskset or a cgroup left to mpirun. */
bool launch_is_crowded(void);

#endif
