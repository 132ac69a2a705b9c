/*
 * kernels_body.h - the bodies of one table of kernels.h, included by kernels_*.c only.
 *
 * The includer gives LANES (floats of a vector), TILE_TOKENS (tokens whose sums fit into its
 * registers, four rows at a time), the types vec, vec4 and vec_loose, and the functions
 * load_f16, load_bf16, reduce4 and max_lanes.
 */
#include <math.h>

typedef uint32_t vec_bits __attribute__((vector_size(LANES * 4)));

/* Constant loop bounds reach these functions through inlining; unrolled, arrays of vectors
 * become registers. */
#define UNROLL _Pragma("GCC unroll 16")

static INLINE vec load(const void *data, size_t i, enum dtype dtype)
{
	if (dtype == DTYPE_BF16)
		return load_bf16((const uint16_t *)data + i);
	if (dtype == DTYPE_F16)
		return load_f16((const uint16_t *)data + i);
	return *(const vec_loose *)((const float *)data + i);
}

static INLINE void store(float *out, vec value)
{
	*(vec_loose *)out = value;
}

static INLINE vec splat(float value)
{
	return value - (vec){0};
}

/* mask ? yes : no, lane by lane; the masks are results of comparisons. */
#define SELECT(mask, yes, no)                                                                      \
	((vec)(((vec_bits)(mask) & (vec_bits)(yes)) | (~(vec_bits)(mask) & (vec_bits)(no))))

static INLINE float sum_lanes(vec v)
{
	return reduce4(v, v, v, v)[0];
}

/* e^x within 1 unit in the last place or so: 2^n e^r with |r| <= ln(2)/2, e^r by its Taylor
 * series, whose first term left out is 5e-9. Below the normal range the result is 0; it stops
 * growing at 88; NaN stays NaN. */
static INLINE vec exp_lanes(vec x)
{
	const float round_bits = 12582912.0f; /* 1.5 * 2^23: adding it leaves a rounded integer */
	vec low = (vec)(x < splat(-87.3f));
	x = SELECT(x > splat(88.0f), splat(88.0f), x);
	vec shifted = x * 1.44269504f + round_bits;
	vec n = shifted - round_bits;
	vec r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts, the first exact */
	vec power = (vec)(((vec_bits)shifted + 127) << 23);
	vec p = splat(1.0f / 5040);
	p = p * r + 1.0f / 720;
	p = p * r + 1.0f / 120;
	p = p * r + 1.0f / 24;
	p = p * r + 1.0f / 6;
	p = p * r + 0.5f;
	p = p * r + 1.0f;
	p = p * r + 1.0f;
	return SELECT(low, splat(0), p * power);
}

static INLINE void product_tile(enum dtype dtype, int rows, int tokens, const struct product *p,
				int row, int token)
{
	vec sum[4][TILE_TOKENS];
	UNROLL for (int r = 0; r < rows; r++)
		UNROLL for (int t = 0; t < tokens; t++)
			sum[r][t] = splat(0);
	size_t first = (size_t)row * p->weight_stride, ahead = 4 * p->weight_stride;
	const float *input = p->input + (size_t)token * p->input_stride;
	for (int k = 0; k < p->columns; k += LANES) {
		vec x[TILE_TOKENS];
		UNROLL for (int t = 0; t < tokens; t++)
			x[t] = load(input, t * p->input_stride + k, DTYPE_F32);
		UNROLL for (int r = 0; r < rows; r++) {
			size_t at = first + r * p->weight_stride + k;
			vec weight = load(p->weight, at, dtype);
			if (token == 0) /* short rows give the processor's own prefetcher no time */
				__builtin_prefetch((const char *)p->weight +
						   (at + ahead) * dtype_bytes(dtype));
			UNROLL for (int t = 0; t < tokens; t++)
				sum[r][t] += weight * x[t];
		}
	}
	float *out = p->out + (size_t)token * p->out_stride + row;
	UNROLL for (int t = 0; t < tokens; t++) {
		if (rows == 4) {
			vec4 four = reduce4(sum[0][t], sum[1][t], sum[2][t], sum[3][t]);
			memcpy(out + t * p->out_stride, &four, sizeof four);
		} else
			out[t * p->out_stride] = sum_lanes(sum[0][t]);
	}
}

static INLINE void product_rows(enum dtype dtype, int rows, const struct product *p, int row)
{
	for (int token = 0; token < p->tokens; token += TILE_TOKENS) {
		switch (p->tokens - token) {
		case 1: product_tile(dtype, rows, 1, p, row, token); break;
#if TILE_TOKENS > 2
		case 2: product_tile(dtype, rows, 2, p, row, token); break;
#endif
#if TILE_TOKENS > 3
		case 3: product_tile(dtype, rows, 3, p, row, token); break;
#endif
#if TILE_TOKENS > 4
		case 4: product_tile(dtype, rows, 4, p, row, token); break;
		case 5: product_tile(dtype, rows, 5, p, row, token); break;
#endif
		default: product_tile(dtype, rows, TILE_TOKENS, p, row, token);
		}
	}
}

static INLINE void product(enum dtype dtype, const struct product *p)
{
	int row = 0;
	for (; row + 4 <= p->rows; row += 4)
		product_rows(dtype, 4, p, row);
	for (; row < p->rows; row++)
		product_rows(dtype, 1, p, row);
}

static INLINE void weighted_sum_tile(enum dtype dtype, int rows, int width,
				     const struct weighted_sum *w, int row, int column)
{
	vec sum[4][2];
	float *out = w->out + (size_t)row * w->out_stride + column;
	const float *factor = w->factor + (size_t)row * w->factor_stride;
	UNROLL for (int r = 0; r < rows; r++)
		UNROLL for (int d = 0; d < width; d++)
			sum[r][d] = load(out, r * w->out_stride + d * LANES, DTYPE_F32);
	for (int j = 0; j < w->count; j++) {
		vec value[2];
		UNROLL for (int d = 0; d < width; d++)
			value[d] = load(w->value, j * w->value_stride + column + d * LANES, dtype);
		UNROLL for (int r = 0; r < rows; r++)
			UNROLL for (int d = 0; d < width; d++)
				sum[r][d] += factor[r * w->factor_stride + j] * value[d];
	}
	UNROLL for (int r = 0; r < rows; r++)
		UNROLL for (int d = 0; d < width; d++)
			store(out + r * w->out_stride + d * LANES, sum[r][d]);
}

static INLINE void weighted_sum_rows(enum dtype dtype, int rows, const struct weighted_sum *w,
				     int row)
{
	int column = 0;
	for (; column + 2 * LANES <= w->columns; column += 2 * LANES)
		weighted_sum_tile(dtype, rows, 2, w, row, column);
	if (column < w->columns)
		weighted_sum_tile(dtype, rows, 1, w, row, column);
}

static INLINE void weighted_sum(enum dtype dtype, const struct weighted_sum *w)
{
	for (int row = 0; row < w->rows; row += 4) {
		switch (w->rows - row) {
		case 1: weighted_sum_rows(dtype, 1, w, row); break;
		case 2: weighted_sum_rows(dtype, 2, w, row); break;
		case 3: weighted_sum_rows(dtype, 3, w, row); break;
		default: weighted_sum_rows(dtype, 4, w, row);
		}
	}
}

#define BY_DTYPE(suffix, dtype)                                                                    \
	static void product_##suffix(const struct product *p)                                      \
	{                                                                                          \
		product(dtype, p);                                                                 \
	}                                                                                          \
	static void weighted_sum_##suffix(const struct weighted_sum *w)                            \
	{                                                                                          \
		weighted_sum(dtype, w);                                                            \
	}

BY_DTYPE(f32, DTYPE_F32)
BY_DTYPE(f16, DTYPE_F16)
BY_DTYPE(bf16, DTYPE_BF16)

static void rms_norm(const float *in, const float *weight, int size, int count, float epsilon,
		     float *out)
{
	vec squares = splat(0);
	for (int i = 0; i < count; i += LANES) {
		vec x = load(in, i, DTYPE_F32);
		squares += x * x;
	}
	float factor = 1.0f / sqrtf(sum_lanes(squares) / (float)size + epsilon);
	for (int i = 0; i < count; i += LANES)
		store(out + i, load(in, i, DTYPE_F32) * factor * load(weight, i, DTYPE_F32));
}

static void silu_multiply(float *gate, const float *up, const float *gate_bias,
			  const float *up_bias, int count)
{
	for (int i = 0; i < count; i += LANES) {
		vec g = load(gate, i, DTYPE_F32) + load(gate_bias, i, DTYPE_F32);
		vec u = load(up, i, DTYPE_F32) + load(up_bias, i, DTYPE_F32);
		store(gate + i, g / (1.0f + exp_lanes(-g)) * u);
	}
}

static float softmax_step(float *scores, int from, int to, float scale, float *max, float *sum)
{
	for (int i = 0; i < from; i++)
		scores[i] = -INFINITY;
	for (int i = to; i < STRIP; i++)
		scores[i] = -INFINITY;
	vec largest = splat(*max);
	for (int i = 0; i < STRIP; i += LANES) {
		vec score = load(scores, i, DTYPE_F32) * scale;
		largest = SELECT(score > largest, score, largest);
		store(scores + i, score);
	}
	float new_max = max_lanes(largest);
	vec total = splat(0);
	for (int i = 0; i < STRIP; i += LANES) {
		vec p = exp_lanes(load(scores, i, DTYPE_F32) - new_max);
		total += p;
		store(scores + i, p);
	}
	float correction = *max == new_max ? 1.0f : exp_lanes(splat(*max - new_max))[0];
	*max = new_max;
	*sum = *sum * correction + sum_lanes(total);
	return correction;
}

static double exp_sum(const float *x, size_t count, float base)
{
	double sum = 0;
	for (size_t i = 0; i < count;) {
		vec part = splat(0);
		size_t end = count - i < 4096 ? count : i + 4096;
		for (; i < end; i += LANES)
			part += exp_lanes(load(x, i, DTYPE_F32) - base);
		sum += sum_lanes(part);
	}
	return sum;
}

static const struct cpu_kernels table = {
	.name = NAME,
	.product = {product_f32, product_f16, product_bf16},
	.weighted_sum = {weighted_sum_f32, weighted_sum_f16, weighted_sum_bf16},
	.rms_norm = rms_norm,
	.silu_multiply = silu_multiply,
	.softmax_step = softmax_step,
	.exp_sum = exp_sum,
};
