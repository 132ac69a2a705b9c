/*
 * whereabouts.h - SIGUSR2 asks a rank where it is; it says so on standard error and goes on.
 *
 * `mpirun` passes the signal on to every rank, `scancel --signal=USR2` sends it to all of a step. The
 * answer comes from the signal's handler, so that also a rank that waits in MPI or for its device
 * gives one:
 *
 *   tprun: rank 1 (host node7, pid 4711): in decode, step 212, layer 17, for 0.003 s
 *
 * The seconds are those since its last progress: a rank that is stuck has many.
 */
#ifndef TPRUN_LAUNCHER_WHEREABOUTS_H
#define TPRUN_LAUNCHER_WHEREABOUTS_H

#include "launcher/log.h"
#include "runtime/base/activity.h"
#include "runtime/base/error.h"

/* Takes the signal from now on, of a rank as the log has it; the activity must last as long. */
int whereabouts_open(const struct activity *, const struct log *, struct error *err);
/* From here on the signal changes nothing; the activity may go. */
void whereabouts_close(void);

#endif
