/*
 * probe.cu - what this GPU and its links can do at best, measured where a step would meet it.
 */
#include <stdio.h>
#include <string.h>

#include "kernels/cuda/internal.cuh"

enum {
	READ_THREADS = 512, READ_BLOCKS = 4, /* a block's threads; blocks of a multiprocessor */
	READ_ABREAST = 8,		     /* loads of a thread that are on their way at a time */
	ROUNDS = 5,
	SUMS = 64,			     /* of a round: about what a step has */
};

/* Reads words[count] `times` over. The sum is there so that somebody waits for what was read. */
__global__ void __launch_bounds__(READ_THREADS) read_kernel(const uint4 *words, size_t count, int times,
							    uint32_t *out)
{
	size_t stride = (size_t)gridDim.x * READ_THREADS, first = (size_t)blockIdx.x * READ_THREADS + threadIdx.x;
	uint32_t sum = 0;

	for (int n = 0; n < times; n++) {
		size_t i = first;
		for (; i + (READ_ABREAST - 1) * stride < count; i += READ_ABREAST * stride) {
			uint4 v[READ_ABREAST];
#pragma unroll
			for (int k = 0; k < READ_ABREAST; k++)
				v[k] = load_weights(words + i + k * stride);
#pragma unroll
			for (int k = 0; k < READ_ABREAST; k++)
				sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
		}
		for (; i < count; i += stride) {
			uint4 v = load_weights(words + i);
			sum += v.x ^ v.y ^ v.z ^ v.w;
		}
	}
	if (sum == 0x5eed5eed)
		*out = sum;
}

/* Two events around what `work` puts on the stream. */
struct stopwatch {
	cudaEvent_t start, end;
};

static int stopwatch_open(struct cuda_backend *b, struct stopwatch *w, struct error *err)
{
	w->start = w->end = NULL;
	return cuda_ok(b, err, cudaEventCreate(&w->start), "cudaEventCreate") &&
	       cuda_ok(b, err, cudaEventCreate(&w->end), "cudaEventCreate") ? 0 : -1;
}

static void stopwatch_close(struct stopwatch *w)
{
	if (w->start)
		cudaEventDestroy(w->start);
	if (w->end)
		cudaEventDestroy(w->end);
}

template <typename F>
static int stopwatch_time(struct cuda_backend *b, struct stopwatch *w, double *seconds, struct error *err, F work)
{
	float ms = 0;
	b->plain_next = true;
	if (!cuda_ok(b, err, cudaEventRecord(w->start, b->stream), "cudaEventRecord") || work() ||
	    !cuda_ok(b, err, cudaEventRecord(w->end, b->stream), "cudaEventRecord") ||
	    !cuda_ok(b, err, cudaEventSynchronize(w->end), "a probe") ||
	    !cuda_ok(b, err, cudaEventElapsedTime(&ms, w->start, w->end), "cudaEventElapsedTime"))
		return -1;
	b->plain_next = true;
	*seconds = ms * 1e-3;
	return 0;
}

static int probe_read(struct cuda_backend *b, struct stopwatch *watch, size_t bytes, double *seconds,
		      struct error *err)
{
	size_t words = b->layout.weight_bytes / sizeof(uint4), wanted = (bytes + sizeof(uint4) - 1) / sizeof(uint4);
	size_t once = wanted < words ? wanted : words;
	int times = (int)(once ? (wanted + once - 1) / once : 0);
	double best = 0;

	*seconds = 0;
	if (!once)
		return 0;
	for (int n = 0; n < ROUNDS; n++) {
		double took;
		if (stopwatch_time(b, watch, &took, err, [&] {
			return kernel_launch(b, err, "read_kernel", read_kernel,
					     dim3((unsigned)(b->multiprocessors * READ_BLOCKS)), READ_THREADS, 0,
					     (const uint4 *)b->weights, once, times, at<uint32_t>(b, b->layout.scratch));
		}))
			return -1;
		best = n == 0 || took < best ? took : best;
	}
	*seconds = best * (double)bytes / ((double)once * times * sizeof(uint4));
	return 0;
}

/* ---- sums ----------------------------------------------------------------------------------- */

/* A sum of zeros, as project takes it; of many tokens through the peers' memory, with residual and norm. Of few
 * it takes two small kernels here; a step has none of its own for it. */
static int one_sum(struct cuda_backend *b, struct error *err)
{
	bool is_float;
	if (rows_serve(b, b->step.tokens))
		return rows_sum(b, true, NULL, (const float *)(b->weights + b->layout.final_norm), err);
	if (!b->step.through_peers) {
		reduce_buffer(b, &is_float);
		return reduce_sum(b, gemv_fits(b, b->step.tokens, b->layout.hidden_stride), err);
	}
	return peers_begin_sum(b, false, NULL, err) || peers_push(b, NULL, err) || peers_settle(b, err) ? -1 : 0;
}

static int many_sums(struct cuda_backend *b, struct error *err)
{
	for (int i = 0; i < SUMS; i++)
		if (one_sum(b, err))
			return -1;
	return 0;
}

static int record_sums(struct cuda_backend *b, cudaGraphExec_t *out, struct error *err)
{
	cudaGraph_t graph = NULL;

	b->plain_next = true;
	if (!cuda_ok(b, err, cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal),
		     "cudaStreamBeginCapture"))
		return -1;
	int result = many_sums(b, err);
	if (!cuda_ok(b, err, cudaStreamEndCapture(b->stream, &graph), "cudaStreamEndCapture") ||
	    (!result && !cuda_ok(b, err, cudaGraphInstantiate(out, graph, 0), "cudaGraphInstantiate")))
		result = -1;
	if (graph)
		cudaGraphDestroy(graph);
	return result;
}

/* A round of sums, recorded or, through the host, which records nothing, as they come. The turn of
 * the first comes where a step would bring it. */
static int play_sums(struct cuda_backend *b, cudaGraphExec_t graph, struct error *err)
{
	if (b->step.through_peers &&
	    !cuda_ok(b, err, cudaMemcpyAsync(at<uint32_t>(b, b->layout.step), &b->turn, sizeof b->turn,
					     cudaMemcpyHostToDevice, b->stream), "cudaMemcpyAsync"))
		return -1;
	b->plain_next = true;
	if (!graph)
		return many_sums(b, err);
	if (!cuda_ok(b, err, cudaGraphLaunch(graph, b->stream), "cudaGraphLaunch"))
		return -1;
	b->turn = (b->turn + b->residual.sums) % PEER_TURNS;
	return 0;
}

/* The first round is not timed: while it runs, the others are queued up. */
static int time_sums(struct cuda_backend *b, struct stopwatch *watch, cudaGraphExec_t graph, double *seconds,
		     struct error *err)
{
	if (play_sums(b, graph, err) || stopwatch_time(b, watch, seconds, err, [&] {
		for (int n = 0; n < ROUNDS; n++)
			if (play_sums(b, graph, err))
				return -1;
		return 0;
	}))
		return -1;
	*seconds /= ROUNDS * SUMS;
	return reduce_check(b, err);
}

static int probe_reduce(struct cuda_backend *b, struct stopwatch *watch, size_t bytes, double *seconds,
			struct error *err)
{
	size_t row = (size_t)b->options.shape.hidden * dtype_bytes(b->options.shape.dtype), tokens = bytes / row;
	cudaGraphExec_t graph = NULL;

	*seconds = 0;
	if (b->reduce == REDUCE_NONE)
		return 0;
	if (tokens < 1 || tokens > (size_t)b->options.max_tokens)
		return error_run(err, "a sum of %zu bytes is none of a step of 1 to %d tokens", bytes,
				 (int)b->options.max_tokens);
	/* As if a step began. */
	b->turn = (b->turn + b->residual.sums) % PEER_TURNS;
	memset(&b->residual, 0, sizeof b->residual);
	b->residual.at = at<float>(b, b->layout.residual);
	memset(&b->step, 0, sizeof b->step);
	b->step.tokens = (int32_t)tokens;
	b->step.turn = at<uint32_t>(b, b->layout.step);
	b->step.through_peers = peers_serve(b, b->step.tokens);

	bool is_float;
	const bool rows = rows_serve(b, b->step.tokens); /* which are numbered by the host, and not recorded */
	void *buffer = reduce_buffer(b, &is_float);
	size_t used = tokens * (size_t)b->layout.hidden_stride * (is_float ? 4 : 2);
	int result = -1;
	if (cuda_ok(b, err, cudaMemsetAsync(buffer, 0, used, b->stream), "cudaMemsetAsync") &&
	    cuda_ok(b, err, cudaStreamSynchronize(b->stream), "a probe") &&
	    (b->reduce == REDUCE_HOST || rows || !record_sums(b, &graph, err)))
		result = time_sums(b, watch, graph, seconds, err);
	if (graph)
		cudaGraphExecDestroy(graph);
	memset(&b->residual, 0, sizeof b->residual);
	return result;
}

int probe_run(struct backend *base, enum backend_probe what, size_t bytes, double *seconds, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	struct stopwatch watch;
	int result = -1;

	if (!stopwatch_open(b, &watch, err))
		result = what == PROBE_READ ? probe_read(b, &watch, bytes, seconds, err)
					    : probe_reduce(b, &watch, bytes, seconds, err);
	stopwatch_close(&watch);
	return result;
}

/* ---- versions ------------------------------------------------------------------------------- */

void cuda_versions(struct cuda_versions *out, bool nccl)
{
	memset(out, 0, sizeof *out);
	cudaRuntimeGetVersion(&out->runtime);
	cudaDriverGetVersion(&out->driver);
#ifdef TPRUN_NCCL
	struct nccl_calls calls;
	struct error ignored;
	if (nccl && !nccl_load(&calls, &ignored) && calls.get_version(&out->nccl) != ncclSuccess)
		out->nccl = 0;
#else
	(void)nccl;
#endif
}
