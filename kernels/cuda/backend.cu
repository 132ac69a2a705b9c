/*
 * backend.cu - the CUDA backend: opening, closing, and looking inside.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/blocks.cuh"
#include "kernels/cuda/internal.cuh"
#include "runtime/base/thread.h"

/* The GPU is named here; the rank and its host by whoever tells the error, group->agree or abort. */
bool cuda_ok(const struct cuda_backend *b, struct error *err, cudaError_t status, const char *what)
{
	if (status == cudaSuccess)
		status = cudaPeekAtLastError();
	if (status == cudaSuccess)
		return true;
	/* An error that every call meets has taken the context with it, and may be an earlier one's. */
	size_t left, total;
	cudaGetLastError();
	bool lost = cudaMemGetInfo(&left, &total) == status;
	cudaGetLastError();
	error_run(err, "%s: %s: %s (%s)%s", b->label, what, cudaGetErrorString(status),
		  cudaGetErrorName(status),
		  lost ? "; the process can use this GPU no more, and the cause may lie before this call: see "
			 "the lines with Xid that dmesg has on this host"
		       : "");
	return false;
}

bool cublas_ok(const struct cuda_backend *b, struct error *err, cublasStatus_t status, const char *what)
{
	if (status == CUBLAS_STATUS_SUCCESS)
		return true;
	error_run(err, "%s: %s: %s", b->label, what, b->blas.status_string(status));
	return false;
}

/* Device memory, zeroed: padding must be zero and nothing may look like a number by chance. */
static int allocate(struct cuda_backend *b, unsigned char **out, uint64_t bytes, const char *what,
		    struct error *err)
{
	size_t left = 0, total = 0;
	if (!bytes)
		bytes = 256;
	cudaError_t status = cudaMalloc((void **)out, bytes);
	if (status == cudaErrorMemoryAllocation) {
		cudaGetLastError();
		cudaMemGetInfo(&left, &total);
		return error_run(err, "%s: no room for %s: %.2f GiB wanted, %.2f of %.2f GiB free; use more "
				 "ranks or a smaller --context", b->label, what, (double)bytes / 0x1p30,
				 (double)left / 0x1p30, (double)total / 0x1p30);
	}
	if (!cuda_ok(b, err, status, "cudaMalloc") ||
	    !cuda_ok(b, err, cudaMemsetAsync(*out, 0, bytes, b->stream), "cudaMemsetAsync"))
		return -1;
	return 0;
}

static int pin(struct cuda_backend *b, void **out, size_t bytes, const char *what, struct error *err)
{
	return cuda_ok(b, err, cudaMallocHost(out, bytes ? bytes : 1), what) ? 0 : -1;
}

static int open_device(struct cuda_backend *b, struct error *err)
{
	struct cudaDeviceProp properties;
	struct cudaFuncAttributes attributes;
	char address[32] = "";
	int device = b->options.device;

	snprintf(b->label, sizeof b->label, "GPU %d", device);
	if (!cuda_ok(b, err, cudaSetDevice(device), "cudaSetDevice") ||
	    !cuda_ok(b, err, cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties") ||
	    !cuda_ok(b, err, cudaDeviceGetPCIBusId(address, sizeof address, device), "cudaDeviceGetPCIBusId"))
		return -1;
	snprintf(b->label, sizeof b->label, "GPU %d (%.40s, %s)", device, properties.name, address);
	b->multiprocessors = properties.multiProcessorCount;
	b->shared_block = (int)properties.sharedMemPerBlockOptin;
	memcpy(b->uuid, &properties.uuid, sizeof b->uuid);
	/* All kernels divide L1 and shared memory in the same way: see shared_prepare. */
	if (!cuda_ok(b, err, cudaFuncGetAttributes(&attributes, blocks_probe()), "looking for this GPU's kernels") ||
	    !cuda_ok(b, err, cudaDeviceSetCacheConfig(cudaFuncCachePreferShared), "cudaDeviceSetCacheConfig") ||
	    !cuda_ok(b, err, cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking), "cudaStreamCreate") ||
	    !cuda_ok(b, err, cudaStreamCreateWithFlags(&b->load_stream, cudaStreamNonBlocking), "cudaStreamCreate"))
		return -1;
	/* The kernels know how to wait for one another only where they were built for sm_90.
	 * TPRUN_CUDA_OVERLAP=0 turns the overlap off, to measure what it brings. */
	const char *wanted = getenv("TPRUN_CUDA_OVERLAP");
	b->programmatic = attributes.ptxVersion >= 90 && !(wanted && !strcmp(wanted, "0"));
	return 0;
}

static int open_cublas(struct cuda_backend *b, struct error *err)
{
	/* The stream first: setting it forgets the workspace. Sums of parts of a product stay in
	 * float32. */
	cublasMath_t mode = (cublasMath_t)(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
	if (cublas_load(&b->blas, err) ||
	    !cublas_ok(b, err, b->blas.create(&b->cublas), "cublasCreate") ||
	    !cublas_ok(b, err, b->blas.set_stream(b->cublas, b->stream), "cublasSetStream") ||
	    !cublas_ok(b, err, b->blas.set_workspace(b->cublas, at<void>(b, b->layout.cublas),
						     CUBLAS_WORKSPACE), "cublasSetWorkspace") ||
	    !cublas_ok(b, err, b->blas.set_math_mode(b->cublas, mode), "cublasSetMathMode"))
		return -1;
	return 0;
}

static int open_memory(struct cuda_backend *b, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	size_t groups = sizeof *s->groups * (size_t)s->kv_heads;

	if (allocate(b, &b->weights, l->weight_bytes, "the weights", err) ||
	    allocate(b, &b->cache, l->cache_bytes, "the KV cache", err) ||
	    allocate(b, &b->workspace, l->workspace_bytes, "the workspace", err) ||
	    pin(b, (void **)&b->step_host, l->step_bytes, "cudaMallocHost for a step", err) ||
	    pin(b, (void **)&b->request_host, l->request_bytes, "cudaMallocHost for requests", err) ||
	    pin(b, (void **)&b->result_host, sizeof *b->result_host * (size_t)b->options.max_logit_rows,
		"cudaMallocHost for candidates", err) ||
	    pin(b, (void **)&b->results_ready, sizeof *b->results_ready * (size_t)b->options.max_logit_rows,
		"cudaMallocHost for candidates", err) ||
	    (b->options.time_sums && pin(b, (void **)&b->sum_time, sizeof *b->sum_time, "cudaMallocHost", err)))
		return -1;
	if (b->sum_time)
		*b->sum_time = 0;
	memset(b->results_ready, 0, sizeof *b->results_ready * (size_t)b->options.max_logit_rows);
	if (!cuda_ok(b, err, cudaEventCreateWithFlags(&b->requests_read, cudaEventDisableTiming), "cudaEventCreate"))
		return -1;
	b->groups = at<struct head_group>(b, l->constants);
	b->frequencies = at<float>(b, l->constants + groups);
	for (int i = 0; i < s->kv_heads; i++)
		if (s->groups[i].count > b->group_max)
			b->group_max = s->groups[i].count;
	if (!cuda_ok(b, err, cudaMemcpyAsync(b->groups, s->groups, groups, cudaMemcpyHostToDevice, b->stream),
		     "copying head groups") ||
	    !cuda_ok(b, err, cudaMemcpyAsync(b->frequencies, s->rope_frequencies,
					     (size_t)(s->head_dim / 2) * 4, cudaMemcpyHostToDevice, b->stream),
		     "copying rope frequencies") ||
	    !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "preparing device memory"))
		return -1;
	return 0;
}

/* What computing needs but loading does not. */
static int open_libraries(struct cuda_backend *b, struct error *err)
{
	return open_cublas(b, err) || gemv_prepare(b, err) || gemm_prepare(b, err) || attend_prepare(b, err) ||
	       attend_tile_prepare(b, err) || attend_stream_prepare(b, err) ? -1 : 0;
}

/* ---- what is opened beside the loading ---------------------------------------------------------- */

static void *opener_run(void *context)
{
	struct cuda_opener *opener = (struct cuda_opener *)context;
	struct cuda_backend *b = opener->b;
	opener->result = cuda_ok(b, &opener->err, cudaSetDevice(b->options.device), "cudaSetDevice")
				 ? opener->open(b, &opener->err) : -1;
	return NULL;
}

/* A rank on which the thread cannot start does it at once: the others may wait for it already. */
static void opener_start(struct cuda_backend *b, struct cuda_opener *opener,
			 int (*open)(struct cuda_backend *, struct error *err))
{
	opener->b = b;
	opener->open = open;
	opener->running = !thread_start(&opener->thread, opener_run, opener, "the backend", &opener->err);
	if (!opener->running)
		opener_run(opener);
}

/* Returns the opener's result, for err not NULL with its error. */
static int opener_join(struct cuda_opener *opener, struct error *err)
{
	if (opener->running)
		pthread_join(opener->thread, NULL);
	opener->running = false;
	if (opener->result && err)
		*err = opener->err;
	return opener->result;
}

static int backend_load_end(struct backend *base, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const struct group *g = b->options.group;
	int results[] = {weights_end(b, err), opener_join(&b->connection, err), opener_join(&b->libraries, err)};
	int result = results[0] || results[1] || results[2] || packed_build(b, err) ? -1 : 0;
	if (g && g->size > 1)
		result = g->agree(g, result, err);
	return result || reduce_end(b, err) ? -1 : 0;
}

static void backend_close(struct backend *base)
{
	struct cuda_backend *b = cuda_of(base);
	if (!b)
		return;
	opener_join(&b->libraries, NULL);
	opener_join(&b->connection, NULL);
	if (b->stream)
		cudaStreamSynchronize(b->stream);
	weights_close(b);
	step_close(b); /* graphs go before the communicator */
	reduce_close(b);
	if (b->cublas)
		b->blas.destroy(b->cublas);
	if (b->requests_read)
		cudaEventDestroy(b->requests_read);
	void *pinned[] = {b->step_host, b->request_host, b->result_host, b->results_ready, b->sum_time};
	for (size_t i = 0; i < sizeof pinned / sizeof *pinned; i++)
		cudaFreeHost(pinned[i]);
	packed_close(b);
	cudaFree(b->weights);
	cudaFree(b->cache);
	cudaFree(b->workspace);
	if (b->stream)
		cudaStreamDestroy(b->stream);
	if (b->load_stream)
		cudaStreamDestroy(b->load_stream);
	cudaGetLastError(); /* closing tells of no errors; a later open must not find them */
	free(b);
}

/* Waits for one row of logits. */
static int backend_logit_row(struct backend *base, int32_t row, float *out, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const float *from = at<float>(b, b->layout.logits) + (size_t)row * (size_t)b->layout.logit_stride;

	if (row < 0 || row >= b->step.logit_rows)
		return error_run(err, "row %d of %d rows of logits", (int)row, (int)b->step.logit_rows);
	b->plain_next = true;
	if (!cuda_ok(b, err, cudaMemcpyAsync(out, from, (size_t)b->options.shape.vocab * 4,
					     cudaMemcpyDeviceToHost, b->stream), "copying logits") ||
	    !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "copying logits"))
		return -1;
	return 0;
}

/* An activation as rows of equal length: [rows][columns], `stride` elements apart. */
struct view {
	unsigned char *data;
	int64_t rows;
	int32_t columns, stride;
	enum dtype dtype;
};

static struct view view_of(struct cuda_backend *b, enum backend_buffer buffer)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	int64_t tokens = b->step.tokens;

	switch (buffer) {
	case BUFFER_RESIDUAL:
		return {(unsigned char *)b->residual.at, tokens, s->hidden, l->hidden_stride, DTYPE_F32};
	case BUFFER_QUERY:
		return {b->workspace + l->query, tokens * s->query_heads, s->head_dim, l->head_stride,
			DTYPE_F32};
	case BUFFER_ATTENTION:
		return {(unsigned char *)b->step.attention.data, tokens, s->query_heads * s->head_dim,
			l->attention_stride, b->step.attention.wide ? DTYPE_F32 : s->dtype};
	case BUFFER_ACTIVATION:
		return {(unsigned char *)b->step.activation.data, tokens, s->intermediate,
			l->activation_stride, b->step.activation.wide ? DTYPE_F32 : s->dtype};
	default:
		return {b->workspace + l->logits, b->step.logit_rows, s->vocab, l->logit_stride, DTYPE_F32};
	}
}

/* Copies an activation to float32 on the host, or from there. */
static int transfer(struct cuda_backend *b, enum backend_buffer buffer, float *out, const float *in,
		    struct error *err)
{
	struct view v = view_of(b, buffer);
	size_t bytes = dtype_bytes(v.dtype), width = (size_t)v.columns * bytes;
	size_t count = (size_t)v.rows * (size_t)v.columns, pitch = (size_t)v.stride * bytes;
	void *packed = NULL;
	int result = -1;

	if (step_flush(b, err) || (buffer == BUFFER_RESIDUAL && (peers_settle(b, err) || rows_gather(b, err))))
		return -1;
	if (!count)
		return 0;
	if (!(packed = malloc(count * bytes)))
		return error_memory(err, "an activation");
	if (in)
		dtype_convert(in, DTYPE_F32, packed, v.dtype, count);
	b->plain_next = true;
	b->normed = NULL;
	if (!cuda_ok(b, err, in ? cudaMemcpy2DAsync(v.data, pitch, packed, width, width, (size_t)v.rows,
						    cudaMemcpyHostToDevice, b->stream)
				: cudaMemcpy2DAsync(packed, width, v.data, pitch, width, (size_t)v.rows,
						    cudaMemcpyDeviceToHost, b->stream), "cudaMemcpy2DAsync") ||
	    !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "copying an activation"))
		goto done;
	if (out)
		dtype_convert(packed, v.dtype, out, DTYPE_F32, count);
	result = 0;
done:
	free(packed);
	return result;
}

static int backend_peek(struct backend *base, enum backend_buffer buffer, float *out, struct error *err)
{
	return transfer(cuda_of(base), buffer, out, NULL, err);
}

static int backend_poke(struct backend *base, enum backend_buffer buffer, const float *in,
			struct error *err)
{
	if (buffer == BUFFER_LOGITS)
		return error_run(err, "logits cannot be poked");
	return transfer(cuda_of(base), buffer, NULL, in, err);
}

static void backend_abort(struct backend *base)
{
	reduce_abort(cuda_of(base));
}

static const struct backend_ops cuda_ops = {
	"cuda", true, backend_close, weights_lend, weights_load, weights_load_random, backend_load_end,
	step_begin, block_embed, block_qkv, block_attend, block_project_attention, block_gate_up,
	block_project_mlp, block_logits, step_end,
	candidates_run, backend_logit_row, backend_peek, backend_poke, probe_run,
	packed_share, backend_abort, reduce_seconds,
};

static int check_options(const struct backend_options *o, struct error *err)
{
	const struct backend_shape *s = &o->shape;
	if (s->head_dim < 2 || s->head_dim % 2 || s->head_dim > HEAD_DIM_MAX)
		return error_usage(err, "heads of size %d: the CUDA backend takes even sizes up to %d",
				   (int)s->head_dim, HEAD_DIM_MAX);
	if (s->layers < 1 || s->hidden < 1 || s->query_heads < 1 || s->kv_heads < 1 || o->kv_blocks < 1 ||
	    o->max_tokens < 1 || o->max_sequences < 1 || o->max_blocks < 1 || o->max_logit_rows < 0)
		return error_usage(err, "a model or a step without any size");
	return 0;
}

int cuda_backend_open(struct backend **out, const struct backend_options *options, struct error *err)
{
	const struct group *g = options->group;
	struct cuda_backend *b = NULL;
	int result;

	*out = NULL;
	b = (struct cuda_backend *)calloc(1, sizeof *b);
	if (b) {
		b->base.ops = &cuda_ops;
		b->options = *options;
		cuda_layout_plan(&b->layout, options, reduce_wanted(options->group));
		result = check_options(options, err) || open_device(b, err) ||
			 open_memory(b, err) ? -1 : 0;
	} else
		result = error_memory(err, "the CUDA backend");
	/* A rank that failed must not leave the others waiting for it in NCCL. */
	if (g && g->size > 1)
		result = g->agree(g, result, err);
	if (result || reduce_begin(b, err))
		goto fail;
	opener_start(b, &b->connection, reduce_connect);
	opener_start(b, &b->libraries, open_libraries);
	b->graphs_allowed = b->reduce != REDUCE_HOST;
	*out = &b->base;
	return 0;
fail:
	backend_close(b ? &b->base : NULL);
	return -1;
}
