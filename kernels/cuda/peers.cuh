/*
 * peers.cuh - sums over the ranks inside the kernels that need them.
 *
 * For few tokens a sum over the ranks is all latency. So no kernel of its own takes it: the
 * product that ends with a rank's part of a sum stores that part into the memory of every rank
 * (their mailboxes, mapped through CUDA's IPC), and the kernel that wants the sum reads its own
 * rank's mailbox until all parts are there. Every 8-byte word is PEER_EMPTY until values are stored into
 * it, and is stored and read whole: values and the sign that they have come arrive together, and no
 * fence is needed. (What NCCL calls "LL" sends a number with every four bytes; that is twice as much for every block to
 * read.)
 *
 * Three mailboxes, used in turn, are enough. Who receives sum e empties the mailbox of e - 1, which its own rank's
 * kernels have read by then, as they have ended, and into which all words of e - 1 have come before any of e did. A rank
 * stores its part of sum e + 2 there when its kernel that received e + 1 has ended; that kernel has met parts of e + 1
 * from every rank; and each rank stored its part of e + 1 in a kernel that came after the one that received e
 * and emptied. That holds as long as every rank waits for every sum, at least for one word of each rank: see step_end.
 */
#ifndef TPRUN_CUDA_PEERS_CUH
#define TPRUN_CUDA_PEERS_CUH

#include "kernels/cuda/internal.cuh"

/* NaNs of a kind that nothing computes, see peer_push. */
constexpr uint64_t PEER_EMPTY = UINT64_MAX;

template <typename W> constexpr int PEER_WORDS = (int)sizeof(W) / 2; /* for four values */

__device__ __forceinline__ void peer_store(uint64_t *at, const uint64_t (&v)[1])
{
	asm volatile("st.relaxed.sys.global.b64 [%0], %1;" :: "l"(at), "l"(v[0]) : "memory");
}

__device__ __forceinline__ void peer_store(uint64_t *at, const uint64_t (&v)[2])
{
	asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1,%2};" :: "l"(at), "l"(v[0]), "l"(v[1]) : "memory");
}

__device__ __forceinline__ void peer_load(const uint64_t *at, uint64_t (&v)[1])
{
	asm volatile("ld.relaxed.sys.global.b64 %0, [%1];" : "=l"(v[0]) : "l"(at) : "memory");
}

__device__ __forceinline__ void peer_load(const uint64_t *at, uint64_t (&v)[2])
{
	asm volatile("ld.relaxed.sys.global.v2.b64 {%0,%1}, [%2];" : "=l"(v[0]), "=l"(v[1]) : "l"(at) : "memory");
}

/* Which mailbox a sum takes. That of the step's first one comes with the step's numbers, so that a recorded kernel serves
 * every step, and may be asked for before wait_for_previous: the step's first kernel begins when its numbers are
 * there, and every other when one has begun that follows it. */
__device__ __forceinline__ uint32_t peer_turn_of(const struct peer_sum &s, uint32_t first)
{
	const uint32_t turn = first + s.index;
	return turn < PEER_TURNS ? turn : turn - PEER_TURNS;
}

__device__ __forceinline__ uint32_t peer_turn(const struct peer_sum &s)
{
	return peer_turn_of(s, __ldcg(s.first));
}

/* Where values 4i to 4i + 3 of a token's row of rank `from` lie among a rank's mailboxes. */
template <typename W>
__device__ __forceinline__ size_t peer_place(const struct peer_sum &s, uint32_t turn, int from, int token, int i)
{
	return ((size_t)(turn * s.ranks + from) * s.tokens + token) * s.row + i * PEER_WORDS<W>;
}

/* This rank's part: values 4i to 4i + 3 of a token's row, to rank `to`. */
template <typename W>
__device__ __forceinline__ void peer_push(const struct peer_sum &s, uint32_t turn, int to, int token, int i,
					  float4 v)
{
	uint64_t *at = s.mailbox[to] + peer_place<W>(s, turn, s.rank, token, i);
	if constexpr (sizeof(W) == 4) {
		/* A damaged model's embedding may have such NaNs, and comes here as it is; conversion to 16 bits makes others of
		 * them, and so does this. */
		v = make_float4(v.x + 0.0f, v.y + 0.0f, v.z + 0.0f, v.w + 0.0f);
		const uint64_t words[2] = {(uint64_t)__float_as_uint(v.y) << 32 | __float_as_uint(v.x),
					   (uint64_t)__float_as_uint(v.w) << 32 | __float_as_uint(v.z)};
		peer_store(at, words);
	} else {
		W packed[4] = {from_float<W>(v.x), from_float<W>(v.y), from_float<W>(v.z), from_float<W>(v.w)};
		const uint2 halves = *(const uint2 *)packed;
		const uint64_t words[1] = {(uint64_t)halves.y << 32 | halves.x};
		peer_store(at, words);
	}
}

/* Empties the mailbox of the sum before: thread number `thread` of `threads` that share this. */
__device__ __forceinline__ void peer_empty_before(const struct peer_sum &s, uint32_t turn, int thread, int threads)
{
	const uint32_t before = turn ? turn - 1 : PEER_TURNS - 1;
	const int from_pieces = s.tokens * s.row / 2, used = s.before * s.row / 2;
	uint4 *const box = (uint4 *)s.mailbox[s.rank] + (size_t)before * s.ranks * from_pieces;
#pragma unroll 1
	for (int i = thread; i < s.ranks * used; i += threads)
		box[i / used * from_pieces + i % used] = make_uint4(UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
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

__device__ __forceinline__ bool peer_came(const uint64_t (&v)[1])
{
	return v[0] != PEER_EMPTY;
}

__device__ __forceinline__ bool peer_came(const uint64_t (&v)[2])
{
	return v[0] != PEER_EMPTY && v[1] != PEER_EMPTY;
}

/* Reads until the words have come, or are given up. */
template <int N>
__device__ __forceinline__ void peer_await(const struct peer_sum &s, const uint64_t *at, uint64_t (&v)[N], int from)
{
	if (peer_came(v))
		return;
	uint32_t start = peer_clock();
	do {
		peer_load(at, v);
		if (peer_gives_up(s, peer_clock() - start, from))
			break;
	} while (!peer_came(v));
}

/* Adds the four values in a rank's words. */
template <typename W, int N> __device__ __forceinline__ void peer_add(float4 &sum, const uint64_t (&v)[N])
{
	float y[4];
#pragma unroll
	for (int n = 0; n < N; n++) {
		word_to_floats((uint32_t)v[n], y + 4 / N * n, W());
		word_to_floats((uint32_t)(v[n] >> 32), y + 4 / N * n + 2 / N, W());
	}
	sum.x += y[0];
	sum.y += y[1];
	sum.z += y[2];
	sum.w += y[3];
}

/* A token's residual brought up to date: values 4i to 4i + 3 of the sum over the ranks, in their order, and bias, added
 * to what `old` has. ABREAST ranks' words are on their way at a time. */
template <typename W, int ABREAST>
__device__ __forceinline__ float4 peer_residual(const struct peer_sum &s, uint32_t turn, int token, int i,
						const float4 *old, const float *bias)
{
	constexpr int N = PEER_WORDS<W>;
	const uint64_t *from = s.mailbox[s.rank] + peer_place<W>(s, turn, 0, token, i);
	const int step = s.tokens * s.row;
	uint64_t v[ABREAST][N];
	float4 sum = make_float4(0, 0, 0, 0), x = sum;
	auto load = [&](int first) {
#pragma unroll
		for (int k = 0; k < ABREAST; k++)
			if (first + k < s.ranks)
				peer_load(from + k * step, v[k]);
	};

	load(0);
	if (old)
		x = *old;
	for (int first = 0;;) {
#pragma unroll
		for (int k = 0; k < ABREAST; k++) {
			if (first + k >= s.ranks)
				break;
			peer_await(s, from + k * step, v[k], first + k);
			peer_add<W>(sum, v[k]);
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

/* The same of FOURS i at a time, from `first` on and `step` apart, as far as they are below `end`; the others' x stays. `old`
 * is the row. */
template <typename W, int ABREAST, int FOURS>
__device__ __forceinline__ void peer_residuals(const struct peer_sum &s, uint32_t turn, int token, int first, int step, int end,
					       const float4 *old, const float *bias, float4 (&x)[FOURS])
{
	constexpr int N = PEER_WORDS<W>;
	const uint64_t *from = s.mailbox[s.rank] + peer_place<W>(s, turn, 0, token, first);
	const int rank_step = s.tokens * s.row;
	uint64_t v[FOURS][ABREAST][N];
	float4 sum[FOURS] = {};
	auto load = [&](int rank) {
#pragma unroll
		for (int f = 0; f < FOURS; f++)
#pragma unroll
			for (int k = 0; k < ABREAST; k++)
				if (first + f * step < end && rank + k < s.ranks)
					peer_load(from + f * step * N + k * rank_step, v[f][k]);
	};

	load(0);
#pragma unroll
	for (int f = 0; f < FOURS; f++)
		if (old && first + f * step < end)
			x[f] = old[first + f * step];
	for (int rank = 0;;) {
#pragma unroll
		for (int f = 0; f < FOURS; f++)
#pragma unroll
			for (int k = 0; k < ABREAST; k++) {
				if (first + f * step >= end || rank + k >= s.ranks)
					break;
				peer_await(s, from + f * step * N + k * rank_step, v[f][k], rank + k);
				peer_add<W>(sum[f], v[f][k]);
			}
		rank += ABREAST;
		from += ABREAST * rank_step;
		if (rank >= s.ranks)
			break;
		load(rank);
	}
#pragma unroll
	for (int f = 0; f < FOURS; f++) {
		if (first + f * step >= end)
			break;
		const float4 more = bias ? ((const float4 *)bias)[first + f * step] : make_float4(0, 0, 0, 0);
		x[f] = make_float4(x[f].x + (sum[f].x + more.x), x[f].y + (sum[f].y + more.y), x[f].z + (sum[f].z + more.z),
				   x[f].w + (sum[f].w + more.w));
	}
}

#endif
