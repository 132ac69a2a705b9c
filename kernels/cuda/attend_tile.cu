/*
 * attend_tile.cu - attention of prompts, on tensor cores, for 16-bit models.
 *
 * A block takes ATTEND_TILE tokens of one sequence and one query head, and walks over the
 * context in tiles of KEYS keys: scores, running softmax and weighted values stay in
 * registers (Dao 2022), keys and values come through shared memory, the next tiles on their way
 * while these are used. A warp owns 16 of the tokens, a team of four warps TEAM_TOKENS. Products are
 * mma.m16n8k16, or on Hopper wgmma, with float32 sums; the weights of the softmax are rounded to the
 * model's type between the two products, as are the queries before. Every order is fixed.
 *
 * wgmma works in the background: while a tile's softmax is taken, the values of the one before are added up. And the
 * teams take turns, so that one has its products while the other is at its softmax (Shah 2024).
 */
#include "kernels/cuda/internal.cuh"
#include "kernels/cuda/tensor.cuh"
#include "kernels/cuda/wgmma.cuh"

enum {
	WARPS = ATTEND_TILE / 16,
	THREADS = 32 * WARPS,
	TEAM_TOKENS = 64,
	TEAM_THREADS = 2 * TEAM_TOKENS,
	KEYS = 64,
	SKEW = 8,
};

struct tile_parameters {
	const float *query;	/* [tokens][query_heads][head_stride] */
	const void *keys, *values;
	struct cuda_rows attention;
	const struct attend_tile *tiles;
	const int32_t *positions, *table;
	const struct head_group *groups;
	int query_heads, kv_heads, group_max, head_dim, head_stride, attention_stride, table_stride;
	int window;
	float scale;		/* of q·k, times log2(e) */
};

/* Whether a team takes a product together (wgmma, sm_90a), which reads keys and values from shared memory once for 64
 * tokens, not once for 16: 125 us against 247 for a prompt of 2,048 with 32 heads on an H200, with one team in
 * a block and nothing in the background. Not for heads of up to 64: there ptxas (CUDA 13.0) puts the query and the
 * weights, both first operands of one shape, into the same registers, and loses the query. */
template <int D> constexpr bool WIDE_PRODUCTS = HAVE_WGMMA && D == 128;

/* How many tiles before its use a tile's keys are asked for; its values are wanted, and asked for, a tile later. And
 * the places in shared memory for either, used in turn: one more, and where teams take turns, one for the team behind. */
template <bool WIDE> constexpr int AHEAD = WIDE ? 2 : 1;
template <bool WIDE> constexpr int STAGES = WIDE ? 4 : 2;

/* Keys or values of KEYS positions. For products of one warp, rows are skewed against conflicts of
 * banks; for wide ones they lie as wgmma's 128-byte swizzle wants it: 64 elements of each row, row
 * after row, the 16-byte piece i of row r in place i ^ r % 8; then the next 64. */
template <typename W, int D, bool WIDE> struct tile_memory;

template <typename W, int D> struct tile_memory<W, D, false> {
	enum { ROW_BYTES = (D + SKEW) * (int)sizeof(W) };
	W data[KEYS][D + SKEW];
	__device__ __forceinline__ void *place(int row, int column) { return &data[row][column]; }
	__device__ __forceinline__ const W *place(int row, int column) const { return &data[row][column]; }
};

template <typename W, int D> struct tile_memory<W, D, true> {
	enum { ROW_BYTES = 128 }; /* between rows of the same place in the swizzle: eight apart */
	W data[D / 64][KEYS][64];
	__device__ __forceinline__ void *place(int row, int column)
	{
		return &data[column / 64][row][(column / 8 % 8 ^ row % 8) * 8];
	}
};

/* Where the tiles begin. The swizzle goes by addresses: it wants a boundary of 1024 bytes. */
template <typename W, int D, bool WIDE>
__device__ __forceinline__ struct tile_memory<W, D, WIDE> *tile_memory_at(uint4 *shared)
{
	uint32_t past = WIDE ? (uint32_t)(-(int)shared_address(shared)) % 1024 : 0;
	return (struct tile_memory<W, D, WIDE> *)((unsigned char *)shared + past);
}

template <int N> __device__ __forceinline__ void clear(float (&d)[N][4])
{
#pragma unroll
	for (int n = 0; n < N; n++)
#pragma unroll
		for (int i = 0; i < 4; i++)
			d[n][i] = 0;
}

/* score = query · keys, for the 16 rows of a warp; lane's fragments as in tensor.cuh. Neither this nor tile_values has
 * ended before tile_wait. */
template <typename W, int D>
__device__ __forceinline__ void tile_scores(float (&score)[KEYS / 8][4], const uint32_t (&query)[D / 16][4],
					    const struct tile_memory<W, D, false> &keys, int head_stride, int lane)
{
	clear(score);
#pragma unroll
	for (int k = 0; k < D / 16; k++) {
		if (k * 16 >= head_stride)
			break;
#pragma unroll
		for (int n = 0; n < KEYS / 8; n += 2) {
			uint32_t b[4];
			load_matrices(b, keys.place(n * 8 + lane / 16 * 8 + lane % 8, k * 16 + lane / 8 % 2 * 8));
			multiply(score[n], query[k], b[0], b[1], W());
			multiply(score[n + 1], query[k], b[2], b[3], W());
		}
	}
}

/* out += weight · values. */
template <typename W, int D>
__device__ __forceinline__ void tile_values(float (&out)[D / 8][4], const uint32_t (&weight)[KEYS / 16][4],
					    const struct tile_memory<W, D, false> &values, int head_stride, int lane)
{
#pragma unroll
	for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
		for (int n = 0; n < D / 8; n += 2) {
			if (n * 8 >= head_stride)
				break;
			uint32_t b[4];
			load_matrices_turned(b, values.place(k * 16 + lane / 8 % 2 * 8 + lane % 8,
							     n * 8 + lane / 16 * 8));
			multiply(out[n], weight[k], b[0], b[1], W());
			multiply(out[n + 1], weight[k], b[2], b[3], W());
		}
}

template <typename W, int D>
__device__ __forceinline__ void tile_scores(float (&score)[KEYS / 8][4], const uint32_t (&query)[D / 16][4],
					    const struct tile_memory<W, D, true> &keys, int, int)
{
#if HAVE_WGMMA
	const uint64_t first = describe(shared_address(&keys), 16, 1024);
	clear(score);
	wide_begin();
#pragma unroll
	for (int k = 0; k < D / 16; k++)
		wide_multiply<0>(score, query[k], described_past(first, k / 4 * (int)sizeof keys.data[0] + k % 4 * 32), W());
	wide_commit();
#endif
}

template <typename W, int D>
__device__ __forceinline__ void tile_values(float (&out)[D / 8][4], const uint32_t (&weight)[KEYS / 16][4],
					    const struct tile_memory<W, D, true> &values, int, int)
{
#if HAVE_WGMMA
	const uint64_t first = describe(shared_address(&values), (int)sizeof values.data[0], 1024);
	wide_begin();
#pragma unroll
	for (int k = 0; k < KEYS / 16; k++)
		wide_multiply<1>(out, weight[k], described_past(first, k * 16 * values.ROW_BYTES), W());
	wide_commit();
#endif
}

/* Waits until d is there, behind which LEFT other products are still under way. */
template <bool WIDE, int LEFT, int N> __device__ __forceinline__ void tile_wait(float (&d)[N][4])
{
#if HAVE_WGMMA
	if (WIDE)
		wide_wait<LEFT>(d);
#endif
}

/* Where the teams meet without waiting for one another at once: a warp that comes to meeting n + 1 waits for all to
 * have come to meeting n. */
struct tile_meeting {
	uint64_t barrier;

	__device__ __forceinline__ void open(void)
	{
		asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(&barrier)), "r"((int)WARPS) : "memory");
	}
	__device__ __forceinline__ void come(int lane)
	{
		__syncwarp();
		if (lane == 0)
			asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(&barrier)) : "memory");
	}
	/* Not before `known` is, which is not negative: ptxas would compute after the wait what is wanted after it. */
	__device__ __forceinline__ void await(int number, float known)
	{
#if HAVE_WGMMA
		phase_await(&barrier, (uint32_t)(number & 1 | (known < 0)));
#endif
	}
};

/* Whose turn it is to have its products: a team waits for it, and passes it to the next. */
__device__ __forceinline__ void turn_await(int team)
{
	asm volatile("bar.sync %0, %1;" :: "r"(1 + team), "r"((int)THREADS) : "memory");
}

__device__ __forceinline__ void turn_pass(int team)
{
	static_assert(THREADS == 2 * TEAM_THREADS, "two teams");
	asm volatile("bar.arrive %0, %1;" :: "r"(2 - team), "r"((int)THREADS) : "memory");
}

/* The running softmax of a lane's two rows. */
struct tile_rows {
	float max[2], sum[2];
	float factor[2]; /* for what was added up before the last tile */
};

/* score becomes its weights. first: the tile's first key, seen from the first row's position. */
__device__ __forceinline__ void tile_softmax(float (&score)[KEYS / 8][4], struct tile_rows &rows, int first, int window,
					     int lane)
{
	if (first + KEYS > 0 || window > 0) { /* some keys are hidden from some rows */
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
			for (int i = 0; i < 4; i++) {
				int key = first + n * 8 + lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
				if (key > row || (window > 0 && key <= row - window))
					score[n][i] = -INFINITY;
			}
	}
#pragma unroll
	for (int h = 0; h < 2; h++) {
		float top = rows.max[h];
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
			top = fmaxf(top, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
		top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
		top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
		/* A window may hide all keys so far. */
		float base = top == -INFINITY ? 0.0f : top;
		rows.factor[h] = power_of_two(rows.max[h] - base);
		rows.max[h] = top;
		rows.sum[h] *= rows.factor[h];
#pragma unroll
		for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
			for (int e = 2 * h; e < 2 * h + 2; e++) {
				score[n][e] = power_of_two(score[n][e] - base);
				rows.sum[h] += score[n][e];
			}
	}
}

/* Weights as the second product's fragments. */
template <typename W>
__device__ __forceinline__ void tile_pack(const float (&score)[KEYS / 8][4], uint32_t (&weight)[KEYS / 16][4], W)
{
#pragma unroll
	for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
		for (int i = 0; i < 4; i++)
			weight[k][i] = pack_pair(score[2 * k + i / 2][i % 2 * 2], score[2 * k + i / 2][i % 2 * 2 + 1], W());
}

enum { KEY_BLOCKS = KEYS / KV_BLOCK };

/* Blocks of the cache that hold positions [start, start + KEYS) as far as below `end`. */
__device__ __forceinline__ void tile_blocks(const int32_t *table, int start, int end, int (&blocks)[KEY_BLOCKS])
{
#pragma unroll
	for (int i = 0; i < KEY_BLOCKS; i++)
		blocks[i] = start + i * KV_BLOCK < end ? table[start / KV_BLOCK + i] : 0;
}

/* Starts the copy of keys or values of positions [start, start + KEYS), which are in those blocks;
 * zeros from `end` on. A thread copies the same 16 bytes of several rows. */
template <typename W, int D, bool WIDE>
__device__ __forceinline__ void tile_copy(const struct tile_parameters &p, const void *cache,
					  const int (&blocks)[KEY_BLOCKS], int kv_head, int start, int end,
					  struct tile_memory<W, D, WIDE> &to)
{
	constexpr int ACROSS = D / 8, ROWS = THREADS / ACROSS; /* one or two whole blocks of the cache */
	static_assert(ROWS == KV_BLOCK || ROWS == 2 * KV_BLOCK, "");
	const int first = (int)threadIdx.x / ACROSS, column = (int)threadIdx.x % ACROSS * 8;
	const uint32_t row_bytes = (uint32_t)p.head_stride * (uint32_t)sizeof(W);
	const uint32_t block_bytes = (uint32_t)(p.kv_heads * KV_BLOCK) * row_bytes;
	const unsigned char *from = (const unsigned char *)cache + column * (int)sizeof(W) +
				    (uint32_t)(kv_head * KV_BLOCK + first % KV_BLOCK) * row_bytes;
	const uint32_t at = shared_address(to.place(first, column));
	const int rows = end - start - first;

	if (column < p.head_stride)
#pragma unroll
		for (int i = 0; i < KEYS / ROWS; i++) {
			int block = blocks[i * ROWS / KV_BLOCK];
			if (ROWS > KV_BLOCK && first >= KV_BLOCK)
				block = blocks[i * ROWS / KV_BLOCK + ROWS / KV_BLOCK - 1];
			copy_piece(at + (uint32_t)(i * ROWS * to.ROW_BYTES), from + (uint64_t)(uint32_t)block * block_bytes,
				   i * ROWS < rows);
		}
}

/* A warp's queries, scaled and rounded; row and row + 8 are this lane's tokens of the tile. */
template <typename W, int D>
__device__ __forceinline__ void tile_query(const struct tile_parameters &p, const struct attend_tile &tile, int head,
					   int row, int lane, uint32_t (&query)[D / 16][4])
{
#pragma unroll
	for (int k = 0; k < D / 16; k++)
#pragma unroll
		for (int i = 0; i < 4; i++) {
			int token = row + i % 2 * 8, d = k * 16 + i / 2 * 8 + lane % 4 * 2;
			float2 q = make_float2(0, 0);
			if (token < tile.count && d < p.head_stride)
				q = *(const float2 *)&p.query[((size_t)(tile.first + token) * p.query_heads +
							       head) * p.head_stride + d];
			query[k][i] = pack_pair(q.x * p.scale, q.y * p.scale, W());
		}
}

template <typename W, int D>
__device__ __forceinline__ void tile_store(const struct tile_parameters &p, const struct attend_tile &tile, int head,
					   int row, int lane, const float (&out)[D / 8][4], const struct tile_rows &rows)
{
	const int column = lane % 4 * 2;
#pragma unroll
	for (int h = 0; h < 2; h++) {
		int token = row + 8 * h;
		float sum = rows.sum[h];
		sum += __shfl_xor_sync(0xffffffffu, sum, 1);
		sum += __shfl_xor_sync(0xffffffffu, sum, 2);
		if (token >= tile.count)
			continue;
		float inverse = 1.0f / sum;
		size_t to = (size_t)(tile.first + token) * p.attention_stride + head * p.head_dim + column;
#pragma unroll
		for (int n = 0; n < D / 8; n++) {
			float2 pair = make_float2(out[n][2 * h] * inverse, out[n][2 * h + 1] * inverse);
			if (n * 8 + column >= p.head_dim)
				continue;
			if (p.attention.wide)
				*(float2 *)((float *)p.attention.data + to + n * 8) = pair;
			else
				*(uint32_t *)((W *)p.attention.data + to + n * 8) =
					pack_pair(pair.x, pair.y, W());
		}
	}
}

template <typename W, int D>
__global__ void __launch_bounds__(THREADS, 1)
attend_tile_kernel(const __grid_constant__ struct tile_parameters p)
{
	constexpr bool WIDE = WIDE_PRODUCTS<D>;
	constexpr int S = STAGES<WIDE>, A = AHEAD<WIDE>;
	extern __shared__ uint4 shared[];
	__shared__ struct tile_meeting meeting;
	struct tile_memory<W, D, WIDE> *keys = tile_memory_at<W, D, WIDE>(shared), *values = keys + S;
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	/* All heads of a tile before the next tile: blocks start in their order, and of a sequence the
	 * longest come first, so that those that run last are short. */
	const int units = p.kv_heads * p.group_max, unit = (int)blockIdx.x % units;
	const int kv_head = unit / p.group_max, member = unit % p.group_max;

	allow_next();
	wait_for_previous();
	if (member >= p.groups[kv_head].count)
		return;
	const struct attend_tile tile = p.tiles[(int)blockIdx.x / units];
	const int head = p.groups[kv_head].first + member;
	const int32_t *table = p.table + (size_t)tile.sequence * p.table_stride;
	const int first_position = p.positions[tile.first], end = first_position + tile.count;
	const int row = warp * 16 + lane / 4; /* and row + 8: this lane's tokens of the tile */
	const int begin = p.window > 0 ? max(0, first_position + 1 - p.window) / KEYS * KEYS : 0;
	const int tiles = (end - begin + KEYS - 1) / KEYS;
	/* What the team's tokens see ends there; 0 where it has none. */
	const int team = __shfl_sync(0xffffffffu, (int)threadIdx.x / TEAM_THREADS, 0), team_first = team * TEAM_TOKENS;
	const int team_end = team_first < tile.count ? min(first_position + team_first + TEAM_TOKENS, end) : 0;

	/* Dimensions past the head's own stay zero: no copy touches them. */
	if (p.head_stride < D) {
		const int all = 2 * S * (int)sizeof *keys / 16;
		for (int i = (int)threadIdx.x; i < all; i += THREADS)
			((uint4 *)keys)[i] = uint4();
		__syncthreads();
	}
	int near[KEY_BLOCKS], far[KEY_BLOCKS]; /* where the tiles lie that are asked for next: values and keys */
	tile_blocks(table, begin, end, near);
	tile_copy<W, D, WIDE>(p, p.keys, near, kv_head, begin, end, keys[0]);
	copy_commit();
	tile_blocks(table, begin + KEYS, end, far);
	if constexpr (A == 2) {
		tile_copy<W, D, WIDE>(p, p.keys, far, kv_head, begin + KEYS, end, keys[1]);
		tile_copy<W, D, WIDE>(p, p.values, near, kv_head, begin, end, values[0]);
		copy_commit();
#pragma unroll
		for (int i = 0; i < KEY_BLOCKS; i++)
			near[i] = far[i];
		tile_blocks(table, begin + 2 * KEYS, end, far);
	}
	/* Waits for the keys of tile n and the values of tile n - 1, in the places of these numbers; has the tile's products
	 * ended that are under way; and asks for tiles in places where nobody is at work any more. */
	auto step = [&](int n, float known, auto end_products) {
		copy_wait<0>();
		if constexpr (WIDE) {
			before_wide_products();
			meeting.await(n, known);
			end_products();
			meeting.come(lane); /* n + 1: what this warp copied of tile n + 1 has arrived */
		} else {
			end_products();
			__syncthreads();
		}
		if (n + A < tiles)
			tile_copy<W, D, WIDE>(p, p.keys, far, kv_head, begin + (n + A) * KEYS, end, keys[(n + A) % S]);
		if (n + A - 1 < tiles)
			tile_copy<W, D, WIDE>(p, p.values, near, kv_head, begin + (n + A - 1) * KEYS, end,
					      values[(n + A - 1) % S]);
		copy_commit();
#pragma unroll
		for (int i = 0; i < KEY_BLOCKS; i++)
			near[i] = far[i];
		tile_blocks(table, begin + (n + A + 1) * KEYS, end, far);
	};

	uint32_t query[D / 16][4];
	tile_query<W, D>(p, tile, head, row, lane, query);
	float out[D / 8][4] = {}, score[KEYS / 8][4];
	struct tile_rows rows = {{-INFINITY, -INFINITY}, {}, {}};
	uint32_t weight[KEYS / 16][4];
	const int warp_first = first_position + warp * 16;
	const int team_tiles = team_end ? (team_end - begin + KEYS - 1) / KEYS : 0; /* one less at most, or none */
	if constexpr (WIDE) {
		if (threadIdx.x == 0)
			meeting.open();
		copy_wait<A - 1>();
		before_wide_products();
		__syncthreads();
		meeting.come(lane); /* 0: the first tile has arrived */
		if (team == 1)
			turn_pass(1);
	}
	step(0, 0, [] {});
	if (WIDE)
		turn_await(team);
	tile_scores<W, D>(score, query, keys[0], p.head_stride, lane);
	if (WIDE && (team == 0 || tiles > 1))
		turn_pass(team);
	tile_wait<WIDE, 0>(score);
	tile_softmax(score, rows, begin - warp_first, p.window, lane);
	tile_pack(score, weight, W());
	step(1, 0, [] {});
	for (int n = 1; n < tiles; n++) {
		const bool pass = WIDE && (team == 0 || n < tiles - 1);
		if (WIDE)
			turn_await(team);
		if (n >= team_tiles) {
			if (pass)
				turn_pass(team);
			step(n + 1, 0, [] {});
			continue;
		}
		tile_scores<W, D>(score, query, keys[n % S], p.head_stride, lane);
		tile_values<W, D>(out, weight, values[(n - 1) % S], p.head_stride, lane);
		if (pass)
			turn_pass(team);
		tile_wait<WIDE, 1>(score);
		tile_softmax(score, rows, begin + n * KEYS - warp_first, p.window, lane);
		step(n + 1, rows.sum[0] + rows.sum[1], [&] {
			tile_wait<WIDE, 0>(out);
			if (__any_sync(0xffffffffu, rows.factor[0] != 1 || rows.factor[1] != 1))
#pragma unroll
				for (int d = 0; d < D / 8; d++)
#pragma unroll
					for (int i = 0; i < 4; i++)
						out[d][i] *= rows.factor[i / 2];
			tile_pack(score, weight, W());
		});
	}
	tile_values<W, D>(out, weight, values[max(team_tiles - 1, 0) % S], p.head_stride, lane);
	tile_wait<WIDE, 0>(out);

	tile_store<W, D>(p, tile, head, row, lane, out, rows);
}

/* For either form: the host cannot tell which one a GPU's code has, but what the wide one takes all that have it can
 * give, and it is more. */
template <typename W, int D> static size_t tile_shared(const struct cuda_backend *b)
{
	size_t skewed = 2 * STAGES<false> * sizeof(struct tile_memory<W, D, false>);
	size_t swizzled = 2 * STAGES<true> * sizeof(struct tile_memory<W, D, true>) + 1024;
	return D == 128 && swizzled + sizeof(struct tile_meeting) <= (size_t)b->shared_block ? swizzled : skewed;
}

bool attend_tile_fits(const struct cuda_backend *b)
{
	return b->options.shape.dtype != DTYPE_F32 && b->options.shape.head_dim <= 128;
}

int attend_tile_prepare(struct cuda_backend *b, struct error *err)
{
	if (!attend_tile_fits(b))
		return 0;
	return for_tensor(b, [&](auto w, auto d) {
		typedef decltype(w) W;
		constexpr int D = decltype(d)::D;
		return shared_prepare(b, attend_tile_kernel<W, D>, (int)tile_shared<W, D>(b), err);
	});
}

int attend_tile_launch(struct cuda_backend *b, int32_t layer, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	struct tile_parameters p = {};

	if (!b->step.tile_count)
		return 0;
	p.query = at<float>(b, l->query);
	p.keys = cache_keys(b, layer);
	p.values = cache_values(b, layer);
	p.attention = b->step.attention;
	p.tiles = b->step.tiles;
	p.positions = b->step.positions;
	p.table = b->step.table;
	p.groups = b->groups;
	p.query_heads = s->query_heads;
	p.kv_heads = s->kv_heads;
	p.group_max = b->group_max;
	p.head_dim = s->head_dim;
	p.head_stride = l->head_stride;
	p.attention_stride = l->attention_stride;
	p.table_stride = b->step.table_stride;
	p.window = s->windows[layer];
	p.scale = s->attention_scale * 1.44269504088896341f;
	dim3 grid((unsigned)(b->step.tile_count * p.kv_heads * p.group_max));
	return for_tensor(b, [&](auto w, auto d) {
		typedef decltype(w) W;
		constexpr int D = decltype(d)::D;
		return kernel_launch(b, err, "attend_tile_kernel", attend_tile_kernel<W, D>, grid, THREADS,
				     tile_shared<W, D>(b), p);
	});
}
