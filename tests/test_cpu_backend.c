/* The CPU backend against the float64 reference, whole and split over ranks. */
#define TEST_SUITE "cpu_backend"
#include "tests/cpu_backend.h"
#include "tests/fake_group.h"

enum { SEQUENCES = 33 };

/* 16-bit caches round keys and values; where float32 and float64 fall to different sides of a
 * tie, one unit in the last place of the type is between them. */
static double tolerance(enum dtype dtype)
{
	return dtype == DTYPE_F32 ? 5e-5 : dtype == DTYPE_F16 ? 2e-3 : 1.6e-2;
}

static void check_worst(const struct reference_worst *w, const struct reference_config *c)
{
	CHECK_MSG(w->error <= tolerance(c->dtype), "%s of layer %d is off by %g (%s, hidden %d, head_dim "
		  "%d, %d heads over %d, intermediate %d, vocab %d)", w->place, w->layer, w->error,
		  dtype_name(c->dtype), c->hidden, c->head_dim, c->query_heads, c->kv_heads,
		  c->intermediate, c->vocab);
}

/* Steps of a random batch through one backend that holds the whole model. */
static void compare_whole(const struct reference_config *config, int32_t sequences,
			  int32_t capacity, int steps, bool correct, int threads)
{
	struct error err = {0};
	struct reference_model model;
	struct reference_batch batch;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	reference_open(&model, config, 0);
	reference_batch_open(&batch, &model, sequences, capacity);
	struct backend_shape shape = reference_shape(&model, 0, 1, groups);
	struct backend_options options = make_options(&shape, &batch, &lone, threads);
	CHECK_OK(cpu_backend_open(&b, &options, &err), &err);
	CHECK_OK(reference_load(b, &model, &shape, &err), &err);
	bool growth = test_int(0, 1);
	for (int i = 0; i < steps; i++) {
		struct reference_trace trace;
		struct reference_worst worst = {0};
		const struct step *step = reference_batch_step(&batch, config->vocab, capacity / 2, growth);
		reference_forward(&model, &batch, &trace);
		CHECK_OK(reference_compare(b, &shape, step, &trace, correct, &worst, &err), &err);
		check_worst(&worst, config);
		reference_trace_close(&trace);
	}
	b->ops->close(b);
	reference_batch_close(&batch);
	reference_close(&model);
}

static void blocks_match_reference(void)
{
	for (int round = 0; round < 12; round++) {
		struct reference_config c = reference_config_random((enum dtype)(round % 3));
		compare_whole(&c, (int32_t)test_int(1, 4), 150, 4, true, 1 + round % 3);
	}
}

static void forward_matches_reference(void)
{
	for (int round = 0; round < 12; round++) {
		struct reference_config c = reference_config_random((enum dtype)(round % 3));
		compare_whole(&c, (int32_t)test_int(1, 4), 150, 4, false, 1 + round % 2);
	}
}

static void many_sequences_mix_prefill_and_decode(void)
{
	for (int dtype = 0; dtype < 3; dtype++) {
		struct reference_config c = reference_config_random((enum dtype)dtype);
		compare_whole(&c, SEQUENCES, 40, 5, true, 2);
	}
}

/* ---- split over ranks -------------------------------------------------------------------- */

/* A model and a batch that all ranks work on, cut where cuts[rank] and cuts[rank + 1] say. */
struct split {
	const struct reference_model *model;
	const struct reference_batch *batch;
	const struct reference_trace *trace;
	int32_t head_cuts[8], column_cuts[8], vocab_cuts[8];
	bool correct;
	struct reference_worst worst[7];
};

static int compare_rank(const struct group *group, void *context, struct error *err)
{
	struct split *p = context;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	int r = group->rank;
	struct backend_shape shape =
		reference_cut(p->model, p->head_cuts[r], p->head_cuts[r + 1], p->column_cuts[r],
			      p->column_cuts[r + 1], p->vocab_cuts[r], p->vocab_cuts[r + 1], groups);
	struct backend_options options = make_options(&shape, p->batch, group, 1 + r % 2);
	int result = -1;
	if (cpu_backend_open(&b, &options, err) || reference_load(b, p->model, &shape, err))
		goto done;
	result = reference_compare(b, &shape, &p->batch->step, p->trace, p->correct, &p->worst[r], err);
done:
	if (b)
		b->ops->close(b);
	return result;
}

/* One prefill over the ranks of the cuts. */
static void compare_split(const struct reference_config *config, struct split *p, int ranks)
{
	struct error err = {0};
	struct reference_model model;
	struct reference_batch batch;
	struct reference_trace trace;
	struct fake_world world;
	reference_open(&model, config, 0);
	reference_batch_open(&batch, &model, 3, 40);
	reference_batch_step(&batch, config->vocab, 40, false);
	reference_forward(&model, &batch, &trace);
	p->model = &model, p->batch = &batch, p->trace = &trace;
	CHECK_OK(fake_group_run(ranks, compare_rank, p, &world, &err), &err);
	CHECK_MSG(world.collectives == 1 + 2 * config->layers, "%d collectives", world.collectives);
	for (int r = 0; r < ranks; r++)
		check_worst(&p->worst[r], config);
	reference_trace_close(&trace);
	reference_batch_close(&batch);
	reference_close(&model);
}

static void cut_evenly(int32_t *cuts, int32_t total, int ranks)
{
	for (int r = 0; r <= ranks; r++)
		cuts[r] = total * r / ranks;
}

static void split_model_matches_reference(void)
{
	for (int ranks = 2; ranks <= 7; ranks++) {
		struct split p = {.correct = test_int(0, 1)};
		struct reference_config c = reference_config_random((enum dtype)(ranks % 3));
		c.query_heads = c.kv_heads * 7;
		cut_evenly(p.head_cuts, c.query_heads, ranks);
		cut_evenly(p.column_cuts, c.intermediate, ranks);
		cut_evenly(p.vocab_cuts, c.vocab, ranks);
		compare_split(&c, &p, ranks);
	}
}

/* Groups of 3, 4 and 4 heads for one rank, one head for the other. */
static void ragged_groups_match_reference(void)
{
	struct head_group groups[REFERENCE_KV_HEADS];
	struct reference_config c = reference_config_random(DTYPE_F32);
	c.query_heads = 12, c.kv_heads = 3;
	struct split p = {.head_cuts = {0, 1, 12}, .column_cuts = {0, c.intermediate / 3, c.intermediate},
			  .vocab_cuts = {0, c.vocab / 2, c.vocab}};
	struct reference_model model = {.config = c};
	struct backend_shape s = reference_cut(&model, 1, 12, 0, 1, 0, 1, groups);
	CHECK(s.kv_heads == 3 && groups[0].first == 0 && groups[0].count == 3 && groups[1].first == 3 &&
	      groups[1].count == 4 && groups[2].first == 7 && groups[2].count == 4);
	compare_split(&c, &p, 2);
}

static void empty_parts_match_reference(void)
{
	struct reference_config c = reference_config_random(DTYPE_BF16);
	c.query_heads = 4, c.kv_heads = 2, c.intermediate = 2, c.vocab = 3;
	struct split p = {.head_cuts = {0, 1, 2, 3, 4}, .column_cuts = {0, 0, 1, 2, 2},
			  .vocab_cuts = {0, 3, 3, 3, 3}};
	compare_split(&c, &p, 4);
}

/* ---- weights ----------------------------------------------------------------------------- */

static void load_random_follows_formula(void)
{
	for (int dtype = 0; dtype < 3; dtype++) {
		struct error err = {0};
		struct reference_model model;
		struct reference_batch batch;
		struct reference_trace trace;
		struct reference_worst worst = {0};
		struct head_group groups[REFERENCE_KV_HEADS];
		struct backend *b = NULL;
		struct reference_config c = reference_config_random((enum dtype)dtype);
		uint64_t seed = test_random() | 1;
		c.biases = true;
		c.query_heads = c.kv_heads * 4;
		reference_open(&model, &c, seed);
		reference_batch_open(&batch, &model, 3, 30);
		/* The last part of three, which has rows and columns from others before it. The group
		 * does not add, so blocks are told the residual of the whole model. */
		struct backend_shape shape = reference_shape(&model, 2, 3, groups);
		struct backend_options options = make_options(&shape, &batch, &lone, 2);
		CHECK_OK(cpu_backend_open(&b, &options, &err), &err);
		CHECK_OK(b->ops->load_random(b, seed, &err), &err);
		const struct step *step = reference_batch_step(&batch, c.vocab, 30, false);
		reference_forward(&model, &batch, &trace);
		float *residual = reference_alloc((size_t)step->tokens * (size_t)c.hidden, sizeof(float));
		for (int64_t i = 0; i < (int64_t)step->tokens * c.hidden; i++)
			residual[i] = (float)trace.embedded[i];
		CHECK_OK(b->ops->begin(b, step, &err), &err);
		CHECK_OK(b->ops->poke(b, BUFFER_RESIDUAL, residual, &err), &err);
		CHECK_OK(b->ops->qkv(b, 0, &err), &err);
		CHECK_OK(b->ops->attend(b, 0, &err), &err);
		int64_t width = (int64_t)shape.query_heads * c.head_dim;
		int64_t first = (int64_t)shape.first_query_head * c.head_dim;
		CHECK_OK(reference_check(b, BUFFER_ATTENTION, trace.layers[0].attention, step->tokens,
					 c.query_heads * c.head_dim, first, width, false, "attend", 0, &worst,
					 &err), &err);
		for (int64_t i = 0; i < (int64_t)step->tokens * c.hidden; i++)
			residual[i] = (float)trace.layers[0].middle[i];
		CHECK_OK(b->ops->poke(b, BUFFER_RESIDUAL, residual, &err), &err);
		CHECK_OK(b->ops->gate_up(b, 0, &err), &err);
		CHECK_OK(reference_check(b, BUFFER_ACTIVATION, trace.layers[0].activation, step->tokens,
					 c.intermediate, shape.first_intermediate, shape.intermediate, false,
					 "gate_up", 0, &worst, &err), &err);
		check_worst(&worst, &c);
		free(residual);
		b->ops->close(b);
		reference_trace_close(&trace);
		reference_batch_close(&batch);
		reference_close(&model);
	}
}

struct whole {
	const struct reference_model *model;
	const struct reference_batch *batch;
	const float *logits; /* of one rank */
	double worst[7];
};

static int random_rank(const struct group *group, void *context, struct error *err)
{
	struct whole *w = context;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	const struct step *step = &w->batch->step;
	struct backend_shape s = reference_shape(w->model, group->rank, group->size, groups);
	struct backend_options options = make_options(&s, w->batch, group, 1);
	float *logits = reference_alloc((size_t)step->logit_rows * (size_t)s.vocab, sizeof *logits);
	int result = -1;
	if (cpu_backend_open(&b, &options, err) || b->ops->load_random(b, 5, err) ||
	    run_step(b, s.layers, step, logits, err))
		goto done;
	for (int32_t r = 0; r < step->logit_rows; r++) {
		for (int32_t v = 0; v < s.vocab; v++) {
			float want = w->logits[r * s.total_vocab + s.first_vocab + v];
			double error = fabs(logits[r * s.vocab + v] - want);
			w->worst[group->rank] = fmax(w->worst[group->rank], error);
		}
	}
	result = 0;
done:
	if (b)
		b->ops->close(b);
	free(logits);
	return result;
}

/* However many ranks fill themselves at random, it is the same model. */
static void random_model_is_the_same_for_all_splits(void)
{
	struct error err = {0};
	struct reference_batch batch;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	struct reference_config c = reference_config_random(DTYPE_F32);
	c.query_heads = c.kv_heads * 7;
	struct reference_model model = {.config = c};
	reference_batch_open(&batch, &model, 4, 30);
	const struct step *step = reference_batch_step(&batch, c.vocab, 30, false);
	struct backend_shape shape = reference_shape(&model, 0, 1, groups);
	struct backend_options options = make_options(&shape, &batch, &lone, 1);
	float *logits = reference_alloc((size_t)step->logit_rows * (size_t)c.vocab, sizeof *logits);
	CHECK_OK(cpu_backend_open(&b, &options, &err), &err);
	CHECK_OK(b->ops->load_random(b, 5, &err), &err);
	CHECK_OK(run_step(b, c.layers, step, logits, &err), &err);
	for (int ranks = 2; ranks <= 7; ranks++) {
		struct whole w = {.model = &model, .batch = &batch, .logits = logits};
		CHECK_OK(fake_group_run(ranks, random_rank, &w, NULL, &err), &err);
		for (int r = 0; r < ranks; r++)
			CHECK_MSG(w.worst[r] < 2e-4, "rank %d of %d is off by %g", r, ranks, w.worst[r]);
	}
	b->ops->close(b);
	free(logits);
	reference_batch_close(&batch);
}

static void bad_parts_are_refused(void)
{
	struct error err = {0};
	struct reference_batch batch;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	struct reference_config c = reference_config_random(DTYPE_BF16);
	c.layers = 2, c.hidden = 20, c.head_dim = 32, c.tied = true, c.query_key_norm = false;
	c.intermediate = 40;
	struct reference_model model = {.config = c};
	reference_batch_open(&batch, &model, 1, 20);
	struct backend_shape shape = reference_shape(&model, 0, 1, groups);
	struct backend_options options = make_options(&shape, &batch, &lone, 1);
	static const uint16_t data[20];
	CHECK_OK(cpu_backend_open(&b, &options, &err), &err);
	struct tensor_part good = {.tensor = TENSOR_GATE, .layer = 1, .row = 39, .rows = 1, .columns = 20,
				   .dtype = DTYPE_BF16};
	CHECK_OK(backend_load(b, good, data, 40, &err), &err);
	struct tensor_part bad = good;
	bad.row = 40;
	CHECK_FAILS(backend_load(b, bad, data, 40, &err), &err, "outside");
	bad = good, bad.rows = 2;
	CHECK_FAILS(backend_load(b, bad, data, 40, &err), &err, "outside");
	bad = good, bad.row = -1;
	CHECK_FAILS(backend_load(b, bad, data, 40, &err), &err, "outside");
	bad = good, bad.column = 1;
	CHECK_FAILS(backend_load(b, bad, data, 40, &err), &err, "outside");
	bad = good, bad.layer = 2;
	CHECK_FAILS(backend_load(b, bad, data, 40, &err), &err, "outside");
	bad = good, bad.dtype = DTYPE_F32;
	CHECK_FAILS(backend_load(b, bad, data, 40, &err), &err, "float32");
	bad = good, bad.tensor = TENSOR_HEAD, bad.layer = -1, bad.row = 0;
	CHECK_FAILS(backend_load(b, bad, data, 40, &err), &err, "outside");
	bad = good, bad.tensor = TENSOR_QUERY_NORM, bad.row = 0, bad.dtype = DTYPE_F32;
	CHECK_FAILS(backend_load(b, bad, data, 40, &err), &err, "outside");
	struct step step = {.tokens = 21};
	CHECK_FAILS(b->ops->begin(b, &step, &err), &err, "21 tokens");
	b->ops->close(b);
	options.shape.head_dim = 7;
	CHECK_FAILS(cpu_backend_open(&b, &options, &err), &err, "head sizes");
	options.shape.head_dim = 258;
	CHECK_FAILS(cpu_backend_open(&b, &options, &err), &err, "head sizes");
	reference_batch_close(&batch);
}

static void memory_counts_the_model(void)
{
	struct head_group groups[4] = {{0, 2}, {2, 2}, {4, 2}, {6, 2}};
	struct backend_options o = {
		.shape = {.layers = 6, .hidden = 256, .head_dim = 32, .query_heads = 8, .kv_heads = 4,
			  .groups = groups, .intermediate = 704, .vocab = 2048, .tied = true,
			  .dtype = DTYPE_BF16},
		.kv_blocks = 100, .max_tokens = 64, .max_sequences = 8, .max_blocks = 20,
		.max_logit_rows = 8, .threads = 2,
	};
	struct backend_memory m, untied;
	uint64_t matrices = 2 * (2048 * 256 + 6 * (256 * 256 * 3 + 3 * 704 * 256));
	cpu_backend_memory(&o, &m);
	CHECK(m.kv_cache == 6ull * 2 * 2 * 100 * KV_BLOCK * 4 * 32);
	CHECK(m.weights >= matrices && m.weights < matrices + 6 * 12000 + 2000);
	CHECK(m.workspace > 64 * 4 * (3 * 256 + 512 + 2 * 704) && m.workspace < 4 << 20);
	o.shape.tied = false;
	cpu_backend_memory(&o, &untied);
	CHECK(untied.weights == m.weights + 2 * 2048 * 256);
}

/* ---- what must not matter ---------------------------------------------------------------- */

/* The same bits with any number of threads, and for a token alone or in company. */
static void threads_and_company_do_not_matter(void)
{
	for (int round = 0; round < 3; round++) {
		struct error err = {0};
		struct reference_batch batch;
		struct head_group groups[REFERENCE_KV_HEADS];
		struct backend *b[4] = {0};
		struct reference_config c = reference_config_random((enum dtype)round);
		struct reference_model model = {.config = c};
		reference_batch_open(&batch, &model, SEQUENCES, 100);
		struct backend_shape shape = reference_shape(&model, 0, 1, groups);
		for (int i = 0; i < 4; i++) {
			struct backend_options options = make_options(&shape, &batch, &lone, i ? i : 1);
			CHECK_OK(cpu_backend_open(&b[i], &options, &err), &err);
			CHECK_OK(b[i]->ops->load_random(b[i], 9, &err), &err);
		}
		for (int i = 0; i < 3; i++) {
			const struct step *s = reference_batch_step(&batch, c.vocab, 70, true);
			size_t count = (size_t)s->logit_rows * (size_t)c.vocab;
			float *want = reference_alloc(count, sizeof *want);
			float *have = reference_alloc(count, sizeof *have);
			CHECK_OK(run_step(b[1], c.layers, s, want, &err), &err);
			for (int threads = 2; threads < 4; threads++) {
				CHECK_OK(run_step(b[threads], c.layers, s, have, &err), &err);
				CHECK(memcmp(want, have, count * sizeof *want) == 0);
			}
			/* b[0] gets the tokens one by one. */
			float *row = reference_alloc((size_t)c.vocab, sizeof *row);
			for (int32_t q = 0, wanted = 0; q < s->sequences; q++) {
				for (int32_t t = s->first_token[q]; t < s->first_token[q + 1]; t++) {
					static const int32_t ends[] = {0, 1}, zero;
					struct step one = {
						.tokens = 1, .sequences = 1, .logit_rows = 1,
						.max_blocks = s->max_blocks, .token_ids = s->token_ids + t,
						.positions = s->positions + t, .first_token = ends,
						.block_table = s->block_table + q * s->max_blocks,
						.logit_tokens = &zero, .rope_growth = s->rope_growth + q};
					CHECK_OK(run_step(b[0], c.layers, &one, row, &err), &err);
					if (wanted < s->logit_rows && s->logit_tokens[wanted] == t)
						CHECK(!memcmp(row, want + wanted++ * c.vocab,
							      (size_t)c.vocab * sizeof *row));
				}
			}
			free(want), free(have), free(row);
		}
		for (int i = 0; i < 4; i++)
			b[i]->ops->close(b[i]);
		reference_batch_close(&batch);
	}
}

/* What a sequence full of NaN left behind does no harm to the next one. */
static void stale_cache_does_not_leak(void)
{
	struct error err = {0};
	struct reference_model model;
	struct reference_batch batch;
	struct head_group groups[REFERENCE_KV_HEADS];
	struct backend *b = NULL;
	struct reference_config c = reference_config_random(DTYPE_F32);
	reference_open(&model, &c, 0);
	reference_batch_open(&batch, &model, 2, 128);
	struct backend_shape shape = reference_shape(&model, 0, 1, groups);
	struct backend_options options = make_options(&shape, &batch, &lone, 1);
	CHECK_OK(cpu_backend_open(&b, &options, &err), &err);
	CHECK_OK(reference_load(b, &model, &shape, &err), &err);
	float *residual = reference_alloc((size_t)(256 * c.hidden), sizeof *residual);
	for (int64_t i = 0; i < 256 * c.hidden; i++)
		residual[i] = NAN;
	for (int i = 0; batch.lengths[0] < 128 || batch.lengths[1] < 128; i++) {
		const struct step *step = reference_batch_step(&batch, c.vocab, 128, false);
		CHECK_OK(b->ops->begin(b, step, &err), &err);
		CHECK_OK(b->ops->poke(b, BUFFER_RESIDUAL, residual, &err), &err);
		for (int32_t layer = 0; layer < c.layers; layer++) {
			CHECK_OK(b->ops->qkv(b, layer, &err), &err);
			CHECK_OK(b->ops->attend(b, layer, &err), &err);
		}
	}
	batch.lengths[0] = batch.lengths[1] = 0;
	for (int i = 0; i < 4; i++) {
		struct reference_trace trace;
		struct reference_worst worst = {0};
		const struct step *step = reference_batch_step(&batch, c.vocab, 60, false);
		reference_forward(&model, &batch, &trace);
		CHECK_OK(reference_compare(b, &shape, step, &trace, false, &worst, &err), &err);
		check_worst(&worst, &c);
		reference_trace_close(&trace);
	}
	free(residual);
	b->ops->close(b);
	reference_batch_close(&batch);
	reference_close(&model);
}

int main(void)
{
	RUN(blocks_match_reference);
	RUN(forward_matches_reference);
	RUN(many_sequences_mix_prefill_and_decode);
	RUN(split_model_matches_reference);
	RUN(ragged_groups_match_reference);
	RUN(empty_parts_match_reference);
	RUN(load_random_follows_formula);
	RUN(random_model_is_the_same_for_all_splits);
	RUN(bad_parts_are_refused);
	RUN(memory_counts_the_model);
	RUN(threads_and_company_do_not_matter);
	RUN(stale_cache_does_not_leak);
	TEST_END();
}
