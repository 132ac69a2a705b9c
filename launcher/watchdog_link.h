/*
 * watchdog_link.h - the connections that the ranks' watchdogs talk over: TCP, from each rank to rank 0.
 *
 * Nothing here knows MPI or blocks, but for link_connect.
 */
#ifndef TPRUN_LAUNCHER_WATCHDOG_LINK_H
#define TPRUN_LAUNCHER_WATCHDOG_LINK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/error.h"

enum { MEETING_ADDRESSES = 8 };

/* Where rank 0 listens: plain data, that travels over MPI. The token tells ranks from strangers. */
struct meeting {
	uint64_t token;
	int32_t count; /* 0: rank 0 could not listen */
	union meeting_address {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} addresses[MEETING_ADDRESSES];
};

enum beat_kind {
	BEAT_HERE, /* alive; also the first words of a rank that connects */
	BEAT_BYE,  /* ended in order */
	BEAT_GONE, /* ends now, because it was asked to stop */
	BEAT_FAILED, /* the run has failed, which the sender has told, and it ends now */
	BEAT_END,  /* from rank 0: all ranks are to end at once */
};

/* What goes over a link, as it lies in memory: the ranks of a run are of one build. */
struct beat {
	uint64_t token, step, count, arrivals;
	int32_t kind, rank, leader, phase, layer;
	char host[64], device[124];
};

struct link {
	int fd;	  /* -1: none */
	int rank; /* -1: it has not said yet */
	size_t filled;
	struct beat beat; /* as it comes in */
};

/* Listens on this host's loopback address where all ranks are here, else on all of its addresses.
 * *fd is the caller's. */
int link_listen(int *fd, struct meeting *, bool loopback, struct error *err);
/* A connection that waits there, or -1. */
int link_accept(int listener);
/* Tries rank 0's addresses in turn, `seconds` in all, 0: without end. *fd is the caller's. */
int link_connect(int *fd, const struct meeting *, double seconds, struct error *err);
/* May be called in a signal's handler. False where the connection is broken. */
bool link_send(int fd, const struct beat *);
/* 1: link->beat is whole; 0: nothing yet; -1: the connection has ended. */
int link_receive(struct link *);
void link_close(struct link *);

/* True on the first of this job's processes on this host to call it, as long as that lives: who speaks where
 * all would say the same and cannot talk to each other. */
bool link_claim(void);

#endif
