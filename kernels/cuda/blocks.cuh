/*
 * blocks.cuh - the transformer's blocks, as backend.h lists them.
 */
#ifndef TPRUN_CUDA_BLOCKS_CUH
#define TPRUN_CUDA_BLOCKS_CUH

#include "kernels/backend.h"

int block_embed(struct backend *, struct error *err);
int block_qkv(struct backend *, int32_t layer, struct error *err);
int block_attend(struct backend *, int32_t layer, struct error *err);
int block_project_attention(struct backend *, int32_t layer, struct error *err);
int block_gate_up(struct backend *, int32_t layer, struct error *err);
int block_project_mlp(struct backend *, int32_t layer, struct error *err);
int block_logits(struct backend *, struct error *err);

/* Some kernel of this build, for asking what it was compiled for. */
const void *blocks_probe(void);

#endif
