/* The kernels for x86 processors with AVX2, FMA and F16C (since 2013). */
#include "kernels/cpu/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LANES 8
#define TILE_TOKENS 3
#define NAME "avx2"
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define INLINE inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(32)));
typedef float vec_loose __attribute__((vector_size(32), aligned(4), may_alias));
typedef float vec4 __attribute__((vector_size(16)));

static INLINE vec load_f16(const uint16_t *data)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)data));
}

static INLINE vec load_bf16(const uint16_t *data)
{
	__m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)data));
	return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* The sums of the lanes of four vectors; see kernels_avx512.c. */
static INLINE vec4 reduce4(vec a, vec b, vec c, vec d)
{
	__m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
	__m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
	__m256 sums = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
	return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

static INLINE float max_lanes(vec v)
{
	__m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	__m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
	return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#include "kernels/cpu/kernels_body.h"

#ifdef __clang__
#pragma clang attribute pop
#endif

const struct cpu_kernels *cpu_kernels_avx2(void)
{
	/* Every processor with AVX2 and FMA has F16C, which older compilers cannot ask for. */
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &table : NULL;
}
#else
const struct cpu_kernels *cpu_kernels_avx2(void)
{
	return NULL;
}
#endif
