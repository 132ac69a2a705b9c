/*
 * attend_stream.cu - attention of many single tokens over the paged cache, for 16-bit models.
 *
 * A warp takes one token, one KV head with all query heads that read it, and a piece of the
 * context, and works alone: blocks of the cache stream through its own part of shared memory,
 * the next ones on their way while this one is used. The query heads are the rows of the
 * tensor cores' products, most of them idle, which costs nothing here: all that counts is that
 * keys and values are read once and that enough of them are on the way. Running softmax as in
 * attend_tile.cu, with the same roundings.
 *
 * The host cuts contexts into pieces (step.cu), so that long ones do not outlast the rest. The
 * warp that finishes a token's last piece joins them in their order: which one that is makes no
 * difference to the result.
 */
#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/tensor.cuh"

enum { WARPS = 2, THREADS = 32 * WARPS, STAGES = 3, SKEW = 8, ROWS = 16 };

struct stream_parameters {
	const float *query;	/* [tokens][query_heads][head_stride] */
	const void *keys, *values;
	struct cuda_rows attention;
	const struct attend_piece *pieces;
	const int32_t *positions, *sequence_of, *table;
	const struct head_group *groups;
	float *split_sum;	/* [slots][query_heads][head_stride] */
	float2 *split_scale;	/* [slots][query_heads] */
	int32_t *split_count;	/* [slots][kv_heads][tiles], zero between launches */
	int units;		/* pieces * kv_heads * tiles */
	int query_heads, kv_heads, head_dim, head_stride, attention_stride, table_stride;
	int tiles;		/* of ROWS query heads, for the largest group */
	int window;
	float scale;		/* of q·k, times log2(e) */
};

/* A block's keys and values in shared memory. */
template <typename W, int D> struct stream_stage {
	W keys[KV_BLOCK][D + SKEW], values[KV_BLOCK][D + SKEW];
};

/* Starts the copy of block `block`; zeros for its positions from `count` on. */
template <typename W, int D>
__device__ __forceinline__ void stream_copy(const struct stream_parameters &p, struct stream_stage<W, D> &to,
					    int block, int kv_head, int count, int lane)
{
	const size_t from = ((size_t)block * p.kv_heads + kv_head) * KV_BLOCK * p.head_stride;
#pragma unroll
	for (int i = 0; i < KV_BLOCK * (D / 8) / 32; i++) {
		int row = (lane + 32 * i) / (D / 8), column = lane % (D / 8) * 8;
		if (column >= p.head_stride)
			continue;
		size_t at = from + row * p.head_stride + column;
		copy_piece(&to.keys[row][column], (const W *)p.keys + at, row < count);
		copy_piece(&to.values[row][column], (const W *)p.values + at, row < count);
	}
}

/* Joins a token's pieces for the heads [first, first + count). */
template <typename W>
__device__ __forceinline__ void stream_join(const struct stream_parameters &p, const struct attend_piece &piece,
					    int first, int count, int lane)
{
	for (int head = first; head < first + count; head++) {
		const size_t step = (size_t)p.query_heads, from = piece.first_slot * step + head;
		float max = -INFINITY;
		for (int k = 0; k < piece.slots; k++)
			max = fmaxf(max, __ldcg(&p.split_scale[from + k * step]).x);
		for (int d = lane; d < p.head_dim; d += 32) {
			float sum = 0, value = 0;
			for (int k = 0; k < piece.slots; k++) {
				float2 scale = __ldcg(&p.split_scale[from + k * step]);
				float factor = exp2f(scale.x - max);
				sum += scale.y * factor;
				value += __ldcg(&p.split_sum[(from + k * step) * p.head_stride + d]) * factor;
			}
			store_as<W>(p.attention.data,
				    (size_t)piece.token * p.attention_stride + head * p.head_dim + d,
				    value / sum, p.attention.wide);
		}
	}
}

/* HALVES: 1 where no group has more than 8 query heads, else 2. */
template <typename W, int D, int HALVES>
__global__ void __launch_bounds__(THREADS)
attend_stream_kernel(const __grid_constant__ struct stream_parameters p)
{
	extern __shared__ uint4 shared[];
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	struct stream_stage<W, D> *stages = (struct stream_stage<W, D> *)shared + warp * STAGES;
	const int unit = (int)blockIdx.x * WARPS + warp;

	allow_next();
	wait_for_previous();
	if (unit >= p.units)
		return; /* warps never meet: no barrier is missed */
	const struct attend_piece piece = p.pieces[unit / (p.kv_heads * p.tiles)];
	const int kv_head = unit / p.tiles % p.kv_heads, tile = unit % p.tiles;
	const int first = p.groups[kv_head].first + tile * ROWS;
	const int count = min((int)ROWS, p.groups[kv_head].count - tile * ROWS);
	if (count <= 0)
		return;
	const int32_t *table = p.table + (size_t)p.sequence_of[piece.token] * p.table_stride;
	const int end = piece.end;
	const int begin = p.window > 0 ? max(piece.begin, p.positions[piece.token] + 1 - p.window) : piece.begin;
	const int first_block = begin / KV_BLOCK;
	const int blocks = begin < end ? (end - 1) / KV_BLOCK + 1 - first_block : 0;
	const int row = lane / 4, column = lane % 4 * 2;
	int ids = 0; /* of 32 blocks, one a lane */

	/* Dimensions past the head's own stay zero: no copy touches them. */
	if (p.head_stride < D) {
		for (int i = lane; i < STAGES * (int)sizeof *stages / 16; i += 32)
			((uint4 *)stages)[i] = uint4();
		__syncwarp();
	}
	auto copy = [&](int n) {
		if (n < blocks) {
			if (n % 32 == 0)
				ids = n + lane < blocks ? table[first_block + n + lane] : 0;
			int block = __shfl_sync(0xffffffffu, ids, n % 32);
			stream_copy<W, D>(p, stages[n % STAGES], block, kv_head,
					  end - (first_block + n) * KV_BLOCK, lane);
		}
		copy_commit(); /* an empty one keeps the count of groups right */
	};
	for (int n = 0; n < STAGES - 1; n++)
		copy(n);

	uint32_t query[D / 16][4] = {};
#pragma unroll
	for (int k = 0; k < D / 16; k++)
#pragma unroll
		for (int i = 0; i < 4; i++) {
			int head = row + i % 2 * 8, d = k * 16 + i / 2 * 8 + column;
			if (i % 2 < HALVES && head < count && d < p.head_stride) {
				float2 q = *(const float2 *)&p.query[((size_t)piece.token * p.query_heads +
								      first + head) * p.head_stride + d];
				query[k][i] = pack_pair(q.x * p.scale, q.y * p.scale, W());
			}
		}

	float out[D / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
	for (int n = 0; n < blocks; n++) {
		copy(n + STAGES - 1);
		copy_wait<STAGES - 1>();
		__syncwarp();
		const struct stream_stage<W, D> &stage = stages[n % STAGES];
		const int start = (first_block + n) * KV_BLOCK;

		float score[2][4] = {};
#pragma unroll
		for (int k = 0; k < D / 16; k++) {
			uint32_t b[4];
			load_matrices(b, &stage.keys[lane / 16 * 8 + lane % 8][k * 16 + lane / 8 % 2 * 8]);
			multiply(score[0], query[k], b[0], b[1], W());
			multiply(score[1], query[k], b[2], b[3], W());
		}
		if (start < begin || start + KV_BLOCK > end) {
#pragma unroll
			for (int i = 0; i < 8; i++) {
				int key = start + i / 4 * 8 + column + i % 2;
				if (key < begin || key >= end)
					score[i / 4][i % 4] = -INFINITY;
			}
		}
		/* At least one key of the block counts, so the maximum is a number. */
		uint32_t weight[4] = {};
#pragma unroll
		for (int h = 0; h < HALVES; h++) { /* the lane's rows */
			float top = max[h];
#pragma unroll
			for (int i = 0; i < 4; i++)
				top = fmaxf(top, score[i / 2][2 * h + i % 2]);
			top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
			top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
			float factor = exp2f(max[h] - top);
			max[h] = top;
			sum[h] *= factor;
#pragma unroll
			for (int i = 0; i < 2; i++) {
				float low = exp2f(score[i][2 * h] - top), high = exp2f(score[i][2 * h + 1] - top);
				sum[h] += low + high;
				weight[2 * i + h] = pack_pair(low, high, W());
			}
#pragma unroll
			for (int k = 0; k < D / 8; k++) {
				out[k][2 * h] *= factor;
				out[k][2 * h + 1] *= factor;
			}
		}
#pragma unroll
		for (int k = 0; k < D / 8; k += 2) {
			uint32_t b[4];
			load_matrices_turned(b, &stage.values[lane / 8 % 2 * 8 + lane % 8]
							     [k * 8 + lane / 16 * 8]);
			multiply(out[k], weight, b[0], b[1], W());
			multiply(out[k + 1], weight, b[2], b[3], W());
		}
		__syncwarp(); /* before the next copy overwrites this block */
	}

#pragma unroll
	for (int h = 0; h < HALVES; h++) {
		sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
		sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
		int head = first + row + 8 * h;
		if (row + 8 * h >= count)
			continue;
		float factor = piece.slots ? 1.0f : 1.0f / sum[h];
		size_t to = (size_t)piece.token * p.attention_stride + head * p.head_dim + column;
		size_t slot = (size_t)piece.slot * p.query_heads + head;
		if (piece.slots && column == 0)
			p.split_scale[slot] = make_float2(max[h], sum[h]);
#pragma unroll
		for (int k = 0; k < D / 8; k++) {
			float2 pair = make_float2(out[k][2 * h] * factor, out[k][2 * h + 1] * factor);
			if (k * 8 + column >= p.head_dim)
				continue;
			if (piece.slots)
				*(float2 *)&p.split_sum[slot * p.head_stride + k * 8 + column] = pair;
			else if (p.attention.wide)
				*(float2 *)((float *)p.attention.data + to + k * 8) = pair;
			else
				*(uint32_t *)((W *)p.attention.data + to + k * 8) = pack_pair(pair.x, pair.y, W());
		}
	}
	if (!piece.slots)
		return;

	bool last = false;
	__threadfence();
	__syncwarp();
	if (lane == 0) {
		int32_t *done = &p.split_count[(piece.first_slot * p.kv_heads + kv_head) * p.tiles + tile];
		last = atomicAdd(done, 1) == piece.slots - 1;
		if (last)
			*done = 0; /* for the next layer */
	}
	if (__shfl_sync(0xffffffffu, last, 0)) {
		__threadfence();
		stream_join<W>(p, piece, first, count, lane);
	}
}

template <typename W, int D> static auto stream_kernel_of(const struct cuda_backend *b)
{
	return b->group_max <= 8 ? attend_stream_kernel<W, D, 1> : attend_stream_kernel<W, D, 2>;
}

template <typename W, int D> static size_t stream_shared(void)
{
	return WARPS * STAGES * sizeof(struct stream_stage<W, D>);
}

bool attend_stream_fits(const struct cuda_backend *b)
{
	return b->options.shape.dtype != DTYPE_F32 && b->options.shape.head_dim <= 128;
}

int attend_stream_tiles(const struct cuda_backend *b)
{
	return (b->group_max + ROWS - 1) / ROWS;
}

int attend_stream_prepare(struct cuda_backend *b, struct error *err)
{
	if (!attend_stream_fits(b))
		return 0;
	return for_tensor(b, [&](auto w, auto d) {
		typedef decltype(w) W;
		constexpr int D = decltype(d)::D;
		return shared_prepare(b, stream_kernel_of<W, D>(b), (int)stream_shared<W, D>(), err);
	});
}

int attend_stream_launch(struct cuda_backend *b, int32_t layer, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	struct stream_parameters p = {};

	if (!b->step.piece_count)
		return 0;
	p.query = at<float>(b, l->query);
	p.keys = cache_keys(b, layer);
	p.values = cache_values(b, layer);
	p.attention = b->step.attention;
	p.pieces = b->step.pieces;
	p.positions = b->step.positions;
	p.sequence_of = b->step.sequence_of;
	p.table = b->step.table;
	p.groups = b->groups;
	p.split_sum = at<float>(b, l->split_sum);
	p.split_scale = at<float2>(b, l->split_scale);
	p.split_count = at<int32_t>(b, l->split_count);
	p.tiles = attend_stream_tiles(b);
	p.units = b->step.piece_count * s->kv_heads * p.tiles;
	p.query_heads = s->query_heads;
	p.kv_heads = s->kv_heads;
	p.head_dim = s->head_dim;
	p.head_stride = l->head_stride;
	p.attention_stride = l->attention_stride;
	p.table_stride = b->step.table_stride;
	p.window = s->windows[layer];
	p.scale = s->attention_scale * 1.44269504088896341f;
	return for_tensor(b, [&](auto w, auto d) {
		typedef decltype(w) W;
		constexpr int D = decltype(d)::D;
		return kernel_launch(b, err, "attend_stream_kernel", stream_kernel_of<W, D>(b),
				     dim3((unsigned)((p.units + WARPS - 1) / WARPS)), THREADS,
				     stream_shared<W, D>(), p);
	});
}
