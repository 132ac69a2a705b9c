/*
 * layout.c - the arithmetic of layout.h, and cuda_backend_memory on top of it.
 */
#include "kernels/cuda/layout.h"

#include <string.h>

/* Estimates, on an H200 with CUDA 13: a context with this program's kernels and cuBLAS, and a
 * communicator of NCCL, counted also where it is found later that the GPUs do without one. Not measured
 * to the byte: `plan` says so. */
#define CONTEXT_BYTES (700ull << 20)
#define COMMUNICATOR_BYTES (400ull << 20)

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

/* Takes `count` elements at the end of an allocation; parts begin on 256-byte boundaries. */
static uint64_t take(uint64_t *end, uint64_t count, uint64_t element)
{
	uint64_t at = *end;
	*end = round_up(at + count * element, 256);
	return at;
}

static void plan_weights(struct cuda_layout *l, const struct backend_shape *s)
{
	uint64_t bytes = dtype_bytes(s->dtype), end = 0;
	uint64_t hidden = (uint64_t)s->hidden, stride = (uint64_t)l->hidden_stride;
	uint64_t pair = 2 * (uint64_t)s->intermediate;

	l->embedding = take(&end, (uint64_t)s->vocab * stride, bytes);
	l->head = s->tied ? l->embedding : take(&end, (uint64_t)s->vocab * stride, bytes);
	l->final_norm = take(&end, stride, 4);
	l->first_layer = end;

	end = 0;
	l->attention_norm = take(&end, stride, 4);
	l->mlp_norm = take(&end, stride, 4);
	l->query_norm = take(&end, (uint64_t)s->head_dim, 4);
	l->key_norm = take(&end, (uint64_t)s->head_dim, 4);
	l->qkv_bias = take(&end, (uint64_t)l->qkv_rows, 4);
	l->output_bias = take(&end, hidden, 4);
	l->gate_up_bias = take(&end, pair, 4);
	l->down_bias = take(&end, hidden, 4);
	l->qkv = take(&end, (uint64_t)l->qkv_rows * stride, bytes);
	l->output = take(&end, hidden * (uint64_t)l->attention_stride, bytes);
	l->gate_up = take(&end, pair * stride, bytes);
	l->down = take(&end, hidden * (uint64_t)l->activation_stride, bytes);
	l->layer_bytes = end;
	l->weight_bytes = l->first_layer + end * (uint64_t)s->layers;
}

static void plan_workspace(struct cuda_layout *l, const struct backend_options *o, bool sums)
{
	const struct backend_shape *s = &o->shape;
	uint64_t bytes = dtype_bytes(s->dtype), end = 0;
	uint64_t tokens = (uint64_t)o->max_tokens, sequences = (uint64_t)o->max_sequences;
	uint64_t few = tokens < GEMV_TOKENS ? tokens : GEMV_TOKENS;
	uint64_t some = tokens < SMALL_TOKENS ? tokens : SMALL_TOKENS;
	uint64_t rows = (uint64_t)o->max_logit_rows, stride = (uint64_t)l->hidden_stride;
	uint64_t qkv = (uint64_t)l->qkv_stride, gate_up = (uint64_t)l->gate_up_stride;
	uint64_t many_rows = tokens * (qkv > gate_up ? qkv : gate_up) * bytes, few_rows = few * qkv * 4;

	l->residual = take(&end, tokens * stride, 4);
	l->residual_other = take(&end, sums ? few * stride : 0, 4);
	l->normed = take(&end, (tokens > rows ? tokens : rows) * stride, bytes);
	l->scratch = take(&end, many_rows > few_rows ? many_rows : few_rows, 1);
	l->query = take(&end, tokens * (uint64_t)s->query_heads * (uint64_t)l->head_stride, 4);
	l->attention = take(&end, tokens * (uint64_t)l->attention_stride, bytes);
	l->activation = take(&end, tokens * (uint64_t)l->activation_stride, bytes);
	l->attention_wide = take(&end, few * (uint64_t)l->attention_stride, 4);
	l->activation_wide = take(&end, few * (uint64_t)l->activation_stride, 4);
	l->part = take(&end, sums ? some * stride : 0, 4);
	l->partial = take(&end, sums ? tokens * stride : 0, 4);
	l->rows_done = take(&end, 1, 4);
	l->sum_time = take(&end, 1, 8);
	l->rope = take(&end, tokens * (uint64_t)(s->head_dim / 2), 8);
	uint64_t splits = (uint64_t)(2 * ATTEND_WARPS / s->kv_heads) * (uint64_t)s->query_heads;
	if (splits < ATTEND_BLOCKS * ATTEND_HEADS)
		splits = ATTEND_BLOCKS * ATTEND_HEADS;
	l->split_sum = take(&end, splits * (uint64_t)l->head_stride, 4);
	l->split_scale = take(&end, splits, 8);
	l->split_count = take(&end, 2 * ATTEND_WARPS, 4);

	uint64_t chunks = rows * (uint64_t)((s->vocab + CANDIDATE_CHUNK - 1) / CANDIDATE_CHUNK);
	if (chunks < CANDIDATE_BLOCKS)
		chunks = CANDIDATE_BLOCKS;
	l->logits = take(&end, rows * (uint64_t)l->logit_stride, 4);
	l->chunk_keys = take(&end, chunks * CANDIDATES, 8);
	l->chunk_sums = take(&end, chunks, 8);

	/* One row's distinct ids always fit; many rows with long lists take several uploads. */
	uint64_t context = (uint64_t)o->max_blocks * KV_BLOCK;
	uint64_t ids = context < (uint64_t)s->total_vocab ? context : (uint64_t)s->total_vocab;
	l->penalty_ids = (int32_t)(ids > PENALTY_IDS ? ids : PENALTY_IDS);
	l->request_bytes = round_up(rows * sizeof(struct cuda_request), 16) +
			   (uint64_t)l->penalty_ids * 4;
	l->requests = take(&end, l->request_bytes, 1);

	/* Eleven lists of at most these lengths, each rounded up to 16 bytes: see step.cu. */
	l->step_bytes = 4 * (8 * tokens + 3 * (tokens / ATTEND_TILE + sequences) +
			     6 * (2 * ATTEND_WARPS + sequences) + rows + sequences +
			     sequences * (uint64_t)o->max_blocks + 1) + 11 * 16;
	l->step = take(&end, l->step_bytes, 1);
	l->constants = take(&end, (uint64_t)s->kv_heads * 2 + (uint64_t)s->head_dim / 2, 4);
	l->cublas = take(&end, CUBLAS_WORKSPACE, 1);
	l->workspace_bytes = end;

	l->window_bytes = sums ? round_up(tokens * stride * bytes, 2 << 20) : 0;
	if (l->window_bytes > WINDOW_MAX)
		l->window_bytes = WINDOW_MAX;
}

void cuda_layout_plan(struct cuda_layout *l, const struct backend_options *o, bool sums)
{
	const struct backend_shape *s = &o->shape;
	uint64_t heads = (uint64_t)s->query_heads * (uint64_t)s->head_dim;

	memset(l, 0, sizeof *l);
	l->hidden_stride = (int32_t)round_up((uint64_t)s->hidden, 64);
	l->attention_stride = (int32_t)round_up(heads, 64);
	l->activation_stride = (int32_t)round_up((uint64_t)s->intermediate, 64);
	l->head_stride = (int32_t)round_up((uint64_t)s->head_dim, 8);
	l->qkv_rows = (s->query_heads + 2 * s->kv_heads) * s->head_dim;
	l->qkv_stride = (int32_t)round_up((uint64_t)l->qkv_rows, 8);
	l->gate_up_stride = (int32_t)round_up(2 * (uint64_t)s->intermediate, 8);
	l->logit_stride = (int32_t)round_up((uint64_t)s->vocab, 8);

	plan_weights(l, s);
	l->cache_part = round_up((uint64_t)o->kv_blocks * (uint64_t)s->kv_heads * KV_BLOCK *
				 (uint64_t)l->head_stride * dtype_bytes(s->dtype), 256);
	l->cache_bytes = l->cache_part * 2 * (uint64_t)s->layers;
	plan_workspace(l, o, sums);
}

bool cuda_layout_find(const struct cuda_layout *l, const struct backend_shape *s,
		      enum backend_tensor tensor, int32_t layer, struct cuda_place *out)
{
	uint64_t bytes = dtype_bytes(s->dtype);
	int32_t head = s->head_dim, queries = s->query_heads * head, keys = s->kv_heads * head;
	int32_t middle = s->intermediate;
	int64_t first_query = (int64_t)s->first_query_head * head;
	int64_t first_key = (int64_t)s->first_kv_head * head;
	int64_t all_heads = (int64_t)s->total_query_heads * head;
	bool of_model = tensor == TENSOR_EMBEDDING || tensor == TENSOR_HEAD ||
			tensor == TENSOR_FINAL_NORM;

	if (tensor < 0 || tensor >= TENSOR_KINDS ||
	    (of_model ? layer != -1 : layer < 0 || layer >= s->layers) ||
	    (tensor == TENSOR_HEAD && s->tied))
		return false;
	uint64_t base = of_model ? 0 : l->first_layer + l->layer_bytes * (uint64_t)layer;
	struct cuda_place *p = out;
	memset(p, 0, sizeof *p);

/* A matrix of `count` rows that begins `from` rows into the stored one at `at`. */
#define MATRIX(at, from, count, width, row_length, row0, column0, total)                           \
	*p = (struct cuda_place){base + (at) + (uint64_t)(from) * (uint64_t)(row_length) * bytes,  \
				 count, width, row_length, true, row0, column0, total}
#define VECTOR(at, from, count, column0)                                                           \
	*p = (struct cuda_place){base + (at) + (uint64_t)(from) * 4, 1, count, count, false, 0,    \
				 column0, 0}
	switch (tensor) {
	case TENSOR_EMBEDDING:
		MATRIX(l->embedding, 0, s->vocab, s->hidden, l->hidden_stride, s->first_vocab, 0, s->hidden);
		break;
	case TENSOR_HEAD:
		MATRIX(l->head, 0, s->vocab, s->hidden, l->hidden_stride, s->first_vocab, 0, s->hidden);
		break;
	case TENSOR_FINAL_NORM: VECTOR(l->final_norm, 0, s->hidden, 0); break;
	case TENSOR_ATTENTION_NORM: VECTOR(l->attention_norm, 0, s->hidden, 0); break;
	case TENSOR_MLP_NORM: VECTOR(l->mlp_norm, 0, s->hidden, 0); break;
	case TENSOR_QUERY_NORM: VECTOR(l->query_norm, 0, head, 0); break;
	case TENSOR_KEY_NORM: VECTOR(l->key_norm, 0, head, 0); break;
	case TENSOR_QUERY:
		MATRIX(l->qkv, 0, queries, s->hidden, l->hidden_stride, first_query, 0, s->hidden);
		break;
	case TENSOR_KEY:
		MATRIX(l->qkv, queries, keys, s->hidden, l->hidden_stride, first_key, 0, s->hidden);
		break;
	case TENSOR_VALUE:
		MATRIX(l->qkv, queries + keys, keys, s->hidden, l->hidden_stride, first_key, 0, s->hidden);
		break;
	case TENSOR_OUTPUT:
		MATRIX(l->output, 0, s->hidden, queries, l->attention_stride, 0, first_query, all_heads);
		break;
	case TENSOR_GATE:
		MATRIX(l->gate_up, 0, middle, s->hidden, l->hidden_stride, s->first_intermediate, 0, s->hidden);
		break;
	case TENSOR_UP:
		MATRIX(l->gate_up, middle, middle, s->hidden, l->hidden_stride, s->first_intermediate, 0,
		       s->hidden);
		break;
	case TENSOR_DOWN:
		MATRIX(l->down, 0, s->hidden, middle, l->activation_stride, 0, s->first_intermediate,
		       s->total_intermediate);
		break;
	case TENSOR_QUERY_BIAS: VECTOR(l->qkv_bias, 0, queries, first_query); break;
	case TENSOR_KEY_BIAS: VECTOR(l->qkv_bias, queries, keys, first_key); break;
	case TENSOR_VALUE_BIAS: VECTOR(l->qkv_bias, queries + keys, keys, first_key); break;
	case TENSOR_OUTPUT_BIAS: VECTOR(l->output_bias, 0, s->hidden, 0); break;
	case TENSOR_GATE_BIAS: VECTOR(l->gate_up_bias, 0, middle, s->first_intermediate); break;
	case TENSOR_UP_BIAS: VECTOR(l->gate_up_bias, middle, middle, s->first_intermediate); break;
	case TENSOR_DOWN_BIAS: VECTOR(l->down_bias, 0, s->hidden, 0); break;
	case TENSOR_KINDS: break;
	}
#undef MATRIX
#undef VECTOR
	return true;
}

void cuda_backend_memory(const struct backend_options *options, struct backend_memory *out)
{
	struct cuda_layout layout;
	bool several = options->group && options->group->size > 1;
	cuda_layout_plan(&layout, options, several);
	out->weights = layout.weight_bytes;
	out->kv_cache = layout.cache_bytes;
	out->workspace = layout.workspace_bytes;
	out->overhead = CONTEXT_BYTES;
	if (several)
		out->overhead += COMMUNICATOR_BYTES + layout.window_bytes;
}
