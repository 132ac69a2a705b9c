/*
 * shard.h - which part of a model each rank holds: pure arithmetic.
 *
 * Query heads go to ranks in contiguous ranges whose sizes differ by at most one; a rank keeps
 * every KV head that its query heads read, so a KV head may live on several ranks and a rank's
 * groups may be ragged at both ends. The MLP's columns and the vocabulary go in contiguous
 * ranges, balanced in blocks of SHARD_BLOCK; a rank's part may be empty on a tiny model.
 */
#ifndef TPRUN_MODEL_SHARD_H
#define TPRUN_MODEL_SHARD_H

#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/model/config.h"

enum { SHARD_BLOCK = 32 };

struct shard_range {
	int32_t first, count;
};

/* Part `rank` of `total` items in `ranks` contiguous ranges of whole blocks (the last block may
 * be short) whose block counts differ by at most one, larger parts first. */
struct shard_range shard_split(int32_t total, int32_t block, int32_t ranks, int32_t rank);

struct shard {
	int32_t ranks, rank;
	struct shard_range heads, kv_heads, intermediate, vocab;
	/* The local query heads that read each local KV head: groups[kv_heads.count]. */
	struct head_group groups[CONFIG_HEADS_MAX];
};

/* Fills out for one rank. An error (ERROR_USAGE) where ranks exceeds the attention heads, naming
 * the largest number that fits. */
int shard_make(struct shard *out, const struct model_config *, int32_t ranks, int32_t rank,
	       struct error *err);

/* This rank's sizes of a tensor in rows and columns, and where they start in the whole tensor;
 * total_rows = 0 where the model has no such tensor (a tied HEAD is none), and rows or columns
 * are 0 where this rank's part is empty. Vectors have one row. */
struct tensor_extent {
	int32_t rows, columns;		       /* the rank's part */
	int32_t first_row, first_column;       /* in the whole tensor */
	int32_t total_rows, total_columns;     /* the whole tensor */
};
struct tensor_extent shard_extent(const struct shard *, const struct model_config *,
				  enum backend_tensor tensor);

/* The backend's view of a rank's part. Pointers in it are to config, shard and frequencies, which
 * must outlive it. attention_scale is 1/sqrt(head_dim). */
struct backend_shape shard_backend_shape(const struct shard *, const struct model_config *,
					 enum dtype dtype, const float *frequencies,
					 float magnitude);

#endif
