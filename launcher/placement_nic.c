#include "launcher/placement_nic.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

/* Smaller is nearer: for two PCI devices, the steps from the one up to their common ancestor, behind
 * which counts how much of the machine that spans; for cores, the span of the smallest object that
 * holds both. */
static int distance(hwloc_topology_t topology, hwloc_obj_t device, hwloc_const_bitmap_t cpus,
		    hwloc_obj_t nic)
{
	int steps = 0;
	hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(topology, nic);
	if (device) {
		for (hwloc_obj_t up = device->parent; up; up = up->parent, steps++)
			for (hwloc_obj_t other = nic; other; other = other->parent)
				if (other == up)
					return steps;
		return INT_MAX;
	}
	while (place && !hwloc_bitmap_isincluded(cpus, place->cpuset))
		place = place->parent;
	return place ? hwloc_bitmap_weight(place->cpuset) : INT_MAX;
}

void placement_nearest_nic(hwloc_topology_t topology, const char *pci_bus_id,
			   hwloc_const_bitmap_t cpus, char *name, size_t size)
{
	hwloc_obj_t device = pci_bus_id ? hwloc_get_pcidev_by_busidstring(topology, pci_bus_id) : NULL;
	hwloc_obj_t nic = NULL;
	int best = INT_MAX;
	bool fabric = false;
	*name = '\0';
	while ((nic = hwloc_get_next_osdev(topology, nic))) {
		hwloc_obj_osdev_type_t type = nic->attr->osdev.type;
		bool is_fabric = type == HWLOC_OBJ_OSDEV_OPENFABRICS;
		if (!is_fabric && type != HWLOC_OBJ_OSDEV_NETWORK)
			continue;
		int far = distance(topology, device, cpus, nic);
		if (*name && (is_fabric != fabric ? fabric : far >= best))
			continue;
		best = far;
		fabric = is_fabric;
		snprintf(name, size, "%s", nic->name ? nic->name : "?");
	}
}
