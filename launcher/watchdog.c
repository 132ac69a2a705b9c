#include "launcher/watchdog_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "launcher/launch.h"
#include "launcher/stop_request.h"
#include "runtime/base/thread.h"

enum {
	STRANGERS = 8, /* connections beside the ranks' own */
	LOOK_MS = 50,  /* between looks at what this rank does: a new phase is told at once */
	GIVE_WAY_MS = 10,
};

static const double sigterm_s = 0.2; /* for a broken connection to show */

/* The handler of a signal and those who end the process reach this, and nothing else does. */
static struct watchdog *_Atomic watched;

static double now_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- what is told ------------------------------------------------------------------------ */

struct beat watchdog_beat(struct watchdog *w, enum beat_kind kind)
{
	struct activity *a = w->options.activity;
	struct beat beat = {
		.token = w->token, .kind = (int32_t)kind, .rank = w->rank,
		.phase = atomic_load(&a->phase), .layer = atomic_load(&a->layer),
		.step = atomic_load(&a->step), .count = atomic_load(&a->count),
		.arrivals = atomic_load(&a->arrivals),
	};
	pthread_mutex_lock(&w->mutex);
	beat.leader = w->leader;
	memcpy(beat.host, w->host, sizeof beat.host);
	memcpy(beat.device, w->device, sizeof beat.device);
	pthread_mutex_unlock(&w->mutex);
	return beat;
}

void watchdog_send(const struct watchdog *w, const struct beat *beat)
{
	for (int i = 0; i < w->link_count; i++)
		if (w->links[i].fd >= 0)
			link_send(w->links[i].fd, beat);
}

/* Calls nothing but what a handler may call. */
static void send_last(enum beat_kind kind)
{
	struct watchdog *w = atomic_load(&watched);
	if (w && atomic_load(&w->joined))
		watchdog_send(w, &(struct beat){.token = w->token, .kind = (int32_t)kind, .rank = w->rank});
}

void watchdog_gone(void)
{
	send_last(BEAT_GONE);
}

void watchdog_failed(void)
{
	send_last(BEAT_FAILED);
}

void watchdog_give_way(struct watchdog *w, double seconds)
{
	double start = now_s();
	while (w && (atomic_load(&w->ends) || now_s() - start < seconds))
		nanosleep(&(struct timespec){.tv_nsec = GIVE_WAY_MS * 1000000l}, NULL);
}

/* ---- what comes in ----------------------------------------------------------------------- */

static void note(struct seen *s, const struct beat *beat, double now)
{
	const struct beat *last = &s->last;
	bool entered = !s->connected || last->phase != beat->phase;
	if (entered)
		s->entered = now;
	if (entered || last->count != beat->count || last->arrivals != beat->arrivals ||
	    last->step != beat->step)
		s->moved = now;
	s->connected = true;
	s->heard = now;
	s->last = *beat;
}

/* False where it comes from a stranger. */
static bool take_beat(struct watchdog *w, struct link *link, double now)
{
	const struct beat *beat = &link->beat;
	if (beat->token != w->token || beat->rank < 0 || beat->rank >= w->size ||
	    (w->rank && beat->rank) ||
	    (link->rank < 0 ? w->seen[beat->rank].connected : link->rank != beat->rank))
		return false;
	link->rank = beat->rank;
	struct seen *s = &w->seen[beat->rank];
	switch (beat->kind) {
	case BEAT_BYE:
		s->bye = true;
		break;
	case BEAT_FAILED:
		stop_request_message(""); /* a signal that comes with it asks for nothing */
		/* fall through */
	case BEAT_GONE:
		s->bye = true;
		atomic_store(&w->ends, true);
		if (!(w->told > 0))
			w->told = now;
		break;
	case BEAT_END:
		if (w->rank && beat->rank == 0) {
			atomic_store(&w->ends, true);
			ending_run(&w->ending, false); /* rank 0 tells MPI */
		}
		break;
	default:
		note(s, beat, now);
	}
	return true;
}

/* Marks in `lost` whose connection has ended without a farewell. */
static bool receive_all(struct watchdog *w, double now, bool *lost)
{
	bool any = false;
	for (int i = 0; i < w->link_count; i++) {
		struct link *link = &w->links[i];
		int got = 0;
		while (link->fd >= 0 && (got = link_receive(link)) > 0)
			if (!take_beat(w, link, now)) {
				got = -1;
				break;
			}
		if (link->fd < 0 || got >= 0)
			continue;
		if (link->rank >= 0 && !w->seen[link->rank].bye)
			any = lost[link->rank] = true;
		link_close(link);
	}
	return any;
}

static void accept_all(struct watchdog *w)
{
	for (int fd; w->listener >= 0 && (fd = link_accept(w->listener)) >= 0;) {
		int i = 0;
		while (i < w->link_count && w->links[i].fd >= 0)
			i++;
		if (i == w->link_count) {
			close(fd);
			continue;
		}
		w->links[i] = (struct link){.fd = fd, .rank = -1};
	}
}

static void take_in(struct watchdog *w, double now)
{
	bool *lost = calloc((size_t)w->size, sizeof *lost);
	if (!lost)
		return;
	accept_all(w);
	bool any = receive_all(w, now, lost);
	if (any && !(w->told > 0)) {
		atomic_store(&w->ends, true);
		if (w->rank == 0)
			watchdog_lost(w, lost);
		if (!(w->gone > 0))
			w->gone = now;
	}
	free(lost);
}

/* ---- the thread -------------------------------------------------------------------------- */

static void wait_for_news(struct watchdog *w)
{
	struct pollfd own = {.fd = w->wake, .events = POLLIN}, *polled = &own;
	bool soon = w->sigterm_at > 0 || w->gone > 0, joined = atomic_load(&w->joined);
	nfds_t count = 1;
	uint64_t ignored;
	if (joined) {
		polled = w->polled;
		polled[0] = own;
		polled[count++] = (struct pollfd){.fd = w->listener, .events = POLLIN};
		for (int i = 0; i < w->link_count; i++)
			polled[count++] = (struct pollfd){.fd = w->links[i].fd, .events = POLLIN};
	}
	poll(polled, count, soon ? LOOK_MS / 4 : LOOK_MS);
	if (polled[0].revents && read(w->wake, &ignored, sizeof ignored) < 0)
		return;
}

/* This thread was late itself: what did not happen meanwhile proves nothing. */
static void restart_clocks(struct watchdog *w, double now)
{
	w->started = now;
	if (w->told > 0)
		w->told = now;
	for (int r = 0; atomic_load(&w->joined) && r < w->size; r++)
		w->seen[r].heard = w->seen[r].moved = w->seen[r].entered = now;
}

/* As the signal would have done, had it not been caught. */
static void end_by_sigterm(void)
{
	watchdog_gone();
	signal(SIGTERM, SIG_DFL);
	kill(getpid(), SIGTERM);
}

/* Before the ranks have met nothing is known of the one that was lost, if that is why the launcher ends
 * them all: one of the others tells how far they were. After the deadline that was told already. */
static void take_sigterm(struct watchdog *w, double now)
{
	bool meeting = !atomic_load(&w->joined) && atomic_load(&w->options.activity->phase) == ACTIVITY_MPI;
	bool late = w->options.start_s > 0 && now - w->opened > w->options.start_s;
	w->sigterm_at = now;
	atomic_store(&w->ends, true);
	if (meeting && !late && w->options.size > 1 && link_claim())
		log_say(&w->options.log, LOG_ERROR, "tprun: ended by SIGTERM while %s: if nobody asked for it, one of "
			"them was lost before they met", activity_name(ACTIVITY_MPI));
}

static void *watch(void *context)
{
	struct watchdog *w = context;
	double sent = 0;
	int32_t phase = -1;
	while (!atomic_load(&w->stop)) {
		wait_for_news(w);
		double now = now_s();
		if (now - w->looked > 2 * w->period)
			restart_clocks(w, now);
		w->looked = now;
		if (atomic_load(&w->joined)) {
			struct beat own = watchdog_beat(w, BEAT_HERE);
			note(&w->seen[w->rank], &own, now);
			if (now - sent >= w->period || own.phase != phase) {
				sent = now;
				phase = own.phase;
				watchdog_send(w, &own);
			}
			take_in(w, now);
		}
		watchdog_judge(w, now);
		if (atomic_load(&w->sigterm) && !(w->sigterm_at > 0))
			take_sigterm(w, now);
		if (w->sigterm_at > 0 && now - w->sigterm_at > sigterm_s)
			end_by_sigterm();
	}
	return NULL;
}

static void on_sigterm(int number)
{
	const uint64_t one = 1;
	int kept = errno;
	struct watchdog *w = atomic_load(&watched);
	(void)number;
	if (w) {
		atomic_store(&w->sigterm, true);
		ssize_t ignored = write(w->wake, &one, sizeof one);
		(void)ignored;
	}
	errno = kept;
}

static void wake_up(struct watchdog *w)
{
	const uint64_t one = 1;
	ssize_t ignored = write(w->wake, &one, sizeof one);
	(void)ignored;
}

/* ---- opening ----------------------------------------------------------------------------- */

static void close_all(struct watchdog *w)
{
	for (int i = 0; i < w->link_count; i++)
		link_close(&w->links[i]);
	if (w->listener >= 0)
		close(w->listener);
	if (w->wake >= 0)
		close(w->wake);
	ending_close(&w->ending);
	pthread_mutex_destroy(&w->mutex);
	free(w->links);
	free(w->seen);
	free(w->polled);
	free(w);
}

/* SIGTERM is taken over where nobody has done so before. */
static void catch_sigterm(void)
{
	struct sigaction before, own = {.sa_handler = on_sigterm, .sa_flags = SA_RESTART};
	sigfillset(&own.sa_mask);
	if (!sigaction(SIGTERM, NULL, &before) && before.sa_handler == SIG_DFL)
		sigaction(SIGTERM, &own, NULL);
}

int watchdog_open(struct watchdog **out, const struct watchdog_options *options, struct error *err)
{
	struct watchdog *w = calloc(1, sizeof *w);
	double least = options->stuck_s > 0 ? options->stuck_s : 4;
	*out = NULL;
	if (!w)
		return error_memory(err, "the watchdog");
	if (options->start_s > 0 && options->start_s < least)
		least = options->start_s;
	w->options = *options;
	w->period = least / 4 < 1 ? least / 4 : 1;
	w->opened = w->started = w->looked = now_s();
	w->listener = -1;
	w->launcher = launch_process();
	ending_open(&w->ending);
	pthread_mutex_init(&w->mutex, NULL);
	gethostname(w->host, sizeof w->host - 1);
	w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->wake < 0) {
		error_run(err, "no eventfd for the watchdog: %s", strerror(errno));
		goto fail;
	}
	if (thread_start(&w->thread, watch, w, "the watchdog", err))
		goto fail;
	atomic_store(&watched, w);
	catch_sigterm();
	*out = w;
	return 0;
fail:
	close_all(w);
	return -1;
}

/* Room for all ranks; rank 0 listens, the others get a link to it. */
static int prepare(struct watchdog *w, const struct group *world, struct meeting *meeting,
		   struct error *err)
{
	size_t size = (size_t)world->size;
	w->rank = world->rank;
	w->size = world->size;
	w->link_count = world->size == 1 ? 0 : world->rank ? 1 : world->size - 1 + STRANGERS;
	w->seen = calloc(size, sizeof *w->seen);
	w->links = calloc((size_t)w->link_count + 1, sizeof *w->links);
	w->polled = calloc((size_t)w->link_count + 2, sizeof *w->polled);
	if (!w->seen || !w->links || !w->polled)
		return error_memory(err, "the watchdog");
	for (int i = 0; i < w->link_count; i++)
		w->links[i] = (struct link){.fd = -1, .rank = -1};
	if (world->rank == 0 && world->size > 1)
		return link_listen(&w->listener, meeting, world->local_size == world->size, err);
	return 0;
}

int watchdog_connect(struct watchdog *w, const struct group *world, const char *host,
		     struct error *err)
{
	struct meeting meeting = {0};
	int result = prepare(w, world, &meeting, err);
	pthread_mutex_lock(&w->mutex);
	snprintf(w->host, sizeof w->host, "%s", host);
	pthread_mutex_unlock(&w->mutex);
	if (world->rank == 0) {
		w->token = meeting.token;
		if (!result) {
			atomic_store(&w->joined, true);
			wake_up(w);
		}
	}
	if (world->agree(world, result, err) ||
	    world->broadcast(world, &meeting, sizeof meeting, 0, err))
		return -1;
	if (world->rank) {
		double now = now_s();
		w->token = meeting.token;
		result = link_connect(&w->links[0].fd, &meeting, w->options.start_s, err);
		if (!result) {
			struct beat hello = watchdog_beat(w, BEAT_HERE);
			link_send(w->links[0].fd, &hello);
			w->links[0].rank = 0;
			w->seen[0] = (struct seen){.last.layer = -1, .heard = now, .moved = now, .entered = now};
			atomic_store(&w->joined, true);
			wake_up(w);
		}
	}
	return world->agree(world, result, err);
}

void watchdog_set_leader(struct watchdog *w, int leader)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->mutex);
	w->leader = leader;
	pthread_mutex_unlock(&w->mutex);
}

void watchdog_set_device(struct watchdog *w, const char *device)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->mutex);
	snprintf(w->device, sizeof w->device, "%s", device);
	pthread_mutex_unlock(&w->mutex);
}

void watchdog_set_abort(struct watchdog *w, void (*abort)(void *), void *context)
{
	if (w)
		ending_set_abort(&w->ending, abort, context);
}

void watchdog_close(struct watchdog *w)
{
	if (!w)
		return;
	atomic_store(&w->stop, true);
	wake_up(w);
	pthread_join(w->thread, NULL);
	struct sigaction now;
	if (!sigaction(SIGTERM, NULL, &now) && now.sa_handler == on_sigterm)
		signal(SIGTERM, SIG_DFL);
	atomic_store(&watched, NULL);
	if (atomic_load(&w->joined)) {
		struct beat bye = watchdog_beat(w, BEAT_BYE);
		watchdog_send(w, &bye);
	}
	close_all(w);
}
