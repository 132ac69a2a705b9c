#define TEST_SUITE "batch_report"
#include "tests/test.h"

#include "launcher/batch_report.h"

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Against sorted values: quantiles within half a percent, at any scale; sums to rounding. */
static void quantiles(void)
{
	enum { COUNT = 5000 };
	static double values[COUNT];
	static struct batch_times all, parts[3];
	for (int round = 0; round < 20; round++) {
		double sum = 0, scale = pow(10, (double)test_int(-4, 3)), shift = test_real() * 3;
		memset(&all, 0, sizeof all);
		int count = round ? (int)test_int(1, COUNT) : 1;
		for (int i = 0; i < count; i++) {
			sum += values[i] = scale * exp(test_normal() * shift / 3);
			batch_times_add(&all, values[i]);
		}
		qsort(values, (size_t)count, sizeof *values, by_size);
		CHECK(fabs(batch_times_mean(&all) * count - sum) <= 1e-9 * sum);
		for (int k = 0; k < 20; k++) {
			double share = k == 0 ? 0.5 : k == 1 ? 0.95 : k == 2 ? 1 : k == 3 ? 0 : test_real();
			int rank = (int)ceil(share * count);
			double expected = values[rank < 1 ? 0 : rank - 1];
			double got = batch_times_quantile(&all, share);
			CHECK_MSG(fabs(got / expected - 1) < 0.00501, "%g of %d: %g, not %g", share, count,
				  got, expected);
		}
	}
	memset(parts, 0, sizeof parts);
	CHECK(batch_times_mean(parts) == 0 && batch_times_quantile(parts, 0.5) == 0);
	batch_times_add(parts, 0);
	batch_times_add(parts, 1e300);
	batch_times_add(parts, -1);
	CHECK(parts->count == 3 && batch_times_quantile(parts, 0.1) <= 1e-6);
	CHECK(batch_times_quantile(parts, 1) > 86400);
}

static void merged(void)
{
	static struct batch_stats whole, parts[3];
	memset(&whole, 0, sizeof whole);
	memset(parts, 0, sizeof parts);
	for (int i = 0; i < 3000; i++) {
		int32_t tokens = (int32_t)test_int(0, 50);
		double first = test_real(), last = first + test_real();
		struct batch_stats *part = &parts[test_int(0, 2)];
		part->requests++;
		whole.requests++;
		batch_stats_completion(part, tokens, first, last);
		batch_stats_completion(&whole, tokens, first, last);
	}
	batch_stats_merge(&parts[0], &parts[1]);
	batch_stats_merge(&parts[0], &parts[2]);
	CHECK(parts[0].requests == 3000 && parts[0].output_tokens == whole.output_tokens);
	CHECK(parts[0].first.count == whole.first.count && parts[0].token.count == whole.token.count);
	CHECK(whole.token.count < whole.first.count && whole.first.count < 3000);
	CHECK(!memcmp(parts[0].first.buckets, whole.first.buckets, sizeof whole.first.buckets));
	CHECK(!memcmp(parts[0].token.buckets, whole.token.buckets, sizeof whole.token.buckets));
	CHECK(fabs(parts[0].token.sum - whole.token.sum) < 1e-9 * whole.token.sum);

	struct batch_stats one = {0};
	batch_stats_completion(&one, 11, 0.5, 1.5);
	CHECK(fabs(one.token.sum - 0.1) < 1e-12 && one.first.sum == 0.5);
}

static void progress_lines(void)
{
	static const struct {
		struct batch_progress progress;
		double seconds, speed;
		const char *text;
	} cases[] = {
		{{.done = 450, .total = 1000, .fraction = 0.9}, 9, 1234.4,
		 " 45%  450/1000 done, 1234 tokens/s, 0:11 left"},
		{{.done = 100, .skipped = 800, .errors = 2, .total = 1000, .fraction = 1}, 60, 10,
		 " 90%  900/1000 done, 2 errors, 10 tokens/s, 1:00 left"},
		{{.done = 5, .total = -1, .fraction = 0.25}, 3600, 1, " 25%  5 done, 1 tokens/s, 3:00:00 left"},
		{{.done = 5, .total = -1, .fraction = -1}, 3600, 1, "5 done, 1 tokens/s"},
		{{.total = 10, .fraction = 0}, 5, 0, "  0%  0/10 done, 0 tokens/s"},
		{{.total = 0, .fraction = 1}, 5, 0, "100%  0/0 done, 0 tokens/s, 0:00 left"},
		{{.skipped = 10, .total = 10, .fraction = 1}, 5, 0, "100%  10/10 done, 0 tokens/s, 0:00 left"},
		{{.done = 12, .total = 10, .fraction = 1}, 5, 0, "100%  12/10 done, 0 tokens/s"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char text[160];
		batch_progress_text(text, sizeof text, &cases[i].progress, cases[i].seconds,
				    cases[i].speed);
		CHECK_STR(text, cases[i].text);
	}
}

/* What a run without a terminal, with a bar, and a quiet one leave on standard error. */
static size_t shown(bool wanted, bool quiet, char *text, size_t size)
{
	char path[] = "/tmp/tprun-report-XXXXXX";
	int file = mkstemp(path), standard = dup(STDERR_FILENO);
	struct batch_report report;
	struct batch_progress progress = {.total = 10, .fraction = -1};
	fflush(stderr);
	dup2(file, STDERR_FILENO);
	const struct log log = {.level = quiet ? LOG_ERROR : LOG_INFO};
	batch_report_start(&report, wanted, &log);
	for (int i = 0; i < 6; i++) {
		progress.done++;
		batch_report_progress(&report, &progress);
		usleep(50000);
	}
	batch_report_wipe(&report);
	fflush(stderr);
	dup2(standard, STDERR_FILENO);
	close(standard);
	ssize_t length = pread(file, text, size - 1, 0);
	text[length > 0 ? length : 0] = '\0';
	close(file);
	unlink(path);
	return (size_t)length;
}

static void bar(void)
{
	char text[4096];
	CHECK(shown(true, false, text, sizeof text) > 0);
	CHECK_MSG(strstr(text, "\rbatch [") && strstr(text, "/10 done"), "%s", text);
	int bars = 0;
	for (char *at = text; (at = strstr(at, "batch [")); at++)
		bars++;
	CHECK_MSG(bars == 1, "%d", bars); /* five a second at most */
	CHECK(text[strlen(text) - 1] == '\r');
	CHECK(shown(false, true, text, sizeof text) == 0);
	CHECK(shown(false, false, text, sizeof text) == 0); /* the first line comes after 10 seconds */
}

static void summary(void)
{
	static struct batch_summary summary = {
		.skipped = 7, .duplicates = 3, .seconds = 10, .kv_blocks = 200, .kv_blocks_most = 50,
		.shared_tokens = 11, .preemptions = 2, .steps = 99, .idle_share = 0.025, .replicas = 2,
	};
	summary.stats = (struct batch_stats){.requests = 5, .errors = 1, .prompt_tokens = 1000};
	batch_stats_completion(&summary.stats, 101, 0.5, 2.5);
	char *text = batch_summary_text(&summary);
	CHECK(text);
	const char *parts[] = {"5 requests, 1 errors, 7 done before, 3 with the id",
			       "1000 of prompts (11 of them shared), 101 written, 10.1 tokens/s in 10.0 s",
			       "first token: mean 500.0 ms, P50 ", "per token after it: mean 20.0 ms",
			       "at most 50 of 200 blocks held (25%), 2 times", "99 on 2 replicas",
			       "2.5% of the time"};
	for (size_t i = 0; text && i < sizeof parts / sizeof *parts; i++)
		CHECK_MSG(strstr(text, parts[i]), "no \"%s\" in:\n%s", parts[i], text);
	free(text);
	json_t *json = batch_summary_json(&summary);
	CHECK(json_object_size(json) == 18);
	CHECK(json_integer_value(json_object_get(json, "output_tokens")) == 101);
	CHECK(json_real_value(json_object_get(json, "tokens_per_s")) == 10.1);
	double p95 = json_real_value(json_object_get(json_object_get(json, "token_s"), "p95"));
	CHECK_MSG(fabs(p95 / 0.02 - 1) < 0.00501, "%g", p95);
	CHECK(json_is_false(json_object_get(json, "stopped")));
	json_decref(json);
}

int main(void)
{
	RUN(quantiles);
	RUN(merged);
	RUN(progress_lines);
	RUN(bar);
	RUN(summary);
	TEST_END();
}
