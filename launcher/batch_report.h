/*
 * batch_report.h - how a batch is getting on, and what it came to.
 *
 * Times are kept as counts in buckets that are 1% wide, so that their memory does not grow and
 * several replicas' can be added up; a quantile is right to half a percent.
 */
#ifndef TPRUN_LAUNCHER_BATCH_REPORT_H
#define TPRUN_LAUNCHER_BATCH_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launcher/log.h"
#include "runtime/base/error.h"

/* ---- statistics: plain data, all zero at first, which may travel between ranks ------------- */

enum { BATCH_BUCKETS = 2600 }; /* from a microsecond to two days */

struct batch_times {
	uint64_t count;
	double sum; /* seconds */
	uint64_t buckets[BATCH_BUCKETS];
};

void batch_times_add(struct batch_times *, double seconds);
/* Both are 0 where there is nothing. */
double batch_times_mean(const struct batch_times *);
/* The least time that `share` (0 to 1) of all do not exceed. */
double batch_times_quantile(const struct batch_times *, double share);

struct batch_stats {
	uint64_t requests; /* that got a result */
	uint64_t errors;   /* that got an error line; in a summary with those of batch_lines.h */
	uint64_t prompt_tokens, output_tokens;
	struct batch_times first; /* of a completion: from its request's arrival to its first token */
	struct batch_times token; /* of a completion: the mean time of each token after the first */
};

/* A completion came to its end: tokens written, and seconds from its request's arrival to the first
 * and the last of them. */
void batch_stats_completion(struct batch_stats *, int32_t tokens, double first_s, double last_s);
void batch_stats_merge(struct batch_stats *, const struct batch_stats *more);

/* ---- on the way -------------------------------------------------------------------------- */

struct batch_progress {
	uint64_t done;	  /* lines written in this run, error lines too */
	uint64_t skipped; /* lines that were done before */
	uint64_t errors;  /* of `done` */
	uint64_t output_tokens;
	int64_t total;	 /* lines of the input; -1: unknown */
	double fraction; /* of the input that was read; -1: unknown */
};

struct batch_report {
	bool shown, bar;
	struct log log;
	double start, last;
	int width; /* of the bar on the screen */
	/* Two moments of the last seconds, for the speed. */
	double older_s, newer_s;
	uint64_t older_tokens, newer_tokens;
};

/* A bar where standard error, or the launcher's, is a terminal and no log is asked for, or where it is
 * `wanted`; otherwise a line of the log every 10 seconds. Time counts from here. */
void batch_report_start(struct batch_report *, bool wanted, const struct log *);
/* To be called often: shows something where it is time to. */
void batch_report_progress(struct batch_report *, const struct batch_progress *);
/* Wipes the bar, for other messages; it comes back with the next progress. */
void batch_report_wipe(struct batch_report *);

/* What a line of progress says, into text[size]; `seconds` since the start. */
void batch_progress_text(char *text, size_t size, const struct batch_progress *, double seconds,
			 double tokens_per_s);

/* ---- at the end -------------------------------------------------------------------------- */

struct batch_summary {
	struct batch_stats stats;
	uint64_t skipped;    /* lines that were done before */
	uint64_t duplicates; /* lines with the id of an earlier one */
	double seconds;	     /* of the run, without loading */
	int32_t kv_blocks, kv_blocks_most; /* of all replicas: there are, and were held at a time */
	uint64_t shared_tokens;		   /* prompt tokens that did not have to be run */
	uint64_t preemptions, steps;
	double idle_share; /* of the time of all steps in which the devices had none to run */
	int32_t replicas;
	bool stopped; /* on request: more is to be done */
};

/* As lines of text, in malloc'ed memory, NULL where there is none left. */
char *batch_summary_text(const struct batch_summary *);
/* As one JSON object, NULL where memory is out: what output_json takes. */
json_t *batch_summary_json(const struct batch_summary *);

#endif
