#include "launcher/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "launcher/batch_report.h"
#include "launcher/mpi_group.h"
#include "launcher/output.h"
#include "runtime/base/thread.h"

struct counts {
	struct batch_times steps;
	uint64_t sequences, tokens;
	double sum_s;
	int32_t kv_blocks;
};

struct stats {
	const struct log *log;
	const char *path; /* of the options */
	int fd;
	double interval;
	struct engine *engine;
	const struct group *group;
	struct backend *backend;
	struct step_observer observer;
	int32_t kv_blocks;
	double sums_before; /* the main thread's alone */

	pthread_t thread;
	bool running, told;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t ended;
	bool end;
	struct counts counts;
};

int stats_open(struct stats **out, const struct options *options, const struct log *log,
	       struct error *err)
{
	pthread_condattr_t clock;
	*out = NULL;
	if (!options->given[OPTION_STATS])
		return 0;
	struct stats *stats = calloc(1, sizeof *stats);
	if (!stats)
		return error_memory(err, "the statistics");
	stats->log = log;
	stats->path = options->stats.data;
	stats->interval = options->given[OPTION_STATS_INTERVAL] ? options->stats_interval : 1;
	stats->fd = open(stats->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0666);
	if (stats->fd < 0) {
		error_usage(err, "--stats: cannot open %s: %s", stats->path, strerror(errno));
		free(stats);
		return -1;
	}
	pthread_mutex_init(&stats->lock, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&stats->ended, &clock);
	pthread_condattr_destroy(&clock);
	*out = stats;
	return 0;
}

/* ---- steps, in the main thread --------------------------------------------------------------- */

static double sum_seconds(const struct stats *stats)
{
	double (*device)(struct backend *) = stats->backend->ops->sum_seconds;
	return mpi_group_sum_seconds(stats->group) + (device ? device(stats->backend) : 0);
}

static void note_step(void *context, const struct step_report *step)
{
	struct stats *stats = context;
	struct counts *counts = &stats->counts;
	double sums = sum_seconds(stats);
	pthread_mutex_lock(&stats->lock);
	batch_times_add(&counts->steps, step->seconds);
	counts->sequences += (uint64_t)step->sequences;
	counts->tokens += (uint64_t)step->tokens;
	counts->sum_s += sums - stats->sums_before;
	counts->kv_blocks = step->kv_blocks;
	pthread_mutex_unlock(&stats->lock);
	stats->sums_before = sums;
}

/* ---- lines, in the thread -------------------------------------------------------------------- */

static json_t *make_line(const struct stats *stats, const struct counts *counts, double seconds)
{
	struct timespec now;
	double steps = (double)counts->steps.count;
	json_t *times = json_null();
	clock_gettime(CLOCK_REALTIME, &now);
	if (counts->steps.count)
		times = json_pack("{s:f, s:f, s:f}", "mean", batch_times_mean(&counts->steps), "p50",
				  batch_times_quantile(&counts->steps, 0.5), "p99",
				  batch_times_quantile(&counts->steps, 0.99));
	return json_pack("{s:f, s:f, s:I, s:o, s:f, s:I, s:i, s:i, s:o}", "time",
			 (double)now.tv_sec + (double)(now.tv_nsec / 1000000) * 1e-3, "seconds", seconds,
			 "steps", (json_int_t)counts->steps.count, "step_s", times, "batch",
			 steps > 0 ? (double)counts->sequences / steps : 0.0, "tokens",
			 (json_int_t)counts->tokens, "kv_blocks_used", (int)counts->kv_blocks,
			 "kv_blocks", (int)stats->kv_blocks, "all_reduce_s",
			 steps > 0 ? json_real(counts->sum_s / steps) : json_null());
}

/* What was written of a line that did not fit is taken back, so that a later one stands alone. */
static void write_line(struct stats *stats, json_t *line)
{
	struct stat before;
	char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(13)) : NULL;
	size_t length = text ? strlen(text) : 0;
	if (text) {
		bool known = !fstat(stats->fd, &before) && S_ISREG(before.st_mode);
		text[length++] = '\n'; /* in the place of its end */
		ssize_t written = write(stats->fd, text, length);
		if (written != (ssize_t)length) {
			int cause = written < 0 ? errno : ENOSPC;
			if (written > 0 && known && ftruncate(stats->fd, before.st_size))
				cause = errno;
			if (!stats->told)
				log_say(stats->log, LOG_WARNING, "tprun: warning: cannot write to %s: %s; "
					"the run goes on, its statistics have gaps", stats->path,
					strerror(cause));
			stats->told = true;
		}
	}
	json_decref(line);
	free(text);
}

static void *write_lines(void *context)
{
	struct stats *stats = context;
	struct counts *counts = malloc(sizeof *counts); /* too large for a small stack */
	double begun = output_now(), now;
	bool end = !counts;
	while (!end) {
		double until = begun + stats->interval;
		struct timespec deadline = {.tv_sec = (time_t)until};
		deadline.tv_nsec = (long)((until - (double)deadline.tv_sec) * 1e9);
		pthread_mutex_lock(&stats->lock);
		while (!stats->end &&
		       pthread_cond_timedwait(&stats->ended, &stats->lock, &deadline) != ETIMEDOUT)
			;
		end = stats->end;
		*counts = stats->counts;
		stats->counts = (struct counts){.kv_blocks = counts->kv_blocks};
		pthread_mutex_unlock(&stats->lock);
		now = output_now();
		write_line(stats, make_line(stats, counts, now - begun));
		begun = now;
	}
	free(counts);
	return NULL;
}

int stats_start(struct stats *stats, struct engine *engine, const struct group *group,
		struct backend *backend, struct error *err)
{
	if (!stats)
		return 0;
	stats->group = group;
	stats->backend = backend;
	stats->sums_before = sum_seconds(stats);
	stats->kv_blocks = engine_options(engine)->kv_blocks;
	if (thread_start(&stats->thread, write_lines, stats, "the statistics", err))
		return -1;
	stats->running = true;
	stats->engine = engine;
	stats->observer = (struct step_observer){note_step, stats};
	engine_observe(engine, &stats->observer);
	return 0;
}

void stats_close(struct stats *stats)
{
	if (!stats)
		return;
	if (stats->running) {
		engine_observe(stats->engine, NULL);
		pthread_mutex_lock(&stats->lock);
		stats->end = true;
		pthread_cond_signal(&stats->ended);
		pthread_mutex_unlock(&stats->lock);
		pthread_join(stats->thread, NULL);
	}
	pthread_cond_destroy(&stats->ended);
	pthread_mutex_destroy(&stats->lock);
	close(stats->fd);
	free(stats);
}
