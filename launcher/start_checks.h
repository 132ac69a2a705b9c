/*
 * start_checks.h - what all ranks must have in common, compared before it can do harm.
 */
#ifndef TPRUN_LAUNCHER_START_CHECKS_H
#define TPRUN_LAUNCHER_START_CHECKS_H

#include "runtime/base/dtype.h"
#include "runtime/base/error.h"
#include "runtime/base/group.h"

/* What a rank runs, and on what. */
struct likeness {
	char version[64];  /* of tprun, and of CUDA where it was built with it */
	uint64_t config;   /* a hash of config.json's text */
	uint64_t headers;  /* a hash of what the headers of the weights say */
	int32_t dtype;	   /* enum dtype */
};

/* The likeness of this rank. `config_path` is the file that was read. */
int likeness_make(struct likeness *out, const char *config_path, uint64_t headers, enum dtype,
		  struct error *err);
/* Collective on the world, and all ranks return alike: an error names a rank that differs from rank 0,
 * and both values. */
int likeness_check(const struct likeness *, const struct group *world, struct error *err);

/* Collective on a group, before anything depends on its sums: adds known values, whose sum each rank
 * checks. Only this rank's result: to be agreed upon. */
int sums_check(const struct group *, struct error *err);

#endif
