/*
 * known_sum.h - values whose sum over the ranks everybody knows: what the ranks add up through is tried
 * with them before anything is built upon it.
 */
#ifndef TPRUN_BASE_KNOWN_SUM_H
#define TPRUN_BASE_KNOWN_SUM_H

#include <stddef.h>

#include "runtime/base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A rank's parts out[count]. They and all they add up to, in whatever order, are whole numbers up to
 * 256, which any 16-bit type holds. Tries with different `turn`s, from 0, differ, so that what is left
 * from one is no right answer of the next. */
void known_parts(float *out, size_t count, int rank, int ranks, int turn);
/* Fails where some of sums[count] is not what all ranks' parts add up to. */
int known_sums_check(const float *sums, size_t count, int ranks, int turn, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
