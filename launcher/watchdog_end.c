#include "launcher/watchdog_end.h"

#include <limits.h>
#include <mpi.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
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

/* ---- mpirun -------------------------------------------------------------------------------- */

#if defined SYS_pidfd_open && defined SYS_pidfd_send_signal && defined SYS_close_range
/* Whether this process is a child of the mpirun that started all ranks, and none runs on another node. */
static bool mpirun_is_parent(pid_t parent)
{
	const char *all = getenv("OMPI_COMM_WORLD_SIZE"), *here = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
	char path[64], name[32] = "";
	if (!all || !here || strcmp(all, here))
		return false;
	snprintf(path, sizeof path, "/proc/%d/comm", (int)parent);
	FILE *file = fopen(path, "r");
	bool known = file && fgets(name, sizeof name, file) &&
		     (!strncmp(name, "mpirun", 6) || !strncmp(name, "mpiexec", 7) || !strncmp(name, "orterun", 7));
	if (file)
		fclose(file);
	return known;
}

/* The ranks' files in /dev/shm but for the rank: those of Open MPI's vader. */
static void segments_name(char *out, size_t room)
{
	const char *job = getenv("OMPI_MCA_ess_base_jobid");
	char host[256] = "";
	gethostname(host, sizeof host - 1);
	host[strcspn(host, ".")] = 0;
	snprintf(out, room, "/dev/shm/vader_segment.%s.%u.%lx.", host, (unsigned)geteuid(), job ? strtoul(job, NULL, 10) : 0);
}

/* Open MPI 4.1's mpirun can stay or crash when its ranks end by force while MPI closes: it waits for a thread of libpmix's
 * (4.2.2) that waits for a mutex. The second of two SIGTERMs ends it. So a process is left behind that waits for mpirun's end,
 * which comes at once as a rule, sees to it otherwise, and takes away what a crash leaves. */
static void mpirun_outlive(void)
{
	static const struct {
		int wait_ms, signal;
	} steps[] = {{BACKEND_MS + MPI_MS + 1000, SIGTERM}, {500, SIGTERM}, {1000, SIGKILL}};
	char segments[320], path[340];
	pid_t parent = getppid();
	int mpirun = mpirun_is_parent(parent) ? (int)syscall(SYS_pidfd_open, parent, 0) : -1;
	if (mpirun < 0)
		return;
	const int ranks = atoi(getenv("OMPI_COMM_WORLD_SIZE"));
	segments_name(segments, sizeof segments);
	if (fork() == 0) { /* other threads are gone and may hold locks: nothing that takes one from here on */
		struct pollfd end = {.fd = STDIN_FILENO, .events = POLLIN};
		setsid(); /* mpirun signals its ranks' groups */
		dup2(mpirun, end.fd);
		syscall(SYS_close_range, end.fd + 1, UINT_MAX, 0); /* pipes that mpirun reads, GPUs */
		for (size_t i = 0; i < sizeof steps / sizeof *steps && poll(&end, 1, steps[i].wait_ms) == 0; i++)
			syscall(SYS_pidfd_send_signal, end.fd, steps[i].signal, NULL, 0);
		for (int i = 0; i < ranks; i++) {
			snprintf(path, sizeof path, "%s%d", segments, i);
			unlink(path);
		}
		_exit(0);
	}
	close(mpirun);
}
#else
static void mpirun_outlive(void)
{
}
#endif

void ending_run(struct ending *ending, bool all)
{
	if (all)
		mpirun_outlive();
	try(ending, abort_backend, BACKEND_MS);
	if (all)
		try(ending, abort_mpi, MPI_MS);
	_exit(ERROR_RUN);
}
