/*
 * attend_tile.cu - attention of prompts, on tensor cores, for 16-bit models.
 *
 * A block takes ATTEND_TILE tokens of one sequence and one query head, and walks over the
 * context in tiles of as many keys: scores, running softmax and weighted values stay in
 * registers (Dao 2022), keys and values come through shared memory, the next tile on its way
 * while this one is used. A warp owns 16 of the tokens. Products are mma.m16n8k16 with float32
 * sums; the weights of the softmax are rounded to the model's type between the two products,
 * as are the queries before. Every order is fixed.
 */
#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/tensor.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, KEYS = 64, SKEW = 8 };

struct tile_parameters {
	const float *query;	/* [tokens][query_heads][head_stride] */
	const void *keys, *values;
	struct cuda_rows attention;
	const struct attend_tile *tiles;
	const int32_t *positions, *table;
	const struct head_group *groups;
	int query_heads, kv_heads, group_max, head_dim, head_stride, attention_stride, table_stride;
	int window;
	float scale;		/* of q·k, times log2(e) */
};

/* Starts the copy of keys and values of positions [start, start + KEYS), zeros from `end` on. */
template <typename W, int D>
__device__ __forceinline__ void tile_copy(const struct tile_parameters &p, const int32_t *table, int kv_head,
					  int start, int end, W (*keys)[D + SKEW], W (*values)[D + SKEW])
{
	const int pieces = p.head_stride / 8;
	for (int i = (int)threadIdx.x; i < KEYS * pieces; i += THREADS) {
		int row = i / pieces, column = i % pieces * 8, position = start + row;
		bool there = position < end;
		int block = there ? table[position / KV_BLOCK] : 0;
		size_t from = (((size_t)block * p.kv_heads + kv_head) * KV_BLOCK + position % KV_BLOCK) *
			      p.head_stride + column;
		copy_piece(&keys[row][column], (const W *)p.keys + from, there);
		copy_piece(&values[row][column], (const W *)p.values + from, there);
	}
	copy_commit();
}

template <typename W, int D>
__global__ void __launch_bounds__(THREADS) attend_tile_kernel(const __grid_constant__ struct tile_parameters p)
{
	extern __shared__ uint4 shared[];
	W(*keys)[KEYS][D + SKEW] = (W(*)[KEYS][D + SKEW])shared;	 /* two tiles of keys, */
	W(*values)[KEYS][D + SKEW] = keys + 2;				 /* two of values */
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	const int kv_head = (int)blockIdx.y / p.group_max, member = (int)blockIdx.y % p.group_max;

	allow_next();
	wait_for_previous();
	if (member >= p.groups[kv_head].count)
		return;
	const struct attend_tile tile = p.tiles[blockIdx.x];
	const int head = p.groups[kv_head].first + member;
	const int32_t *table = p.table + (size_t)tile.sequence * p.table_stride;
	const int first_position = p.positions[tile.first], end = first_position + tile.count;
	const int row = warp * 16 + lane / 4; /* and row + 8: this lane's tokens of the tile */
	const int column = lane % 4 * 2;
	const int begin = p.window > 0 ? max(0, first_position + 1 - p.window) / KEYS * KEYS : 0;

	/* Dimensions past the head's own stay zero: no copy touches them. */
	if (p.head_stride < D) {
		const int all = 4 * KEYS * (D + SKEW) * (int)sizeof(W) / 16;
		for (int i = (int)threadIdx.x; i < all; i += THREADS)
			shared[i] = uint4();
		__syncthreads();
	}
	tile_copy<W, D>(p, table, kv_head, begin, end, keys[0], values[0]);

	uint32_t query[D / 16][4];
#pragma unroll
	for (int k = 0; k < D / 16; k++)
#pragma unroll
		for (int i = 0; i < 4; i++) {
			int token = row + i % 2 * 8, d = k * 16 + i / 2 * 8 + column;
			float2 q = make_float2(0, 0);
			if (token < tile.count && d < p.head_stride)
				q = *(const float2 *)&p.query[((size_t)(tile.first + token) * p.query_heads +
							       head) * p.head_stride + d];
			query[k][i] = pack_pair(q.x * p.scale, q.y * p.scale, W());
		}

	float out[D / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
	int stage = 0;
	for (int start = begin; start < end; start += KEYS, stage ^= 1) {
		/* An empty commit at the end keeps the count of groups right. */
		if (start + KEYS < end)
			tile_copy<W, D>(p, table, kv_head, start + KEYS, end, keys[stage ^ 1],
					values[stage ^ 1]);
		else
			copy_commit();
		copy_wait<1>();
		__syncthreads();

		float score[KEYS / 8][4] = {};
#pragma unroll
		for (int k = 0; k < D / 16; k++) {
			if (k * 16 >= p.head_stride)
				break;
#pragma unroll
			for (int n = 0; n < KEYS / 8; n += 2) {
				uint32_t b[4];
				load_matrices(b, &keys[stage][n * 8 + lane / 16 * 8 + lane % 8]
						      [k * 16 + lane / 8 % 2 * 8]);
				multiply(score[n], query[k], b[0], b[1], W());
				multiply(score[n + 1], query[k], b[2], b[3], W());
			}
		}
		if (start + KEYS > first_position + warp * 16 || p.window > 0) {
#pragma unroll
			for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
				for (int i = 0; i < 4; i++) {
					int key = start + n * 8 + column + i % 2;
					int position = first_position + row + i / 2 * 8;
					if (key > position || (p.window > 0 && key <= position - p.window))
						score[n][i] = -INFINITY;
				}
		}
#pragma unroll
		for (int h = 0; h < 2; h++) { /* the lane's two rows */
			float top = max[h];
#pragma unroll
			for (int n = 0; n < KEYS / 8; n++)
				top = fmaxf(top, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
			top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
			top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
			/* A window may hide all keys so far. */
			float base = top == -INFINITY ? 0.0f : top;
			float factor = exp2f(max[h] - base);
			max[h] = top;
			sum[h] *= factor;
#pragma unroll
			for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
				for (int e = 2 * h; e < 2 * h + 2; e++) {
					score[n][e] = exp2f(score[n][e] - base);
					sum[h] += score[n][e];
				}
#pragma unroll
			for (int n = 0; n < D / 8; n++) {
				out[n][2 * h] *= factor;
				out[n][2 * h + 1] *= factor;
			}
		}
#pragma unroll
		for (int k = 0; k < KEYS / 16; k++) {
			uint32_t weight[4] = {
				pack_pair(score[2 * k][0], score[2 * k][1], W()),
				pack_pair(score[2 * k][2], score[2 * k][3], W()),
				pack_pair(score[2 * k + 1][0], score[2 * k + 1][1], W()),
				pack_pair(score[2 * k + 1][2], score[2 * k + 1][3], W()),
			};
#pragma unroll
			for (int n = 0; n < D / 8; n += 2) {
				if (n * 8 >= p.head_stride)
					break;
				uint32_t b[4];
				load_matrices_turned(b, &values[stage][k * 16 + lane / 8 % 2 * 8 + lane % 8]
							       [n * 8 + lane / 16 * 8]);
				multiply(out[n], weight, b[0], b[1], W());
				multiply(out[n + 1], weight, b[2], b[3], W());
			}
		}
		__syncthreads(); /* before the copy after next overwrites this tile */
	}

#pragma unroll
	for (int h = 0; h < 2; h++) {
		int token = row + 8 * h;
		sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
		sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
		if (token >= tile.count)
			continue;
		float inverse = 1.0f / sum[h];
		size_t to = (size_t)(tile.first + token) * p.attention_stride + head * p.head_dim + column;
#pragma unroll
		for (int n = 0; n < D / 8; n++) {
			float2 pair = make_float2(out[n][2 * h] * inverse, out[n][2 * h + 1] * inverse);
			if (n * 8 + column >= p.head_dim)
				continue;
			if (p.attention.wide)
				*(float2 *)((float *)p.attention.data + to + n * 8) = pair;
			else
				*(uint32_t *)((W *)p.attention.data + to + n * 8) =
					pack_pair(pair.x, pair.y, W());
		}
	}
}

template <typename W, int D> static size_t tile_shared(void)
{
	return 4 * sizeof(W[KEYS][D + SKEW]);
}

bool attend_tile_fits(const struct cuda_backend *b)
{
	return b->options.shape.dtype != DTYPE_F32 && b->options.shape.head_dim <= 128;
}

int attend_tile_prepare(struct cuda_backend *b, struct error *err)
{
	if (!attend_tile_fits(b))
		return 0;
	return for_tensor(b, [&](auto w, auto d) {
		typedef decltype(w) W;
		constexpr int D = decltype(d)::D;
		return cuda_ok(b, err,
			       cudaFuncSetAttribute(attend_tile_kernel<W, D>,
						    cudaFuncAttributeMaxDynamicSharedMemorySize,
						    (int)tile_shared<W, D>()),
			       "cudaFuncSetAttribute") ? 0 : -1;
	});
}

int attend_tile_launch(struct cuda_backend *b, int32_t layer, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	struct tile_parameters p = {};

	if (!b->step.tile_count)
		return 0;
	p.query = at<float>(b, l->query);
	p.keys = cache_keys(b, layer);
	p.values = cache_values(b, layer);
	p.attention = b->step.attention;
	p.tiles = b->step.tiles;
	p.positions = b->step.positions;
	p.table = b->step.table;
	p.groups = b->groups;
	p.query_heads = s->query_heads;
	p.kv_heads = s->kv_heads;
	p.group_max = b->group_max;
	p.head_dim = s->head_dim;
	p.head_stride = l->head_stride;
	p.attention_stride = l->attention_stride;
	p.table_stride = b->step.table_stride;
	p.window = s->windows[layer];
	p.scale = s->attention_scale * 1.44269504088896341f;
	dim3 grid((unsigned)b->step.tile_count, (unsigned)(p.kv_heads * p.group_max));
	return for_tensor(b, [&](auto w, auto d) {
		typedef decltype(w) W;
		constexpr int D = decltype(d)::D;
		return kernel_launch(b, err, "attend_tile_kernel", attend_tile_kernel<W, D>, grid, THREADS,
				     tile_shared<W, D>(), p);
	});
}
