/*
 * session_sizes.h - how large the steps and the cache of a session become.
 */
#ifndef TPRUN_LAUNCHER_SESSION_SIZES_H
#define TPRUN_LAUNCHER_SESSION_SIZES_H

#include "launcher/session.h"

/* Fills in what the sizes leave open, and the blocks of the cache, from what is asked and the memory of all
 * ranks' devices: see struct session_sizes. Collective over the world. */
int session_choose_sizes(const struct session *, struct session_sizes *, int32_t *kv_blocks, struct error *err);
/* What can't fit is refused before a byte of weights is read. */
int session_check_memory(const struct session *, const struct session_sizes *, int32_t kv_blocks,
			 struct error *err);

#endif
