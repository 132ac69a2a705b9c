/*
 * reduce.cu - sums over the ranks.
 *
 * Four paths, one for all ranks, chosen at start: none for a single rank; the memory of the
 * ranks' GPUs (peers.cuh, peers_rows.cu) where each has its own, all run on one node and reach it, on as many
 * ranks as it was measured on; NCCL where every rank has a GPU of its own; and through the host (the group's
 * own sum, in float32) where ranks share a GPU, which NCCL refuses, or where a rank has no NCCL.
 * NCCL is not even started where the memory serves: it is what a start takes longest for. The
 * environment variable TPRUN_REDUCE asks for "host", for "nccl" and nothing else, even on a
 * single rank, where it adds nothing but takes NCCL's way, or for "peer", with more ranks or a single
 * one too, or with ranks that share a GPU: they take turns on it and wait for one another's, which is
 * slow, but tests what several GPUs run.
 *
 * Over NCCL 16-bit models send 16-bit values. NCCL adds them in an order fixed by the number
 * of ranks and the size, so a run repeats bit for bit; its kernels over symmetric windows add
 * in float32 and round once, its rings round at each hop. Sums of some sizes use a
 * buffer in a symmetric window, the others an ordinary one: whichever is faster.
 * Beside NCCL sums of few tokens go through the GPUs' memory too, where it serves no others: rows of
 * a length that peers_rows.cu does not take.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/internal.cuh"
#include "runtime/base/known_sum.h"

#ifdef TPRUN_NCCL
static bool nccl_ok(const struct cuda_backend *b, struct error *err, ncclResult_t status, const char *what)
{
	if (status == ncclSuccess)
		return true;
	error_run(err, "%s: %s: %s (%s)", b->label, what, b->nccl.error_string(status),
		  b->nccl.last_error(b->comm));
	return false;
}
#endif

/* What a rank tells rank 0. */
struct reduce_offer {
	unsigned char uuid[16];	/* of its GPU */
	char obstacle[160];	/* why it cannot use NCCL; empty where it can */
};

/* What rank 0 tells the others. */
struct reduce_plan {
	int path;		/* where the GPUs' memory does not serve */
	bool peers, peers_only; /* try that; fail without it */
	char host_why[200];	/* of that path */
#ifdef TPRUN_NCCL
	ncclUniqueId id;
#endif
};

static bool reduce_asked(const char *path)
{
	const char *asked = getenv("TPRUN_REDUCE");
	return asked && !strcmp(asked, path);
}

bool reduce_wanted(const struct group *g)
{
	return g && (g->size > 1 || reduce_asked("nccl") || reduce_asked("peer"));
}

static void make_offer(struct cuda_backend *b, struct reduce_offer *offer)
{
	memset(offer, 0, sizeof *offer);
	memcpy(offer->uuid, b->uuid, sizeof offer->uuid);
#ifdef TPRUN_NCCL
	struct error why;
	if (nccl_load(&b->nccl, &why))
		snprintf(offer->obstacle, sizeof offer->obstacle, "%.*s", (int)sizeof offer->obstacle - 1,
			 why.message);
#else
	snprintf(offer->obstacle, sizeof offer->obstacle, "built without NCCL");
#endif
}

/* On rank 0: whether a GPU serves two ranks, which are named in `why`. */
static bool gpus_shared(const struct reduce_offer *offers, int size, char *why, size_t room)
{
	for (int i = 0; i < size; i++)
		for (int k = 0; k < i; k++)
			if (!memcmp(offers[i].uuid, offers[k].uuid, sizeof offers[i].uuid)) {
				snprintf(why, room, "ranks %d and %d share a GPU", k, i);
				return true;
			}
	return false;
}

/* On rank 0: whether a rank has no NCCL, as `why` tells. */
static bool nccl_missing(const struct reduce_offer *offers, int size, char *why, size_t room)
{
	for (int i = 0; i < size; i++)
		if (offers[i].obstacle[0]) {
			snprintf(why, room, "rank %d: %.*s", i, (int)sizeof offers[i].obstacle - 1,
				 offers[i].obstacle);
			return true;
		}
	return false;
}

static int plan_reduce(struct cuda_backend *b, struct reduce_plan *plan, struct error *err)
{
	const struct group *g = b->options.group;
	struct reduce_offer own, *offers = NULL;
	int result = -1;

	memset(plan, 0, sizeof *plan);
	strcpy(plan->host_why, "TPRUN_REDUCE=host");
	make_offer(b, &own);
	if (g->rank == 0 && !(offers = (struct reduce_offer *)calloc((size_t)g->size, sizeof *offers)))
		error_memory(err, "the ranks' device names");
	/* The others are in the gather already. */
	if (g->agree(g, g->rank == 0 && !offers ? -1 : 0, err) ||
	    g->gather(g, &own, sizeof own, offers, err))
		goto done;
	if (g->rank == 0) {
		const size_t room = sizeof plan->host_why;
		bool asked = reduce_asked("host"), shared = !asked && gpus_shared(offers, g->size, plan->host_why, room);
		bool host = asked || shared || nccl_missing(offers, g->size, plan->host_why, room);
		/* Memory that serves few tokens alone goes with NCCL alone: the host's sums are not recorded. */
		bool memory = !asked && (!shared || reduce_asked("peer")) && (!host || rows_fit(b));
		if ((host && reduce_asked("nccl")) || (!memory && reduce_asked("peer"))) {
			error_usage(err, "TPRUN_REDUCE=%s: %s", getenv("TPRUN_REDUCE"), plan->host_why);
			goto done;
		}
		plan->path = host ? REDUCE_HOST : REDUCE_NCCL;
		plan->peers = memory && (reduce_asked("peer") ||
					 (!reduce_asked("nccl") && g->size <= PEER_RANKS_MEASURED));
		plan->peers_only = reduce_asked("peer");
	}
	result = 0;
done:
	free(offers);
	return result;
}

#ifdef TPRUN_NCCL
/* The kernels over symmetric windows take fewer blocks than they gain from, unless told: 19 and 12 us
 * for 2 MiB on 2 GPUs. A library that is older than these headers reads as much of the struct as it
 * knows. */
static ncclResult_t comm_open(struct cuda_backend *b, const ncclUniqueId *id)
{
	const struct group *g = b->options.group;
#if HAVE_WINDOWS
	int version = 0;
	if (b->nccl.comm_init_rank_config && b->nccl.get_version(&version) == ncclSuccess &&
	    version >= NCCL_VERSION(2, 27, 0)) {
		ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
		config.minCTAs = config.maxCTAs = 32;
		return b->nccl.comm_init_rank_config(&b->comm, g->size, *id, g->rank, &config);
	}
#endif
	return b->nccl.comm_init_rank(&b->comm, g->size, *id, g->rank);
}

static int nccl_open(struct cuda_backend *b, const struct reduce_plan *plan, struct error *err)
{
	size_t bytes = b->layout.window_bytes;

	if (!nccl_ok(b, err, comm_open(b, &plan->id), "ncclCommInitRank") ||
	    !nccl_ok(b, err, b->nccl.mem_alloc(&b->window_buffer, bytes), "ncclMemAlloc") ||
	    !cuda_ok(b, err, cudaMemsetAsync(b->window_buffer, 0, bytes, b->load_stream), "cudaMemsetAsync"))
		return -1;
#if HAVE_WINDOWS
	int version = 0;
	if (!nccl_ok(b, err, b->nccl.get_version(&version), "ncclGetVersion"))
		return -1;
	if (version >= NCCL_VERSION(2, 27, 0) && b->nccl.window_register && b->nccl.window_deregister &&
	    !nccl_ok(b, err, b->nccl.window_register(b->comm, b->window_buffer, bytes, &b->window,
						     NCCL_WIN_COLL_SYMMETRIC), "ncclCommWindowRegister"))
		return -1;
#endif
	return 0;
}
#endif

/* How NCCL finds the other ranks, on its path. All ranks of the world agree, so on other paths, which other replicas may
 * take, they do so too. */
static int share_id(struct cuda_backend *b, struct error *err)
{
	const struct group *g = b->options.group;
	int result = 0;
#ifdef TPRUN_NCCL
	if (b->reduce == REDUCE_NCCL && g->rank == 0 &&
	    !nccl_ok(b, err, b->nccl.get_unique_id(&b->plan->id), "ncclGetUniqueId"))
		result = -1;
#endif
	if (g->agree(g, result, err))
		return -1;
#ifdef TPRUN_NCCL
	if (b->reduce == REDUCE_NCCL)
		return g->broadcast(g, &b->plan->id, sizeof b->plan->id, 0, err);
#endif
	return 0;
}

/* The path, from what was planned and found. `why`: what hinders the GPUs' memory, where it was tried. */
static void choose_path(struct cuda_backend *b, const char *why)
{
	const struct reduce_plan *plan = b->plan;
	char *name = b->reduce_name;
	const size_t room = sizeof b->reduce_name;

	b->reduce = b->rows ? REDUCE_PEERS : (enum reduce_path)plan->path;
	if (b->reduce == REDUCE_PEERS)
		snprintf(name, room, "through peers' memory");
	else if (b->reduce == REDUCE_HOST)
		snprintf(name, room, "host (%s)", plan->host_why);
	else if (b->peers)
		snprintf(name, room, "nccl, few tokens through peers' memory");
	else
		snprintf(name, room, plan->peers ? "nccl (peers' memory: %s)" : "nccl", why);
}

int reduce_begin(struct cuda_backend *b, struct error *err)
{
	const struct group *g = b->options.group;
	char why[200] = "";

	b->reduce = REDUCE_NONE;
	strcpy(b->reduce_name, "none");
	if (!reduce_wanted(g))
		return 0;
	b->plan = (struct reduce_plan *)calloc(1, sizeof *b->plan);
	if (g->agree(g, b->plan ? 0 : error_memory(err, "the plan of sums over the ranks"), err) ||
	    g->agree(g, plan_reduce(b, b->plan, err), err) ||
	    g->broadcast(g, b->plan, sizeof *b->plan, 0, err) ||
	    (b->plan->peers && peers_open(b, why, sizeof why, err)))
		return -1;
	if (b->plan->peers_only && !b->peers)
		return error_usage(err, "TPRUN_REDUCE=peer: %s", why);
	choose_path(b, why);
	return share_id(b, err);
}

int reduce_connect(struct cuda_backend *b, struct error *err)
{
	size_t bytes = (size_t)b->options.max_tokens * (size_t)b->layout.hidden_stride * 4;

#ifdef TPRUN_NCCL
	if (b->reduce == REDUCE_NCCL)
		return nccl_open(b, b->plan, err);
#endif
	return b->reduce != REDUCE_HOST ||
	       cuda_ok(b, err, cudaMallocHost((void **)&b->reduce_host, bytes),
		       "cudaMallocHost for sums over the ranks") ? 0 : -1;
}

void reduce_close(struct cuda_backend *b)
{
	peers_close(b);
	free(b->plan);
	cudaFreeHost(b->reduce_host);
#ifdef TPRUN_NCCL
#if HAVE_WINDOWS
	if (b->window)
		b->nccl.window_deregister(b->comm, b->window);
#endif
	if (b->window_buffer)
		b->nccl.mem_free(b->window_buffer);
	if (b->comm)
		b->nccl.comm_destroy(b->comm);
#endif
}

void *reduce_buffer(struct cuda_backend *b, bool *is_float)
{
	*is_float = b->reduce == REDUCE_HOST || b->options.shape.dtype == DTYPE_F32;
	if (rows_serve(b, b->step.tokens))
		return at<void>(b, b->layout.partial);
	/* Where windows are faster, as measured on 2 GPUs; between, the kernel that publishes what
	 * cuBLAS wrote costs more than they gain. */
	size_t bytes = (size_t)b->step.tokens * (size_t)b->layout.hidden_stride * (*is_float ? 4 : 2);
	if (b->reduce == REDUCE_NCCL && bytes <= b->layout.window_bytes &&
	    (bytes <= WINDOW_SMALL || bytes >= WINDOW_LARGE))
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

#ifdef TPRUN_NCCL
__global__ void publish_kernel(void)
{
	publish_results(true);
}

/* Adds the clock to what the sums took, or takes it off. */
__global__ void clock_kernel(uint64_t *time, bool begin)
{
	wait_for_previous();
	*time += begin ? -device_clock() : device_clock();
}

static int note_clock(struct cuda_backend *b, bool begin, struct error *err)
{
	if (!b->sum_time)
		return 0;
	return kernel_launch(b, err, "clock_kernel", clock_kernel, dim3(1), 1, 0,
			     at<uint64_t>(b, b->layout.sum_time), begin);
}
#endif

int reduce_fetch_time(struct cuda_backend *b, struct error *err)
{
	if (!b->sum_time)
		return 0;
	b->plain_next = true;
	return cuda_ok(b, err, cudaMemcpyAsync(b->sum_time, at<uint64_t>(b, b->layout.sum_time), sizeof *b->sum_time,
					       cudaMemcpyDeviceToHost, b->stream), "copying the sums' time") ? 0 : -1;
}

double reduce_seconds(struct backend *base)
{
	const struct cuda_backend *b = cuda_of(base);
	return b->sum_time ? 1e-9 * (double)*b->sum_time : 0;
}

static int sum_over_ranks(struct cuda_backend *b, bool published, struct error *err)
{
	if (b->reduce == REDUCE_HOST)
		return host_sum(b, err);
#ifdef TPRUN_NCCL
	if (b->reduce == REDUCE_NCCL) {
		static const ncclDataType_t types[] = {ncclFloat32, ncclFloat16, ncclBfloat16};
		bool is_float;
		void *buffer = reduce_buffer(b, &is_float);
		size_t count = (size_t)b->step.tokens * (size_t)b->layout.hidden_stride;
		/* What cuBLAS wrote is published by a kernel that starts when all before has ended. */
		if (buffer == b->window_buffer && !published) {
			b->plain_next = true;
			if (kernel_launch(b, err, "publish_kernel", publish_kernel, dim3(1), 32, 0))
				return -1;
		}
		if (note_clock(b, true, err))
			return -1;
		b->plain_next = true;
		if (!nccl_ok(b, err, b->nccl.all_reduce(buffer, buffer, count, types[b->options.shape.dtype],
							ncclSum, b->comm, b->stream), "ncclAllReduce") ||
		    note_clock(b, false, err))
			return -1;
	}
#endif
	(void)published;
	return 0;
}

int reduce_sum(struct cuda_backend *b, bool published, struct error *err)
{
	profile_begin(b->options.profile, "all-reduce");
	int result = sum_over_ranks(b, published, err);
	profile_end(b->options.profile);
	return result;
}

/* ---- the first sums ------------------------------------------------------------------------------ */

/* Known values as the partial sums of a step of so many tokens, through the buffer that it would use. */
static int try_sum(struct cuda_backend *b, int tokens, int turn, float *values, void *stored, struct error *err)
{
	const struct group *g = b->options.group;
	size_t count = (size_t)tokens * (size_t)b->layout.hidden_stride;
	bool is_float;

	b->step.tokens = tokens;
	void *buffer = reduce_buffer(b, &is_float);
	enum dtype dtype = is_float ? DTYPE_F32 : b->options.shape.dtype;
	size_t bytes = count * dtype_bytes(dtype);
	known_parts(values, count, g->rank, g->size, turn);
	dtype_convert(values, DTYPE_F32, stored, dtype, count);
	if (!cuda_ok(b, err, cudaMemcpyAsync(buffer, stored, bytes, cudaMemcpyHostToDevice, b->stream),
		     "cudaMemcpyAsync") ||
	    reduce_sum(b, false, err) ||
	    !cuda_ok(b, err, cudaMemcpyAsync(stored, buffer, bytes, cudaMemcpyDeviceToHost, b->stream),
		     "cudaMemcpyAsync") ||
	    !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "a first sum over the ranks") ||
	    reduce_check(b, err))
		return -1;
	dtype_convert(stored, dtype, values, DTYPE_F32, count);
	if (!cuda_ok(b, err, cudaMemsetAsync(buffer, 0, bytes, b->stream), "cudaMemsetAsync")) /* as it was */
		return -1;
	struct error wrong;
	if (!known_sums_check(values, count, g->size, turn, &wrong))
		return 0;
	return error_run(err, "%s: %s, over %s (%zu bytes in %s): data is changed on its way between the GPUs; "
			 "where NCCL_P2P_DISABLE=1 helps, PCIe's ACS or an IOMMU spoils their direct way and is to "
			 "be turned off%s", b->label, wrong.message, b->reduce == REDUCE_HOST ? "host memory" : "NCCL",
			 bytes, buffer == b->window_buffer ? "its symmetric window" : "an ordinary buffer",
			 g->local_size < g->size ? "; between hosts, NCCL_SOCKET_IFNAME names the network" : "");
}

/* One sum for each way that a step's can go: through the window as small and as large ones do, and
 * between them through an ordinary buffer. The copy that fills the buffer publishes nothing, like
 * cuBLAS. NCCL connects the ranks at the first sum, which a step would have to wait for otherwise. */
static int try_sums(struct cuda_backend *b, struct error *err)
{
	const struct group *g = b->options.group;
	size_t row = (size_t)b->layout.hidden_stride * dtype_bytes(b->options.shape.dtype);
	const size_t tokens[] = {1, WINDOW_SMALL / row + 1, (WINDOW_LARGE + row - 1) / row};
	size_t most = 1;
	int ways = b->reduce == REDUCE_PEERS ? 0 : b->reduce == REDUCE_HOST ? 1 : 3, result = 0;

	for (int i = 0; i < ways; i++)
		if (tokens[i] <= (size_t)b->options.max_tokens && tokens[i] > most)
			most = tokens[i];
	size_t count = most * (size_t)b->layout.hidden_stride;
	float *values = (float *)malloc(count * sizeof *values);
	void *stored = malloc(count * sizeof *values);
	if (!values || !stored)
		result = error_memory(err, "a first sum over the ranks");
	/* Nobody goes on to a sum to which another rank will not come; and as all ranks of the world agree,
	 * replicas that add up otherwise among them, they do so equally often: also where the memory has been tried. */
	result = g->agree(g, result, err);
	for (int i = 0; i < 3 && !result; i++) {
		if (i < ways && tokens[i] <= most)
			result = try_sum(b, (int)tokens[i], i, values, stored, err);
		result = g->agree(g, result, err);
	}
	memset(&b->step, 0, sizeof b->step);
	b->plain_next = true;
	free(values);
	free(stored);
	return result;
}

int reduce_end(struct cuda_backend *b, struct error *err)
{
	if (b->reduce == REDUCE_NONE)
		return 0;
#if defined(TPRUN_NCCL) && HAVE_WINDOWS
	if (b->window)
		strcat(b->reduce_name, ", symmetric windows");
#endif
	if (try_sums(b, err))
		return -1;
	/* What was tried belongs to no step. */
	return !b->sum_time ||
	       cuda_ok(b, err, cudaMemsetAsync(at<uint64_t>(b, b->layout.sum_time), 0, sizeof(uint64_t), b->stream),
		       "cudaMemsetAsync") ? 0 : -1;
}

void reduce_abort(struct cuda_backend *b)
{
	if (b->late)
		*(volatile int32_t *)b->late = PEERS_ABORTED;
#ifdef TPRUN_NCCL
	if (b->comm)
		b->nccl.comm_abort(b->comm);
#endif
}

int reduce_check(struct cuda_backend *b, struct error *err)
{
	if (peers_check(b, err))
		return -1;
#ifdef TPRUN_NCCL
	ncclResult_t status = ncclSuccess;
	if (b->comm && (!nccl_ok(b, err, b->nccl.comm_async_error(b->comm, &status), "ncclCommGetAsyncError") ||
			!nccl_ok(b, err, status, "a sum over the ranks")))
		return -1;
#endif
	(void)b, (void)err;
	return 0;
}

const char *cuda_backend_reduce_name(const struct backend *base)
{
	return ((const struct cuda_backend *)base)->reduce_name;
}
