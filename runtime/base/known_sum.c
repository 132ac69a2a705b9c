#include "runtime/base/known_sum.h"

enum {
	CONTRIBUTORS = 32, /* the most ranks with a part above 0 of one sum, */
	LARGEST = 7,	   /* and the largest part: 224 in all */
};

/* Everything repeats after so many sums. */
static size_t period_of(int ranks)
{
	return (size_t)(1 + ranks / CONTRIBUTORS) * LARGEST;
}

static float part_of(size_t i, int rank, int ranks, int turn)
{
	size_t apart = 1 + (size_t)ranks / CONTRIBUTORS, at = i + (size_t)turn;
	if ((at + (size_t)rank) % apart)
		return 0;
	/* Ranks of unlike factors: parts that every rank had one after the other would all add up alike. */
	return (float)((size_t)(rank % 4 + 1) * at % LARGEST + 1);
}

void known_parts(float *out, size_t count, int rank, int ranks, int turn)
{
	size_t period = period_of(ranks);
	for (size_t i = 0; i < count; i++)
		out[i] = i < period ? part_of(i, rank, ranks, turn) : out[i - period];
}

int known_sums_check(const float *sums, size_t count, int ranks, int turn, struct error *err)
{
	size_t period = period_of(ranks);
	for (size_t first = 0; first < period && first < count; first++) {
		float expected = 0;
		for (int rank = 0; rank < ranks; rank++)
			expected += part_of(first, rank, ranks, turn);
		for (size_t i = first; i < count; i += period)
			if (sums[i] != expected)
				return error_run(err, "a sum of known values over %d ranks came out as %g "
						      "instead of %g (value %zu of %zu)", ranks,
						 (double)sums[i], (double)expected, i, count);
	}
	return 0;
}
