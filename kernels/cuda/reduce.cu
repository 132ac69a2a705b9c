/*
 * reduce.cu - sums over the ranks.
 *
 * Three paths, one for all ranks, chosen by rank 0 at start: none for a single rank; NCCL
 * where every rank has a GPU of its own; and through the host (the group's own sum, in
 * float32) where ranks share a GPU, which NCCL refuses, or where NCCL is not built in. The
 * environment variable TPRUN_REDUCE=host asks for the last.
 *
 * Over NCCL 16-bit models send 16-bit values. NCCL adds them in an order fixed by the number
 * of ranks and the size, so a run repeats bit for bit; its kernels over symmetric windows add
 * in float32 and round once, its rings round at each hop. A few tokens use a buffer in a
 * symmetric window, which is faster there; many tokens an ordinary one, faster for them.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/internal.cuh"

#ifdef TPRUN_NCCL
#define HAVE_WINDOWS (NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0))

static bool nccl_ok(const struct cuda_backend *b, struct error *err, ncclResult_t status, const char *what)
{
	if (status == ncclSuccess)
		return true;
	error_run(err, "%s: %s: %s (%s)", b->label, what, ncclGetErrorString(status),
		  ncclGetLastError(b->comm));
	return false;
}
#endif

/* What rank 0 tells the others. */
struct reduce_plan {
	int path;
#ifdef TPRUN_NCCL
	ncclUniqueId id;
#endif
};

/* On rank 0: two ranks with the same GPU? `all` holds 16 bytes a rank. */
static bool shared_device(const unsigned char *all, int size)
{
	for (int i = 0; i < size; i++)
		for (int k = 0; k < i; k++)
			if (!memcmp(all + 16 * i, all + 16 * k, 16))
				return true;
	return false;
}

static int plan_reduce(struct cuda_backend *b, struct reduce_plan *plan, struct error *err)
{
	const struct group *g = b->options.group;
	struct cudaDeviceProp properties;
	unsigned char *all = NULL;
	int result = -1;

	memset(plan, 0, sizeof *plan);
	if (!cuda_ok(b, err, cudaGetDeviceProperties(&properties, b->options.device), "cudaGetDeviceProperties"))
		return -1;
	if (g->rank == 0 && !(all = (unsigned char *)malloc((size_t)g->size * 16)))
		return error_memory(err, "the ranks' device names");
	if (g->gather(g, &properties.uuid, 16, all, err))
		goto done;
	plan->path = REDUCE_HOST;
#ifdef TPRUN_NCCL
	if (g->rank == 0) {
		const char *wanted = getenv("TPRUN_REDUCE");
		if (!shared_device(all, g->size) && !(wanted && !strcmp(wanted, "host"))) {
			plan->path = REDUCE_NCCL;
			if (!nccl_ok(b, err, ncclGetUniqueId(&plan->id), "ncclGetUniqueId"))
				goto done;
		}
	}
#else
	(void)shared_device;
#endif
	result = 0;
done:
	free(all);
	return result;
}

#ifdef TPRUN_NCCL
static int nccl_open(struct cuda_backend *b, const struct reduce_plan *plan, struct error *err)
{
	const struct group *g = b->options.group;
	size_t bytes = b->layout.window_bytes;

	if (!nccl_ok(b, err, ncclCommInitRank(&b->comm, g->size, plan->id, g->rank), "ncclCommInitRank") ||
	    !nccl_ok(b, err, ncclMemAlloc(&b->window_buffer, bytes), "ncclMemAlloc") ||
	    !cuda_ok(b, err, cudaMemsetAsync(b->window_buffer, 0, bytes, b->stream), "cudaMemsetAsync"))
		return -1;
#if HAVE_WINDOWS
	int version = 0;
	if (!nccl_ok(b, err, ncclGetVersion(&version), "ncclGetVersion"))
		return -1;
	if (version >= NCCL_VERSION(2, 27, 0)) {
		if (!nccl_ok(b, err, ncclCommWindowRegister(b->comm, b->window_buffer, bytes, &b->window,
							    NCCL_WIN_COLL_SYMMETRIC), "ncclCommWindowRegister"))
			return -1;
		b->windows = b->window != NULL;
	}
#endif
	return 0;
}
#endif

int reduce_open(struct cuda_backend *b, struct error *err)
{
	const struct group *g = b->options.group;
	struct reduce_plan plan;
	int result;

	b->reduce = REDUCE_NONE;
	if (!g || g->size == 1)
		return 0;
	if (g->agree(g, plan_reduce(b, &plan, err), err) || g->broadcast(g, &plan, sizeof plan, 0, err))
		return -1;
	b->reduce = (enum reduce_path)plan.path;
#ifdef TPRUN_NCCL
	if (b->reduce == REDUCE_NCCL)
		result = nccl_open(b, &plan, err);
	else
#endif
	{
		size_t bytes = (size_t)b->options.max_tokens * (size_t)b->layout.hidden_stride * 4;
		result = cuda_ok(b, err, cudaMallocHost((void **)&b->reduce_host, bytes),
				 "cudaMallocHost for sums over the ranks") ? 0 : -1;
	}
	return g->agree(g, result, err);
}

void reduce_close(struct cuda_backend *b)
{
	cudaFreeHost(b->reduce_host);
#ifdef TPRUN_NCCL
#if HAVE_WINDOWS
	if (b->window)
		ncclCommWindowDeregister(b->comm, b->window);
#endif
	if (b->window_buffer)
		ncclMemFree(b->window_buffer);
	if (b->comm)
		ncclCommDestroy(b->comm);
#endif
}

void *reduce_buffer(struct cuda_backend *b, bool *is_float)
{
	*is_float = b->reduce == REDUCE_HOST || b->options.shape.dtype == DTYPE_F32;
	if (b->reduce == REDUCE_NCCL && b->step.tokens <= GEMV_TOKENS)
		return b->window_buffer;
	return at<void>(b, b->layout.partial);
}

static int host_sum(struct cuda_backend *b, struct error *err)
{
	const struct group *g = b->options.group;
	size_t count = (size_t)b->step.tokens * (size_t)b->layout.hidden_stride;
	float *partial = at<float>(b, b->layout.partial);

	b->plain_next = true;
	if (!cuda_ok(b, err, cudaMemcpyAsync(b->reduce_host, partial, count * 4, cudaMemcpyDeviceToHost,
					     b->stream), "copying a sum to the host") ||
	    !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "copying a sum to the host") ||
	    g->sum(g, b->reduce_host, count, err) ||
	    !cuda_ok(b, err, cudaMemcpyAsync(partial, b->reduce_host, count * 4, cudaMemcpyHostToDevice,
					     b->stream), "copying a sum to the device"))
		return -1;
	return 0;
}

int reduce_sum(struct cuda_backend *b, struct error *err)
{
	if (b->reduce == REDUCE_HOST)
		return host_sum(b, err);
#ifdef TPRUN_NCCL
	if (b->reduce == REDUCE_NCCL) {
		static const ncclDataType_t types[] = {ncclFloat32, ncclFloat16, ncclBfloat16};
		bool is_float;
		void *buffer = reduce_buffer(b, &is_float);
		size_t count = (size_t)b->step.tokens * (size_t)b->layout.hidden_stride;
		b->plain_next = true;
		if (!nccl_ok(b, err, ncclAllReduce(buffer, buffer, count, types[b->options.shape.dtype],
						   ncclSum, b->comm, b->stream), "ncclAllReduce"))
			return -1;
	}
#endif
	return 0;
}

int reduce_check(struct cuda_backend *b, struct error *err)
{
#ifdef TPRUN_NCCL
	ncclResult_t status = ncclSuccess;
	if (b->comm && (!nccl_ok(b, err, ncclCommGetAsyncError(b->comm, &status), "ncclCommGetAsyncError") ||
			!nccl_ok(b, err, status, "a sum over the ranks")))
		return -1;
#endif
	(void)b, (void)err;
	return 0;
}

const char *cuda_backend_reduce_name(const struct backend *base)
{
	const struct cuda_backend *b = (const struct cuda_backend *)base;
	return b->reduce == REDUCE_NONE ? "none" : b->reduce == REDUCE_HOST ? "host"
	     : b->windows ? "nccl with symmetric windows" : "nccl";
}
