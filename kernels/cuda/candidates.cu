/*
 * candidates.cu - penalty, temperature, the best candidates and the log-sum-exp of a row.
 *
 * A candidate is one 64-bit key: its logit in an order-preserving form above, the complement
 * of its id below, so that sorting keys downwards sorts by logit and then by lower id. Blocks
 * find the best of a chunk of a row each; one block a row then joins them. Warps sort and join
 * CANDIDATES keys in their registers (bitonic, Batcher 1968): to sort all keys of a block, its threads
 * would have to meet for every exchange.
 *
 * Between the steps of a decode every microsecond counts: the kernels read the requests of a few
 * rows from the host's memory, and write all answers there, without copies before and after.
 */
#include "kernels/cuda/internal.cuh"

enum {
	THREADS = 256,
	CHUNK_KEYS = THREADS / 32 * CANDIDATES, /* logits that a block's warps take as they come */
	JOIN_THREADS = 512,
	JOIN_AHEAD = 4, /* lists that a warp has on their way */
	LOOKS = 1 << 14, /* at a result between two at the stream's state: some 20 us */
};
static_assert(CANDIDATE_CHUNK / THREADS * CANDIDATES <= CHUNK_KEYS, "see chunk_kernel");

/* -0 counts as 0. A NaN sorts somewhere; the log-sum-exp tells of it. */
__device__ __forceinline__ uint64_t key_of(float logit, uint32_t id)
{
	uint32_t bits = __float_as_uint(logit + 0.0f);
	bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
	return (uint64_t)bits << 32 | (0xffffffffu - id);
}

__device__ __forceinline__ float logit_of(uint64_t key)
{
	uint32_t bits = (uint32_t)(key >> 32);
	return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

/* A warp's list of CANDIDATES keys, downwards: its lanes hold one each of the upper half, and of the lower. */
struct key_list {
	uint64_t upper, lower;
};
static_assert(CANDIDATES == 64, "two keys a lane");

__device__ __forceinline__ uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* The larger of this lane's key and that of the lane `apart` lanes away, or the smaller. */
__device__ __forceinline__ uint64_t exchange(uint64_t key, int apart, bool take_larger)
{
	uint64_t other = __shfl_xor_sync(0xffffffffu, key, apart);
	return (key > other) == take_larger ? key : other;
}

/* Sorts keys that rise and then fall, or the other way round. */
__device__ __forceinline__ void sort_bitonic(struct key_list *list)
{
	int lane = (int)threadIdx.x % 32;
	uint64_t upper = larger(list->upper, list->lower);
	uint64_t lower = list->upper ^ list->lower ^ upper;
#pragma unroll
	for (int apart = 16; apart; apart /= 2) {
		upper = exchange(upper, apart, !(lane & apart));
		lower = exchange(lower, apart, !(lane & apart));
	}
	*list = {upper, lower};
}

__device__ __forceinline__ void sort_list(struct key_list *list)
{
	int lane = (int)threadIdx.x % 32;
#pragma unroll
	for (int size = 2; size <= 32; size *= 2)
#pragma unroll
		for (int apart = size / 2; apart; apart /= 2) {
			bool first = !(lane & apart);
			list->upper = exchange(list->upper, apart, first == !(lane & size));
			list->lower = exchange(list->lower, apart, first == !((32 + lane) & size));
		}
	sort_bitonic(list);
}

/* The keys of another list that this lane's meet: the last of all the first, and so on. */
__device__ __forceinline__ struct key_list facing(const uint64_t *keys)
{
	int lane = (int)threadIdx.x % 32;
	return {keys[CANDIDATES - 1 - lane], keys[CANDIDATES / 2 - 1 - lane]};
}

/* The best keys of both lists. */
__device__ __forceinline__ void join_list(struct key_list *list, struct key_list other)
{
	list->upper = larger(list->upper, other.upper);
	list->lower = larger(list->lower, other.lower);
	sort_bitonic(list);
}

/* The best of the first `lists` warps' lists, into the first CANDIDATES of `keys`, which holds as many for every
 * warp. Ends with a barrier. */
__device__ void join_warps(uint64_t *keys, struct key_list list, int lists)
{
	int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
	uint64_t *own = keys + warp * CANDIDATES;
	own[lane] = list.upper;
	own[lane + 32] = list.lower;
	for (int apart = 1; apart < lists; apart *= 2) {
		__syncthreads();
		if (warp % (2 * apart) || warp + apart >= lists)
			continue;
		join_list(&list, facing(own + apart * CANDIDATES));
		own[lane] = list.upper;
		own[lane + 32] = list.lower;
	}
	__syncthreads();
}

/* The same of `count` keys in no order. Begins with a barrier too. */
__device__ void best_keys(uint64_t *keys, int count)
{
	int at = (int)threadIdx.x / 32 * CANDIDATES + (int)threadIdx.x % 32;
	__syncthreads();
	struct key_list list = {at < count ? keys[at] : 0, at + 32 < count ? keys[at + 32] : 0};
	if (at - (int)threadIdx.x % 32 < count)
		sort_list(&list);
	join_warps(keys, list, (count + CANDIDATES - 1) / CANDIDATES);
}

/* The maximum over the block, NaNs aside; scratch holds a float a warp. */
__device__ float block_max(float x, float *scratch)
{
	x = warp_max(x);
	if (threadIdx.x % 32 == 0)
		scratch[threadIdx.x / 32] = x;
	__syncthreads();
	float max = scratch[0];
	for (int i = 1; i < (int)blockDim.x / 32; i++)
		max = fmaxf(max, scratch[i]);
	return max;
}

/* grid: rows from first_row on. The ids of a row are distinct, so no two threads meet. */
__global__ void penalty_kernel(float *logits, int stride, const struct cuda_request *requests,
			       const int32_t *ids, int first_row, int first_vocab, int vocab)
{
	allow_next();
	wait_for_previous();
	int row = first_row + (int)blockIdx.x;
	struct cuda_request request = requests[row];
	for (int i = (int)threadIdx.x; i < request.count; i += (int)blockDim.x) {
		int64_t id = (int64_t)ids[request.first + i] - first_vocab;
		if (id < 0 || id >= vocab)
			continue;
		float *logit = logits + (size_t)row * stride + id;
		*logit = *logit > 0 ? *logit / request.repetition_penalty
				    : *logit * request.repetition_penalty;
	}
}

/* Calls f(i, logits[i]) for the thread's own of `count` logits, several of them on their way. */
template <typename F> __device__ __forceinline__ void for_logits(const float *logits, int count, F f)
{
	constexpr int depth = 4;
	for (int i = (int)threadIdx.x; i < count; i += depth * THREADS) {
		float x[depth];
#pragma unroll
		for (int k = 0; k < depth; k++)
			x[k] = i + k * THREADS < count ? logits[i + k * THREADS] : 0.0f;
#pragma unroll
		for (int k = 0; k < depth; k++)
			if (i + k * THREADS < count)
				f(i + k * THREADS, x[k]);
	}
}

/* grid: chunks of `length` logits, up to CANDIDATE_CHUNK, and rows. Leaves the scaled logits in place, the chunk's
 * best keys (0 beyond its end) and its maximum with the sum of exp(logit - maximum).
 *
 * Of a chunk of more than CHUNK_KEYS logits every thread's best key is looked at first: CANDIDATES of them are
 * no lower than the last of their best, so a lower key is no candidate; and all that are not lower belong to
 * CANDIDATES threads, for whose logits there is room. */
__global__ void __launch_bounds__(THREADS)
chunk_kernel(float *logits, int stride, int vocab, int first_vocab, int length,
	     const struct cuda_request *requests, uint64_t *best, float2 *sums)
{
	__shared__ uint64_t keys[CHUNK_KEYS];
	__shared__ float scratch[2][THREADS / 32];
	__shared__ int kept;
	allow_next();
	wait_for_previous();
	const int row = (int)blockIdx.y, from = (int)blockIdx.x * length, t = (int)threadIdx.x;
	const int count = max(0, min(length, vocab - from));
	const bool whole = count <= CHUNK_KEYS;
	float scale = requests[row].inverse_temperature, max = -INFINITY, sum = 0;
	uint64_t top = 0, floor = 0;

	logits += (size_t)row * stride + from;
	if (t == 0)
		kept = whole ? count : 0;
	for_logits(logits, count, [&](int i, float x) {
		x *= scale;
		if (scale != 1.0f)
			logits[i] = x;
		uint64_t key = key_of(x, (uint32_t)(first_vocab + from + i));
		if (whole)
			keys[i] = key;
		top = larger(top, key);
		max = fmaxf(max, x);
	});
	max = block_max(max, scratch[0]);
	if (!whole) {
		keys[t] = top;
		best_keys(keys, THREADS);
		floor = keys[CANDIDATES - 1];
		__syncthreads();
	}
	for_logits(logits, count, [&](int i, float x) {
		if (x != -INFINITY)
			sum += expf(x - max);
		uint64_t key = key_of(x, (uint32_t)(first_vocab + from + i));
		if (!whole && key >= floor)
			keys[atomicAdd(&kept, 1)] = key; /* in any order: they are sorted */
	});
	sum = block_sum(sum, scratch[1]);
	best_keys(keys, kept);
	size_t part = (size_t)row * gridDim.x + blockIdx.x;
	if (t < CANDIDATES)
		best[part * CANDIDATES + t] = keys[t];
	if (t == 0)
		sums[part] = make_float2(max, sum);
}

/* grid: rows. `ready` becomes `number` once a row's result can be read by the host. */
__global__ void __launch_bounds__(JOIN_THREADS)
join_kernel(const float *logits, int stride, int vocab, const struct cuda_request *requests,
	    const uint64_t *best, const float2 *sums, int chunks, struct logit_result *results,
	    volatile uint32_t *ready, uint32_t number)
{
	constexpr int warps = JOIN_THREADS / 32;
	__shared__ uint64_t keys[warps * CANDIDATES];
	__shared__ float scratch[2][warps];
	allow_next();
	int row = (int)blockIdx.x;
	int target = requests[row].target; /* there since before the kernel ahead */
	wait_for_previous();
	best += (size_t)row * chunks * CANDIDATES;
	sums += (size_t)row * chunks;

	struct key_list list = {0, 0};
	for (int first = (int)threadIdx.x / 32; first < chunks; first += JOIN_AHEAD * warps) {
		struct key_list next[JOIN_AHEAD];
#pragma unroll
		for (int k = 0; k < JOIN_AHEAD; k++)
			if (first + k * warps < chunks)
				next[k] = facing(best + (size_t)(first + k * warps) * CANDIDATES);
#pragma unroll
		for (int k = 0; k < JOIN_AHEAD; k++)
			if (first + k * warps < chunks)
				join_list(&list, next[k]);
	}
	join_warps(keys, list, min(chunks, warps));

	float max = -INFINITY, sum = 0;
	for (int i = (int)threadIdx.x; i < chunks; i += JOIN_THREADS)
		max = fmaxf(max, sums[i].x);
	max = block_max(max, scratch[0]);
	for (int i = (int)threadIdx.x; i < chunks; i += JOIN_THREADS) {
		float2 s = sums[i];
		sum += s.x == -INFINITY ? s.y : s.y * expf(s.x - max); /* s.y: 0 or NaN there */
	}
	sum = block_sum(sum, scratch[1]);

	struct logit_result *result = results + row;
	if (threadIdx.x < CANDIDATES) {
		uint64_t key = keys[threadIdx.x];
		result->ids[threadIdx.x] = key ? (int32_t)(0xffffffffu - (uint32_t)key) : -1;
		result->logits[threadIdx.x] = key ? logit_of(key) : -INFINITY;
	}
	if (threadIdx.x == 0) {
		result->log_sum_exp = max + logf(sum);
		result->count = min((int)CANDIDATES, vocab);
		result->target_logit = target < 0 ? -INFINITY : logits[(size_t)row * stride + target];
	}
	__syncthreads();
	if (threadIdx.x == 0) {
		__threadfence_system();
		ready[row] = number;
	}
}

/* Where the kernels find the requests. */
static const struct cuda_request *requests_of(const struct cuda_backend *b)
{
	return b->step.logit_rows <= GEMV_TOKENS ? (const struct cuda_request *)b->request_host
						 : at<struct cuda_request>(b, b->layout.requests);
}

/* Packs the requests of all rows and the penalized ids of as many rows from `row` on as fit,
 * uploads them where the rows are many, and applies those penalties. Returns the next row, or
 * -1. */
static int penalize(struct cuda_backend *b, const struct logit_request *requests, int row,
		    struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	struct cuda_request *packed = (struct cuda_request *)b->request_host;
	int rows = b->step.logit_rows, first = row, used = 0;
	size_t before_ids = l->request_bytes - (size_t)l->penalty_ids * 4;
	int32_t *ids = (int32_t *)(b->request_host + before_ids);

	if (row > 0 && !cuda_ok(b, err, cudaEventSynchronize(b->requests_read), "cudaEventSynchronize"))
		return -1;
	for (int i = 0; i < rows; i++) {
		int64_t target = requests[i].target < 0 ? -1 : (int64_t)requests[i].target - s->first_vocab;
		packed[i].inverse_temperature = requests[i].inverse_temperature;
		packed[i].repetition_penalty = requests[i].repetition_penalty;
		packed[i].target = target >= 0 && target < s->vocab ? (int32_t)target : -1;
		packed[i].first = packed[i].count = 0;
	}
	for (; row < rows; row++) {
		int count = requests[row].repetition_penalty == 1.0f ? 0 : requests[row].penalized_count;
		if (count > l->penalty_ids)
			return error_run(err, "%d penalized ids for one row, there is room for %d", count,
					 l->penalty_ids);
		if (count > l->penalty_ids - used)
			break;
		packed[row].first = used;
		packed[row].count = count;
		if (count)
			memcpy(ids + used, requests[row].penalized, (size_t)count * 4);
		used += count;
	}
	size_t bytes = used ? before_ids + (size_t)used * 4 : (size_t)rows * sizeof *packed;
	const struct cuda_request *device = requests_of(b);
	if (device != packed) {
		if (!cuda_ok(b, err, cudaMemcpyAsync((void *)device, packed, bytes, cudaMemcpyHostToDevice,
						     b->stream), "copying requests"))
			return -1;
		b->plain_next = true;
	}
	if (used && kernel_launch(b, err, "penalty_kernel", penalty_kernel, dim3((unsigned)(row - first)), 256,
				  0, at<float>(b, l->logits), l->logit_stride, device,
				  (const int32_t *)((const unsigned char *)device + before_ids), first,
				  s->first_vocab, s->vocab))
		return -1;
	if (row < rows && !cuda_ok(b, err, cudaEventRecord(b->requests_read, b->stream), "cudaEventRecord"))
		return -1;
	return row;
}

/* Waits for the results of a step, by looking at them: that the stream has come to its end the host learns some
 * microseconds later, which every step of a decode would pay. */
static int wait_for_results(struct cuda_backend *b, int rows, struct error *err)
{
	for (int row = 0; row < rows; row++)
		for (int look = 1; __atomic_load_n(&b->results_ready[row], __ATOMIC_ACQUIRE) != b->results_number; look++) {
			if (look % LOOKS)
				continue;
			cudaError_t state = cudaStreamQuery(b->stream);
			if (state != cudaErrorNotReady) /* then they are all there, or will not come */
				return cuda_ok(b, err, state, "running the step") ? 0 : -1;
			cudaGetLastError(); /* which tells of that too */
		}
	return 0;
}

int candidates_run(struct backend *base, const struct logit_request *requests,
		   struct logit_result *results, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	int rows = b->step.logit_rows;
	bool some = rows > 0 && s->vocab > 0;

	if (some) {
		for (int row = 0; row < rows;)
			if ((row = penalize(b, requests, row, err)) < 0)
				return -1;
		float *logits = at<float>(b, l->logits);
		const struct cuda_request *device = requests_of(b);
		uint64_t *best = at<uint64_t>(b, l->chunk_keys);
		float2 *sums = at<float2>(b, l->chunk_sums);
		/* Few rows are cut into many chunks, for all of the device to work on them. */
		int chunks = CANDIDATE_BLOCKS / rows, fewest = (s->vocab + CANDIDATE_CHUNK - 1) / CANDIDATE_CHUNK;
		int most = (s->vocab + CHUNK_KEYS - 1) / CHUNK_KEYS;
		chunks = chunks < fewest ? fewest : chunks > most ? most : chunks;
		int length = (s->vocab + chunks - 1) / chunks;
		dim3 grid((unsigned)chunks, (unsigned)rows);
		b->results_number++;
		if (kernel_launch(b, err, "chunk_kernel", chunk_kernel, grid, THREADS, 0, logits,
				  l->logit_stride, s->vocab, s->first_vocab, length, device, best, sums) ||
		    kernel_launch(b, err, "join_kernel", join_kernel, dim3((unsigned)rows), JOIN_THREADS, 0,
				  logits, l->logit_stride, s->vocab, device, best, sums,
				  chunks, b->result_host, b->results_ready, b->results_number))
			return -1;
	}
	if (some && !b->sum_time ? wait_for_results(b, rows, err)
				 : reduce_fetch_time(b, err) ||
				   !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "running the step"))
		return -1;
	b->step_unread = false;
	if (reduce_check(b, err))
		return -1;
	for (int i = 0; i < rows; i++) {
		if (s->vocab > 0) {
			results[i] = b->result_host[i];
			continue;
		}
		results[i].log_sum_exp = results[i].target_logit = -INFINITY;
		results[i].count = 0;
	}
	return 0;
}
