#include "launcher/batch_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/output.h"

/* ---- statistics -------------------------------------------------------------------------- */

/* Bucket i holds times from LEAST * WIDTH^(i - 1) up to LEAST * WIDTH^i; the first and the last also
 * what lies beyond. */
static const double LEAST = 1e-6, WIDTH = 1.01;

void batch_times_add(struct batch_times *times, double seconds)
{
	double at = seconds > LEAST ? floor(log(seconds / LEAST) / log(WIDTH)) + 1 : 0;
	times->buckets[at < BATCH_BUCKETS ? (int)at : BATCH_BUCKETS - 1]++;
	times->count++;
	times->sum += seconds;
}

double batch_times_mean(const struct batch_times *times)
{
	return times->count ? times->sum / (double)times->count : 0;
}

double batch_times_quantile(const struct batch_times *times, double share)
{
	double wanted = fmax(ceil(share * (double)times->count), 1);
	uint64_t below = 0;
	for (int i = 0; i < BATCH_BUCKETS; i++) {
		below += times->buckets[i];
		if ((double)below >= wanted)
			return LEAST * pow(WIDTH, i - 0.5);
	}
	return 0;
}

static void merge_times(struct batch_times *times, const struct batch_times *more)
{
	times->count += more->count;
	times->sum += more->sum;
	for (int i = 0; i < BATCH_BUCKETS; i++)
		times->buckets[i] += more->buckets[i];
}

void batch_stats_completion(struct batch_stats *stats, int32_t tokens, double first_s, double last_s)
{
	if (tokens < 1)
		return;
	stats->output_tokens += (uint64_t)tokens;
	batch_times_add(&stats->first, first_s);
	if (tokens > 1)
		batch_times_add(&stats->token, (last_s - first_s) / (tokens - 1));
}

void batch_stats_merge(struct batch_stats *stats, const struct batch_stats *more)
{
	stats->requests += more->requests;
	stats->errors += more->errors;
	stats->prompt_tokens += more->prompt_tokens;
	stats->output_tokens += more->output_tokens;
	merge_times(&stats->first, &more->first);
	merge_times(&stats->token, &more->token);
}

/* ---- on the way -------------------------------------------------------------------------- */

enum { BAR = 24 };

static const double BAR_S = 0.2, LINE_S = 10, SPEED_S = 10;

void batch_report_start(struct batch_report *report, bool wanted, const struct log *log)
{
	double now = output_now();
	bool info = log_wants(log, LOG_INFO);
	*report = (struct batch_report){.log = *log, .start = now, .last = now, .older_s = now, .newer_s = now};
	report->bar = wanted || (info && !log->stamped && output_has_terminal());
	report->shown = report->bar || info;
}

/* Done of all, from 0 to 1; -1 where nobody knows. */
static double progress_share(const struct batch_progress *progress)
{
	double done = (double)progress->done + (double)progress->skipped;
	if (progress->total < 0)
		return progress->fraction;
	return progress->total > 0 ? fmin(done / (double)progress->total, 1) : 1;
}

/* Seconds to come, by the lines done so far in this run, or by the part of the input read. */
static double progress_left(const struct batch_progress *progress, double seconds)
{
	double share = progress->fraction;
	if (progress->total >= 0) {
		double all = (double)progress->total - (double)progress->skipped;
		share = all > 0 ? (double)progress->done / all : 1;
	}
	return share > 0 && share <= 1 ? seconds * (1 - share) / share : -1;
}

void batch_progress_text(char *text, size_t size, const struct batch_progress *progress,
			 double seconds, double tokens_per_s)
{
	unsigned long long done = progress->done + progress->skipped;
	double share = progress_share(progress), left = progress_left(progress, seconds);
	char of[32] = "", percent[16] = "", errors[40] = "", time[48] = "";
	if (progress->total >= 0)
		snprintf(of, sizeof of, "/%lld", (long long)progress->total);
	if (share >= 0)
		snprintf(percent, sizeof percent, "%3d%%  ", (int)(share * 100));
	if (progress->errors)
		snprintf(errors, sizeof errors, ", %llu errors", (unsigned long long)progress->errors);
	/* A hundred days and more are no forecast. */
	if (left >= 0 && left < 100 * 86400) {
		long whole = lrint(left), hours = whole / 3600;
		if (hours)
			snprintf(time, sizeof time, ", %ld:%02ld:%02ld left", hours, whole / 60 % 60, whole % 60);
		else
			snprintf(time, sizeof time, ", %ld:%02ld left", whole / 60, whole % 60);
	}
	snprintf(text, size, "%s%llu%s done%s, %.0f tokens/s%s", percent, done, of, errors,
		 tokens_per_s, time);
}

/* Over the last 10 to 20 seconds, so that it tells what is going on now. */
static double speed(struct batch_report *report, double now, uint64_t tokens)
{
	if (now - report->newer_s >= SPEED_S) {
		report->older_s = report->newer_s;
		report->older_tokens = report->newer_tokens;
		report->newer_s = now;
		report->newer_tokens = tokens;
	}
	double seconds = now - report->older_s;
	return seconds > 0 ? ((double)tokens - (double)report->older_tokens) / seconds : 0;
}

static void draw_bar(struct batch_report *report, const char *text, double share)
{
	int filled = share > 0 ? (int)(share * BAR) : 0;
	int width = fprintf(stderr, "\rbatch [%.*s%*s]%s", filled, "########################",
			    BAR - filled, "", text);
	fprintf(stderr, "%*s", width < report->width ? report->width - width : 0, "");
	fflush(stderr);
	report->width = width;
}

void batch_report_progress(struct batch_report *report, const struct batch_progress *progress)
{
	char text[160];
	double now;
	if (!report->shown || (now = output_now()) - report->last < (report->bar ? BAR_S : LINE_S))
		return;
	report->last = now;
	batch_progress_text(text, sizeof text, progress, now - report->start,
			    speed(report, now, progress->output_tokens));
	if (report->bar)
		draw_bar(report, text, progress_share(progress));
	else
		log_say(&report->log, LOG_INFO, "batch: %s", text + strspn(text, " "));
}

void batch_report_wipe(struct batch_report *report)
{
	if (report->width)
		fprintf(stderr, "\r%*s\r", report->width, "");
	report->width = 0;
}

/* ---- at the end -------------------------------------------------------------------------- */

static double per_second(const struct batch_summary *summary)
{
	return summary->seconds > 0 ? (double)summary->stats.output_tokens / summary->seconds : 0;
}

static void print_times(FILE *out, const char *what, const struct batch_times *times)
{
	if (times->count)
		fprintf(out, "%s: mean %.1f ms, P50 %.1f ms, P95 %.1f ms\n", what,
			1e3 * batch_times_mean(times), 1e3 * batch_times_quantile(times, 0.5),
			1e3 * batch_times_quantile(times, 0.95));
}

char *batch_summary_text(const struct batch_summary *summary)
{
	const struct batch_stats *stats = &summary->stats;
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);
	if (!out)
		return NULL;
	fprintf(out, "batch: %" PRIu64 " requests, %" PRIu64 " errors, %" PRIu64 " done before",
		stats->requests, stats->errors, summary->skipped);
	if (summary->duplicates)
		fprintf(out, ", %" PRIu64 " with the id of an earlier line", summary->duplicates);
	fprintf(out, "\ntokens: %" PRIu64 " of prompts (%" PRIu64 " of them shared), %" PRIu64
		     " written, %.1f tokens/s in %.1f s\n", stats->prompt_tokens,
		summary->shared_tokens, stats->output_tokens, per_second(summary), summary->seconds);
	print_times(out, "time to first token", &stats->first);
	print_times(out, "time per token after it", &stats->token);
	if (summary->kv_blocks)
		fprintf(out, "KV cache: at most %d of %d blocks held (%.0f%%), %" PRIu64
			     " times a sequence was put back\n", summary->kv_blocks_most,
			summary->kv_blocks, 100.0 * summary->kv_blocks_most / summary->kv_blocks,
			summary->preemptions);
	fprintf(out, "steps: %" PRIu64 " on %d %s; devices without one for %.1f%% of the time\n",
		summary->steps, summary->replicas, summary->replicas == 1 ? "replica" : "replicas",
		100 * summary->idle_share);
	bool bad = ferror(out);
	if (!fclose(out) && !bad)
		return text;
	free(text);
	return NULL;
}

static json_t *times_json(const struct batch_times *times)
{
	return json_pack("{s:f, s:f, s:f}", "mean", batch_times_mean(times), "p50",
			 batch_times_quantile(times, 0.5), "p95", batch_times_quantile(times, 0.95));
}

json_t *batch_summary_json(const struct batch_summary *summary)
{
	const struct batch_stats *stats = &summary->stats;
	return json_pack(
		"{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:i, s:i, s:I, s:I, s:I, s:f, s:i, s:b}",
		"requests", (json_int_t)stats->requests, "errors", (json_int_t)stats->errors, "skipped",
		(json_int_t)summary->skipped, "duplicates", (json_int_t)summary->duplicates, "prompt_tokens",
		(json_int_t)stats->prompt_tokens, "output_tokens", (json_int_t)stats->output_tokens, "seconds",
		summary->seconds, "tokens_per_s", per_second(summary), "first_token_s",
		times_json(&stats->first), "token_s", times_json(&stats->token), "kv_blocks",
		(int)summary->kv_blocks, "kv_blocks_most", (int)summary->kv_blocks_most, "shared_tokens",
		(json_int_t)summary->shared_tokens, "preemptions", (json_int_t)summary->preemptions, "steps",
		(json_int_t)summary->steps, "idle_share", summary->idle_share, "replicas",
		(int)summary->replicas, "stopped", (int)summary->stopped);
}
