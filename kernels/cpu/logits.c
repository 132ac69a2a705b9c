/* The logits of the wanted tokens, and the best of them. */
#include <math.h>

#include "kernels/cpu/cpu.h"

int cpu_logits(struct backend *base, struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	(void)err;
	if (!b->shape->vocab)
		return 0;
	cpu_norm(b, b->final_norm, b->step.logit_tokens, b->step.logit_rows);
	cpu_multiply(b, &b->head, b->normed, b->hidden_stride, b->step.logit_rows, b->logits,
		     b->vocab_stride);
	return 0;
}

/* Whether candidate i of the result comes after candidate j. */
static bool comes_after(const struct logit_result *r, int32_t i, int32_t j)
{
	return r->logits[i] < r->logits[j] || (r->logits[i] == r->logits[j] && r->ids[i] > r->ids[j]);
}

/* Restores the heap of `count` candidates, the last-placed on top, below node i. */
static void sift_down(struct logit_result *r, int32_t count, int32_t i)
{
	for (;;) {
		int32_t top = i;
		for (int32_t child = 2 * i + 1; child <= 2 * i + 2 && child < count; child++)
			if (comes_after(r, child, top))
				top = child;
		if (top == i)
			return;
		float logit = r->logits[i];
		int32_t id = r->ids[i];
		r->logits[i] = r->logits[top], r->ids[i] = r->ids[top];
		r->logits[top] = logit, r->ids[top] = id;
		i = top;
	}
}

/* Keeps the best in a heap whose top gives way to better ones, then sorts it. Ids ascend, so an
 * equal logit that comes later never belongs before an earlier one. */
static void find_best(const float *row, int32_t vocab, int32_t first_id, struct logit_result *r)
{
	r->count = cpu_min(CANDIDATES, vocab);
	for (int32_t i = 0; i < r->count; i++) {
		r->logits[i] = isnan(row[i]) ? -INFINITY : row[i];
		r->ids[i] = first_id + i;
	}
	for (int32_t i = r->count / 2 - 1; i >= 0; i--)
		sift_down(r, r->count, i);
	for (int32_t i = r->count; i < vocab; i++) {
		if (row[i] > r->logits[0]) {
			r->logits[0] = row[i];
			r->ids[0] = first_id + i;
			sift_down(r, r->count, 0);
		}
	}
	for (int32_t end = r->count - 1; end > 0; end--) {
		float logit = r->logits[0];
		int32_t id = r->ids[0];
		r->logits[0] = r->logits[end], r->ids[0] = r->ids[end];
		r->logits[end] = logit, r->ids[end] = id;
		sift_down(r, end, 0);
	}
}

struct answer {
	struct cpu_backend *backend;
	const struct logit_request *requests;
	struct logit_result *results;
};

static void answer_row(void *arg, int64_t index, int thread)
{
	const struct answer *a = arg;
	struct cpu_backend *b = a->backend;
	const struct logit_request *q = &a->requests[index];
	struct logit_result *r = &a->results[index];
	int32_t vocab = b->shape->vocab, first = b->shape->first_vocab;
	float *row = b->logits + (size_t)index * b->vocab_stride;
	(void)thread;
	for (int32_t i = 0; i < q->penalized_count && q->repetition_penalty != 1; i++) {
		int32_t id = q->penalized[i] - first;
		if (id >= 0 && id < vocab)
			row[id] = row[id] > 0 ? row[id] / q->repetition_penalty
					      : row[id] * q->repetition_penalty;
	}
	for (int32_t i = 0; i < vocab && q->inverse_temperature != 1; i++)
		row[i] *= q->inverse_temperature;
	find_best(row, vocab, first, r);
	/* All -infinity leaves exp_sum 0; a NaN passes through it. */
	float base = r->count && r->logits[0] > -INFINITY ? r->logits[0] : 0;
	r->log_sum_exp = (float)(base + log(b->kernels->exp_sum(row, b->vocab_stride, base)));
	r->target_logit = q->target >= first && q->target - first < vocab ? row[q->target - first]
									  : -INFINITY;
}

int cpu_candidates(struct backend *base, const struct logit_request *requests,
		   struct logit_result *results, struct error *err)
{
	struct answer a = {cpu_of(base), requests, results};
	(void)err;
	cpu_run(a.backend, a.backend->step.logit_rows,
		4ll * a.backend->step.logit_rows * a.backend->shape->vocab, answer_row, &a);
	return 0;
}

int cpu_logit_row(struct backend *base, int32_t row, float *out, struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	if (row < 0 || row >= b->step.logit_rows)
		return error_run(err, "the step has no row of logits %d", row);
	if (b->shape->vocab)
		memcpy(out, b->logits + (size_t)row * b->vocab_stride,
		       (size_t)b->shape->vocab * sizeof *out);
	return 0;
}
