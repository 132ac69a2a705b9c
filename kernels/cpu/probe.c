/* What this machine can do at best, measured where a step would meet it. */
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"

enum {
	READ_PIECE = 1 << 20, /* bytes that a thread takes at a time */
	READ_LANES = 32,      /* sums abreast, so that no load waits for an addition */
	READ_ROUNDS = 5,
	REDUCE_WARM = 3,
	REDUCE_ROUNDS = 20,
};

static double now_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* A round over the weights in whole pieces, again and again. */
struct reading {
	struct cpu_backend *backend;
	size_t piece, pieces; /* bytes of one; those of the weights */
};

/* The sum goes into the thread's scratch, so that the loads are not for nothing. */
static void read_piece(void *arg, int64_t item, int thread)
{
	const struct reading *r = arg;
	struct cpu_backend *b = r->backend;
	const uint32_t *words = (const uint32_t *)(b->weights.data + (size_t)item % r->pieces * r->piece);
	uint32_t sums[READ_LANES] = {0}, sum = 0;

	for (size_t i = 0; i + READ_LANES <= r->piece / sizeof *words; i += READ_LANES)
		for (int k = 0; k < READ_LANES; k++)
			sums[k] += words[i + (size_t)k];
	for (int k = 0; k < READ_LANES; k++)
		sum += sums[k];
	memcpy(b->scratch + (size_t)thread * b->scratch_stride, &sum, sizeof sum);
}

static double probe_read(struct cpu_backend *b, size_t bytes)
{
	struct reading r = {.backend = b, .piece = READ_PIECE};
	double best = 0;

	if (r.piece > b->weights.used)
		r.piece = b->weights.used;
	r.pieces = b->weights.used / r.piece;
	int64_t items = (int64_t)((bytes + r.piece - 1) / r.piece);
	for (int n = 0; n < READ_ROUNDS; n++) {
		double start = now_s();
		cpu_run(b, items, (int64_t)bytes, read_piece, &r);
		double seconds = now_s() - start;
		best = n == 0 || seconds < best ? seconds : best;
	}
	return best * (double)bytes / ((double)items * (double)r.piece);
}

/* A step's sums are float32, whatever the weights are. */
static int probe_reduce(struct cpu_backend *b, size_t bytes, double *seconds, struct error *err)
{
	const struct group *group = b->options.group;
	size_t count = bytes / dtype_bytes(b->shape->dtype);
	double start = 0;

	*seconds = 0;
	if (group->size == 1)
		return 0;
	if (count > (size_t)b->options.max_tokens * (size_t)b->shape->hidden)
		return error_run(err, "a sum of %zu values is more than a step of %d tokens has", count,
				 b->options.max_tokens);
	memset(b->delta, 0, count * sizeof *b->delta);
	for (int n = -REDUCE_WARM; n < REDUCE_ROUNDS; n++) {
		if (n == 0)
			start = now_s();
		if (group->sum(group, b->delta, count, err))
			return -1;
	}
	*seconds = (now_s() - start) / REDUCE_ROUNDS;
	return 0;
}

int cpu_probe(struct backend *base, enum backend_probe what, size_t bytes, double *seconds,
	      struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	if (what == PROBE_REDUCE)
		return probe_reduce(b, bytes, seconds, err);
	*seconds = probe_read(b, bytes);
	return 0;
}
