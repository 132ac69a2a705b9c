/*
 * cuda.h - what the launcher asks of CUDA besides the backend itself.
 *
 * The device queries go through the driver library, opened when first needed, so that the
 * program starts on machines that have none. Counting and describing create no context on any
 * device: the placement can ask for a device's PCI address and bind the process before CUDA starts
 * its threads. No CUDA header is needed to include this file or to compile device.c.
 */
#ifndef TPRUN_CUDA_CUDA_H
#define TPRUN_CUDA_CUDA_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/error.h"
#include "runtime/base/profile.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_device_info {
	char name[128];
	char pci_bus_id[32];	/* "0000:65:00.0" */
	char uuid[48];		/* "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" */
	uint64_t total_memory;	/* bytes */
	int capability_major, capability_minor;
};

/* *count is the number of devices this process sees: 0, without an error, where there is no
 * driver or no device. A driver that is there but fails is an error. */
int cuda_device_count(int *count, struct error *err);
int cuda_device_describe(int device, struct cuda_device_info *out, struct error *err);
/* Bytes that are free on the device now. Creates the context that the backend will use, and keeps
 * it to the end of the process, so that what it takes is counted already. */
int cuda_device_free_memory(int device, uint64_t *bytes, struct error *err);

/* How a backend opened by cuda_backend_open adds up over the ranks: "none" (one rank), "through peers' memory",
 * "nccl", or "host" with the reason in brackets. Behind nccl stands whether steps of few tokens go through
 * the peers' memory, or what hinders, and "symmetric windows" where it has them; all of it from load_end on.
 * The backend's own. */
const char *cuda_backend_reduce_name(const struct backend *);

/* As the libraries number themselves: 13000 is CUDA 13.0, 22803 NCCL 2.28.3; 0: not there. */
struct cuda_versions {
	int32_t runtime, driver, nccl;
};
/* Starts nothing on any device. NCCL is opened where `nccl`, and otherwise left at 0. Absent from builds
 * without CUDA. */
void cuda_versions(struct cuda_versions *out, bool nccl);
/* "CUDA 13.0 (driver 13.0), NCCL 2.28.3" */
void cuda_versions_text(const struct cuda_versions *, char *text, size_t room);

/* What is between two GPUs of a machine, from near to far. */
enum cuda_link {
	CUDA_LINK_UNKNOWN, CUDA_LINK_SAME, CUDA_LINK_NVLINK, CUDA_LINK_SWITCH, CUDA_LINK_HOST_BRIDGE,
	CUDA_LINK_NODE, CUDA_LINK_SYSTEM,
};
/* out[count]: from the GPU at one PCI address to those at others; unknown where NVML can't tell. */
void cuda_device_links(const char *pci_bus_id, const char *const *others, int count,
		       enum cuda_link *out);
const char *cuda_link_name(enum cuda_link);

/* MHz: as they are at the moment, and at most. */
struct cuda_clocks {
	unsigned sm, memory, most_sm, most_memory;
};
/* Of the GPU at a PCI address; -1 where NVML can't tell. */
int cuda_device_clocks(const char *pci_bus_id, struct cuda_clocks *out);

/* What marks ranges for NVIDIA's profilers; NULL where this was built without NVTX. Absent from builds
 * without CUDA. */
const struct profile *cuda_profile(void);

#ifdef __cplusplus
}
#endif
#endif
