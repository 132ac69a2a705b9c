/*
 * blocks.cuh - the transformer's blocks, as backend.h lists them.
 */
#ifndef TPRUN_CUDA_BLOCKS_CUH
#define TPRUN_CUDA_BLOCKS_CUH

#include "kernels/backend.h"

struct cuda_backend;

int block_embed(struct backend *, struct error *err);
int block_qkv(struct backend *, int32_t layer, struct error *err);
int block_attend(struct backend *, int32_t layer, struct error *err);
int block_project_attention(struct backend *, int32_t layer, struct error *err);
int block_gate_up(struct backend *, int32_t layer, struct error *err);
int block_project_mlp(struct backend *, int32_t layer, struct error *err);
int block_logits(struct backend *, struct error *err);

/* Brings all tokens of the step, and their residual, up to the last block that was called; a sum
 * through the peers' memory may still be owed. */
int blocks_join(struct cuda_backend *, struct error *err);

/* Some kernel of this build, for asking what it was compiled for. */
const void *blocks_probe(void);

#endif
