/*
 * wgmma.cuh - Hopper's products of four warps at a time, with matrices in shared memory, for attention.
 *
 * Only code for sm_90a has them: HAVE_WGMMA.
 */
#ifndef TPRUN_CUDA_WGMMA_CUH
#define TPRUN_CUDA_WGMMA_CUH

#include "kernels/cuda/tensor.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA true
#else
#define HAVE_WGMMA false
#endif

/* What this thread has brought to shared memory, copies in the background included, is there for wgmma too. */
__device__ __forceinline__ void before_wide_products(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#if HAVE_WGMMA
/* A matrix in shared memory as wgmma wants it told: groups of 8 rows of 128 bytes are `down` bytes apart,
 * and columns of 64 elements `across` bytes, where the product reads more than one. */
__device__ __forceinline__ uint64_t describe(const void *at, int across, int down)
{
	return (uint64_t)((shared_address(at) & 0x3ffff) >> 4) | (uint64_t)(across >> 4) << 16 |
	       (uint64_t)(down >> 4) << 32 | (uint64_t)1 << 62;
}

/* So many bytes further on. */
__device__ __forceinline__ uint64_t described_past(uint64_t matrix, int bytes)
{
	return matrix + (uint64_t)(bytes >> 4);
}

/* d += a b, 64 x 16 by 16 x N. A warp has 16 rows of a and d, a lane's numbers as in tensor.cuh; b's rows are columns in
 * shared memory, or rows where TURNED. In the background: see wide_wait. */
#define ROW(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define ROWS_OF_8 ROW(0), ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6), ROW(7)
#define ROWS_OF_16 ROWS_OF_8, ROW(8), ROW(9), ROW(10), ROW(11), ROW(12), ROW(13), ROW(14), ROW(15)
#define FIRST_32                                                                                   \
	"%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                   \
	"%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define OPERANDS_OF_8 " {" FIRST_32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, %37;"
#define OPERANDS_OF_16                                                                             \
	" {" FIRST_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "   \
	"%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
	"{%64, %65, %66, %67}, %68, 1, 1, 1, %69;"
#define WIDE_MULTIPLY(ROWS, N, W, TYPE)                                                            \
	template <int TURNED>                                                                      \
	__device__ __forceinline__ void wide_multiply(float (&d)[ROWS][4], const uint32_t (&a)[4], uint64_t b, W) \
	{                                                                                          \
		asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE OPERANDS_OF_##ROWS \
			     : ROWS_OF_##ROWS                                                      \
			     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(TURNED));    \
	}
WIDE_MULTIPLY(8, "64", __nv_bfloat16, "bf16")
WIDE_MULTIPLY(16, "128", __nv_bfloat16, "bf16")
WIDE_MULTIPLY(8, "64", __half, "f16")
WIDE_MULTIPLY(16, "128", __half, "f16")
#undef WIDE_MULTIPLY
#undef OPERANDS_OF_16
#undef OPERANDS_OF_8
#undef FIRST_32
#undef ROWS_OF_16
#undef ROWS_OF_8
#undef ROW

/* Before the first product after d was written otherwise. */
__device__ __forceinline__ void wide_begin(void)
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* Products since the last call are a group. */
__device__ __forceinline__ void wide_commit(void)
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until d is there, of a group behind which LEFT others at most are still under way. */
template <int LEFT, int N> __device__ __forceinline__ void wide_wait(float (&d)[N][4])
{
	asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory");
	/* The compiler is not to read them any earlier. */
#pragma unroll
	for (int i = 0; i < N; i++)
		asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3]) :: "memory");
}
#endif

#endif
