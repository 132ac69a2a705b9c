/* The log's lines, and the date that a signal's handler can make. */
#define TEST_SUITE "log"
#include "tests/test.h"

#include <fcntl.h>
#include <unistd.h>

#include "launcher/log.h"

static void dates(void)
{
	for (int i = 0; i < 20000 && !test_failures; i++) {
		int64_t day = i < 1000 ? i : test_int(0, 200000); /* to the year 2517 */
		time_t seconds = (time_t)(day * 86400);
		struct tm expected;
		int year, month, date;
		gmtime_r(&seconds, &expected);
		log_date((long)day, &year, &month, &date);
		CHECK_MSG(year == expected.tm_year + 1900 && month == expected.tm_mon + 1 &&
			  date == expected.tm_mday, "day %lld: %d-%d-%d", (long long)day, year, month, date);
	}
}

/* By the clock that stamps are of: time() lags some milliseconds behind it. */
static void second_now(char text[32])
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	strftime(text, 32, "%Y-%m-%dT%H:%M:%S", gmtime(&now.tv_sec));
}

static void stamps(void)
{
	const struct log log = {.level = LOG_INFO, .stamped = true, .rank = 12}, plain = {.level = LOG_INFO};
	char text[LOG_STAMP], before[32], after[32];
	second_now(before);
	size_t length = log_stamp(&log, LOG_WARNING, text);
	second_now(after);
	CHECK(length == strlen(text));
	CHECK_MSG(strncmp(text, before, 19) >= 0 && strncmp(text, after, 19) <= 0, "%s", text);
	CHECK(text[19] == '.');
	CHECK_STR(text + 23, "Z rank 12 warning: ");
	CHECK(log_stamp(&plain, LOG_ERROR, text) == 0 && !*text);
}

static void numbers(void)
{
	char text[8];
	CHECK(log_append_number(text, sizeof text, 0, 0, 1) == 1);
	CHECK_STR(text, "0");
	log_append_number(text, sizeof text, 0, 42, 3);
	CHECK_STR(text, "042");
	log_append_number(text, sizeof text, 0, 18446744073709551615ull, 1);
	CHECK_STR(text, "1844674"); /* cut */
}

/* What a call leaves on standard error. */
static char *said(const struct log *log, enum log_level level, const char *message)
{
	static char text[1024];
	char path[] = "/tmp/tprun-log-XXXXXX";
	int file = mkstemp(path), standard = dup(STDERR_FILENO);
	dup2(file, STDERR_FILENO);
	log_say(log, level, "%s", message);
	dup2(standard, STDERR_FILENO);
	close(standard);
	ssize_t length = pread(file, text, sizeof text - 1, 0);
	text[length > 0 ? length : 0] = '\0';
	close(file);
	unlink(path);
	return text;
}

static void lines(void)
{
	struct log log = {.level = LOG_WARNING};
	CHECK_STR(said(&log, LOG_WARNING, "one"), "one\n");
	CHECK_STR(said(&log, LOG_ERROR, "one\ntwo\n"), "one\ntwo\n");
	CHECK_STR(said(&log, LOG_INFO, "one"), "");
	CHECK_STR(said(&log, LOG_ERROR, ""), "");
	log = (struct log){.level = LOG_DEBUG, .stamped = true, .rank = 3};
	char *text = said(&log, LOG_DEBUG, "one\n\nthree");
	int found = 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), found++)
		CHECK_STR(line + 23, found == 0 ? "Z rank 3 debug: one"
				     : found == 1 ? "Z rank 3 debug: " : "Z rank 3 debug: three");
	CHECK(found == 3);
}

static void from_options(void)
{
	char *argv[] = {"tprun", "generate", "--log-level", "warning", "--quiet", NULL};
	struct options options;
	struct error err;
	CHECK_OK(options_parse(&options, 2, argv, &err), &err);
	struct log log = log_make(&options, 1);
	CHECK(log.level == LOG_INFO && !log.stamped && log.rank == 1);
	options_close(&options);
	CHECK_OK(options_parse(&options, 4, argv, &err), &err);
	log = log_make(&options, 0);
	CHECK(log.level == LOG_WARNING && log.stamped);
	options_close(&options);
	CHECK_OK(options_parse(&options, 5, argv, &err), &err);
	log = log_make(&options, 0);
	CHECK(log.level == LOG_ERROR && log.stamped);
	options_close(&options);
}

int main(void)
{
	RUN(dates);
	RUN(stamps);
	RUN(numbers);
	RUN(lines);
	RUN(from_options);
	TEST_END();
}
