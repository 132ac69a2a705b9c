/*
 * gemv.cuh - what products of few tokens share: which rows are summed together, the norm of their input, and what
 * becomes of their sums: bias, rope, activation, residual, cache, other ranks.
 */
#ifndef TPRUN_CUDA_GEMV_CUH
#define TPRUN_CUDA_GEMV_CUH

#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/peers.cuh"
#include "kernels/cuda/tensor.cuh"

/* ---- which rows --------------------------------------------------------------------------------- */

enum { ROWS = 4 }; /* of a group, which is what is summed at a time */

/* Which rows make a group: those at first, first + 1, first + jump and first + jump + 1, where
 * first = group / run * run_rows + group % run * step. Outputs that combine two rows have the
 * pair `jump` apart; for the others jump is 2. */
struct gemv_rows {
	int groups, run, run_rows, step, jump;
	int end;	/* rows (of a half, where rows are paired) */
	bool paired;
};

__device__ __forceinline__ int gemv_first(const struct gemv_rows &m, int group)
{
	int turn = group < m.run ? 0 : (int)((unsigned)group / (unsigned)m.run); /* a division takes its time */
	return turn * m.run_rows + (group - turn * m.run) * m.step;
}

/* Row r of a group. */
__device__ __forceinline__ int gemv_row(const struct gemv_rows &m, int group, int r)
{
	return gemv_first(m, group) + r % 2 + r / 2 * m.jump;
}

/* Whether that is one of the matrix. */
__device__ __forceinline__ bool gemv_row_exists(const struct gemv_rows &m, int row, int r)
{
	return row - (m.paired ? r / 2 * m.jump : 0) < m.end;
}

static inline struct gemv_rows gemv_rows_of(const struct gemv *p)
{
	struct gemv_rows m = {(p->rows + ROWS - 1) / ROWS, INT32_MAX, 0, ROWS, 2, p->rows, false};
	if (p->output == OUTPUT_GATE_UP) {
		m.end = m.jump = p->rows / 2;
		m.step = 2;
		m.groups = (m.end + 1) / 2;
		m.paired = true;
	}
	if (p->output == OUTPUT_ROPE) { /* a head's halves turn together; head_dim % 4 is 0 */
		m.run = p->head_dim / ROWS;
		m.run_rows = p->head_dim;
		m.step = 2;
		m.jump = p->head_dim / 2;
		m.paired = true;
	}
	return m;
}

/* ---- the input ----------------------------------------------------------------------------------- */

enum { INPUT_WARPS = 24 }; /* of a block, at most */

/* Elements 4i to 4i + 3 of a row of the residual, brought up to date where RECEIVE, of FOURS i from `first` on that are `step`
 * apart; past the row's end x stays. RANKS: ABREAST of peer_residual, as many as there are registers for. */
template <typename W, bool RECEIVE, int RANKS, int FOURS>
__device__ __forceinline__ void gemv_residual(const struct gemv &p, uint32_t turn, int row, int first, int step, float4 (&x)[FOURS])
{
	const float4 *in = (const float4 *)((const float *)p.input + (size_t)row * p.columns);
	if constexpr (RECEIVE) {
		const int end = (p.hidden + 3) / 4;
		if constexpr (FOURS > 1)
			peer_residuals<W, RANKS>(p.sum, turn, row, first, step, end, p.add ? in : NULL, p.sum_bias, x);
		else if (first < end)
			x[0] = peer_residual<W, RANKS>(p.sum, turn, row, first, p.add ? in + first : NULL, p.sum_bias);
	} else {
#pragma unroll
		for (int k = 0; k < FOURS; k++)
			if (first + k * step < p.columns / 4)
				x[k] = in[first + k * step];
	}
}

/* Calls each(t, i, x) with elements 4i to 4i + 3 of every token's residual; from p.tokens on with none. The block's threads
 * share the work, each with elements that are always its own. Leaves sums of squares in `scratch`, which, on 16 bytes, has T *
 * INPUT_WARPS: see gemv_norm_factor. turn: see peer_turn; WARPS: of a block, at most, a multiple of 4; FOURS: of what is
 * received, on a thread's way at a time.
 *
 * Weights are under way meanwhile, and nothing here should wait for them. The compiler gives loads that are used at once
 * a scoreboard of their own as long as there is one, of six; what shares that of the weights waits for these too. */
template <typename W, int T, bool RECEIVE, int RANKS, int FOURS, int WARPS, typename E>
__device__ __forceinline__ void gemv_residual_input(const struct gemv &p, uint32_t turn, float *scratch, E each)
{
	constexpr int ABREAST = RECEIVE ? FOURS : 2;
	const int fours = p.columns / 4, count = (int)(blockDim.x * blockDim.y);
	const int at = (int)(threadIdx.y * blockDim.x + threadIdx.x);
	if (RECEIVE)
		peer_time(p.sum, at, true);
	for (int t = 0; t < T; t++) {
		int row = t < p.tokens && p.gather ? p.gather[t] : t;
		float squares = 0;
		auto pass = [&](int first) {
			float4 x[ABREAST] = {};
			gemv_residual<W, RECEIVE, RANKS>(p, turn, row, first, count, x);
#pragma unroll
			for (int k = 0; k < ABREAST; k++) {
				int i = first + k * count;
				if (i >= fours)
					break;
				/* Spelled out, for the same bits from all these kernels. */
				squares = fmaf(x[k].x, x[k].x, squares);
				squares = fmaf(x[k].y, x[k].y, squares);
				squares = fmaf(x[k].z, x[k].z, squares);
				squares = fmaf(x[k].w, x[k].w, squares);
				each(t, i, x[k]);
				if (RECEIVE && p.keep && blockIdx.x == 0)
					((float4 *)p.keep)[(size_t)row * fours + i] = x[k];
			}
		};
		int first = t < p.tokens ? at : fours;
		if (!RECEIVE && first < fours) { /* by itself: in the loop it would be asked for only when the weights have come */
			pass(first);
			first += ABREAST * count;
		}
#pragma unroll 1
		for (; first < fours; first += ABREAST * count)
			pass(first);
		squares = warp_sum(squares);
		if (at % 32 == 0)
			scratch[t * INPUT_WARPS + at / 32] = squares;
		if (at >= count / 32 && at < WARPS)
			scratch[t * INPUT_WARPS + at] = 0;
	}
	if (RECEIVE)
		peer_time(p.sum, at, false);
}

/* What a token's residual is to be multiplied with in its norm. */
template <int WARPS>
__device__ __forceinline__ float gemv_norm_factor(const struct gemv &p, const float *scratch, int t)
{
	float squares = 0;
	/* By fours: single loads are so many that some would share a scoreboard with the weights. */
#pragma unroll
	for (int i = 0; i < WARPS / 4; i++) {
		const float4 four = ((const float4 *)(scratch + t * INPUT_WARPS))[i];
		squares += four.x;
		squares += four.y;
		squares += four.z;
		squares += four.w;
	}
	return rsqrtf(squares / (float)p.hidden + p.epsilon);
}

/* After a barrier behind gemv_residual_input, where RECEIVE: all words have come to this block. */
__device__ __forceinline__ void gemv_received(const struct gemv &p, uint32_t turn)
{
	const int count = (int)(blockDim.x * blockDim.y), at = (int)(threadIdx.y * blockDim.x + threadIdx.x);
	peer_empty_before(p.sum, turn, at + (int)blockIdx.x * count, count * (int)gridDim.x);
}

/* Calls put(t, i, v) with elements 4i to 4i + 3 of every token's norm, zeros from p.tokens on. Between the sums of
 * squares, which take a barrier, and the norm, elements wait in keep(t, i), where KEEP; otherwise they are read again.
 * `norm` is the norm's weight; the rest is as in gemv_residual_input. */
template <typename W, int T, bool RECEIVE, bool KEEP, int RANKS, int WARPS, typename K, typename P>
__device__ __forceinline__ void gemv_norm_input(const struct gemv &p, uint32_t turn, const float4 *norm,
						float *scratch, K keep, P put)
{
	const int fours = p.columns / 4, count = (int)(blockDim.x * blockDim.y);
	const int at = (int)(threadIdx.y * blockDim.x + threadIdx.x);
	gemv_residual_input<W, T, RECEIVE, RANKS, 1, WARPS>(p, turn, scratch, [&](int t, int i, float4 x) {
		if (KEEP)
			keep(t, i) = x;
	});
	copy_wait<0>(); /* of the norm's weight a thread reads nothing but its own copies */
	__syncthreads();
	if (RECEIVE)
		gemv_received(p, turn);
	for (int t = 0; t < T; t++) {
		int row = t < p.tokens && p.gather ? p.gather[t] : t;
		const float scale = gemv_norm_factor<WARPS>(p, scratch, t);
#pragma unroll 1
		for (int i = at; i < fours; i += count) {
			float4 x[1] = {}, w = norm[i];
			if (t < p.tokens) {
				if constexpr (KEEP)
					x[0] = keep(t, i);
				else
					gemv_residual<W, RECEIVE, RANKS>(p, turn, row, i, 0, x);
			}
			put(t, i, make_float4(x[0].x * scale * w.x, x[0].y * scale * w.y, x[0].z * scale * w.z, x[0].w * scale * w.w));
		}
	}
}

/* Calls put(t, i, v) with elements 4i to 4i + 3 of every token's float input, of which no norm is wanted. */
template <int T, typename P> __device__ __forceinline__ void gemv_wide_input(const struct gemv &p, P put)
{
	constexpr int ABREAST = 2; /* loads of a thread on their way */
	const int fours = p.columns / 4, count = (int)(blockDim.x * blockDim.y);
	const int at = (int)(threadIdx.y * blockDim.x + threadIdx.x);
	auto pass = [&](int t, int first) {
		float4 x[ABREAST];
#pragma unroll
		for (int k = 0; k < ABREAST; k++)
			if (first + k * count < fours)
				x[k] = ((const float4 *)p.input)[(size_t)t * fours + first + k * count];
#pragma unroll
		for (int k = 0; k < ABREAST; k++)
			if (first + k * count < fours)
				put(t, first + k * count, x[k]);
	};
#pragma unroll
	for (int t = 0; t < T; t++) {
		/* The first two by themselves: in the loop they would be asked for only when the weights have come. */
		pass(t, at);
		pass(t, at + ABREAST * count);
#pragma unroll 1
		for (int first = at + 2 * ABREAST * count; first < fours; first += ABREAST * count)
			pass(t, first);
	}
}

/* ---- the output ----------------------------------------------------------------------------------- */

/* What the output needs besides the sum; read while weights are under way. */
struct gemv_extra {
	float bias, old;
	float2 turn; /* cos and sin */
};

/* Where a row's cos and sin are, or NULL. Divisions take their time: to be asked for while nothing waits for it. */
__device__ __forceinline__ const float2 *gemv_turn_at(const struct gemv &p, int t, int row, bool valid)
{
	if (!valid || p.output != OUTPUT_ROPE || row >= (p.query_heads + p.kv_heads) * p.head_dim)
		return NULL;
	return p.rope + t * (p.head_dim / 2) + row % p.head_dim % (p.head_dim / 2);
}

__device__ __forceinline__ struct gemv_extra gemv_extra_of(const struct gemv &p, int t, int row, bool valid,
							    const float2 *turn)
{
	struct gemv_extra e = {0, 0, {1, 0}};
	if (!valid)
		return e;
	if (p.bias)
		e.bias = p.bias[row];
	if (p.output == OUTPUT_ADD)
		e.old = ((const float *)p.target)[(size_t)t * p.target_stride + row];
	if (turn)
		e.turn = *turn;
	return e;
}

/* One sum to where it belongs. Whole warps come here, lanes without a sum with valid false, because
 * four neighbours (PUSH), or the rows of a pair, PAIR lanes apart, meet through shuffles. r: the lane's
 * row among those that its warp handles. */
template <typename W, int PAIR, bool PUSH>
__device__ __forceinline__ void gemv_output(const struct gemv &p, int t, int r, int row, bool valid,
					    int slot, uint32_t turn, struct gemv_extra e, float y)
{
	if (PUSH && p.output == OUTPUT_PEERS) {
		/* Four lanes hold four neighbours, and share the ranks among them. */
		y = valid ? y : 0.0f;
		float4 v = make_float4(__shfl_sync(0xffffffffu, y, 0, 4), __shfl_sync(0xffffffffu, y, 1, 4),
				       __shfl_sync(0xffffffffu, y, 2, 4), __shfl_sync(0xffffffffu, y, 3, 4));
		const bool four = __shfl_sync(0xffffffffu, valid, 0, 4);
		for (int to = r % 4; four && to < p.sum.ranks; to += 4)
			peer_push<W>(p.sum, turn, to, t, row / 4, v);
		return;
	}
	y += e.bias + e.old;
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
