#include "launcher/placement_choose.h"

#include <stdlib.h>
#include <string.h>

/* A core, or a PU where the topology knows no cores, and the ranks that want it. */
struct unit {
	hwloc_obj_t object;
	hwloc_bitmap_t ranks;
};

struct chooser {
	hwloc_topology_t topology;
	const struct placement_rank *ranks;
	struct placement_choice *choices;
	int count;
	hwloc_bitmap_t *wanted; /* [count]: each rank's candidates */
	bool *fixed;		/* [count]: it has what it was bound to */
	struct unit *units;
	int unit_count;
};

/* The cores that are nearest the device into `near`. Unknown where the device isn't in the
 * topology, or hangs on the whole of a machine with several NUMA nodes. */
static bool find_near(hwloc_topology_t topology, const char *pci_bus_id, hwloc_bitmap_t near)
{
	hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(topology, pci_bus_id);
	hwloc_obj_t place = device ? hwloc_get_non_io_ancestor_obj(topology, device) : NULL;
	if (!place || !place->cpuset || hwloc_bitmap_iszero(place->cpuset))
		return false;
	if (hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE) > 1 &&
	    hwloc_bitmap_isequal(place->cpuset, hwloc_get_root_obj(topology)->cpuset))
		return false;
	hwloc_bitmap_copy(near, place->cpuset);
	return true;
}

static bool overlaps_others(const struct chooser *self, int rank)
{
	for (int r = 0; r < self->count; r++)
		if (r != rank &&
		    hwloc_bitmap_intersects(self->ranks[r].allowed, self->ranks[rank].allowed))
			return true;
	return false;
}

static int find_wanted(struct chooser *self, struct error *err)
{
	hwloc_const_bitmap_t all = hwloc_get_root_obj(self->topology)->cpuset;
	for (int r = 0; r < self->count; r++) {
		const struct placement_rank *rank = &self->ranks[r];
		struct placement_choice *choice = &self->choices[r];
		hwloc_bitmap_t near = choice->cpus; /* borrowed as scratch */
		choice->known = rank->pci_bus_id &&
				find_near(self->topology, rank->pci_bus_id, near);
		hwloc_bitmap_and(self->wanted[r], rank->allowed, all);
		if (hwloc_bitmap_iszero(self->wanted[r]))
			return error_run(err, "local rank %d may use none of this machine's cores", r);
		self->fixed[r] = rank->kept && !overlaps_others(self, r);
		if (!self->fixed[r] && choice->known &&
		    hwloc_bitmap_intersects(self->wanted[r], near))
			hwloc_bitmap_and(self->wanted[r], self->wanted[r], near);
		choice->near = choice->known && hwloc_bitmap_isincluded(self->wanted[r], near);
		hwloc_bitmap_zero(choice->cpus);
		if (self->fixed[r])
			hwloc_bitmap_copy(choice->cpus, self->wanted[r]);
	}
	return 0;
}

static int compare_units(const void *a, const void *b)
{
	const struct unit *left = a, *right = b;
	int few = hwloc_bitmap_weight(left->ranks), more = hwloc_bitmap_weight(right->ranks);
	if (few != more)
		return few < more ? -1 : 1;
	int order = hwloc_bitmap_compare(left->ranks, right->ranks);
	if (order)
		return order;
	return left->object->logical_index < right->object->logical_index ? -1 : 1;
}

/* Notes for every core the ranks that want it; those that the fewest want come first. */
static int find_units(struct chooser *self, struct error *err)
{
	hwloc_obj_type_t type = hwloc_get_nbobjs_by_type(self->topology, HWLOC_OBJ_CORE) > 0
					? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
	int total = hwloc_get_nbobjs_by_type(self->topology, type);
	if (total < 1)
		return error_run(err, "hwloc finds no processor in this machine");
	self->units = calloc((size_t)total, sizeof *self->units);
	if (!self->units)
		return error_memory(err, "the placement");
	for (int u = 0; u < total; u++) {
		struct unit *unit = &self->units[self->unit_count];
		unit->object = hwloc_get_obj_by_type(self->topology, type, (unsigned)u);
		unit->ranks = hwloc_bitmap_alloc();
		if (!unit->ranks)
			return error_memory(err, "the placement");
		self->unit_count++;
		for (int r = 0; r < self->count; r++)
			if (hwloc_bitmap_intersects(unit->object->cpuset, self->wanted[r]))
				hwloc_bitmap_set(unit->ranks, (unsigned)r);
	}
	qsort(self->units, (size_t)self->unit_count, sizeof *self->units, compare_units);
	return 0;
}

static void give(struct chooser *self, int rank, const struct unit *unit)
{
	hwloc_bitmap_t cpus = self->choices[rank].cpus;
	hwloc_bitmap_t part = hwloc_bitmap_dup(unit->object->cpuset);
	hwloc_bitmap_and(part, part, self->wanted[rank]);
	hwloc_bitmap_or(cpus, cpus, part);
	hwloc_bitmap_free(part);
}

/* Whether `a` should get a core before `b`: it has fewer, or as many and less choice. */
static bool poorer(const struct chooser *self, int a, int b)
{
	if (self->choices[a].cores != self->choices[b].cores)
		return self->choices[a].cores < self->choices[b].cores;
	return hwloc_bitmap_weight(self->wanted[a]) < hwloc_bitmap_weight(self->wanted[b]);
}

/* Deals out units[first, end), which the same ranks want: counts first, each core to the poorest
 * rank, then contiguous ranges of those lengths. */
static void deal(struct chooser *self, int first, int end, int *parts)
{
	hwloc_const_bitmap_t ranks = self->units[first].ranks;
	int rank;
	memset(parts, 0, (size_t)self->count * sizeof *parts);
	for (int u = first; u < end; u++) {
		int poorest = -1;
		hwloc_bitmap_foreach_begin(rank, ranks)
			if (!self->fixed[rank] && (poorest < 0 || poorer(self, rank, poorest)))
				poorest = rank;
		hwloc_bitmap_foreach_end();
		if (poorest < 0)
			return;
		parts[poorest]++;
		self->choices[poorest].cores++;
	}
	for (rank = 0; rank < self->count; rank++)
		while (parts[rank]-- > 0)
			give(self, rank, &self->units[first++]);
}

/* Ranks that got nothing share the cores they want, one each, in turn. */
static void share(struct chooser *self)
{
	for (int r = 0, poor = 0; r < self->count; r++) {
		struct placement_choice *choice = &self->choices[r];
		if (!hwloc_bitmap_iszero(choice->cpus))
			continue;
		int wanted = 0, skip;
		for (int u = 0; u < self->unit_count; u++)
			wanted += hwloc_bitmap_isset(self->units[u].ranks, (unsigned)r);
		skip = poor++ % wanted;
		for (int u = 0; u < self->unit_count && skip >= 0; u++)
			if (hwloc_bitmap_isset(self->units[u].ranks, (unsigned)r) && skip-- == 0)
				give(self, r, &self->units[u]);
	}
}

static void finish(struct chooser *self)
{
	for (int r = 0; r < self->count; r++) {
		struct placement_choice *choice = &self->choices[r];
		choice->cores = 0;
		for (int u = 0; u < self->unit_count; u++)
			choice->cores += hwloc_bitmap_intersects(self->units[u].object->cpuset,
								 choice->cpus);
		for (int other = 0; other < self->count; other++)
			choice->shared |= other != r && hwloc_bitmap_intersects(
							       choice->cpus,
							       self->choices[other].cpus);
		hwloc_cpuset_to_nodeset(self->topology, choice->cpus, choice->nodes);
	}
}

int placement_choose(hwloc_topology_t topology, const struct placement_rank *ranks, int count,
		     struct placement_choice *out, struct error *err)
{
	struct chooser self = {.topology = topology, .ranks = ranks, .choices = out, .count = count};
	int result = -1, *parts = calloc((size_t)count, sizeof *parts);
	memset(out, 0, (size_t)count * sizeof *out);
	self.wanted = calloc((size_t)count, sizeof *self.wanted);
	self.fixed = calloc((size_t)count, sizeof *self.fixed);
	if (!parts || !self.wanted || !self.fixed) {
		error_memory(err, "the placement");
		goto fail;
	}
	for (int r = 0; r < count; r++) {
		self.wanted[r] = hwloc_bitmap_alloc();
		out[r].cpus = hwloc_bitmap_alloc();
		out[r].nodes = hwloc_bitmap_alloc();
		if (!self.wanted[r] || !out[r].cpus || !out[r].nodes) {
			error_memory(err, "the placement");
			goto fail;
		}
	}
	if (find_wanted(&self, err) || find_units(&self, err))
		goto fail;
	for (int first = 0, end; first < self.unit_count; first = end) {
		for (end = first + 1; end < self.unit_count; end++)
			if (!hwloc_bitmap_isequal(self.units[end].ranks, self.units[first].ranks))
				break;
		deal(&self, first, end, parts);
	}
	share(&self);
	finish(&self);
	result = 0;
fail:
	for (int u = 0; u < self.unit_count; u++)
		hwloc_bitmap_free(self.units[u].ranks);
	for (int r = 0; r < count && self.wanted; r++)
		hwloc_bitmap_free(self.wanted[r]);
	free(self.units);
	free(self.wanted);
	free(self.fixed);
	free(parts);
	if (result)
		placement_choices_close(out, count);
	return result;
}

void placement_choices_close(struct placement_choice *choices, int count)
{
	for (int r = 0; r < count; r++) {
		hwloc_bitmap_free(choices[r].cpus);
		hwloc_bitmap_free(choices[r].nodes);
		choices[r].cpus = choices[r].nodes = NULL;
	}
}
