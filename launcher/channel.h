/*
 * channel.h - messages between world rank 0 and the leaders of the replicas, that never block.
 *
 * Rank 0 hands out work and takes results in while it leads a replica of its own, so nobody may
 * wait for anybody: a send keeps a copy until the other side has it, a receive says that nothing is
 * there. Rank 0 may write to itself, as the leader of the first replica. Messages from one rank to
 * another arrive in the order they were sent in. How many are under way is for the callers to
 * bound. Calls come from the main thread alone.
 */
#ifndef TPRUN_LAUNCHER_CHANNEL_H
#define TPRUN_LAUNCHER_CHANNEL_H

#include <stddef.h>

#include "runtime/base/group.h"

struct channel;

/* Collective on the world, whose leaders are the multiples of tp; other ranks have no further
 * use for it. The world must outlive it. */
int channel_open(struct channel **out, const struct group *world, int tp, struct error *err);
/* Collective too. What was not flushed may be lost. */
void channel_close(struct channel *);

/* Sends a copy of data[bytes], below 2^31, from rank 0 to a leader or from a leader to rank 0.
 * `kind`, from 0 to 32767, is the caller's own. */
int channel_send(struct channel *, int world_rank, int kind, const void *data, size_t bytes,
		 struct error *err);
/* 1 with the next message, 0 where there is none now, -1 with err. *data has a NUL after its end
 * and is borrowed until the next call on the channel. A request to stop that this process has seen
 * is told to rank 0 (mpi_group_stop_requested). */
int channel_receive(struct channel *, int *world_rank, int *kind, const char **data, size_t *bytes,
		    struct error *err);

/* A pause for when there is nothing to do: 50 us at first, and longer, up to 1 ms, until a message is
 * sent or received. */
void channel_idle(struct channel *);

/* Waits until all that was sent is out of this side's hands: a small message as soon as MPI has it
 * under way, a large one when the other side takes it. Takes what comes in meanwhile, for later
 * receives. After `seconds` it gives up and names a rank that does not take its message. */
int channel_flush(struct channel *, double seconds, struct error *err);

#endif
