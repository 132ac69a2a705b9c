/*
 * mpi_call.h - how a failed call of MPI is told, for the files that make them.
 */
#ifndef TPRUN_LAUNCHER_MPI_CALL_H
#define TPRUN_LAUNCHER_MPI_CALL_H

#include <mpi.h>
#include <stdbool.h>

#include "runtime/base/error.h"

/* Whether `code` is success; else fills err. `what` was done: "a broadcast". */
static inline bool mpi_ok(struct error *err, int code, const char *what)
{
	char text[MPI_MAX_ERROR_STRING];
	int length = 0;
	if (code == MPI_SUCCESS)
		return true;
	MPI_Error_string(code, text, &length);
	error_run(err, "MPI: %s failed: %.*s", what, length, text);
	return false;
}

#endif
