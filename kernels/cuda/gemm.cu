/*
 * gemm.cu - matrix times many vectors on Hopper, for the two products after which there is something to take along: the
 * activation, or rope and the way into the cache. (The others are no faster here than through cuBLAS: bench/README.md.)
 *
 * A block takes TOKENS tokens and WIDTH rows of the matrix at a time. Two teams of four warps have 64 of the tokens each, and
 * their sums in registers (wgmma). One more warp brings input and weights, DEPTH columns at a time, to a ring of places in
 * shared memory, by bulk copies that lay them out as wgmma wants them (TMA). Two blocks are a cluster: they have different tokens
 * and the same rows, of which each brings one half to both. There are as many clusters as multiprocessors for them, and each
 * takes a tile after the other; those of the same rows are neighbours, so that weights come from memory once.
 *
 * A product's columns are added up in their order, whatever the tile: its bits depend neither on the number of tokens nor
 * on the width.
 */
#include <stdlib.h>

#include "kernels/cuda/wgmma.cuh"

enum {
	TOKENS = 128, TEAM_TOKENS = 64, DEPTH = 64,
	TEAM = 128,		/* threads */
	THREADS = 3 * TEAM,	/* the first team brings, the others compute */
	CLUSTER = 2,		/* blocks */
	WARPS = 8,		/* that compute, of a block */
	INPUT_BYTES = TOKENS * DEPTH * 2,
	SHARED_ALL = 226 << 10,
	SWIZZLE = 1024,		/* bytes: the boundary that it wants */
	LEAST_SHARE = 85,	/* percent: see gemm_serve */
};

template <int WIDTH> constexpr int WEIGHT_BYTES = WIDTH * DEPTH * 2;
template <int WIDTH> constexpr int STAGE_BYTES = INPUT_BYTES + WEIGHT_BYTES<WIDTH>;
template <int WIDTH> constexpr int STAGES = (SHARED_ALL - SWIZZLE) / STAGE_BYTES<WIDTH>;

/* From a tile's first row to the next tile's. */
template <gemv_output OUT, int WIDTH> constexpr int ROWS_APART = OUT == OUTPUT_GATE_UP ? WIDTH / 2 : WIDTH;

/* How a product is divided. */
struct gemm_tiles {
	int down, across; /* pairs of token tiles, and tiles of rows */
	int width;	  /* rows of a tile; of OUTPUT_GATE_UP half of them are gates, half ups */
};

/* Where the machine code is that computes: kernels for other GPUs are empty. */
__device__ bool gemm_compiled = HAVE_WGMMA;

#if HAVE_WGMMA
/* ---- barriers and copies ------------------------------------------------------------------------- */

/* One of those that end a phase of this block's barrier, which ends when so many bytes have come, too. */
__device__ __forceinline__ void phase_expect(const uint64_t *barrier, int bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
		     :: "r"(shared_address(barrier)), "r"(bytes) : "memory");
}

/* Arrives at that barrier of a block of the cluster. Not "release" for all the cluster: what is passed on is a place that was
 * read, and such a fence would wait for stores. */
__device__ __forceinline__ void phase_arrive_at(const uint64_t *barrier, int block)
{
	asm volatile("{\n\t.reg .b32 there;\n\t"
		     "mapa.shared::cluster.u32 there, %0, %1;\n\t"
		     "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t}"
		     :: "r"(shared_address(barrier)), "r"(block) : "memory");
}

__device__ __forceinline__ void cluster_meet(void)
{
	asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ __forceinline__ int cluster_block(void)
{
	uint32_t block;
	asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(block));
	return (int)block;
}

/* The box that begins at column, row and half; zeros where the matrix has none. */
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, const uint64_t *barrier, int column, int row, int half)
{
	asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
		     :: "r"(to), "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(half) : "memory");
}

/* The same to both blocks' place, and their barriers. */
__device__ __forceinline__ void copy_box_to_both(uint32_t to, const CUtensorMap *map, const uint64_t *barrier, int column, int row,
						 int half)
{
	asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
		     "[%0], [%1, {%3, %4, %5}], [%2], %6;"
		     :: "r"(to), "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(half), "h"((uint16_t)3) : "memory");
}

/* ---- results -------------------------------------------------------------------------------------- */

/* Lane q of four has word q of four runs each; it gets all four words of run q. */
__device__ __forceinline__ uint4 exchange(uint32_t (&w)[4], int q)
{
	uint32_t first = q & 1 ? w[0] : w[1], second = q & 1 ? w[2] : w[3];
	first = __shfl_xor_sync(0xffffffffu, first, 1);
	second = __shfl_xor_sync(0xffffffffu, second, 1);
	w[0] = q & 1 ? first : w[0];
	w[1] = q & 1 ? w[1] : first;
	w[2] = q & 1 ? second : w[2];
	w[3] = q & 1 ? w[3] : second;
	first = q & 2 ? w[0] : w[2];
	second = q & 2 ? w[1] : w[3];
	first = __shfl_xor_sync(0xffffffffu, first, 2);
	second = __shfl_xor_sync(0xffffffffu, second, 2);
	return q & 2 ? make_uint4(first, second, w[2], w[3]) : make_uint4(w[0], w[1], first, second);
}

/* Stores N runs of eight elements that lie one after the other from `to` on, as far as they are below `end`; value(n) gives
 * the lane's two of run n. Whole warps come here, lanes without a row with to NULL. */
template <typename W, int N, typename V> __device__ __forceinline__ void store_runs(W *to, int end, V value)
{
	const int q = (int)threadIdx.x % 4;
#pragma unroll
	for (int first = 0; first < N; first += 4) {
		uint32_t words[4] = {};
#pragma unroll
		for (int i = 0; i < 4 && first + i < N; i++) {
			const float2 v = value(first + i);
			words[i] = pack_pair(v.x, v.y, W());
		}
		const uint4 run = exchange(words, q);
		if (to && first + q < N && (first + q) * 8 < end)
			*(uint4 *)(to + (first + q) * 8) = run;
	}
}

/* Two of a lane's sums, which are those of a row of the matrix and the next, with their biases. */
__device__ __forceinline__ float2 biased(const struct gemv &p, const float (&sums)[4], int from, int row)
{
	const float2 bias = p.bias && row < p.rows ? *(const float2 *)(p.bias + row) : make_float2(0, 0);
	return make_float2(sums[from] + bias.x, sums[from + 1] + bias.y);
}

/* A token's results, whose sums a lane has in d[n][from] and d[n][from + 1]: of lane q among four those of rows 8n + 2q and
 * the next of the tile, which begins with row `first` (of either half), gates and then ups. */
template <typename W, int WIDTH>
__device__ __forceinline__ void activation_store(const struct gemv &p, const float (&d)[WIDTH / 8][4], int from, int token, int first)
{
	const int end = p.rows / 2, mine = first + (int)threadIdx.x % 4 * 2;
	W *const to = (W *)p.target + (size_t)token * p.target_stride + first;
	store_runs<W, WIDTH / 16>(token < p.tokens ? to : NULL, end - first, [&](int n) {
		const float2 gate = biased(p, d[n], from, mine + n * 8), up = biased(p, d[n + WIDTH / 16], from, end + mine + n * 8);
		return make_float2(silu(gate.x) * up.x, silu(gate.y) * up.y);
	});
}

/* The same of a tile of whole heads of HEAD rows, to query and cache. */
template <typename W, int WIDTH, int HEAD>
__device__ __forceinline__ void heads_store(const struct gemv &p, const float (&d)[WIDTH / 8][4], int from, int token, int first)
{
	constexpr int RUNS = HEAD / 8;
	const int mine = (int)threadIdx.x % 4 * 2;
	const bool there = token < p.tokens;
	const int slot = there ? p.slots[token] : 0;
#pragma unroll
	for (int k = 0; k < WIDTH / HEAD; k++) {
		const int head = first / HEAD + k, kv = head - p.query_heads; /* keys, then values */
		float2 turned[RUNS];
		if (kv >= 2 * p.kv_heads)
			break;
#pragma unroll
		for (int n = 0; n < RUNS / 2; n++) {
			const int i = mine + n * 8, row = head * HEAD + i;
			const float2 low = biased(p, d[k * RUNS + n], from, row);
			const float2 high = biased(p, d[k * RUNS + n + RUNS / 2], from, row + HEAD / 2);
			float4 turn = make_float4(1, 0, 1, 0); /* cos and sin of both */
			if (there && kv < p.kv_heads)
				turn = *(const float4 *)(p.rope + (size_t)token * (HEAD / 2) + i);
			turned[n] = make_float2(low.x * turn.x - high.x * turn.y, low.y * turn.z - high.y * turn.w);
			turned[n + RUNS / 2] = make_float2(high.x * turn.x + low.x * turn.y, high.y * turn.z + low.y * turn.w);
		}
		if (kv >= 0) {
			W *const cache = (W *)(kv < p.kv_heads ? p.keys : p.values);
			const size_t place = ((size_t)(slot / KV_BLOCK) * p.kv_heads + kv % p.kv_heads) * KV_BLOCK + slot % KV_BLOCK;
			store_runs<W, RUNS>(there ? cache + place * p.head_stride : NULL, HEAD, [&](int n) { return turned[n]; });
		} else if (there) {
			float *const query = (float *)p.target + ((size_t)token * p.query_heads + head) * p.head_stride + mine;
#pragma unroll
			for (int n = 0; n < RUNS; n++)
				*(float2 *)(query + n * 8) = turned[n];
		}
	}
}
#endif

/* ---- the kernel ----------------------------------------------------------------------------------- */

/* input: [tokens][columns]; weights: [halves][rows of a half][columns]. HEAD: of OUTPUT_ROPE, its size. */
template <typename W, gemv_output OUT, int WIDTH, int HEAD>
__global__ void __launch_bounds__(THREADS, 1)
gemm_kernel(const __grid_constant__ CUtensorMap input, const __grid_constant__ CUtensorMap weights,
	    const __grid_constant__ struct gemv p, const __grid_constant__ struct gemm_tiles tiles)
{
#if HAVE_WGMMA
	extern __shared__ uint4 shared[];
	__shared__ uint64_t full[STAGES<WIDTH>], empty[STAGES<WIDTH>];
	const uint32_t ring = (shared_address(shared) + SWIZZLE - 1) / SWIZZLE * SWIZZLE;
	const int thread = (int)threadIdx.x, block = cluster_block(), steps = p.columns / DEPTH;
	const int clusters = (int)gridDim.x / CLUSTER, cluster = (int)blockIdx.x / CLUSTER;
	int stage = 0;
	uint32_t phase = 0;
	auto next = [&]() {
		stage = stage + 1 < STAGES<WIDTH> ? stage + 1 : 0;
		phase ^= stage == 0;
	};

	allow_next();
	if (thread == 0) {
		for (int i = 0; i < STAGES<WIDTH>; i++) {
			phase_prepare(&full[i], 1);
			phase_prepare(&empty[i], CLUSTER * WARPS);
		}
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	cluster_meet();
	wait_for_previous();
	if (thread < TEAM) {
		asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
		for (int t = cluster; thread == 0 && t < tiles.down * tiles.across; t += clusters) {
			const int token = (t % tiles.down * CLUSTER + block) * TOKENS;
			const int first = t / tiles.down * ROWS_APART<OUT, WIDTH>, row = first + (OUT == OUTPUT_GATE_UP ? 0 : block * (WIDTH / 2));
			for (int k = 0; k < steps; k++) {
				const uint32_t to = ring + stage * STAGE_BYTES<WIDTH>;
				phase_await(&empty[stage], phase ^ 1);
				phase_expect(&full[stage], STAGE_BYTES<WIDTH>);
				copy_box(to, &input, &full[stage], k * DEPTH, token, 0);
				copy_box_to_both(to + INPUT_BYTES + block * (WEIGHT_BYTES<WIDTH> / 2), &weights, &full[stage], k * DEPTH, row,
						 OUT == OUTPUT_GATE_UP ? block : 0);
				next();
			}
		}
	} else {
		asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
		const int team = thread / TEAM - 1, warp = thread % TEAM / 32, lane = thread % 32;
		float d[WIDTH / 8][4];
		for (int t = cluster; t < tiles.down * tiles.across; t += clusters) {
			int before = stage;
			for (int k = 0; k < steps; k++) {
				const uint32_t at = ring + stage * STAGE_BYTES<WIDTH>;
				const uint64_t a = describe(at + team * (TEAM_TOKENS * DEPTH * 2), 16, 1024);
				const uint64_t b = describe(at + INPUT_BYTES, 16, 1024);
				phase_await(&full[stage], phase);
				wide_begin();
#pragma unroll
				for (int i = 0; i < DEPTH / 16; i++)
					wide_multiply(d, described_past(a, i * 32), described_past(b, i * 32), i > 0 || k > 0, W());
				wide_commit();
				if (k > 0) {
					wide_wait<1>();
					if (lane < CLUSTER)
						phase_arrive_at(&empty[before], lane);
				}
				before = stage;
				next();
			}
			wide_wait<0>(d);
			if (lane < CLUSTER)
				phase_arrive_at(&empty[before], lane);
			const int token = (t % tiles.down * CLUSTER + block) * TOKENS + team * TEAM_TOKENS + warp * 16 + lane / 4;
			const int first = t / tiles.down * ROWS_APART<OUT, WIDTH>;
#pragma unroll
			for (int h = 0; h < 2; h++)
				if constexpr (OUT == OUTPUT_GATE_UP)
					activation_store<W, WIDTH>(p, d, 2 * h, token + 8 * h, first);
				else
					heads_store<W, WIDTH, HEAD>(p, d, 2 * h, token + 8 * h, first);
		}
	}
	cluster_meet(); /* neither block ends before the other has stored to its memory for the last time */
#endif
}

/* ---- the host's side -------------------------------------------------------------------------------- */

typedef void (*gemm_function)(const CUtensorMap, const CUtensorMap, const struct gemv, const struct gemm_tiles);

static const int widths[] = {256, 240, 192}; /* of tiles: of equals the first is taken */

/* NULL where no kernel has that width. */
template <typename W> static gemm_function gemm_kernel_for(int width, const struct gemv *p)
{
	if (p->output == OUTPUT_GATE_UP)
		return width == 256 ? gemm_kernel<W, OUTPUT_GATE_UP, 256, 0> : width == 240 ? gemm_kernel<W, OUTPUT_GATE_UP, 240, 0>
										 : gemm_kernel<W, OUTPUT_GATE_UP, 192, 0>;
	if (width != 256) /* whole heads */
		return NULL;
	return p->head_dim == 64 ? gemm_kernel<W, OUTPUT_ROPE, 256, 64> : gemm_kernel<W, OUTPUT_ROPE, 256, 128>;
}

static gemm_function gemm_kernel_of(enum dtype dtype, int width, const struct gemv *p)
{
	return dtype == DTYPE_F16 ? gemm_kernel_for<__half>(width, p) : gemm_kernel_for<__nv_bfloat16>(width, p);
}

static size_t shared_bytes(int width)
{
	const int stages = width == 256 ? STAGES<256> : width == 240 ? STAGES<240> : STAGES<192>;
	return (size_t)stages * (size_t)(INPUT_BYTES + width * DEPTH * 2) + SWIZZLE;
}

/* Rounds of tiles that a kernel's beginning and end are taken for, beside which nothing is multiplied: with it the share
 * decides as H200s do between these kernels and cuBLAS, from 512 to 2,048 tokens of whole, halved and quartered matrices. */
static const double EDGES = 0.3;

/* The best division, and what share of the time the multiprocessors multiply, as far as that decides. */
static double gemm_divide(const struct cuda_backend *b, const struct gemv *p, struct gemm_tiles *best)
{
	const int halves = p->output == OUTPUT_GATE_UP ? 2 : 1;
	const int clusters = b->multiprocessors / CLUSTER;
	double share = 0;

	for (int width : widths) {
		const struct gemm_tiles tiles = {divide_up(p->tokens, CLUSTER * TOKENS), divide_up(p->rows / halves, width / halves), width};
		const double rounds = divide_up(tiles.down * tiles.across, clusters) + EDGES;
		const double used = (double)p->rows * p->tokens / (rounds * clusters * CLUSTER * TOKENS * width);
		if (used > share && gemm_kernel_of(b->options.shape.dtype, width, p)) {
			share = used;
			*best = tiles;
		}
	}
	return share;
}

/* TPRUN_CUDA_GEMM: the least share in percent that these kernels are taken for, to measure and to test; more than 100 for
 * never. */
int gemm_prepare(struct cuda_backend *b, struct error *err)
{
	const char *wanted = getenv("TPRUN_CUDA_GEMM");
	const enum dtype dtype = b->options.shape.dtype;
	bool compiled = false;

	b->gemm_share = 2;
	if (dtype == DTYPE_F32)
		return 0;
	if (!cuda_ok(b, err, cudaMemcpyFromSymbol(&compiled, gemm_compiled, sizeof compiled), "cudaMemcpyFromSymbol"))
		return -1;
	if (!compiled || b->shared_block < SHARED_ALL)
		return 0;
	b->gemm_share = (wanted ? atoi(wanted) : LEAST_SHARE) / 100.0;
	struct gemv p = {};
	for (gemv_output output : {OUTPUT_GATE_UP, OUTPUT_ROPE})
		for (int head : {64, 128})
			for (int width : widths) {
				p.output = output;
				p.head_dim = head;
				gemm_function kernel = gemm_kernel_of(dtype, width, &p);
				if (kernel && shared_prepare(b, kernel, (int)shared_bytes(width), err))
					return -1;
			}
	return driver_load(&b->driver, err);
}

bool gemm_serve(const struct cuda_backend *b, const struct gemv *p)
{
	struct gemm_tiles tiles;
	if (p->output == OUTPUT_GATE_UP ? p->rows % 16 || p->target_wide
					: p->output != OUTPUT_ROPE || (p->head_dim != 64 && p->head_dim != 128))
		return false;
	return !p->norm && gemm_divide(b, p, &tiles) >= b->gemm_share;
}

/* [halves][rows][columns] of W, of which boxes of so many rows and DEPTH columns are to be copied. */
static int map_matrix(struct cuda_backend *b, const void *at, int columns, int rows, int halves, int box_rows, CUtensorMap *map,
		      struct error *err)
{
	const cuuint64_t row_bytes = (cuuint64_t)columns * 2;
	const cuuint64_t sizes[] = {(cuuint64_t)columns, (cuuint64_t)rows, (cuuint64_t)halves};
	const cuuint64_t strides[] = {row_bytes, row_bytes * (cuuint64_t)rows};
	const cuuint32_t box[] = {DEPTH, (cuuint32_t)box_rows, 1}, every[] = {1, 1, 1};
	CUresult status = b->driver.tensor_map_encode(
		map, b->options.shape.dtype == DTYPE_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3,
		(void *)at, sizes, strides, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
		CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
	return status == CUDA_SUCCESS ? 0 : error_run(err, "%s: cuTensorMapEncodeTiled: CUDA's error %d", b->label, (int)status);
}

int gemm_launch(struct cuda_backend *b, const struct gemv *p, struct error *err)
{
	CUtensorMap input, weights;
	struct gemm_tiles tiles = {};
	gemm_divide(b, p, &tiles);
	const int halves = p->output == OUTPUT_GATE_UP ? 2 : 1, clusters = b->multiprocessors / CLUSTER, count = tiles.down * tiles.across;
	if (map_matrix(b, p->input, p->columns, p->tokens, 1, TOKENS, &input, err) ||
	    map_matrix(b, p->weights, p->columns, p->rows / halves, halves, tiles.width / 2, &weights, err))
		return -1;
	return cluster_launch(b, err, "gemm_kernel", gemm_kernel_of(b->options.shape.dtype, tiles.width, p), dim3(CLUSTER),
			      dim3((unsigned)(CLUSTER * (count < clusters ? count : clusters))), THREADS, shared_bytes(tiles.width),
			      input, weights, *p, tiles);
}
