/*
 * cpu.h - what the files of the CPU backend share.
 *
 * Activations are float32, matrices and cache stay in the shape's dtype and are widened on the
 * way into the registers. Rows are padded with zeros to whole vectors. Every sum is taken in an
 * order that depends on the processor's kind alone, so a token's result has the same bits with
 * any number of threads and in any company.
 */
#ifndef TPRUN_CPU_CPU_H
#define TPRUN_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"

enum {
	PANEL = 64,	  /* rows of a matrix that a thread takes at a time, */
	TOKEN_BLOCK = 48, /* for so many tokens: a multiple of every TILE_TOKENS */
	TOKEN_CHUNK = 8,  /* tokens that a thread takes where there is no matrix */
	ATTEND_ROWS = 32, /* (token, head) pairs that attend together */
	ALONE = 100000,	  /* multiplications that one thread does alone: some microseconds */
};

/* `columns` elements a row, `stride` with the padding. */
struct cpu_matrix {
	char *data;
	int32_t rows, columns;
	size_t stride;
};

struct cpu_layer {
	float *attention_norm, *mlp_norm, *query_norm, *key_norm;
	struct cpu_matrix qkv; /* query rows, then key rows, then value rows */
	struct cpu_matrix output, gate, up, down;
	float *qkv_bias, *output_bias, *gate_bias, *up_bias, *down_bias;
	/* [kv_blocks][kv_heads][KV_BLOCK][head_stride] */
	char *keys, *values;
};

/* A share of attend: up to ATTEND_ROWS of the rows token*count + head that one sequence has for
 * one KV head, from `row` on. */
struct cpu_attend_item {
	int32_t sequence, kv_head, row;
};

/* One mapping of zeroed memory that is handed out in order. */
struct cpu_arena {
	char *data; /* NULL while sizes are only added up */
	size_t used;
};

struct cpu_backend {
	struct backend base;
	struct backend_options options;
	const struct backend_shape *shape; /* &options.shape */
	const struct cpu_kernels *kernels;
	struct cpu_arena weights, cache, workspace;
	struct cpu_layer *layers;
	struct cpu_matrix embedding, head; /* the same memory where tied */
	float *final_norm;

	/* Strides of the rows below, in elements. */
	size_t hidden_stride, head_stride, projected_stride, attention_stride;
	size_t intermediate_stride, vocab_stride;

	struct step step;   /* the current one; its arrays are the caller's */
	float *residual;    /* [tokens][hidden_stride] */
	float *normed;	    /* [tokens or logit rows][hidden_stride] */
	float *delta;	    /* [tokens][hidden], what the ranks add up */
	float *projected;   /* [tokens][projected_stride]: query, key and value heads */
	float *attention;   /* [tokens][attention_stride] */
	float *activation;  /* [tokens][intermediate_stride]: gate before, activation after */
	float *up;	    /* [tokens][intermediate_stride] */
	float *logits;	    /* [logit rows][vocab_stride], -infinity in the padding */
	float *cosine, *sine; /* [tokens][head_dim/2] */
	int32_t *sequence_of; /* [tokens] */
	struct cpu_attend_item *items;
	int64_t item_count, attend_work;
	float *scratch; /* [threads][scratch_stride] */
	size_t scratch_stride;
};

static inline size_t cpu_pad(size_t count)
{
	return (count + ROUND_LANES - 1) / ROUND_LANES * ROUND_LANES;
}

static inline int32_t cpu_min(int32_t a, int32_t b)
{
	return a < b ? a : b;
}

/* The backend behind the public pointer. */
static inline struct cpu_backend *cpu_of(struct backend *base)
{
	return (struct cpu_backend *)base;
}

/* Calls run(arg, item, thread) for each item below `items`, in any order, on the backend's
 * threads; on the calling thread alone where there is one item or one thread, or where `work`,
 * about the multiplications of all items, is done before the others would have woken. */
void cpu_run(const struct cpu_backend *, int64_t items, int64_t work,
	     void (*run)(void *arg, int64_t item, int thread), void *arg);

/* normed = RMSNorm of the residual of tokens[count], or of the first `count` where NULL. */
void cpu_norm(struct cpu_backend *, const float *weight, const int32_t *tokens, int32_t count);
/* out[tokens][matrix rows] = input · matrix^T; strides in elements. */
void cpu_multiply(const struct cpu_backend *, const struct cpu_matrix *, const float *input,
		  size_t input_stride, int32_t tokens, float *out, size_t out_stride);

/* Row 0 of a block's keys or values for one KV head. */
static inline char *cpu_cache_tile(const struct cpu_backend *b, char *cache, int32_t block,
				   int32_t kv_head)
{
	size_t tile = (size_t)block * (size_t)b->shape->kv_heads + (size_t)kv_head;
	return cache + tile * KV_BLOCK * b->head_stride * dtype_bytes(b->shape->dtype);
}

/* The blocks of backend.h. */
int cpu_lend(struct backend *, struct tensor_part *, struct error *err);
int cpu_load(struct backend *, const struct tensor_part *, struct error *err);
int cpu_load_random(struct backend *, uint64_t seed, struct error *err);
int cpu_embed(struct backend *, struct error *err);
int cpu_qkv(struct backend *, int32_t layer, struct error *err);
int cpu_attend(struct backend *, int32_t layer, struct error *err);
int cpu_project_attention(struct backend *, int32_t layer, struct error *err);
int cpu_gate_up(struct backend *, int32_t layer, struct error *err);
int cpu_project_mlp(struct backend *, int32_t layer, struct error *err);
int cpu_logits(struct backend *, struct error *err);
int cpu_candidates(struct backend *, const struct logit_request *, struct logit_result *,
		   struct error *err);
int cpu_logit_row(struct backend *, int32_t row, float *out, struct error *err);
int cpu_probe(struct backend *, enum backend_probe, size_t bytes, double *seconds, struct error *err);

#endif
