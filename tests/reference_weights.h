/*
 * reference_weights.h - random models for the tests of backends.
 *
 * A test makes a model (reference_open), cuts out each rank's part (reference_shape) and hands it
 * over (reference_load). reference_model.h computes it in float64.
 */
#ifndef TPRUN_TESTS_REFERENCE_WEIGHTS_H
#define TPRUN_TESTS_REFERENCE_WEIGHTS_H

#include "kernels/backend.h"
#include "kernels/random_weight.h"
#include "tests/test.h"

enum { REFERENCE_LAYERS = 4, REFERENCE_KV_HEADS = 64 };

/* The whole model. */
struct reference_config {
	int32_t layers, hidden, head_dim, query_heads, kv_heads, intermediate, vocab;
	bool query_key_norm, tied, biases;
	double norm_epsilon;
	float attention_scale, rope_magnitude;
	int32_t windows[REFERENCE_LAYERS];
	float rope_frequencies[HEAD_DIM_MAX / 2];
	enum dtype dtype;
};

struct reference_tensor {
	int32_t rows, columns;
	double *data; /* NULL: the model has none */
};

struct reference_model {
	struct reference_config config;
	struct reference_tensor tensors[REFERENCE_LAYERS + 1][TENSOR_KINDS]; /* [layer + 1] */
};

static inline void *reference_alloc(size_t count, size_t size)
{
	void *memory = calloc(count + 1, size);
	if (!memory)
		abort();
	return memory;
}

static inline double *reference_doubles(int64_t rows, int64_t columns)
{
	return reference_alloc((size_t)(rows * columns), sizeof(double));
}

/* The value as it comes back from storage in a type. */
static inline double reference_round(double value, enum dtype dtype)
{
	if (dtype == DTYPE_BF16)
		return bf16_to_f32(f32_to_bf16((float)value));
	return dtype == DTYPE_F16 ? f16_to_f32(f32_to_f16((float)value)) : (float)value;
}

/* ---- the model --------------------------------------------------------------------------- */

static inline struct reference_config reference_config_random(enum dtype dtype)
{
	static const int32_t head_dims[] = {8, 10, 32, 64, 80, 128, 256};
	struct reference_config c = {
		.layers = (int32_t)test_int(1, 3),
		.hidden = (int32_t)test_int(9, 150),
		.head_dim = head_dims[test_int(0, 6)],
		.kv_heads = (int32_t)test_int(1, 3),
		.intermediate = (int32_t)test_int(1, 300),
		.vocab = (int32_t)test_int(1, 200),
		.query_key_norm = test_int(0, 1),
		.tied = test_int(0, 1),
		.biases = test_int(0, 1),
		.norm_epsilon = 1e-5,
		.rope_magnitude = test_int(0, 1) ? 1.0f : 1.1f,
		.dtype = dtype,
	};
	c.query_heads = c.kv_heads * (int32_t)test_int(1, 5);
	c.attention_scale = 1.0f / sqrtf((float)c.head_dim);
	for (int32_t i = 0; i < c.layers; i++)
		c.windows[i] = test_int(0, 1) ? (int32_t)test_int(1, 60) : 0;
	for (int32_t i = 0; i < c.head_dim / 2; i++)
		c.rope_frequencies[i] = powf(10000.0f, -2.0f * (float)i / (float)c.head_dim);
	return c;
}

/* Sizes of a tensor in the whole model; false where this model has none of the kind. */
static inline bool reference_tensor_size(const struct reference_config *c, int32_t layer,
					 enum backend_tensor tensor, int32_t *rows, int32_t *columns)
{
	int32_t query = c->query_heads * c->head_dim, kv = c->kv_heads * c->head_dim;
	*rows = 1;
	*columns = c->hidden;
	if ((layer < 0) != (tensor <= TENSOR_FINAL_NORM))
		return false;
	switch (tensor) {
	case TENSOR_EMBEDDING: *rows = c->vocab; return true;
	case TENSOR_HEAD: *rows = c->vocab; return !c->tied;
	case TENSOR_FINAL_NORM: case TENSOR_ATTENTION_NORM: case TENSOR_MLP_NORM: return true;
	case TENSOR_QUERY: *rows = query; return true;
	case TENSOR_KEY: case TENSOR_VALUE: *rows = kv; return true;
	case TENSOR_OUTPUT: *rows = c->hidden; *columns = query; return true;
	case TENSOR_GATE: case TENSOR_UP: *rows = c->intermediate; return true;
	case TENSOR_DOWN: *rows = c->hidden; *columns = c->intermediate; return true;
	case TENSOR_QUERY_NORM: case TENSOR_KEY_NORM: *columns = c->head_dim; return c->query_key_norm;
	case TENSOR_QUERY_BIAS: *columns = query; return c->biases;
	case TENSOR_KEY_BIAS: case TENSOR_VALUE_BIAS: *columns = kv; return c->biases;
	case TENSOR_OUTPUT_BIAS: case TENSOR_DOWN_BIAS: return c->biases;
	case TENSOR_GATE_BIAS: case TENSOR_UP_BIAS: *columns = c->intermediate; return c->biases;
	default: return false;
	}
}

static inline bool reference_is_norm(enum backend_tensor tensor)
{
	return tensor == TENSOR_FINAL_NORM || tensor == TENSOR_ATTENTION_NORM ||
	       tensor == TENSOR_MLP_NORM || tensor == TENSOR_QUERY_NORM || tensor == TENSOR_KEY_NORM;
}

static inline bool reference_is_matrix(enum backend_tensor tensor)
{
	return tensor < TENSOR_QUERY_BIAS && !reference_is_norm(tensor);
}

/* seed 0: fresh random values; otherwise those of random_weight.h, as load_random makes them. */
static inline void reference_open(struct reference_model *m, const struct reference_config *c,
				  uint64_t seed)
{
	memset(m, 0, sizeof *m);
	m->config = *c;
	for (int32_t layer = -1; layer < c->layers; layer++) {
		for (int k = 0; k < TENSOR_KINDS; k++) {
			enum backend_tensor kind = (enum backend_tensor)k;
			struct reference_tensor *t = &m->tensors[layer + 1][k];
			if (!reference_tensor_size(c, layer, kind, &t->rows, &t->columns))
				continue;
			t->data = reference_doubles(t->rows, t->columns);
			uint64_t stream = random_weight_stream(seed, k, layer);
			enum dtype dtype = reference_is_matrix(kind) ? c->dtype : DTYPE_F32;
			for (int64_t i = 0; i < (int64_t)t->rows * t->columns; i++) {
				int64_t row = i / t->columns, column = i % t->columns;
				float unit = random_weight_unit(stream, row, column);
				double value;
				if (reference_is_norm(kind))
					value = seed ? 1 : 1 + 0.1 * test_normal();
				else if (!reference_is_matrix(kind))
					value = seed ? RANDOM_BIAS_SCALE * unit : 0.3 * test_normal();
				else
					value = seed ? random_weight_scale(t->columns) * unit
						     : test_normal() / sqrt(t->columns);
				t->data[i] = reference_round(value, dtype);
			}
		}
	}
}

static inline void reference_close(struct reference_model *m)
{
	for (int32_t layer = 0; layer <= m->config.layers; layer++)
		for (int k = 0; k < TENSOR_KINDS; k++)
			free(m->tensors[layer][k].data);
}

/* ---- a rank's part ----------------------------------------------------------------------- */

/* The part with query heads [query, query_end) and so on; groups[REFERENCE_KV_HEADS] is filled
 * and stays the caller's. */
static inline struct backend_shape reference_cut(const struct reference_model *m, int32_t query,
						 int32_t query_end, int32_t column,
						 int32_t column_end, int32_t vocab, int32_t vocab_end,
						 struct head_group *groups)
{
	const struct reference_config *c = &m->config;
	int32_t per = c->query_heads / c->kv_heads;
	struct backend_shape s = {
		.layers = c->layers, .hidden = c->hidden, .head_dim = c->head_dim,
		.query_heads = query_end - query, .first_query_head = query,
		.first_kv_head = query / per, .kv_heads = (query_end - 1) / per - query / per + 1,
		.groups = groups,
		.intermediate = column_end - column, .first_intermediate = column,
		.vocab = vocab_end - vocab, .first_vocab = vocab,
		.total_vocab = c->vocab, .total_query_heads = c->query_heads,
		.total_kv_heads = c->kv_heads, .total_intermediate = c->intermediate,
		.query_key_norm = c->query_key_norm, .tied = c->tied,
		.norm_epsilon = c->norm_epsilon, .attention_scale = c->attention_scale,
		.windows = c->windows, .rope_frequencies = c->rope_frequencies,
		.rope_magnitude = c->rope_magnitude, .dtype = c->dtype,
	};
	for (int32_t g = 0; g < s.kv_heads; g++)
		groups[g] = (struct head_group){0, 0};
	for (int32_t h = query; h < query_end; h++) {
		struct head_group *g = &groups[h / per - s.first_kv_head];
		if (!g->count++)
			g->first = h - query;
	}
	return s;
}

/* Rank `rank` of `size` equal parts. */
static inline struct backend_shape reference_shape(const struct reference_model *m, int rank,
						   int size, struct head_group *groups)
{
	const struct reference_config *c = &m->config;
	return reference_cut(m, c->query_heads * rank / size, c->query_heads * (rank + 1) / size,
			     c->intermediate * rank / size, c->intermediate * (rank + 1) / size,
			     c->vocab * rank / size, c->vocab * (rank + 1) / size, groups);
}

/* This rank's part of a tensor in the whole model's coordinates. */
struct reference_part {
	int32_t row, rows, column, columns;
};

static inline struct reference_part reference_part(const struct backend_shape *s,
						   enum backend_tensor tensor,
						   const struct reference_tensor *t)
{
	struct reference_part p = {0, t->rows, 0, t->columns};
	int32_t query = s->first_query_head * s->head_dim, query_size = s->query_heads * s->head_dim;
	int32_t kv = s->first_kv_head * s->head_dim, kv_size = s->kv_heads * s->head_dim;
	switch (tensor) {
	case TENSOR_EMBEDDING: case TENSOR_HEAD:
		p.row = s->first_vocab, p.rows = s->vocab; break;
	case TENSOR_QUERY: p.row = query, p.rows = query_size; break;
	case TENSOR_KEY: case TENSOR_VALUE: p.row = kv, p.rows = kv_size; break;
	case TENSOR_OUTPUT: p.column = query, p.columns = query_size; break;
	case TENSOR_GATE: case TENSOR_UP:
		p.row = s->first_intermediate, p.rows = s->intermediate; break;
	case TENSOR_DOWN: case TENSOR_GATE_BIAS: case TENSOR_UP_BIAS:
		p.column = s->first_intermediate, p.columns = s->intermediate; break;
	case TENSOR_QUERY_BIAS: p.column = query, p.columns = query_size; break;
	case TENSOR_KEY_BIAS: case TENSOR_VALUE_BIAS: p.column = kv, p.columns = kv_size; break;
	default: break;
	}
	return p;
}

/* Loads one rectangle, in this rank's coordinates, from rows with a gap between them. */
static inline int reference_load_piece(struct backend *b, const struct reference_tensor *t,
				       const struct reference_part *part, struct tensor_part piece,
				       struct error *err)
{
	size_t size = dtype_bytes(piece.dtype), gap = size * 3;
	size_t stride = (size_t)piece.columns * size + gap;
	char *data = reference_alloc((size_t)piece.rows, stride);
	for (int32_t r = 0; r < piece.rows; r++) {
		for (int32_t c = 0; c < piece.columns; c++) {
			int64_t row = part->row + piece.row + r, column = part->column + piece.column + c;
			float value = (float)t->data[row * t->columns + column];
			dtype_convert(&value, DTYPE_F32, data + (size_t)r * stride + (size_t)c * size,
				      piece.dtype, 1);
		}
	}
	int result = backend_load(b, piece, data, stride, err);
	free(data);
	return result;
}

/* All tensors, each cut at a random row and a random column into up to four pieces. */
static inline int reference_load(struct backend *b, const struct reference_model *m,
				 const struct backend_shape *s, struct error *err)
{
	for (int32_t layer = m->config.layers - 1; layer >= -1; layer--) {
		for (int k = 0; k < TENSOR_KINDS; k++) {
			enum backend_tensor kind = (enum backend_tensor)k;
			const struct reference_tensor *t = &m->tensors[layer + 1][k];
			if (!t->data)
				continue;
			struct reference_part part = reference_part(s, kind, t);
			/* Multi-rank tests load from threads; the cuts must not race for the generator. */
			int32_t cut_row = part.rows * (k % 5) / 5, cut_column = part.columns * (k % 3) / 3;
			for (int piece = 3; piece >= 0; piece--) {
				int32_t low = piece & 1, right = piece >> 1;
				struct tensor_part p = {
					.tensor = kind, .layer = layer,
					.row = low ? cut_row : 0,
					.rows = low ? part.rows - cut_row : cut_row,
					.column = right ? cut_column : 0,
					.columns = right ? part.columns - cut_column : cut_column,
					.dtype = reference_is_matrix(kind) ? m->config.dtype : DTYPE_F32,
				};
				if (p.rows && p.columns && reference_load_piece(b, t, &part, p, err))
					return -1;
			}
		}
	}
	return b->ops->load_end(b, err);
}

#endif
