/*
 * toy_backend.h - a backend whose "model" is a hash, for tests of what stands above backends.
 *
 * The logits of a token are a function of all ids up to it (and of the rope growth each was
 * computed with), read back from a paged cache of ids through the block table. So a wrong block,
 * position, chunk or message changes the result. It also demands the order of calls that
 * backend.h prescribes, and keeps a running hash of all it was given, for ranks to be compared.
 */
#ifndef TPRUN_TESTS_TOY_BACKEND_H
#define TPRUN_TESTS_TOY_BACKEND_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

struct toy {
	struct backend base;
	struct backend_ops ops; /* a test may set `asynchronous` after toy_open */
	const struct backend_options *options;
	uint64_t *cache;	/* [kv_blocks * KV_BLOCK] */
	uint64_t *contexts;	/* [max_logit_rows] */
	float *logits;		/* [max_logit_rows][vocab] */
	struct step step;
	int32_t stage, rows;	/* blocks called in this step; rows answered */
	bool running;
	uint64_t trail;		/* hash of all steps and requests so far */
	int32_t steps, rows_asked, replays;
	bool replay;		/* begin returns 1: the toy computes all in end then */
	int32_t fail_at;	/* the step whose attend fails; 0: none */
	float scale;		/* of the logits */
};

static inline uint64_t toy_mix(uint64_t a, uint64_t b)
{
	uint64_t z = a * 0x9e3779b97f4a7c15ull + b + 0x632be59bd9b4e019ull;
	z = (z ^ z >> 32) * 0xd6e8feb86659fd93ull;
	z = (z ^ z >> 32) * 0xd6e8feb86659fd93ull;
	return z ^ z >> 32;
}

/* What the cache holds for a token, and how a context is folded from them. */
static inline uint64_t toy_entry(int32_t id, int32_t position, float growth)
{
	return toy_mix(toy_mix((uint64_t)id, (uint64_t)position), (uint64_t)lrintf(growth * 1000));
}

static inline uint64_t toy_fold(uint64_t context, uint64_t entry)
{
	return toy_mix(context, entry);
}

/* In ±scale, bunched in the middle. */
static inline float toy_logit(uint64_t context, int32_t id, float scale)
{
	uint64_t bits = toy_mix(context, (uint64_t)id);
	double a = (double)(bits >> 40) / (1 << 24), b = (double)(bits & 0xffffff) / (1 << 24);
	return (float)((a + b - 1) * scale);
}

/* A rank's answer from its logits, by sorting: what candidates is to give. */
static inline int toy_compare(const void *a, const void *b)
{
	const struct { float logit; int32_t id; } *x = a, *y = b;
	if (x->logit != y->logit)
		return x->logit > y->logit ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static inline void toy_answer(const float *logits, int32_t first, int32_t vocab, int32_t target,
			      struct logit_result *out)
{
	struct { float logit; int32_t id; } *all = calloc((size_t)vocab + 1, sizeof *all);
	double highest = -INFINITY, sum = 0;

	*out = (struct logit_result){.log_sum_exp = -INFINITY, .target_logit = -INFINITY};
	for (int32_t i = 0; i < vocab; i++) {
		all[i].logit = logits[i];
		all[i].id = first + i;
		highest = fmax(highest, logits[i]);
	}
	for (int32_t i = 0; i < vocab; i++)
		sum += exp(logits[i] - highest);
	if (vocab)
		out->log_sum_exp = (float)(highest + log(sum));
	int32_t place = target - first;
	if (target >= 0 && place >= 0 && place < vocab)
		out->target_logit = logits[place];
	qsort(all, (size_t)vocab, sizeof *all, toy_compare);
	out->count = vocab < CANDIDATES ? vocab : CANDIDATES;
	for (int32_t i = 0; i < out->count; i++) {
		out->ids[i] = all[i].id;
		out->logits[i] = all[i].logit;
	}
	free(all);
}

static inline void toy_note(struct toy *toy, const void *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		toy->trail = (toy->trail ^ ((const unsigned char *)data)[i]) * 0x100000001b3ull;
}

static inline struct toy *toy_of(struct backend *backend)
{
	return (struct toy *)backend;
}

static inline int toy_begin(struct backend *backend, const struct step *step, struct error *err)
{
	struct toy *toy = toy_of(backend);
	if (toy->running)
		return error_run(err, "begin within a step");
	toy->running = true;
	toy->stage = 0;
	toy->rows = -1;
	toy->step = *step;
	toy->steps++;
	toy_note(toy, &step->tokens, sizeof step->tokens);
	toy_note(toy, &step->sequences, sizeof step->sequences);
	toy_note(toy, &step->logit_rows, sizeof step->logit_rows);
	toy_note(toy, &step->max_blocks, sizeof step->max_blocks);
	toy_note(toy, step->token_ids, (size_t)step->tokens * sizeof(int32_t));
	toy_note(toy, step->positions, (size_t)step->tokens * sizeof(int32_t));
	toy_note(toy, step->first_token, ((size_t)step->sequences + 1) * sizeof(int32_t));
	toy_note(toy, step->logit_tokens, (size_t)step->logit_rows * sizeof(int32_t));
	if (step->rope_growth)
		toy_note(toy, step->rope_growth, (size_t)step->sequences * sizeof(float));
	for (int32_t s = 0; s < step->sequences; s++) {
		int32_t last = step->positions[step->first_token[s + 1] - 1];
		toy_note(toy, step->block_table + (size_t)s * (size_t)step->max_blocks,
			 ((size_t)last / KV_BLOCK + 1) * sizeof(int32_t));
	}
	toy->replays += toy->replay;
	return toy->replay;
}

static inline uint64_t *toy_slot(struct toy *toy, int32_t sequence, int32_t position)
{
	const int32_t *row = toy->step.block_table + (size_t)sequence * (size_t)toy->step.max_blocks;
	return &toy->cache[(size_t)row[position / KV_BLOCK] * KV_BLOCK + position % KV_BLOCK];
}

/* Writes the step's tokens to the cache; then the contexts of the wanted tokens. */
static inline void toy_compute(struct toy *toy)
{
	const struct step *step = &toy->step;
	for (int32_t s = 0; s < step->sequences; s++)
		for (int32_t t = step->first_token[s]; t < step->first_token[s + 1]; t++)
			*toy_slot(toy, s, step->positions[t]) =
				toy_entry(step->token_ids[t], step->positions[t],
					  step->rope_growth ? step->rope_growth[s] : 1);
	for (int32_t i = 0; i < step->logit_rows; i++) {
		int32_t token = step->logit_tokens[i], s = 0;
		while (step->first_token[s + 1] <= token)
			s++;
		toy->contexts[i] = 0;
		for (int32_t p = 0; p <= step->positions[token]; p++)
			toy->contexts[i] = toy_fold(toy->contexts[i], *toy_slot(toy, s, p));
	}
}

/* Each block may come only at its place in the row of calls: embed, five a layer, logits. */
static inline int toy_stage(struct backend *backend, int32_t expected, struct error *err)
{
	struct toy *toy = toy_of(backend);
	if (!toy->running || toy->replay || toy->stage != expected)
		return error_run(err, "block %d called after %d", expected, toy->stage);
	toy->stage++;
	return 0;
}

static inline int toy_embed(struct backend *b, struct error *err)
{
	return toy_stage(b, 0, err);
}

static inline int toy_qkv(struct backend *b, int32_t layer, struct error *err)
{
	return toy_stage(b, 1 + 5 * layer, err);
}

static inline int toy_attend(struct backend *b, int32_t layer, struct error *err)
{
	if (toy_of(b)->fail_at && toy_of(b)->steps == toy_of(b)->fail_at)
		return error_run(err, "the toy breaks as it was told");
	return toy_stage(b, 2 + 5 * layer, err);
}

static inline int toy_project_attention(struct backend *b, int32_t layer, struct error *err)
{
	return toy_stage(b, 3 + 5 * layer, err);
}

static inline int toy_gate_up(struct backend *b, int32_t layer, struct error *err)
{
	return toy_stage(b, 4 + 5 * layer, err);
}

static inline int toy_project_mlp(struct backend *b, int32_t layer, struct error *err)
{
	return toy_stage(b, 5 + 5 * layer, err);
}

static inline int toy_logits(struct backend *b, struct error *err)
{
	return toy_stage(b, 1 + 5 * toy_of(b)->options->shape.layers, err);
}

static inline int toy_end(struct backend *backend, struct error *err)
{
	struct toy *toy = toy_of(backend);
	int32_t blocks = 1 + 5 * toy->options->shape.layers + (toy->step.logit_rows > 0);
	if (!toy->running || (!toy->replay && toy->stage != blocks))
		return error_run(err, "end after %d blocks of %d", toy->stage, blocks);
	toy_compute(toy);
	return 0;
}

static inline int toy_candidates(struct backend *backend, const struct logit_request *requests,
				 struct logit_result *results, struct error *err)
{
	struct toy *toy = toy_of(backend);
	const struct backend_shape *shape = &toy->options->shape;
	if (!toy->running)
		return error_run(err, "candidates without a step");
	for (int32_t i = 0; i < toy->step.logit_rows; i++) {
		const struct logit_request *r = &requests[i];
		float *row = toy->logits + (size_t)i * (size_t)shape->vocab;
		toy_note(toy, &r->inverse_temperature, sizeof(float));
		toy_note(toy, &r->repetition_penalty, sizeof(float));
		toy_note(toy, &r->target, sizeof(int32_t));
		if (r->penalized_count)
			toy_note(toy, r->penalized, (size_t)r->penalized_count * sizeof(int32_t));
		for (int32_t v = 0; v < shape->vocab; v++)
			row[v] = toy_logit(toy->contexts[i], shape->first_vocab + v, toy->scale);
		for (int32_t p = 0; p < r->penalized_count; p++) {
			int32_t v = r->penalized[p] - shape->first_vocab;
			if (v >= 0 && v < shape->vocab)
				row[v] = row[v] > 0 ? row[v] / r->repetition_penalty
						    : row[v] * r->repetition_penalty;
		}
		for (int32_t v = 0; v < shape->vocab; v++)
			row[v] *= r->inverse_temperature;
		toy_answer(row, shape->first_vocab, shape->vocab, r->target, &results[i]);
	}
	toy->running = false;
	toy->rows = toy->step.logit_rows;
	return 0;
}

static inline int toy_logit_row(struct backend *backend, int32_t row, float *out, struct error *err)
{
	struct toy *toy = toy_of(backend);
	size_t vocab = (size_t)toy->options->shape.vocab;
	if (row < 0 || row >= toy->rows)
		return error_run(err, "row %d of %d", row, toy->rows);
	memcpy(out, toy->logits + (size_t)row * vocab, vocab * sizeof *out);
	toy->rows_asked++;
	return 0;
}

static inline void toy_close(struct toy *toy)
{
	free(toy->cache);
	free(toy->contexts);
	free(toy->logits);
	*toy = (struct toy){0};
}

static inline int toy_open(struct toy *toy, const struct backend_options *options, float scale,
			   struct error *err)
{
	const struct backend_ops ops = {
		.name = "toy", .begin = toy_begin, .embed = toy_embed, .qkv = toy_qkv,
		.attend = toy_attend, .project_attention = toy_project_attention,
		.gate_up = toy_gate_up, .project_mlp = toy_project_mlp, .logits = toy_logits,
		.end = toy_end, .candidates = toy_candidates, .logit_row = toy_logit_row,
	};
	*toy = (struct toy){.base = {&toy->ops}, .ops = ops, .options = options, .scale = scale};
	toy->cache = calloc((size_t)options->kv_blocks * KV_BLOCK, sizeof *toy->cache);
	toy->contexts = calloc((size_t)options->max_logit_rows, sizeof *toy->contexts);
	toy->logits = calloc((size_t)options->max_logit_rows * (size_t)options->shape.vocab + 1,
			     sizeof *toy->logits);
	if (toy->cache && toy->contexts && toy->logits)
		return 0;
	toy_close(toy);
	return error_memory(err, "the toy");
}

#endif
