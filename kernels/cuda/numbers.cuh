/*
 * numbers.cuh - 16-byte pieces of rows as float32, and sums over warps and blocks.
 *
 * Kernels are templates over the stored element: float, __half or __nv_bfloat16. They read
 * PIECE<W> elements at a time and compute in float32.
 */
#ifndef TPRUN_CUDA_NUMBERS_CUH
#define TPRUN_CUDA_NUMBERS_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* Elements in 16 bytes. */
template <typename W> constexpr int PIECE = 16 / (int)sizeof(W);

/* A number as a type, for functions that want it at compile time. */
template <int N> struct integer {
	static constexpr int value = N;
};

/* A kernel may start while the one before it still runs (programmatic dependent launch, from
 * sm_90 on). Until this returns it must touch nothing but weights. Every kernel calls it, so
 * that "the one before" always means all before. */
__device__ __forceinline__ void wait_for_previous(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Lets the next kernel be placed as soon as this one's blocks leave room. */
__device__ __forceinline__ void allow_next(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* Kernels that write what an all-reduce will read ("publish") take these two in place of
 * allow_next. NCCL launches its kernels over symmetric windows as dependents that may start
 * early, but they never wait (2.28.3: enqueue.cc sets the attribute, none of them has
 * griddepcontrol.wait). So such a kernel lets nothing start before its blocks have ended, and
 * has its results out before they do: fenced for the system, because other GPUs read them, and
 * because NCCL's kernels run in a memory domain of their own, which a fence for the device alone
 * does not reach. Every thread that stored results calls publish_results after its last store. */
__device__ __forceinline__ void allow_next_unless(bool publish)
{
	if (!publish)
		allow_next();
}

__device__ __forceinline__ void publish_results(bool publish)
{
	if (publish)
		__threadfence_system();
}

/* The same on all multiprocessors, in ns. */
__device__ __forceinline__ uint64_t device_clock(void)
{
	uint64_t ns;
	asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
	return ns;
}

/* Weights are read once: they need no place in L1. */
__device__ __forceinline__ uint4 load_weights(const uint4 *at)
{
	uint4 v;
	asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
		     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
		     : "l"(at));
	return v;
}

/* The line of 128 bytes around it, into L2. */
__device__ __forceinline__ void prefetch(const void *at)
{
	asm volatile("prefetch.global.L2 [%0];" :: "l"(at));
}

__device__ __forceinline__ void word_to_floats(uint32_t word, float *out, __nv_bfloat16)
{
	out[0] = __uint_as_float(word << 16);
	out[1] = __uint_as_float(word & 0xffff0000u);
}

__device__ __forceinline__ void word_to_floats(uint32_t word, float *out, __half)
{
	float2 two = __half22float2(*(const __half2 *)&word);
	out[0] = two.x;
	out[1] = two.y;
}

__device__ __forceinline__ void word_to_floats(uint32_t word, float *out, float)
{
	out[0] = __uint_as_float(word);
}

template <typename W> __device__ __forceinline__ void piece_to_floats(uint4 piece, float (&out)[PIECE<W>])
{
	constexpr int step = PIECE<W> / 4;
	word_to_floats(piece.x, out, W());
	word_to_floats(piece.y, out + step, W());
	word_to_floats(piece.z, out + 2 * step, W());
	word_to_floats(piece.w, out + 3 * step, W());
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename W> __device__ __forceinline__ W from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x)
{
	return __float2bfloat16_rn(x);
}

/* out[i] = x, as float where `wide`, otherwise as W. */
template <typename W> __device__ __forceinline__ void store_as(void *out, size_t i, float x, bool wide)
{
	if (wide)
		((float *)out)[i] = x;
	else
		((W *)out)[i] = from_float<W>(x);
}

/* Neighbouring elements, whole pieces of 16 bytes on such a boundary, or a single one. */
template <typename W, int N> __device__ __forceinline__ void load_run(const W *from, float (&out)[N])
{
	if constexpr (N == 1) {
		out[0] = to_float(*from);
	} else {
#pragma unroll
		for (int i = 0; i < N; i += PIECE<W>)
			piece_to_floats<W>(*(const uint4 *)(from + i), *(float(*)[PIECE<W>])(out + i));
	}
}

__device__ __forceinline__ float4 load_four(const float *from)
{
	return *(const float4 *)from;
}

template <typename W> __device__ __forceinline__ float4 load_four(const W *from)
{
	uint2 words = *(const uint2 *)from;
	float x[4];
	word_to_floats(words.x, x, W());
	word_to_floats(words.y, x + 2, W());
	return make_float4(x[0], x[1], x[2], x[3]);
}

__device__ __forceinline__ void store_four(float *to, float4 x)
{
	*(float4 *)to = x;
}

template <typename W> __device__ __forceinline__ void store_four(W *to, float4 x)
{
	W packed[4] = {from_float<W>(x.x), from_float<W>(x.y), from_float<W>(x.z), from_float<W>(x.w)};
	*(uint2 *)to = *(const uint2 *)packed;
}

template <typename W, int N> __device__ __forceinline__ void store_run(W *to, const float (&x)[N])
{
	if constexpr (N == 1) {
		*to = from_float<W>(x[0]);
	} else {
#pragma unroll
		for (int i = 0; i < N; i += 4)
			store_four(to + i, make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]));
	}
}

__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
	for (int bit = 16; bit; bit >>= 1)
		x += __shfl_xor_sync(0xffffffffu, x, bit);
	return x;
}

__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
	for (int bit = 16; bit; bit >>= 1)
		x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, bit));
	return x;
}

/* The sum over a block of at most 1,024 threads, the same in every thread. `scratch` holds a
 * float for every warp; it may be used again after the next barrier. */
__device__ __forceinline__ float block_sum(float x, float *scratch)
{
	int warps = (int)blockDim.x / 32;
	x = warp_sum(x);
	if (threadIdx.x % 32 == 0)
		scratch[threadIdx.x / 32] = x;
	__syncthreads();
	float sum = 0;
	for (int i = 0; i < warps; i++)
		sum += scratch[i];
	return sum;
}

/* Spelled out, for the same bits wherever the norm of many tokens is taken. */
__device__ __forceinline__ float four_squares(float4 x)
{
	return fmaf(x.w, x.w, fmaf(x.z, x.z, fmaf(x.y, x.y, x.x * x.x)));
}

/* 2^x to the last bits; zero for what float32 has only with fewer of them. */
__device__ __forceinline__ float power_of_two(float x)
{
	float y;
	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

__device__ __forceinline__ float silu(float x)
{
	return __fdividef(x, 1.0f + __expf(-x));
}

#endif
