/*
 * weights.h - a checkpoint's files, and the way of each rank's part into its backend.
 *
 * A checkpoint is model.safetensors, or shards with model.safetensors.index.json. Opening reads
 * the headers alone and checks everything that can be known from them. Loading reads the part
 * that a rank needs in large runs: rows of column-parallel tensors are contiguous; of a
 * row-parallel tensor (OUTPUT, DOWN) each rank reads a contiguous 1/N of the rows and the ranks
 * exchange the column slices, so that no byte is read twice and no read is small.
 */
#ifndef TPRUN_MODEL_WEIGHTS_H
#define TPRUN_MODEL_WEIGHTS_H

#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/group.h"
#include "runtime/model/config.h"
#include "runtime/model/shard.h"

struct checkpoint;

/* Opens the files of a model folder, reads every header, and checks that each tensor the config
 * asks for is there exactly once, with its shape and a supported type. Refuses by name a
 * quantized checkpoint and a folder with pytorch_model.bin alone, with the way to convert. */
int checkpoint_open(struct checkpoint **out, const char *folder, const struct model_config *,
		    struct error *err);
void checkpoint_close(struct checkpoint *);

/* The type most matrices are stored in: what `--dtype auto` runs. */
enum dtype checkpoint_dtype(const struct checkpoint *);
/* Bytes of all tensors that the model uses, as stored. A tied model may store its head again:
 * equal to the embedding it is ignored, and otherwise opening fails. */
uint64_t checkpoint_bytes(const struct checkpoint *);

/* What is read, exchanged and handed to the backend at once, unless one row is longer. */
enum { WEIGHTS_PIECE_BYTES = 16 << 20 };

struct weights_progress {
	void (*report)(void *context, uint64_t done, uint64_t total); /* bytes of this rank */
	void *context;
};

/* Collective over shard->ranks == group->size ranks: reads this rank's part into the backend
 * (not calling load_end), matrices converted to `dtype` and vectors to float32. Every rank
 * returns the same result; a rank that can't read is named in the error by group->agree.
 * `progress` may be NULL. Adds the bytes this rank read from files to *bytes_read. Takes a few
 * times WEIGHTS_PIECE_BYTES of memory while it runs. */
int weights_load(struct checkpoint *, const struct model_config *, const struct shard *,
		 enum dtype dtype, const struct group *, struct backend *,
		 const struct weights_progress *progress, uint64_t *bytes_read,
		 struct error *err);

/* The name of a tensor in a checkpoint, as "model.layers.3.mlp.up_proj.weight", into
 * name[size]. */
void weights_tensor_name(char *name, size_t size, enum backend_tensor tensor, int32_t layer);

#endif
