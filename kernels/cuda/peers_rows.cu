/*
 * peers_rows.cu - sums over the ranks of many tokens through the ranks' own memory, with the residual and its norm.
 *
 * Every rank's part lies in its memory, which the others have mapped (see peers.cu). Of the tokens each rank has a
 * share: it reads all ranks' parts of these rows, adds them to the residual in the order of the ranks, and stores the
 * norm into every rank's memory. That is a reduce-scatter and an all-gather in one kernel, with nothing between them
 * but registers. The residual of a token is kept by the rank whose share it is; only where nobody asks for
 * a norm, after the last layer, the residual itself goes to all.
 *
 * Ranks meet twice, by flags in each other's mailboxes that carry the number of the sum: before anybody reads, because a
 * part must be complete (and whatever read the norm before is done then), and at the end, when all rows have come.
 * Blocks never wait for other blocks of their own rank, but for the last one, which waits for the other
 * ranks' last ones: they need not all fit on the GPU.
 */
#include "kernels/cuda/peers.cuh"

enum { THREADS = 512, BLOCKS_EACH = 4 /* for a multiprocessor, at most */ };

/* Whose part, norm and residual lie where; flags: [2][ranks]. */
struct rows_rank {
	const void *part;
	void *normed;
	float *residual;
	uint32_t *flags;
};

struct rows_sum {
	struct rows_rank rank[PEER_RANKS];
	struct peer_sum wait;	/* rank, ranks, late, patience, time */
	uint32_t number;	/* of this sum */
	uint32_t *blocks_done;
	int tokens, stride, hidden;
	bool parts, add;	/* residual = or += the sum of the parts; without parts it only goes to all */
	const float *bias, *norm; /* or NULL; norm NULL: the residual goes to all */
	float epsilon;
};

/* Tells all ranks that this one has come to one of the two meetings. One thread for each rank. */
__device__ __forceinline__ void flags_raise(const struct rows_sum &p, int meeting)
{
	const int to = (int)threadIdx.x;
	if (to < p.wait.ranks)
		asm volatile("st.release.sys.global.u32 [%0], %1;"
			     :: "l"(p.rank[to].flags + meeting * p.wait.ranks + p.wait.rank), "r"(p.number) : "memory");
}

/* Waits until all ranks have come there. */
__device__ __forceinline__ void flags_await(const struct rows_sum &p, int meeting)
{
	const int from = (int)threadIdx.x;
	if (from < p.wait.ranks) {
		const uint32_t *at = p.rank[p.wait.rank].flags + meeting * p.wait.ranks + from;
		const uint32_t start = peer_clock();
		uint32_t v;
		do {
			asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
		} while ((int32_t)(v - p.number) < 0 && !peer_gives_up(p.wait, peer_clock() - start, from));
	}
	__syncthreads();
}

template <typename W>
__global__ void __launch_bounds__(THREADS, 2) rows_kernel(const __grid_constant__ struct rows_sum p)
{
	constexpr int E = PIECE<W>, FOURS = E / 4;
	__shared__ float scratch[32], taken[THREADS * FOURS];
	__shared__ bool last;
	const int tid = (int)threadIdx.x, ranks = p.wait.ranks, pieces = p.stride / E;
	const int first = (int)((int64_t)p.tokens * p.wait.rank / ranks);
	const int end = (int)((int64_t)p.tokens * (p.wait.rank + 1) / ranks);

	allow_next();
	wait_for_previous();
	peer_time(p.wait, tid, true);
	if (blockIdx.x == 0) {
		__threadfence_system(); /* what other kernels wrote */
		flags_raise(p, 0);
	}
	flags_await(p, 0);
	for (int row = first + (int)blockIdx.x; row < end; row += (int)gridDim.x) {
		const size_t start = (size_t)row * p.stride;
		float *residual = p.rank[p.wait.rank].residual + start;
		float squares = 0;
		for (int from = 0; p.parts && from < pieces; from += THREADS) {
			const int i = from + tid;
			uint4 part[PEER_RANKS];
			alignas(16) float x[E];
			float old[E] = {}, more[E] = {};
			if (i < pieces) {
#pragma unroll
				for (int r = 0; r < PEER_RANKS; r++)
					if (r < ranks)
						part[r] = __ldcg((const uint4 *)((const W *)p.rank[r].part + start) + i);
				if (p.add)
					load_run(residual + E * i, old);
				if (p.bias && E * i < p.hidden)
					load_run(p.bias + E * i, more);
			}
#pragma unroll
			for (int e = 0; e < E; e++)
				x[e] = 0;
#pragma unroll
			for (int r = 0; r < PEER_RANKS; r++) {
				float of[E];
				if (r >= ranks || i >= pieces)
					break;
				piece_to_floats<W>(part[r], of);
#pragma unroll
				for (int e = 0; e < E; e++)
					x[e] += of[e];
			}
#pragma unroll
			for (int e = 0; e < E; e++)
				x[e] = old[e] + (x[e] + more[e]);
			if (i < pieces)
				store_run(residual + E * i, x);
			if (!p.norm)
				continue;
			/* Squares are added in the order of residual_kernel, for the same bits. */
			__syncthreads();
#pragma unroll
			for (int k = 0; k < FOURS; k++)
				taken[tid * FOURS + k] = four_squares(((const float4 *)x)[k]);
			__syncthreads();
			for (int k = tid; tid < RESIDUAL_THREADS && k < THREADS * FOURS; k += RESIDUAL_THREADS)
				squares += taken[k];
		}
		const float scale = p.norm ? rsqrtf(block_sum(squares, scratch) / (float)p.hidden + p.epsilon) : 0;
		/* Each thread reads again what it wrote itself. */
		for (int i = tid; i < pieces; i += THREADS) {
			float x[E];
			load_run(residual + E * i, x);
			if (!p.norm) {
				for (int to = 0; to < ranks; to++)
					if (to != p.wait.rank)
						store_run(p.rank[to].residual + start + E * i, x);
				continue;
			}
			float w[E];
			load_run(p.norm + E * i, w);
#pragma unroll
			for (int e = 0; e < E; e++)
				x[e] = x[e] * scale * w[e];
			for (int to = 0; to < ranks; to++)
				store_run((W *)p.rank[to].normed + start + E * i, x);
		}
		__syncthreads(); /* scratch is used again */
	}
	__syncthreads();
	if (tid == 0) {
		__threadfence_system();
		last = atomicAdd(p.blocks_done, 1) == gridDim.x - 1;
	}
	__syncthreads();
	if (last) {
		if (tid == 0) {
			*p.blocks_done = 0; /* for the next sum */
			__threadfence_system();
		}
		__syncthreads();
		flags_raise(p, 1);
		flags_await(p, 1);
	}
	peer_time(p.wait, tid, false);
}

bool rows_fit(const struct cuda_backend *b)
{
	return b->options.shape.hidden % 8 == 0;
}

bool rows_serve(const struct cuda_backend *b, int32_t tokens)
{
	return b->rows && tokens > SMALL_TOKENS;
}

static int rows_launch(struct cuda_backend *b, struct rows_sum p, struct error *err)
{
	const struct group *g = b->options.group;
	const int share = (b->step.tokens + g->size - 1) / g->size, most = BLOCKS_EACH * b->multiprocessors;

	for (int i = 0; i < g->size; i++) {
		const struct rows_place *at = &b->rows_at[i];
		p.rank[i] = {at->workspace + at->part, at->workspace + at->normed,
			     (float *)(at->workspace + at->residual), peers_flags(b, i)};
	}
	p.wait.rank = g->rank;
	p.wait.ranks = g->size;
	p.wait.late = b->late;
	p.wait.patience = peers_patience(b);
	p.wait.time = b->sum_time ? at<uint64_t>(b, b->layout.sum_time) : NULL;
	p.number = ++b->rows_number;
	p.blocks_done = at<uint32_t>(b, b->layout.rows_done);
	p.tokens = b->step.tokens;
	p.stride = b->layout.hidden_stride;
	p.hidden = b->options.shape.hidden;
	p.epsilon = (float)b->options.shape.norm_epsilon;
	b->residual.shared = p.norm != NULL;
	b->normed = p.norm;
	return for_dtype(b->options.shape.dtype, [&](auto w) {
		typedef decltype(w) W;
		return kernel_launch(b, err, "rows_kernel", rows_kernel<W>, dim3((unsigned)(share < most ? share : most)),
				     THREADS, 0, p);
	});
}

int rows_sum(struct cuda_backend *b, bool add, const float *bias, const float *norm, struct error *err)
{
	struct rows_sum p = {};
	p.parts = true;
	p.add = add;
	p.bias = bias;
	p.norm = norm;
	profile_begin(b->options.profile, "all-reduce");
	int result = rows_launch(b, p, err);
	profile_end(b->options.profile);
	return result;
}

int rows_gather(struct cuda_backend *b, struct error *err)
{
	return b->residual.shared ? rows_launch(b, {}, err) : 0;
}
