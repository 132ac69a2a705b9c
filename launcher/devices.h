/*
 * devices.h - which backend a run uses, which device each rank, and how much memory it has.
 */
#ifndef TPRUN_LAUNCHER_DEVICES_H
#define TPRUN_LAUNCHER_DEVICES_H

#include <stdbool.h>
#include <stdint.h>

#include "launcher/options.h"
#include "launcher/placement.h"

struct device_choice {
	bool cuda;
	int device;			   /* CUDA ordinal */
	struct placement_device placement; /* not present: a rank on the CPU */
	uint64_t memory;		   /* bytes that this rank could take; 0: unknown */
	bool shared;			   /* some GPU serves several ranks of the run */
	int sharing;			   /* ranks that this rank's device serves, as if in turn */
};

/* Collective, and all ranks return alike. Takes the rule of `--backend`: auto is cpu where no rank
 * sees a GPU, cuda where each has one of its own, and otherwise an ERROR_USAGE with the counts.
 * Creates no CUDA context, so that the process can be bound first. */
int devices_choose(struct device_choice *out, const struct group *world, enum backend_choice,
		   struct error *err);

/* Collective, after the process was bound: brings out->memory from what the device has to what is
 * free on it now. Starts CUDA on it. */
int devices_measure(struct device_choice *, const struct group *world, struct error *err);

/* This machine's GPUs as this process sees them, at most `most`; for `plan`. */
int devices_list(struct device_choice *out, int most, int *count, struct error *err);

/* Memory of this node that a process could take now, from the kernel and its cgroups; 0 where it
 * cannot be known. */
uint64_t devices_host_memory(void);

#endif
