/*
 * group.h - the ranks of a run, as the runtime and the kernels see them.
 *
 * The launcher fills this struct (over MPI, or for a single rank with copies), so that
 * nothing below it knows MPI. Every call but abort is collective: all ranks call it in
 * the same order. They are called from the main thread alone. Sums are taken in one
 * fixed order, so every rank gets the same bits and so does every run.
 */
#ifndef TPRUN_BASE_GROUP_H
#define TPRUN_BASE_GROUP_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct group {
	int rank, size;
	int local_rank, local_size; /* among the ranks that share this node's memory */
	void *context;		    /* the launcher's own */

	/* Copies `bytes` from rank `root` to all. A rank that waits spins shortly, then sleeps
	 * between looks, so that idle ranks leave their cores alone. */
	int (*broadcast)(const struct group *, void *data, size_t bytes, int root, struct error *err);
	/* Rank 0 gets all ranks' `bytes`, in rank order, in out[size * bytes]; others pass NULL. */
	int (*gather)(const struct group *, const void *data, size_t bytes, void *out,
		      struct error *err);
	/* Every rank sends send_bytes[r] bytes to rank r and gets receive_bytes[r] from it. Both
	 * buffers hold the parts in rank order without gaps; all sums stay below 2^31. */
	int (*exchange)(const struct group *, const void *send, const size_t *send_bytes,
			void *receive, const size_t *receive_bytes, struct error *err);
	/* Adds data[count] over the ranks, in place. */
	int (*sum)(const struct group *, float *data, size_t count, struct error *err);
	/* Ends a start-up phase: `result` is this rank's 0 or -1, err its error. Returns 0 on all
	 * ranks, or -1 on all, with the first failing rank's error (its rank and host named,
	 * unless all ranks failed alike). */
	int (*agree)(const struct group *, int result, struct error *err);
	/* Prints err and ends all ranks; does not return. */
	void (*abort)(const struct group *, const struct error *err) __attribute__((noreturn));
};

#ifdef __cplusplus
}
#endif
#endif
