#include "launcher/stop_request.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Everything that the handlers touch; atomics, because any thread may run a handler. One timer a
 * kind of request: each is started by the first request of its kind, and the earlier one ends the
 * process. */
static struct {
	bool open;
	atomic_bool seen[STOP_NOW + 1];
	timer_t timers[STOP_NOW + 1];
	char message[500];
	atomic_size_t length;
	atomic_int status; /* of a run that has ended; 0: it has not */
	void (*at_end)(void);
	struct log log;
} state;

static void start_timer(enum stop_request request, int milliseconds)
{
	struct itimerspec deadline = {
		.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000000l},
	};
	timer_settime(state.timers[request], 0, &deadline, NULL);
}

/* Calls nothing but what a handler may call. */
void stop_request_raise(enum stop_request request)
{
	static const int milliseconds[] = {[STOP_DRAIN] = STOP_DRAIN_MS, [STOP_NOW] = STOP_NOW_MS};
	if (request == STOP_NONE || !state.open || atomic_exchange(&state.seen[request], true))
		return;
	start_timer(request, atomic_load(&state.status) ? STOP_END_MS : milliseconds[request]);
}

static void on_request(int number)
{
	int kept = errno;
	stop_request_raise(number == SIGTERM ? STOP_NOW : STOP_DRAIN);
	errno = kept;
}

__attribute__((noreturn))
static void on_deadline(int number)
{
	(void)number;
	char text[LOG_STAMP + sizeof state.message];
	size_t length = atomic_load(&state.length), stamp = log_stamp(&state.log, LOG_INFO, text);
	memcpy(text + stamp, state.message, length);
	ssize_t ignored = write(STDERR_FILENO, text, length ? stamp + length : 0);
	(void)ignored;
	if (state.at_end)
		state.at_end();
	int status = atomic_load(&state.status);
	_exit(status ? status : ERROR_STOPPED);
}

int stop_request_open(struct error *err)
{
	const int deadline = SIGRTMIN + 3; /* the first few are used by debuggers and libraries */
	struct sigaction ending = {.sa_handler = on_deadline};
	struct sigaction request = {.sa_handler = on_request, .sa_flags = SA_RESTART};
	sigfillset(&ending.sa_mask);
	sigfillset(&request.sa_mask);
	for (int i = STOP_DRAIN; i <= STOP_NOW; i++) {
		struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = deadline};
		if (timer_create(CLOCK_MONOTONIC, &event, &state.timers[i]))
			return error_run(err, "no timer for requests to stop: %s", strerror(errno));
	}
	state.open = true;
	if (sigaction(deadline, &ending, NULL) || sigaction(SIGUSR1, &request, NULL) ||
	    sigaction(SIGTERM, &request, NULL))
		return error_run(err, "no handler for requests to stop: %s", strerror(errno));
	return 0;
}

enum stop_request stop_request_seen(void)
{
	return atomic_load(&state.seen[STOP_NOW])     ? STOP_NOW
	       : atomic_load(&state.seen[STOP_DRAIN]) ? STOP_DRAIN
						      : STOP_NONE;
}

void stop_request_message(const char *text)
{
	size_t length = strnlen(text, sizeof state.message);
	atomic_store(&state.length, 0); /* a deadline meanwhile says nothing rather than half of it */
	memcpy(state.message, text, length);
	atomic_store(&state.length, length);
}

void stop_request_log(const struct log *log)
{
	state.log = *log;
}

void stop_request_at_end(void (*call)(void))
{
	state.at_end = call;
}

void stop_request_end(int status)
{
	stop_request_message("");
	atomic_store(&state.status, status);
	enum stop_request seen = stop_request_seen();
	if (seen != STOP_NONE)
		start_timer(seen, STOP_END_MS);
}
