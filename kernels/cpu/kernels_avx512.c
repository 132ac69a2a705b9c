/* The kernels for processors with AVX-512 (Intel since 2017, AMD since 2022). */
#include "kernels/cpu/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LANES 16
#define TILE_TOKENS 6
#define NAME "avx512"
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), \
			     apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#endif
#define INLINE inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(64)));
typedef float vec_loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef float vec4 __attribute__((vector_size(16)));

static INLINE vec load_f16(const uint16_t *data)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)data));
}

static INLINE vec load_bf16(const uint16_t *data)
{
	__m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)data));
	return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* The sums of the lanes of four vectors: two rounds fold them into quarters that hold one
 * partial sum of each, then the quarters are added. */
static INLINE vec4 reduce4(vec a, vec b, vec c, vec d)
{
	__m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
	__m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
	__m512 sums = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
	__m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
	return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

static INLINE float max_lanes(vec v)
{
	return _mm512_reduce_max_ps(v);
}

#include "kernels/cpu/kernels_body.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

const struct cpu_kernels *cpu_kernels_avx512(void)
{
	bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
	return has ? &table : NULL;
}
#else
const struct cpu_kernels *cpu_kernels_avx512(void)
{
	return NULL;
}
#endif
