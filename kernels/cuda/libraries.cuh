/*
 * libraries.cuh - cuBLAS, NCCL and the driver's own functions, opened by the backend and not by the program's loader.
 *
 * Together they are a gigabyte of code, whose mapping alone takes longer than `tprun --help`
 * may; and a build with CUDA is to start on machines without. Their headers give the types. The
 * libraries stay open until the program ends: what they registered cannot be taken back.
 */
#ifndef TPRUN_CUDA_LIBRARIES_CUH
#define TPRUN_CUDA_LIBRARIES_CUH

#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime.h>
#ifdef TPRUN_NCCL
#include <nccl.h>
#endif

#include "runtime/base/error.h"

struct cublas_calls {
	decltype(&cublasCreate_v2) create;
	decltype(&cublasDestroy_v2) destroy;
	decltype(&cublasSetStream_v2) set_stream;
	decltype(&cublasSetWorkspace_v2) set_workspace;
	decltype(&cublasSetMathMode) set_math_mode;
	decltype(&cublasGetStatusString) status_string;
	/* Spelled out because the header overloads it for C++. */
	cublasStatus_t(CUBLASWINAPI *gemm_ex)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m,
					      int n, int k, const void *alpha, const void *a, cudaDataType,
					      int lda, const void *b, cudaDataType, int ldb,
					      const void *beta, void *c, cudaDataType, int ldc,
					      cublasComputeType_t, cublasGemmAlgo_t);
};

/* Fails with an error that names the library where it cannot be found or is too old. */
int cublas_load(struct cublas_calls *out, struct error *err);

/* What the CUDA runtime has no form of. */
struct driver_calls {
	decltype(&cuTensorMapEncodeTiled) tensor_map_encode;
};

int driver_load(struct driver_calls *out, struct error *err);

#ifdef TPRUN_NCCL
/* Whether these headers know of buffers in symmetric windows. */
#define HAVE_WINDOWS (NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0))

struct nccl_calls {
	decltype(&ncclGetVersion) get_version;
	decltype(&ncclGetUniqueId) get_unique_id;
	decltype(&ncclCommInitRank) comm_init_rank;
	decltype(&ncclCommDestroy) comm_destroy;
	decltype(&ncclCommAbort) comm_abort;
	decltype(&ncclCommGetAsyncError) comm_async_error;
	decltype(&ncclGetErrorString) error_string;
	decltype(&ncclGetLastError) last_error;
	decltype(&ncclMemAlloc) mem_alloc;
	decltype(&ncclMemFree) mem_free;
	decltype(&ncclAllReduce) all_reduce;
#if HAVE_WINDOWS
	/* NULL in a library that has no windows yet. */
	decltype(&ncclCommInitRankConfig) comm_init_rank_config;
	decltype(&ncclCommWindowRegister) window_register;
	decltype(&ncclCommWindowDeregister) window_deregister;
#endif
};

int nccl_load(struct nccl_calls *out, struct error *err);
#endif

#endif
