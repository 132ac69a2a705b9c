/*
 * device.c - counting and naming GPUs through the driver, without CUDA's headers.
 *
 * The handful of driver functions used here have had the same signatures since CUDA 7; the
 * attribute numbers are those of the driver API's CUdevice_attribute.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

enum {
	DRIVER_NO_DEVICE = 100,
	DRIVER_CAPABILITY_MAJOR = 75,
	DRIVER_CAPABILITY_MINOR = 76,
};

struct driver {
	void *library; /* NULL: this machine has no driver */
	int (*init)(unsigned);
	int (*count)(int *);
	int (*get)(int *, int);
	int (*name)(char *, int, int);
	int (*pci_bus_id)(char *, int, int);
	int (*uuid)(unsigned char *, int);
	int (*memory)(size_t *, int);
	int (*attribute)(int *, int, int);
	int (*error_string)(int, const char **);
	int (*context)(void **, int);
	int (*push)(void *);
	int (*pop)(void **);
	int (*free_memory)(size_t *, size_t *);
};

static int driver_failed(const struct driver *driver, int status, const char *call,
			 struct error *err)
{
	const char *text = NULL;
	if (driver->error_string)
		driver->error_string(status, &text);
	return error_run(err, "%s: %s (CUDA driver error %d)", call, text ? text : "unknown error",
			 status);
}

/* The library stays open (dlopen counts), because the CUDA runtime uses it too. */
static int driver_open(struct driver *driver, struct error *err)
{
	memset(driver, 0, sizeof *driver);
	driver->library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
	if (!driver->library)
		return 0;
	const struct {
		void *slot;
		const char *symbol;
	} symbols[] = {
		{&driver->init, "cuInit"},
		{&driver->count, "cuDeviceGetCount"},
		{&driver->get, "cuDeviceGet"},
		{&driver->name, "cuDeviceGetName"},
		{&driver->pci_bus_id, "cuDeviceGetPCIBusId"},
		{&driver->uuid, "cuDeviceGetUuid"},
		{&driver->memory, "cuDeviceTotalMem_v2"},
		{&driver->attribute, "cuDeviceGetAttribute"},
		{&driver->error_string, "cuGetErrorString"},
		{&driver->context, "cuDevicePrimaryCtxRetain"},
		{&driver->push, "cuCtxPushCurrent_v2"},
		{&driver->pop, "cuCtxPopCurrent_v2"},
		{&driver->free_memory, "cuMemGetInfo_v2"},
	};
	for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
		void *function = dlsym(driver->library, symbols[i].symbol);
		if (!function)
			return error_run(err, "libcuda.so.1 has no %s: the NVIDIA driver is too old",
					 symbols[i].symbol);
		memcpy(symbols[i].slot, &function, sizeof function);
	}
	return 0;
}

int cuda_device_count(int *count, struct error *err)
{
	struct driver driver;
	*count = 0;
	if (driver_open(&driver, err))
		return -1;
	if (!driver.library)
		return 0;
	int status = driver.init(0);
	if (status == DRIVER_NO_DEVICE)
		return 0;
	if (status)
		return driver_failed(&driver, status, "cuInit", err);
	status = driver.count(count);
	if (status)
		return driver_failed(&driver, status, "cuDeviceGetCount", err);
	return 0;
}

int cuda_device_describe(int device, struct cuda_device_info *out, struct error *err)
{
	struct driver driver;
	int handle, status;
	unsigned char uuid[16];
	size_t memory;

	memset(out, 0, sizeof *out);
	if (driver_open(&driver, err))
		return -1;
	if (!driver.library)
		return error_run(err, "GPU %d: this machine has no NVIDIA driver", device);
	if ((status = driver.init(0)) || (status = driver.get(&handle, device)) ||
	    (status = driver.name(out->name, (int)sizeof out->name, handle)) ||
	    (status = driver.pci_bus_id(out->pci_bus_id, (int)sizeof out->pci_bus_id, handle)) ||
	    (status = driver.uuid(uuid, handle)) || (status = driver.memory(&memory, handle)) ||
	    (status = driver.attribute(&out->capability_major, DRIVER_CAPABILITY_MAJOR, handle)) ||
	    (status = driver.attribute(&out->capability_minor, DRIVER_CAPABILITY_MINOR, handle))) {
		driver_failed(&driver, status, "asking the driver", err);
		return error_context(err, "GPU %d", device);
	}
	out->total_memory = memory;
	char *at = out->uuid + snprintf(out->uuid, sizeof out->uuid, "GPU");
	for (int i = 0; i < 16; i++) {
		if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10)
			*at++ = '-';
		at += snprintf(at, 3, "%02x", uuid[i]);
	}
	return 0;
}

int cuda_device_free_memory(int device, uint64_t *bytes, struct error *err)
{
	struct driver driver;
	void *context;
	int handle, status;
	size_t left, total;

	if (driver_open(&driver, err))
		return -1;
	if (!driver.library)
		return error_run(err, "GPU %d: this machine has no NVIDIA driver", device);
	if ((status = driver.init(0)) || (status = driver.get(&handle, device)) ||
	    (status = driver.context(&context, handle)) || (status = driver.push(context)) ||
	    (status = driver.free_memory(&left, &total)) || (status = driver.pop(&context))) {
		driver_failed(&driver, status, "asking the driver for free memory", err);
		return error_context(err, "GPU %d", device);
	}
	*bytes = left;
	return 0;
}

void cuda_versions_text(const struct cuda_versions *v, char *text, size_t room)
{
	int used = snprintf(text, room, "CUDA %d.%d (driver %d.%d)", v->runtime / 1000, v->runtime % 1000 / 10,
			    v->driver / 1000, v->driver % 1000 / 10);
	if (v->nccl && used > 0 && (size_t)used < room)
		snprintf(text + used, room - (size_t)used, ", NCCL %d.%d.%d", v->nccl / 10000,
			 v->nccl % 10000 / 100, v->nccl % 100);
}
