/*
 * watchdog.h - no hang, ever: finds ranks that are lost, silent, stuck or late, and ends the run.
 *
 * A thread on every rank tells rank 0's thread each second or oftener, over TCP, what its main thread
 * does (struct activity); it makes no call of MPI before the end. Rank 0's judges:
 *
 *   lost	the connection has ended without a farewell: killed, crashed
 *   silent	nothing has come for --watchdog seconds: stopped, or its host or the network is gone
 *   stuck	alive, but no rank that works with it has got on for --watchdog seconds, though progress
 *		is due. All the others wait in calls that all ranks make together: whoever has
 *		arrived at fewer of them is the one they wait for
 *   late	a phase of the start takes longer than --init-timeout
 *
 * Each rank's thread judges the launcher, mpirun or its daemon, as well: one that has ended is lost.
 *
 * One message then names rank, host, device and what it was doing, and all processes end: the
 * backend is told to give up, MPI is told to abort, and whoever is still there a few seconds later
 * leaves by itself. The other ranks' threads judge rank 0 the same way. A thread that was itself
 * late, as after SIGSTOP or in a machine that was suspended, starts all clocks anew.
 *
 * SIGTERM, with which mpirun ends the ranks that outlive one that was killed, waits for a moment,
 * so that the broken connection is told, and ends the process then; before the ranks are connected one of
 * them says that much. Where stop_request_open was called, the signal is its.
 */
#ifndef TPRUN_LAUNCHER_WATCHDOG_H
#define TPRUN_LAUNCHER_WATCHDOG_H

#include "launcher/log.h"
#include "runtime/base/activity.h"
#include "runtime/base/error.h"
#include "runtime/base/group.h"

struct watchdog;

struct watchdog_options {
	struct activity *activity; /* of this rank; it must outlive the watchdog */
	struct log log;		   /* how messages are stamped */
	double stuck_s;		   /* --watchdog; 0: nothing but lost connections is judged */
	double start_s;		   /* --init-timeout; 0: no deadline */
	int rank, size;		   /* as the launcher's environment has them, until MPI is up */
};

enum { WATCHDOG_DEFAULT_S = 20, INIT_TIMEOUT_DEFAULT_S = 60 };

/* Before MPI is started, whose start has a deadline too. Once a process. */
int watchdog_open(struct watchdog **out, const struct watchdog_options *, struct error *err);
/* Collective, as soon as MPI is up: connects all ranks. `host` is this rank's. */
int watchdog_connect(struct watchdog *, const struct group *world, const char *host,
		     struct error *err);
/* The rest takes NULL for a watchdog that there is not.
 *
 * The world rank that leads this one's steps, its replica's first. At first rank 0. */
void watchdog_set_leader(struct watchdog *, int leader);
/* The name of this rank's device, for messages. */
void watchdog_set_device(struct watchdog *, const char *device);
/* What to call, from another thread, before the run is ended; NULL, which returns only when no such
 * call is under way: nothing. */
void watchdog_set_abort(struct watchdog *, void (*abort)(void *), void *context);
/* After MPI has ended: says farewell. NULL is taken. */
void watchdog_close(struct watchdog *);

/* This process ends now, as it was asked to: others need not look for the cause. May be called in a
 * signal's handler; without a watchdog, nothing. */
void watchdog_gone(void);
/* The same where it has failed and said why: nobody else is to say anything about the end. */
void watchdog_failed(void);

/* For a main thread that has met an error, before it tells: what one rank does is met by the others as
 * errors of MPI, of NCCL, of kernels that were told to give up. Where this run is being ended from
 * elsewhere, or comes to be within `seconds`, this does not return. */
void watchdog_give_way(struct watchdog *, double seconds);

#endif
