#include "runtime/model/shard.h"

#include <math.h>
#include <string.h>

struct shard_range shard_split(int32_t total, int32_t block, int32_t ranks, int32_t rank)
{
	int64_t blocks = ((int64_t)total + block - 1) / block;
	int64_t base = blocks / ranks, larger = blocks % ranks;
	int64_t first = (rank * base + (rank < larger ? rank : larger)) * block;
	int64_t end = first + (base + (rank < larger)) * block;
	if (first > total)
		first = total;
	if (end > total)
		end = total;
	return (struct shard_range){(int32_t)first, (int32_t)(end - first)};
}

int shard_make(struct shard *out, const struct model_config *config, int32_t ranks, int32_t rank,
	       struct error *err)
{
	if (ranks < 1 || rank < 0 || rank >= ranks)
		return error_usage(err, "there is no rank %d of %d", rank, ranks);
	if (ranks > config->heads)
		return error_usage(err,
				   "%d ranks are too many: the model has %d attention heads, so at most %d "
				   "ranks can share it",
				   ranks, config->heads, config->heads);
	memset(out, 0, sizeof *out);
	out->ranks = ranks;
	out->rank = rank;
	out->heads = shard_split(config->heads, 1, ranks, rank);
	out->intermediate = shard_split(config->intermediate, SHARD_BLOCK, ranks, rank);
	out->vocab = shard_split(config->vocab, SHARD_BLOCK, ranks, rank);

	int32_t readers = config->heads / config->kv_heads; /* query heads of a KV head */
	int32_t first = out->heads.first, end = first + out->heads.count;
	out->kv_heads.first = first / readers;
	out->kv_heads.count = (end - 1) / readers - out->kv_heads.first + 1;
	for (int32_t i = 0; i < out->kv_heads.count; i++) {
		int32_t from = (out->kv_heads.first + i) * readers, to = from + readers;
		from = from > first ? from : first;
		to = to < end ? to : end;
		out->groups[i] = (struct head_group){from - first, to - from};
	}
	return 0;
}

static struct tensor_extent rows_of(struct shard_range rows, int32_t total, int32_t unit,
				    int32_t columns)
{
	return (struct tensor_extent){
		.rows = rows.count * unit, .columns = columns, .first_row = rows.first * unit,
		.total_rows = total * unit, .total_columns = columns,
	};
}

static struct tensor_extent columns_of(struct shard_range columns, int32_t total, int32_t unit,
				       int32_t rows)
{
	return (struct tensor_extent){
		.rows = rows, .columns = columns.count * unit, .first_column = columns.first * unit,
		.total_rows = rows, .total_columns = total * unit,
	};
}

struct tensor_extent shard_extent(const struct shard *shard, const struct model_config *config,
				  enum backend_tensor tensor)
{
	const struct tensor_extent none = {0};
	struct shard_range whole = {0, config->hidden}, head = {0, config->head_dim};
	switch (tensor) {
	case TENSOR_HEAD:
		if (config->tied)
			return none;
		/* fall through */
	case TENSOR_EMBEDDING:
		return rows_of(shard->vocab, config->vocab, 1, config->hidden);
	case TENSOR_QUERY:
		return rows_of(shard->heads, config->heads, config->head_dim, config->hidden);
	case TENSOR_KEY:
	case TENSOR_VALUE:
		return rows_of(shard->kv_heads, config->kv_heads, config->head_dim, config->hidden);
	case TENSOR_OUTPUT:
		return columns_of(shard->heads, config->heads, config->head_dim, config->hidden);
	case TENSOR_GATE:
	case TENSOR_UP:
		return rows_of(shard->intermediate, config->intermediate, 1, config->hidden);
	case TENSOR_DOWN:
		return columns_of(shard->intermediate, config->intermediate, 1, config->hidden);
	case TENSOR_FINAL_NORM:
	case TENSOR_ATTENTION_NORM:
	case TENSOR_MLP_NORM:
		return columns_of(whole, config->hidden, 1, 1);
	case TENSOR_QUERY_NORM:
	case TENSOR_KEY_NORM:
		return config->query_key_norm ? columns_of(head, config->head_dim, 1, 1) : none;
	case TENSOR_QUERY_BIAS:
		return config->qkv_bias ? columns_of(shard->heads, config->heads, config->head_dim, 1)
					: none;
	case TENSOR_KEY_BIAS:
	case TENSOR_VALUE_BIAS:
		return config->qkv_bias
			       ? columns_of(shard->kv_heads, config->kv_heads, config->head_dim, 1)
			       : none;
	case TENSOR_OUTPUT_BIAS:
		return config->output_bias ? columns_of(whole, config->hidden, 1, 1) : none;
	case TENSOR_GATE_BIAS:
	case TENSOR_UP_BIAS:
		return config->mlp_bias ? columns_of(shard->intermediate, config->intermediate, 1, 1)
					: none;
	case TENSOR_DOWN_BIAS:
		return config->mlp_bias ? columns_of(whole, config->hidden, 1, 1) : none;
	case TENSOR_KINDS:
		break;
	}
	return none;
}

struct backend_shape shard_backend_shape(const struct shard *shard,
					 const struct model_config *config, enum dtype dtype,
					 const float *frequencies, float magnitude)
{
	return (struct backend_shape){
		.layers = config->layers,
		.hidden = config->hidden,
		.head_dim = config->head_dim,
		.query_heads = shard->heads.count,
		.first_query_head = shard->heads.first,
		.kv_heads = shard->kv_heads.count,
		.first_kv_head = shard->kv_heads.first,
		.groups = shard->groups,
		.intermediate = shard->intermediate.count,
		.first_intermediate = shard->intermediate.first,
		.vocab = shard->vocab.count,
		.first_vocab = shard->vocab.first,
		.total_vocab = config->vocab,
		.total_query_heads = config->heads,
		.total_kv_heads = config->kv_heads,
		.total_intermediate = config->intermediate,
		.query_key_norm = config->query_key_norm,
		.tied = config->tied,
		.norm_epsilon = config->norm_epsilon,
		.attention_scale = (float)(1 / sqrt(config->head_dim)),
		.windows = config->windows,
		.rope_frequencies = frequencies,
		.rope_magnitude = magnitude,
		.dtype = dtype,
	};
}
