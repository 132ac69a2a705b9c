/*
 * gemv_packed.cu - matrix times one to eight vectors, of bfloat16 weights that are packed: see packed.cuh.
 *
 * 14 instructions make two steps' weights a fragment of mma.m16n8k16. They are the first matrix of the product, rows 0 to
 * 7 those of the first step, 8 to 15 of the second. With up to two tokens, whose input is float, the second matrix has as
 * columns for either step, and each token, the input and what bfloat16 has cut off of it, as in gemv_parts.cu. With more
 * the tokens are its columns, for one step after the other. Of the sums those count where steps meet. The input is scaled
 * up by INPUT_BITS; beyond 2^71 that makes infinities of it.
 *
 * A team of warps takes a tile, and each warp some units of it, RING of them under way. No warp waits for another: each
 * leaves its sums in a place of their own, and now and then looks whether all are there of a tile whose results are its
 * own to write. (A counter, with which the last to come would know that it is, has to order memory, and that waits for
 * the weights under way too.) All sums have one fixed order.
 */
#include "kernels/cuda/packed.cuh"

typedef __nv_bfloat16 W;

enum {
	THREADS = 512, WARPS = THREADS / 32, WARPS_LOG = 4,
	RING = 4,		/* units that a warp has under way: what paid on H200s (bench/README.md) */
	WIDE_TOKENS = 2,	/* at most, with float input */
	SHARED_FIXED = 3072,	/* the kernel's own, at most */
};

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

bool gemv_packed_serve(const struct cuda_backend *b, const struct gemv *p)
{
	const struct packed_matrix *q = packed_find(b, p->weights);
	return q && p->tokens <= GEMV_TOKENS && (p->tokens > WIDE_TOKENS || gemv_wide(b, p->tokens, p->columns)) &&
	       plan_of(b, p, q).shared <= (size_t)b->shared_block - SHARED_FIXED;
}

int gemv_packed_launch(struct cuda_backend *b, const struct gemv *p, struct error *err)
{
	struct packed_plan plan = plan_of(b, p, packed_find(b, p->weights));
	const int units = plan.matrix.units, log = plan.room.warps_log;
	return kernel_launch(b, err, "packed_kernel",
			     packed_kernel_of(p->tokens, p->receive, units >> log << log == units ? units >> log : 0),
			     dim3((unsigned)plan.grid), THREADS, plan.shared, *p, plan.rows, plan.matrix, plan.room);
}
