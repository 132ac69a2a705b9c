/*
 * watchdog_end.h - how a run ends by force: what could hang on the way gets a thread of its own and
 * a few seconds.
 */
#ifndef TPRUN_LAUNCHER_WATCHDOG_END_H
#define TPRUN_LAUNCHER_WATCHDOG_END_H

#include <pthread.h>
#include <stdbool.h>

struct ending {
	pthread_mutex_t mutex; /* held while `abort` runs */
	void (*abort)(void *);
	void *context;
};

void ending_open(struct ending *);
void ending_close(struct ending *);
/* What to call first; see watchdog_set_abort. */
void ending_set_abort(struct ending *, void (*abort)(void *), void *context);
/* Ends this process, and where `all` through MPI the run, within about 5 s. */
void ending_run(struct ending *, bool all) __attribute__((noreturn));

#endif
