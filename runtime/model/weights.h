/*
 * weights.h - a checkpoint's files, and the way of each rank's part into its backend.
 *
 * A checkpoint is model.safetensors, or shards with model.safetensors.index.json. Opening reads
 * the headers alone and checks everything that can be known from them. Loading reads the part that
 * a rank needs, and no more, on several threads straight into memory that the backend lends. Rows
 * of column-parallel tensors are contiguous; of a row-parallel tensor (OUTPUT, DOWN) a rank reads
 * its columns of every row. No two ranks read the same bytes then, but where they hold the same
 * heads; the pages that the bytes lie in are read from the disk once for all ranks of a node,
 * because the ranks keep together to within a few layers (LAYERS_AHEAD) while the system's cache
 * holds what one of them has read.
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

/* A hash of what the headers say: names, types, shapes and places of all tensors. Ranks that read the
 * same model have the same. */
uint64_t checkpoint_hash(const struct checkpoint *);

struct weights_progress {
	void (*report)(void *context, uint64_t done, uint64_t total); /* bytes of this rank */
	void *context;
};

struct weights_options {
	enum dtype dtype; /* of the backend's matrices; vectors become float32 */
	int threads;	  /* that read: no more than this rank has cores */
	struct activity *activity; /* told of layers and pieces; NULL: nobody watches */
	const struct weights_progress *progress; /* or NULL */
};

/* Collective over the ranks of `group`: reads this rank's part into the backend, not calling
 * load_end. Every rank returns the same result; a rank that can't read is named in the error by
 * group->agree, which is called after every layer. Adds the bytes that this rank read from files to
 * *bytes_read. Takes LOAD_PART_BYTES of memory for each thread while it runs, where types are
 * converted, and what the backend lends. */
int weights_load(struct checkpoint *, const struct model_config *, const struct shard *,
		 const struct group *, struct backend *, const struct weights_options *,
		 uint64_t *bytes_read, struct error *err);

/* The same with every byte of the model read once for the whole job, by one of the ranks of `world`,
 * and sent to those that hold it: for file systems that a whole cluster reads from. `world` is made of
 * replicas of shard->ranks neighbouring ranks each, of which this one is shard->rank. Agrees after every
 * 2 MiB a rank. Takes memory for what it reads ahead (LOAD_PART_BYTES a thread), for what it sends in
 * a round (as much for each replica) and for what it receives. */
int weights_broadcast(struct checkpoint *, const struct model_config *, const struct shard *,
		      const struct group *world, struct backend *, const struct weights_options *,
		      uint64_t *bytes_read, struct error *err);

/* The name of a tensor in a checkpoint, as "model.layers.3.mlp.up_proj.weight", into
 * name[size]. */
void weights_tensor_name(char *name, size_t size, enum backend_tensor tensor, int32_t layer);

#endif
