#include "launcher/placement.h"

#include <errno.h>
#include <hwloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/cuda.h"
#include "launcher/launch.h"
#include "launcher/placement_choose.h"
#include "launcher/placement_nic.h"

enum { CPU_WORDS = 64 }; /* 4,096 PUs a node */

/* What the ranks of a node tell each other. */
struct wish {
	int32_t node;
	int32_t kept;
	struct placement_device device;
	uint64_t allowed[CPU_WORDS];
};

/* ---- this machine ------------------------------------------------------------------------ */

/* The whole machine, what is forbidden here included, so that all ranks of a node see the same. PCI
 * devices, and what network cards they make, are looked for only where that is wanted. hwloc's plugins for GPUs stay out: they
 * would start CUDA and OpenCL before the process is bound. */
static int topology_open(hwloc_topology_t *out, bool devices, struct error *err)
{
	static const char *const plugins[] = {"cuda", "nvml", "opencl", "rsmi", "levelzero", "gl"};
	hwloc_topology_t topology;
	if (hwloc_topology_init(&topology))
		return error_run(err, "hwloc cannot start: %s", strerror(errno));
	for (size_t i = 0; i < sizeof plugins / sizeof plugins[0]; i++)
		hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
					      plugins[i]);
	hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
	if (devices) {
		hwloc_topology_set_type_filter(topology, HWLOC_OBJ_PCI_DEVICE,
					       HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
		hwloc_topology_set_type_filter(topology, HWLOC_OBJ_OS_DEVICE,
					       HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
	}
	if (hwloc_topology_load(topology)) {
		hwloc_topology_destroy(topology);
		return error_run(err, "hwloc cannot read this machine's topology: %s",
				 strerror(errno));
	}
	*out = topology;
	return 0;
}

/* The PUs that this process may use, and whether somebody asked for exactly them. */
static int find_allowed(hwloc_topology_t topology, hwloc_bitmap_t allowed, bool *kept)
{
	hwloc_const_bitmap_t machine = hwloc_topology_get_allowed_cpuset(topology);
	pid_t launcher = launch_process();
	bool by_default = launch_bound_by_default(launcher);
	*kept = false;
	/* mpirun's own default binding is undone, but taskset, Slurm or a cgroup around mpirun hold. */
	if ((by_default && !launcher) ||
	    (by_default ? hwloc_get_proc_cpubind(topology, launcher, allowed, 0)
			: hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_PROCESS)) ||
	    !hwloc_bitmap_intersects(allowed, machine))
		return hwloc_bitmap_copy(allowed, machine);
	hwloc_bitmap_and(allowed, allowed, machine);
	*kept = !by_default && !hwloc_bitmap_isequal(allowed, machine);
	return 0;
}

/* Binds every thread of the process, and the memory it will touch to the node of its cores. With
 * several nodes the first touch decides, which is the system's default. Memory policy is
 * forbidden in some containers: told in the map, no failure. */
static int bind_process(hwloc_topology_t topology, const struct placement_choice *choice,
			bool *memory_bound, struct error *err)
{
	hwloc_bitmap_and(choice->nodes, choice->nodes,
			 hwloc_topology_get_allowed_nodeset(topology));
	if (hwloc_set_cpubind(topology, choice->cpus, HWLOC_CPUBIND_PROCESS) && errno != ENOSYS)
		return error_run(err, "cannot bind the process to its cores: %s", strerror(errno));
	*memory_bound = hwloc_bitmap_weight(choice->nodes) == 1 &&
			!hwloc_set_membind(topology, choice->nodes, HWLOC_MEMBIND_BIND,
					   HWLOC_MEMBIND_PROCESS | HWLOC_MEMBIND_BYNODESET);
	if (!*memory_bound && hwloc_bitmap_weight(choice->nodes) == 1)
		*memory_bound = !hwloc_set_membind(topology, choice->nodes, HWLOC_MEMBIND_BIND,
						   HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET);
	return 0;
}

/* ---- the ranks --------------------------------------------------------------------------- */

static void fill_row(struct placement_row *row, const struct placement_device *device,
		     const struct placement_choice *choice)
{
	row->device = *device;
	row->cores = choice->cores;
	row->near = choice->near;
	row->known = choice->known;
	row->shared = choice->shared;
	hwloc_bitmap_list_snprintf(row->cpus, sizeof row->cpus, choice->cpus);
	hwloc_bitmap_list_snprintf(row->nodes, sizeof row->nodes, choice->nodes);
}

static void words_from_bitmap(uint64_t *words, hwloc_const_bitmap_t bitmap)
{
	for (unsigned i = 0; i < CPU_WORDS; i++)
		words[i] = hwloc_bitmap_to_ith_ulong(bitmap, i);
}

/* The wishes of this rank's node, in order of local rank, become its choices. */
static int choose_node(hwloc_topology_t topology, const struct group *group,
		       const struct wish *wishes, struct placement_choice *choices,
		       struct error *err)
{
	struct placement_rank *ranks = calloc((size_t)group->local_size, sizeof *ranks);
	hwloc_bitmap_t *allowed = calloc((size_t)group->local_size, sizeof *allowed);
	int count = 0, result = -1;
	if (!ranks || !allowed) {
		error_memory(err, "the placement");
		goto fail;
	}
	for (int r = 0; r < group->size && count < group->local_size; r++) {
		if (wishes[r].node != mpi_group_node(group))
			continue;
		hwloc_bitmap_t set = hwloc_bitmap_alloc();
		for (unsigned i = 0; i < CPU_WORDS; i++)
			hwloc_bitmap_set_ith_ulong(set, i, wishes[r].allowed[i]);
		allowed[count] = set;
		ranks[count++] = (struct placement_rank){
			set, wishes[r].kept,
			wishes[r].device.present ? wishes[r].device.pci_bus_id : NULL};
	}
	result = placement_choose(topology, ranks, count, choices, err);
fail:
	for (int i = 0; i < count; i++)
		hwloc_bitmap_free(allowed[i]);
	free(allowed);
	free(ranks);
	return result;
}

/* Cores of this machine that the cgroup allows and no rank of the node has. */
static int32_t count_free(hwloc_topology_t topology, const struct placement_choice *choices, int count)
{
	hwloc_bitmap_t left = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology));
	int cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE), found = 0;
	for (int c = 0; left && c < cores; c++) {
		hwloc_const_bitmap_t core = hwloc_get_obj_by_type(topology, HWLOC_OBJ_CORE,
								  (unsigned)c)->cpuset;
		bool taken = !hwloc_bitmap_intersects(core, left);
		for (int r = 0; r < count && !taken; r++)
			taken = hwloc_bitmap_intersects(core, choices[r].cpus);
		found += !taken;
	}
	hwloc_bitmap_free(left);
	return found;
}

/* How this rank's GPU is linked to those of the node's other ranks: "NVLink to 1, 2; ...". */
static void describe_links(const struct group *group, const struct wish *wishes, char *text, size_t size)
{
	const char **others = calloc((size_t)group->size, sizeof *others);
	enum cuda_link *links = calloc((size_t)group->size, sizeof *links);
	int *ranks = calloc((size_t)group->size, sizeof *ranks), count = 0;
	size_t length = 0;
	for (int r = 0; others && links && ranks && r < group->size; r++)
		if (r != group->rank && wishes[r].node == mpi_group_node(group) &&
		    wishes[r].device.present) {
			others[count] = wishes[r].device.pci_bus_id;
			ranks[count++] = r;
		}
	if (count)
		cuda_device_links(wishes[group->rank].device.pci_bus_id, others, count, links);
	for (enum cuda_link link = CUDA_LINK_SAME; count && link <= CUDA_LINK_SYSTEM; link++) {
		bool first = true;
		for (int i = 0; i < count; i++)
			if (links[i] == link && length < size) {
				length += (size_t)snprintf(text + length, size - length, "%s%s%s%d",
							   !first ? ", " : length ? "; " : "",
							   first ? cuda_link_name(link) : "",
							   first ? " to " : "", ranks[i]);
				first = false;
			}
	}
	free(others);
	free(links);
	free(ranks);
}

/* This rank's line of the map, but for what binding brings. */
static void describe_place(hwloc_topology_t topology, const struct group *group,
			   const struct wish *wishes, const struct placement_choice *choices,
			   const struct placement_options *options, struct placement_row *row)
{
	const struct placement_device *device = &wishes[group->rank].device;
	const struct placement_choice *choice = &choices[group->local_rank];
	snprintf(row->host, sizeof row->host, "%s", mpi_group_host(group));
	row->pid = getpid();
	row->node = mpi_group_node(group);
	row->unbound = options->no_bind;
	fill_row(row, device, choice);
	row->free_cores = count_free(topology, choices, group->local_size);
	placement_nearest_nic(topology, device->present ? device->pci_bus_id : NULL, choice->cpus,
			      row->nic, sizeof row->nic);
	if (device->present && options->links)
		describe_links(group, wishes, row->links, sizeof row->links);
}

/* What --no-bind leaves a process with, in the place of what the rule chose: as many threads, on
 * whatever cores. */
static void leave_unbound(hwloc_topology_t topology, struct placement_row *row)
{
	hwloc_bitmap_t given = hwloc_bitmap_alloc();
	if (given && !hwloc_get_cpubind(topology, given, HWLOC_CPUBIND_PROCESS))
		hwloc_bitmap_list_snprintf(row->cpus, sizeof row->cpus, given);
	hwloc_bitmap_free(given);
	row->shared = row->near = row->known = false;
}

int placement_apply(struct group *group, const struct placement_device *device,
		    const struct placement_options *options, struct placement_row **out,
		    struct error *err)
{
	hwloc_topology_t topology = NULL;
	int result = -1, chosen = 0;
	struct wish *wishes = calloc((size_t)group->size, sizeof *wishes);
	struct placement_choice *choices = calloc((size_t)group->local_size, sizeof *choices);
	struct placement_row *rows = calloc((size_t)group->size, sizeof *rows);
	struct wish mine = {.node = mpi_group_node(group), .device = *device};
	struct placement_row row = {.rank = group->rank};
	hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
	bool kept = false;
	float devices = device->present;
	if (group->sum(group, &devices, 1, err))
		goto fail;
	if (!wishes || !choices || !rows || !allowed)
		error_memory(err, "the placement");
	else if (!topology_open(&topology, devices > 0 || options->network, err))
		result = find_allowed(topology, allowed, &kept);
	if (group->agree(group, result, err))
		goto fail;
	mine.kept = kept;
	words_from_bitmap(mine.allowed, allowed);
	result = -1;
	if (mpi_group_all_gather(group, &mine, sizeof mine, wishes, err))
		goto fail;

	if (!choose_node(topology, group, wishes, choices, err)) {
		chosen = group->local_size;
		const struct placement_choice *choice = &choices[group->local_rank];
		describe_place(topology, group, wishes, choices, options, &row);
		mpi_group_share_cores(group, choice->shared);
		if (options->no_bind) {
			leave_unbound(topology, &row);
			result = 0;
		} else {
			result = bind_process(topology, choice, &row.memory_bound, err);
		}
	}
	result = group->agree(group, result, err);
	if (!result)
		result = mpi_group_all_gather(group, &row, sizeof row, rows, err);
	if (!result) {
		*out = rows;
		rows = NULL;
	}
fail:
	placement_choices_close(choices, chosen);
	hwloc_bitmap_free(allowed);
	if (topology)
		hwloc_topology_destroy(topology);
	free(wishes);
	free(choices);
	free(rows);
	return result;
}

int placement_preview(const struct placement_device *devices, int count,
		      struct placement_row **out, struct error *err)
{
	hwloc_topology_t topology;
	int result = -1, chosen = 0;
	bool kept, present = false;
	for (int r = 0; r < count; r++)
		present |= devices[r].present;
	if (topology_open(&topology, present, err))
		return -1;
	struct placement_rank *ranks = calloc((size_t)count, sizeof *ranks);
	struct placement_choice *choices = calloc((size_t)count, sizeof *choices);
	struct placement_row *rows = calloc((size_t)count, sizeof *rows);
	hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
	if (!ranks || !choices || !rows || !allowed) {
		error_memory(err, "the placement");
		goto fail;
	}
	find_allowed(topology, allowed, &kept);
	for (int r = 0; r < count; r++)
		ranks[r] = (struct placement_rank){
			allowed, false, devices[r].present ? devices[r].pci_bus_id : NULL};
	if (placement_choose(topology, ranks, count, choices, err))
		goto fail;
	chosen = count;
	for (int r = 0; r < count; r++) {
		rows[r].rank = r;
		gethostname(rows[r].host, sizeof rows[r].host - 1);
		fill_row(&rows[r], &devices[r], &choices[r]);
	}
	*out = rows;
	rows = NULL;
	result = 0;
fail:
	placement_choices_close(choices, chosen);
	hwloc_bitmap_free(allowed);
	hwloc_topology_destroy(topology);
	free(ranks);
	free(choices);
	free(rows);
	return result;
}
