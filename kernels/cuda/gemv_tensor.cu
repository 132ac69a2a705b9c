/*
 * gemv_tensor.cu - matrix times three to eight vectors, in 16-bit types.
 *
 * Each multiprocessor has one block, and each block a ring of stages in shared memory that copies in
 * the background fill as fast as they are used, the first before the kernel ahead has ended. A tile is
 * 16 rows; the warps stand side by side along its columns, 128 bytes of each row a stage, whole lines:
 * with half of one at a time the memory gives a fifth less. A warp reads what it copied itself, so that
 * the ring needs no barriers. All blocks go over the matrix together, from end to end, which measured
 * faster than a range of rows for each.
 *
 * The weights are the second matrix of mma.m16n8k16, 8 rows at a time, whose columns a lane may hold
 * in any order that is the input's too: here as they come in a piece of 16 bytes. The tokens are rows 0
 * to 7 of the first matrix. All sums have one fixed order.
 */
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/tensor.cuh"

enum {
	WARPS = 8, THREADS = 32 * WARPS,
	TILE = 16,				/* rows */
	COPIES = 4,				/* of a thread for a stage, of 16 bytes */
	LINE = 8,				/* a row's part in a warp's stage, in such pieces */
	WARP_STAGE = TILE * LINE, STAGE = WARPS * WARP_STAGE,
	STAGES_MAX = 6, STAGES_FEW = 3,
	SHARED_FIXED = 768,			/* the kernel's own, at most */
};

/* How rows make tiles. A unit is what must stay together: a row, or a pair of rows that the output
 * combines, unit / run * run_rows + unit % run and that + jump. A tile has 16 rows or 8 pairs,
 * whose second rows are the tile's rows 8 to 15. Blocks take whole granules of units. */
struct gemv_tiles {
	int units, granule;
	int run, run_rows, jump;
	bool paired;
	int passes;		/* stages of a tile */
	int stages;		/* of the ring */
	int input_stride;	/* pieces from a token's input to the next in shared memory */
	int ring;		/* where the ring begins there, in pieces */
	int parts;		/* and where the warps' sums do */
};

__device__ __forceinline__ int row_of(const struct gemv_tiles &m, int unit)
{
	int turn = (int)((unsigned)unit / (unsigned)m.run);
	return turn * m.run_rows + (unit - turn * m.run);
}

/* Fills shared memory with the input rows. */
__device__ __forceinline__ void input_rows(const struct gemv &p, const struct gemv_tiles &m, uint4 *shared)
{
	constexpr int ABREAST = 8; /* loads of a thread on their way */
	const int row_pieces = p.columns / 8, count = p.tokens * row_pieces;

	for (int first = (int)threadIdx.x; first < count; first += ABREAST * THREADS) {
		uint4 x[ABREAST];
#pragma unroll
		for (int k = 0; k < ABREAST; k++)
			if (first + k * THREADS < count)
				x[k] = ((const uint4 *)p.input)[first + k * THREADS];
#pragma unroll
		for (int k = 0; k < ABREAST; k++) {
			int i = first + k * THREADS;
			if (i >= count)
				break;
			int t = (int)((unsigned)i / (unsigned)row_pieces);
			shared[t * m.input_stride + i - t * row_pieces] = x[k];
		}
	}
}

/* A lane's sums of a tile's rows 0 to 7 and 8 to 15: two fragments of each, as the tensor cores leave
 * them. */
struct tile_sums {
	float of[2][2][4] = {};
};

/* Adds the products of two pieces, of rows lane/4 and lane/4 + 8, with lane/4's token's piece x. */
template <typename W, int PART>
__device__ __forceinline__ void multiply_pieces(struct tile_sums &sums, uint4 a, uint4 b, uint4 x)
{
	const uint32_t first[4] = {x.x, 0, x.y, 0}, second[4] = {x.z, 0, x.w, 0};
	multiply(sums.of[0][PART], first, a.x, a.y, W());
	multiply(sums.of[1][PART], first, b.x, b.y, W());
	multiply(sums.of[0][PART], second, a.z, a.w, W());
	multiply(sums.of[1][PART], second, b.z, b.w, W());
}

/* Leaves a warp's sums in its [TILE][tokens]. */
__device__ __forceinline__ void put_sums(const struct tile_sums &sums, float *part, int tokens, int lane)
{
	if (lane / 4 >= tokens)
		return;
#pragma unroll
	for (int r = 0; r < 2; r++)
#pragma unroll
		for (int i = 0; i < 2; i++)
			part[(8 * r + lane % 4 * 2 + i) * tokens + lane / 4] = sums.of[r][0][i] + sums.of[r][1][i];
}

/* A block's tiles: one in each full round of all blocks over the matrix, so that they read it from end to
 * end together, and an equal part of what is left. */
struct share {
	int first, step, rounds; /* first units of the tiles in full rounds */
	int rest, end;		 /* units of the part */
};

__device__ __forceinline__ struct share share_of(const struct gemv_tiles &m, int tile_units)
{
	const int block = (int)blockIdx.x, blocks = (int)gridDim.x;
	struct share s = {block * tile_units, blocks * tile_units, m.units / (blocks * tile_units), 0, 0};
	const int whole = s.rounds * s.step, granules = (m.units - whole + m.granule - 1) / m.granule;
	s.rest = whole + granules * block / blocks * m.granule;
	s.end = min(whole + granules * (block + 1) / blocks * m.granule, m.units);
	return s;
}

/* Moves on to the block's next tile. False where there is none. */
__device__ __forceinline__ bool share_next(const struct share &s, int &round, int &unit, int &end, int tile_units)
{
	round++;
	unit = round < s.rounds ? s.first + round * s.step : s.rest;
	end = round < s.rounds ? unit + tile_units : s.end;
	return round < s.rounds + (s.rest < s.end);
}

template <typename W, int STAGES>
__global__ void __launch_bounds__(THREADS, 1)
tensor_kernel(const __grid_constant__ struct gemv p, const __grid_constant__ struct gemv_tiles m)
{
	extern __shared__ uint4 shared[];
	__shared__ uint4 zeros[LINE];
	const int thread = (int)threadIdx.x, lane = thread % 32, warp = thread / 32;
	const int row_pieces = p.columns / PIECE<W>, passes_end = m.passes * WARPS * LINE;
	const int tile_units = m.paired ? TILE / 2 : TILE;
	const struct share share = share_of(m, tile_units);
	const uint32_t ring = shared_address(shared + m.ring + warp * WARP_STAGE);
	float *const parts = (float *)(shared + m.parts);

	/* The filling end of the ring. Copy c is of the tile's row 4c + lane/8; pieces of odd rows change
	 * sides, so that reading meets every bank once. Past the tile's last row that one is read again, with
	 * no result. */
	int fill_round = -1, fill_unit, fill_end, fill_piece = warp * LINE;
	bool filling = share_next(share, fill_round, fill_unit, fill_end, tile_units);
	const uint4 *from[COPIES];
	const uint32_t to = ring + 16 * (lane / LINE * LINE + (lane % LINE ^ lane / LINE % 2 * 4));
	auto aim = [&]() {
#pragma unroll
		for (int c = 0; c < COPIES; c++) {
			int unit = min(fill_unit + lane / LINE + (m.paired ? c % 2 * 4 : c * 4), fill_end - 1);
			int row = row_of(m, unit) + (m.paired && c >= 2 ? m.jump : 0);
			from[c] = (const uint4 *)p.weights + (size_t)row * row_pieces + warp * LINE + lane % LINE;
		}
	};
	/* Into the stage that begins so many bytes on. */
	auto fill = [&](uint32_t stage) {
		if (filling) {
			if (fill_piece < row_pieces) {
#pragma unroll
				for (int c = 0; c < COPIES; c++) {
					copy_piece(to + stage + c * 4 * LINE * 16, from[c]);
					from[c] += WARPS * LINE;
				}
			}
			fill_piece += WARPS * LINE;
			if (fill_piece >= passes_end) {
				fill_piece = warp * LINE;
				filling = share_next(share, fill_round, fill_unit, fill_end, tile_units);
				if (filling)
					aim();
			}
		}
		copy_commit();
	};
	allow_next_unless(p.publish);
	const int out_t = thread / TILE, out_r = thread % TILE;
	const bool writer = out_t < p.tokens;
	const int slot = writer && p.slots ? p.slots[out_t] : 0;
	if (filling)
		aim();
#pragma unroll 1
	for (int i = 0; i < STAGES; i++)
		fill(i * STAGE * 16);
	if (thread < LINE)
		zeros[thread] = uint4();

	const uint32_t turn = p.output == OUTPUT_PEERS && writer ? peer_turn(p.sum) : 0;
	wait_for_previous();
	input_rows(p, m, shared);
	__syncthreads();

	/* The reading end: rows lane/4 and lane/4 + 8, pieces lane%4 and lane%4 + 4. Lanes of no token
	 * multiply by zero. */
	const bool counts = lane / 4 < p.tokens;
	const uint32_t input = shared_address(counts ? shared + lane / 4 * m.input_stride + warp * LINE + lane % 4 : zeros);
	const uint32_t input_step = counts ? WARPS * LINE * 16 : 0, far = lane / 4 % 2 ? -64 : 64;
	const uint32_t near = ring + 16 * (lane / 4 * LINE + lane % 4 + lane / 4 % 2 * 4);

	uint32_t stage = 0;
	for (int round = -1, tile, end; share_next(share, round, tile, end, tile_units);) {
		struct tile_sums sums;
		int unit = tile + (m.paired ? out_r % 8 : out_r);
		const bool valid = writer && unit < end;
		const int row = row_of(m, unit) + (m.paired && out_r >= 8 ? m.jump : 0);
		struct gemv_extra extra = gemv_extra_of(p, out_t, row, valid, gemv_turn_at(p, out_t, row, valid));
		uint32_t x = input;

#pragma unroll 1
		for (int piece = warp * LINE; piece < passes_end; piece += WARPS * LINE) {
			copy_wait<STAGES - 1>();
			__syncwarp();
			if (piece < row_pieces) {
				uint32_t at = near + stage;
				uint4 a = load_shared(at), b = load_shared(at + 8 * LINE * 16);
				uint4 c = load_shared(at + far), d = load_shared(at + far + 8 * LINE * 16);
				multiply_pieces<W, 0>(sums, a, b, load_shared(x));
				multiply_pieces<W, 1>(sums, c, d, load_shared(x + 64));
			}
			x += input_step;
			__syncwarp();
			fill(stage);
			stage = stage == (STAGES - 1) * STAGE * 16 ? 0 : stage + STAGE * 16;
		}
		put_sums(sums, parts + warp * TILE * p.tokens, p.tokens, lane);
		__syncthreads();
		if (warp * 2 < p.tokens) {
			float y = 0;
			for (int i = 0; writer && i < WARPS; i++)
				y += parts[(i * TILE + out_r) * p.tokens + out_t];
			gemv_output<W, 8, true>(p, out_t, out_r, row, valid, slot, turn, extra, y);
		}
		__syncthreads();
	}
	publish_results(p.publish);
}

/* How shared memory is divided, for rows of `columns`; 0 stages where they do not fit. */
static struct gemv_tiles divide_shared(const struct cuda_backend *b, int tokens, int columns)
{
	struct gemv_tiles m = {};
	int parts = WARPS * TILE * tokens * 4 / 16, stages;
	m.input_stride = columns / 8 + 4; /* tokens begin in different banks */
	m.ring = m.input_stride * tokens;
	stages = ((b->shared_block - SHARED_FIXED) / 16 - m.ring - parts) / STAGE;
	m.stages = stages >= STAGES_MAX ? STAGES_MAX : stages >= STAGES_FEW ? STAGES_FEW : 0;
	m.parts = m.ring + m.stages * STAGE;
	m.passes = (columns / 8 + LINE * WARPS - 1) / (LINE * WARPS);
	return m;
}

typedef void (*tensor_function)(const struct gemv, const struct gemv_tiles);

/* Calls f(W()) for 16-bit types. */
template <typename F> static int for_16bit(const struct cuda_backend *b, F f)
{
	return b->options.shape.dtype == DTYPE_F16 ? f(__half()) : f(__nv_bfloat16());
}

template <typename W> static tensor_function kernel_for(int stages)
{
	return stages == STAGES_MAX ? tensor_kernel<W, STAGES_MAX> : tensor_kernel<W, STAGES_FEW>;
}

bool gemv_tensor_fits(const struct cuda_backend *b, int32_t tokens, int32_t columns)
{
	return b->options.shape.dtype != DTYPE_F32 && tokens <= GEMV_TOKENS &&
	       divide_shared(b, tokens, columns).stages > 0;
}

int gemv_tensor_prepare(struct cuda_backend *b, struct error *err)
{
	return for_16bit(b, [&](auto w) {
		typedef decltype(w) W;
		tensor_function kernels[] = {kernel_for<W>(STAGES_FEW), kernel_for<W>(STAGES_MAX)};
		for (tensor_function kernel : kernels)
			if (shared_prepare(b, kernel, b->shared_block - SHARED_FIXED, err))
				return -1;
		return 0;
	});
}

int gemv_tensor_launch(struct cuda_backend *b, const struct gemv *p, struct error *err)
{
	struct gemv_tiles m = divide_shared(b, p->tokens, p->columns);

	m.units = p->rows;
	m.granule = p->output == OUTPUT_PEERS ? 4 : 1;
	m.run = INT32_MAX;
	if (p->output == OUTPUT_GATE_UP || p->output == OUTPUT_ROPE) {
		m.paired = true;
		m.units = p->rows / 2;
		m.jump = p->output == OUTPUT_ROPE ? p->head_dim / 2 : p->rows / 2;
	}
	if (p->output == OUTPUT_ROPE) { /* a head's halves turn together */
		m.run = p->head_dim / 2;
		m.run_rows = p->head_dim;
	}
	int granules = (m.units + m.granule - 1) / m.granule;
	int grid = granules < b->multiprocessors ? granules : b->multiprocessors;
	size_t shared = ((size_t)m.parts * 16) + sizeof(float) * WARPS * TILE * (size_t)p->tokens;
	return for_16bit(b, [&](auto w) {
		return kernel_launch(b, err, "tensor_kernel", kernel_for<decltype(w)>(m.stages), dim3((unsigned)grid),
				     THREADS, shared, *p, m);
	});
}
