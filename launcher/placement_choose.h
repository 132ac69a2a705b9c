/*
 * placement_choose.h - which cores and which memory each rank of a node gets: the rule.
 *
 * A pure function of a topology, the ranks' allowed cores and their devices, so that it is tested
 * on machines nobody has at hand. placement.h applies it to this one.
 */
#ifndef TPRUN_LAUNCHER_PLACEMENT_CHOOSE_H
#define TPRUN_LAUNCHER_PLACEMENT_CHOOSE_H

#include <hwloc.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/error.h"

struct placement_rank {
	hwloc_const_bitmap_t allowed; /* PUs that this rank may use */
	bool kept;		/* the user or Slurm bound the rank to them */
	const char *pci_bus_id; /* of its device, "0000:65:00.0"; NULL: it has none */
};

struct placement_choice {
	hwloc_bitmap_t cpus, nodes; /* owned: placement_choices_close; nodes may be empty */
	int32_t cores;		    /* cores that cpus touches, at least 1: compute threads */
	bool near;   /* the device's locality is known, and the cores are of it */
	bool known;  /* the device's locality is known */
	bool shared; /* another rank has one of these cores too */
};

/* Chooses for the ranks of one node, in order of local rank: out[count].
 *  - Candidates of a rank are the allowed cores nearest its device; all allowed ones where it has
 *    no device, the device's locality is unknown, or no near core is allowed.
 *  - A rank that was bound to cores of its own keeps exactly those.
 *  - Cores that the same ranks want are dealt out among them in contiguous ranges, so that
 *    no rank has more than it must while another has less; the most wanted cores come last.
 *  - Where a rank gets none (fewer cores than ranks), it shares one.
 * The hardware threads of a core stay together. */
int placement_choose(hwloc_topology_t, const struct placement_rank *ranks, int count,
		     struct placement_choice *out, struct error *err);
void placement_choices_close(struct placement_choice *, int count);

#endif
