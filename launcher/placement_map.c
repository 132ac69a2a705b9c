#include "launcher/placement_map.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 7, CELL = 192, RANKS_NAMED = 8 };

/* All columns but the last. */
static void cells_of(const struct placement_row *row, char cells[COLUMNS][CELL])
{
	snprintf(cells[0], CELL, "%4d", row->rank);
	snprintf(cells[1], CELL, "%s", row->host);
	snprintf(cells[2], CELL, "%d", row->pid);
	if (!row->pid)
		strcpy(cells[2], "-");
	snprintf(cells[3], CELL, "%d (%s)", row->cores, row->cpus);
	snprintf(cells[4], CELL, "%s", *row->nodes ? row->nodes : "-");
	snprintf(cells[5], CELL, "%s", row->unbound ? "unbound" : row->memory_bound ? "bound" : "local");
	snprintf(cells[6], CELL, "%s", *row->nic ? row->nic : "-");
}

void placement_print(FILE *out, const struct placement_row *rows, int count)
{
	static const char *const names[COLUMNS] = {"rank", "host", "pid", "cores", "NUMA", "memory", "NIC"};
	char cells[COLUMNS][CELL];
	int widths[COLUMNS];
	for (int c = 0; c < COLUMNS; c++)
		widths[c] = (int)strlen(names[c]);
	for (int r = 0; r < count; r++) {
		cells_of(&rows[r], cells);
		for (int c = 0; c < COLUMNS; c++)
			if ((int)strlen(cells[c]) > widths[c])
				widths[c] = (int)strlen(cells[c]);
	}
	for (int c = 0; c < COLUMNS; c++)
		fprintf(out, "%-*s  ", widths[c], names[c]);
	fputs("GPU\n", out);
	for (int r = 0; r < count; r++) {
		const struct placement_row *row = &rows[r];
		const struct placement_device *device = &row->device;
		cells_of(row, cells);
		for (int c = 0; c < COLUMNS; c++)
			fprintf(out, "%-*s  ", widths[c], cells[c]);
		if (device->present)
			fprintf(out, "%s, %s%s%s%s%s%s", device->name, device->pci_bus_id,
				*device->uuid ? ", " : "", device->uuid, *row->links ? ", " : "", row->links,
				!row->known  ? ", locality unknown"
				: !row->near ? ", far from these cores"
					     : "");
		else
			fputs("none", out);
		fputs(row->shared ? "; cores shared with another rank\n" : "\n", out);
	}
}

/* ---- what is wrong --------------------------------------------------------------------------- */

static bool shares_needlessly(const struct placement_row *row)
{
	return row->shared && row->free_cores > 0;
}

static bool is_far(const struct placement_row *row)
{
	return row->device.present && row->known && !row->near;
}

/* "rank 3 (host a)" or "ranks 0, 1, 2 (host a)": those of one node from rows[first] on that are so;
 * returns how many. */
static int name_ranks(FILE *out, const struct placement_row *rows, int first, int count,
		      bool (*is_so)(const struct placement_row *))
{
	int32_t node = rows[first].node;
	int found = 0, named = 0;
	for (int r = first; r < count; r++)
		found += rows[r].node == node && is_so(&rows[r]);
	fprintf(out, "tprun: warning: rank%s", found == 1 ? "" : "s");
	for (int r = first; r < count; r++)
		if (rows[r].node == node && is_so(&rows[r]) && named++ < RANKS_NAMED)
			fprintf(out, "%s %d", named > 1 ? "," : "", rows[r].rank);
	fprintf(out, "%s (host %s)", named > RANKS_NAMED ? ", ..." : "", rows[first].host);
	return found;
}

/* Whether rows[at] is the first of its node that is so. */
static bool leads(const struct placement_row *rows, int at, bool (*is_so)(const struct placement_row *))
{
	for (int r = 0; r < at; r++)
		if (rows[r].node == rows[at].node && is_so(&rows[r]))
			return false;
	return is_so(&rows[at]);
}

char *placement_warnings(const struct placement_row *rows, int count)
{
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);
	if (!out)
		return NULL;
	for (int r = 0; r < count; r++) {
		if (leads(rows, r, shares_needlessly)) {
			int found = name_ranks(out, rows, r, count, shares_needlessly);
			fprintf(out, " share%s cores while %d of this machine's are free: let tprun bind within "
				     "all of them (mpirun --bind-to none, no taskset), or ask for more (srun "
				     "--cpus-per-task)\n", found == 1 ? "s" : "", rows[r].free_cores);
		}
		if (leads(rows, r, is_far)) {
			int found = name_ranks(out, rows, r, count, is_far);
			fprintf(out, " run%s on cores far from the GPU: let tprun bind (mpirun --bind-to none, "
				     "srun --cpu-bind=none), or ask for cores near it (srun "
				     "--gpu-bind=closest)\n", found == 1 ? "s" : "");
		}
	}
	bool bad = ferror(out);
	if (!fclose(out) && !bad && length)
		return text;
	free(text);
	return NULL;
}
