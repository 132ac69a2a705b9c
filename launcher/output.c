#include "launcher/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "launcher/launch.h"

enum { BAR = 30 };

static int check_output(bool good, struct error *err)
{
	if (good && !fflush(stdout))
		return 0;
	return error_run(err, "cannot write to standard output: %s", strerror(errno));
}

int output_write(const char *text, size_t length, struct error *err)
{
	return check_output(fwrite(text, 1, length, stdout) == length, err);
}

int output_print(struct error *err, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int length = vprintf(format, args);
	va_end(args);
	return check_output(length >= 0, err);
}

int output_json(json_t *value, struct error *err)
{
	if (!value)
		return error_memory(err, "the JSON output");
	bool good = !json_dumpf(value, stdout, JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY) &&
		    putchar('\n') != EOF;
	json_decref(value);
	return check_output(good, err);
}

const char *output_bytes(char text[32], uint64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	int unit = 0;
	for (; value >= 1023.95 && unit < 6; unit++)
		value /= 1024;
	snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return text;
}

double output_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double output_process_age(void)
{
	char line[1024] = "";
	unsigned long long start;
	struct timespec now;
	FILE *file = fopen("/proc/self/stat", "r");
	size_t length = file ? fread(line, 1, sizeof line - 1, file) : 0;
	if (file)
		fclose(file);
	line[length] = '\0';
	char *field = strrchr(line, ')'); /* the end of field 2, the name; the start is field 22 */
	for (int i = 2; field && i < 22; i++)
		field = strchr(field + 1, ' ');
	if (!field || sscanf(field, "%llu", &start) != 1 || clock_gettime(CLOCK_BOOTTIME, &now))
		return 0;
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9 - (double)start / (double)sysconf(_SC_CLK_TCK);
}

/* ---- progress ---------------------------------------------------------------------------- */

/* Whether mpirun, this rank's parent, writes its standard error to a terminal. */
static bool launcher_has_terminal(void)
{
	char path[64];
	if (!launch_hint().size)
		return false;
	snprintf(path, sizeof path, "/proc/%d/fd/2", (int)getppid());
	int fd = open(path, O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	bool terminal = fd >= 0 && isatty(fd);
	if (fd >= 0)
		close(fd);
	return terminal;
}

bool output_has_terminal(void)
{
	return isatty(STDERR_FILENO) || launcher_has_terminal();
}

void progress_start(struct progress *progress, const char *what, bool wanted, bool quiet)
{
	bool shown = wanted || (!quiet && output_has_terminal());
	*progress = (struct progress){.shown = shown, .what = what};
}

/* Whether to draw: ten times a second and at the end. */
static bool due(struct progress *progress, bool end)
{
	double now = output_now();
	if (!progress->shown || (!end && now - progress->last < 0.1))
		return false;
	progress->last = now;
	return true;
}

static void draw(const struct progress *progress, double share, const char *done,
		 const char *total)
{
	int filled = (int)(share * BAR);
	fprintf(stderr, "\r%s [%.*s%.*s] %3d%%  %s of %s ", progress->what, filled,
		"##############################", BAR - filled,
		"                              ", (int)(share * 100), done, total);
	fflush(stderr);
}

void progress_bytes(void *context, uint64_t done, uint64_t total)
{
	char left[32], right[32];
	if (total && due(context, done >= total))
		draw(context, (double)done / (double)total, output_bytes(left, done),
		     output_bytes(right, total));
}

void progress_tokens(void *context, int32_t done, int32_t total)
{
	char left[32], right[32];
	if (total <= 0 || !due(context, done >= total))
		return;
	snprintf(left, sizeof left, "%d", done);
	snprintf(right, sizeof right, "%d tokens", total);
	draw(context, (double)done / total, left, right);
}

void progress_end(struct progress *progress)
{
	if (progress->shown && progress->last > 0)
		fprintf(stderr, "\r%*s\r", 2 * BAR + 40, "");
	progress->shown = false;
}
