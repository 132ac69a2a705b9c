/*
 * profile.h - names ranges of this thread's time for a profiler.
 *
 * Whoever runs something worth seeing marks it; what a mark becomes is the profiler's business
 * (kernels/cuda/nvtx.cu). A NULL profile is one that nobody looks at, and costs a comparison.
 */
#ifndef TPRUN_BASE_PROFILE_H
#define TPRUN_BASE_PROFILE_H

#ifdef __cplusplus
extern "C" {
#endif

struct profile {
	void (*begin)(const char *name);
	void (*end)(void);
};

/* Ranges of a thread nest; each begin has its end. */
static inline void profile_begin(const struct profile *profile, const char *name)
{
	if (profile)
		profile->begin(name);
}

static inline void profile_end(const struct profile *profile)
{
	if (profile)
		profile->end();
}

#ifdef __cplusplus
}
#endif
#endif
