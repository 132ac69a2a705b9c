/*
 * random_weight.h - the weights of a model that exists only as a shape.
 *
 * A weight is a function of (seed, tensor, layer, row, column) in the whole model's
 * coordinates, so that every rank count and every backend makes the same model. Uniform
 * in ±sqrt(3/columns): activations keep their size through a projection. The bits are
 * SplitMix64's finalizer (Steele, Lea, Flood 2014) over the packed coordinates.
 */
#ifndef TPRUN_KERNELS_RANDOM_WEIGHT_H
#define TPRUN_KERNELS_RANDOM_WEIGHT_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define RANDOM_WEIGHT_INLINE __host__ __device__ static inline
#else
#define RANDOM_WEIGHT_INLINE static inline
#endif

RANDOM_WEIGHT_INLINE uint64_t random_weight_mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* The stream of one tensor; compute it once, not for every element. */
RANDOM_WEIGHT_INLINE uint64_t random_weight_stream(uint64_t seed, int tensor, int layer)
{
	uint64_t key = (uint64_t)(uint32_t)tensor << 32 | (uint32_t)layer;
	return random_weight_mix(seed + 0x9e3779b97f4a7c15ull * (key + 1));
}

/* In [-1, 1), a multiple of 2^-23: the same in float32 everywhere. */
RANDOM_WEIGHT_INLINE float random_weight_unit(uint64_t stream, int64_t row, int64_t column)
{
	uint64_t bits = random_weight_mix(stream + ((uint64_t)row << 32 | (uint64_t)column));
	return (float)(int32_t)(bits >> 40) * 0x1p-23f - 1.0f;
}

/* The factor for random_weight_unit; `columns` is the whole tensor's. */
RANDOM_WEIGHT_INLINE float random_weight_scale(int64_t columns)
{
	return (float)sqrt(3.0 / (double)columns);
}

/* The factor for biases: element `column` of a bias vector is this times the unit at row 0. */
#define RANDOM_BIAS_SCALE 0.0625f

#endif
