#include "launcher/fault.h"

#ifdef TPRUN_FAULTS
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher/launch.h"

enum { TOLD_US = 200000 }; /* the phase that it happens in is known by then */

static const char *const phases[ACTIVITY_PHASES] = {
	[ACTIVITY_MPI] = "mpi", [ACTIVITY_CONNECT] = "connect", [ACTIVITY_LOAD] = "load",
	[ACTIVITY_PREFILL] = "prefill", [ACTIVITY_DECODE] = "decode", [ACTIVITY_STOP] = "stop",
};

void fault_at(struct activity *activity, const char *place)
{
	const char *asked = getenv("TPRUN_FAULT");
	char name[16], kind[16];
	int rank;
	if (!asked || sscanf(asked, "%d:%15[^:]:%15s", &rank, name, kind) != 3 ||
	    rank != launch_hint().rank || strcmp(name, place))
		return;
	if (atomic_load(&activity->phase) != ACTIVITY_MPI)
		usleep(TOLD_US);
	if (!strcmp(kind, "kill"))
		raise(SIGKILL);
	else if (!strcmp(kind, "stop"))
		raise(SIGSTOP);
	else if (!strcmp(kind, "exit"))
		_exit(5);
	else if (!strcmp(kind, "error"))
		atomic_store(&activity->failing, 1);
	while (!strcmp(kind, "hang"))
		pause();
}

static void on_phase(struct activity *activity, int phase)
{
	if (phases[phase])
		fault_at(activity, phases[phase]);
}

void fault_open(struct activity *activity)
{
	activity->entered = on_phase;
	on_phase(activity, ACTIVITY_MPI); /* which the process began in */
}

int fault_check(const struct group *group, const struct activity *activity, struct error *err)
{
	bool failing = atomic_load(&activity->failing);
	return group->agree(group, failing ? error_run(err, "a fault was asked for") : 0, err);
}
#else
enum { NO_FAULTS }; /* a file must hold something */
#endif
