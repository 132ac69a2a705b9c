/*
 * gemv.cuh - what becomes of a product's sums: bias, rope, activation, residual, cache, other ranks.
 */
#ifndef TPRUN_CUDA_GEMV_CUH
#define TPRUN_CUDA_GEMV_CUH

#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/peers.cuh"

/* What the output needs besides the sum; read while weights are under way. */
struct gemv_extra {
	float add;
	float2 turn; /* cos and sin */
};

__device__ __forceinline__ struct gemv_extra gemv_extra_of(const struct gemv &p, int t, int row,
							    bool valid)
{
	struct gemv_extra e = {0, {1, 0}};
	if (!valid)
		return e;
	if (p.bias)
		e.add = p.bias[row];
	if (p.output == OUTPUT_ADD)
		e.add += ((const float *)p.target)[(size_t)t * p.target_stride + row];
	if (p.output == OUTPUT_ROPE && row < (p.query_heads + p.kv_heads) * p.head_dim)
		e.turn = p.rope[t * (p.head_dim / 2) + row % p.head_dim % (p.head_dim / 2)];
	return e;
}

/* One sum to where it belongs. Whole warps come here, lanes without a sum with valid false, because
 * four neighbours (PUSH), or the rows of a pair, PAIR lanes apart, meet through shuffles. r: the lane's
 * row among those that its warp handles. */
template <typename W, int PAIR, bool PUSH>
__device__ __forceinline__ void gemv_output(const struct gemv &p, int t, int r, int row, bool valid,
					    int slot, uint32_t epoch, struct gemv_extra e, float y)
{
	if (PUSH && p.output == OUTPUT_PEERS) {
		/* Four lanes hold four neighbours, and share the ranks among them. */
		y = valid ? y : 0.0f;
		float4 v = make_float4(__shfl_sync(0xffffffffu, y, 0, 4), __shfl_sync(0xffffffffu, y, 1, 4),
				       __shfl_sync(0xffffffffu, y, 2, 4), __shfl_sync(0xffffffffu, y, 3, 4));
		const bool four = __shfl_sync(0xffffffffu, valid, 0, 4);
		for (int to = r % 4; four && to < p.sum.ranks; to += 4)
			peer_push<W>(p.sum, epoch, to, t, row / 4, v);
		return;
	}
	y += e.add;
	float other = __shfl_xor_sync(0xffffffffu, y, PAIR);
	size_t to = (size_t)t * p.target_stride + row;

	if (!valid)
		return;
	switch (p.output) {
	case OUTPUT_PEERS:
		break;
	case OUTPUT_ADD:
	case OUTPUT_FLOAT:
		((float *)p.target)[to] = y;
		break;
	case OUTPUT_DTYPE:
		((W *)p.target)[to] = from_float<W>(y);
		break;
	case OUTPUT_GATE_UP:
		if (r % (2 * PAIR) < PAIR)
			store_as<W>(p.target, to, silu(y) * other, p.target_wide);
		break;
	case OUTPUT_ROPE: {
		int head = row / p.head_dim, i = row - head * p.head_dim;
		y = r % (2 * PAIR) < PAIR ? y * e.turn.x - other * e.turn.y : y * e.turn.x + other * e.turn.y;
		if (head < p.query_heads) {
			float *query = (float *)p.target;
			query[((size_t)t * p.query_heads + head) * p.head_stride + i] = y;
			break;
		}
		head -= p.query_heads;
		W *cache = (W *)(head < p.kv_heads ? p.keys : p.values);
		head -= head < p.kv_heads ? 0 : p.kv_heads;
		size_t place = ((size_t)(slot / KV_BLOCK) * p.kv_heads + head) * KV_BLOCK +
			       slot % KV_BLOCK;
		cache[place * p.head_stride + i] = from_float<W>(y);
		break;
	}
	}
}

#endif
