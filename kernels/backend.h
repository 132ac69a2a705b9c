/*
 * backend.h - the one contract between the inference and a device.
 *
 * A backend holds this rank's part of the weights, the paged KV cache and the activations
 * of one step, and computes the transformer block by block. Blocks, not single arithmetic
 * operations, so that each backend fuses as it likes and runtime/engine/forward.c reads
 * like the paper. The blocks work on activations that the backend keeps; callers hand
 * over nothing but the step. The all-reduces over the ranks are inside embed and project.
 *
 * Shapes are row-major; sizes are those of this rank's shard.
 *   residual    [tokens][hidden]                 the same on every rank, float32
 *   query       [tokens][query_heads][head_dim]  after bias, q/k norm and rope
 *   attention   [tokens][query_heads][head_dim]
 *   activation  [tokens][intermediate]           silu(gate) * up
 *   logits      [logit_rows][vocab]              float32
 */
#ifndef TPRUN_KERNELS_BACKEND_H
#define TPRUN_KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "runtime/base/activity.h"
#include "runtime/base/dtype.h"
#include "runtime/base/error.h"
#include "runtime/base/group.h"
#include "runtime/base/profile.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
	KV_BLOCK = 16,		/* tokens of a KV-cache block */
	CANDIDATES = 64,	/* best tokens that a rank offers for a row of logits */
	HEAD_DIM_MAX = 256,	/* the largest head size any backend takes */
	LOAD_THREADS = 16,	/* that may load weights side by side */
	LOAD_PART_BYTES = 2 << 20, /* the largest part of a tensor that is loaded at once */
};

/* The query heads that read one local KV head: consecutive, in local numbers. Groups of a
 * shard may be ragged at both ends. */
struct head_group {
	int32_t first, count;
};

/* What a rank computes: the model's sizes and this rank's part of them. */
struct backend_shape {
	int32_t layers, hidden, head_dim;
	int32_t query_heads, first_query_head; /* this rank's; the first in the model's numbers */
	int32_t kv_heads, first_kv_head;
	const struct head_group *groups; /* [kv_heads] */
	int32_t intermediate, first_intermediate; /* may be 0 on a tiny model */
	int32_t vocab, first_vocab;		  /* may be 0 on a tiny model */
	int32_t total_vocab, total_query_heads, total_kv_heads, total_intermediate;
	bool query_key_norm;	  /* RMSNorm of every query and key head (Qwen3) */
	bool tied;		  /* lm_head is the embedding */
	double norm_epsilon;
	float attention_scale;	  /* of q·k: 1/sqrt(head_dim) */
	const int32_t *windows;	  /* [layers]: a query sees this many last positions; 0 all */
	const float *rope_frequencies; /* [head_dim/2], radians for a position */
	float rope_magnitude;	  /* multiplies cos and sin (yarn); 1 otherwise */
	enum dtype dtype;	  /* of matrices and KV cache; norms and biases are float32 */
};

/* What a backend takes at start; nothing is allocated later. The options, the shape's arrays
 * and the group stay the caller's and must outlive the backend. */
struct backend_options {
	struct backend_shape shape;
	const struct group *group;
	int32_t kv_blocks;	/* blocks in the cache */
	int32_t max_tokens;	/* of one step */
	int32_t max_sequences;	/* of one step */
	int32_t max_blocks;	/* of one sequence */
	int32_t max_logit_rows; /* of one step */
	int device;		/* CUDA ordinal of this rank; ignored by cpu */
	int threads;		/* compute threads of this rank on the CPU, at least 1 */
	struct activity *activity; /* told of layers and parts of the weights; NULL: nobody watches */
	int patience_s;		/* for other ranks' parts of a sum, where kernels wait; 0: for ever */
	const struct profile *profile; /* marks steps and all-reduces; NULL: none. Borrowed */
	bool time_sums;		/* for sum_seconds */
};

/* Bytes that a backend with these options takes on its device, from pure arithmetic. */
struct backend_memory {
	uint64_t weights, kv_cache, workspace;
	uint64_t overhead; /* context, libraries, communication buffers: an estimate */
};

/* A layer's tensors and, with layer -1, the model's. Matrices are [rows][columns] as Hugging
 * Face stores them (y = W x); this rank's part of:
 *   EMBEDDING, HEAD  [vocab][hidden]
 *   QUERY            [query_heads*head_dim][hidden];  KEY, VALUE [kv_heads*head_dim][hidden]
 *   OUTPUT           [hidden][query_heads*head_dim]
 *   GATE, UP         [intermediate][hidden];          DOWN [hidden][intermediate]
 * Vectors (float32): norms [hidden], QUERY_NORM and KEY_NORM [head_dim], and the biases, this
 * rank's part of the columns. OUTPUT_BIAS and DOWN_BIAS [hidden] are loaded on every rank and
 * added once, after the all-reduce. */
enum backend_tensor {
	TENSOR_EMBEDDING, TENSOR_HEAD, TENSOR_FINAL_NORM, /* layer -1 */
	TENSOR_ATTENTION_NORM, TENSOR_QUERY, TENSOR_KEY, TENSOR_VALUE, TENSOR_OUTPUT,
	TENSOR_MLP_NORM, TENSOR_GATE, TENSOR_UP, TENSOR_DOWN,
	TENSOR_QUERY_NORM, TENSOR_KEY_NORM,
	TENSOR_QUERY_BIAS, TENSOR_KEY_BIAS, TENSOR_VALUE_BIAS, TENSOR_OUTPUT_BIAS,
	TENSOR_GATE_BIAS, TENSOR_UP_BIAS, TENSOR_DOWN_BIAS,
	TENSOR_KINDS,
};

/* Rows [row, row + rows) and columns [column, column + columns) of a tensor, in this rank's
 * coordinates; a vector has one row. Not empty, and at most LOAD_PART_BYTES. */
struct tensor_part {
	enum backend_tensor tensor;
	int32_t layer;
	int32_t row, rows, column, columns;
	enum dtype dtype;  /* shape.dtype for matrices, DTYPE_F32 for vectors */
	int thread;	   /* below LOAD_THREADS: who loads it */
	/* Filled in by lend. */
	void *data;
	size_t row_stride; /* bytes from a row to the next in data */
};

/* One step: a ragged batch. Sequence s brings tokens [first_token[s], first_token[s+1]), in
 * order of position; those before them are in its cache blocks already. The key and value of
 * position p go to block_table[s*max_blocks + p/KV_BLOCK], slot p%KV_BLOCK. Of sequences that share
 * a block, the one that fills it in this step comes before those that only read it. */
struct step {
	int32_t tokens, sequences, logit_rows;
	int32_t max_blocks;		/* row length of block_table */
	const int32_t *token_ids;	/* [tokens] */
	const int32_t *positions;	/* [tokens] */
	const int32_t *first_token;	/* [sequences + 1] */
	const int32_t *block_table;	/* [sequences][max_blocks] */
	const int32_t *logit_tokens;	/* [logit_rows]: the tokens whose next-token logits are wanted */
	/* [sequences] or NULL: dynamic rope's growth g of a sequence's base. The frequency of pair
	 * i becomes rope_frequencies[i] * g^(-2i/(head_dim-2)): see runtime/model/rope.h. */
	const float *rope_growth;
};

/* What is asked of one row of logits, and this rank's answer. Applied in this order, in
 * place: repetition penalty (a logit above 0 is divided by it, below 0 multiplied), then
 * multiplication by inverse_temperature. */
struct logit_request {
	float inverse_temperature;
	float repetition_penalty;	/* 1: none */
	const int32_t *penalized;	/* distinct ids, in the model's numbers */
	int32_t penalized_count;
	int32_t target;			/* an id whose logit is wanted too, or -1 */
};

struct logit_result {
	float log_sum_exp;		/* of this rank's part; -INFINITY for an empty part */
	float target_logit;		/* -INFINITY where the target is another rank's */
	int32_t count;			/* candidates: min(CANDIDATES, vocab) */
	int32_t ids[CANDIDATES];	/* in the model's numbers; best first, ties by lower id */
	float logits[CANDIDATES];
};

enum backend_buffer {
	BUFFER_RESIDUAL, BUFFER_QUERY, BUFFER_ATTENTION, BUFFER_ACTIVATION, BUFFER_LOGITS,
};

enum backend_probe { PROBE_READ, PROBE_REDUCE };

struct backend;

struct backend_ops {
	const char *name;  /* "cpu" or "cuda" */
	bool asynchronous; /* end returns while the step still runs */
	void (*close)(struct backend *);

	/* Weights: parts in any order, then load_end once. lend gives host memory for a part, the
	 * caller writes its rows there, and load takes them: pinned memory that load copies to the
	 * device while the caller goes on, or the weights' own place. Threads may load side by side,
	 * each under a number of its own and one part at a time; a part that was lent may be dropped.
	 * load_end is collective, like opening, and the main thread's: what a backend prepares beside
	 * the loading is complete then, or its error told. load_random fills all weights instead, by
	 * the formula of kernels/random_weight.h on the model's global coordinates, so that the model
	 * is the same however it is split; norms become 1, biases small. */
	int (*lend)(struct backend *, struct tensor_part *, struct error *err);
	int (*load)(struct backend *, const struct tensor_part *, struct error *err);
	int (*load_random)(struct backend *, uint64_t seed, struct error *err);
	int (*load_end)(struct backend *, struct error *err);

	/* Starts a step. Returns 1 where the backend replays a recorded step of this form whole:
	 * then the blocks must not be called, only end; 0 where they must; -1 on error. */
	int (*begin)(struct backend *, const struct step *, struct error *err);
	/* residual = embedding row of each token, summed over the ranks (each owns some rows). */
	int (*embed)(struct backend *, struct error *err);
	/* RMSNorm of residual; q, k, v projections and biases; q/k norm; rope; query kept, key and
	 * value written to the cache. */
	int (*qkv)(struct backend *, int32_t layer, struct error *err);
	/* attention = softmax(attention_scale * query·keys) values, causal, within the window. */
	int (*attend)(struct backend *, int32_t layer, struct error *err);
	/* residual += all-reduce(OUTPUT attention) + OUTPUT_BIAS */
	int (*project_attention)(struct backend *, int32_t layer, struct error *err);
	/* RMSNorm of residual; activation = silu(GATE x + bias) * (UP x + bias) */
	int (*gate_up)(struct backend *, int32_t layer, struct error *err);
	/* residual += all-reduce(DOWN activation) + DOWN_BIAS */
	int (*project_mlp)(struct backend *, int32_t layer, struct error *err);
	/* Final RMSNorm of the wanted tokens' residual; logits of this rank's part of the vocabulary. */
	int (*logits)(struct backend *, struct error *err);
	/* Ends the step's submission; work may still be running. */
	int (*end)(struct backend *, struct error *err);

	/* Waits for the step and answers requests[logit_rows] in results[logit_rows]. Once a step. */
	int (*candidates)(struct backend *, const struct logit_request *requests,
			  struct logit_result *results, struct error *err);
	/* After candidates: this rank's part of a row of logits, penalty and temperature applied. */
	int (*logit_row)(struct backend *, int32_t row, float *out /* [vocab] */, struct error *err);

	/* For tests and benchmarks, between blocks: the activations of the current step as float32,
	 * all its tokens. poke is for RESIDUAL, QUERY, ATTENTION and ACTIVATION. */
	int (*peek)(struct backend *, enum backend_buffer, float *out, struct error *err);
	int (*poke)(struct backend *, enum backend_buffer, const float *in, struct error *err);
	/* For benchmarks, between steps: in *seconds, what the device takes here and now.
	 *   PROBE_READ    to read `bytes` of this rank's weights from end to end, starting over where
	 *		   they are less, and do nothing else: the best of some rounds.
	 *   PROBE_REDUCE  to add up over the ranks what a step of so many tokens does: `bytes` are
	 *		   tokens times hidden values of shape.dtype. The mean of many; 0 without sums.
	 *		   Collective.
	 * NULL: a backend that cannot tell. */
	int (*probe)(struct backend *, enum backend_probe, size_t bytes, double *seconds,
		     struct error *err);

	/* For benchmarks: of the bytes of its matrices, what a step of so many tokens reads; less than 1 where the backend
	 * keeps them in fewer bits besides. NULL: all. */
	double (*weight_share)(struct backend *, int32_t tokens);

	/* From any other thread, while the main one may be stuck in any call: what this rank waits for
	 * will never come, and its device is to give up. The run ends after it. May be NULL. */
	void (*abort)(struct backend *);

	/* With time_sums: seconds that sums over the ranks took in all steps up to the last candidates, by
	 * the device's clock, waiting for the slowest rank included. What goes through the group's sum is
	 * not among them. NULL: all of it does. */
	double (*sum_seconds)(struct backend *);
};

/* The first member of every backend's own struct. */
struct backend {
	const struct backend_ops *ops;
};

/* Loads a part of any number of rows that lie in the caller's memory, row_stride bytes apart. */
static inline int backend_load(struct backend *backend, struct tensor_part part, const void *rows,
			       size_t row_stride, struct error *err)
{
	size_t bytes = (size_t)part.columns * dtype_bytes(part.dtype);
	int32_t end = part.row + part.rows, most = (int32_t)(LOAD_PART_BYTES / bytes);
	const char *from = (const char *)rows;
	for (; part.row < end; part.row += part.rows) {
		part.rows = end - part.row < most ? end - part.row : most;
		if (backend->ops->lend(backend, &part, err))
			return -1;
		for (int32_t row = 0; row < part.rows; row++, from += row_stride)
			memcpy((char *)part.data + (size_t)row * part.row_stride, from, bytes);
		if (backend->ops->load(backend, &part, err))
			return -1;
	}
	return 0;
}

/* kernels/cpu. Collectives go through options->group. */
int cpu_backend_open(struct backend **out, const struct backend_options *, struct error *err);
void cpu_backend_memory(const struct backend_options *, struct backend_memory *out);

/* kernels/cuda. cuda_backend_open is absent from builds without CUDA (TPRUN_CUDA undefined);
 * cuda_backend_memory is pure arithmetic and always there. */
int cuda_backend_open(struct backend **out, const struct backend_options *, struct error *err);
void cuda_backend_memory(const struct backend_options *, struct backend_memory *out);

#ifdef __cplusplus
}
#endif
#endif
