/*
 * placement.h - binds each rank to the cores and the memory nearest its GPU.
 *
 * Discovers this machine with hwloc, lets the ranks of a node tell each other their devices and
 * their allowed cores, chooses by the rule of placement_choose.h, binds, and draws the map.
 */
#ifndef TPRUN_LAUNCHER_PLACEMENT_H
#define TPRUN_LAUNCHER_PLACEMENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "launcher/mpi_group.h"

struct placement_device {
	bool present;
	char name[128];
	char pci_bus_id[32];
};

/* A line of the placement map. */
struct placement_row {
	int32_t rank;
	char host[HOST_NAME_MAX_BYTES];
	struct placement_device device;
	int32_t cores;
	bool near, known, shared, memory_bound;
	char cpus[128], nodes[64]; /* as lists: "0-7,64-71" */
};

/* Collective: chooses for all ranks and binds this process, all its threads, and its memory
 * policy. *out is the caller's malloc'ed map of all ranks, on every rank. */
int placement_apply(struct group *, const struct placement_device *, struct placement_row **out,
		    struct error *err);
/* The same for `count` ranks that aren't there, on this machine, without binding anything. */
int placement_preview(const struct placement_device *devices, int count,
		      struct placement_row **out, struct error *err);

void placement_print(FILE *out, const struct placement_row *rows, int count);

#endif
