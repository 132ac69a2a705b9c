#include "launcher/devices.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

#ifdef TPRUN_CUDA
static const bool built_with_cuda = true;
#else
static const bool built_with_cuda = false;
#endif

/* What a rank tells the others of the GPUs it sees. */
struct sight {
	int32_t node, count;
	char uuid[sizeof((struct cuda_device_info *)0)->uuid]; /* of the one it would take */
};

/* ---- memory of the host ------------------------------------------------------------------ */

/* The number after `key` in a file such as /proc/meminfo, or the file's first where key is NULL. */
static bool read_number(const char *path, const char *key, uint64_t *out)
{
	char line[256];
	bool found = false;
	FILE *file = fopen(path, "r");
	size_t length = key ? strlen(key) : 0;
	while (file && !found && fgets(line, sizeof line, file))
		if (!key || (!strncmp(line, key, length) && strchr(": ", line[length])))
			found = sscanf(line + length + (key != NULL), "%" SCNu64, out) == 1;
	if (file)
		fclose(file);
	return found;
}

/* What the cgroup in `folder` still allows; file pages can be dropped, so they count as free. */
static void limit_by_cgroup(const char *folder, bool second, uint64_t *memory)
{
	char path[4352];
	uint64_t limit, used, active = 0, inactive = 0;
	snprintf(path, sizeof path, "%s/%s", folder,
		 second ? "memory.max" : "memory.limit_in_bytes");
	if (!read_number(path, NULL, &limit)) /* "max" is no number */
		return;
	snprintf(path, sizeof path, "%s/%s", folder,
		 second ? "memory.current" : "memory.usage_in_bytes");
	if (!read_number(path, NULL, &used))
		return;
	snprintf(path, sizeof path, "%s/memory.stat", folder);
	read_number(path, second ? "active_file" : "total_active_file", &active);
	read_number(path, second ? "inactive_file" : "total_inactive_file", &inactive);
	used -= active + inactive < used ? active + inactive : used;
	uint64_t left = limit > used ? limit - used : 0;
	if (left < *memory)
		*memory = left;
}

/* Every cgroup from this process's up to the root may set a limit. */
static void limit_by_cgroups(uint64_t *memory)
{
	char line[4096];
	FILE *file = fopen("/proc/self/cgroup", "r");
	while (file && fgets(line, sizeof line, file)) {
		char *controllers = strchr(line, ':'), *path = controllers
							? strchr(controllers + 1, ':') : NULL;
		if (!path)
			continue;
		bool second = path == controllers + 1;
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (!second && strcmp(controllers + 1, "memory"))
			continue;
		for (;;) {
			char folder[4224];
			snprintf(folder, sizeof folder, "/sys/fs/cgroup%s%s", second ? "" : "/memory",
				 path);
			limit_by_cgroup(folder, second, memory);
			char *slash = strrchr(path, '/');
			if (!slash)
				break;
			*slash = '\0';
		}
	}
	if (file)
		fclose(file);
}

uint64_t devices_host_memory(void)
{
	uint64_t kilobytes, memory;
	if (!read_number("/proc/meminfo", "MemAvailable", &kilobytes))
		return 0;
	memory = kilobytes * 1024;
	limit_by_cgroups(&memory);
	return memory;
}

/* ---- GPUs -------------------------------------------------------------------------------- */

static int describe(int device, struct device_choice *out, char *uuid, size_t uuid_size,
		    struct error *err)
{
	struct cuda_device_info info;
	if (cuda_device_describe(device, &info, err))
		return -1;
	out->device = device;
	out->memory = info.total_memory;
	out->placement.present = true;
	snprintf(out->placement.name, sizeof out->placement.name, "%s", info.name);
	snprintf(out->placement.pci_bus_id, sizeof out->placement.pci_bus_id, "%s",
		 info.pci_bus_id);
	snprintf(out->placement.uuid, sizeof out->placement.uuid, "%s", info.uuid);
	if (uuid)
		snprintf(uuid, uuid_size, "%s", info.uuid);
	return 0;
}

/* Ranks that hold a GPU which no rank before them on their node holds. */
static int count_owners(const struct sight *sights, int ranks)
{
	int owners = 0;
	for (int r = 0; r < ranks; r++) {
		bool own = sights[r].count > 0;
		for (int before = 0; before < r && own; before++)
			own = sights[before].node != sights[r].node || !sights[before].count ||
			      strcmp(sights[before].uuid, sights[r].uuid) != 0;
		owners += own;
	}
	return owners;
}

/* The backend for what all ranks see together. */
static int decide(const struct sight *sights, int ranks, enum backend_choice wanted,
		  struct device_choice *out, struct error *err)
{
	int seeing = 0, owners = count_owners(sights, ranks);
	for (int r = 0; r < ranks; r++)
		seeing += sights[r].count > 0;
	out->cuda = wanted == BACKEND_CUDA || seeing > 0;
	out->shared = out->cuda && owners < seeing;
	if (!out->cuda || (owners == ranks))
		return 0;
	if (seeing == ranks && wanted == BACKEND_CUDA)
		return 0;
	if (seeing == 0)
		return error_usage(err, "--backend cuda: no rank sees a GPU; give --backend cpu, or "
					"check the driver and CUDA_VISIBLE_DEVICES");
	return error_usage(err, "%d ranks share %d GPUs (%d of the ranks see one): start %d rank%s, or "
				"give --backend cpu%s", ranks, owners, seeing, owners,
			   owners == 1 ? "" : "s",
			   seeing == ranks ? ", or --backend cuda to share GPUs" : "");
}

/* The device that this rank would take: the one of its local rank where the node's ranks see enough,
 * its only one where Slurm gave it one, else in turn. */
static int look(const struct group *group, struct device_choice *out, struct sight *mine,
		struct error *err)
{
	int count = 0;
	if (cuda_device_count(&count, err))
		return -1;
	mine->count = count;
	if (!count)
		return 0;
	return describe(group->local_rank % count, out, mine->uuid, sizeof mine->uuid, err);
}

int devices_choose(struct device_choice *out, const struct group *group,
		   enum backend_choice wanted, struct error *err)
{
	struct sight mine = {.node = mpi_group_node(group)};
	int result = 0;
	*out = (struct device_choice){0};
	if (wanted == BACKEND_CUDA && !built_with_cuda)
		return error_usage(err, "--backend cuda: this tprun was built without CUDA; build it "
					"where nvcc is found (CUDA_HOME), or give --backend cpu");
	if (wanted != BACKEND_CPU && built_with_cuda) {
		struct sight *sights = calloc((size_t)group->size, sizeof *sights);
		result = sights ? look(group, out, &mine, err) : error_memory(err, "the devices");
		if (group->agree(group, result, err) ||
		    mpi_group_all_gather(group, &mine, sizeof mine, sights, err) ||
		    decide(sights, group->size, wanted, out, err))
			result = -1;
		free(sights);
	}
	if (!result && !out->cuda) {
		*out = (struct device_choice){.sharing = group->local_size};
		out->memory = devices_host_memory() / (uint64_t)out->sharing;
	} else if (!result) {
		out->sharing = out->shared ? (group->local_size + mine.count - 1) / mine.count : 1;
		out->memory /= (uint64_t)out->sharing;
	}
	return result;
}

int devices_measure(struct device_choice *device, const struct group *world, struct error *err)
{
	uint64_t bytes = 0;
	if (!device->cuda)
		return 0;
	/* Twice, so that the contexts of all ranks on a device are there at the second look. */
	for (int look = 0; look < 2; look++)
		if (world->agree(world, cuda_device_free_memory(device->device, &bytes, err), err))
			return -1;
	device->memory = bytes / (uint64_t)device->sharing;
	return 0;
}

int devices_list(struct device_choice *out, int most, int *count, struct error *err)
{
	*count = 0;
	if (built_with_cuda && cuda_device_count(count, err))
		return -1;
	*count = *count < most ? *count : most;
	for (int i = 0; i < *count; i++) {
		out[i] = (struct device_choice){.cuda = true};
		if (describe(i, &out[i], NULL, 0, err))
			return -1;
	}
	return 0;
}
