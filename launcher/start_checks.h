/*
 * start_checks.h - what all ranks must have in common, compared before it can do harm.
 */
#ifndef TPRUN_LAUNCHER_START_CHECKS_H
#define TPRUN_LAUNCHER_START_CHECKS_H

#include "kernels/cuda/cuda.h"
#include "launcher/log.h"
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

/* Of ranks that run on GPUs, after likeness_check. An error where NCCL or CUDA's runtime differ, which no
 * sum over them survives; a warning where only drivers do, which it mostly does. Both name a rank that
 * differs from rank 0, and both versions. The warning is rank 0's to say.
 *
 * Collective on the world, and all ranks return alike. */
int versions_check(const struct cuda_versions *own, const struct group *world, const struct log *,
		   struct error *err);
/* The comparison alone. `warning` is empty where there is none. A rank without NCCL (0) is no
 * difference: then nobody uses it. */
int versions_compare(const struct cuda_versions *all, int ranks, char *warning, size_t room,
		     struct error *err);

/* Collective on a group, before anything depends on its sums: adds known values, whose sum each rank
 * checks. Only this rank's result: to be agreed upon. */
int sums_check(const struct group *, struct error *err);

#endif
