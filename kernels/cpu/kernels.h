/*
 * kernels.h - the inner loops of the CPU backend, one table of them for each instruction set.
 *
 * All tables are made from kernels_body.h, written in the compilers' vector extensions. Loops
 * run over whole vectors: every `columns` and `count` below is a multiple of ROUND_LANES, and
 * the callers keep the padding zero. A result's order of additions depends on the table alone,
 * never on the number of rows, tokens or threads.
 */
#ifndef TPRUN_CPU_KERNELS_H
#define TPRUN_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"

enum {
	ROUND_LANES = 16, /* elements to which rows are padded: the widest vector */
	STRIP = 64,	  /* positions whose scores one softmax step takes */
};

/* out[t][r] = sum over k of weight[r][k] * input[t][k]; strides in elements. */
struct product {
	const void *weight;
	size_t weight_stride;
	int rows, columns, tokens;
	const float *input;
	size_t input_stride;
	float *out;
	size_t out_stride;
};

/* out[r][d] += sum over j < count of factor[r][j] * value[j][d], d < columns. */
struct weighted_sum {
	const float *factor;
	size_t factor_stride;
	const void *value;
	size_t value_stride;
	int rows, columns, count;
	float *out;
	size_t out_stride;
};

struct cpu_kernels {
	const char *name;
	/* By the enum dtype of the weight and value. */
	void (*product[3])(const struct product *);
	void (*weighted_sum[3])(const struct weighted_sum *);
	/* out = x / sqrt(mean(x²) + epsilon) * weight (Zhang, Sennrich 2019). The mean is over
	 * `size` elements; the rest of `count` is zero padding. in and out may be the same. */
	void (*rms_norm)(const float *in, const float *weight, int size, int count, float epsilon,
			 float *out);
	/* gate = silu(gate + gate_bias) * (up + up_bias) */
	void (*silu_multiply)(float *gate, const float *up, const float *gate_bias,
			      const float *up_bias, int count);
	/* One step of the online softmax (Milakov, Gimelshein 2018) over scores[STRIP], of which
	 * [from, to) count, from < to. Turns them into exp(scale*score - new max), 0 outside;
	 * updates *max and *sum; returns the factor for what was summed before. */
	float (*softmax_step)(float *scores, int from, int to, float scale, float *max, float *sum);
	/* Sum of exp(x[i] - base); not a number if any x is. */
	double (*exp_sum)(const float *x, size_t count, float base);
};

/* NULL where the processor (or the build) lacks the instructions. */
const struct cpu_kernels *cpu_kernels_avx512(void);
const struct cpu_kernels *cpu_kernels_avx2(void);
const struct cpu_kernels *cpu_kernels_portable(void); /* never NULL */
/* The widest of them. */
const struct cpu_kernels *cpu_kernels_best(void);

#endif
