/*
 * peers.cu - opening the ranks' mailboxes, and the small kernels around them: see peers.cuh.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/peers.cuh"
#include "runtime/base/known_sum.h"

enum {
	THREADS = 256,
	NORM_THREADS = 1024,
	TRIAL_S = 3, /* for a rank's part of a sum while the mailboxes are tried out */
	BOOT_ID = 40,
	REASON = 160,
};

/* grid: tokens, parts of a row. */
template <typename W>
__global__ void push_kernel(const __grid_constant__ struct peer_sum s, const float *partial, int stride,
			    int hidden)
{
	allow_next();
	const uint32_t turn = peer_turn(s);
	wait_for_previous();
	int token = (int)blockIdx.x, i = (int)(blockIdx.y * blockDim.x + threadIdx.x);
	if (4 * i >= hidden)
		return;
	float4 v = make_float4(0, 0, 0, 0);
	if (partial)
		v = load_four(partial + (size_t)token * stride + 4 * i);
	for (int to = 0; to < s.ranks; to++)
		peer_push<W>(s, turn, to, token, i, v);
}

/* residual = or += sum + bias. grid: tokens, parts of a row. */
template <typename W>
__global__ void settle_kernel(const __grid_constant__ struct peer_sum s, float *residual, bool add,
			      const float *bias, int stride, int hidden)
{
	allow_next();
	const uint32_t turn = peer_turn(s);
	wait_for_previous();
	peer_empty_before(s, turn, (int)((blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x),
			  (int)(gridDim.x * gridDim.y * blockDim.x));
	int token = (int)blockIdx.x, i = (int)(blockIdx.y * blockDim.x + threadIdx.x);
	if (4 * i >= hidden)
		return;
	peer_time(s, (int)threadIdx.x, true);
	float4 *at = (float4 *)(residual + (size_t)token * stride) + i;
	*at = peer_residual<W, 4>(s, turn, token, i, add ? at : NULL, bias);
	peer_time(s, (int)threadIdx.x, false);
}

/* The same, then normed = RMSNorm(residual). grid: tokens. */
template <typename W>
__global__ void __launch_bounds__(NORM_THREADS)
settle_norm_kernel(const __grid_constant__ struct peer_sum s, float *residual, bool add, const float *bias,
		   const float *norm, W *normed, int stride, int hidden, float epsilon)
{
	__shared__ float scratch[32], taken[NORM_THREADS];
	const int token = (int)blockIdx.x, at = (int)threadIdx.x, fours = stride / 4;
	float4 *row = (float4 *)(residual + (size_t)token * stride);
	allow_next();
	const uint32_t turn = peer_turn(s);
	const float4 weight = at < fours ? ((const float4 *)norm)[at] : make_float4(0, 0, 0, 0);
	wait_for_previous();
	peer_time(s, at, true);
	float squares = 0;

	/* Squares are added in the order of residual_kernel, for the same bits. */
	for (int first = 0; first < fours; first += NORM_THREADS) {
		int i = first + at;
		float4 x = make_float4(0, 0, 0, 0);
		if (4 * i < hidden)
			x = peer_residual<W, 4>(s, turn, token, i, add ? row + i : NULL, bias);
		if (i < fours)
			row[i] = x;
		__syncthreads();
		taken[at] = four_squares(x);
		__syncthreads();
		for (int k = at; at < RESIDUAL_THREADS && k < NORM_THREADS; k += RESIDUAL_THREADS)
			squares += taken[k];
	}
	peer_time(s, at, false);
	peer_empty_before(s, turn, token * NORM_THREADS + at, (int)gridDim.x * NORM_THREADS);
	float scale = rsqrtf(block_sum(squares, scratch) / (float)hidden + epsilon);
	for (int i = (int)threadIdx.x; i < fours; i += NORM_THREADS) {
		float4 x = row[i], w = i == at ? weight : ((const float4 *)norm)[i];
		store_four(normed + (size_t)token * stride + 4 * i,
			   make_float4(x.x * scale * w.x, x.y * scale * w.y, x.z * scale * w.z, x.w * scale * w.w));
	}
}

static dim3 grid_of(const struct cuda_backend *b, int tokens)
{
	return dim3((unsigned)tokens, (unsigned)((b->layout.hidden_stride / 4 + THREADS - 1) / THREADS));
}

static int push(struct cuda_backend *b, const float *partial, int tokens, struct error *err)
{
	return for_dtype(b->options.shape.dtype, [&](auto w) {
		typedef decltype(w) W;
		return kernel_launch(b, err, "push_kernel", push_kernel<W>, grid_of(b, tokens), THREADS, 0,
				     b->residual.sum, partial, b->layout.hidden_stride,
				     b->options.shape.hidden);
	});
}

static int settle(struct cuda_backend *b, int tokens, struct error *err)
{
	struct residual_state *r = &b->residual;
	r->pending = false;
	return for_dtype(b->options.shape.dtype, [&](auto w) {
		typedef decltype(w) W;
		return kernel_launch(b, err, "settle_kernel", settle_kernel<W>, grid_of(b, tokens), THREADS, 0,
				     r->sum, r->at, r->add, r->bias, b->layout.hidden_stride,
				     b->options.shape.hidden);
	});
}

bool peers_serve(const struct cuda_backend *b, int32_t tokens)
{
	return b->peers && tokens <= SMALL_TOKENS;
}

static uint32_t patience_of(int seconds)
{
	return (uint32_t)((1000000000ull * (unsigned)seconds) >> 20);
}

uint32_t peers_patience(const struct cuda_backend *b)
{
	return b->options.patience_s ? patience_of(b->options.patience_s) : UINT32_MAX;
}

/* Bytes of a rank's mailboxes; its flags come behind. */
static size_t mailbox_bytes(const struct cuda_backend *b)
{
	size_t row = (size_t)b->layout.hidden_stride * (b->options.shape.dtype == DTYPE_F32 ? 4 : 2);
	return PEER_TURNS * (size_t)b->options.group->size * SMALL_TOKENS * row;
}

uint32_t *peers_flags(const struct cuda_backend *b, int rank)
{
	void *mailbox = rank == b->options.group->rank ? b->mailbox : b->opened[rank];
	return (uint32_t *)((unsigned char *)mailbox + mailbox_bytes(b));
}

int peers_begin_sum(struct cuda_backend *b, bool add, const float *bias, struct error *err)
{
	struct residual_state *r = &b->residual;

	if (peers_settle(b, err))
		return -1;
	r->sum.first = b->step.turn;
	r->sum.index = r->sums % PEER_TURNS;
	r->sum.before = r->sums++ ? b->step.tokens : SMALL_TOKENS; /* first in a step: of some other step's */
	r->sum.rank = b->options.group->rank;
	r->sum.ranks = b->options.group->size;
	r->sum.tokens = SMALL_TOKENS;
	r->sum.row = b->layout.hidden_stride / 4 * (b->options.shape.dtype == DTYPE_F32 ? 2 : 1);
	r->sum.late = b->late;
	r->sum.time = b->sum_time ? at<uint64_t>(b, b->layout.sum_time) : NULL;
	r->sum.patience = peers_patience(b);
	for (int i = 0; i < r->sum.ranks; i++)
		r->sum.mailbox[i] = i == r->sum.rank ? b->mailbox : (uint64_t *)b->opened[i];
	r->pending = true;
	r->met = false;
	r->add = add;
	r->bias = bias;
	return 0;
}

int peers_push(struct cuda_backend *b, const float *partial, struct error *err)
{
	return push(b, partial, b->step.tokens, err);
}

int peers_settle(struct cuda_backend *b, struct error *err)
{
	return b->residual.pending ? settle(b, b->step.tokens, err) : 0;
}

int peers_settle_norm(struct cuda_backend *b, const float *norm, struct error *err)
{
	struct residual_state *r = &b->residual;
	r->pending = false;
	return for_dtype(b->options.shape.dtype, [&](auto w) {
		typedef decltype(w) W;
		return kernel_launch(b, err, "settle_norm_kernel", settle_norm_kernel<W>,
				     dim3((unsigned)b->step.tokens), NORM_THREADS, 0, r->sum, r->at, r->add,
				     r->bias, norm, at<W>(b, b->layout.normed), b->layout.hidden_stride,
				     b->options.shape.hidden, (float)b->options.shape.norm_epsilon);
	});
}

int peers_check(struct cuda_backend *b, struct error *err)
{
	int32_t late = b->peers ? *(volatile int32_t *)b->late : 0;
	if (!late)
		return 0;
	if (late == PEERS_ABORTED)
		return error_run(err, "rank %d, %s: the sums over the ranks were given up", b->options.group->rank,
				 b->label);
	return error_run(err, "rank %d, %s: rank %d has delivered no part of a sum over the ranks for %d seconds: "
			 "it has stopped, or is stuck", b->options.group->rank, b->label, (int)late - 1,
			 b->options.patience_s);
}

/* ---- opening -------------------------------------------------------------------------------- */

/* What a rank tells the others. */
struct peer_offer {
	cudaIpcMemHandle_t mailbox, workspace;
	struct rows_place rows; /* but its address */
	char boot_id[BOOT_ID]; /* of the kernel it runs under: the same on one node */
	char address[32];      /* of its GPU */
	char why[REASON];      /* what went wrong; empty where nothing has */
};

static bool fine(char *why, const char *what, cudaError_t status)
{
	if (status == cudaSuccess)
		return true;
	cudaGetLastError();
	snprintf(why, REASON, "%s: %s", what, cudaGetErrorString(status));
	return false;
}

static void make_offer(struct cuda_backend *b, struct peer_offer *own)
{
	const struct group *g = b->options.group;
	const size_t flags = 2 * PEER_RANKS * sizeof(uint32_t), page = 2 << 20;
	size_t bytes = mailbox_bytes(b) + flags;
	FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");

	memset(own, 0, sizeof *own);
	if (!file || !fgets(own->boot_id, sizeof own->boot_id, file))
		snprintf(own->why, sizeof own->why, "no boot id to tell nodes apart");
	if (file)
		fclose(file);
	bytes = (bytes + page - 1) / page * page; /* an allocation of its own, which IPC shares whole */
	if (own->why[0] ||
	    !fine(own->why, "cudaDeviceGetPCIBusId",
		  cudaDeviceGetPCIBusId(own->address, sizeof own->address, b->options.device)) ||
	    !fine(own->why, "cudaMallocHost", cudaMallocHost((void **)&b->late, sizeof *b->late)) ||
	    !fine(own->why, "cudaMalloc", cudaMalloc((void **)&b->mailbox, bytes)) ||
	    !fine(own->why, "cudaMemsetAsync",
		  cudaMemsetAsync(b->mailbox, PEER_EMPTY & 0xff, mailbox_bytes(b), b->stream)) ||
	    !fine(own->why, "cudaMemsetAsync",
		  cudaMemsetAsync((unsigned char *)b->mailbox + mailbox_bytes(b), 0, flags, b->stream)) ||
	    !fine(own->why, "cudaStreamSynchronize", cudaStreamSynchronize(b->stream)) ||
	    (g->size > 1 &&
	     (!fine(own->why, "cudaIpcGetMemHandle", cudaIpcGetMemHandle(&own->mailbox, b->mailbox)) ||
	      !fine(own->why, "cudaIpcGetMemHandle", cudaIpcGetMemHandle(&own->workspace, b->workspace)))))
		return;
	own->rows = {NULL, b->layout.partial, b->layout.normed, b->layout.residual};
	*b->late = 0;
}

/* Opens a rank's mailbox and workspace, or says in `why` what hinders. */
static void map_rank(struct cuda_backend *b, int rank, const struct peer_offer *offer, char *why)
{
	void **mailbox = &b->opened[rank], **workspace = (void **)&b->rows_at[rank].workspace;
	b->rows_at[rank] = offer->rows;
	if (!fine(why, "cudaIpcOpenMemHandle",
		  cudaIpcOpenMemHandle(mailbox, offer->mailbox, cudaIpcMemLazyEnablePeerAccess)))
		*mailbox = NULL;
	else if (!fine(why, "cudaIpcOpenMemHandle",
		       cudaIpcOpenMemHandle(workspace, offer->workspace, cudaIpcMemLazyEnablePeerAccess)))
		*workspace = NULL;
}

/* Opens the others' memory, or says in own->why what hinders. */
static void open_mailboxes(struct cuda_backend *b, const struct peer_offer *offers, char *why)
{
	const struct group *g = b->options.group;
	int visible = 0;
	cudaGetDeviceCount(&visible);
	b->rows_at[g->rank] = offers[g->rank].rows;
	b->rows_at[g->rank].workspace = b->workspace;
	for (int i = 0; i < g->size && !why[0]; i++) {
		int device = -1, allowed = 1;
		if (i == g->rank)
			continue;
		if (strcmp(offers[i].boot_id, offers[g->rank].boot_id)) {
			snprintf(why, REASON, "rank %d runs on another node", i);
			return;
		}
		/* A GPU that this process may not see can be shared all the same. */
		if (cudaDeviceGetByPCIBusId(&device, offers[i].address) != cudaSuccess)
			cudaGetLastError();
		else if (device != b->options.device /* which calls itself no peer */ &&
			 !fine(why, "cudaDeviceCanAccessPeer",
			       cudaDeviceCanAccessPeer(&allowed, b->options.device, device)))
			return;
		if (!allowed)
			snprintf(why, REASON, "its GPU cannot reach that of rank %d", i);
		else
			map_rank(b, i, &offers[i], why);
		/* So it is where Slurm gives each task a GPU of its own and hides the others. */
		if (why[0] && visible == 1) {
			size_t length = strlen(why);
			snprintf(why + length, REASON - length, "; this rank sees one GPU alone: srun --gpu-bind=none "
								"shows it all");
		}
	}
}

/* Sums known values, in each of the mailboxes twice. */
static int try_sums(struct cuda_backend *b, float *row, char *why, struct error *err)
{
	const struct group *g = b->options.group;
	int hidden = b->options.shape.hidden;
	const uint32_t first = 0, sums = 2 * PEER_TURNS;
	float *partial = at<float>(b, b->layout.part);
	size_t bytes = (size_t)hidden * sizeof *row;

	b->step.tokens = 1;
	b->step.turn = at<uint32_t>(b, b->layout.step);
	b->residual.at = at<float>(b, b->layout.residual);
	b->turn = (first + sums) % PEER_TURNS;
	if (!cuda_ok(b, err, cudaMemcpyAsync(at<uint32_t>(b, b->layout.step), &first, sizeof first,
					     cudaMemcpyHostToDevice, b->stream), "cudaMemcpyAsync"))
		return -1;
	for (int n = 0; n < (int)sums; n++) {
		known_parts(row, (size_t)hidden, g->rank, g->size, n);
		if (!cuda_ok(b, err, cudaMemcpyAsync(partial, row, bytes, cudaMemcpyHostToDevice, b->stream),
			     "cudaMemcpyAsync") ||
		    peers_begin_sum(b, false, NULL, err))
			return -1;
		b->residual.sum.patience = patience_of(TRIAL_S);
		b->plain_next = true;
		if (push(b, partial, 1, err) || settle(b, 1, err) ||
		    !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "trying the peers' memory") ||
		    !cuda_ok(b, err, cudaMemcpy(row, b->residual.at, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy"))
			return -1;
		struct error wrong;
		if (why[0])
			continue;
		if (*b->late)
			snprintf(why, REASON, "what rank %d stores does not arrive", (int)*b->late - 1);
		else if (known_sums_check(row, (size_t)hidden, g->size, n, &wrong))
			snprintf(why, REASON, "%.*s", REASON - 1, wrong.message);
	}
	b->residual.sums = 0;
	return 0;
}

/* Sums known values of some tokens, of which each rank has a share. */
static int try_rows(struct cuda_backend *b, char *why, struct error *err)
{
	const struct group *g = b->options.group;
	const struct cuda_layout *l = &b->layout;
	const enum dtype dtype = b->options.shape.dtype;
	int tokens = 2 * g->size + 1;
	tokens = tokens < b->options.max_tokens ? tokens : b->options.max_tokens;
	size_t count = (size_t)tokens * (size_t)l->hidden_stride, bytes = count * dtype_bytes(dtype);
	float *values = (float *)malloc(count * sizeof *values);
	void *stored = malloc(count * sizeof *values);
	int result = values && stored ? 0 : error_memory(err, "a first sum over the ranks");

	b->step.tokens = tokens;
	for (int n = 0; n < 2 && !result; n++) {
		known_parts(values, count, g->rank, g->size, n);
		dtype_convert(values, DTYPE_F32, stored, dtype, count);
		b->plain_next = true;
		if (!cuda_ok(b, err, cudaMemcpyAsync(at<void>(b, l->partial), stored, bytes, cudaMemcpyHostToDevice,
						     b->stream), "cudaMemcpyAsync") ||
		    rows_sum(b, false, NULL, NULL, err) ||
		    !cuda_ok(b, err, cudaMemcpyAsync(values, b->residual.at, count * sizeof *values,
						     cudaMemcpyDeviceToHost, b->stream), "cudaMemcpyAsync") ||
		    !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "trying the peers' memory"))
			result = -1;
		struct error wrong;
		if (!result && !why[0] && *b->late)
			snprintf(why, REASON, "what rank %d stores does not arrive", (int)*b->late - 1);
		else if (!result && !why[0] && known_sums_check(values, count, g->size, n, &wrong))
			snprintf(why, REASON, "%.*s", REASON - 1, wrong.message);
	}
	free(values);
	free(stored);
	/* As it was: padding is zero. */
	if (result ||
	    !cuda_ok(b, err, cudaMemsetAsync(at<void>(b, l->partial), 0, bytes, b->stream), "cudaMemsetAsync") ||
	    !cuda_ok(b, err, cudaMemsetAsync(b->residual.at, 0, count * 4, b->stream), "cudaMemsetAsync"))
		return -1;
	return 0;
}

/* All ranks' offers, on every rank; why: the first that tells of a failure. */
static int share_offers(const struct group *g, const struct peer_offer *own, struct peer_offer *offers,
			char *why, size_t room, struct error *err)
{
	if (g->gather(g, own, sizeof *own, g->rank ? NULL : offers, err) ||
	    g->broadcast(g, offers, (size_t)g->size * sizeof *offers, 0, err))
		return -1;
	for (int i = 0; i < g->size && !why[0]; i++)
		if (offers[i].why[0])
			snprintf(why, room, "rank %d: %.*s", i, REASON - 1, offers[i].why);
	return 0;
}

int peers_open(struct cuda_backend *b, char *why, size_t room, struct error *err)
{
	const struct group *g = b->options.group;
	struct peer_offer own, offers[PEER_RANKS];
	struct error trouble = {};

	why[0] = 0;
	if (g->size > PEER_RANKS) {
		snprintf(why, room, "more than %d ranks", PEER_RANKS);
		return 0;
	}
	make_offer(b, &own);
	if (share_offers(g, &own, offers, why, room, err))
		return -1;
	if (!why[0]) {
		open_mailboxes(b, offers, own.why);
		if (share_offers(g, &own, offers, why, room, err))
			return -1;
	}
	if (!why[0]) {
		float *row = NULL;
		if (!cuda_ok(b, &trouble, cudaMallocHost((void **)&row, (size_t)b->options.shape.hidden * sizeof *row),
			     "cudaMallocHost") || try_sums(b, row, own.why, &trouble) ||
		    try_rows(b, own.why, &trouble))
			snprintf(own.why, sizeof own.why, "%.*s", REASON - 1, trouble.message);
		cudaFreeHost(row);
		if (share_offers(g, &own, offers, why, room, err))
			return -1;
	}
	b->peers = !why[0];
	b->rows = b->peers && rows_fit(b);
	if (!b->peers)
		peers_close(b);
	return 0;
}

void peers_close(struct cuda_backend *b)
{
	for (int i = 0; i < PEER_RANKS; i++) {
		if (b->opened[i])
			cudaIpcCloseMemHandle(b->opened[i]);
		if (b->rows_at[i].workspace && b->rows_at[i].workspace != b->workspace)
			cudaIpcCloseMemHandle(b->rows_at[i].workspace);
	}
	memset(b->opened, 0, sizeof b->opened);
	memset(b->rows_at, 0, sizeof b->rows_at);
	cudaFree(b->mailbox);
	cudaFreeHost(b->late);
	b->mailbox = NULL;
	b->late = NULL;
	b->peers = b->rows = false;
	cudaGetLastError();
}
