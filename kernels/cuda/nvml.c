/*
 * nvml.c - how two GPUs of a machine are linked, and how fast they run, through NVML, the library behind
 * nvidia-smi.
 *
 * NVML sees the whole machine, also the GPUs that CUDA_VISIBLE_DEVICES hides. It is opened when asked
 * for and needs no header: the functions used here and the numbers of their enumerations have been the
 * same since NVML 9.
 */
#include <dlfcn.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

enum {
	NVML_LINK_NVLINK = 2,  /* nvmlGpuP2PCapsIndex_t */
	NVML_SWITCHES = 20,    /* nvmlGpuTopologyLevel_t, in order of distance */
	NVML_HOST_BRIDGE = 30,
	NVML_NODE = 40,
	NVML_CLOCK_SM = 1,     /* nvmlClockType_t */
	NVML_CLOCK_MEMORY = 2,
};

struct nvml {
	int (*init)(void);
	int (*shutdown)(void);
	int (*handle)(const char *, void **);
	int (*peer_status)(void *, void *, int, int *);
	int (*ancestor)(void *, void *, int *);
	int (*clock)(void *, int, unsigned *);
	int (*most_clock)(void *, int, unsigned *);
};

static int nvml_open(struct nvml *nvml)
{
	void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
	const struct {
		void *slot;
		const char *symbol;
	} symbols[] = {
		{&nvml->init, "nvmlInit_v2"},
		{&nvml->shutdown, "nvmlShutdown"},
		{&nvml->handle, "nvmlDeviceGetHandleByPciBusId_v2"},
		{&nvml->peer_status, "nvmlDeviceGetP2PStatus"},
		{&nvml->ancestor, "nvmlDeviceGetTopologyCommonAncestor"},
		{&nvml->clock, "nvmlDeviceGetClockInfo"},
		{&nvml->most_clock, "nvmlDeviceGetMaxClockInfo"},
	};
	for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
		void *function = library ? dlsym(library, symbols[i].symbol) : NULL;
		if (!function)
			return -1;
		memcpy(symbols[i].slot, &function, sizeof function);
	}
	return nvml->init() ? -1 : 0;
}

static enum cuda_link link_of(const struct nvml *nvml, void *one, void *other)
{
	int status, level;
	if (!nvml->peer_status(one, other, NVML_LINK_NVLINK, &status) && status == 0)
		return CUDA_LINK_NVLINK;
	if (nvml->ancestor(one, other, &level))
		return CUDA_LINK_UNKNOWN;
	return level <= NVML_SWITCHES	   ? CUDA_LINK_SWITCH
	       : level <= NVML_HOST_BRIDGE ? CUDA_LINK_HOST_BRIDGE
	       : level <= NVML_NODE	   ? CUDA_LINK_NODE
					   : CUDA_LINK_SYSTEM;
}

void cuda_device_links(const char *pci_bus_id, const char *const *others, int count,
		       enum cuda_link *out)
{
	struct nvml nvml;
	void *one, *other;
	for (int i = 0; i < count; i++)
		out[i] = CUDA_LINK_UNKNOWN;
	if (nvml_open(&nvml))
		return;
	bool known = !nvml.handle(pci_bus_id, &one);
	for (int i = 0; i < count && known; i++) {
		if (!strcmp(pci_bus_id, others[i]))
			out[i] = CUDA_LINK_SAME;
		else if (!nvml.handle(others[i], &other))
			out[i] = link_of(&nvml, one, other);
	}
	nvml.shutdown();
}

int cuda_device_clocks(const char *pci_bus_id, struct cuda_clocks *out)
{
	struct nvml nvml;
	void *device;
	if (nvml_open(&nvml))
		return -1;
	int result = nvml.handle(pci_bus_id, &device) || nvml.clock(device, NVML_CLOCK_SM, &out->sm) ||
		     nvml.clock(device, NVML_CLOCK_MEMORY, &out->memory) ||
		     nvml.most_clock(device, NVML_CLOCK_SM, &out->most_sm) ||
		     nvml.most_clock(device, NVML_CLOCK_MEMORY, &out->most_memory) ? -1 : 0;
	nvml.shutdown();
	return result;
}

const char *cuda_link_name(enum cuda_link link)
{
	static const char *const names[] = {
		[CUDA_LINK_UNKNOWN] = "unknown link",
		[CUDA_LINK_SAME] = "same GPU",
		[CUDA_LINK_NVLINK] = "NVLink",
		[CUDA_LINK_SWITCH] = "PCIe switch",
		[CUDA_LINK_HOST_BRIDGE] = "PCIe host bridge",
		[CUDA_LINK_NODE] = "PCIe within the NUMA node",
		[CUDA_LINK_SYSTEM] = "PCIe between NUMA nodes",
	};
	return names[link];
}
