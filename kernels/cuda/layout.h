/*
 * layout.h - where everything lies in the device's memory.
 *
 * Pure arithmetic, compiled without CUDA: `plan` reports with it what a machine would need,
 * and cuda_backend_open allocates exactly that. Rows of matrices and activations are padded
 * with zeros to a multiple of 64 elements, so that every row begins on a 16-byte boundary and
 * kernels that walk along a row have no tail.
 */
#ifndef TPRUN_CUDA_LAYOUT_H
#define TPRUN_CUDA_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
	GEMV_TOKENS = 8,	  /* up to so many rows of input, the matrix-vector kernels run */
	SMALL_TOKENS = 16,	  /* steps of up to so many are recorded, and may add through peers' memory */
	ATTEND_HEADS = 4,	  /* query heads that one attention block serves */
	ATTEND_BLOCKS = 512,	  /* the context is split until there are about so many blocks, */
	ATTEND_CLUSTER = 8,	  /* or where the parts are clusters, of at most so many blocks, */
	ATTEND_RESIDENT = 384,	  /* while there are no more than this: three a multiprocessor */
	ATTEND_WARPS = 1024,	  /* contexts of many tokens are cut into about so many parts, and */
	ATTEND_PIECE = 128,	  /* not below so many positions */
	ATTEND_TILE = 128,	  /* tokens of a sequence that one prefill block serves */
	CANDIDATE_CHUNK = 2048,	  /* logits that one block looks through for candidates, at most; */
	CANDIDATE_BLOCKS = 256,	  /* fewer where there are not so many blocks */
	PENALTY_IDS = 1 << 16,	  /* penalized ids uploaded at a time, at least */
	CUBLAS_WORKSPACE = 32 << 20,
	WINDOW_SMALL = 96 << 10,  /* sums over ranks of up to so many bytes go through the window, */
	WINDOW_LARGE = 768 << 10, /* and those from here up to its size, which is */
	WINDOW_MAX = 32 << 20,  /* no more than this */
};

/* Offsets are bytes from the start of their allocation. */
struct cuda_layout {
	/* Row lengths, in elements. */
	int32_t hidden_stride, attention_stride, activation_stride; /* multiples of 64 */
	int32_t head_stride;	 /* of query heads and of the cache: head_dim up to a multiple of 8 */
	int32_t qkv_rows, qkv_stride, gate_up_stride, logit_stride;

	/* Weights: the model's own tensors, then `layers` equal parts. */
	uint64_t embedding, head, final_norm;
	uint64_t first_layer, layer_bytes;
	uint64_t attention_norm, qkv, qkv_bias, query_norm, key_norm, output, output_bias;
	uint64_t mlp_norm, gate_up, gate_up_bias, down, down_bias; /* within a layer */
	uint64_t weight_bytes;

	/* Cache: keys of layer 0, values of layer 0, keys of layer 1, ...; each
	 * [kv_blocks][kv_heads][KV_BLOCK][head_stride]. */
	uint64_t cache_part; /* bytes of one layer's keys */
	uint64_t cache_bytes;

	/* Workspace. */
	uint64_t residual;	/* float [max_tokens][hidden_stride] */
	uint64_t residual_other; /* float [few][hidden_stride], with sums only: see peers.cuh */
	uint64_t normed;	/* dtype [max(max_tokens, max_logit_rows)][hidden_stride] */
	uint64_t scratch;	/* qkv, dtype [max_tokens][qkv_stride] or float [few][...]; then gate and
				 * up, dtype [max_tokens][gate_up_stride] */
	uint64_t query;		/* float [max_tokens][query_heads][head_stride] */
	uint64_t attention;	/* dtype [max_tokens][attention_stride] */
	uint64_t activation;	/* dtype [max_tokens][activation_stride] */
	/* The same two where the matrix-vector kernels read them as float: see gemv_wide. Rows of
	 * their own, so that the padding of both stays zero. */
	uint64_t attention_wide, activation_wide; /* float [few][...], few: up to GEMV_TOKENS */
	uint64_t part;		/* float [up to SMALL_TOKENS][hidden_stride], with sums only: see peers.cu */
	uint64_t partial;	/* dtype or float [max_tokens][hidden_stride], with sums only */
	uint64_t rows_done;	/* uint32: see peers_rows.cu */
	uint64_t sum_time;	/* uint64: see struct peer_sum */
	uint64_t rope;		/* cos and sin, float2 [max_tokens][head_dim / 2] */
	/* Parts of a cut context: of attend.cu, [ATTEND_BLOCKS][ATTEND_HEADS], or of attend_stream.cu,
	 * [2 * ATTEND_WARPS / kv_heads][query_heads]. */
	uint64_t split_sum;	/* float [...][head_stride] */
	uint64_t split_scale;	/* float2 [...] */
	uint64_t split_count;	/* int32 [2 * ATTEND_WARPS] */
	uint64_t logits;	/* float [max_logit_rows][logit_stride] */
	uint64_t chunk_keys;	/* uint64 [rows][chunks][CANDIDATES] */
	uint64_t chunk_sums;	/* float2 [rows][chunks] */
	uint64_t requests;	/* struct cuda_request [max_logit_rows], then penalized ids */
	uint64_t step;		/* the step's numbers, as begin packs them */
	uint64_t constants;	/* groups and rope frequencies */
	uint64_t cublas;
	uint64_t workspace_bytes;

	uint64_t step_bytes, request_bytes;
	int32_t penalty_ids;	    /* that fit behind the requests */
	uint64_t window_bytes;	    /* NCCL's own buffer; 0 without sums */
};

/* What is asked of a row of logits, as the kernels see it. */
struct cuda_request {
	float inverse_temperature, repetition_penalty;
	int32_t target;	      /* in this rank's numbers, or -1 */
	int32_t first, count; /* its part of the penalized ids */
};

/* One stored matrix or vector. */
struct cuda_place {
	uint64_t offset;	/* of its first element in the weights */
	int32_t rows, columns;
	int32_t stride;		/* elements from a row to the next */
	bool matrix;		/* of shape.dtype; otherwise a float32 vector */
	/* For random weights: where this part begins in the whole tensor, and its columns. */
	int64_t first_row, first_column, total_columns;
};

/* `sums`: there will be sums over ranks, which need room. */
void cuda_layout_plan(struct cuda_layout *out, const struct backend_options *options, bool sums);
/* layer is -1 for the model's own tensors. Returns false where there is no such tensor. */
bool cuda_layout_find(const struct cuda_layout *layout, const struct backend_shape *shape,
		      enum backend_tensor tensor, int32_t layer, struct cuda_place *out);

#ifdef __cplusplus
}
#endif
#endif
