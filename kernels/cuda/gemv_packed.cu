/*
 * gemv_packed.cu - matrix times one to eight vectors, of bfloat16 weights in 12 bits each, without loss.
 *
 * A weight's sign and its 7 bits of mantissa are kept as they are. Of its exponent four bits are left: 1 to 15, counted from
 * where its row's window of 15 exponents begins; 0 is for zero. Nearly all weights of a row lie in such a window, which
 * reaches over four and a half decimal orders. Those few that don't, the row's strays, are zeros there, and stand in a
 * list with their columns, for which a matrix has as many places in each row as one of its rows wants; where that is too
 * many, the matrix is not packed. Every product is that of the weight as it is in the file: what is saved is a quarter of
 * the bytes to be read. Of normally distributed weights one in 7,000 is a stray. (That exponents of trained weights
 * have few bits of information: "70% Size, 100% Accuracy: Lossless LLM Compression", arXiv 2504.11651, which codes them
 * by lengths. Codes of one length waste some of that, and can be undone with seven instructions for eight weights.)
 *
 * A tile is TILE rows, two groups of gemv.cuh. It begins with its side: each row's scale, by which sums are to be
 * multiplied, and strays. Units of UNIT columns follow, as a warp reads them: three pieces of 16 bytes for each lane. Lane 4r + c
 * has row r's columns 16s + 4c to 16s + 4c + 3 for every step s. A word of the first two pieces has the low bytes of a
 * step's weights: the exponent's last bit and the mantissa. A word of the third has the high bytes of two steps', of which only the
 * sign and three bits of exponent are kept: those of the first step in bits 7 and 2 to 0 of each byte, those of the second where
 * turning the word by four bits takes them there. So 14 instructions make fragments of mma.m16n8k16 of 16 weights.
 *
 * The weights of two steps are the first matrix of the product, rows 0 to 7 those of the first step, 8 to 15 of the second. With
 * up to two tokens, whose input is float, the second matrix has as columns for either step, and each token, the input and
 * what bfloat16 has cut off of it, as in gemv_parts.cu. With more the tokens are its columns, for one step after the
 * other. Of the sums those count where steps meet. The input is scaled up, because packed weights are of the order of
 * 2^-112; beyond 2^71 that makes infinities of it. A team of warps takes a tile, and each warp some units of it, RING of
 * them under way. No warp waits for another: each leaves its sums in a place of their own, and now and then looks
 * whether all are there of a tile whose results are its own to write. (A counter, with which the last to come would know
 * that it is, has to order memory, and that waits for the weights under way too.) All sums have one fixed order.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/tensor.cuh"

typedef __nv_bfloat16 W;

enum {
	THREADS = 512, WARPS = THREADS / 32, WARPS_LOG = 4,
	TILE = 8,		/* rows */
	UNIT = 128,		/* columns */
	STEPS = UNIT / 16,	/* of the tensor cores */
	UNIT_PIECES = 3 * 32,
	RING = 4,		/* units that a warp has under way: what paid on H200s (bench/README.md) */
	WIDE_TOKENS = 2,	/* at most, with float input */
	WINDOW = 15,		/* exponents */
	INPUT_BITS = 56,	/* by which input is scaled up */
	SHIFT_MAX = 127 + INPUT_BITS, /* of exponents; so that a scale is a float */
	STRAYS = 4, STRAYS_MOST = 64, /* places for them in each row of a matrix: so many at a time, at most */
	SHARED_FIXED = 3072,	/* the kernel's own, at most */
	SPARE = 32,		/* a part of the device's memory that stays free: others' estimates are not exact */
};

static __host__ __device__ __forceinline__ int side_pieces_of(int strays)
{
	return TILE * 4 / 16 * (1 + strays);
}

/* ---- packing --------------------------------------------------------------------------------------- */

/* Row r of a tile, and whether there is one. */
__device__ __forceinline__ int tile_row(const struct gemv_rows &m, int tile, int r)
{
	return gemv_row(m, 2 * tile + r / ROWS, r % ROWS);
}

__device__ __forceinline__ bool tile_row_exists(const struct gemv_rows &m, int tile, int r, int row)
{
	return 2 * tile + r / ROWS < m.groups && gemv_row_exists(m, row, r % ROWS);
}

/* A weight's exponent in its row's window, 1 to WINDOW; 0 for those that are the same number with it; or -1. */
__device__ __forceinline__ int packed_exponent(uint32_t weight, int shift)
{
	const int exponent = (int)(weight >> 7 & 0xff), at = exponent - shift;
	if ((weight & 0x7fff) == 0 || (shift == 0 && exponent == 0))
		return 0;
	return at >= 1 && at <= WINDOW ? at : -1;
}

/* For a whole warp: the exponent ahead of the window that has most of a row's weights, of such windows the first. `counts`
 * has 256. */
__device__ __forceinline__ int row_shift(const uint16_t *row, int columns, int *counts, int lane)
{
	for (int i = lane; i < 256; i += 32)
		counts[i] = 0;
	__syncwarp();
	for (int i = lane; i < columns; i += 32)
		if (row[i] & 0x7fff) /* a zero is one in any window */
			atomicAdd(&counts[row[i] >> 7 & 0xff], 1);
	__syncwarp();
	int best = 0;
	for (int shift = lane; shift <= SHIFT_MAX; shift += 32) {
		int count = shift == 0 ? counts[0] : 0;
		for (int i = 1; i <= WINDOW; i++)
			count += counts[shift + i];
		best = max(best, count << 8 | (255 - shift));
	}
	return 255 - (__reduce_max_sync(0xffffffffu, best) & 0xff);
}

/* For a whole warp: a row's strays, from `to` on, one every TILE words, and zeros up to `room` of them. Returns their number,
 * which may be more. */
__device__ __forceinline__ int row_strays(const uint16_t *row, int columns, int shift, uint32_t *to, int room, int lane)
{
	int strays = 0;
	for (int first = 0; first < columns; first += 32) {
		const int i = first + lane;
		const uint32_t weight = i < columns ? row[i] : 0;
		const bool stray = packed_exponent(weight, shift) < 0;
		const uint32_t found = __ballot_sync(0xffffffffu, stray);
		const int place = strays + __popc(found & ((1u << lane) - 1));
		if (stray && place < room)
			to[place * TILE] = weight << 16 | (uint32_t)i;
		strays += __popc(found);
	}
	for (int i = strays + lane; i < room; i += 32)
		to[i * TILE] = 0;
	return strays;
}

/* Four weights as a step's word of low bytes, and their high bytes into the word that two steps share. */
__device__ __forceinline__ void pack_step(uint2 four, int shift, bool second, uint32_t &low, uint32_t &high)
{
	const uint32_t weights[4] = {four.x & 0xffff, four.x >> 16, four.y & 0xffff, four.y >> 16};
	low = 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		const int at = packed_exponent(weights[i], shift);
		const uint32_t weight = at < 0 ? 0 : weights[i], sign = weight >> 15, exponent = (uint32_t)max(at, 0);
		low |= ((weight & 0x7f) | (exponent & 1) << 7) << 8 * i;
		high |= second ? exponent >> 1 << (8 * i + 4) | sign << (8 * i + 11) % 32
			       : exponent >> 1 << 8 * i | sign << (8 * i + 7);
	}
}

/* Row r of a tile, and its columns: none where there is no such row. */
__device__ __forceinline__ const uint16_t *tile_weights(const uint16_t *weights, const struct gemv_rows &m, int tile, int r,
							int columns, int &count)
{
	const int row = tile_row(m, tile, r);
	const bool there = tile_row_exists(m, tile, r, row);
	count = there ? columns : 0;
	return weights + (there ? (size_t)row * columns : 0);
}

/* The most strays of a row, in *most, which was 0. A block of TILE warps looks through a tile. */
__global__ void __launch_bounds__(32 * TILE)
strays_kernel(const uint16_t *weights, int columns, const __grid_constant__ struct gemv_rows m, int32_t *most)
{
	__shared__ int counts[TILE][256];
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	int count;
	wait_for_previous();
	const uint16_t *const row = tile_weights(weights, m, (int)blockIdx.x, warp, columns, count);
	const int shift = row_shift(row, count, counts[warp], lane);
	const int strays = row_strays(row, count, shift, NULL, 0, lane);
	if (lane == 0 && strays)
		atomicMax(most, strays);
}

/* A block of TILE warps packs a tile. */
__global__ void __launch_bounds__(32 * TILE)
pack_kernel(const uint16_t *weights, int columns, const __grid_constant__ struct gemv_rows m,
	    const __grid_constant__ struct packed_matrix q, uint4 *tiles)
{
	__shared__ int counts[TILE][256], shifts[TILE];
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, tile = (int)blockIdx.x;
	uint4 *const to = tiles + (size_t)tile * q.tile_pieces;
	uint32_t *const side = (uint32_t *)to + warp;
	int count;

	wait_for_previous();
	const uint16_t *row = tile_weights(weights, m, tile, warp, columns, count);
	const int shift = row_shift(row, count, counts[warp], lane);
	row_strays(row, count, shift, side + TILE, q.strays, lane);
	if (lane == 0) {
		*side = __float_as_uint(count ? ldexpf(1.0f, shift - INPUT_BITS) : 0.0f);
		shifts[warp] = shift;
	}
	__syncthreads();
	row = tile_weights(weights, m, tile, lane / 4, columns, count);
	for (int unit = warp; unit < q.units; unit += TILE) {
		uint32_t low[STEPS], high[STEPS / 2] = {};
#pragma unroll
		for (int s = 0; s < STEPS; s++) {
			const int column = unit * UNIT + s * 16 + lane % 4 * 4;
			pack_step(column < count ? *(const uint2 *)(row + column) : make_uint2(0, 0), shifts[lane / 4], s % 2, low[s],
				  high[s / 2]);
		}
		uint4 *at = to + side_pieces_of(q.strays) + unit * UNIT_PIECES + lane;
		at[0] = make_uint4(low[0], low[1], low[2], low[3]);
		at[32] = make_uint4(low[4], low[5], low[6], low[7]);
		at[64] = make_uint4(high[0], high[1], high[2], high[3]);
	}
}

/* The four weights of step S of a lane's unit, as fragments. */
template <int S> __device__ __forceinline__ void packed_weights(const uint4 (&unit)[3], uint32_t (&b)[2])
{
	const uint4 four = unit[S / 4];
	const uint32_t low = S % 4 == 0 ? four.x : S % 4 == 1 ? four.y : S % 4 == 2 ? four.z : four.w;
	const uint32_t both = S / 2 == 0 ? unit[2].x : S / 2 == 1 ? unit[2].y : S / 2 == 2 ? unit[2].z : unit[2].w;
	const uint32_t high = (S % 2 ? __funnelshift_r(both, both, 4) : both) & 0x87878787;
	b[0] = __byte_perm(low, high, 0x5140);
	b[1] = __byte_perm(low, high, 0x7362);
}

/* ---- the product ------------------------------------------------------------------------------------ */

/* How shared memory is divided, in pieces of 16 bytes: the input from 0 on, then */
struct packed_room {
	int stride; /* from a token's row of narrow input to the next */
	int norm;   /* the weight of the norm that is to be taken */
	int sides;  /* [turns][teams][side] */
	int extras; /* of each lane, for what its warp writes, one after the other, or -1 where nothing is wanted */
	int sums;   /* float [turns][teams][warps of a team][PARTS][tokens][TILE] */
	int arrived; /* mbarriers [turns][teams] */
	int turns;  /* tiles of a team, at most */
	uint32_t next_unit, next_input; /* bytes from one of a warp's units to the next, and from that of its input */
	int warps_log; /* of two, of a team's warps: no divisions ahead of the first loads */
};

/* Of a word pair of float input, where: of element 4i and those after it, in 8 bytes; for part 1 four places on. */
template <int T> __device__ __forceinline__ int packed_place(int t, int i)
{
	return (i / 8 * 4 * T + t * 4 + i / 4 % 2 * 2) * 4 + i % 4;
}

/* Elements 4i to 4i + 3 of token t's float input. */
template <int T> __device__ __forceinline__ void packed_put(uint4 *input, int t, int i, float4 v)
{
	const float scale = (float)(1ull << INPUT_BITS);
	float x[4] = {v.x * scale, v.y * scale, v.z * scale, v.w * scale};
	uint2 *const to = (uint2 *)input + packed_place<T>(t, i);
#pragma unroll
	for (int part = 0; part < 2; part++) {
		uint32_t words[2];
#pragma unroll
		for (int pair = 0; pair < 2; pair++) {
			float held[2];
			words[pair] = pack_pair(x[2 * pair], x[2 * pair + 1], W());
			word_to_floats(words[pair], held, W());
			x[2 * pair] -= held[0];
			x[2 * pair + 1] -= held[1];
		}
		to[4 * part] = make_uint2(words[0], words[1]);
	}
}

/* One element of it, or of token t's row of W, not scaled. */
template <int T> __device__ __forceinline__ float packed_get(const uint4 *input, int stride, int t, int column)
{
	const float back = 1.0f / (float)(1ull << INPUT_BITS);
	if constexpr (T > WIDE_TOKENS)
		return to_float(((const W *)(input + t * stride))[column]) * back;
	const W *at = (const W *)((const uint2 *)input + packed_place<T>(t, column / 4)) + column % 4;
	return (to_float(at[0]) + to_float(at[16])) * back;
}

/* All of the input, of p.tokens; where that is a norm, without its factor, which the results get. Past its end it is
 * zero, up to a whole unit. */
template <int T, bool RECEIVE>
__device__ __forceinline__ void packed_input(const struct gemv &p, uint32_t turn, const struct packed_room &room, int units,
					     uint4 *shared, float *scratch)
{
	const int count = (int)blockDim.x, at = (int)threadIdx.x;
	if constexpr (T <= WIDE_TOKENS) {
		const int fours = p.columns / 4;
		auto put = [&](int t, int i, float4 v) { packed_put<T>(shared, t, i, v); };
		for (int i = fours + at; i < units * (UNIT / 4); i += count)
			for (int t = 0; t < T; t++)
				put(t, i, make_float4(0, 0, 0, 0));
		const float4 *norm = (const float4 *)(shared + room.norm); /* a thread reads nothing but its own copies */
		if (RECEIVE || p.norm) /* what is received is a residual */
			gemv_residual_input<W, T, RECEIVE, T == 1 ? 4 : 2, 2, WARPS>(p, turn, scratch, [&](int t, int i, float4 x) {
				const float4 w = norm[i];
				put(t, i, make_float4(x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w));
			});
		else
			gemv_wide_input<T>(p, put);
	} else {
		constexpr int ABREAST = GEMV_TOKENS;
		const int pieces = p.columns / PIECE<W>;
		const __nv_bfloat162 scale = __float2bfloat162_rn((float)(1ull << INPUT_BITS));
#pragma unroll 1
		for (int i = at; i < units * (UNIT / PIECE<W>); i += count) {
			uint4 x[ABREAST];
#pragma unroll
			for (int t = 0; t < ABREAST; t++)
				x[t] = i < pieces ? ((const uint4 *)p.input)[min(t, p.tokens - 1) * pieces + i] : uint4();
#pragma unroll
			for (int t = 0; t < ABREAST; t++) {
				__nv_bfloat162 *pair = (__nv_bfloat162 *)&x[t];
#pragma unroll
				for (int n = 0; n < 4; n++)
					pair[n] = __hmul2(pair[n], scale);
				if (t < p.tokens)
					shared[t * room.stride + i] = x[t];
			}
		}
	}
}

/* Sums that a warp leaves for a result. */
template <int T> constexpr int PARTS = T <= WIDE_TOKENS ? 2 : 1;

/* Tokens whose results are written at a time. */
template <int T> constexpr int WRITTEN = T <= WIDE_TOKENS ? T : 4;

/* What a warp writes at a time: a tile's results of WRITTEN tokens. A block's warps take these in turn. */
struct packed_item {
	int place;	/* of the tile among the block's: its turn and team */
	int tile;
	int t, r;	/* the lane's token and row of the tile; several lanes share one */
	int row;
	bool valid;
};

template <int T>
__device__ __forceinline__ struct packed_item packed_item_of(const struct gemv &p, const struct gemv_rows &m,
							     const struct packed_matrix &q, const struct packed_room &room, int i)
{
	const int lane = (int)threadIdx.x % 32, tokens = T <= WIDE_TOKENS ? T : p.tokens;
	const int block_teams = WARPS >> room.warps_log, passes_log = tokens > WRITTEN<T>;
	struct packed_item item;
	item.place = i >> passes_log;
	item.tile = (item.place & (block_teams - 1)) * (int)gridDim.x + (int)blockIdx.x +
		    (item.place >> (WARPS_LOG - room.warps_log)) * (int)gridDim.x * block_teams;
	item.t = (i & passes_log) * WRITTEN<T> + lane / TILE % WRITTEN<T>;
	item.r = lane % TILE;
	item.row = tile_row(m, item.tile, item.r);
	item.valid = lane / TILE < WRITTEN<T> && item.t < tokens && item.tile < q.count &&
		     tile_row_exists(m, item.tile, item.r, item.row);
	return item;
}

/* Asks for the side of an item's tile, to be read by the same warp. */
__device__ __forceinline__ void packed_ask_side(const struct packed_matrix &q, const struct packed_room &room, uint4 *shared,
						const struct packed_item &item)
{
	const int side = side_pieces_of(q.strays);
#pragma unroll 1
	for (int i = (int)threadIdx.x % 32; i < side; i += 32)
		copy_piece(shared + room.sides + item.place * side + i,
			   q.tiles + (size_t)min(item.tile, q.count - 1) * q.tile_pieces + i, true);
}

/* Asks for what a lane's result wants besides its sums. turn: see gemv_turn_at. */
__device__ __forceinline__ void packed_ask_extra(const struct gemv &p, const struct packed_item &item, struct gemv_extra *to,
						 const float2 *turn)
{
	auto ask = [](float &value, const float *at, float otherwise) {
		if (at)
			copy_word(&value, at);
		else
			value = otherwise;
	};
	ask(to->bias, item.valid && p.bias ? p.bias + item.row : NULL, 0);
	ask(to->old, item.valid && p.output == OUTPUT_ADD
			? (const float *)p.target + (size_t)item.t * p.target_stride + item.row : NULL, 0);
	ask(to->turn.x, turn ? &turn->x : NULL, 1);
	ask(to->turn.y, turn ? &turn->y : NULL, 0);
}

/* Writes an item's results, once all warps have left their sums. */
template <int T, bool RECEIVE>
__device__ __forceinline__ void packed_write(const struct gemv &p, const struct packed_matrix &q, const struct packed_room &room,
					     const uint4 *shared, uint32_t turn, const struct packed_item &item,
					     const struct gemv_extra *extra_at, const float *scratch)
{
	constexpr int SHARES = 32 / TILE / WRITTEN<T>; /* lanes that add up one result */
	const int share = (int)threadIdx.x % 32 / TILE / WRITTEN<T>, tokens = T <= WIDE_TOKENS ? T : p.tokens;
	const int t = min(item.t, tokens - 1), r = item.r, parts = PARTS<T> << room.warps_log;
	const int slot = item.valid && p.slots ? p.slots[t] : 0;
	const uint32_t *const side = (const uint32_t *)(shared + room.sides + item.place * side_pieces_of(q.strays));
	const float *const sums = (const float *)(shared + room.sums) + item.place * parts * tokens * TILE;
	struct gemv_extra extra = {0, 0, {1, 0}};
	float y = 0, stray = 0;

	if (room.extras >= 0)
		extra = *extra_at;
	for (int i = share; i < q.strays; i += SHARES) {
		const uint32_t word = side[(1 + i) * TILE + r];
		if (!__any_sync(0xffffffffu, word != 0))
			break;
		stray = fmaf(__uint_as_float(word & 0xffff0000u), packed_get<T>(shared, room.stride, t, word & 0xffff), stray);
	}
	const float scale = __uint_as_float(side[r]);
	float factor = 1;
	if (T <= WIDE_TOKENS && (RECEIVE || p.norm))
		factor = gemv_norm_factor<WARPS>(p, scratch, t);
	while (!phase_over((const uint64_t *)(shared + room.arrived) + item.place, 0))
		;
#pragma unroll 8
	for (int i = share; i < parts; i += SHARES)
		y += sums[(i * tokens + t) * TILE + r];
	y = fmaf(y, scale, stray) * factor;
#pragma unroll
	for (int bit = TILE * WRITTEN<T>; bit < 32; bit *= 2)
		y += __shfl_xor_sync(0xffffffffu, y, bit);
	gemv_output<W, 2, !RECEIVE>(p, item.t, r % ROWS, item.row, item.valid, slot, turn, extra, y);
}

/* T: the tokens, or 8 for up to so many with input of W. RECEIVE: p.receive, in kernels of its own, for want of
 * registers. OWN: a warp's units of a tile, where that is the same for all and divides RING; otherwise 0, and to count
 * them takes instructions. */
template <int T, bool RECEIVE, int OWN>
__global__ void __launch_bounds__(THREADS, 1)
packed_kernel(const __grid_constant__ struct gemv p, const __grid_constant__ struct gemv_rows m,
	      const __grid_constant__ struct packed_matrix q, const __grid_constant__ struct packed_room room)
{
	constexpr bool WIDE = T <= WIDE_TOKENS;
	extern __shared__ uint4 shared[];
	alignas(16) __shared__ float scratch[(WIDE ? T : 1) * INPUT_WARPS];
	__shared__ uint32_t first_turn[THREADS]; /* as peer_turn reads it; a thread reads its own */
	const int thread = (int)threadIdx.x, lane = thread % 32;
	const int warps = 1 << room.warps_log, block_teams = WARPS >> room.warps_log, teams = (int)gridDim.x * block_teams;
	const int warp = thread / 32 & (warps - 1), team = thread / 32 >> room.warps_log;
	const int first_tile = team * (int)gridDim.x + (int)blockIdx.x;
	const int own = OWN ? OWN : (q.units - 1 - warp + warps) >> room.warps_log; /* units of each tile */
	const int side = side_pieces_of(q.strays), tokens = WIDE ? T : p.tokens;
	uint64_t *const arrived = (uint64_t *)(shared + room.arrived);
	uint4 w[RING][3];

	/* What is loaded runs RING units ahead of what is computed. */
	const int turns = room.turns - (first_tile + (room.turns - 1) * teams >= q.count);
	uint32_t from = ((uint32_t)first_tile * q.tile_pieces + side + warp * UNIT_PIECES + lane) * 16; /* bytes: registers are few */
	const uint32_t next_tile = (teams * q.tile_pieces - (own - 1) * warps * UNIT_PIECES) * 16;
	int to_load = turns, load_left = own; /* tiles, and units of the one that is begun */
	auto tile_ends = [&](int k, int &units) {
		if constexpr (OWN > 0)
			return (k + 1) % OWN == 0;
		else
			return --units == 0;
	};
	auto load = [&](int k) {
		if (to_load <= 0)
			return;
#pragma unroll
		for (int i = 0; i < 3; i++)
			w[k][i] = load_weights((const uint4 *)((const char *)q.tiles + from) + 32 * i);
		const bool ends = tile_ends(k, load_left);
		from += ends ? next_tile : room.next_unit;
		to_load -= ends;
		load_left = ends ? own : load_left;
	};

	allow_next_unless(p.publish);
	/* What is wanted besides weights goes ahead of them: behind them it would wait for a place in the queue. Through
	 * shared memory: a register's load would hold up the weights', or be there no sooner than these. */
	const bool numbered = RECEIVE || p.output == OUTPUT_PEERS;
	if (numbered)
		copy_word(&first_turn[thread], p.sum.first);
	const int places = room.turns * block_teams, items = places << (tokens > WRITTEN<T>);
	if (p.norm)
#pragma unroll 1
		for (int i = thread; i < p.columns / 4; i += THREADS)
			copy_piece(shared + room.norm + i, (const float4 *)p.norm + i, true);
#pragma unroll 1
	for (int i = thread; i < places; i += THREADS)
		phase_prepare(&arrived[i], warps);
	copy_commit();
#pragma unroll
	for (int k = 0; k < RING; k++)
		if (to_load > 0) {
			load(k);
			__syncwarp(); /* without it the compiler puts these loads behind what follows */
		}
	struct packed_item item = packed_item_of<T>(p, m, q, room, thread / 32);
	if (thread / 32 < items)
		packed_ask_side(q, room, shared, item);
	copy_commit();
	/* What results want besides their sums; the first item's is worked out while the kernel ahead still runs. */
	struct gemv_extra *const extras = (struct gemv_extra *)(shared + room.extras) + thread;
	const float2 *const turn_at = gemv_turn_at(p, item.t, item.row, item.valid);
	copy_wait<1>(); /* for the number and the norm's weight */
	wait_for_previous();
	if (room.extras >= 0 && thread / 32 < items)
		packed_ask_extra(p, item, extras, turn_at);
	copy_commit();
	packed_input<T, RECEIVE>(p, RECEIVE ? peer_turn_of(p.sum, first_turn[thread]) : 0, room, q.units, shared, scratch);
	__syncthreads();
	if (RECEIVE)
		gemv_received(p, peer_turn_of(p.sum, first_turn[thread]));
	/* Those of other items are there long before their sums. */
#pragma unroll 1
	for (int i = thread / 32 + WARPS, n = 1; i < items; i += WARPS, n++) {
		item = packed_item_of<T>(p, m, q, room, i);
		if (room.extras >= 0)
			packed_ask_extra(p, item, extras + n * THREADS, gemv_turn_at(p, item.t, item.row, item.valid));
		packed_ask_side(q, room, shared, item);
	}
	copy_commit();

	/* A lane reads its part of each step's input, that of columns without a token none: they remain zero. */
	constexpr int COLUMNS = WIDE ? 4 * T : 8;
	const bool reads = lane / 4 < (WIDE ? COLUMNS : tokens);
	const uint32_t input = shared_address(shared) + warp * (WIDE ? UNIT * 4 * T : UNIT * 2) +
			       (WIDE ? lane * 8 : lane / 4 * room.stride * 16 + lane % 4 * 8);
	/* Tile after tile, a lane leaves its sums of row lane/4: a token's, of one of two steps, or of two tokens. */
	const bool leaves = lane % 4 < (WIDE ? 2 * T : (tokens + 1) / 2);
	uint32_t part = shared_address(shared + room.sums) +
			(WIDE ? ((thread / 32 * 2 + lane % 2) * T + lane % 4 / 2) * TILE + lane / 4
			      : (thread / 32 * tokens + lane % 4 * 2) * TILE + lane / 4) * 4;
	uint32_t barrier = shared_address(shared + room.arrived) + team * 8;
	uint32_t x_at = input, x[4][2] = {};
	float sum[2][4] = {};
	int left = own;

	auto multiply_steps = [&](auto pair, const uint4(&unit)[3]) { /* two steps */
		constexpr int S = 2 * decltype(pair)::value;
		uint32_t first[2], second[2];
		packed_weights<S>(unit, first);
		packed_weights<S + 1>(unit, second);
		const uint32_t a[4] = {first[0], second[0], first[1], second[1]};
		if constexpr (WIDE) {
			uint32_t (&b)[2] = x[S / 2];
			load_shared_where(reads, x_at + S * 64 * T, b);
			multiply(sum[S / 2 % 2], a, b[0], b[1], W());
		} else {
#pragma unroll
			for (int i = 0; i < 2; i++) {
				uint32_t (&b)[2] = x[(S + i) % 4];
				load_shared_where(reads, x_at + (S + i) * 32, b);
				multiply(sum[i], a, b[0], b[1], W());
			}
		}
	};
	int write = thread / 32;
	const struct gemv_extra *extra_at = extras;
	auto write_next = [&](bool wait) {
		item = packed_item_of<T>(p, m, q, room, write);
		if (item.tile < q.count) {
			if (!wait && !phase_over(&arrived[item.place], 0))
				return false;
			copy_wait<0>();
			__syncwarp();
			packed_write<T, RECEIVE>(p, q, room, shared, numbered ? peer_turn_of(p.sum, first_turn[thread]) : 0, item,
						 extra_at, scratch);
		}
		write += WARPS;
		extra_at += THREADS;
		return true;
	};

	int to_do = turns;
#pragma unroll 1
	do {
#pragma unroll
		for (int k = 0; k < RING; k++) {
			if (to_do <= 0)
				break;
			multiply_steps(integer<0>(), w[k]);
			multiply_steps(integer<1>(), w[k]);
			multiply_steps(integer<2>(), w[k]);
			multiply_steps(integer<3>(), w[k]);
			load(k);
			x_at += room.next_input;
			if (!tile_ends(k, left))
				continue;
			if (leaves) {
				if constexpr (WIDE) {
					store_shared(part, lane % 2 ? (sum[0][2] + sum[1][2]) + (sum[0][3] + sum[1][3])
								    : (sum[0][0] + sum[1][0]) + (sum[0][1] + sum[1][1]));
				} else {
					store_shared(part, sum[0][0] + sum[1][2]);
					if (lane % 4 * 2 + 1 < tokens)
						store_shared(part + TILE * 4, sum[0][1] + sum[1][3]);
				}
			}
			__syncwarp();
			if (lane == 0)
				phase_arrive(barrier);
#pragma unroll
			for (int i = 0; i < 4; i++)
				sum[0][i] = sum[1][i] = 0;
			to_do--;
			left = own;
			x_at = input;
			part += WARPS * PARTS<T> * TILE * 4 * tokens;
			barrier += block_teams * 8;
		}
#pragma unroll 1
		while (write < items && write_next(to_do <= 0))
			;
	} while (to_do > 0);
	publish_results(p.publish);
}

/* ---- the host's side -------------------------------------------------------------------------------- */

typedef void (*packed_function)(const struct gemv, const struct gemv_rows, const struct packed_matrix,
				const struct packed_room);

template <int OWN> static packed_function packed_kernel_for(int tokens, bool receive)
{
	return tokens > WIDE_TOKENS ? packed_kernel<GEMV_TOKENS, false, OWN>
	     : tokens == 1 ? receive ? packed_kernel<1, true, OWN> : packed_kernel<1, false, OWN>
			   : receive ? packed_kernel<2, true, OWN> : packed_kernel<2, false, OWN>;
}

/* own: of a warp's units, where all warps have as many, or 0. */
static packed_function packed_kernel_of(int tokens, bool receive, int own)
{
	return own == 1 ? packed_kernel_for<1>(tokens, receive) : own == 2 ? packed_kernel_for<2>(tokens, receive)
	     : own == 4 ? packed_kernel_for<4>(tokens, receive) : packed_kernel_for<0>(tokens, receive);
}

/* Which of the packed matrices this is, or -1. Those of a layer come in the order of `packed_offsets`, then the head. */
static const uint64_t *packed_offsets(const struct cuda_layout *l, uint64_t (&offsets)[PACKED_LAYER])
{
	offsets[0] = l->qkv;
	offsets[1] = l->output;
	offsets[2] = l->gate_up;
	offsets[3] = l->down;
	return offsets;
}

static int packed_index(const struct cuda_backend *b, const void *weights)
{
	const struct cuda_layout *l = &b->layout;
	const uint64_t offset = (uint64_t)((const unsigned char *)weights - b->weights);
	uint64_t offsets[PACKED_LAYER];

	if (offset == l->head)
		return PACKED_LAYER * b->options.shape.layers;
	if (offset < l->first_layer)
		return -1;
	packed_offsets(l, offsets);
	for (int i = 0; i < PACKED_LAYER; i++)
		if ((offset - l->first_layer) % l->layer_bytes == offsets[i])
			return (int)((offset - l->first_layer) / l->layer_bytes) * PACKED_LAYER + i;
	return -1;
}

/* How a matrix of so many rows, of which the output makes groups, is packed, where no row has more strays. */
static struct packed_matrix packed_shape(const struct gemv_rows *m, int columns, int strays)
{
	struct packed_matrix q = {};
	q.count = (m->groups + 1) / 2;
	q.units = (columns + UNIT - 1) / UNIT;
	q.strays = (strays + STRAYS - 1) / STRAYS * STRAYS;
	q.tile_pieces = side_pieces_of(q.strays) + q.units * UNIT_PIECES;
	return q;
}

/* The product of matrix i, as far as it decides on the packing. */
static struct gemv packed_product(const struct cuda_backend *b, int i)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	const int layer = i / PACKED_LAYER;
	uint64_t offsets[PACKED_LAYER];
	struct gemv p = {};

	packed_offsets(l, offsets);
	p.columns = l->hidden_stride;
	p.output = OUTPUT_FLOAT;
	p.head_dim = s->head_dim;
	if (layer == s->layers) {
		p.weights = b->weights + l->head;
		p.rows = s->vocab;
		return p;
	}
	p.weights = b->weights + l->first_layer + l->layer_bytes * (uint64_t)layer + offsets[i % PACKED_LAYER];
	switch (i % PACKED_LAYER) {
	case 0:
		p.rows = l->qkv_rows;
		p.output = s->query_key_norm || s->head_dim % 4 ? OUTPUT_FLOAT : OUTPUT_ROPE;
		break;
	case 1:
		p.rows = s->hidden;
		p.columns = l->attention_stride;
		break;
	case 2:
		p.rows = 2 * s->intermediate;
		p.output = OUTPUT_GATE_UP;
		break;
	default:
		p.rows = s->hidden;
		p.columns = l->activation_stride;
	}
	return p;
}

/* Calls f(i, product, rows) for all matrices that there are, until it fails. Returns 0 or -1. */
template <typename F> static int packed_each(const struct cuda_backend *b, F f)
{
	for (int i = 0; i < PACKED_LAYER * b->options.shape.layers + 1; i++) {
		struct gemv p = packed_product(b, i);
		if (p.rows && p.columns && p.columns <= UINT16_MAX && f(i, p, gemv_rows_of(&p)))
			return -1;
	}
	return 0;
}

static size_t packed_size(const struct packed_matrix *q)
{
	return (size_t)q->count * (size_t)q->tile_pieces * sizeof(uint4);
}

/* Decides how every matrix is packed: by the most strays that one of its rows has. */
static int packed_shapes(struct cuda_backend *b, int32_t *most, size_t count, struct error *err)
{
	int32_t *device = NULL;
	int result = -1;
	if (cuda_ok(b, err, cudaMalloc((void **)&device, count * sizeof *device), "cudaMalloc for packing") &&
	    cuda_ok(b, err, cudaMemsetAsync(device, 0, count * sizeof *device, b->stream), "packing weights")) {
		b->plain_next = true; /* the weights came by another stream */
		result = packed_each(b, [&](int i, const struct gemv &p, const struct gemv_rows &rows) {
			const struct packed_matrix q = packed_shape(&rows, p.columns, 0);
			return kernel_launch(b, err, "strays_kernel", strays_kernel, dim3((unsigned)q.count), 32 * TILE, 0,
					     (const uint16_t *)p.weights, p.columns, rows, device + i);
		});
	}
	if (!result && (!cuda_ok(b, err, cudaMemcpyAsync(most, device, count * sizeof *most, cudaMemcpyDeviceToHost, b->stream),
				 "packing weights") ||
			!cuda_ok(b, err, cudaStreamSynchronize(b->stream), "packing weights")))
		result = -1;
	cudaFree(device);
	return result || packed_each(b, [&](int i, const struct gemv &p, const struct gemv_rows &rows) {
		const struct packed_matrix q = packed_shape(&rows, p.columns, most[i]);
		if (most[i] <= STRAYS_MOST && packed_size(&q) <= UINT32_MAX) /* kernels count bytes in 32 bits */
			b->packed[i] = q;
		return 0;
	}) ? -1 : 0;
}

/* Packs them, where they belong one after the other. */
static int packed_fill(struct cuda_backend *b, struct error *err)
{
	unsigned char *to = b->packed_bytes;
	b->plain_next = true;
	return packed_each(b, [&](int i, const struct gemv &p, const struct gemv_rows &rows) {
		struct packed_matrix *q = &b->packed[i];
		uint4 *const tiles = (uint4 *)to;
		if (!q->count)
			return 0;
		to += packed_size(q);
		q->tiles = tiles;
		return kernel_launch(b, err, "pack_kernel", pack_kernel, dim3((unsigned)q->count), 32 * TILE, 0,
				     (const uint16_t *)p.weights, p.columns, rows, *q, tiles);
	});
}

/* Room for so many bytes, or none: where they don't fit besides what was planned. By the device's size, not by what is
 * free, so that the same command takes the same way, and so computes the same bits, whenever it runs. */
static int packed_room_for(struct cuda_backend *b, size_t bytes, struct error *err)
{
	struct backend_memory planned;
	size_t free_bytes = 0, all = 0;
	if (!cuda_ok(b, err, cudaMemGetInfo(&free_bytes, &all), "cudaMemGetInfo"))
		return -1;
	cuda_backend_memory(&b->options, &planned);
	if (planned.weights + planned.kv_cache + planned.workspace + planned.overhead + bytes > all - all / SPARE)
		return 0;
	cudaError_t status = cudaMalloc((void **)&b->packed_bytes, bytes);
	if (status == cudaErrorMemoryAllocation) { /* someone else has it: it goes without, only slower */
		cudaGetLastError();
		return 0;
	}
	return cuda_ok(b, err, status, "cudaMalloc for packed weights") ? 0 : -1;
}

/* TPRUN_CUDA_PACKED=0 leaves the weights as they are, to measure and to test. */
int gemv_packed_build(struct cuda_backend *b, struct error *err)
{
	const char *wanted = getenv("TPRUN_CUDA_PACKED");
	const size_t count = (size_t)PACKED_LAYER * (size_t)b->options.shape.layers + 1;
	size_t bytes = 0;
	int32_t *most;
	int result = -1;

	if (b->options.shape.dtype != DTYPE_BF16 || (wanted && !strcmp(wanted, "0")))
		return 0;
	b->packed = (struct packed_matrix *)calloc(count, sizeof *b->packed);
	most = (int32_t *)calloc(count, sizeof *most);
	if (!b->packed || !most) {
		error_memory(err, "packed weights");
	} else if (!packed_shapes(b, most, count, err)) {
		for (size_t i = 0; i < count; i++)
			bytes += packed_size(&b->packed[i]);
		result = bytes && packed_room_for(b, bytes, err) ? -1 : 0;
	}
	free(most);
	if (!result && b->packed_bytes)
		result = packed_fill(b, err) || !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "packing weights") ? -1 : 0;
	b->plain_next = true;
	return result;
}

void gemv_packed_close(struct cuda_backend *b)
{
	cudaFree(b->packed_bytes);
	free(b->packed);
}

double gemv_packed_share(struct backend *base, int32_t tokens)
{
	struct cuda_backend *b = cuda_of(base);
	double plain = 0, read = 0;
	packed_each(b, [&](int i, const struct gemv &p, const struct gemv_rows &) {
		const double bytes = 2.0 * p.rows * p.columns;
		plain += bytes;
		read += tokens <= GEMV_TOKENS && b->packed && b->packed[i].tiles ? (double)packed_size(&b->packed[i]) : bytes;
		return 0;
	});
	return plain > 0 ? read / plain : 1;
}

int gemv_packed_prepare(struct cuda_backend *b, struct error *err)
{
	for (int own : {0, 1, 2, 4})
		for (int i = 0; b->options.shape.dtype == DTYPE_BF16 && i < 5; i++)
			if (shared_prepare(b, packed_kernel_of(1 + i / 2, i % 2, own), b->shared_block - SHARED_FIXED, err))
				return -1;
	return 0;
}

/* How a product is divided: a block's teams and their warps, the grid, and shared memory of so many bytes. */
struct packed_plan {
	struct gemv_rows rows;
	struct packed_matrix matrix;
	struct packed_room room;
	int grid;
	size_t shared;
};

static int divide_up(int a, int b)
{
	return (a + b - 1) / b;
}

static struct packed_plan plan_of(const struct cuda_backend *b, const struct gemv *p, const struct packed_matrix *q)
{
	struct packed_plan plan = {gemv_rows_of(p), *q, {}, 0, 0};
	struct packed_room *room = &plan.room;
	const bool wide = p->tokens <= WIDE_TOKENS;
	int least = INT32_MAX;

	/* The fewest units for a warp, and of those the largest teams. */
	for (int log = WARPS_LOG; log >= 0; log--) {
		const int warps = 1 << log;
		const int units = divide_up(q->units, warps) * divide_up(q->count, b->multiprocessors * (WARPS / warps));
		if (warps <= q->units && units < least) {
			least = units;
			room->warps_log = log;
		}
	}
	const int teams = WARPS >> room->warps_log;
	plan.grid = divide_up(q->count, teams);
	plan.grid = plan.grid < b->multiprocessors ? plan.grid : b->multiprocessors;
	room->turns = divide_up(q->count, plan.grid * teams);
	room->stride = q->units * (UNIT * 2 / 16) + 2; /* rows lie in different banks */
	const int fours = p->columns / 4, places = room->turns * teams;
	room->norm = p->tokens * (wide ? q->units * (UNIT / 4) : room->stride);
	room->sides = room->norm + (p->norm ? fours : 0);
	room->extras = room->sides + places * side_pieces_of(q->strays);
	room->sums = room->extras;
	if (p->bias || p->output == OUTPUT_ADD || p->output == OUTPUT_ROPE)
		room->sums += divide_up(places * divide_up(p->tokens, wide ? WIDE_TOKENS : 4), WARPS) * THREADS;
	else
		room->extras = -1;
	room->next_unit = UNIT_PIECES * 16 << room->warps_log;
	room->next_input = (uint32_t)(wide ? UNIT * 4 * p->tokens : UNIT * 2) << room->warps_log;
	room->arrived = room->sums + (places << room->warps_log) * (wide ? PARTS<1> : PARTS<GEMV_TOKENS>) * p->tokens * TILE / 4;
	plan.shared = (size_t)room->arrived * sizeof(uint4) + (size_t)places * sizeof(uint64_t);
	return plan;
}

static const struct packed_matrix *packed_of(const struct cuda_backend *b, const struct gemv *p)
{
	const int i = b->packed ? packed_index(b, p->weights) : -1;
	return i >= 0 && b->packed[i].tiles ? &b->packed[i] : NULL;
}

bool gemv_packed_serve(const struct cuda_backend *b, const struct gemv *p)
{
	const struct packed_matrix *q = packed_of(b, p);
	return q && p->tokens <= GEMV_TOKENS && (p->tokens > WIDE_TOKENS || gemv_wide(b, p->tokens, p->columns)) &&
	       plan_of(b, p, q).shared <= (size_t)b->shared_block - SHARED_FIXED;
}

int gemv_packed_launch(struct cuda_backend *b, const struct gemv *p, struct error *err)
{
	struct packed_plan plan = plan_of(b, p, packed_of(b, p));
	const int units = plan.matrix.units, log = plan.room.warps_log;
	return kernel_launch(b, err, "packed_kernel",
			     packed_kernel_of(p->tokens, p->receive, units >> log << log == units ? units >> log : 0), dim3((unsigned)plan.grid),
			     THREADS, plan.shared, *p, plan.rows, plan.matrix, plan.room);
}
