/*
 * attend_inbox.cuh - where the blocks of a cluster bring what attend.cu's warps have found in their parts
 * of a context. On GPUs without clusters a block is alone, and its inbox is its own.
 */
#ifndef TPRUN_CUDA_ATTEND_INBOX_CUH
#define TPRUN_CUDA_ATTEND_INBOX_CUH

#include "kernels/cuda/tensor.cuh"

/* What the warps of all blocks of a cluster have for the dimensions that a block joins, a piece for every
 * thread that joins: the i-th is of head i / (D/4) and of block i % 2^spread, so that the blocks' pieces of
 * the same dimensions meet in neighbouring threads. */
template <int WARPS, int D, int G> struct attend_inbox {
	float4 value[WARPS][G * D / 4];
	float2 scale[WARPS][G][ATTEND_CLUSTER];	/* maximum and sum */
	uint64_t arrived;			/* an mbarrier that counts the bytes */
};

/* Sets the inbox up, and tells the cluster's other blocks. */
template <int WARPS, int D, int G>
__device__ __forceinline__ void inbox_open(struct attend_inbox<WARPS, D, G> &inbox, int spread)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	if (!spread)
		return;
	if (threadIdx.x == 0) {
		uint32_t bytes = sizeof inbox.value + ((WARPS * G * sizeof(float2)) << spread);
		asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\t"
			     "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n\t"
			     "fence.mbarrier_init.release.cluster;"
			     :: "r"(shared_address(&inbox.arrived)), "r"(bytes) : "memory");
	}
	asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}

/* Waits until the others have done so. */
__device__ __forceinline__ void inbox_wait_open(int spread)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	if (spread)
		asm volatile("barrier.cluster.wait;" ::: "memory");
#endif
}

/* The address of the same variable of another block of the cluster. */
__device__ __forceinline__ uint32_t address_in(const void *at, int block)
{
	uint32_t to = shared_address(at);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(to) : "r"(block));
#endif
	return to;
}

/* Puts a value into the inbox of `block`: `to` and `arrived` are this block's own of the same place. A store
 * that counts its bytes at the receiver needs neither a fence nor a meeting of all. */
__device__ __forceinline__ void inbox_put(float4 *to, float4 v, const uint64_t *arrived, int block, int spread)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	if (spread) {
		asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];"
			     :: "r"(address_in(to, block)), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w),
				"r"(address_in(arrived, block)) : "memory");
		return;
	}
#endif
	*to = v;
}

__device__ __forceinline__ void inbox_put(float2 *to, float2 v, const uint64_t *arrived, int block, int spread)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	if (spread) {
		asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];"
			     :: "r"(address_in(to, block)), "f"(v.x), "f"(v.y), "r"(address_in(arrived, block))
			     : "memory");
		return;
	}
#endif
	*to = v;
}

/* Waits until all is there. Nobody writes into a block that has come past this, so it may end. */
template <int WARPS, int D, int G>
__device__ __forceinline__ void inbox_wait(struct attend_inbox<WARPS, D, G> &inbox, int spread)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	if (spread) {
		phase_await(&inbox.arrived, 0);
		return;
	}
#endif
	__syncthreads();
}

#endif
