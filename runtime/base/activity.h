/*
 * activity.h - what a rank is doing, told by its main thread for others to read at any moment: the
 * watchdog's thread, a signal's handler.
 *
 * Writers and readers share nothing but these atomics. A NULL activity is one that nobody watches.
 */
#ifndef TPRUN_RUNTIME_ACTIVITY_H
#define TPRUN_RUNTIME_ACTIVITY_H

#include <stdint.h>
#include <time.h>

#ifndef __cplusplus
#include <stdatomic.h>

/* In the order of a run; IDLE, PREFILL and DECODE alternate. */
enum activity_phase {
	ACTIVITY_MPI,		/* joining the other ranks */
	ACTIVITY_MODEL,		/* reading the model's headers */
	ACTIVITY_DEVICE,	/* placement, opening the device */
	ACTIVITY_CONNECT,	/* opening what sums over the ranks go through, and trying it */
	ACTIVITY_LOAD,		/* reading weights */
	ACTIVITY_IDLE,		/* waiting for work: no progress is due */
	ACTIVITY_PREFILL,	/* a step that brings prompts */
	ACTIVITY_DECODE,	/* a step of one token a sequence */
	ACTIVITY_STOP,		/* closing */
	ACTIVITY_PHASES,
};

struct activity {
	_Atomic int phase;
	_Atomic int layer;	   /* of a step or of loading; -1 between */
	_Atomic uint64_t step;	   /* steps begun */
	_Atomic uint64_t count;	   /* any progress makes it grow: a phase, a layer, a part read */
	_Atomic uint64_t arrivals; /* at calls that all ranks of a group make together: who lags has fewer */
	_Atomic int64_t since_ns;  /* CLOCK_MONOTONIC of the last progress; 0: none yet */
#ifdef TPRUN_FAULTS
	void (*entered)(struct activity *, int phase); /* where a test puts its fault */
	_Atomic int failing; /* the step is to fail */
#endif
};

/* Progress within a phase. Any thread may tell. */
static inline void activity_progress(struct activity *a)
{
	struct timespec now;
	if (!a)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	atomic_store_explicit(&a->since_ns, now.tv_sec * INT64_C(1000000000) + now.tv_nsec,
			      memory_order_relaxed);
	atomic_fetch_add_explicit(&a->count, 1, memory_order_relaxed);
}

static inline void activity_enter(struct activity *a, enum activity_phase phase)
{
	if (!a)
		return;
	atomic_store_explicit(&a->layer, -1, memory_order_relaxed);
	if (phase == ACTIVITY_PREFILL || phase == ACTIVITY_DECODE)
		atomic_fetch_add_explicit(&a->step, 1, memory_order_relaxed);
	activity_progress(a);
	atomic_store_explicit(&a->phase, (int)phase, memory_order_release);
#ifdef TPRUN_FAULTS
	if (a->entered)
		a->entered(a, (int)phase);
#endif
}

static inline void activity_at_layer(struct activity *a, int layer)
{
	if (!a)
		return;
	atomic_store_explicit(&a->layer, layer, memory_order_relaxed);
	activity_progress(a);
}

static inline void activity_arrive(struct activity *a)
{
	if (a)
		atomic_fetch_add_explicit(&a->arrivals, 1, memory_order_relaxed);
}

static inline const char *activity_name(int phase)
{
	static const char *const names[ACTIVITY_PHASES] = {
		"joining the other ranks", "reading the model's headers", "opening its device",
		"connecting the ranks", "loading weights", "waiting for work", "in prefill", "in decode",
		"closing",
	};
	return phase >= 0 && phase < ACTIVITY_PHASES ? names[phase] : "?";
}

#else
struct activity; /* C++ hands it on, and no more */
#endif

#endif
