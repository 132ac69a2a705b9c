/*
 * watchdog_internal.h - what the watchdog's files share: watchdog.c gathers what is known of the ranks,
 * watchdog_judge.c draws the conclusions.
 */
#ifndef TPRUN_LAUNCHER_WATCHDOG_INTERNAL_H
#define TPRUN_LAUNCHER_WATCHDOG_INTERNAL_H

#include <poll.h>

#include "launcher/watchdog.h"
#include "launcher/watchdog_end.h"
#include "launcher/watchdog_link.h"

/* What is known of a rank. */
struct seen {
	bool connected, bye;
	double heard, moved, entered; /* when it was last heard, had got on, had changed its phase */
	struct beat last;
};

struct watchdog {
	struct watchdog_options options;
	struct ending ending;
	pthread_t thread;
	pid_t launcher; /* mpirun or its daemon; 0: none is known */
	int wake; /* an eventfd: look at what follows */
	atomic_bool stop, joined, sigterm;
	atomic_bool ends; /* this process is about to be ended, and why is told, or was, by whoever found it */
	pthread_mutex_t mutex; /* of what this rank tells of itself */
	int leader;
	char host[64], device[124];

	/* Set before `joined`. */
	uint64_t token;
	int rank, size, listener;
	struct seen *seen;  /* [size]; but for rank 0's, only the own and rank 0's are filled */
	struct link *links; /* [link_count]; but for rank 0's, there is one, to rank 0 */
	int link_count;
	struct pollfd *polled; /* [link_count + 2] */

	/* The thread's. */
	double period, opened, started, looked, told, sigterm_at, gone, orphaned;
};

/* What this rank is doing now. */
struct beat watchdog_beat(struct watchdog *, enum beat_kind);
void watchdog_send(const struct watchdog *, const struct beat *);

/* Ends the run where a rank is silent, stuck or late, or has gone for a while. `now` in seconds. */
void watchdog_judge(struct watchdog *, double now);
/* Rank 0: ends the run because the connections of the marked ranks have ended. */
void watchdog_lost(struct watchdog *, const bool *marked) __attribute__((noreturn));

#endif
