/*
 * attend.cu - attention of single tokens over the paged cache, split along the context.
 *
 * A block serves one token, one KV head, up to ATTEND_HEADS of the query heads that read it,
 * and one part of the context. A warp's lanes stand side by side along a key, so that a warp
 * takes several positions at a time; every group of lanes keeps its own running maximum, sum
 * and weighted values (Milakov and Gimelshein 2018), joined at the end in a fixed order. Where
 * the context is split, the block that finishes last joins the parts: which one that is makes
 * no difference to the result. Lengths come from device memory, so a recorded graph holds for
 * every context of its bucket.
 *
 * It serves every token of a step that has no better kernel, so it is also the reference for
 * the tiles of attend_tile.cu.
 */
#include "kernels/cuda/internal.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS };

struct attend_parameters {
	const float *query;	/* [tokens][query_heads][head_stride] */
	const void *keys, *values;
	struct cuda_rows attention;
	const int32_t *single, *positions, *sequence_of, *table;
	const struct head_group *groups;
	float *split_sum;
	float2 *split_scale;
	int32_t *split_count;
	int query_heads, kv_heads, head_dim, head_stride, attention_stride, table_stride;
	int tiles;		/* of ATTEND_HEADS query heads, for the largest group */
	int window;
	float scale;		/* of q·k, times log2(e): exponents are powers of two */
};

/* The running softmax of one query head over some positions. */
template <int N> struct partial {
	float max, sum, value[N];
};

template <int N> __device__ __forceinline__ void partial_scale(struct partial<N> &p, float max)
{
	/* Nothing seen yet on both sides: -inf minus -inf must not make a NaN. */
	float factor = max == -INFINITY ? 1.0f : exp2f(p.max - max);
	p.max = max;
	p.sum *= factor;
#pragma unroll
	for (int i = 0; i < N; i++)
		p.value[i] *= factor;
}

/* Joins the lane groups of a warp: lanes `bit` apart hold the same dimensions. */
template <int N> __device__ __forceinline__ void partial_join(struct partial<N> &p, int lanes)
{
	for (int bit = lanes; bit < 32; bit *= 2) {
		partial_scale(p, fmaxf(p.max, __shfl_xor_sync(0xffffffffu, p.max, bit)));
		p.sum += __shfl_xor_sync(0xffffffffu, p.sum, bit);
#pragma unroll
		for (int i = 0; i < N; i++)
			p.value[i] += __shfl_xor_sync(0xffffffffu, p.value[i], bit);
	}
}

/* W: element; D: a power of two from head_dim up; G: query heads of the block, at most. */
template <typename W, int D, int G>
__global__ void __launch_bounds__(THREADS) attend_kernel(const __grid_constant__ struct attend_parameters p)
{
	constexpr int LANES = D / PIECE<W> < 32 ? D / PIECE<W> : 32; /* along one key */
	constexpr int PIECES = D / PIECE<W> / LANES;		      /* of a lane */
	constexpr int N = PIECES * PIECE<W>;
	constexpr int DEPTH = PIECES == 1 ? 4 : 2;	/* positions of a lane under way */
	constexpr int ABREAST = 32 / LANES;		/* positions of a warp side by side */
	__shared__ float joined[WARPS][G][D];
	__shared__ float2 joined_scale[WARPS][G];
	__shared__ bool last;

	allow_next();
	/* The step's numbers are there since before its first kernel. */
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	const int kv_head = (int)blockIdx.z / p.tiles, tile = (int)blockIdx.z % p.tiles;
	const int first = p.groups[kv_head].first + tile * G;
	const int count = min(G, p.groups[kv_head].count - tile * G);
	if (count <= 0) {
		wait_for_previous();
		return;
	}
	const int token = p.single[blockIdx.x], position = p.positions[token];
	const int32_t *table = p.table + (size_t)p.sequence_of[token] * p.table_stride;
	const int begin = p.window > 0 ? max(0, position + 1 - p.window) : 0;
	const int splits = (int)gridDim.y;
	const int share = (position + 1 - begin + splits - 1) / splits;
	const int from = begin + (int)blockIdx.y * share, end = min(from + share, position + 1);
	const int pieces = p.head_stride / PIECE<W>; /* of a key; those beyond D's lanes are none */
	const int part = lane % LANES;

	/* So are the keys and values of earlier steps: into L2, whatever else is in the lines. */
	if (part % 8 == 0)
		for (int k = from + warp * ABREAST + lane / LANES; k < end; k += WARPS * ABREAST) {
			size_t offset = (((size_t)table[k / KV_BLOCK] * p.kv_heads + kv_head) * KV_BLOCK +
					 k % KV_BLOCK) * pieces + part;
			for (int i = 0; i < PIECES && part + i * LANES < pieces; i++) {
				prefetch((const uint4 *)p.keys + offset + i * LANES);
				prefetch((const uint4 *)p.values + offset + i * LANES);
			}
		}
	wait_for_previous();

	float query[G][N];
#pragma unroll
	for (int g = 0; g < G; g++)
#pragma unroll
		for (int i = 0; i < N; i++) {
			int d = (part + i / PIECE<W> * LANES) * PIECE<W> + i % PIECE<W>;
			query[g][i] = g < count && d < p.head_stride
				? p.query[((size_t)token * p.query_heads + first + g) * p.head_stride + d] *
					  p.scale
				: 0.0f;
		}

	struct partial<N> state[G];
#pragma unroll
	for (int g = 0; g < G; g++) {
		state[g].max = -INFINITY;
		state[g].sum = 0;
#pragma unroll
		for (int i = 0; i < N; i++)
			state[g].value[i] = 0;
	}
	for (int base = from; base < end; base += DEPTH * WARPS * ABREAST) {
		uint4 key[DEPTH][PIECES], value[DEPTH][PIECES];
		bool there[DEPTH];
#pragma unroll
		for (int u = 0; u < DEPTH; u++) {
			int at_position = base + (u * WARPS + warp) * ABREAST + lane / LANES;
			there[u] = at_position < end;
			int block = there[u] ? table[at_position / KV_BLOCK] : 0;
			size_t offset = (((size_t)block * p.kv_heads + kv_head) * KV_BLOCK +
					 at_position % KV_BLOCK) * pieces + part;
#pragma unroll
			for (int i = 0; i < PIECES; i++) {
				bool load = there[u] && part + i * LANES < pieces;
				key[u][i] = load ? ((const uint4 *)p.keys)[offset + i * LANES] : uint4();
				value[u][i] = load ? ((const uint4 *)p.values)[offset + i * LANES] : uint4();
			}
		}
		float score[DEPTH][G];
#pragma unroll
		for (int u = 0; u < DEPTH; u++) {
			float k[N];
#pragma unroll
			for (int i = 0; i < PIECES; i++)
				piece_to_floats<W>(key[u][i], *(float(*)[PIECE<W>])(k + i * PIECE<W>));
#pragma unroll
			for (int g = 0; g < G; g++) {
				float dot = 0;
#pragma unroll
				for (int i = 0; i < N; i++)
					dot += query[g][i] * k[i];
#pragma unroll
				for (int bit = LANES / 2; bit; bit /= 2)
					dot += __shfl_xor_sync(0xffffffffu, dot, bit);
				score[u][g] = there[u] ? dot : -INFINITY;
			}
		}
#pragma unroll
		for (int g = 0; g < G; g++) {
			float max = state[g].max;
#pragma unroll
			for (int u = 0; u < DEPTH; u++)
				max = fmaxf(max, score[u][g]);
			partial_scale(state[g], max);
		}
#pragma unroll
		for (int u = 0; u < DEPTH; u++) {
			float v[N];
#pragma unroll
			for (int i = 0; i < PIECES; i++)
				piece_to_floats<W>(value[u][i], *(float(*)[PIECE<W>])(v + i * PIECE<W>));
#pragma unroll
			for (int g = 0; g < G; g++) {
				float weight = there[u] ? exp2f(score[u][g] - state[g].max) : 0.0f;
				state[g].sum += weight;
#pragma unroll
				for (int i = 0; i < N; i++)
					state[g].value[i] += weight * v[i];
			}
		}
	}
#pragma unroll
	for (int g = 0; g < G; g++) {
		partial_join(state[g], LANES);
		if (lane < LANES) {
#pragma unroll
			for (int i = 0; i < N; i++)
				joined[warp][g][(part + i / PIECE<W> * LANES) * PIECE<W> + i % PIECE<W>] =
					state[g].value[i];
			if (lane == 0)
				joined_scale[warp][g] = make_float2(state[g].max, state[g].sum);
		}
	}
	__syncthreads();

	/* The warps' parts, then either the result or one part of the context. */
	const int unit = ((int)blockIdx.x * p.kv_heads + kv_head) * p.tiles + tile;
	for (int i = (int)threadIdx.x; i < count * D; i += THREADS) {
		int g = i / D, d = i % D;
		float max = -INFINITY, sum = 0, value = 0;
		for (int k = 0; k < WARPS; k++)
			max = fmaxf(max, joined_scale[k][g].x);
		for (int k = 0; k < WARPS && max != -INFINITY; k++) {
			float factor = exp2f(joined_scale[k][g].x - max);
			sum += joined_scale[k][g].y * factor;
			value += joined[k][g][d] * factor;
		}
		if (splits == 1) {
			if (d < p.head_dim)
				store_as<W>(p.attention.data,
					    (size_t)token * p.attention_stride + (first + g) * p.head_dim + d,
					    value / sum, p.attention.wide);
			continue;
		}
		size_t place = ((size_t)unit * splits + blockIdx.y) * ATTEND_HEADS + g;
		if (d < p.head_stride)
			p.split_sum[place * p.head_stride + d] = value;
		if (d == 0)
			p.split_scale[place] = make_float2(max, sum);
	}
	if (splits == 1)
		return;

	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0) {
		int before = atomicAdd(&p.split_count[unit], 1);
		last = before == splits - 1;
		if (last)
			p.split_count[unit] = 0; /* for the next layer */
	}
	__syncthreads();
	if (!last)
		return;
	__threadfence();
	/* Some parts' numbers on their way at a time. The first part is never empty. */
	constexpr int parts = 8;
	const int quads = p.head_stride / 4;
	for (int i = (int)threadIdx.x; i < count * quads; i += THREADS) {
		const int g = i / quads, d = i % quads * 4;
		const size_t place = (size_t)unit * splits * ATTEND_HEADS + g;
		float max = -INFINITY, sum = 0, value[4] = {};
		for (int k = 0; k < splits; k += parts) {
			float2 scale[parts];
			float4 v[parts];
#pragma unroll
			for (int n = 0; n < parts; n++) {
				size_t from_part = place + (size_t)(k + n) * ATTEND_HEADS;
				bool there = k + n < splits;
				scale[n] = there ? __ldcg(&p.split_scale[from_part]) : make_float2(-INFINITY, 0);
				v[n] = there ? __ldcg((const float4 *)&p.split_sum[from_part * p.head_stride + d])
					     : make_float4(0, 0, 0, 0);
			}
			float top = max;
#pragma unroll
			for (int n = 0; n < parts; n++)
				top = fmaxf(top, scale[n].x);
			float before = exp2f(max - top);
			max = top;
			sum *= before;
#pragma unroll
			for (int e = 0; e < 4; e++)
				value[e] *= before;
#pragma unroll
			for (int n = 0; n < parts; n++) {
				float factor = exp2f(scale[n].x - top);
				sum += scale[n].y * factor;
				value[0] += v[n].x * factor;
				value[1] += v[n].y * factor;
				value[2] += v[n].z * factor;
				value[3] += v[n].w * factor;
			}
		}
		const size_t to = (size_t)token * p.attention_stride + (first + g) * p.head_dim + d;
#pragma unroll
		for (int e = 0; e < 4; e++)
			if (d + e < p.head_dim)
				store_as<W>(p.attention.data, to + e, value[e] / sum, p.attention.wide);
	}
}

typedef void (*attend_function)(const struct attend_parameters);

template <typename W, int D> static attend_function attend_kernel_of(const struct cuda_backend *b)
{
	return b->group_max == 1 ? attend_kernel<W, D, 1> : attend_kernel<W, D, ATTEND_HEADS>;
}

template <typename W> static attend_function attend_kernel_for(const struct cuda_backend *b)
{
	int dim = b->options.shape.head_dim;
	return dim <= 32 ? attend_kernel_of<W, 32>(b) : dim <= 64 ? attend_kernel_of<W, 64>(b)
	     : dim <= 128 ? attend_kernel_of<W, 128>(b) : attend_kernel_of<W, 256>(b);
}

int attend_launch(struct cuda_backend *b, int32_t layer, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	struct attend_parameters p = {};

	if (!b->part->singles.count)
		return 0;
	p.query = at<float>(b, l->query);
	p.keys = cache_keys(b, layer);
	p.values = cache_values(b, layer);
	p.attention = b->step.attention;
	p.single = b->step.single + b->part->singles.first;
	p.positions = b->step.positions;
	p.sequence_of = b->step.sequence_of;
	p.table = b->step.table;
	p.groups = b->groups;
	p.split_sum = at<float>(b, l->split_sum);
	p.split_scale = at<float2>(b, l->split_scale);
	p.split_count = at<int32_t>(b, l->split_count);
	p.query_heads = s->query_heads;
	p.kv_heads = s->kv_heads;
	p.head_dim = s->head_dim;
	p.head_stride = l->head_stride;
	p.attention_stride = l->attention_stride;
	p.table_stride = b->step.table_stride;
	p.tiles = (b->group_max + ATTEND_HEADS - 1) / ATTEND_HEADS;
	p.window = s->windows[layer];
	p.scale = s->attention_scale * 1.44269504088896341f;
	return for_dtype(s->dtype, [&](auto w) {
		typedef decltype(w) W;
		dim3 grid((unsigned)b->part->singles.count, (unsigned)b->step.splits,
			  (unsigned)(p.kv_heads * p.tiles));
		return kernel_launch(b, err, "attend_kernel", attend_kernel_for<W>(b), grid, THREADS, 0, p);
	});
}
