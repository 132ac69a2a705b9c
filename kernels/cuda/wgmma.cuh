/*
 * wgmma.cuh - Hopper's products of four warps at a time, with matrices in shared memory, for many tokens.
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
__device__ __forceinline__ uint64_t describe(uint32_t at, int across, int down)
{
	return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(across >> 4) << 16 |
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
#define ROWS_FROM(i) ROW(i), ROW(i + 1), ROW(i + 2), ROW(i + 3), ROW(i + 4), ROW(i + 5), ROW(i + 6), ROW(i + 7)
#define ROWS_OF_8 ROWS_FROM(0)
#define ROWS_OF_16 ROWS_OF_8, ROWS_FROM(8)
#define ROWS_OF_24 ROWS_OF_16, ROWS_FROM(16)
#define ROWS_OF_30 ROWS_OF_24, ROW(24), ROW(25), ROW(26), ROW(27), ROW(28), ROW(29)
#define ROWS_OF_32 ROWS_OF_24, ROWS_FROM(24)
#define NUMBERS_OF_8                                                                       \
	"%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
	"%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NUMBERS_32_TO_63                                                                   \
	", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "\
	"%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NUMBERS_64_TO_95                                                                   \
	", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "\
	"%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NUMBERS_96_TO_119                                                                  \
	", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "\
	"%112, %113, %114, %115, %116, %117, %118, %119"
#define NUMBERS_120_TO_127                                                                 \
	", %120, %121, %122, %123, %124, %125, %126, %127"
#define NUMBERS_OF_16 NUMBERS_OF_8 NUMBERS_32_TO_63
#define NUMBERS_OF_24 NUMBERS_OF_16 NUMBERS_64_TO_95
#define NUMBERS_OF_30 NUMBERS_OF_24 NUMBERS_96_TO_119
#define NUMBERS_OF_32 NUMBERS_OF_30 NUMBERS_120_TO_127
#define WIDE_MULTIPLY(ROWS, N, OPERANDS, W, TYPE)                                                  \
	template <int TURNED>                                                                      \
	__device__ __forceinline__ void wide_multiply(float (&d)[ROWS][4], const uint32_t (&a)[4], uint64_t b, W) \
	{                                                                                          \
		asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" NUMBERS_OF_##ROWS "}, " OPERANDS \
			     : ROWS_OF_##ROWS                                                      \
			     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(TURNED));    \
	}
#define WIDE_MULTIPLY_BOTH(ROWS, N, OPERANDS)                                                      \
	WIDE_MULTIPLY(ROWS, N, OPERANDS, __nv_bfloat16, "bf16")                                    \
	WIDE_MULTIPLY(ROWS, N, OPERANDS, __half, "f16")
WIDE_MULTIPLY_BOTH(8, "64", "{%32, %33, %34, %35}, %36, 1, 1, 1, %37;")
WIDE_MULTIPLY_BOTH(16, "128", "{%64, %65, %66, %67}, %68, 1, 1, 1, %69;")
#undef WIDE_MULTIPLY_BOTH
#undef WIDE_MULTIPLY

/* The same with a in shared memory too, rows as columns of both; d is made where not `add`. */
#define WIDE_MULTIPLY(ROWS, N, A, B, ADD, W, TYPE)                                                 \
	__device__ __forceinline__ void wide_multiply(float (&d)[ROWS][4], uint64_t a, uint64_t b, bool add, W) \
	{                                                                                          \
		asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " ADD ", 0;\n\t"                   \
			     "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" NUMBERS_OF_##ROWS "}, " \
			     A ", " B ", p, 1, 1, 0, 0;\n\t}"                                      \
			     : ROWS_OF_##ROWS                                                      \
			     : "l"(a), "l"(b), "r"((int)add));                                     \
	}
#define WIDE_MULTIPLY_BOTH(ROWS, N, A, B, ADD)                                                     \
	WIDE_MULTIPLY(ROWS, N, A, B, ADD, __nv_bfloat16, "bf16")                                   \
	WIDE_MULTIPLY(ROWS, N, A, B, ADD, __half, "f16")
WIDE_MULTIPLY_BOTH(24, "192", "%96", "%97", "%98")
WIDE_MULTIPLY_BOTH(30, "240", "%120", "%121", "%122")
WIDE_MULTIPLY_BOTH(32, "256", "%128", "%129", "%130")
#undef WIDE_MULTIPLY_BOTH
#undef WIDE_MULTIPLY
#undef NUMBERS_OF_32
#undef NUMBERS_OF_30
#undef NUMBERS_OF_24
#undef NUMBERS_OF_16
#undef NUMBERS_120_TO_127
#undef NUMBERS_96_TO_119
#undef NUMBERS_64_TO_95
#undef NUMBERS_32_TO_63
#undef NUMBERS_OF_8
#undef ROWS_OF_32
#undef ROWS_OF_30
#undef ROWS_OF_24
#undef ROWS_OF_16
#undef ROWS_OF_8
#undef ROWS_FROM
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

/* Waits until LEFT groups at most are still under way. */
template <int LEFT> __device__ __forceinline__ void wide_wait(void)
{
	asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory");
}

/* Waits until d is there, of a group behind which LEFT others at most are still under way. */
template <int LEFT, int N> __device__ __forceinline__ void wide_wait(float (&d)[N][4])
{
	wide_wait<LEFT>();
	/* The compiler is not to read them any earlier. */
#pragma unroll
	for (int i = 0; i < N; i++)
		asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3]) :: "memory");
}
#endif

#endif
