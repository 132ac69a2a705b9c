/* Every table of CPU kernels that this machine can run, against float64. */
#define TEST_SUITE "cpu_kernels"
#include "kernels/cpu/kernels.h"
#include "tests/test.h"

static const struct cpu_kernels *tables[3];
static int table_count;

/* `count` normal values, as stored in a type and as they come back. */
static void *stored(size_t count, enum dtype dtype, double **values)
{
	void *data = calloc(count + 1, dtype_bytes(dtype));
	*values = calloc(count + 1, sizeof **values);
	if (!data || !*values)
		abort();
	for (size_t i = 0; i < count; i++) {
		float value = (float)test_normal();
		char *place = (char *)data + i * dtype_bytes(dtype);
		dtype_convert(&value, DTYPE_F32, place, dtype, 1);
		dtype_convert(place, dtype, &value, DTYPE_F32, 1);
		(*values)[i] = value;
	}
	return data;
}

static void check_product(const struct cpu_kernels *k, enum dtype dtype)
{
	struct product p = {.rows = (int)test_int(1, 21), .tokens = (int)test_int(1, 20),
			    .columns = ROUND_LANES * (int)test_int(1, 20)};
	p.weight_stride = (size_t)p.columns + ROUND_LANES * (size_t)test_int(0, 2);
	p.input_stride = (size_t)p.columns + ROUND_LANES * (size_t)test_int(0, 2);
	p.out_stride = (size_t)p.rows + (size_t)test_int(0, 3);
	double *weight, *input;
	void *stored_weight = stored(p.weight_stride * (size_t)p.rows, dtype, &weight);
	float *stored_input = stored(p.input_stride * (size_t)p.tokens, DTYPE_F32, &input);
	size_t outs = p.out_stride * (size_t)p.tokens;
	p.weight = stored_weight, p.input = stored_input;
	p.out = calloc(outs + 1, sizeof *p.out);
	for (size_t i = 0; i < outs; i++)
		p.out[i] = 77;
	k->product[dtype](&p);
	for (int t = 0; t < p.tokens; t++) {
		for (size_t r = 0; r < p.out_stride; r++) {
			double want = (int)r < p.rows ? 0 : 77; /* beyond the rows nothing is written */
			for (int c = 0; c < p.columns && (int)r < p.rows; c++)
				want += weight[r * p.weight_stride + (size_t)c] *
					input[(size_t)t * p.input_stride + (size_t)c];
			float have = p.out[(size_t)t * p.out_stride + r];
			CHECK_MSG(fabs(have - want) < 1e-6 * p.columns, "%s: %g, expected %g", k->name, have,
				  want);
		}
	}
	free(stored_weight), free(stored_input), free(weight), free(input), free(p.out);
}

static void check_weighted_sum(const struct cpu_kernels *k, enum dtype dtype)
{
	struct weighted_sum w = {.rows = (int)test_int(1, 13), .count = (int)test_int(1, 16),
				 .columns = ROUND_LANES * (int)test_int(1, 16)};
	w.factor_stride = STRIP;
	w.value_stride = (size_t)w.columns;
	w.out_stride = (size_t)w.columns + ROUND_LANES;
	double *factor, *value, *before;
	float *stored_factor = stored(STRIP * (size_t)w.rows, DTYPE_F32, &factor);
	void *stored_value = stored(w.value_stride * (size_t)w.count, dtype, &value);
	w.factor = stored_factor, w.value = stored_value;
	w.out = stored(w.out_stride * (size_t)w.rows, DTYPE_F32, &before);
	k->weighted_sum[dtype](&w);
	for (size_t r = 0; r < (size_t)w.rows; r++) {
		for (size_t c = 0; c < w.out_stride; c++) {
			double want = before[r * w.out_stride + c];
			for (int j = 0; j < w.count && c < (size_t)w.columns; j++)
				want += factor[r * STRIP + (size_t)j] * value[(size_t)j * w.value_stride + c];
			float have = w.out[r * w.out_stride + c];
			CHECK_MSG(fabs(have - want) < 1e-5, "%s: %g, expected %g", k->name, have, want);
		}
	}
	free(stored_factor), free(stored_value), free(w.out), free(factor), free(value), free(before);
}

static void products_match_float64(void)
{
	for (int i = 0; i < table_count; i++)
		for (int round = 0; round < 120; round++)
			check_product(tables[i], (enum dtype)(round % 3));
}

static void weighted_sums_match_float64(void)
{
	for (int i = 0; i < table_count; i++)
		for (int round = 0; round < 120; round++)
			check_weighted_sum(tables[i], (enum dtype)(round % 3));
}

/* Every finite 16-bit pattern, subnormal ones too, is multiplied exactly by 1. */
static void all_16_bit_values_are_widened_exactly(void)
{
	static uint16_t bits[65536 * ROUND_LANES];
	static float out[65536];
	float one[ROUND_LANES] = {1};
	struct product p = {.weight = bits, .weight_stride = ROUND_LANES, .rows = 65536,
			    .columns = ROUND_LANES, .tokens = 1, .input = one,
			    .input_stride = ROUND_LANES, .out = out, .out_stride = 65536};
	for (size_t i = 0; i < 65536; i++)
		bits[i * ROUND_LANES] = (uint16_t)i;
	for (int i = 0; i < table_count; i++) {
		for (int dtype = DTYPE_F16; dtype <= DTYPE_BF16; dtype++) {
			tables[i]->product[dtype](&p);
			for (size_t v = 0; v < 65536; v++) {
				uint16_t half = (uint16_t)v;
				float want;
				dtype_convert(&half, (enum dtype)dtype, &want, DTYPE_F32, 1);
				if (isnan(want))
					CHECK_MSG(isnan(out[v]), "%s: %#zx is no NaN", tables[i]->name, v);
				else
					CHECK_MSG(out[v] == want, "%s: %#zx is %g, expected %g", tables[i]->name,
						  v, out[v], want);
			}
		}
	}
}

static void norm_matches_float64(void)
{
	for (int round = 0; round < 60; round++) {
		int size = (int)test_int(1, 300), count = (size + 15) / 16 * 16;
		double *x, *weight, squares = 0;
		float *in = stored((size_t)count, DTYPE_F32, &x);
		float *scale = stored((size_t)count, DTYPE_F32, &weight);
		float out[304];
		for (int i = 0; i < count; i++)
			if (i >= size)
				in[i] = scale[i] = 0, x[i] = weight[i] = 0;
		for (int i = 0; i < size; i++)
			squares += x[i] * x[i];
		double factor = 1 / sqrt(squares / size + 1e-5);
		tables[round % table_count]->rms_norm(in, scale, size, count, 1e-5f, out);
		for (int i = 0; i < count; i++)
			CHECK(fabs(out[i] - x[i] * factor * weight[i]) <= 1e-5);
		free(in), free(scale), free(x), free(weight);
	}
}

static void silu_matches_float64(void)
{
	enum { COUNT = 4096 };
	static float gate[COUNT], up[COUNT], gate_bias[COUNT], up_bias[COUNT], raw[COUNT];
	for (int i = 0; i < table_count; i++) {
		for (int j = 0; j < COUNT; j++) {
			raw[j] = gate[j] = (float)(200 * test_real() - 100) * (j % 2 ? 1 : 0.05f);
			up[j] = (float)test_normal();
			gate_bias[j] = (float)test_normal();
			up_bias[j] = (float)test_normal();
		}
		gate[5] = NAN;
		tables[i]->silu_multiply(gate, up, gate_bias, up_bias, COUNT);
		for (int j = 0; j < COUNT; j++) {
			double g = raw[j] + gate_bias[j];
			double want = g / (1 + exp(-g)) * ((double)up[j] + up_bias[j]);
			if (j != 5)
				CHECK_MSG(fabs(gate[j] - want) <= 1e-6 * fabs(want) + 1e-6 * (1 + fabs(g)) * 0.1,
					  "%s: silu(%g): %.9g, expected %.9g", tables[i]->name, g, gate[j], want);
		}
		CHECK(isnan(gate[5]));
	}
}

/* Three steps of the online softmax against one plain one over all scores. */
static void softmax_matches_float64(void)
{
	for (int round = 0; round < 200; round++) {
		const struct cpu_kernels *k = tables[round % table_count];
		float scores[3][STRIP], max = -INFINITY, sum = 0, correction[3];
		double raw[3][STRIP], top = -INFINITY, total = 0;
		int from[3], to[3];
		float scale = 0.05f + (float)test_real();
		for (int s = 0; s < 3; s++) {
			from[s] = (int)test_int(0, STRIP - 1);
			to[s] = (int)test_int(from[s] + 1, STRIP);
			for (int i = 0; i < STRIP; i++) {
				bool seen = i >= from[s] && i < to[s];
				/* What is out of sight may be anything. */
				scores[s][i] = seen ? (float)(30 * test_normal()) : i % 2 ? NAN : INFINITY;
				raw[s][i] = seen ? (double)scores[s][i] * scale : -INFINITY;
				top = fmax(top, raw[s][i]);
			}
			correction[s] = k->softmax_step(scores[s], from[s], to[s], scale, &max, &sum);
		}
		for (int s = 0; s < 3; s++)
			for (int i = 0; i < STRIP; i++)
				total += exp(raw[s][i] - top);
		CHECK_MSG(fabs(max - top) <= 1e-5 * fabs(top), "%s: %g, expected %g", k->name, max, top);
		CHECK_MSG(fabs(sum - total) <= 3e-5 * total, "%s: %g, expected %g", k->name, sum, total);
		for (int s = 0; s < 3; s++) {
			double factor = (s < 1 ? correction[1] : 1.0) * (s < 2 ? correction[2] : 1.0);
			for (int i = 0; i < STRIP; i++)
				CHECK(fabs(scores[s][i] * factor - exp(raw[s][i] - top)) <= 3e-5);
		}
	}
}

static void exp_sum_matches_float64(void)
{
	static float x[20000];
	for (int round = 0; round < 30; round++) {
		const struct cpu_kernels *k = tables[round % table_count];
		size_t count = 16 * (size_t)test_int(0, 1250);
		double want = 0;
		for (size_t i = 0; i < count; i++) {
			x[i] = i % 7 ? (float)(-100 * test_real()) : (float)-test_real();
			if (i % 50 == 0)
				x[i] = -INFINITY;
			want += exp((double)x[i] - 1);
		}
		CHECK_MSG(fabs(k->exp_sum(x, count, 1) - want) <= 1e-6 * want, "%s: %.9g, expected %.9g",
			  k->name, k->exp_sum(x, count, 1), want);
		x[3] = NAN;
		CHECK(count == 0 || isnan(k->exp_sum(x, count, 1)));
	}
}

int main(void)
{
	const struct cpu_kernels *all[] = {cpu_kernels_portable(), cpu_kernels_avx2(),
					   cpu_kernels_avx512()};
	for (int i = 0; i < 3; i++)
		if (all[i])
			tables[table_count++] = all[i];
	RUN(products_match_float64);
	RUN(weighted_sums_match_float64);
	RUN(all_16_bit_values_are_widened_exactly);
	RUN(norm_matches_float64);
	RUN(silu_matches_float64);
	RUN(softmax_matches_float64);
	RUN(exp_sum_matches_float64);
	TEST_END();
}
