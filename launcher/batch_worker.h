/*
 * batch_worker.h - lines of a batch in, lines of its output out: the work of a replica's leader.
 *
 * A worker tokenizes, keeps the completions of its replica going and writes their texts; it knows
 * neither files nor other replicas.
 */
#ifndef TPRUN_LAUNCHER_BATCH_WORKER_H
#define TPRUN_LAUNCHER_BATCH_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher/batch_report.h"
#include "launcher/batch_request.h"
#include "launcher/session.h"
#include "runtime/engine/completions.h"

struct batch_worker;

struct batch_worker_options {
	struct session *session;      /* started; borrowed */
	struct batch_context context; /* what all lines share; borrowed too */
	/* Takes a line of output, without a newline; -1 fails the run. */
	int (*deliver)(void *context, const char *line, size_t length, struct error *err);
	void *deliver_context;
};

int batch_worker_open(struct batch_worker **out, const struct batch_worker_options *,
		      struct error *err);
/* What is unfinished is dropped. */
void batch_worker_close(struct batch_worker *);

/* Takes a line that batch_lines_next gave out; what is wrong with it comes back as its error line.
 * Also between begin and end. */
int batch_worker_add(struct batch_worker *, const char *line, size_t length, struct error *err);
/* Completions that are not finished, the waiting ones among them. */
int32_t batch_worker_load(const struct batch_worker *);
/* No completion that still waits is begun any more. */
void batch_worker_drain(struct batch_worker *);

/* A round, see completions_begin; *busy tells whether there is more to do. */
int batch_worker_begin(struct batch_worker *, struct error *err);
int batch_worker_end(struct batch_worker *, bool *busy, struct error *err);

/* So far; plain data, which may travel between ranks. */
struct batch_totals {
	struct batch_stats stats;
	struct scheduler_counts counts;
	struct completions_times times;
};
struct batch_totals batch_worker_totals(const struct batch_worker *);

#endif
