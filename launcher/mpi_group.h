/*
 * mpi_group.h - the ranks of a run as a `struct group` over MPI.
 *
 * Started by mpirun or srun, or without either as one rank. The local rank comes from MPI's own
 * split by shared memory, not from the environment of one launcher.
 *
 * All ranks together are the world. It may be split into replicas, each a group of its own that
 * holds the whole model: broadcasts, gathers, exchanges and sums stay within the replica, while
 * agreements and aborts, which end a run, are always those of the world and name its ranks. Local
 * ranks, hosts and nodes stay those of the world too.
 */
#ifndef TPRUN_LAUNCHER_MPI_GROUP_H
#define TPRUN_LAUNCHER_MPI_GROUP_H

#include <stdbool.h>

#include "launcher/log.h"
#include "launcher/stop_request.h"
#include "runtime/base/activity.h"
#include "runtime/base/group.h"

enum { HOST_NAME_MAX_BYTES = 64 };

/* Starts MPI (MPI_THREAD_FUNNELED), once a process. An ERROR_USAGE, on all ranks alike, where a
 * launcher started several tasks and MPI finds each of them alone. */
int mpi_group_open(struct group **out, struct error *err);
/* Of the world: ends MPI; collective, after the last call on any group. Of a replica: collective
 * among its ranks, before that. */
void mpi_group_close(struct group *);

/* Collective: replicas of `tp` neighbouring ranks each, of which *out is this rank's; its rank 0,
 * world rank r * tp, leads it. An ERROR_USAGE where tp does not divide the world. The world must
 * outlive it. */
int mpi_group_split(struct group **out, const struct group *world, int tp, struct error *err);
/* Collective: the tp of replicas that fill a node each. An ERROR_USAGE that asks for --tp where the
 * nodes have unlike numbers of ranks, or those of a node are not neighbours. */
int mpi_group_default_tp(const struct group *world, int *tp, struct error *err);

/* Collective, once, on the world, after stop_request_open on every rank: from here on a request to stop
 * that any rank has seen reaches world rank 0, and through it all ranks, as each comes to wait in a
 * call of a group or to ask mpi_group_stop_requested. */
int mpi_group_watch_stop(struct group *world, struct error *err);
/* The strongest request known here; never blocks. World rank 0, and whoever sits in no call of a
 * group for long, must ask now and then, for the requests to get on. */
enum stop_request mpi_group_stop_requested(const struct group *);

/* On the world: what this rank tells others of itself, and the watchdog that looks at it; both borrowed,
 * and NULL at first. Arrivals at collective calls are told here, phases by whoever is in them. */
struct watchdog;
void mpi_group_watch(struct group *world, struct activity *, struct watchdog *);
struct activity *mpi_group_activity(const struct group *);
struct watchdog *mpi_group_watchdog(const struct group *);

/* The name of this rank's host, and the rank that stands for its node (its local rank 0). */
const char *mpi_group_host(const struct group *);
int mpi_group_node(const struct group *);

/* Whether this rank shares its cores with other ranks: then a wait gives the core away instead of
 * spinning. At first that is guessed from the node's cores. */
void mpi_group_share_cores(struct group *, bool shared);

/* Seconds that this rank has spent in the sums of the group so far, waiting for the others included. */
double mpi_group_sum_seconds(const struct group *);

/* How the group's abort speaks; copied. At first as without any option. */
void mpi_group_log(struct group *world, const struct log *);

/* The least of the ranks' values, on all ranks of the group. */
int mpi_group_least(const struct group *, int value, int *out, struct error *err);

/* Every rank's `bytes` in rank order into out[size * bytes], on all ranks. */
int mpi_group_all_gather(const struct group *, const void *data, size_t bytes, void *out,
			 struct error *err);

#endif
