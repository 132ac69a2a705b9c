/*
 * placement.h - binds each rank to the cores and the memory nearest its GPU.
 *
 * Discovers this machine with hwloc, lets the ranks of a node tell each other their devices and
 * their allowed cores, chooses by the rule of placement_choose.h, and binds. placement_map.h draws the outcome.
 */
#ifndef TPRUN_LAUNCHER_PLACEMENT_H
#define TPRUN_LAUNCHER_PLACEMENT_H

#include <stdbool.h>

#include "launcher/mpi_group.h"
#include "launcher/placement_map.h"

struct placement_options {
	bool no_bind; /* chooses and tells, but leaves cores and memory as they are */
	bool network; /* looks for network cards where no rank has a GPU, too: takes some milliseconds */
	bool links;   /* asks how the GPUs are linked */
};

/* Collective: chooses for all ranks and binds this process, all its threads, and its memory
 * policy. A process stays within the cores that the cgroup, Slurm, taskset or mpirun's own binding
 * left to the job. *out is the caller's malloc'ed map of all ranks, on every rank. */
int placement_apply(struct group *, const struct placement_device *, const struct placement_options *,
		    struct placement_row **out, struct error *err);
/* The same for `count` ranks that aren't there, on this machine, without binding anything. */
int placement_preview(const struct placement_device *devices, int count,
		      struct placement_row **out, struct error *err);

#endif
