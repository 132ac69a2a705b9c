/*
 * gemv.cu - matrix times one or two vectors (float32: up to eight): where decoding spends its time.
 * More of them are gemv_tensor.cu's, matrices of few bytes gemv_parts.cu's, and bfloat16 as a rule gemv_packed.cu's.
 *
 * The weights are read once and from far away, so all that counts is having enough of them in
 * flight. A team of threads takes ROWS rows of the matrix at a time; its threads stand side by side
 * along the columns, each with ROWS * DEPTH loads of 16 bytes under way. A load's register is
 * filled again as soon as it is used, with the rows that the team takes next, so that the
 * memory stays busy during the sums over the team, and the first loads start before the
 * kernel ahead has finished (weights depend on nothing). The input, small, is kept in shared
 * memory, as float where that fits, so that nothing is rounded for the product; where it is a
 * norm of the residual, every block computes that norm itself: cheaper than one more kernel. Several
 * teams make a block and share its input, for which all of them work together: with a block for each
 * team a 7B model's kernels took 2 to 3 us more. Where the residual owes a sum over the
 * ranks, every block also takes that itself: see peers.cuh. All sums have one fixed order.
 *
 * Fetching the next rows into L2 besides, at a kernel's start or while attention or a sum leaves the
 * memory idle, was tried and brought nothing, or cost up to 8%.
 */
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/peers.cuh"
#include "kernels/cuda/tensor.cuh"

enum {
	DEPTH = 2, THREADS_MAX = 256, WARPS_MAX = THREADS_MAX / 32, TEAMS_MAX = 3,
};

/* Adds up N values (a power of two up to 32) over a warp. Lane i ends with the sum of value
 * i / (32 / N): half the values change sides at each step, which takes N - 1 shuffles in place
 * of N for every step. */
template <int N, int HALF = N / 2>
__device__ __forceinline__ float warp_sums(float (&v)[N], int lane)
{
	if constexpr (HALF >= 1) {
		constexpr int bit = 32 * HALF / N;
		const bool upper = lane & bit;
#pragma unroll
		for (int i = 0; i < HALF; i++) {
			float low = v[i], high = v[i + HALF];
			float got = __shfl_xor_sync(0xffffffffu, upper ? low : high, bit);
			v[i] = (upper ? high : low) + got;
		}
		return warp_sums<N, HALF / 2>(v, lane);
	} else {
#pragma unroll
		for (int bit = 16 / N; bit >= 1; bit /= 2)
			v[0] += __shfl_xor_sync(0xffffffffu, v[0], bit);
		return v[0];
	}
}

/* Shared memory holds a row of input as X, float or W, in as many planes as it takes 16-byte
 * pieces of X to match one of W: neighbouring threads find neighbouring pieces in each. */
template <typename W, typename X> constexpr int PLANES = PIECE<W> / PIECE<X>;

/* Elements 4i to 4i + 3 of a row. */
template <typename W, typename X>
__device__ __forceinline__ void input_put(uint4 *row, int pieces, int i, float4 v)
{
	if constexpr (sizeof(X) == sizeof(float)) {
		((float4 *)row)[i % PLANES<W, X> * pieces + i / PLANES<W, X>] = v;
	} else {
		X *out = (X *)row + 4 * i;
		out[0] = from_float<X>(v.x);
		out[1] = from_float<X>(v.y);
		out[2] = from_float<X>(v.z);
		out[3] = from_float<X>(v.w);
	}
}

/* The elements that meet piece i of the weights. */
template <typename W, typename X>
__device__ __forceinline__ void input_get(const uint4 *row, int pieces, int i, float (&x)[PIECE<W>])
{
#pragma unroll
	for (int plane = 0; plane < PLANES<W, X>; plane++)
		piece_to_floats<X>(row[plane * pieces + i], *(float(*)[PIECE<X>])(x + plane * PIECE<X>));
}

/* Element pieces 4i to 4i + 3 of a row as they were put, X being float. */
__device__ __forceinline__ float4 &input_wide(uint4 *row, int pieces, int planes, int i)
{
	return ((float4 *)row)[i % planes * pieces + i / planes];
}

/* Fills shared memory with the tokens' input rows; rows beyond p.tokens become zero. `norm` is the
 * norm's weight, by then in shared memory where there was room. */
template <typename W, typename X, int T, bool RECEIVE>
__device__ __forceinline__ void gemv_input(const struct gemv &p, uint32_t turn, uint4 *shared, const float4 *norm,
					   float *scratch)
{
	constexpr bool WIDE = sizeof(X) == sizeof(float);
	const int pieces = p.columns / PIECE<W>, row_pieces = p.columns / PIECE<X>;
	const int count = (int)(blockDim.x * blockDim.y), at = (int)(threadIdx.y * blockDim.x + threadIdx.x);

	if (!p.norm) {
#pragma unroll
		for (int t = 0; t < T; t++)
			for (int i = at; i < row_pieces; i += count)
				shared[t * row_pieces + i % PLANES<W, X> * pieces + i / PLANES<W, X>] =
					t < p.tokens ? ((const uint4 *)p.input)[t * row_pieces + i] : uint4();
		return;
	}
	/* Float rows wait in shared memory for their norm; others are read again, which rounds them but once. */
	gemv_norm_input<W, T, RECEIVE, WIDE, 2, INPUT_WARPS>(p, turn, norm, scratch,
		[&](int t, int i) -> float4 & { return input_wide(shared + t * row_pieces, pieces, PLANES<W, float>, i); },
		[&](int t, int i, float4 v) { input_put<W, X>(shared + t * row_pieces, pieces, i, v); });
}

/* Teams of a block for T tokens, at most: what the registers are for. */
template <int T> constexpr int TEAMS = T == 1 ? TEAMS_MAX : 2;

/* Meets the other threads of the team. */
__device__ __forceinline__ void team_barrier(int team, int threads)
{
	asm volatile("bar.sync %0, %1;" :: "r"(1 + team), "r"(threads) : "memory");
}

/* RECEIVE: p.receive, in kernels of its own, for want of registers. */
template <typename W, typename X, int T, bool RECEIVE>
__global__ void __launch_bounds__(THREADS_MAX *TEAMS<T>, 1)
gemv_kernel(const __grid_constant__ struct gemv p, const __grid_constant__ struct gemv_rows m, bool norm_shared)
{
	extern __shared__ uint4 shared[];
	__shared__ float sums[TEAMS<T>][2][WARPS_MAX][ROWS * T];
	alignas(16) __shared__ float scratch[T * INPUT_WARPS];
	const int threads = (int)blockDim.x, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	const int team = (int)threadIdx.y, teams = (int)(gridDim.x * blockDim.y);
	const int first_group = team * (int)gridDim.x + (int)blockIdx.x;
	const int pieces = p.columns / PIECE<W>;
	const int passes = (pieces + threads * DEPTH - 1) / (threads * DEPTH);
	uint32_t row_at[ROWS]; /* in pieces, of which a matrix has fewer than 2^32 */
	uint4 w[DEPTH][ROWS];

	/* What is loaded runs one pass ahead of what is computed. */
	int load_group = first_group, load_pass = 0;
	auto aim = [&]() {
		int first = gemv_first(m, load_group);
#pragma unroll
		for (int r = 0; r < ROWS; r++) {
			/* Past the end the last row is read again; its result is dropped. */
			int row = min(first + r % 2 + r / 2 * m.jump, p.rows - 1);
			row_at[r] = (uint32_t)row * (uint32_t)pieces + threadIdx.x;
		}
	};
	auto load = [&](int d, int r) {
		int i = (load_pass * DEPTH + d) * threads;
		bool there = load_group < m.groups && i + (int)threadIdx.x < pieces;
		w[d][r] = there ? load_weights((const uint4 *)p.weights + (row_at[r] + (uint32_t)i)) : uint4();
	};
	auto advance = [&]() {
		if (++load_pass < passes)
			return;
		load_pass = 0;
		load_group += teams;
		if (load_group < m.groups)
			aim();
	};

	allow_next_unless(p.publish);
	if (load_group < m.groups)
		aim();
#pragma unroll
	for (int d = 0; d < DEPTH; d++)
#pragma unroll
		for (int r = 0; r < ROWS; r++)
			load(d, r);
	advance();
	const float4 *norm = (const float4 *)p.norm;
	if (norm_shared) { /* there is room for it */
		float4 *room = (float4 *)(shared + T * (p.columns / PIECE<X>));
		for (int i = team * threads + (int)threadIdx.x; i < p.columns / 4;
		     i += threads * (int)blockDim.y)
			copy_piece(room + i, norm + i, true);
		copy_commit();
		norm = room;
	}
	wait_for_previous();
	const uint32_t turn = RECEIVE || p.output == OUTPUT_PEERS ? peer_turn(p.sum) : 0;
	gemv_input<W, X, T, RECEIVE>(p, turn, shared, norm, scratch);
	__syncthreads();

	/* Lane i of the first warp writes row i % ROWS for token i / ROWS. */
	const int out_t = lane / ROWS, out_r = lane % ROWS;
	const bool writer = warp == 0 && out_t < T && out_t < p.tokens;
	const int slot = writer && p.slots ? p.slots[out_t] : 0;
	int buffer = 0;

	for (int group = first_group; group < m.groups; group += teams, buffer ^= 1) {
		float sum[ROWS * T] = {};
		const int row = gemv_row(m, group, out_r);
		const bool valid = writer && gemv_row_exists(m, row, out_r);
		struct gemv_extra extra = gemv_extra_of(p, out_t, row, valid, gemv_turn_at(p, out_t, row, valid));

		for (int pass = 0; pass < passes; pass++) {
#pragma unroll
			for (int d = 0; d < DEPTH; d++) {
				/* Past the row's end the weights are zero: any input will do. */
				int i = (pass * DEPTH + d) * threads + (int)threadIdx.x;
				i = i < pieces ? i : 0;
				float a[ROWS][PIECE<W>];
#pragma unroll
				for (int r = 0; r < ROWS; r++) {
					piece_to_floats<W>(w[d][r], a[r]);
					load(d, r);
				}
#pragma unroll
				for (int t = 0; t < T; t++) {
					float x[PIECE<W>];
					input_get<W, X>(shared + t * (p.columns / PIECE<X>), pieces, i, x);
#pragma unroll
					for (int r = 0; r < ROWS; r++)
#pragma unroll
						for (int e = 0; e < PIECE<W>; e++)
							sum[t * ROWS + r] += a[r][e] * x[e];
				}
			}
			advance();
		}
		float mine = warp_sums<ROWS * T>(sum, lane);
		constexpr int share = 32 / (ROWS * T);
		if (lane % share == 0)
			sums[team][buffer][warp][lane / share] = mine;
		team_barrier(team, threads);
		if (warp == 0) {
			float y = 0;
			if (lane < ROWS * T)
				for (int i = 0; i < threads / 32; i++)
					y += sums[team][buffer][i][lane];
			gemv_output<W, 2, !RECEIVE>(p, out_t, out_r, row, valid, slot, turn, extra, y);
		}
	}
	if (warp == 0)
		publish_results(p.publish);
}

typedef void (*gemv_function)(const struct gemv, const struct gemv_rows, bool norm_shared);

template <typename W, typename X, bool RECEIVE> static gemv_function gemv_kernel_of(int tokens)
{
	if constexpr (sizeof(W) == sizeof(float))
		if (tokens > 2)
			return tokens <= 4 ? gemv_kernel<W, X, 4, RECEIVE> : gemv_kernel<W, X, 8, RECEIVE>;
	return tokens <= 1 ? gemv_kernel<W, X, 1, RECEIVE> : gemv_kernel<W, X, 2, RECEIVE>;
}

template <typename W> static gemv_function gemv_kernel_for(int tokens, bool wide, bool receive)
{
	return receive ? wide ? gemv_kernel_of<W, float, true>(tokens) : gemv_kernel_of<W, W, true>(tokens)
		       : wide ? gemv_kernel_of<W, float, false>(tokens) : gemv_kernel_of<W, W, false>(tokens);
}

static int token_places(int tokens)
{
	return tokens <= 2 ? tokens : tokens <= 4 ? 4 : 8;
}

enum { GEMV_SHARED_MAX = 96 << 10 };

int gemv_prepare(struct cuda_backend *b, struct error *err)
{
	if (gemv_tensor_prepare(b, err) || gemv_parts_prepare(b, err) || gemv_packed_prepare(b, err))
		return -1;
	return for_dtype(b->options.shape.dtype, [&](auto w) {
		typedef decltype(w) W;
		for (int i = 0; i < 4; i++)
			for (int tokens = 1; tokens <= GEMV_TOKENS; tokens *= 2) {
				gemv_function kernel = gemv_kernel_for<W>(tokens, i & 1, i & 2);
				if (shared_prepare(b, kernel, GEMV_SHARED_MAX, err))
					return -1;
			}
		return 0;
	});
}

static bool input_fits(const struct cuda_backend *b, int32_t tokens, int32_t columns, size_t bytes)
{
	/* From 3 tokens on tensor cores are faster, which are for 16-bit types. */
	return tokens <= (b->options.shape.dtype == DTYPE_F32 ? GEMV_TOKENS : 2) &&
	       (size_t)token_places(tokens) * (size_t)columns * bytes <= GEMV_SHARED_MAX;
}

bool gemv_norms(const struct cuda_backend *b, int32_t tokens, int32_t columns)
{
	return input_fits(b, tokens, columns, dtype_bytes(b->options.shape.dtype));
}

bool gemv_fits(const struct cuda_backend *b, int32_t tokens, int32_t columns)
{
	return gemv_norms(b, tokens, columns) || gemv_tensor_fits(b, tokens, columns);
}

bool gemv_wide(const struct cuda_backend *b, int32_t tokens, int32_t columns)
{
	return input_fits(b, tokens, columns, sizeof(float));
}

int gemv_launch(struct cuda_backend *b, const struct gemv *p, struct error *err)
{
	if (gemv_packed_serve(b, p))
		return gemv_packed_launch(b, p, err);
	if (!gemv_norms(b, p->tokens, p->columns))
		return gemv_tensor_launch(b, p, err);
	if (gemv_parts_serve(b, p))
		return gemv_parts_launch(b, p, err);
	return for_dtype(b->options.shape.dtype, [&](auto w) {
		typedef decltype(w) W;
		bool wide = gemv_wide(b, p->tokens, p->columns);
		gemv_function kernel = gemv_kernel_for<W>(p->tokens, wide, p->receive);
		struct gemv_rows m = gemv_rows_of(p);
		int pieces = p->columns / PIECE<W>;
		/* Short rows take smaller teams, so that all threads have full loads. */
		int threads = ((pieces + DEPTH - 1) / DEPTH + 31) / 32 * 32;
		threads = threads < 64 ? 64 : threads > THREADS_MAX ? THREADS_MAX : threads;
		size_t shared = (size_t)token_places(p->tokens) * (size_t)p->columns *
				(wide ? sizeof(float) : sizeof(W));
		size_t norm_bytes = p->norm ? (size_t)p->columns * sizeof(float) : 0;
		bool norm_shared = p->norm && shared + norm_bytes <= GEMV_SHARED_MAX;
		shared += norm_shared ? norm_bytes : 0;
		/* Blocks as large as the registers allow: each reads the whole input. */
		int teams = p->tokens == 1 ? TEAMS<1> : TEAMS<2>;
		int resident = 0;
		if (!cuda_ok(b, err,
			     cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads * teams,
									   shared),
			     "cudaOccupancyMaxActiveBlocksPerMultiprocessor"))
			return -1;
		int grid = b->multiprocessors * (resident > 0 ? resident : 1);
		int fewest = (m.groups + teams - 1) / teams;
		grid = fewest < grid ? fewest : grid;
		return kernel_launch(b, err, "gemv_kernel", kernel, dim3((unsigned)grid),
				     dim3((unsigned)threads, (unsigned)teams), shared, *p, m, norm_shared);
	});
}
