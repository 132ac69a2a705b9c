/*
 * load_report.h - how fast each node read its weights.
 */
#ifndef TPRUN_LAUNCHER_LOAD_REPORT_H
#define TPRUN_LAUNCHER_LOAD_REPORT_H

#include <stdint.h>

#include "launcher/log.h"
#include "launcher/mpi_group.h"

/* What a rank read from files and how long that took it; or together, the ranks of a node. */
struct load_share {
	int node; /* mpi_group_node */
	char host[HOST_NAME_MAX_BYTES];
	uint64_t bytes;
	double seconds;
};

/* Merges the ranks of each node into one row, in the order of first ranks: the sum of their bytes and
 * the longest time. Returns the number of rows that are left. */
int load_share_by_node(struct load_share *shares, int count);

/* Collective: rank 0 says a line for each node that read something, "read 6.3 GiB in 0.81 s on HOST,
 * 7.8 GiB/s". */
int load_report(const struct group *world, const struct log *, uint64_t bytes, double seconds,
		struct error *err);

#endif
