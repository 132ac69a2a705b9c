/*
 * pieces.h - a model's tensors cut into the pieces that are read at once, in the order of the layers;
 * for loading alone.
 */
#ifndef TPRUN_MODEL_PIECES_H
#define TPRUN_MODEL_PIECES_H

#include "runtime/model/checkpoint.h"

/* What is cut: a shard's part of a checkpoint, or with a shard of one rank the whole of it. */
struct piece_order {
	const struct checkpoint *checkpoint;
	const struct model_config *config;
	const struct shard *shard;
	enum dtype dtype; /* of the backend's matrices */
};

/* One tensor while it is loaded. */
struct loaded_tensor {
	enum backend_tensor kind;
	int32_t layer;
	struct tensor_extent extent;
	const struct stored_tensor *stored;
	enum dtype dtype; /* in the backend */
};

/* A rectangle of a tensor, in the shard's coordinates: whole rows, or a part of one that is too long.
 * At most LOAD_PART_BYTES, as stored and in the backend. */
struct piece {
	struct loaded_tensor tensor; /* behind the end, its layer is one that there is not */
	int32_t row, rows, column, columns;
};

struct piece piece_first(const struct piece_order *);
void piece_next(const struct piece_order *, struct piece *);

static inline bool piece_exists(const struct piece_order *order, const struct piece *piece)
{
	return piece->tensor.layer < order->config->layers;
}

/* Bytes of a row of the piece, as stored. */
static inline size_t piece_run(const struct piece *piece)
{
	return (size_t)piece->columns * dtype_bytes(piece->tensor.stored->dtype);
}

static inline uint64_t piece_bytes(const struct piece *piece)
{
	return (uint64_t)piece->rows * piece_run(piece);
}

/* Where in its file the piece begins; its rows lie *step bytes apart. */
uint64_t piece_offset(const struct piece *, size_t *step);

/* Puts "loading model.layers.0...: " before the message. */
int piece_error(const struct piece *, struct error *err);

#endif
