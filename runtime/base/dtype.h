/*
 * dtype.h - the element types of weights and caches, and their conversion to float32.
 */
#ifndef TPRUN_BASE_DTYPE_H
#define TPRUN_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };

/* Bytes of one element. */
static inline size_t dtype_bytes(enum dtype dtype)
{
	return dtype == DTYPE_F32 ? 4 : 2;
}

/* "float32", "float16", "bfloat16": the names that config.json uses. */
const char *dtype_name(enum dtype dtype);

static inline float bf16_to_f32(uint16_t bits)
{
	uint32_t wide = (uint32_t)bits << 16;
	float value;
	memcpy(&value, &wide, sizeof value);
	return value;
}

/* Rounds to nearest, ties to even; a NaN stays a NaN. */
static inline uint16_t f32_to_bf16(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, sizeof bits);
	if ((bits & 0x7fffffffu) > 0x7f800000u)
		return (uint16_t)(bits >> 16 | 0x40);
	return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

float f16_to_f32(uint16_t bits);
/* Rounds to nearest, ties to even; beyond 65,504 it becomes infinity. */
uint16_t f32_to_f16(float value);

/* Converts `count` elements from one type to another (the same one: copies). */
void dtype_convert(const void *source, enum dtype from, void *target, enum dtype to, size_t count);

#ifdef __cplusplus
}
#endif
#endif
