#include "launcher/load_report.h"

#include <stdlib.h>
#include <string.h>

#include "launcher/output.h"

int load_share_by_node(struct load_share *shares, int count)
{
	int nodes = 0;
	for (int i = 0; i < count; i++) {
		int at = 0;
		while (at < nodes && shares[at].node != shares[i].node)
			at++;
		if (at == nodes) {
			shares[nodes++] = shares[i];
			continue;
		}
		shares[at].bytes += shares[i].bytes;
		if (shares[at].seconds < shares[i].seconds)
			shares[at].seconds = shares[i].seconds;
	}
	return nodes;
}

int load_report(const struct group *world, const struct log *log, uint64_t bytes, double seconds,
		struct error *err)
{
	struct load_share mine = {.node = mpi_group_node(world), .bytes = bytes, .seconds = seconds};
	struct load_share *shares = NULL;
	int result = 0;
	memcpy(mine.host, mpi_group_host(world), sizeof mine.host);
	if (world->rank == 0 && !(shares = calloc((size_t)world->size, sizeof *shares)))
		result = error_memory(err, "a report of the loading");
	if (world->agree(world, result, err) ||
	    world->gather(world, &mine, sizeof mine, shares, err)) {
		free(shares);
		return -1;
	}
	int nodes = shares ? load_share_by_node(shares, world->size) : 0;
	for (int i = 0; i < nodes; i++) {
		const struct load_share *node = &shares[i];
		char text[2][32];
		if (node->bytes && node->seconds > 0)
			log_say(log, LOG_INFO, "read %s in %.2f s on %s, %s/s",
				output_bytes(text[0], node->bytes), node->seconds, node->host,
				output_bytes(text[1], (uint64_t)((double)node->bytes / node->seconds)));
	}
	free(shares);
	return 0;
}
