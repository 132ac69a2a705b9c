/*
 * checkpoint.h - where in a checkpoint's files each tensor lies; for this module alone.
 */
#ifndef TPRUN_MODEL_CHECKPOINT_H
#define TPRUN_MODEL_CHECKPOINT_H

#include "runtime/model/weights.h"

/* Norms and biases: one dimension, float32 in the backend. */
static inline bool tensor_is_vector(enum backend_tensor tensor)
{
	return tensor >= TENSOR_QUERY_NORM || tensor == TENSOR_FINAL_NORM ||
	       tensor == TENSOR_ATTENTION_NORM || tensor == TENSOR_MLP_NORM;
}

/* Split by columns over the ranks. */
static inline bool tensor_is_row_parallel(enum backend_tensor tensor)
{
	return tensor == TENSOR_OUTPUT || tensor == TENSOR_DOWN;
}

/* Whether each layer has one; otherwise the model has one, layer -1. */
static inline bool tensor_in_layers(enum backend_tensor tensor)
{
	return tensor > TENSOR_FINAL_NORM;
}

struct stored_tensor {
	int fd;		  /* of the open file; -1 where the model has no such tensor */
	const char *path; /* the file's, for errors */
	uint64_t offset;  /* in the file */
	enum dtype dtype;
};

/* Where a tensor of the model lies; `layer` is -1 for those of no layer. Borrowed. */
const struct stored_tensor *checkpoint_tensor(const struct checkpoint *, enum backend_tensor tensor,
					      int32_t layer);

#endif
