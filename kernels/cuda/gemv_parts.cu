/*
 * gemv_parts.cu - matrix times one or two vectors in 16-bit types, where a step has few bytes to read.
 *
 * Such a product is over in a few times what one load takes, so all that counts is to have as much as
 * possible on its way from the start, before the kernel ahead has ended, and little to do with it
 * afterwards. Half of a multiprocessor's registers are weights under way; tensor cores take them from there as they
 * are, with no conversion. For that the input, which is float, becomes two parts in the weights' type that
 * add up to it: 16 bits of it with bfloat16, 22 with float16 down to 1/4 and 2^-25 below.
 *
 * In mma.m16n8k16 the weights are the first matrix. A lane's load is 16 bytes, of a row that lane/8 chooses, so that
 * a warp reads whole lines of 128 bytes of four rows. Its four words are four fragments: the lane's eight
 * values belong to rows lane/4 and lane/4 + 8 of that matrix, which makes every row of weights four of its
 * rows, one for each quarter of a line. The second matrix has the same quarters of the input, both parts of
 * each, as its columns. Of the 16 x 8 sums those count where quarters meet.
 *
 * A team of warps takes ROWS rows, a warp a slice of their columns. No warp waits for another: each leaves its sums
 * in a place of their own, and the one that comes last writes the results. All sums have one fixed order.
 *
 * Where a matrix takes many rounds of all teams, gemv.cu measured faster, on one rank sooner than on several
 * (bench/README.md).
 */
#include <stdlib.h>

#include "kernels/cuda/gemv.cuh"
#include "kernels/cuda/tensor.cuh"

enum {
	THREADS = 512, WARPS = THREADS / 32,
	TEAM_WARPS = 4,		/* of a team, at most */
	LINE = 8,		/* pieces of 16 bytes */
	LINES = 16,		/* that a warp has under way, of ROWS rows */
	PARTS = 2, QUARTERS = 4,
	AHEAD = 4,		/* pieces of input */
	TOKENS = 2,		/* at most */
	SHARED_FIXED = 3072,	/* the kernel's own, at most */
	KIB_ALONE = 400, KIB_RANKS = 1500, /* of weights for a multiprocessor, on one rank and on several: what paid on H200s */
};

/* How shared memory is divided, in pieces of 16 bytes: the input's parts from 0 on, then */
struct parts_room {
	int stride; /* from a part to the next */
	int raw;    /* the residual, where a norm is to be taken of it, */
	int norm;   /* and that norm's weight */
	int sums;   /* [turns][teams][warps of a team][tokens][QUARTERS][ROWS] */
	int turns;  /* groups of a team */
	int slice;  /* lines of a warp */
};

/* The most that a part takes: with float16 what it can hold, the rest being the second's; beyond twice that an input is
 * cut off. Comparisons let a NaN through. */
__device__ __forceinline__ float part_of(float x, __half)
{
	const float most = 65504;
	return x > most ? most : x < -most ? -most : x;
}

__device__ __forceinline__ float part_of(float x, __nv_bfloat16)
{
	return x;
}

/* Elements 4i to 4i + 3 as parts. In a line, words 0 and 2 of a piece stand side by side, and so do 1 and 3,
 * those of a slice of four pieces after one another: what a lane reads at once. */
template <typename W> __device__ __forceinline__ void parts_put(uint4 *parts, int stride, int i, float4 v)
{
	const int half = i % 2, piece = i / 2 % 4, slice = i / 8 % 2;
	const int place = i / 16 * 32 + (slice * 8 + piece) * 2 + half;
	float x[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
	for (int part = 0; part < PARTS; part++) {
		uint32_t *to = (uint32_t *)(parts + part * stride) + place;
#pragma unroll
		for (int pair = 0; pair < 2; pair++) {
			float *two = x + 2 * pair, held[2];
			const uint32_t word = pack_pair(part_of(two[0], W()), part_of(two[1], W()), W());
			word_to_floats(word, held, W());
			two[0] -= held[0];
			two[1] -= held[1];
			to[8 * pair] = word;
		}
	}
}

/* T: the tokens. RECEIVE: p.receive, in kernels of its own, for want of registers. */
template <typename W, int T, bool RECEIVE>
__global__ void __launch_bounds__(THREADS, 1)
parts_kernel(const __grid_constant__ struct gemv p, const __grid_constant__ struct gemv_rows m,
	     const __grid_constant__ struct parts_room room)
{
	extern __shared__ uint4 shared[];
	alignas(16) __shared__ float scratch[T * INPUT_WARPS];
	__shared__ uint32_t first_turn[THREADS]; /* as peer_turn reads it; a thread reads its own */
	const int threads = (int)(blockDim.x * blockDim.y), thread = (int)(threadIdx.y * blockDim.x + threadIdx.x);
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
	const int team = (int)threadIdx.y, block_teams = (int)blockDim.y, teams = (int)gridDim.x * block_teams;
	const int first_group = team * (int)gridDim.x + (int)blockIdx.x;
	const int pieces = p.columns / PIECE<W>, lines = pieces / LINE;
	const int own = warp * room.slice, own_lines = max(0, min(room.slice, lines - own));
	float *const sums = (float *)(shared + room.sums);
	int *const arrived = (int *)(sums + room.turns * WARPS * T * QUARTERS * ROWS);
	uint4 w[LINES];

	/* What is loaded runs LINES lines ahead of what is computed. */
	int load_group = first_group, load_left = 0;
	const uint4 *load_from;
	auto aim = [&]() {
		/* Past the end the last row is read again; its result is dropped. */
		int row = min(gemv_row(m, load_group, lane / LINE), p.rows - 1);
		load_from = (const uint4 *)p.weights + (size_t)row * pieces + own * LINE + lane % LINE;
		load_left = own_lines;
	};
	auto load = [&](int k) {
		if (k < load_left)
			w[k] = load_weights(load_from + k * LINE);
	};
	auto advance = [&]() {
		load_from += LINES * LINE;
		load_left -= LINES;
		if (load_left > 0)
			return;
		load_left = 0;
		load_group += teams;
		if (load_group < m.groups)
			aim();
	};

	allow_next_unless(p.publish);
	/* Lane i of the warp that writes results has row i % ROWS of token i / ROWS. */
	const int out_t = lane / ROWS, out_r = lane % ROWS;
	const int slot = out_t < T && p.slots ? p.slots[out_t] : 0;
	/* Through shared memory: a register's load would hold up the weights', or be there no sooner than these. */
	const bool numbered = RECEIVE || p.output == OUTPUT_PEERS;
	if (numbered)
		copy_word(&first_turn[thread], p.sum.first);
	copy_commit();
	if (load_group < m.groups)
		aim();
#pragma unroll
	for (int k = 0; k < LINES; k++)
		load(k);
	advance();
	if (p.norm)
		for (int i = thread; i < p.columns / 4; i += threads)
			copy_piece(shared + room.norm + i, (const float4 *)p.norm + i, true);
	copy_commit();
	for (int i = thread; i < room.turns * block_teams; i += threads)
		arrived[i] = 0;
	/* What the first results want besides their sums is on its way while the input is made. */
	const int first_row = gemv_row(m, first_group, out_r);
	const bool first_valid = out_t < T && first_group < m.groups && gemv_row_exists(m, first_row, out_r);
	const float2 *const turn_at = gemv_turn_at(p, out_t, first_row, first_valid);
	copy_wait<1>(); /* for the number, not for the norm's weight */
	wait_for_previous();
	struct gemv_extra extra = gemv_extra_of(p, out_t, first_row, first_valid, turn_at);
	auto put = [&](int t, int i, float4 v) { parts_put<W>(shared + t * PARTS * room.stride, room.stride, i, v); };
	if (RECEIVE || p.norm) /* what is received is a residual */
		gemv_norm_input<W, T, RECEIVE, true, T == 1 ? 4 : 2, WARPS>(p, RECEIVE ? peer_turn_of(p.sum, first_turn[thread]) : 0,
			(const float4 *)(shared + room.norm), scratch,
			[&](int t, int i) -> float4 & { return ((float4 *)(shared + room.raw))[t * (p.columns / 4) + i]; }, put);
	else
		gemv_wide_input<T>(p, put);
	__syncthreads();

	/* The input's column lane/4: part lane/4 % 2 of quarter lane/8. */
	const uint32_t input = shared_address(shared + lane / 4 % 2 * room.stride + own * LINE) +
			       (lane / 8 * 4 + lane % 4) * sizeof(uint2);
	const uint32_t token_bytes = PARTS * room.stride * sizeof(uint4);

	for (int group = first_group, turn = 0; group < m.groups; group += teams, turn++) {
		if (turn) {
			const int row = gemv_row(m, group, out_r);
			const bool valid = out_t < T && gemv_row_exists(m, row, out_r);
			extra = gemv_extra_of(p, out_t, row, valid, gemv_turn_at(p, out_t, row, valid));
		}
		constexpr int CHAINS = T == 1 ? 2 : 1; /* of products that wait for one another, for a token */
		float sum[T * CHAINS][4] = {};
		uint32_t from = input;
#pragma unroll 1
		for (int left = own_lines; left > 0; left -= LINES, from += LINES * LINE * sizeof(uint4)) {
			uint32_t x[AHEAD][T][2];
			auto fetch = [&](int k) {
				if (k < left)
#pragma unroll
					for (int t = 0; t < T; t++)
						load_shared(from + t * token_bytes + k * LINE * sizeof(uint4), x[k % AHEAD][t]);
			};
#pragma unroll
			for (int k = 0; k < AHEAD - 1; k++)
				fetch(k);
#pragma unroll
			for (int k = 0; k < LINES; k++) {
				if (k + AHEAD - 1 < LINES)
					fetch(k + AHEAD - 1);
				if (k < left) {
					const uint32_t a[4] = {w[k].x, w[k].y, w[k].z, w[k].w};
#pragma unroll
					for (int t = 0; t < T; t++)
						multiply(sum[t * CHAINS + k % CHAINS], a, x[k % AHEAD][t][0], x[k % AHEAD][t][1], W());
				}
				load(k);
			}
			advance();
		}
		/* A lane has sums of row lane/8 with the parts of quarter lane % 4. They count where that is the weights'
		 * quarter too, which for sums 0 and 1 is lane/4 % 2 * 2, for 2 and 3 the next. */
		const int place = turn * block_teams + team;
		float *const to = sums + place * warps * T * QUARTERS * ROWS;
		if (lane / 4 % 2 == lane % 4 / 2)
#pragma unroll
			for (int t = 0; t < T; t++) {
				float y = 0;
#pragma unroll
				for (int c = t * CHAINS; c < (t + 1) * CHAINS; c++)
					y += lane % 2 ? sum[c][2] + sum[c][3] : sum[c][0] + sum[c][1];
				to[((warp * T + t) * QUARTERS + lane % 4) * ROWS + lane / 8] = y;
			}
		__syncwarp();
		int before = lane == 0 ? count_in(&arrived[place]) : 0;
		if (__shfl_sync(0xffffffffu, before, 0) < warps - 1)
			continue;
		__syncwarp();
		const int row = gemv_row(m, group, out_r);
		const bool valid = out_t < T && gemv_row_exists(m, row, out_r);
		float y = 0;
		if (lane < T * QUARTERS * ROWS)
			for (int i = 0; i < warps; i++)
				y += to[i * T * QUARTERS * ROWS + lane];
		y += __shfl_xor_sync(0xffffffffu, y, ROWS);
		y += __shfl_xor_sync(0xffffffffu, y, 2 * ROWS);
		y = __shfl_sync(0xffffffffu, y, out_t % T * QUARTERS * ROWS + out_r);
		gemv_output<W, 2, !RECEIVE>(p, out_t, out_r, row, valid, slot,
					     numbered ? peer_turn_of(p.sum, first_turn[thread]) : 0, extra, y);
	}
	publish_results(p.publish);
}

typedef void (*parts_function)(const struct gemv, const struct gemv_rows, const struct parts_room);

/* Calls f(kernel) for 16-bit types. */
template <typename F> static int for_parts(const struct cuda_backend *b, int tokens, bool receive, F f)
{
	auto of = [&](auto w) {
		typedef decltype(w) W;
		return f(tokens == 1 ? receive ? parts_kernel<W, 1, true> : parts_kernel<W, 1, false>
				     : receive ? parts_kernel<W, 2, true> : parts_kernel<W, 2, false>);
	};
	return b->options.shape.dtype == DTYPE_F16 ? of(__half()) : of(__nv_bfloat16());
}

/* TPRUN_CUDA_PARTS gives another number of KiB, 0 for never, to measure and to test. */
int gemv_parts_prepare(struct cuda_backend *b, struct error *err)
{
	const struct group *g = b->options.group;
	const char *wanted = getenv("TPRUN_CUDA_PARTS");
	b->parts_bytes = (size_t)(wanted ? atoi(wanted) : g && g->size > 1 ? KIB_RANKS : KIB_ALONE) << 10;
	for (int i = 0; b->options.shape.dtype != DTYPE_F32 && i < 2 * TOKENS; i++)
		if (for_parts(b, 1 + i / 2, i % 2, [&](parts_function kernel) {
			return shared_prepare(b, kernel, b->shared_block - SHARED_FIXED, err);
		}))
			return -1;
	return 0;
}

/* How a product is divided: a block's teams and their warps, the grid, and shared memory of so many bytes. */
struct parts_plan {
	struct gemv_rows rows;
	struct parts_room room;
	int warps, teams, grid;
	size_t shared;
};

static struct parts_plan plan_of(const struct cuda_backend *b, const struct gemv *p)
{
	struct parts_plan plan = {gemv_rows_of(p), {}, 0, 0, 0, 0};
	struct parts_room *room = &plan.room;
	const int fours = p->columns / 4, pieces = p->columns * 2 / 16, lines = pieces / LINE;

	plan.warps = (lines + LINES - 1) / LINES;
	plan.warps = plan.warps < TEAM_WARPS ? plan.warps : TEAM_WARPS;
	plan.teams = WARPS / plan.warps;
	room->slice = (lines + plan.warps - 1) / plan.warps;
	plan.grid = (plan.rows.groups + plan.teams - 1) / plan.teams;
	plan.grid = plan.grid < b->multiprocessors ? plan.grid : b->multiprocessors;
	room->stride = pieces + 4; /* the parts of a quarter lie in different banks */
	room->raw = p->tokens * PARTS * room->stride;
	room->norm = room->raw + (p->norm ? p->tokens * fours : 0);
	room->sums = room->norm + (p->norm ? fours : 0);
	room->turns = (plan.rows.groups + plan.grid * plan.teams - 1) / (plan.grid * plan.teams);
	plan.shared = (size_t)room->sums * sizeof(uint4) +
		      (size_t)room->turns * ((size_t)p->tokens * WARPS * QUARTERS * ROWS * sizeof(float) +
					     (size_t)plan.teams * sizeof(int));
	return plan;
}

bool gemv_parts_serve(const struct cuda_backend *b, const struct gemv *p)
{
	return b->options.shape.dtype != DTYPE_F32 && p->tokens <= TOKENS && gemv_wide(b, p->tokens, p->columns) &&
	       (size_t)p->rows * (size_t)p->columns * 2 <= (size_t)b->multiprocessors * b->parts_bytes &&
	       plan_of(b, p).shared <= (size_t)b->shared_block - SHARED_FIXED;
}

int gemv_parts_launch(struct cuda_backend *b, const struct gemv *p, struct error *err)
{
	struct parts_plan plan = plan_of(b, p);
	return for_parts(b, p->tokens, p->receive, [&](parts_function kernel) {
		return kernel_launch(b, err, "parts_kernel", kernel, dim3((unsigned)plan.grid),
				     dim3(32 * (unsigned)plan.warps, (unsigned)plan.teams), plan.shared, *p, plan.rows,
				     plan.room);
	});
}
