/*
 * mpi_group.h - the ranks of a run as a `struct group` over MPI.
 *
 * Started by mpirun or srun, or without either as one rank. The local rank comes from MPI's own
 * split by shared memory, not from the environment of one launcher.
 */
#ifndef TPRUN_LAUNCHER_MPI_GROUP_H
#define TPRUN_LAUNCHER_MPI_GROUP_H

#include <stdbool.h>

#include "runtime/base/group.h"

enum { HOST_NAME_MAX_BYTES = 64 };

/* Starts MPI (MPI_THREAD_FUNNELED), once a process. */
int mpi_group_open(struct group **out, struct error *err);
/* Ends MPI: collective, after the last call on the group. */
void mpi_group_close(struct group *);

/* The name of this rank's host, and the rank that stands for its node (its local rank 0). */
const char *mpi_group_host(const struct group *);
int mpi_group_node(const struct group *);

/* Whether this rank shares its cores with other ranks: then a wait gives the core away instead of
 * spinning. At first that is guessed from the node's cores. */
void mpi_group_share_cores(struct group *, bool shared);

/* Every rank's `bytes` in rank order into out[size * bytes], on all ranks. */
int mpi_group_all_gather(const struct group *, const void *data, size_t bytes, void *out,
			 struct error *err);

/* What the environment of a launcher (Open MPI, MPICH, Slurm) says before MPI is started: a hint for
 * the commands that never start it. size is 0 where there is no launcher. */
struct launch_hint {
	int rank, size;
};
struct launch_hint launch_hint(void);

#endif
