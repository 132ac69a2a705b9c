#include "launcher/whereabouts.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* What the handler reads; it cannot be handed anything (see stop_request.h). */
static struct {
	const struct activity *activity;
	struct log log;
	char who[320];
} state;

/* Appends the activity in words; calls nothing but what a handler may call. */
static size_t describe(const struct activity *a, char *text, size_t size, size_t length)
{
	int phase = atomic_load_explicit(&a->phase, memory_order_acquire);
	int layer = atomic_load_explicit(&a->layer, memory_order_relaxed);
	int64_t since = atomic_load_explicit(&a->since_ns, memory_order_relaxed);
	struct timespec now;
	length = log_append(text, size, length, activity_name(phase));
	if (phase == ACTIVITY_PREFILL || phase == ACTIVITY_DECODE || phase == ACTIVITY_IDLE) {
		length = log_append(text, size, length, phase == ACTIVITY_IDLE ? " after step " : ", step ");
		length = log_append_number(text, size, length,
					   atomic_load_explicit(&a->step, memory_order_relaxed), 1);
	}
	if (layer >= 0) {
		length = log_append(text, size, length, ", layer ");
		length = log_append_number(text, size, length, (unsigned long long)layer, 1);
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	int64_t passed = now.tv_sec * INT64_C(1000000000) + now.tv_nsec - since;
	if (since && passed >= 0) {
		unsigned long long ms = (unsigned long long)passed / 1000000;
		length = log_append(text, size, length, ", for ");
		length = log_append_number(text, size, length, ms / 1000, 1);
		length = log_append(text, size, length, ".");
		length = log_append_number(text, size, length, ms % 1000, 3);
		length = log_append(text, size, length, " s");
	}
	return length;
}

static void on_question(int number)
{
	char text[640];
	int kept = errno;
	(void)number;
	size_t length = log_stamp(&state.log, LOG_INFO, text);
	length = log_append(text, sizeof text - 1, length, state.who);
	length = describe(state.activity, text, sizeof text - 1, length);
	text[length++] = '\n';
	ssize_t ignored = write(STDERR_FILENO, text, length);
	(void)ignored;
	errno = kept;
}

int whereabouts_open(const struct activity *activity, const struct log *log, struct error *err)
{
	struct sigaction question = {.sa_handler = on_question, .sa_flags = SA_RESTART};
	char host[256] = "?";
	gethostname(host, sizeof host - 1);
	state.activity = activity;
	state.log = *log;
	size_t length = log_append(state.who, sizeof state.who, 0, "tprun: rank ");
	length = log_append_number(state.who, sizeof state.who, length, (unsigned)log->rank, 1);
	length = log_append(state.who, sizeof state.who, length, " (host ");
	length = log_append(state.who, sizeof state.who, length, host);
	length = log_append(state.who, sizeof state.who, length, ", pid ");
	length = log_append_number(state.who, sizeof state.who, length, (unsigned)getpid(), 1);
	log_append(state.who, sizeof state.who, length, "): ");
	sigfillset(&question.sa_mask);
	if (sigaction(SIGUSR2, &question, NULL))
		return error_run(err, "no handler for SIGUSR2: %s", strerror(errno));
	return 0;
}

void whereabouts_close(void)
{
	signal(SIGUSR2, SIG_IGN);
}
