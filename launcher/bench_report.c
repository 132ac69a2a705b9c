#include "launcher/bench_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "launcher/output.h"

#ifndef TPRUN_COMMIT
#define TPRUN_COMMIT "unknown"
#endif

/* ---- figures ----------------------------------------------------------------------------- */

struct figures {
	double step_ms, bits, gb_per_s, ceiling_gb_per_s, share, reduce_us, reduce_share;
	char hash[24];
};

static struct figures figures_of(const struct bench_facts *facts, const struct bench_row *row)
{
	struct figures f = {
		.step_ms = row->result.seconds / row->result.steps * 1e3,
		.bits = row->weight_share * facts->weight_bits,
		.gb_per_s = row->bytes / row->result.seconds * 1e-9,
		.ceiling_gb_per_s = facts->ceiling * 1e-9,
		.reduce_us = row->reduce_s * 1e6,
	};
	if (facts->ceiling > 0)
		f.share = f.gb_per_s / f.ceiling_gb_per_s;
	f.reduce_share = row->reduces * f.reduce_us / (f.step_ms * 1e3);
	snprintf(f.hash, sizeof f.hash, "%016" PRIx64, row->result.hash);
	return f;
}

/* ---- the table --------------------------------------------------------------------------- */

/* Neighbouring ranks with like devices share a line. */
static int print_devices(const struct bench_facts *facts, struct error *err)
{
	for (int i = 0, end; i < facts->ranks; i = end) {
		const struct bench_device *device = &facts->devices[i];
		for (end = i + 1; end < facts->ranks; end++)
			if (strcmp(device->host, facts->devices[end].host) ||
			    strcmp(device->name, facts->devices[end].name))
				break;
		if (output_print(err, "# %s: rank%s %d", device->host, end - i > 1 ? "s" : "", i) ||
		    (end - i > 1 && output_print(err, " to %d", end - 1)) ||
		    output_print(err, ", %s%s\n", device->name, end - i > 1 ? " each" : ""))
			return -1;
	}
	return 0;
}

static int print_header(const struct bench_facts *facts, struct error *err)
{
	if (output_print(err, "# tprun %s, commit %s\n# %s, %s, backend %s, %d rank%s\n", TPRUN_VERSION,
			 TPRUN_COMMIT, facts->shape, facts->dtype, facts->backend, facts->ranks,
			 facts->ranks == 1 ? "" : "s") ||
	    print_devices(facts, err) ||
	    (*facts->versions && output_print(err, "# %s\n", facts->versions)) ||
	    output_print(err, "# sums over the ranks: %s%s%s\n", facts->reduce, *facts->links ? "; links: " : "",
			 facts->links))
		return -1;
	return output_print(err,
		"# ceiling: %.1f GB/s, reading %.2f GB of its weights and nothing else, in this run\n"
		"# timed: the whole loop of steps, each at most %d tokens: the message to the ranks, the forward\n"
		"#   pass, sampling on rank 0 (temperature %g, top-k %d); %d times after a warm-up\n"
		"# pp: prompt tokens/s; tg: new tokens/s of all sequences, after their prompts; b: new tokens/s\n"
		"#   of all sequences, prompts of %d included\n"
		"# bits: of each weight, that a step reads; GB/s: these, keys and values that the steps must read, of\n"
		"#   rank 0, over the time\n"
		"# sum: one sum over the ranks by itself, of a step's size, in this run; share: all of a step\n"
		"# hash: of the ids made and the last step's logits, the same each time\n"
		"%-18s %10s %9s %10s %5s %9s %8s %9s %6s  %s\n", facts->ceiling * 1e-9,
		facts->ceiling_bytes * 1e-9, facts->max_tokens, BENCH_TEMPERATURE, BENCH_TOP_K, facts->repeat,
		BENCH_LENGTH, "test", "tokens/s", "±       ", "ms/step", "bits", "GB/s", "ceiling", "sum us", "share", "hash");
}

static int print_row(const struct bench_row *row, const struct figures *f, struct error *err)
{
	return output_print(err, "%-18s %10.1f ±%7.1f %10.3f %5.2f %9.1f %7.1f%% %9.2f %5.1f%%  %s\n",
			    row->test->name, row->result.tokens_per_s, row->result.deviation, f->step_ms,
			    f->bits, f->gb_per_s, f->share * 100, f->reduce_us, f->reduce_share * 100, f->hash);
}

/* ---- CSV --------------------------------------------------------------------------------- */

/* A field, in quotes where RFC 4180 wants them. */
static int print_field(const char *text, struct error *err)
{
	if (!strpbrk(text, ",\"\r\n"))
		return output_print(err, "%s", text);
	if (output_print(err, "\""))
		return -1;
	for (const char *c = text; *c; c++)
		if (output_print(err, *c == '"' ? "\"\"" : "%c", *c))
			return -1;
	return output_print(err, "\"");
}

static int print_csv(const struct bench_facts *facts, const struct bench_row *row,
		     const struct figures *f, struct error *err)
{
	const struct bench_test *test = row->test;
	if (print_field(facts->shape, err))
		return -1;
	return output_print(err, ",%s,%s,%d,%s,%d,%d,%lld,%.3f,%.3f,%.6f,%.3f,%.3f,%.4f,%.4f,%.3f,%d,%.4f,%s\n",
			    facts->dtype, facts->backend, facts->ranks, test->name, test->batch, test->depth,
			    (long long)bench_test_tokens(test), row->result.tokens_per_s,
			    row->result.deviation, f->step_ms, row->weight_share, f->gb_per_s, f->ceiling_gb_per_s, f->share,
			    f->reduce_us, row->reduces, f->reduce_share, f->hash);
}

/* ---- JSON -------------------------------------------------------------------------------- */

static json_t *row_json(const struct bench_row *row, const struct figures *f)
{
	const struct bench_test *test = row->test;
	return json_pack("{s:s, s:i, s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:f, s:s}",
			 "test", test->name, "batch", test->batch, "depth", test->depth,
			 "tokens", (json_int_t)bench_test_tokens(test),
			 "tokens_per_s", row->result.tokens_per_s, "deviation", row->result.deviation,
			 "ms_per_step", f->step_ms, "weight_share", row->weight_share, "gb_per_s", f->gb_per_s, "share", f->share,
			 "reduce_us", f->reduce_us, "reduces_per_step", row->reduces,
			 "reduce_share", f->reduce_share, "hash", f->hash);
}

static json_t *facts_json(const struct bench_facts *facts, json_t *rows)
{
	json_t *devices = json_array();
	for (int i = 0; i < facts->ranks; i++)
		json_array_append_new(devices, json_pack("{s:s, s:s}", "host", facts->devices[i].host,
							 "device", facts->devices[i].name));
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:o, s:s, s:s, s:s, s:f, s:i, s:i, s:f, s:i, s:o}",
			 "version", TPRUN_VERSION, "commit", TPRUN_COMMIT, "shape", facts->shape,
			 "dtype", facts->dtype, "backend", facts->backend, "ranks", facts->ranks,
			 "devices", devices, "versions", facts->versions, "reduce", facts->reduce,
			 "links", facts->links, "ceiling_gb_per_s", facts->ceiling * 1e-9, "repeat", facts->repeat,
			 "max_tokens", facts->max_tokens, "temperature", BENCH_TEMPERATURE,
			 "top_k", BENCH_TOP_K, "tests", rows);
}

/* ---- the report -------------------------------------------------------------------------- */

int bench_report_begin(struct bench_report *report, enum bench_format format,
		       const struct bench_facts *facts, struct error *err)
{
	*report = (struct bench_report){.format = format, .facts = facts};
	if (format == BENCH_TABLE)
		return print_header(facts, err);
	if (format == BENCH_CSV)
		return output_print(err, "shape,dtype,backend,ranks,test,batch,depth,tokens,tokens_per_s,"
					 "deviation,ms_per_step,weight_share,gb_per_s,ceiling_gb_per_s,share,reduce_us,"
					 "reduces_per_step,reduce_share,hash\n");
	report->rows = json_array();
	return report->rows ? 0 : error_memory(err, "the benchmark's report");
}

int bench_report_row(struct bench_report *report, const struct bench_row *row, struct error *err)
{
	struct figures f = figures_of(report->facts, row);
	if (report->format == BENCH_TABLE)
		return print_row(row, &f, err);
	if (report->format == BENCH_CSV)
		return print_csv(report->facts, row, &f, err);
	if (json_array_append_new(report->rows, row_json(row, &f)))
		return error_memory(err, "the benchmark's report");
	return 0;
}

int bench_report_end(struct bench_report *report, struct error *err)
{
	json_t *rows = report->rows;
	report->rows = NULL;
	return report->format == BENCH_JSON ? output_json(facts_json(report->facts, rows), err) : 0;
}

void bench_report_close(struct bench_report *report)
{
	json_decref(report->rows);
	report->rows = NULL;
}
