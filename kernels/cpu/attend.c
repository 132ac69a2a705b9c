/*
 * Attention over the paged cache. The rows of one share - the query heads of one KV head, for
 * some tokens of one sequence - walk together over its positions in strips that start at
 * multiples of STRIP, so that a token's result does not depend on its neighbours.
 */
#include <math.h>

#include "kernels/cpu/cpu.h"

/* A share at work. Rows are (token, head) pairs, heads fastest. */
struct share {
	const struct cpu_backend *backend;
	const struct cpu_layer *layer;
	const int32_t *blocks;	  /* of the sequence */
	const int32_t *positions; /* of its tokens */
	struct head_group group;
	int32_t kv_head, first_token, first_row, rows, window;
	float *query, *sum;	/* [rows][head_stride] */
	float *scores;		/* [rows][STRIP] */
	float *maximum, *total; /* [rows] */
};

static int32_t token_of(const struct share *s, int32_t row)
{
	return (s->first_row + row) / s->group.count;
}

/* The place of a row's head in a buffer of [tokens][stride]. */
static float *head_of(const struct share *s, float *buffer, size_t stride, int32_t row)
{
	size_t token = (size_t)(s->first_token + token_of(s, row));
	size_t head = (size_t)(s->group.first + (s->first_row + row) % s->group.count);
	return buffer + token * stride + head * (size_t)s->backend->shape->head_dim;
}

/* The first position that a row sees; the last is its own. */
static int32_t first_seen(const struct share *s, int32_t row)
{
	int32_t position = s->positions[token_of(s, row)];
	return s->window > 0 && position >= s->window ? position - s->window + 1 : 0;
}

/* Positions [strip, end) for all rows; `from` is the first that any row sees. What no row sees
 * is not touched, for there may lie anything. */
static void attend_strip(const struct share *s, int32_t strip, int32_t from, int32_t end)
{
	const struct cpu_backend *b = s->backend;
	size_t stride = b->head_stride, row_bytes = stride * dtype_bytes(b->shape->dtype);
	struct product p = {
		.weight_stride = stride, .columns = (int)stride, .tokens = s->rows,
		.input = s->query, .input_stride = stride, .out_stride = STRIP,
	};
	struct weighted_sum w = {
		.factor_stride = STRIP, .value_stride = stride, .rows = s->rows,
		.columns = (int)stride, .out = s->sum, .out_stride = stride,
	};
	if (from < strip)
		from = strip;
	for (int32_t at = from / KV_BLOCK * KV_BLOCK; at < end; at += KV_BLOCK) {
		p.weight = cpu_cache_tile(b, s->layer->keys, s->blocks[at / KV_BLOCK], s->kv_head);
		p.rows = cpu_min(KV_BLOCK, end - at);
		p.out = s->scores + (at - strip);
		b->kernels->product[b->shape->dtype](&p);
	}
	for (int32_t r = 0; r < s->rows; r++) {
		int32_t first = first_seen(s, r) - strip, last = s->positions[token_of(s, r)] - strip;
		float *scores = s->scores + (size_t)r * STRIP;
		if (first >= STRIP || last < 0) {
			memset(scores, 0, STRIP * sizeof *scores);
			continue;
		}
		float old = b->kernels->softmax_step(scores, first > 0 ? first : 0,
						     cpu_min(last + 1, STRIP), b->shape->attention_scale,
						     &s->maximum[r], &s->total[r]);
		float *sum = s->sum + (size_t)r * stride;
		for (size_t d = 0; d < stride && old != 1; d++)
			sum[d] *= old;
	}
	for (int32_t at = from; at < end; at += w.count) {
		size_t slot = (size_t)(at % KV_BLOCK);
		w.count = cpu_min(KV_BLOCK - (int32_t)slot, end - at);
		w.factor = s->scores + (at - strip);
		w.value = cpu_cache_tile(b, s->layer->values, s->blocks[at / KV_BLOCK], s->kv_head) +
			  slot * row_bytes;
		b->kernels->weighted_sum[b->shape->dtype](&w);
	}
}

struct attend {
	struct cpu_backend *backend;
	int32_t layer;
};

static void attend_item(void *arg, int64_t index, int thread)
{
	const struct attend *a = arg;
	struct cpu_backend *b = a->backend;
	const struct cpu_attend_item *item = &b->items[index];
	const struct step *step = &b->step;
	int32_t first_token = step->first_token[item->sequence];
	int32_t tokens = step->first_token[item->sequence + 1] - first_token;
	size_t stride = b->head_stride, size = (size_t)b->shape->head_dim * sizeof(float);
	float *scratch = b->scratch + (size_t)thread * b->scratch_stride;
	struct share s = {
		.backend = b,
		.layer = &b->layers[a->layer],
		.blocks = step->block_table + (size_t)item->sequence * (size_t)step->max_blocks,
		.positions = step->positions + first_token,
		.group = b->shape->groups[item->kv_head],
		.kv_head = item->kv_head,
		.first_token = first_token,
		.first_row = item->row,
		.window = b->shape->windows ? b->shape->windows[a->layer] : 0,
	};
	s.rows = cpu_min(ATTEND_ROWS, tokens * s.group.count - item->row);
	s.query = scratch;
	s.sum = s.query + ATTEND_ROWS * stride;
	s.scores = s.sum + ATTEND_ROWS * stride;
	s.maximum = s.scores + ATTEND_ROWS * STRIP;
	s.total = s.maximum + ATTEND_ROWS;
	/* The padding of the queries is never written and stays zero. */
	memset(s.sum, 0, (size_t)s.rows * stride * sizeof *s.sum);
	for (int32_t r = 0; r < s.rows; r++) {
		memcpy(s.query + (size_t)r * stride,
		       head_of(&s, b->projected, b->projected_stride, r), size);
		s.maximum[r] = -INFINITY;
		s.total[r] = 0;
	}
	int32_t from = first_seen(&s, 0), end = s.positions[token_of(&s, s.rows - 1)] + 1;
	for (int32_t strip = from / STRIP * STRIP; strip < end; strip += STRIP)
		attend_strip(&s, strip, from, cpu_min(end, strip + STRIP));
	for (int32_t r = 0; r < s.rows; r++) {
		float *out = head_of(&s, b->attention, b->attention_stride, r);
		for (int32_t d = 0; d < b->shape->head_dim; d++)
			out[d] = s.sum[(size_t)r * stride + (size_t)d] / s.total[r];
	}
}

int cpu_attend(struct backend *base, int32_t layer, struct error *err)
{
	struct attend a = {cpu_of(base), layer};
	(void)err;
	cpu_run(a.backend, a.backend->item_count, a.backend->attend_work, attend_item, &a);
	return 0;
}
