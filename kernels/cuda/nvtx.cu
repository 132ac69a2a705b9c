/*
 * nvtx.cu - the ranges of --profile as NVTX ranges, which Nsight Systems draws above the kernels.
 *
 * NVTX is headers alone: without a profiler its calls return at once.
 */
#include "kernels/cuda/cuda.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>

static void nvtx_begin(const char *name)
{
	nvtxRangePushA(name);
}

static void nvtx_end(void)
{
	nvtxRangePop();
}

const struct profile *cuda_profile(void)
{
	static const struct profile profile = {nvtx_begin, nvtx_end};
	return &profile;
}
#else
const struct profile *cuda_profile(void)
{
	return NULL;
}
#endif
