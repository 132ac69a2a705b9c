#include "runtime/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int error_fill(struct error *err, enum error_kind kind, const char *format, va_list args)
{
	err->kind = kind;
	/* Formatted aside first: the arguments may point into err->message itself. */
	char message[sizeof err->message];
	vsnprintf(message, sizeof message, format, args);
	memcpy(err->message, message, sizeof message);
	return -1;
}

int error_run(struct error *err, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	error_fill(err, ERROR_RUN, format, args);
	va_end(args);
	return -1;
}

int error_usage(struct error *err, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	error_fill(err, ERROR_USAGE, format, args);
	va_end(args);
	return -1;
}

int error_memory(struct error *err, const char *what)
{
	return error_run(err, "out of memory while allocating %s", what);
}

int error_context(struct error *err, const char *format, ...)
{
	char context[sizeof err->message];
	va_list args;
	va_start(args, format);
	vsnprintf(context, sizeof context, format, args);
	va_end(args);

	char message[2 * sizeof err->message + 4];
	snprintf(message, sizeof message, "%s: %s", context, err->message);
	snprintf(err->message, sizeof err->message, "%.*s", (int)sizeof err->message - 1, message);
	return -1;
}
