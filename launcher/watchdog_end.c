#include "launcher/watchdog_end.h"

#include <mpi.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/error.h"
#include "runtime/base/thread.h"

enum { LOOK_MS = 5, BACKEND_MS = 2000, MPI_MS = 3000 };

/* A call that may never return; its memory is then left to the end of the process. */
struct attempt {
	struct ending *ending;
	void (*call)(struct ending *);
	atomic_bool done;
};

void ending_open(struct ending *ending)
{
	pthread_mutex_init(&ending->mutex, NULL);
}

void ending_close(struct ending *ending)
{
	pthread_mutex_destroy(&ending->mutex);
}

void ending_set_abort(struct ending *ending, void (*abort)(void *), void *context)
{
	pthread_mutex_lock(&ending->mutex);
	ending->abort = abort;
	ending->context = context;
	pthread_mutex_unlock(&ending->mutex);
}

static void *run_attempt(void *context)
{
	struct attempt *attempt = context;
	attempt->call(attempt->ending);
	atomic_store(&attempt->done, true);
	return NULL;
}

static void try(struct ending *ending, void (*call)(struct ending *), int milliseconds)
{
	struct attempt *attempt = calloc(1, sizeof *attempt);
	struct error ignored;
	pthread_t thread;
	if (!attempt)
		return;
	attempt->ending = ending;
	attempt->call = call;
	if (thread_start(&thread, run_attempt, attempt, "the end", &ignored))
		return;
	for (int waited = 0; waited < milliseconds && !atomic_load(&attempt->done); waited += LOOK_MS)
		nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000l}, NULL);
}

static void abort_backend(struct ending *ending)
{
	pthread_mutex_lock(&ending->mutex);
	if (ending->abort)
		ending->abort(ending->context);
	pthread_mutex_unlock(&ending->mutex);
}

static void abort_mpi(struct ending *ending)
{
	int started = 0, ended = 0;
	(void)ending;
	if (!MPI_Initialized(&started) && started && !MPI_Finalized(&ended) && !ended)
		MPI_Abort(MPI_COMM_WORLD, ERROR_RUN);
}

void ending_run(struct ending *ending, bool all)
{
	try(ending, abort_backend, BACKEND_MS);
	if (all)
		try(ending, abort_mpi, MPI_MS);
	_exit(ERROR_RUN);
}
