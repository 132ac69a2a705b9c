#include "runtime/base/dtype.h"

const char *dtype_name(enum dtype dtype)
{
	switch (dtype) {
	case DTYPE_F32:
		return "float32";
	case DTYPE_F16:
		return "float16";
	case DTYPE_BF16:
		return "bfloat16";
	}
	return "unknown";
}

static float float_of_bits(uint32_t bits)
{
	float value;
	memcpy(&value, &bits, sizeof value);
	return value;
}

float f16_to_f32(uint16_t bits)
{
	uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31;
	uint32_t mantissa = bits & 0x3ff;
	if (exponent == 31)
		return float_of_bits(sign | 0x7f800000u | mantissa << 13);
	if (exponent)
		return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
	/* Subnormal: the mantissa counts units of 2^-24, which float32 holds exactly. */
	float magnitude = (float)mantissa * 0x1p-24f;
	return sign ? -magnitude : magnitude;
}

uint16_t f32_to_f16(float value)
{
	uint32_t bits;
	memcpy(&bits, &value, sizeof bits);
	uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
	if (magnitude > 0x7f800000u)
		return (uint16_t)(sign | 0x7e00);
	if (magnitude >= 0x477ff000u) /* 65,520 and more round to infinity */
		return (uint16_t)(sign | 0x7c00);
	if (magnitude < 0x38800000u) {
		/* Below 2^-14: adding 0.5 lines the result's bits up at the mantissa's end, rounded. */
		float shifted = float_of_bits(magnitude) + 0.5f;
		memcpy(&bits, &shifted, sizeof bits);
		return (uint16_t)(sign | (bits - 0x3f000000u));
	}
	magnitude += 0xfff + (magnitude >> 13 & 1) - (112u << 23);
	return (uint16_t)(sign | magnitude >> 13);
}

/* One loop for each pair of types, so that the choice is made once and the loop is vectorized. */
#define CONVERT(FROM, TO, value)                                                                   \
	do {                                                                                       \
		const FROM *in = source;                                                           \
		TO *out = target;                                                                  \
		for (size_t i = 0; i < count; i++)                                                 \
			out[i] = (value);                                                          \
	} while (0)

void dtype_convert(const void *source, enum dtype from, void *target, enum dtype to, size_t count)
{
	if (from == to)
		memcpy(target, source, count * dtype_bytes(from));
	else if (from == DTYPE_BF16 && to == DTYPE_F32)
		CONVERT(uint16_t, float, bf16_to_f32(in[i]));
	else if (from == DTYPE_F16 && to == DTYPE_F32)
		CONVERT(uint16_t, float, f16_to_f32(in[i]));
	else if (from == DTYPE_F32 && to == DTYPE_BF16)
		CONVERT(float, uint16_t, f32_to_bf16(in[i]));
	else if (from == DTYPE_F32 && to == DTYPE_F16)
		CONVERT(float, uint16_t, f32_to_f16(in[i]));
	else if (from == DTYPE_F16 && to == DTYPE_BF16)
		CONVERT(uint16_t, uint16_t, f32_to_bf16(f16_to_f32(in[i])));
	else
		CONVERT(uint16_t, uint16_t, f32_to_f16(bf16_to_f32(in[i])));
}
