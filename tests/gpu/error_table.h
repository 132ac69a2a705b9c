/*
 * error_table.h - how far a backend's blocks are from their judges, block by block: compared as it goes, and told at the end.
 */
#ifndef TPRUN_TESTS_GPU_ERROR_TABLE_H
#define TPRUN_TESTS_GPU_ERROR_TABLE_H

#include "tests/gpu/gpu_test.h"

static const char *const place_names[PLACES] = {
	"embed", "qkv", "attend", "project_attention", "gate_up", "project_mlp", "logits",
};

struct table_entry {
	double absolute, relative; /* largest |a-b|; ‖a-b‖/‖b‖ */
	long values;
};
static struct table_entry table[2][3][PLACES]; /* [judge: float64 or CPU][dtype] */

/* Compares `count` values and notes the errors. An empty part has none. */
static void note(int judge, enum dtype dtype, int place, const float *have, const float *want, size_t count)
{
	double difference = 0, size = 0, largest = 0;
	for (size_t i = 0; i < count; i++) {
		double d = (double)have[i] - want[i];
		if (!isfinite(have[i]))
			d = INFINITY;
		difference += d * d;
		size += (double)want[i] * want[i];
		largest = fmax(largest, fabs(d));
	}
	double relative = size > 0 ? sqrt(difference / size) : sqrt(difference);
	struct table_entry *e = &table[judge][dtype][place];
	e->absolute = fmax(e->absolute, largest);
	e->relative = fmax(e->relative, relative);
	e->values += (long)count;
	/* A few values may all be small beside what they are made of, by chance, and their errors are not. */
	double most = bound(dtype) * (1 + 8.0 / (double)(count + 1));
	CHECK_MSG(relative <= most, "rank %d, %s in %s: ‖a-b‖/‖b‖ %.3g, largest %.3g, %zu values",
		  group->rank, place_names[place], dtype_name(dtype), relative, largest, count);
}

static void print_table(void)
{
	static const char *const judges[] = {"float64", "cpu"};
	printf("%-8s %-9s %-18s %12s %12s %12s\n", "judge", "dtype", "block", "largest", "relative", "values");
	for (int j = 0; j < 2; j++)
		for (int d = 0; d < 3; d++)
			for (int p = 0; p < PLACES; p++)
				if (table[j][d][p].values)
					printf("%-8s %-9s %-18s %12.3g %12.3g %12ld\n", judges[j],
					       dtype_name((enum dtype)d), place_names[p],
					       table[j][d][p].absolute, table[j][d][p].relative,
					       table[j][d][p].values);
}

#endif
