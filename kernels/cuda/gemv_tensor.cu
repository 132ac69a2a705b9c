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
 * to 7 of the first matrix. What a lane needs of the input is the same for every tile, and no other lane needs
 * it: it stays in registers, and what is too much for them in places of shared memory that are the lane's own. All
 * sums have one fixed order.
 */
#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/tensor.cuh"

enum {
	WARPS = 8, THREADS = 32 * WARPS,
	TILE = 16,				/* rows */
	COPIES = 4,				/* of a thread for a stage, of 16 bytes */
	LINE = 8,				/* a row's part in a warp's stage, in such pieces */
	WARP_STAGE = TILE * LINE, STAGE = WARPS * WARP_STAGE,
	STAGES_FEW = 3, STAGES = 6,		/* of the ring; or, where they fit and a multiprocessor has so much to read, or the */
	STAGES_DEEP = 8, KIB_DEEP = 350,	/* input is long, more: then it pays, and otherwise it costs (bench/README.md) */
	HELD_MAX = 8,				/* passes whose input is in registers, at most */
	ABREAST = 4,				/* passes of the others' on their way */
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
	int ring;		/* where the ring begins in shared memory, in pieces: behind the input that registers do not hold */
	int parts;		/* and where the warps' sums do */
};

__device__ __forceinline__ int row_of(const struct gemv_tiles &m, int unit)
{
	int turn = (int)((unsigned)unit / (unsigned)m.run);
	return turn * m.run_rows + (unit - turn * m.run);
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

/* DEPTH: m.stages. HELD: passes whose input registers have room for. MORE: there are others; those kernels are by
 * themselves because skipping this costs time too. */
template <typename W, int DEPTH, int HELD, bool MORE>
__global__ void __launch_bounds__(THREADS, 1)
tensor_kernel(const __grid_constant__ struct gemv p, const __grid_constant__ struct gemv_tiles m)
{
	extern __shared__ uint4 shared[];
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
	for (int i = 0; i < DEPTH; i++)
		fill(i * STAGE * 16);

	const uint32_t turn = p.output == OUTPUT_PEERS && writer ? peer_turn(p.sum) : 0;
	wait_for_previous();
	/* A lane's pieces of the input are lane%4 and lane%4 + 4 of the line, of token lane/4. What is loaded for tokens that
	 * do not exist makes results that are dropped, and past the row's end nothing is multiplied: loads without
	 * conditions are all on their way at once. */
	auto input = [&](int pass, int half) {
		const int piece = min((pass * WARPS + warp) * LINE, row_pieces - LINE) + lane % 4 + half * 4;
		return ((const uint4 *)p.input)[(size_t)min(lane / 4, p.tokens - 1) * row_pieces + piece];
	};
	uint4 held[HELD][2];
#pragma unroll
	for (int i = 0; i < HELD; i++)
		for (int half = 0; half < 2; half++)
			held[i][half] = input(i, half);
	const int token_lanes = 4 * p.tokens; /* of a warp's, those of tokens that exist */
	uint4 *const others = shared + warp * token_lanes + min(lane, token_lanes - 1);
#pragma unroll 1
	for (int first = HELD; MORE && first < m.passes; first += ABREAST) {
		uint4 x[ABREAST][2];
#pragma unroll
		for (int i = 0; i < ABREAST; i++)
			for (int half = 0; half < 2; half++)
				x[i][half] = input(first + i, half);
#pragma unroll
		for (int i = 0; i < ABREAST; i++)
			for (int half = 0; half < 2; half++)
				if (lane < token_lanes && first + i < m.passes)
					others[((first + i - HELD) * 2 + half) * WARPS * token_lanes] = x[i][half];
	}

	/* The reading end: rows lane/4 and lane/4 + 8, pieces lane%4 and lane%4 + 4. */
	const uint32_t far = lane / 4 % 2 ? -64 : 64;
	const uint32_t near = ring + 16 * (lane / 4 * LINE + lane % 4 + lane / 4 % 2 * 4);

	uint32_t stage = 0;
	for (int round = -1, tile, end; share_next(share, round, tile, end, tile_units);) {
		struct tile_sums sums;
		int unit = tile + (m.paired ? out_r % 8 : out_r);
		const bool valid = writer && unit < end;
		const int row = row_of(m, unit) + (m.paired && out_r >= 8 ? m.jump : 0);
		struct gemv_extra extra = gemv_extra_of(p, out_t, row, valid, gemv_turn_at(p, out_t, row, valid));
		auto pass = [&](int number, auto first, auto second) {
			copy_wait<DEPTH - 1>();
			__syncwarp();
			if ((number * WARPS + warp) * LINE < row_pieces) {
				uint32_t at = near + stage;
				uint4 a = load_shared(at), b = load_shared(at + 8 * LINE * 16);
				uint4 c = load_shared(at + far), d = load_shared(at + far + 8 * LINE * 16);
				multiply_pieces<W, 0>(sums, a, b, first());
				multiply_pieces<W, 1>(sums, c, d, second());
			}
			__syncwarp();
			fill(stage);
			stage = stage == (DEPTH - 1) * STAGE * 16 ? 0 : stage + STAGE * 16;
		};
#pragma unroll
		for (int i = 0; i < HELD; i++)
			if (i < m.passes)
				pass(i, [&] { return held[i][0]; }, [&] { return held[i][1]; });
#pragma unroll 1
		for (int i = HELD; MORE && i < m.passes; i++) {
			const uint32_t at = shared_address(others + (i - HELD) * 2 * WARPS * token_lanes);
			pass(i, [&] { return load_shared(at); }, [&] { return load_shared(at + WARPS * token_lanes * 16); });
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

/* How registers and shared memory are divided, for rows of `columns`; 0 stages where they do not fit, or where so few
 * would be left beside an input that is too much for registers that cuBLAS is faster. */
static struct gemv_tiles divide_memory(const struct cuda_backend *b, int tokens, int rows, int columns)
{
	struct gemv_tiles m = {};
	const int parts = WARPS * TILE * tokens * 4 / 16;

	m.passes = (columns / 8 + LINE * WARPS - 1) / (LINE * WARPS);
	m.ring = m.passes > HELD_MAX ? (m.passes - HELD_MAX) * LINE * WARPS * tokens : 0;
	const int most = (b->shared_block / 16 - m.ring - parts) / STAGE;
	const bool deep = m.ring || (size_t)rows * (size_t)columns * 2 >= (size_t)b->multiprocessors * KIB_DEEP << 10;
	m.stages = most >= STAGES_DEEP && deep ? STAGES_DEEP : most >= STAGES ? STAGES
		 : most >= STAGES_FEW && !m.ring ? STAGES_FEW : 0;
	m.parts = m.ring + m.stages * STAGE;
	return m;
}

typedef void (*tensor_function)(const struct gemv, const struct gemv_tiles);

/* Calls f(W()) for 16-bit types. */
template <typename F> static int for_16bit(const struct cuda_backend *b, F f)
{
	return b->options.shape.dtype == DTYPE_F16 ? f(__half()) : f(__nv_bfloat16());
}

template <typename W, int DEPTH> static tensor_function kernel_of(int passes)
{
	if constexpr (DEPTH > STAGES_FEW)
		if (passes > HELD_MAX)
			return tensor_kernel<W, DEPTH, HELD_MAX, true>;
	return passes <= 2 ? tensor_kernel<W, DEPTH, 2, false> : passes <= 4 ? tensor_kernel<W, DEPTH, 4, false>
	     : passes <= 6 ? tensor_kernel<W, DEPTH, 6, false> : tensor_kernel<W, DEPTH, HELD_MAX, false>;
}

template <typename W> static tensor_function kernel_for(int stages, int passes)
{
	return stages == STAGES_FEW ? kernel_of<W, STAGES_FEW>(passes)
	     : stages == STAGES	    ? kernel_of<W, STAGES>(passes)
				    : kernel_of<W, STAGES_DEEP>(passes);
}

bool gemv_tensor_fits(const struct cuda_backend *b, int32_t tokens, int32_t columns)
{
	return b->options.shape.dtype != DTYPE_F32 && tokens <= GEMV_TOKENS &&
	       divide_memory(b, tokens, 0, columns).stages > 0;
}

int gemv_tensor_prepare(struct cuda_backend *b, struct error *err)
{
	return for_16bit(b, [&](auto w) {
		typedef decltype(w) W;
		for (int stages : {STAGES_FEW, STAGES, STAGES_DEEP})
			for (int passes : {2, 4, 6, (int)HELD_MAX, HELD_MAX + 1})
				if (shared_prepare(b, kernel_for<W>(stages, passes), b->shared_block, err))
					return -1;
		return 0;
	});
}

int gemv_tensor_launch(struct cuda_backend *b, const struct gemv *p, struct error *err)
{
	struct gemv_tiles m = divide_memory(b, p->tokens, p->rows, p->columns);

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
		return kernel_launch(b, err, "tensor_kernel", kernel_for<decltype(w)>(m.stages, m.passes), dim3((unsigned)grid),
				     THREADS, shared, *p, m);
	});
}
