/*
 * peers.cuh - sums over the ranks inside the kernels that need them.
 *
 * For few tokens a sum over the ranks is all latency. So no kernel of its own takes it: the
 * product that ends with a rank's part of a sum stores that part into the memory of every rank
 * (their mailboxes, mapped through CUDA's IPC), and the kernel that wants the sum reads its own
 * rank's mailbox until all parts are there. Every 8-byte word carries values and, beside them,
 * the number of the sum (its epoch), and is stored and read whole: values and the sign that they
 * have come arrive together, and no fence is needed (NCCL calls this way of sending "LL").
 *
 * Two mailboxes, used in turn, are enough. A rank stores its part of sum e + 1 in a kernel whose
 * wait_for_previous has seen the end of its own kernel that read sum e; that kernel has met parts
 * of sum e from every rank; and each rank stored its part of e in a kernel that came after the one
 * that read e - 1. So nobody reads e - 1 any more when e + 1 arrives in its place. That holds as
 * long as every rank waits for every sum, at least for one word of each rank: see step_end.
 */
#ifndef TPRUN_CUDA_PEERS_CUH
#define TPRUN_CUDA_PEERS_CUH

#include "kernels/cuda/internal.cuh"

/* 16-byte stores and loads of two words: values and epoch, values and epoch. */
template <typename W> constexpr int WORD_PAIRS = (int)sizeof(W) / 2; /* for four values */

__device__ __forceinline__ void peer_store(uint4 *at, uint4 v)
{
	uint64_t low = (uint64_t)v.y << 32 | v.x, high = (uint64_t)v.w << 32 | v.z;
	asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1,%2};" :: "l"(at), "l"(low), "l"(high) : "memory");
}

__device__ __forceinline__ uint4 peer_load(const uint4 *at)
{
	uint64_t low, high;
	asm volatile("ld.relaxed.sys.global.v2.b64 {%0,%1}, [%2];" : "=l"(low), "=l"(high) : "l"(at) : "memory");
	return make_uint4((uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32));
}

/* Which sum this is. The step's first one comes with the step's numbers, so that a recorded kernel serves every step.
 * That one may be asked for before wait_for_previous: the step's first kernel begins when its numbers are
 * there, and every other when one has begun that follows it. */
__device__ __forceinline__ uint32_t peer_epoch(const struct peer_sum &s)
{
	return __ldcg(s.base) + s.index;
}

/* Where values 4i to 4i + 3 of a token's row of rank `from` lie in a mailbox. */
template <typename W>
__device__ __forceinline__ size_t peer_place(const struct peer_sum &s, uint32_t epoch, int from, int token, int i)
{
	return ((size_t)((epoch & 1) * s.ranks + from) * s.tokens + token) * s.row + i * WORD_PAIRS<W>;
}

/* This rank's part: values 4i to 4i + 3 of a token's row, to rank `to`. */
template <typename W>
__device__ __forceinline__ void peer_push(const struct peer_sum &s, uint32_t epoch, int to, int token, int i,
					  float4 v)
{
	uint4 *at = s.mailbox[to] + peer_place<W>(s, epoch, s.rank, token, i);
	if constexpr (sizeof(W) == 4) {
		peer_store(at, make_uint4(__float_as_uint(v.x), epoch, __float_as_uint(v.y), epoch));
		peer_store(at + 1, make_uint4(__float_as_uint(v.z), epoch, __float_as_uint(v.w), epoch));
	} else {
		W packed[4] = {from_float<W>(v.x), from_float<W>(v.y), from_float<W>(v.z), from_float<W>(v.w)};
		uint2 words = *(const uint2 *)packed;
		peer_store(at, make_uint4(words.x, epoch, words.y, epoch));
	}
}

/* Around the receiving of a sum, of which one thread tells the time. Nothing is kept between the two calls:
 * registers are few. */
__device__ __forceinline__ void peer_time(const struct peer_sum &s, int thread, bool begins)
{
	if (s.time && thread == 0 && blockIdx.x + blockIdx.y == 0)
		atomicAdd((unsigned long long *)s.time, begins ? -device_clock() : device_clock());
}

/* In units of 2^20 ns. Few registers to spare here: callers hold their weights in them. */
__device__ __forceinline__ uint32_t peer_clock(void)
{
	return (uint32_t)(device_clock() >> 20);
}

/* A part that never comes is given up, with garbage in its place and a note to the host, which ends the run:
 * no kernel may wait forever. Where there is a note already, which is looked for every eighth of a
 * second, nothing is waited for any more. `waited`: in units of 2^20 ns. */
__device__ __forceinline__ bool peer_gives_up(const struct peer_sum &s, uint32_t waited, int from)
{
	if (waited >= s.patience)
		*(volatile int32_t *)s.late = from + 1;
	return waited >= s.patience || (waited % 128 == 127 && *(volatile int32_t *)s.late);
}

/* Reads until both words have come, or are given up. */
__device__ __forceinline__ uint4 peer_await(const struct peer_sum &s, const uint4 *at, uint4 v, uint32_t epoch,
					    int from)
{
	if (v.y == epoch && v.w == epoch)
		return v;
	uint32_t start = peer_clock();
	do {
		v = peer_load(at);
		if (peer_gives_up(s, peer_clock() - start, from))
			break;
	} while (v.y != epoch || v.w != epoch);
	return v;
}

/* A token's residual brought up to date: values 4i to 4i + 3 of the sum over the ranks, in their order, and bias, added
 * to what `old` has. ABREAST ranks' words are on their way at a time. */
template <typename W, int ABREAST>
__device__ __forceinline__ float4 peer_residual(const struct peer_sum &s, uint32_t epoch, int token, int i,
						const float4 *old, const float *bias)
{
	constexpr int N = WORD_PAIRS<W>;
	const uint4 *from = s.mailbox[s.rank] + peer_place<W>(s, epoch, 0, token, i);
	const int step = s.tokens * s.row;
	uint4 v[ABREAST][N];
	float4 sum = make_float4(0, 0, 0, 0), x = sum;
	auto load = [&](int first) {
#pragma unroll
		for (int k = 0; k < ABREAST; k++)
#pragma unroll
			for (int n = 0; n < N; n++)
				if (first + k < s.ranks)
					v[k][n] = peer_load(from + k * step + n);
	};

	load(0);
	if (old)
		x = *old;
	for (int first = 0;;) {
#pragma unroll
		for (int k = 0; k < ABREAST; k++) {
			if (first + k >= s.ranks)
				break;
			float y[4];
#pragma unroll
			for (int n = 0; n < N; n++) {
				uint4 w = peer_await(s, from + k * step + n, v[k][n], epoch, first + k);
				word_to_floats(w.x, y + 4 / N / 2 * 2 * n, W());
				word_to_floats(w.z, y + 4 / N / 2 * 2 * n + 2 / N, W());
			}
			sum.x += y[0];
			sum.y += y[1];
			sum.z += y[2];
			sum.w += y[3];
		}
		first += ABREAST;
		from += ABREAST * step;
		if (first >= s.ranks)
			break;
		load(first);
	}
	const float4 more = bias ? ((const float4 *)bias)[i] : make_float4(0, 0, 0, 0);
	return make_float4(x.x + (sum.x + more.x), x.y + (sum.y + more.y), x.z + (sum.z + more.z),
			   x.w + (sum.w + more.w));
}

#endif
