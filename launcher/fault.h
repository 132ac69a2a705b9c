/*
 * fault.h - a fault on request, for tests of what the other ranks do about it.
 *
 * Built with -DTPRUN_FAULTS alone (make FAULTS=1): TPRUN_FAULT=RANK:PHASE:KIND lets one rank, on its
 * first entry into a phase (mpi, connect, load, prefill, decode, stop), or at a place within one (sums:
 * what the ranks add up through is open, NCCL's communicator say), kill or stop itself, hang, exit, or
 * fail with an error. Any other build has none of it.
 */
#ifndef TPRUN_LAUNCHER_FAULT_H
#define TPRUN_LAUNCHER_FAULT_H

#include "runtime/base/activity.h"
#include "runtime/base/error.h"
#include "runtime/base/group.h"

#ifdef TPRUN_FAULTS
/* From here on the activity's phases have the fault that this rank is to have. */
void fault_open(struct activity *);
/* A place that is no phase's begin. */
void fault_at(struct activity *, const char *place);
/* Collective: -1 on all ranks where the phase that one of them entered last is to fail. */
int fault_check(const struct group *, const struct activity *, struct error *err);
#else
static inline void fault_open(struct activity *activity)
{
	(void)activity;
}
static inline void fault_at(struct activity *activity, const char *place)
{
	(void)activity;
	(void)place;
}
static inline int fault_check(const struct group *group, const struct activity *activity,
			      struct error *err)
{
	(void)group;
	(void)activity;
	(void)err;
	return 0;
}
#endif

#endif
