/*
 * libraries.cu - opening cuBLAS, NCCL and the driver's library, and looking their functions up.
 *
 * They are found where the loader looks: LD_LIBRARY_PATH, the folders that the program was
 * built with (its run path holds for libraries it opens itself), the system's own.
 */
#include <dlfcn.h>
#include <string.h>

#include "kernels/cuda/libraries.cuh"

#define TEXT(x) #x
#define NUMBER_TEXT(x) TEXT(x)
#define CUBLAS_LIBRARY "libcublas.so." NUMBER_TEXT(CUBLAS_VER_MAJOR)
#define CUBLAS_LT_LIBRARY "libcublasLt.so." NUMBER_TEXT(CUBLAS_VER_MAJOR)
#define NCCL_LIBRARY "libnccl.so." NUMBER_TEXT(NCCL_MAJOR)

struct symbol {
	void *slot;
	const char *name;
	bool optional = false;
};

static int library_load(const char *file, const struct symbol *symbols, size_t count, struct error *err)
{
	void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		const char *why = dlerror(); /* it begins with the file's name */
		return error_run(err, "%s; install it, or name its folder in LD_LIBRARY_PATH",
				 why ? why : file);
	}
	for (size_t i = 0; i < count; i++) {
		void *function = dlsym(library, symbols[i].name);
		if (!function && !symbols[i].optional)
			return error_run(err, "%s has no %s: it is older than this program needs", file,
					 symbols[i].name);
		memcpy(symbols[i].slot, &function, sizeof function);
	}
	return 0;
}

int cublas_load(struct cublas_calls *out, struct error *err)
{
	const struct symbol symbols[] = {
		{&out->create, "cublasCreate_v2"},
		{&out->destroy, "cublasDestroy_v2"},
		{&out->set_stream, "cublasSetStream_v2"},
		{&out->set_workspace, "cublasSetWorkspace_v2"},
		{&out->set_math_mode, "cublasSetMathMode"},
		{&out->status_string, "cublasGetStatusString"},
		{&out->gemm_ex, "cublasGemmEx"},
	};
	/* cuBLAS needs it and looks for it beside itself, which is not where every system puts it. */
	if (library_load(CUBLAS_LT_LIBRARY, NULL, 0, err))
		return -1;
	return library_load(CUBLAS_LIBRARY, symbols, sizeof symbols / sizeof *symbols, err);
}

int driver_load(struct driver_calls *out, struct error *err)
{
	const struct symbol symbols[] = {{&out->tensor_map_encode, "cuTensorMapEncodeTiled"}};
	return library_load("libcuda.so.1", symbols, sizeof symbols / sizeof *symbols, err);
}

#ifdef TPRUN_NCCL
int nccl_load(struct nccl_calls *out, struct error *err)
{
	const struct symbol symbols[] = {
		{&out->get_version, "ncclGetVersion"},
		{&out->get_unique_id, "ncclGetUniqueId"},
		{&out->comm_init_rank, "ncclCommInitRank"},
		{&out->comm_destroy, "ncclCommDestroy"},
		{&out->comm_abort, "ncclCommAbort"},
		{&out->comm_async_error, "ncclCommGetAsyncError"},
		{&out->error_string, "ncclGetErrorString"},
		{&out->last_error, "ncclGetLastError"},
		{&out->mem_alloc, "ncclMemAlloc"},
		{&out->mem_free, "ncclMemFree"},
		{&out->all_reduce, "ncclAllReduce"},
#if HAVE_WINDOWS
		{&out->comm_init_rank_config, "ncclCommInitRankConfig", true},
		{&out->window_register, "ncclCommWindowRegister", true},
		{&out->window_deregister, "ncclCommWindowDeregister", true},
#endif
	};
	return library_load(NCCL_LIBRARY, symbols, sizeof symbols / sizeof *symbols, err);
}
#endif
