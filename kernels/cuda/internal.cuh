/*
 * internal.cuh - the CUDA backend's own struct, and what its files call of one another.
 */
#ifndef TPRUN_CUDA_INTERNAL_CUH
#define TPRUN_CUDA_INTERNAL_CUH

#include <cuda_runtime.h>
#include <pthread.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/libraries.cuh"
#include "kernels/cuda/numbers.cuh"

enum reduce_path { REDUCE_NONE, REDUCE_PEERS, REDUCE_NCCL, REDUCE_HOST };

/* Threads of residual_kernel. Whoever takes the norm of many tokens adds squares in their order, for the same bits. */
enum { RESIDUAL_THREADS = 256 };

/* Sums through peers' memory: the most ranks it can serve, and the most it was measured on, beyond
 * which it must be asked for (TPRUN_REDUCE=peer). */
enum { GRAPHS = 32, PEER_RANKS = 8, PEER_RANKS_MEASURED = 4, PEER_TURNS = 3 };

/* In `late`: no rank is to wait for any other. */
enum { PEERS_ABORTED = INT32_MAX };

/* A sum over the ranks through their own memory, as kernels see it: see peers.cuh. */
struct peer_sum {
	uint64_t *mailbox[PEER_RANKS]; /* of every rank: [PEER_TURNS][ranks][tokens][row], in words */
	const uint32_t *first;	    /* the turn of the step's first sum */
	uint32_t index;		    /* how many turns later this one has it: less than PEER_TURNS */
	int32_t before;		    /* tokens of the sum before, at most */
	int32_t rank, ranks, tokens, row;
	int32_t *late;		    /* the host's: 1 + a rank that did not deliver */
	uint32_t patience;	    /* for one sum, in units of 2^20 ns */
	uint64_t *time;		    /* ns that receiving took are added here; NULL: nobody asks */
};

/* Where the residual of a step stands on the host's side of things. */
struct residual_state {
	float *at;		/* [tokens][hidden_stride], without what is pending */
	uint32_t sums;		/* begun in this step through the peers' memory */
	bool shared;		/* each rank has only its share of the tokens' up to date: see peers_rows.cu */
	/* The last of them is not part of the residual yet: */
	bool pending;
	bool met;		/* but some kernel has waited for it, */
	bool add;		/* it adds to the residual, or else makes it, */
	const float *bias;	/* and this comes on top, or NULL */
	struct peer_sum sum;
};

/* Where a rank's part of a sum of many tokens, norm and residual lie: offsets in its workspace, as mapped here. */
struct rows_place {
	unsigned char *workspace;
	uint64_t part, normed, residual;
};

/* What a recorded graph depends on besides fixed addresses. */
struct graph_key {
	int32_t tokens, logit_rows, table_stride, splits;
	bool growth;
};

struct graph_entry {
	struct graph_key key;
	cudaGraphExec_t graph;	/* NULL: the form was seen, but not recorded yet */
	uint64_t last_use;	/* 0: an empty entry */
	struct residual_state residual; /* after the step */
};

/* Some tokens of one sequence that one block of the prefill attention serves. */
struct attend_tile {
	int32_t first, count, sequence;
};

/* A single token of attend.cu. Positions below `ready` were in the cache before the step. */
struct alignas(16) attend_single {
	int32_t token, sequence, position, ready;
};

/* A part [begin, end) of the context of a single token, for one warp of attend_stream.cu. Where the
 * context is cut, its `slots` pieces leave their results in slots from first_slot on. */
struct attend_piece {
	int32_t token, begin, end;
	int32_t slot, first_slot, slots; /* slots: 0 where the piece is all there is */
};

/* Rows of an activation: float where `wide`, otherwise of the shape's dtype. */
struct cuda_rows {
	void *data;
	bool wide;
};

/* The step under way; pointers into device memory, where begin copied them. */
struct cuda_step {
	int32_t tokens, sequences, logit_rows;
	int32_t table_stride;	    /* row length of table */
	int32_t splits;		    /* parts into which attention over a context is split, */
	int32_t cluster;	    /* all of them a cluster, or 1: see attend.cu */
	int32_t single_count;	    /* tokens that attend one by one in attend.cu, */
	int32_t piece_count;	    /* those of attend_stream.cu in so many pieces, */
	int32_t tile_count;	    /* and the others in so many tiles */
	const int32_t *ids, *positions;
	const int32_t *sequence_of; /* [tokens] */
	const int32_t *slots;	    /* [tokens]: block * KV_BLOCK + slot of the token's own key */
	const int32_t *logit_tokens;
	const struct attend_single *single; /* [single_count] */
	const struct attend_piece *pieces; /* [piece_count] */
	const struct attend_tile *tiles; /* [tile_count] */
	const float *growth;	    /* [sequences], or NULL */
	const uint32_t *turn;	    /* of the step's first sum, see peers.cuh */
	bool through_peers;	    /* the step's sums go through the peers' memory */
	const int32_t *table;	    /* [sequences][table_stride] */
	struct cuda_rows attention, activation;
};

/* Two pinned buffers of LOAD_PART_BYTES, in turn, of one thread that loads. */
struct load_lane {
	unsigned char *data;
	cudaEvent_t copied[2];
	int next;
};

/* Something that a thread of its own opens while the weights are loaded. */
struct cuda_opener {
	struct cuda_backend *b;
	int (*open)(struct cuda_backend *, struct error *err);
	pthread_t thread;
	bool running;
	int result;
	struct error err;
};

/* A matrix as packed.cu packs it. */
struct packed_matrix {
	const uint4 *tiles;	/* [count][tile_pieces], or NULL where it is not packed */
	int32_t count, units;	/* tiles, and units of each */
	int32_t strays;		/* places for them in each row */
	int32_t tile_pieces;
};

enum { PACKED_LAYER = 4 }; /* such matrices of a layer */

struct reduce_plan;

struct cuda_backend {
	struct backend base;
	struct backend_options options;
	struct cuda_layout layout;
	int multiprocessors;
	int shared_block;	/* bytes of shared memory that a block may take */
	unsigned char uuid[16];	/* the GPU's own, to tell whether ranks share one */
	bool programmatic;	/* kernels may overlap the one before: see wait_for_previous */
	size_t parts_bytes;	/* of weights for a multiprocessor that gemv_parts.cu serves */
	bool plain_next;	/* the next kernel follows something that is no kernel of ours */
	char label[96];		/* "GPU 0 (NVIDIA H200, 0000:65:00.0)", for errors */

	cudaStream_t stream;
	struct cublas_calls blas;
	cublasHandle_t cublas;
	struct driver_calls driver;
	double gemm_share;	/* the least that gemm.cu serves; more than 1 for never */
	unsigned char *weights, *cache, *workspace;
	unsigned char *packed_bytes;	/* the weights' second form, for few tokens, or NULL: see packed.cuh */
	struct packed_matrix *packed;	/* [PACKED_LAYER * layers + 1], or NULL */
	struct head_group *groups;   /* on the device, [kv_heads] */
	float *frequencies;	     /* on the device, [head_dim/2] */
	int32_t group_max;	     /* query heads of the largest group */
	/* Which biases were loaded; adding zeros would only cost time. */
	bool has_qkv_bias, has_output_bias, has_gate_up_bias, has_down_bias;

	/* Loading, and what is opened beside it. */
	struct load_lane lanes[LOAD_THREADS];
	cudaStream_t load_stream;
	bool loaded;
	struct cuda_opener libraries, connection;
	struct reduce_plan *plan;

	/* The step. */
	struct cuda_step step;
	struct residual_state residual;
	const float *normed;	     /* the norm that was taken of all tokens' residual already */
	unsigned char *step_host;    /* pinned, layout.step_bytes */
	bool step_unread;	     /* it may be: no step has been waited for since */
	unsigned char *request_host; /* pinned, layout.request_bytes */
	cudaEvent_t requests_read;
	struct logit_result *result_host; /* pinned, [max_logit_rows] */
	uint32_t *results_ready;	  /* pinned, the same: results_number once that row's is there */
	uint32_t results_number;	  /* of the step under way */

	/* Graphs. */
	bool graphs_allowed, capturing;
	int blocks_called;	     /* of this step, to tell a whole one from a part */
	struct graph_entry graphs[GRAPHS];
	struct graph_entry *recording;
	uint64_t graph_clock;

	/* Collectives. */
	enum reduce_path reduce;
	char reduce_name[256];	     /* see cuda_backend_reduce_name */
	float *reduce_host;	     /* pinned, [max_tokens][hidden_stride], REDUCE_HOST only */
	void *window_buffer;	     /* for few tokens, REDUCE_NCCL only */
	bool peers;		     /* few tokens go through mailboxes: with REDUCE_PEERS, maybe with REDUCE_NCCL */
	uint64_t *mailbox;	     /* this rank's */
	void *opened[PEER_RANKS];    /* the others', as opened here */
	int32_t *late;		     /* pinned, see struct peer_sum; PEERS_ABORTED: nobody is to wait */
	bool rows;		     /* many tokens go through all ranks' workspaces, with peers only */
	struct rows_place rows_at[PEER_RANKS];
	uint32_t rows_number;	     /* of the last sum that went this way */
	uint32_t turn;		     /* of the step's first sum, see peers.cuh */
	uint64_t *sum_time;	     /* pinned, [1]: what the device's clock told last; NULL without time_sums */
#ifdef TPRUN_NCCL
	struct nccl_calls nccl;
	ncclComm_t comm;
#if HAVE_WINDOWS
	ncclWindow_t window;
#endif
#endif
};

static inline struct cuda_backend *cuda_of(struct backend *base)
{
	return (struct cuda_backend *)base;
}

template <typename T> static inline T *at(const struct cuda_backend *b, uint64_t offset)
{
	return (T *)(b->workspace + offset);
}

static inline int divide_up(int a, int b)
{
	return (a + b - 1) / b;
}

/* A tensor of a layer, by its offset within the layer. */
template <typename T>
static inline T *layer_at(const struct cuda_backend *b, int32_t layer, uint64_t offset)
{
	return (T *)(b->weights + b->layout.first_layer + b->layout.layer_bytes * (uint64_t)layer +
		     offset);
}

static inline unsigned char *cache_keys(const struct cuda_backend *b, int32_t layer)
{
	return b->cache + b->layout.cache_part * 2 * (uint64_t)layer;
}

static inline unsigned char *cache_values(const struct cuda_backend *b, int32_t layer)
{
	return cache_keys(b, layer) + b->layout.cache_part;
}

/* True where the call succeeded; otherwise err says what failed, where and why. */
bool cuda_ok(const struct cuda_backend *, struct error *err, cudaError_t status, const char *what);
bool cublas_ok(const struct cuda_backend *, struct error *err, cublasStatus_t status,
	       const char *what);

/* Launches a kernel on the backend's stream, in clusters of so many blocks where that is more than
 * one. Returns 0 or -1. */
template <typename... P, typename... A>
static int cluster_launch(struct cuda_backend *b, struct error *err, const char *name, void (*kernel)(P...),
			  dim3 cluster, dim3 grid, dim3 threads, size_t shared, A... arguments)
{
	cudaLaunchConfig_t config = {};
	cudaLaunchAttribute attributes[2] = {};

	config.gridDim = grid;
	config.blockDim = threads;
	config.dynamicSmemBytes = shared;
	config.stream = b->stream;
	config.attrs = attributes;
	if (b->programmatic && !b->plain_next) {
		cudaLaunchAttribute *overlap = &attributes[config.numAttrs++];
		overlap->id = cudaLaunchAttributeProgrammaticStreamSerialization;
		overlap->val.programmaticStreamSerializationAllowed = 1;
	}
	if (cluster.x * cluster.y * cluster.z > 1) {
		cudaLaunchAttribute *size = &attributes[config.numAttrs++];
		size->id = cudaLaunchAttributeClusterDimension;
		size->val.clusterDim.x = cluster.x;
		size->val.clusterDim.y = cluster.y;
		size->val.clusterDim.z = cluster.z;
	}
	b->plain_next = false;
	return cuda_ok(b, err, cudaLaunchKernelEx(&config, kernel, P(arguments)...), name) ? 0 : -1;
}

template <typename... P, typename... A>
static int kernel_launch(struct cuda_backend *b, struct error *err, const char *name,
			 void (*kernel)(P...), dim3 grid, dim3 threads, size_t shared, A... arguments)
{
	return cluster_launch(b, err, name, kernel, dim3(1), grid, threads, shared, arguments...);
}

/* Lets a kernel take so many bytes of shared memory, of all that a multiprocessor can have: between kernels that
 * want L1 and shared memory divided in different ways it would have to come to rest. Returns 0 or -1. */
template <typename K>
static int shared_prepare(const struct cuda_backend *b, K kernel, int bytes, struct error *err)
{
	return cuda_ok(b, err, cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
						    cudaSharedmemCarveoutMaxShared), "cudaFuncSetAttribute") &&
	       cuda_ok(b, err, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
		       "cudaFuncSetAttribute") ? 0 : -1;
}

/* Calls f with a value of the shape's element type: f(float()), f(__half()) or f(__nv_bfloat16()). */
template <typename F> static inline int for_dtype(enum dtype dtype, F f)
{
	switch (dtype) {
	case DTYPE_F32: return f(float());
	case DTYPE_F16: return f(__half());
	default: return f(__nv_bfloat16());
	}
}

/* ---- gemv.cu: y = W x for at most GEMV_TOKENS rows of x ------------------------------------- */
enum gemv_output {
	OUTPUT_ADD,	/* float target[t][row] += y + bias */
	OUTPUT_DTYPE,	/* W target[t][row] = y */
	OUTPUT_FLOAT,	/* float target[t][row] = y */
	OUTPUT_PEERS,	/* y to all ranks' mailboxes */
	OUTPUT_GATE_UP, /* target[t][i] = silu(gate + bias) * (up + bias), float or W */
	OUTPUT_ROPE,	/* qkv with bias and rope, into query and cache */
};

struct gemv {
	const void *weights;	/* [rows][columns] */
	int32_t rows, columns;	/* columns: the row length, a multiple of 64 */
	int32_t tokens;
	/* Input: the RMSNorm of float rows where norm is given; otherwise rows of float where
	 * gemv_wide, else of W. */
	const void *input;
	const float *norm;	/* [columns] or NULL */
	const int32_t *gather;	/* [tokens]: rows of input, or NULL */
	float epsilon;
	int32_t hidden;		/* what the mean of squares divides by */
	/* With receive (and norm), the input is first brought up to date: sum and sum_bias make it or,
	 * with add, are added. All of it, changed, also goes to `keep`, where that is not NULL. */
	bool receive, add;
	const float *sum_bias;	/* [hidden] or NULL */
	float *keep;
	struct peer_sum sum;	/* to be received, or of OUTPUT_PEERS */
	/* Output. */
	enum gemv_output output;
	void *target;
	bool target_wide;	/* OUTPUT_GATE_UP: float */
	int32_t target_stride;
	const float *bias;	/* [rows] or NULL */
	bool publish;		/* an all-reduce follows: see allow_next_unless */
	/* OUTPUT_ROPE */
	int32_t head_dim, head_stride, query_heads, kv_heads;
	const float2 *rope;	/* [tokens][head_dim/2] */
	const int32_t *slots;
	void *keys, *values;
};

/* Whether OUTPUT_ROPE is what the query, key and value product takes: a norm of whole heads has to wait for all of them. */
static inline bool gemv_takes_rope(const struct backend_shape *s)
{
	return !s->query_key_norm && s->head_dim % 4 == 0;
}

/* Once, at open: lets the kernels take the shared memory they may need. */
int gemv_prepare(struct cuda_backend *, struct error *err);
/* Whether the kernels take inputs of this size. */
bool gemv_fits(const struct cuda_backend *, int32_t tokens, int32_t columns);
/* Whether they take a norm along as well. */
bool gemv_norms(const struct cuda_backend *, int32_t tokens, int32_t columns);
/* Whether they keep such an input as float32 up to the product, which 16-bit models gain from;
 * inputs too large for that are kept as W. */
bool gemv_wide(const struct cuda_backend *, int32_t tokens, int32_t columns);
int gemv_launch(struct cuda_backend *, const struct gemv *, struct error *err);

/* ---- gemv_parts.cu: the same for one or two rows and matrices of few bytes, input as for gemv_wide ---- */
int gemv_parts_prepare(struct cuda_backend *, struct error *err);
bool gemv_parts_serve(const struct cuda_backend *, const struct gemv *);
int gemv_parts_launch(struct cuda_backend *, const struct gemv *, struct error *err);

/* ---- packed.cu ------------------------------------------------------------------------------- */
/* Packs the weights, once they are loaded, where there is memory for it. */
int packed_build(struct cuda_backend *, struct error *err);
void packed_close(struct cuda_backend *);
/* How a matrix is packed, or NULL where it is not. */
const struct packed_matrix *packed_find(const struct cuda_backend *, const void *weights);
/* For weight_share. */
double packed_share(struct backend *, int32_t tokens);

/* ---- gemv_packed.cu: the same for weights that are packed, input as the others have it ---------- */
int gemv_packed_prepare(struct cuda_backend *, struct error *err);
bool gemv_packed_serve(const struct cuda_backend *, const struct gemv *);
int gemv_packed_launch(struct cuda_backend *, const struct gemv *, struct error *err);

/* ---- gemv_tensor.cu: the same on tensor cores, for what gemv.cu leaves to it: rows of W --------- */
int gemv_tensor_prepare(struct cuda_backend *, struct error *err);
bool gemv_tensor_fits(const struct cuda_backend *, int32_t tokens, int32_t columns);
int gemv_tensor_launch(struct cuda_backend *, const struct gemv *, struct error *err);

/* ---- gemm.cu: the same for many rows of W, on Hopper: OUTPUT_GATE_UP and _ROPE, without a norm ---- */
int gemm_prepare(struct cuda_backend *, struct error *err);
/* Whether its kernels take such a product, and keep most of the multiprocessors busy with it. */
bool gemm_serve(const struct cuda_backend *, const struct gemv *);
int gemm_launch(struct cuda_backend *, const struct gemv *, struct error *err);

/* ---- peers.cu: sums of few tokens through the ranks' own memory ------------------------------ */
/* Opens the mailboxes of all ranks and tries them out. Where any rank fails, none uses them, and
 * `why` says why; that is no error. Collective. */
int peers_open(struct cuda_backend *, char *why, size_t room, struct error *err);
void peers_close(struct cuda_backend *);
/* Whether the sums of a step of so many tokens go this way. */
bool peers_serve(const struct cuda_backend *, int32_t tokens);
/* Fails where a rank's part of a sum has not come in time. */
int peers_check(struct cuda_backend *, struct error *err);
/* Begins the step's next sum, which the kernel launched next must push. The residual owes it from
 * here on: a gemv may receive it, or peers_settle. */
int peers_begin_sum(struct cuda_backend *, bool add, const float *bias, struct error *err);
/* Pushes float rows [tokens][hidden_stride], or zeros where NULL, as this rank's part. */
int peers_push(struct cuda_backend *, const float *partial, struct error *err);
/* Adds what the residual owes, if anything. */
int peers_settle(struct cuda_backend *, struct error *err);
/* The same where it owes something, and normed = RMSNorm(residual). */
int peers_settle_norm(struct cuda_backend *, const float *norm, struct error *err);

/* A rank's flags for peers_rows.cu, and how long a kernel waits for other ranks, in units of 2^20 ns. */
uint32_t *peers_flags(const struct cuda_backend *, int rank);
uint32_t peers_patience(const struct cuda_backend *);

/* ---- peers_rows.cu: sums of many tokens through the ranks' own memory ------------------------- */
/* Whether rows have a length that this takes, and whether the sums of a step of so many tokens go this way. */
bool rows_fit(const struct cuda_backend *);
bool rows_serve(const struct cuda_backend *, int32_t tokens);
/* residual = or += the sum of all ranks' layout.partial, in the shape's dtype, and bias; normed = its RMSNorm, or
 * with norm NULL, the whole residual on every rank. Collective. */
int rows_sum(struct cuda_backend *, bool add, const float *bias, const float *norm, struct error *err);
/* The whole residual on every rank, where each has a share of it. Collective. */
int rows_gather(struct cuda_backend *, struct error *err);

/* ---- attend.cu, attend_stream.cu, attend_tile.cu -------------------------------------------- */
/* Each serves its part of the step's tokens, and launches nothing where it has none. */
int attend_prepare(struct cuda_backend *, struct error *err);
int attend_launch(struct cuda_backend *, int32_t layer, struct error *err);
/* Whether single tokens can go through attend_stream.cu, and its warps for one piece and KV head. */
bool attend_stream_fits(const struct cuda_backend *);
int attend_stream_tiles(const struct cuda_backend *);
int attend_stream_prepare(struct cuda_backend *, struct error *err);
int attend_stream_launch(struct cuda_backend *, int32_t layer, struct error *err);
/* Whether sequences that bring several tokens go through the tiles of attend_tile.cu. */
bool attend_tile_fits(const struct cuda_backend *);
int attend_tile_prepare(struct cuda_backend *, struct error *err);
int attend_tile_launch(struct cuda_backend *, int32_t layer, struct error *err);

/* ---- elementwise.cu ------------------------------------------------------------------------- */
/* `publish`: an all-reduce of the target follows, see allow_next_unless. */
int embed_launch(struct cuda_backend *, void *target, bool wire_float, bool publish, struct error *err);
int rope_table_launch(struct cuda_backend *, struct error *err);
/* normed[i] = RMSNorm(residual[gather ? gather[i] : i]) */
int norm_launch(struct cuda_backend *, int32_t rows, const int32_t *gather, const float *weight,
		struct error *err);
/* Bias, q/k norm and rope of scratch, float or the shape's dtype, into query and cache. */
int rope_launch(struct cuda_backend *, int32_t layer, bool is_float, struct error *err);
int silu_launch(struct cuda_backend *, int32_t layer, struct error *err);
/* residual = or += partial + bias; the partial is float or the shape's dtype; NULL is zero. With
 * norm, also normed = RMSNorm(residual), for a block that comes soon: see b->normed. */
int residual_launch(struct cuda_backend *, const void *partial, bool partial_float, bool add,
		    const float *bias, const float *norm, struct error *err);
/* Zeros for an all-reduce that follows. */
int zero_launch(struct cuda_backend *, void *target, size_t bytes, struct error *err);

/* ---- candidates.cu -------------------------------------------------------------------------- */
int candidates_run(struct backend *, const struct logit_request *, struct logit_result *,
		   struct error *err);

/* ---- probe.cu ------------------------------------------------------------------------------- */
int probe_run(struct backend *, enum backend_probe, size_t bytes, double *seconds, struct error *err);

/* ---- step.cu -------------------------------------------------------------------------------- */
int step_begin(struct backend *, const struct step *, struct error *err);
int step_end(struct backend *, struct error *err);
/* Leaves a recording that a test interrupts: what was recorded runs, the rest runs unrecorded. */
int step_flush(struct cuda_backend *, struct error *err);
void step_close(struct cuda_backend *);

/* ---- weights.cu ----------------------------------------------------------------------------- */
int weights_lend(struct backend *, struct tensor_part *, struct error *err);
int weights_load(struct backend *, const struct tensor_part *, struct error *err);
int weights_load_random(struct backend *, uint64_t seed, struct error *err);
/* Waits for what is on its way, and gives the pinned memory back. */
int weights_end(struct cuda_backend *, struct error *err);
void weights_close(struct cuda_backend *);

/* ---- reduce.cu ------------------------------------------------------------------------------ */
/* Decides the path, the same on every rank, and opens and tries the ranks' memory where that may serve. Collective,
 * like reduce_end. */
int reduce_begin(struct cuda_backend *, struct error *err);
/* Opens NCCL's communicator, on that path: of all ranks at a time, but of any thread. */
int reduce_connect(struct cuda_backend *, struct error *err);
/* Tries what reduce_connect has opened with sums of known values. */
int reduce_end(struct cuda_backend *, struct error *err);
/* Whether there are sums to take: several ranks, or one that was told to use NCCL all the same. */
bool reduce_wanted(const struct group *);
void reduce_close(struct cuda_backend *);
/* Where this rank's part of a sum over the ranks of [tokens][hidden] goes, and whether it is
 * float there (otherwise the shape's dtype). A kernel of ours that fills it publishes its results:
 * see allow_next_unless. */
void *reduce_buffer(struct cuda_backend *, bool *is_float);
/* Sums that buffer over the ranks, in place. `published`: by the kernel that filled it. */
int reduce_sum(struct cuda_backend *, bool published, struct error *err);
/* From any thread: no kernel is to wait for other ranks any more. The process ends after it, and
 * nothing is synchronized with or freed. */
void reduce_abort(struct cuda_backend *b);
/* With time_sums: has the sums' time come to the host with the step's results, and tells it. */
int reduce_fetch_time(struct cuda_backend *, struct error *err);
double reduce_seconds(struct backend *);
/* After a step: an error of the communicator that happened meanwhile. */
int reduce_check(struct cuda_backend *, struct error *err);

#endif
