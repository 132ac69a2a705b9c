/*
 * placement_nic.h - which network card is nearest a rank: for the map, so that a rank whose messages
 * cross the machine is seen.
 */
#ifndef TPRUN_LAUNCHER_PLACEMENT_NIC_H
#define TPRUN_LAUNCHER_PLACEMENT_NIC_H

#include <hwloc.h>
#include <stddef.h>

/* The name of the card ("mlx5_0", "eth0") that shares the most of the machine with the device, or
 * where the rank has none (pci_bus_id NULL or not in the topology) with its cores; fabric cards come
 * before Ethernet, and the first of several equally near ones is taken. "" where the topology has no
 * network card: it must have been loaded with PCI and operating system devices. */
void placement_nearest_nic(hwloc_topology_t, const char *pci_bus_id, hwloc_const_bitmap_t cpus,
			   char *name, size_t size);

#endif
