/* The kernels in the compilers' vector extensions alone, for any processor; and the choice. */
#include "kernels/cpu/kernels.h"

#define LANES 4
#define TILE_TOKENS 2
#define NAME "portable"
#define INLINE inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(16)));
typedef float vec_loose __attribute__((vector_size(16), aligned(4), may_alias));
typedef vec vec4;

static INLINE vec load_f16(const uint16_t *data)
{
#ifdef __aarch64__ /* has the conversion as an instruction */
	const __fp16 *half = (const __fp16 *)data;
	return (vec){half[0], half[1], half[2], half[3]};
#else
	return (vec){f16_to_f32(data[0]), f16_to_f32(data[1]), f16_to_f32(data[2]),
		     f16_to_f32(data[3])};
#endif
}

static INLINE vec load_bf16(const uint16_t *data)
{
	return (vec){bf16_to_f32(data[0]), bf16_to_f32(data[1]), bf16_to_f32(data[2]),
		     bf16_to_f32(data[3])};
}

/* The sums of the lanes of four vectors. */
static INLINE vec4 reduce4(vec a, vec b, vec c, vec d)
{
	return (vec){(a[0] + a[2]) + (a[1] + a[3]), (b[0] + b[2]) + (b[1] + b[3]),
		     (c[0] + c[2]) + (c[1] + c[3]), (d[0] + d[2]) + (d[1] + d[3])};
}

static INLINE float max_lanes(vec v)
{
	float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
	return a > b ? a : b;
}

#include "kernels/cpu/kernels_body.h"

const struct cpu_kernels *cpu_kernels_portable(void)
{
	return &table;
}

const struct cpu_kernels *cpu_kernels_best(void)
{
	const struct cpu_kernels *found = cpu_kernels_avx512();
	if (!found)
		found = cpu_kernels_avx2();
	return found ? found : cpu_kernels_portable();
}
