#include "launcher/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warning", "info", "debug"};

struct log log_make(const struct options *options, int rank)
{
	struct log log = {.level = LOG_INFO, .rank = rank};
	if (options->given[OPTION_LOG_LEVEL]) {
		log.level = (enum log_level)options->log_level;
		log.stamped = true;
	}
	if (options->quiet)
		log.level = LOG_ERROR;
	return log;
}

/* ---- text without the library -------------------------------------------------------------- */

size_t log_append(char *text, size_t size, size_t length, const char *more)
{
	while (*more && length + 1 < size)
		text[length++] = *more++;
	text[length] = '\0';
	return length;
}

size_t log_append_number(char *text, size_t size, size_t length, unsigned long long number,
			 int digits)
{
	char reversed[24], forward[24];
	int count = 0;
	do
		reversed[count++] = (char)('0' + number % 10);
	while ((number /= 10) || count < digits);
	for (int i = 0; i < count; i++)
		forward[i] = reversed[count - 1 - i];
	forward[count] = '\0';
	return log_append(text, size, length, forward);
}

/* In the calendar of ISO 8601. Years are counted from March on, so that a leap day is the last of its year: 153 days are the five months from March to July, and
 * again those from August to December; 146,097 are 400 years. */
void log_date(long day, int *year, int *month, int *date)
{
	long from_march = day + 719468; /* since March 1st of the year 0 */
	long era = from_march / 146097, in_era = from_march % 146097;
	long years = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
	long in_year = in_era - (365 * years + years / 4 - years / 100);
	long months = (5 * in_year + 2) / 153;
	*date = (int)(in_year - (153 * months + 2) / 5 + 1);
	*month = (int)(months < 10 ? months + 3 : months - 9);
	*year = (int)(years + 400 * era + (*month <= 2));
}

/* gmtime and snprintf are not for a signal's handler. */
size_t log_stamp(const struct log *log, enum log_level level, char text[LOG_STAMP])
{
	struct timespec now;
	int year, month, date;
	size_t length = 0;
	text[0] = '\0';
	if (!log->stamped)
		return 0;
	clock_gettime(CLOCK_REALTIME, &now);
	log_date((long)(now.tv_sec / 86400), &year, &month, &date);
	const struct {
		int number, digits;
		const char *after;
	} parts[] = {
		{year, 4, "-"}, {month, 2, "-"}, {date, 2, "T"},
		{(int)(now.tv_sec / 3600 % 24), 2, ":"}, {(int)(now.tv_sec / 60 % 60), 2, ":"},
		{(int)(now.tv_sec % 60), 2, "."}, {(int)(now.tv_nsec / 1000000), 3, "Z rank "},
		{log->rank, 1, " "},
	};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		length = log_append_number(text, LOG_STAMP, length,
					   (unsigned long long)parts[i].number, parts[i].digits);
		length = log_append(text, LOG_STAMP, length, parts[i].after);
	}
	length = log_append(text, LOG_STAMP, length, level_names[level]);
	return log_append(text, LOG_STAMP, length, ": ");
}

/* ---- messages ------------------------------------------------------------------------------ */

/* There is nobody to tell of a standard error that fails. */
static void write_all(const char *text, size_t length)
{
	while (length) {
		ssize_t written = write(STDERR_FILENO, text, length);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return;
		text += written;
		length -= (size_t)written;
	}
}

void log_text(const struct log *log, enum log_level level, const char *text)
{
	char stamp[LOG_STAMP];
	size_t room = 0, stamp_length = log_stamp(log, level, stamp), length = 0;
	if (!log_wants(log, level) || !*text)
		return;
	for (const char *at = text; at; at = strchr(at + 1, '\n'))
		room += stamp_length;
	room += strlen(text) + 2;
	char *out = malloc(room);
	if (!out) {
		write_all(text, strlen(text));
		return;
	}
	while (*text) {
		size_t line = strcspn(text, "\n");
		memcpy(out + length, stamp, stamp_length);
		memcpy(out + length + stamp_length, text, line);
		length += stamp_length + line;
		out[length++] = '\n';
		text += line + (text[line] == '\n');
	}
	write_all(out, length);
	free(out);
}

void log_say(const struct log *log, enum log_level level, const char *format, ...)
{
	char *text = NULL;
	va_list args;
	if (!log_wants(log, level))
		return;
	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		text = NULL;
	va_end(args);
	log_text(log, level, text ? text : "out of memory for a message");
	free(text);
}
