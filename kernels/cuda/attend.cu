/*
 * attend.cu - attention of single tokens over the paged cache, split along the context.
 *
 * A block serves one token, one KV head, up to ATTEND_HEADS of the query heads that read it,
 * and one part of the context. A warp's lanes stand side by side along a key, so that a warp
 * takes several positions at a time; every group of lanes keeps its own running maximum, sum
 * and weighted values (Milakov and Gimelshein 2018), joined at the end in a fixed order. Lengths
 * come from device memory, so a recorded graph holds for every context of its bucket.
 *
 * Keys and values come through a ring in shared memory, where a thread reads nothing but what it
 * had copied there itself: no barriers, only more on its way than registers would hold. Those of
 * earlier steps are on their way before the kernel ahead has finished.
 *
 * The parts of a context are a cluster where the GPU knows clusters: every warp writes its
 * partial result into the shared memory of the blocks that join it, each for a share of the
 * dimensions. Elsewhere, and where a cluster would be too few blocks, parts go through global memory
 * and the block that finishes last joins them: which one that is makes no difference to the result.
 *
 * It serves every token of a step that has no better kernel, so it is also the reference for
 * the tiles of attend_tile.cu.
 */
#include <float.h>
#include <limits.h>

#include "kernels/cuda/attend_inbox.cuh"
#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/tensor.cuh"

/* Stages of the ring: as many as leave room for four blocks a multiprocessor, or for a block that has one
 * to itself. */
enum { WARPS = 4, THREADS = 32 * WARPS, STAGES = 3, STAGES_ALONE = 6 };

struct attend_parameters {
	const float *query;	/* [tokens][query_heads][head_stride] */
	const void *keys, *values;
	struct cuda_rows attention;
	const struct attend_single *single;
	const int32_t *table;
	const struct head_group *groups;
	float *split_sum;
	float2 *split_scale;
	int32_t *split_count;
	int query_heads, kv_heads, head_dim, head_stride, attention_stride, table_stride;
	int tiles;		/* of ATTEND_HEADS query heads, for the largest group */
	int window;
	float scale;		/* of q·k, times log2(e): exponents are powers of two */
	/* Where every sequence of the step brings one token: the sequence of the first; otherwise -1. */
	int first_sequence;
	int spread;		/* 2^spread blocks, a cluster, join their parts */
	bool alone;		/* STAGES_ALONE, not STAGES */
};

/* How a warp stands along keys and values of W; D: a power of two from head_dim up; G: query heads. */
template <typename W, int D, int G> struct attend_form {
	static constexpr int LANES = D / PIECE<W> < 32 ? D / PIECE<W> : 32; /* along one key */
	static constexpr int PIECES = D / PIECE<W> / LANES;	/* of a lane */
	static constexpr int N = PIECES * PIECE<W>;		/* dimensions of a lane */
	static constexpr int ABREAST = 32 / LANES;		/* positions of a warp side by side */
	/* Positions of a lane in one stage; those of all lanes lie in one block of the cache. */
	static constexpr int DEPTH = PIECES > 1 || ABREAST > KV_BLOCK / 4 ? 2 : 4;
	static constexpr int UNIT = DEPTH * ABREAST;
	static constexpr int STAGE = 2 * DEPTH * PIECES * THREADS; /* 16-byte pieces, of all warps */
	static_assert(KV_BLOCK % UNIT == 0, "a unit lies in one block of the cache");
	/* Of the scores g * DEPTH + u of a stage a lane gets HELD, all of one head; APART lanes have the same. */
	static constexpr int SCORES = G * DEPTH;
	static constexpr int HELD = SCORES > LANES ? SCORES / LANES : 1;
	static constexpr int APART = LANES * HELD / SCORES;
	static_assert(DEPTH % HELD == 0, "the scores that a lane holds are of one head");
	/* Lanes of a head, each with other positions: from 0 * APART on to this. */
	static constexpr int HEAD_LANES = DEPTH / HELD * APART;

	/* The i-th four dimensions of a lane, counted in fours. */
	static __device__ __forceinline__ int quad(int part, int i)
	{
		constexpr int quads = PIECE<W> / 4;
		return (part + i / quads * LANES) * quads + i % quads;
	}
};

/* ---- softmax ---------------------------------------------------------------------------------- */

/* The maximum of no positions. Not -inf: minus itself that were no number. */
__device__ constexpr float NOTHING = -FLT_MAX;

/* The running softmax of some query heads over the positions of a lane group: maximum and sum of the
 * lane's own head, the sum only over its own positions; weighted values of all. */
template <int G, int N> struct attend_state {
	float max, sum, value[G][N];
};

__device__ __forceinline__ bool between(int x, int low, int high)
{
	return (unsigned)(x - low) < (unsigned)(high - low);
}

/* The lane's dimensions of `count` query heads, zeros for further ones. */
template <typename W, int D, int G, int N>
__device__ __forceinline__ void attend_query(const struct attend_parameters &p, int token, int first, int count,
					     float (&query)[G][N])
{
	typedef attend_form<W, D, G> F;
	const float *from = p.query + ((size_t)token * p.query_heads + first) * p.head_stride;
#pragma unroll
	for (int g = 0; g < G; g++)
#pragma unroll
		for (int i = 0; i < N / 4; i++) {
			const int d = 4 * F::quad((int)(threadIdx.x % F::LANES), i);
			float4 q = make_float4(0, 0, 0, 0);
			if (g < count && d < p.head_stride)
				q = *(const float4 *)&from[g * p.head_stride + d];
			query[g][4 * i] = q.x;
			query[g][4 * i + 1] = q.y;
			query[g][4 * i + 2] = q.z;
			query[g][4 * i + 3] = q.w;
		}
}

/* Adds up VALUES values over groups of LANES lanes, both powers of two. Of the sums a lane has, at the front, as
 * many as there are for each, from its own share on: half the values change sides at each step, which takes far
 * fewer shuffles than all of them at every step. N: values that the lane still has. */
template <int LANES, int VALUES, int N = VALUES>
__device__ __forceinline__ void lane_sums(float (&v)[VALUES], int lane)
{
	constexpr int bit = LANES / 2;
	if constexpr (bit >= 1) {
		const bool upper = lane & bit;
		if constexpr (N == 1)
			v[0] += __shfl_xor_sync(0xffffffffu, v[0], bit);
#pragma unroll
		for (int i = 0; i < N / 2; i++) {
			float low = v[i], high = v[i + N / 2];
			v[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, bit);
		}
		lane_sums<bit, VALUES, N == 1 ? 1 : N / 2>(v, lane);
	}
}

/* Takes the positions of a stage into the state. `stage` is the thread's first piece there, `at` its
 * first position; those outside [begin, end) don't count, their values are zero. The query is scaled with its
 * products, so that nothing waits for it before the keys are there. */
template <typename W, int D, int G, int N>
__device__ __forceinline__ void attend_unit(const uint4 *stage, int at, int begin, int end, float scale,
					    const float (&query)[G][N], struct attend_state<G, N> &state)
{
	typedef attend_form<W, D, G> F;
	const int part = (int)(threadIdx.x % F::LANES), held = part / F::APART * F::HELD;
	float score[F::SCORES], top = state.max;
	auto fetch = [&](int u, int which, float (&to)[N]) {
#pragma unroll
		for (int i = 0; i < F::PIECES; i++)
			piece_to_floats<W>(stage[((u * F::PIECES + i) * 2 + which) * THREADS],
					   *(float(*)[PIECE<W>])(to + i * PIECE<W>));
	};

#pragma unroll
	for (int u = 0; u < F::DEPTH; u++) {
		float k[N];
		fetch(u, 0, k);
#pragma unroll
		for (int g = 0; g < G; g++) {
			float dot = 0;
#pragma unroll
			for (int i = 0; i < N; i++)
				dot += query[g][i] * k[i];
			score[g * F::DEPTH + u] = dot;
		}
	}
	lane_sums<F::LANES>(score, part);
#pragma unroll
	for (int h = 0; h < F::HELD; h++) {
		const bool there = between(at + (held + h) % F::DEPTH * F::ABREAST, begin, end);
		score[h] = there ? score[h] * scale : -INFINITY;
		top = fmaxf(top, score[h]);
	}
#pragma unroll
	for (int bit = F::APART; bit < F::HEAD_LANES; bit *= 2)
		top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, bit));
	const float factor = power_of_two(state.max - top);
	state.max = top;
	state.sum *= factor;
#pragma unroll
	for (int h = 0; h < F::HELD; h++) {
		score[h] = power_of_two(score[h] - top);
		state.sum += score[h];
	}
#pragma unroll
	for (int g = 0; g < G; g++) {
		const float times = __shfl_sync(0xffffffffu, factor, g * F::HEAD_LANES, F::LANES);
#pragma unroll
		for (int i = 0; i < N; i++)
			state.value[g][i] *= times;
	}
#pragma unroll
	for (int u = 0; u < F::DEPTH; u++) {
		float v[N];
		fetch(u, 1, v);
#pragma unroll
		for (int g = 0; g < G; g++) {
			const int n = g * F::DEPTH + u;
			const float weight = __shfl_sync(0xffffffffu, score[n % F::HELD], n / F::HELD * F::APART,
							 F::LANES);
#pragma unroll
			for (int i = 0; i < N; i++)
				state.value[g][i] += weight * v[i];
		}
	}
}

/* ---- joining ---------------------------------------------------------------------------------- */

/* Joins the warp's lane groups, and sends the result to the blocks that join it with others. */
template <typename W, int D, int G, int N>
__device__ __forceinline__ void attend_send(struct attend_inbox<WARPS, D, G> &inbox,
					    const struct attend_state<G, N> &state, int rank, int spread)
{
	typedef attend_form<W, D, G> F;
	const int lane = (int)(threadIdx.x % 32), warp = (int)(threadIdx.x / 32);
	float most = state.max, sum = state.sum;

#pragma unroll
	for (int bit = F::APART; bit < F::HEAD_LANES; bit *= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, bit);
#pragma unroll
	for (int bit = F::LANES; bit < 32; bit *= 2)
		most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, bit));
	const float factor = power_of_two(state.max - most);
	sum *= factor;
#pragma unroll
	for (int bit = F::LANES; bit < 32; bit *= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, bit);
#pragma unroll
	for (int g = 0; g < G; g++) {
		const float times = __shfl_sync(0xffffffffu, factor, g * F::HEAD_LANES, F::LANES);
		const float2 scale = make_float2(__shfl_sync(0xffffffffu, most, g * F::HEAD_LANES),
						 __shfl_sync(0xffffffffu, sum, g * F::HEAD_LANES));
		float v[N];
#pragma unroll
		for (int i = 0; i < N; i++) {
			v[i] = state.value[g][i] * times;
#pragma unroll
			for (int bit = F::LANES; bit < 32; bit *= 2)
				v[i] += __shfl_xor_sync(0xffffffffu, v[i], bit);
		}
		if (lane < F::LANES) {
#pragma unroll
			for (int i = 0; i < N / 4; i++) {
				unsigned place = (unsigned)F::quad(lane, i) << spread;
				inbox_put(&inbox.value[warp][g * (D / 4) + place % (D / 4) + rank],
					  make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]),
					  &inbox.arrived, place / (D / 4), spread);
			}
		}
		if (lane < 1 << spread)
			inbox_put(&inbox.scale[warp][g][rank], scale, &inbox.arrived, lane, spread);
	}
}

__device__ __forceinline__ float4 add_times(float4 a, float4 b, float factor)
{
	return make_float4(a.x + b.x * factor, a.y + b.y * factor, a.z + b.z * factor, a.w + b.w * factor);
}

/* Joins what is in the inbox: warps in their order, then blocks. Calls f(head, d, max, sum, value) for
 * every four dimensions from d on, one thread for each. */
template <int D, int G, typename F>
__device__ __forceinline__ void attend_join(const struct attend_inbox<WARPS, D, G> &inbox, int count, int rank,
					    int spread, F f)
{
	const unsigned blocks = 1u << spread;
	for (unsigned i = threadIdx.x; i / 32 * 32 < G * D / 4; i += THREADS) { /* whole warps: they shuffle */
		const int g = i / (D / 4), from = i & (blocks - 1);
		const bool there = g < count;
		float2 scale[WARPS];
		float max = NOTHING, sum = 0;
		float4 value = make_float4(0, 0, 0, 0);
#pragma unroll
		for (int k = 0; k < WARPS; k++) {
			scale[k] = there ? inbox.scale[k][g][from] : make_float2(NOTHING, 0);
			max = fmaxf(max, scale[k].x);
		}
		for (unsigned bit = 1; bit < blocks; bit *= 2)
			max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, bit));
#pragma unroll
		for (int k = 0; k < WARPS; k++) {
			float factor = power_of_two(scale[k].x - max);
			float4 v = there ? inbox.value[k][i] : make_float4(0, 0, 0, 0);
			sum += scale[k].y * factor;
			value = add_times(value, v, factor);
		}
		for (unsigned bit = 1; bit < blocks; bit *= 2) {
			sum += __shfl_xor_sync(0xffffffffu, sum, bit);
			value.x += __shfl_xor_sync(0xffffffffu, value.x, bit);
			value.y += __shfl_xor_sync(0xffffffffu, value.y, bit);
			value.z += __shfl_xor_sync(0xffffffffu, value.z, bit);
			value.w += __shfl_xor_sync(0xffffffffu, value.w, bit);
		}
		if (there && from == 0)
			f(g, 4 * (int)((rank * (D / 4) + i % (D / 4)) >> spread), max, sum, value);
	}
}

/* Four dimensions of the result. */
template <typename W>
__device__ __forceinline__ void attend_store(const struct attend_parameters &p, int token, int head, int d,
					     float sum, float4 value)
{
	const size_t to = (size_t)token * p.attention_stride + head * p.head_dim + d;
	const float v[4] = {value.x, value.y, value.z, value.w}, inverse = 1.0f / sum;
#pragma unroll
	for (int e = 0; e < 4; e++)
		if (d + e < p.head_dim)
			store_as<W>(p.attention.data, to + e, v[e] * inverse, p.attention.wide);
}

/* Leaves a block's part of the context in global memory. */
template <int D, int G>
__device__ __forceinline__ void attend_leave(const struct attend_parameters &p,
					     const struct attend_inbox<WARPS, D, G> &inbox, int unit, int count)
{
	const size_t place = ((size_t)unit * gridDim.y + blockIdx.y) * ATTEND_HEADS;
	attend_join(inbox, count, 0, 0, [&](int g, int d, float max, float sum, float4 value) {
		if (d < p.head_stride)
			*(float4 *)&p.split_sum[(place + g) * p.head_stride + d] = value;
		if (d == 0)
			p.split_scale[place + g] = make_float2(max, sum);
	});
}

/* Whether the block is the last of its unit's to come here, with all that the others left to be seen. */
__device__ __forceinline__ bool attend_is_last(const struct attend_parameters &p, int unit)
{
	__shared__ bool last;

	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0) {
		int before = atomicAdd(&p.split_count[unit], 1);
		last = before == (int)gridDim.y - 1;
		if (last)
			p.split_count[unit] = 0; /* for the next layer */
	}
	__syncthreads();
	if (last)
		__threadfence();
	return last;
}

/* Joins the parts of a context, some of them on their way at a time. The first is never empty. */
template <typename W>
__device__ __forceinline__ void attend_join_left(const struct attend_parameters &p, int unit, int token, int first,
						 int count)
{
	constexpr int parts = 8;
	const int quads = p.head_stride / 4, splits = (int)gridDim.y;
	for (int i = (int)threadIdx.x; i < count * quads; i += THREADS) {
		const int g = i / quads, d = i % quads * 4;
		const size_t place = (size_t)unit * splits * ATTEND_HEADS + g;
		float max = NOTHING, sum = 0;
		float4 value = make_float4(0, 0, 0, 0);
		for (int k = 0; k < splits; k += parts) {
			float2 scale[parts];
			float4 v[parts];
#pragma unroll
			for (int n = 0; n < parts; n++) {
				size_t from_part = place + (size_t)(k + n) * ATTEND_HEADS;
				bool there = k + n < splits;
				scale[n] = there ? __ldcg(&p.split_scale[from_part]) : make_float2(NOTHING, 0);
				v[n] = there ? __ldcg((const float4 *)&p.split_sum[from_part * p.head_stride + d])
					     : make_float4(0, 0, 0, 0);
			}
			float top = max;
#pragma unroll
			for (int n = 0; n < parts; n++)
				top = fmaxf(top, scale[n].x);
			float before = power_of_two(max - top);
			max = top;
			sum *= before;
			value = make_float4(value.x * before, value.y * before, value.z * before, value.w * before);
#pragma unroll
			for (int n = 0; n < parts; n++) {
				float factor = power_of_two(scale[n].x - top);
				sum += scale[n].y * factor;
				value = add_times(value, v[n], factor);
			}
		}
		attend_store<W>(p, token, first + g, d, sum, value);
	}
}

/* ---- the kernel ------------------------------------------------------------------------------- */

/* G: query heads of the block, at most. */
template <typename W, int D, int G>
__global__ void __launch_bounds__(THREADS, 4) attend_kernel(const __grid_constant__ struct attend_parameters p)
{
	typedef attend_form<W, D, G> F;
	extern __shared__ uint4 ring[];
	__shared__ struct attend_inbox<WARPS, D, G> inbox;
	const int lane = (int)(threadIdx.x % 32), warp = (int)(threadIdx.x / 32), part = lane % F::LANES;
	const int stages = p.alone ? STAGES_ALONE : STAGES;
	const int pieces = p.head_stride / PIECE<W>; /* of a key; those beyond D's lanes are none */

	allow_next();
	/* The step's numbers are there since before its first kernel. They come from far away: what the
	 * way to the first key needs is asked for on its own, so that it waits for nothing else. */
	const struct attend_single *entry = p.single + blockIdx.x;
	int sequence = p.first_sequence + (int)blockIdx.x, begin = 0;
	if (p.first_sequence < 0)
		sequence = entry->sequence;
	if (p.window > 0)
		begin = max(0, entry->position + 1 - p.window);
	/* The warp's units: every warps-th from `own` to `last`. Lane i has the cache's block of the i-th. */
	const int warps = (int)gridDim.y * WARPS;
	const int own = begin / F::UNIT + (int)blockIdx.y * WARPS + warp;
	const int32_t *table = p.table + (size_t)sequence * p.table_stride;
	auto blocks_from = [&](int n) {
		int i = (own + (n + lane) * warps) / (KV_BLOCK / F::UNIT);
		return i < p.table_stride ? table[i] : 0;
	};
	int blocks = blocks_from(0);
	const struct attend_single single = *entry;
	int kv_head = (int)blockIdx.z, tile = 0;
	if (p.tiles > 1) { /* nobody else waits for a division */
		kv_head /= p.tiles;
		tile = (int)blockIdx.z - kv_head * p.tiles;
	}
	const struct head_group group = p.groups[kv_head];
	inbox_open(inbox, p.spread);
	const int first = group.first + tile * G, count = min(G, group.count - tile * G), end = single.position + 1;
	const int last = count > 0 ? single.position / F::UNIT : -1;

	/* Starts the copy of the n-th unit into a stage, as far as its positions are in [low, high). */
	auto copy = [&](int n, int stage, int low, int high) {
		const int unit = own + n * warps;
		if (unit > last)
			return;
		const int block = __shfl_sync(0xffffffffu, blocks, n % 32), start = unit * F::UNIT + lane / F::LANES;
		const size_t from = (((size_t)block * p.kv_heads + kv_head) * KV_BLOCK + start % KV_BLOCK) * pieces +
				    part;
		const uint4 *key = (const uint4 *)p.keys + from, *value = (const uint4 *)p.values + from;
		uint4 *to = ring + stage * F::STAGE + threadIdx.x;
#pragma unroll
		for (int u = 0; u < F::DEPTH; u++) {
			const int at = start + u * F::ABREAST, past = u * F::ABREAST * pieces;
			if (!between(at, low, high))
				continue;
#pragma unroll
			for (int i = 0; i < F::PIECES; i++) {
				const bool there = between(at, begin, end) && part + i * F::LANES < pieces;
				uint4 *piece = &to[(u * F::PIECES + i) * 2 * THREADS];
				copy_piece(piece, key + past + i * F::LANES, there);
				copy_piece(piece + THREADS, value + past + i * F::LANES, there);
			}
		}
	};
	bool late = false;
	for (int n = 0; n < stages; n++) {
		const int unit = own + n * warps;
		copy(n, n, 0, single.ready);
		copy_commit();
		late = late || (unit <= last && (unit + 1) * F::UNIT > single.ready);
	}
	inbox_wait_open(p.spread);
	wait_for_previous();
	if (late) {
		for (int n = 0; n < stages; n++)
			copy(n, n, single.ready, INT_MAX);
		copy_commit();
	}

	float query[G][F::N];
	attend_query<W, D>(p, single.token, first, count, query);
	struct attend_state<G, F::N> state = {NOTHING};
	if (late)
		copy_wait<0>();
	for (int n = 0, stage = 0, unit = own; unit <= last; n++, unit += warps) {
		if (p.alone)
			copy_wait<STAGES_ALONE - 1>();
		else
			copy_wait<STAGES - 1>();
		attend_unit<W, D>(ring + stage * F::STAGE + threadIdx.x, unit * F::UNIT + lane / F::LANES, begin,
				  end, p.scale, query, state);
		if ((n + stages) % 32 == 0)
			blocks = blocks_from(n + stages);
		copy(n + stages, stage, 0, INT_MAX);
		copy_commit(); /* an empty one keeps the count of groups right */
		stage = stage + 1 < stages ? stage + 1 : 0;
	}

	const int rank = (int)blockIdx.y & ((1 << p.spread) - 1);
	attend_send<W>(inbox, state, rank, p.spread);
	inbox_wait(inbox, p.spread);
	if (gridDim.y == 1u << p.spread) {
		attend_join(inbox, count, rank, p.spread, [&](int g, int d, float, float sum, float4 value) {
			attend_store<W>(p, single.token, first + g, d, sum, value);
		});
		return;
	}
	const int place = ((int)blockIdx.x * p.kv_heads + kv_head) * p.tiles + tile;
	attend_leave(p, inbox, place, count);
	if (attend_is_last(p, place))
		attend_join_left<W>(p, place, single.token, first, count);
}

typedef void (*attend_function)(const struct attend_parameters);

/* Calls f(kernel, bytes of a stage of its ring) for the shape's kernel. */
template <typename F> static int for_attend(const struct cuda_backend *b, F f)
{
	const int dim = b->options.shape.head_dim;
	return for_dtype(b->options.shape.dtype, [&](auto w) {
		typedef decltype(w) W;
		auto with = [&](attend_function one, attend_function several, int stage) {
			return f(b->group_max == 1 ? one : several, (size_t)stage * sizeof(uint4));
		};
		return dim <= 32 ? with(attend_kernel<W, 32, 1>, attend_kernel<W, 32, ATTEND_HEADS>,
					attend_form<W, 32, 1>::STAGE)
		     : dim <= 64 ? with(attend_kernel<W, 64, 1>, attend_kernel<W, 64, ATTEND_HEADS>,
					attend_form<W, 64, 1>::STAGE)
		     : dim <= 128 ? with(attend_kernel<W, 128, 1>, attend_kernel<W, 128, ATTEND_HEADS>,
					 attend_form<W, 128, 1>::STAGE)
		     : with(attend_kernel<W, 256, 1>, attend_kernel<W, 256, ATTEND_HEADS>,
			    attend_form<W, 256, 1>::STAGE);
	});
}

int attend_prepare(struct cuda_backend *b, struct error *err)
{
	return for_attend(b, [&](attend_function kernel, size_t stage) {
		int stages = b->programmatic ? STAGES_ALONE : STAGES;
		return shared_prepare(b, kernel, stages * (int)stage, err);
	});
}

int attend_launch(struct cuda_backend *b, int32_t layer, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	const struct cuda_step *d = &b->step;
	struct attend_parameters p = {};

	if (!d->single_count)
		return 0;
	p.query = at<float>(b, l->query);
	p.keys = cache_keys(b, layer);
	p.values = cache_values(b, layer);
	p.attention = d->attention;
	p.single = d->single;
	p.table = d->table;
	p.groups = b->groups;
	p.split_sum = at<float>(b, l->split_sum);
	p.split_scale = at<float2>(b, l->split_scale);
	p.split_count = at<int32_t>(b, l->split_count);
	p.query_heads = s->query_heads;
	p.kv_heads = s->kv_heads;
	p.head_dim = s->head_dim;
	p.head_stride = l->head_stride;
	p.attention_stride = l->attention_stride;
	p.table_stride = d->table_stride;
	p.tiles = (b->group_max + ATTEND_HEADS - 1) / ATTEND_HEADS;
	p.window = s->windows[layer];
	p.scale = s->attention_scale * 1.44269504088896341f;
	p.first_sequence = d->single_count == d->sequences && d->sequences == d->tokens ? 0 : -1;
	while (1 << p.spread < d->cluster)
		p.spread++;
	dim3 grid((unsigned)d->single_count, (unsigned)d->splits, (unsigned)(p.kv_heads * p.tiles));
	p.alone = b->programmatic && grid.x * grid.y * grid.z <= (unsigned)b->multiprocessors;
	return for_attend(b, [&](attend_function kernel, size_t stage) {
		return cluster_launch(b, err, "attend_kernel", kernel, dim3(1, (unsigned)d->cluster), grid, THREADS,
				      (p.alone ? STAGES_ALONE : STAGES) * stage, p);
	});
}
