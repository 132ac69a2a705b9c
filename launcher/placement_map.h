/*
 * placement_map.h - where every rank runs, drawn as a table, and what is wrong with it.
 */
#ifndef TPRUN_LAUNCHER_PLACEMENT_MAP_H
#define TPRUN_LAUNCHER_PLACEMENT_MAP_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "launcher/mpi_group.h"

struct placement_device {
	bool present;
	char name[128];
	char pci_bus_id[32];
	char uuid[48];
};

/* A line of the placement map. */
struct placement_row {
	int32_t rank;
	char host[HOST_NAME_MAX_BYTES];
	struct placement_device device;
	int32_t cores;	/* compute threads: what the rule gives this rank */
	bool near, known, shared, memory_bound; /* see placement_choose.h; memory on `nodes` alone */
	char cpus[128], nodes[64]; /* as lists: "0-7,64-71" */
	int32_t pid;		   /* 0: a rank that isn't there */
	bool unbound;		   /* --no-bind: cpus is what the process may use */
	int32_t node;		   /* ranks of one node have the same */
	int32_t free_cores;	   /* of the node, that the cgroup allows and no rank has */
	char nic[64];		   /* the nearest network card; "": none is known */
	char links[160];	   /* to the GPUs of the node's other ranks; "": none, or unknown */
};

void placement_print(FILE *out, const struct placement_row *rows, int count);

/* What is wrong, as lines of text with the cure, in malloc'ed memory; NULL where nothing is (or there
 * is no memory to tell of it): ranks that share cores of a node which has free ones, and ranks on
 * cores that are far from their GPU. */
char *placement_warnings(const struct placement_row *rows, int count);

#endif
