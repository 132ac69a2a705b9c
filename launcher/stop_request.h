/*
 * stop_request.h - SIGUSR1 and SIGTERM ask a long run to stop, and put a deadline to it.
 *
 * SIGUSR1 is what Slurm sends some time before the limit: finish what can be finished. SIGTERM
 * comes from Slurm and mpirun shortly before SIGKILL: stop now. A loop that asks
 * stop_request_seen() can end in order. Whatever else the process is in - reading weights, a long
 * step, a call of MPI that waits for others - a timer that the signal's handler starts ends it with
 * status 3, so that a job script learns in time that the same command goes on from there.
 *
 * A signal's handler can reach nothing but a variable of the whole program: the state behind these
 * functions is the one that cannot be avoided.
 */
#ifndef TPRUN_LAUNCHER_STOP_REQUEST_H
#define TPRUN_LAUNCHER_STOP_REQUEST_H

#include "launcher/log.h"
#include "runtime/base/error.h"

/* In order of strength. */
enum stop_request {
	STOP_NONE,
	STOP_DRAIN, /* SIGUSR1: gone after at most STOP_DRAIN_MS */
	STOP_NOW,   /* SIGTERM: gone after at most STOP_NOW_MS */
};

enum { STOP_DRAIN_MS = 4500, STOP_NOW_MS = 800, STOP_END_MS = 150 };

/* Installs the handlers, from now to the end of the process. Without it the two signals do what
 * they do by default, and nothing is ever seen. */
int stop_request_open(struct error *err);

/* The strongest request that this process has seen. Cheap enough for a loop that spins. */
enum stop_request stop_request_seen(void);

/* As if the signal had come to this process: a request that another rank has told of. STOP_NONE
 * changes nothing. */
void stop_request_raise(enum stop_request);

/* What is written to standard error when a deadline ends this process; copied, and cut where it is
 * longer than 500 bytes. Without it the process ends without a word. */
void stop_request_message(const char *text);
/* How that is said: stamped or not. At first it is not. Before stop_request_open. */
void stop_request_log(const struct log *);

/* What to call before a deadline ends this process: nothing but what a signal's handler may call. */
void stop_request_at_end(void (*call)(void));

/* The run has ended with this status, not 0, and said so: stopped in order, or failed. Where a request was
 * seen, or comes now, what is left to do, the end of MPI, gets STOP_END_MS: once a first rank has ended
 * so, mpirun ends the job, and the others may wait in vain for it. */
void stop_request_end(int status);

#endif
