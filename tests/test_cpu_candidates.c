/* Penalties, temperatures and the best candidates by the CPU backend, against sorting all logits. */
#define TEST_SUITE "cpu_candidates"
#include "tests/cpu_backend.h"

struct ranked {
	float logit;
	int32_t id;
};

static int compare_ranked(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;
	if (x->logit != y->logit)
		return x->logit > y->logit ? -1 : 1;
	return x->id < y->id ? -1 : 1;
}

/* What the contract says of one row, from its raw logits. */
static void check_answer(struct backend *b, const struct backend_shape *s, int32_t row,
			 const float *raw, const struct logit_request *q, const struct logit_result *r)
{
	struct error err = {0};
	struct ranked *all = reference_alloc((size_t)s->vocab, sizeof *all);
	float *given = reference_alloc((size_t)s->vocab, sizeof *given);
	double sum = 0, target = -INFINITY;
	for (int32_t v = 0; v < s->vocab; v++) {
		float logit = raw[v];
		for (int32_t p = 0; p < q->penalized_count; p++)
			if (q->penalized[p] == s->first_vocab + v)
				logit = logit > 0 ? logit / q->repetition_penalty
						  : logit * q->repetition_penalty;
		logit *= q->inverse_temperature;
		all[v] = (struct ranked){logit, s->first_vocab + v};
		sum += exp(logit);
		if (q->target == s->first_vocab + v)
			target = logit;
	}
	CHECK_OK(b->ops->logit_row(b, row, given, &err), &err);
	for (int32_t v = 0; v < s->vocab; v++)
		CHECK(given[v] == all[v].logit);
	qsort(all, (size_t)s->vocab, sizeof *all, compare_ranked);
	CHECK(r->count == (s->vocab < CANDIDATES ? s->vocab : CANDIDATES));
	for (int32_t i = 0; i < r->count; i++)
		CHECK_MSG(r->ids[i] == all[i].id && r->logits[i] == all[i].logit, "candidate %d of %d is %d "
			  "(%g), expected %d (%g)", i, s->vocab, r->ids[i], r->logits[i], all[i].id,
			  all[i].logit);
	CHECK(r->target_logit == (float)target);
	if (s->vocab)
		CHECK_MSG(fabs(r->log_sum_exp - log(sum)) < 2e-6 * (1 + fabs(log(sum))), "%.9g, expected %.9g",
			  r->log_sum_exp, log(sum));
	else
		CHECK(r->log_sum_exp == -INFINITY);
	free(all);
	free(given);
}

/* One step of a model whose part of the vocabulary is [first, end); some rows of its head are
 * equal, so that there are ties. */
static void check_candidates(int32_t total, int32_t first, int32_t end)
{
	struct error err = {0};
	struct reference_model model;
	struct reference_batch batch;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	struct reference_config c = reference_config_random(DTYPE_F32);
	c.layers = 1, c.vocab = total, c.tied = false, c.head_dim = 32;
	reference_open(&model, &c, 0);
	struct reference_tensor *head = &model.tensors[0][TENSOR_HEAD];
	for (int32_t v = 1; v < total; v++)
		if (test_int(0, 2) == 0)
			memcpy(head->data + (int64_t)v * c.hidden, head->data + test_int(0, v - 1) * c.hidden,
			       (size_t)c.hidden * sizeof *head->data);
	reference_batch_open(&batch, &model, 5, 20);
	struct backend_shape s = reference_cut(&model, 0, c.query_heads, 0, c.intermediate, first, end, groups);
	struct backend_options options = make_options(&s, &batch, &lone, 2);
	const struct step *step = reference_batch_step(&batch, total, 20, false);
	struct logit_request *requests = reference_alloc((size_t)step->logit_rows, sizeof *requests);
	struct logit_result *results = reference_alloc((size_t)step->logit_rows, sizeof *results);
	memset(results, 0xff, (size_t)step->logit_rows * sizeof *results);
	float *raw = reference_alloc((size_t)step->logit_rows * (size_t)s.vocab, sizeof *raw);
	int32_t *penalized = reference_alloc((size_t)total, sizeof *penalized);
	int32_t penalized_count = 0;
	for (int32_t v = 0; v < total; v += (int32_t)test_int(1, 5))
		penalized[penalized_count++] = v;
	for (int32_t i = 0; i < step->logit_rows; i++)
		requests[i] = (struct logit_request){
			.inverse_temperature = i % 2 ? 1 : 0.3f + (float)test_real(),
			.repetition_penalty = i % 3 ? 1.3f : 1, .penalized = penalized,
			.penalized_count = i % 4 ? penalized_count : 0,
			.target = (int32_t)test_int(-1, total - 1)};
	CHECK_OK(cpu_backend_open(&b, &options, &err), &err);
	CHECK_OK(reference_load(b, &model, &s, &err), &err);
	CHECK_OK(run_step(b, c.layers, step, raw, &err), &err);
	CHECK_OK(b->ops->candidates(b, requests, results, &err), &err);
	for (int32_t i = 0; i < step->logit_rows; i++)
		check_answer(b, &s, i, raw + (int64_t)i * s.vocab, &requests[i], &results[i]);
	CHECK_FAILS(b->ops->logit_row(b, step->logit_rows, raw, &err), &err, "no row");
	b->ops->close(b);
	free(requests), free(results), free(raw), free(penalized);
	reference_batch_close(&batch);
	reference_close(&model);
}

static void candidates_are_the_best_in_order(void)
{
	static const int32_t sizes[] = {1, 2, 63, 64, 65, 128, 5003};
	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
		check_candidates(sizes[i], 0, sizes[i]);
	check_candidates(300, 100, 300);
	check_candidates(300, 17, 80);
	check_candidates(300, 300, 300);
}

static void nan_reaches_log_sum_exp(void)
{
	struct error err = {0};
	struct reference_batch batch;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	struct reference_config c = reference_config_random(DTYPE_BF16);
	struct reference_model model = {.config = c};
	reference_batch_open(&batch, &model, 2, 1);
	struct backend_shape s = reference_shape(&model, 0, 1, groups);
	struct backend_options options = make_options(&s, &batch, &lone, 1);
	struct step step = *reference_batch_step(&batch, c.vocab, 1, false);
	struct logit_request requests[2] = {{.inverse_temperature = 1, .repetition_penalty = 1},
					    {.inverse_temperature = 1, .repetition_penalty = 1}};
	struct logit_result results[2];
	float *residual = reference_alloc((size_t)(2 * c.hidden), sizeof *residual);
	CHECK_OK(cpu_backend_open(&b, &options, &err), &err);
	CHECK_OK(b->ops->load_random(b, 1, &err), &err);
	CHECK_OK(b->ops->begin(b, &step, &err), &err);
	residual[0] = NAN;
	CHECK_OK(b->ops->poke(b, BUFFER_RESIDUAL, residual, &err), &err);
	CHECK_OK(b->ops->logits(b, &err), &err);
	CHECK_OK(b->ops->candidates(b, requests, results, &err), &err);
	CHECK(isnan(results[0].log_sum_exp));
	b->ops->close(b);
	free(residual);
	reference_batch_close(&batch);
}

int main(void)
{
	RUN(candidates_are_the_best_in_order);
	RUN(nan_reaches_log_sum_exp);
	TEST_END();
}
