/*
 * bench_report.h - what `tprun bench` prints: a table, CSV, or one JSON object, from rank 0.
 *
 * Table and CSV grow by a line as each test is done, so that a run that is cut short loses nothing;
 * the table stands below lines that begin with # and say what was run and what was timed.
 */
#ifndef TPRUN_LAUNCHER_BENCH_REPORT_H
#define TPRUN_LAUNCHER_BENCH_REPORT_H

#include <jansson.h>

#include "launcher/bench_run.h"
#include "launcher/mpi_group.h"

struct bench_device {
	char host[HOST_NAME_MAX_BYTES], name[192]; /* with the clocks as found */
	char address[32];	/* a GPU's, on PCI; empty: none */
};

/* What holds for all tests of a run; the pointers are the caller's, until bench_report_end. */
struct bench_facts {
	const char *shape;   /* the model's name */
	const char *dtype;   /* "bf16" and the like */
	const char *backend;
	const char *reduce;  /* how sums over the ranks are taken */
	const char *links;   /* between the GPUs; empty: none */
	const char *versions; /* of libraries; empty: none that matter */
	const struct bench_device *devices; /* [ranks] */
	int ranks, repeat, max_tokens;
	int weight_bits;     /* of dtype */
	double ceiling, ceiling_bytes; /* bytes a second that rank 0 can read; how many it read */
};

/* A test and what came out, of rank 0, whose part of the model no other's exceeds. */
struct bench_row {
	const struct bench_test *test;
	struct bench_result result;
	double weight_share; /* of its matrices' bytes, what a decode step reads; without one, a step of the prompt */
	double bytes;	 /* that the timed part must read */
	double reduce_s; /* one sum over the ranks, of the size that most steps have */
	int reduces;	 /* sums of a step */
};

enum bench_format { BENCH_TABLE, BENCH_CSV, BENCH_JSON };

struct bench_report {
	enum bench_format format;
	const struct bench_facts *facts;
	json_t *rows; /* BENCH_JSON */
};

int bench_report_begin(struct bench_report *, enum bench_format, const struct bench_facts *,
		       struct error *err);
int bench_report_row(struct bench_report *, const struct bench_row *, struct error *err);
/* Prints what is to be printed at the end. */
int bench_report_end(struct bench_report *, struct error *err);
/* Instead of that, after an error. Takes a zeroed report too. */
void bench_report_close(struct bench_report *);

#endif
