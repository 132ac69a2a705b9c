/*
 * reference_model.h - a transformer in float64, the judge of every backend.
 *
 * Written from the papers and transformers' conventions for the contract of kernels/backend.h,
 * sharing no code with any backend. A test makes steps of a ragged batch (reference_batch_step),
 * computes every block in float64 (reference_forward) and compares the backend's with it
 * (reference_compare).
 */
#ifndef TPRUN_TESTS_REFERENCE_MODEL_H
#define TPRUN_TESTS_REFERENCE_MODEL_H

#include "tests/reference_weights.h"

/* Everything a forward pass computes, in whole-model sizes. */
struct reference_trace {
	double *embedded; /* [tokens][hidden] */
	struct {
		double *query, *attention, *middle, *activation, *residual;
	} layers[REFERENCE_LAYERS];
	double *logits; /* [logit_rows][vocab] */
};

/* Sequences under way: their caches in float64 and the current step's arrays. */
struct reference_batch {
	int32_t sequences, capacity; /* tokens of one sequence */
	int32_t *lengths;	     /* [sequences] */
	double *keys, *values;	     /* [sequences][layers][capacity][kv_heads * head_dim] */
	int32_t *tables;	     /* [sequences][max_blocks]: shuffled */
	float *growths;		     /* [sequences] */
	int32_t kv_blocks, max_blocks;
	/* The step's arrays; its sequences are a random choice of ours: */
	int32_t *chosen, *token_ids, *positions, *first_token, *block_table, *logit_tokens;
	float *rope_growth;
	struct step step;
};

/* ---- batches ----------------------------------------------------------------------------- */

static inline void reference_batch_open(struct reference_batch *b, const struct reference_model *m,
					int32_t sequences, int32_t capacity)
{
	const struct reference_config *c = &m->config;
	int64_t cache = (int64_t)sequences * c->layers * capacity;
	*b = (struct reference_batch){.sequences = sequences, .capacity = capacity};
	b->max_blocks = (capacity + KV_BLOCK - 1) / KV_BLOCK;
	b->kv_blocks = sequences * b->max_blocks + 3;
	b->lengths = reference_alloc((size_t)sequences, sizeof *b->lengths);
	b->growths = reference_alloc((size_t)sequences, sizeof *b->growths);
	b->keys = reference_doubles(cache, c->kv_heads * c->head_dim);
	b->values = reference_doubles(cache, c->kv_heads * c->head_dim);
	b->tables = reference_alloc((size_t)b->kv_blocks, sizeof *b->tables);
	for (int32_t i = 0; i < b->kv_blocks; i++) {
		int32_t j = (int32_t)test_int(0, i);
		b->tables[i] = b->tables[j];
		b->tables[j] = i;
	}
	for (int32_t i = 0; i < sequences; i++)
		b->growths[i] = 1.0f + (float)test_real();
	size_t tokens = (size_t)sequences * (size_t)capacity;
	b->chosen = reference_alloc((size_t)sequences, sizeof(int32_t));
	b->token_ids = reference_alloc(tokens, sizeof(int32_t));
	b->positions = reference_alloc(tokens, sizeof(int32_t));
	b->first_token = reference_alloc((size_t)sequences + 1, sizeof(int32_t));
	b->block_table = reference_alloc((size_t)b->kv_blocks, sizeof(int32_t));
	b->logit_tokens = reference_alloc(tokens, sizeof(int32_t));
	b->rope_growth = reference_alloc((size_t)sequences, sizeof(float));
}

static inline void reference_batch_close(struct reference_batch *b)
{
	free(b->lengths), free(b->growths), free(b->keys), free(b->values), free(b->tables);
	free(b->chosen), free(b->token_ids), free(b->positions), free(b->first_token);
	free(b->block_table), free(b->logit_tokens), free(b->rope_growth);
}

/* The next step: each sequence that has room joins with one chance in two (the first always, as
 * long as it can) and brings one token or up to `longest`. Lengths grow at once. */
static inline const struct step *reference_batch_step(struct reference_batch *b, int32_t vocab,
						      int32_t longest, bool growth)
{
	struct step *s = &b->step;
	*s = (struct step){.max_blocks = b->max_blocks, .token_ids = b->token_ids,
			   .positions = b->positions, .first_token = b->first_token,
			   .block_table = b->block_table, .logit_tokens = b->logit_tokens,
			   .rope_growth = growth ? b->rope_growth : NULL};
	for (int32_t q = 0; q < b->sequences; q++) {
		int32_t room = b->capacity - b->lengths[q];
		if (!room || (q > 0 && test_int(0, 1)))
			continue;
		int32_t count = test_int(0, 1) ? 1 : (int32_t)test_int(1, longest < room ? longest : room);
		b->chosen[s->sequences] = q;
		b->first_token[s->sequences] = s->tokens;
		b->rope_growth[s->sequences] = test_int(0, 1) ? 1.0f : b->growths[q];
		memcpy(b->block_table + (size_t)s->sequences * (size_t)b->max_blocks,
		       b->tables + (size_t)q * (size_t)b->max_blocks,
		       (size_t)b->max_blocks * sizeof *b->tables);
		for (int32_t i = 0; i < count; i++) {
			if (i == count - 1 || !test_int(0, 3))
				b->logit_tokens[s->logit_rows++] = s->tokens;
			b->token_ids[s->tokens] = (int32_t)test_int(0, vocab - 1);
			b->positions[s->tokens++] = b->lengths[q]++;
		}
		s->sequences++;
	}
	b->first_token[s->sequences] = s->tokens;
	return s;
}

/* ---- the forward pass -------------------------------------------------------------------- */

/* y = W x + bias, bias perhaps absent. */
static inline void reference_multiply(const struct reference_tensor *w,
				      const struct reference_tensor *bias, const double *x, double *y)
{
	for (int32_t r = 0; r < w->rows; r++) {
		double sum = bias && bias->data ? bias->data[r] : 0;
		for (int32_t c = 0; c < w->columns; c++)
			sum += w->data[(int64_t)r * w->columns + c] * x[c];
		y[r] = sum;
	}
}

static inline void reference_norm(const double *x, const double *weight, int32_t size,
				  double epsilon, double *y)
{
	double squares = 0;
	for (int32_t i = 0; i < size; i++)
		squares += x[i] * x[i];
	double factor = 1 / sqrt(squares / size + epsilon);
	for (int32_t i = 0; i < size; i++)
		y[i] = x[i] * factor * weight[i];
}

/* Norm (where there is one) and rotation of one head, in place. */
static inline void reference_turn(const struct reference_config *c, double *head,
				  const struct reference_tensor *norm, int32_t position,
				  double growth)
{
	int32_t half = c->head_dim / 2;
	if (norm->data)
		reference_norm(head, norm->data, c->head_dim, c->norm_epsilon, head);
	for (int32_t i = 0; i < half; i++) {
		double power = i ? pow(growth, -2.0 * i / (c->head_dim - 2)) : 1;
		float frequency = (float)(c->rope_frequencies[i] * power);
		float angle = (float)position * frequency;
		double cosine = cos(angle) * c->rope_magnitude, sine = sin(angle) * c->rope_magnitude;
		double a = head[i], b = head[i + half];
		head[i] = a * cosine - b * sine;
		head[i + half] = a * sine + b * cosine;
	}
}

static inline double *reference_cached(const struct reference_batch *b,
				       const struct reference_config *c, double *cache,
				       int32_t sequence, int32_t layer, int32_t position)
{
	int64_t row = ((int64_t)sequence * c->layers + layer) * b->capacity + position;
	return cache + row * c->kv_heads * c->head_dim;
}

/* One token's attention of all heads. */
static inline void reference_attend(const struct reference_model *m, const struct reference_batch *b,
				    int32_t sequence, int32_t layer, int32_t position,
				    const double *query, double *out)
{
	const struct reference_config *c = &m->config;
	int32_t per = c->query_heads / c->kv_heads, window = c->windows[layer];
	int32_t from = window && position >= window ? position - window + 1 : 0;
	double *weight = reference_doubles(position + 1, 1);
	for (int32_t h = 0; h < c->query_heads; h++) {
		int32_t at = h / per * c->head_dim;
		double max = -INFINITY, sum = 0;
		for (int32_t p = from; p <= position; p++) {
			const double *key = reference_cached(b, c, b->keys, sequence, layer, p) + at;
			weight[p] = 0;
			for (int32_t d = 0; d < c->head_dim; d++)
				weight[p] += query[h * c->head_dim + d] * key[d];
			weight[p] *= c->attention_scale;
			max = fmax(max, weight[p]);
		}
		for (int32_t p = from; p <= position; p++)
			sum += weight[p] = exp(weight[p] - max);
		for (int32_t d = 0; d < c->head_dim; d++)
			out[h * c->head_dim + d] = 0;
		for (int32_t p = from; p <= position; p++) {
			const double *value = reference_cached(b, c, b->values, sequence, layer, p) + at;
			for (int32_t d = 0; d < c->head_dim; d++)
				out[h * c->head_dim + d] += weight[p] / sum * value[d];
		}
	}
	free(weight);
}

/* Query kept, key and value rounded into the cache. */
static inline void reference_qkv(const struct reference_model *m, struct reference_batch *b,
				 int32_t sequence, int32_t index, int32_t layer, int32_t position,
				 const double *x, double *query)
{
	const struct reference_config *c = &m->config;
	const struct reference_tensor *t = m->tensors[layer + 1];
	double growth = b->step.rope_growth ? b->step.rope_growth[index] : 1;
	double *key = reference_cached(b, c, b->keys, sequence, layer, position);
	double *value = reference_cached(b, c, b->values, sequence, layer, position);
	reference_multiply(&t[TENSOR_QUERY], &t[TENSOR_QUERY_BIAS], x, query);
	reference_multiply(&t[TENSOR_KEY], &t[TENSOR_KEY_BIAS], x, key);
	reference_multiply(&t[TENSOR_VALUE], &t[TENSOR_VALUE_BIAS], x, value);
	for (int32_t h = 0; h < c->query_heads; h++)
		reference_turn(c, query + h * c->head_dim, &t[TENSOR_QUERY_NORM], position, growth);
	for (int32_t h = 0; h < c->kv_heads; h++)
		reference_turn(c, key + h * c->head_dim, &t[TENSOR_KEY_NORM], position, growth);
	for (int32_t i = 0; i < c->kv_heads * c->head_dim; i++) {
		key[i] = reference_round(key[i], c->dtype);
		value[i] = reference_round(value[i], c->dtype);
	}
}

/* x after the layer's MLP; the activation is kept. */
static inline void reference_mlp(const struct reference_model *m, int32_t layer, const double *normed,
				 double *activation, double *delta)
{
	const struct reference_tensor *t = m->tensors[layer + 1];
	int32_t size = m->config.intermediate;
	double *up = reference_doubles(size, 1);
	reference_multiply(&t[TENSOR_GATE], &t[TENSOR_GATE_BIAS], normed, activation);
	reference_multiply(&t[TENSOR_UP], &t[TENSOR_UP_BIAS], normed, up);
	for (int32_t i = 0; i < size; i++)
		activation[i] *= up[i] / (1 + exp(-activation[i]));
	reference_multiply(&t[TENSOR_DOWN], &t[TENSOR_DOWN_BIAS], activation, delta);
	free(up);
}

static inline void reference_layer(const struct reference_model *m, struct reference_batch *b,
				   int32_t layer, const double *in, struct reference_trace *trace)
{
	const struct reference_config *c = &m->config;
	const struct reference_tensor *t = m->tensors[layer + 1];
	int64_t width = c->query_heads * c->head_dim, hidden = c->hidden;
	double *normed = reference_doubles(hidden, 1), *delta = reference_doubles(hidden, 1);
	for (int32_t q = 0; q < b->step.sequences; q++) {
		for (int64_t i = b->step.first_token[q]; i < b->step.first_token[q + 1]; i++) {
			int32_t position = b->step.positions[i], sequence = b->chosen[q];
			double *query = trace->layers[layer].query + i * width;
			double *attention = trace->layers[layer].attention + i * width;
			double *middle = trace->layers[layer].middle + i * hidden;
			double *residual = trace->layers[layer].residual + i * hidden;
			double *activation = trace->layers[layer].activation + i * c->intermediate;
			reference_norm(in + i * hidden, t[TENSOR_ATTENTION_NORM].data, c->hidden,
				       c->norm_epsilon, normed);
			reference_qkv(m, b, sequence, q, layer, position, normed, query);
			reference_attend(m, b, sequence, layer, position, query, attention);
			reference_multiply(&t[TENSOR_OUTPUT], &t[TENSOR_OUTPUT_BIAS], attention, delta);
			for (int64_t d = 0; d < hidden; d++)
				middle[d] = in[i * hidden + d] + delta[d];
			reference_norm(middle, t[TENSOR_MLP_NORM].data, c->hidden, c->norm_epsilon, normed);
			reference_mlp(m, layer, normed, activation, delta);
			for (int64_t d = 0; d < hidden; d++)
				residual[d] = middle[d] + delta[d];
		}
	}
	free(normed);
	free(delta);
}

/* Computes the batch's current step; free with reference_trace_close. */
static inline void reference_forward(const struct reference_model *m, struct reference_batch *b,
				     struct reference_trace *trace)
{
	const struct reference_config *c = &m->config;
	const struct reference_tensor *model = m->tensors[0];
	const struct step *s = &b->step;
	int64_t tokens = s->tokens, hidden = c->hidden;
	*trace = (struct reference_trace){.embedded = reference_doubles(tokens, hidden),
					  .logits = reference_doubles(s->logit_rows, c->vocab)};
	for (int64_t i = 0; i < tokens; i++)
		memcpy(trace->embedded + i * hidden,
		       model[TENSOR_EMBEDDING].data + s->token_ids[i] * hidden,
		       (size_t)hidden * sizeof(double));
	const double *residual = trace->embedded;
	for (int32_t layer = 0; layer < c->layers; layer++) {
		trace->layers[layer].query = reference_doubles(tokens, c->query_heads * c->head_dim);
		trace->layers[layer].attention = reference_doubles(tokens, c->query_heads * c->head_dim);
		trace->layers[layer].middle = reference_doubles(tokens, hidden);
		trace->layers[layer].activation = reference_doubles(tokens, c->intermediate);
		trace->layers[layer].residual = reference_doubles(tokens, hidden);
		reference_layer(m, b, layer, residual, trace);
		residual = trace->layers[layer].residual;
	}
	double *normed = reference_doubles(hidden, 1);
	for (int64_t i = 0; i < s->logit_rows; i++) {
		reference_norm(residual + s->logit_tokens[i] * hidden, model[TENSOR_FINAL_NORM].data,
			       c->hidden, c->norm_epsilon, normed);
		reference_multiply(&model[c->tied ? TENSOR_EMBEDDING : TENSOR_HEAD], NULL, normed,
				   trace->logits + i * c->vocab);
	}
	free(normed);
}

static inline void reference_trace_close(struct reference_trace *trace)
{
	for (int32_t layer = 0; layer < REFERENCE_LAYERS; layer++) {
		free(trace->layers[layer].query), free(trace->layers[layer].attention);
		free(trace->layers[layer].middle), free(trace->layers[layer].activation);
		free(trace->layers[layer].residual);
	}
	free(trace->embedded), free(trace->logits);
}

/* ---- comparison -------------------------------------------------------------------------- */

/* The worst deviation found, and where. */
struct reference_worst {
	double error;
	const char *place;
	int32_t layer;
};

/* Compares a buffer with columns [first, first + columns) of expected[rows][total]; deviations
 * are in units of the expected value itself, as rounding is, or of the root mean square of all of them, or
 * of 1, whichever is most. Where
 * `correct`, the backend then gets the expected values, so that blocks are judged one by one. */
static inline int reference_check(struct backend *b, enum backend_buffer buffer,
				  const double *expected, int64_t rows, int64_t total, int64_t first,
				  int64_t columns, bool correct, const char *place, int32_t layer,
				  struct reference_worst *worst, struct error *err)
{
	float *values = reference_alloc((size_t)(rows * columns), sizeof *values);
	if (b->ops->peek(b, buffer, values, err)) {
		free(values);
		return -1;
	}
	double squares = 0, largest = 0;
	for (int64_t r = 0; r < rows; r++)
		for (int64_t i = 0; i < columns; i++)
			squares += pow(expected[r * total + first + i], 2);
	double size = fmax(1, sqrt(squares / fmax(1, (double)(rows * columns))));
	for (int64_t r = 0; r < rows; r++) {
		for (int64_t i = 0; i < columns; i++) {
			double want = expected[r * total + first + i];
			double error = fabs(values[r * columns + i] - want) / fmax(size, fabs(want));
			if (!(error <= largest)) /* so that a NaN counts */
				largest = isnan(error) ? INFINITY : error;
			values[r * columns + i] = (float)want;
		}
	}
	if (largest > worst->error)
		*worst = (struct reference_worst){largest, place, layer};
	int result = correct ? b->ops->poke(b, buffer, values, err) : 0;
	free(values);
	return result;
}

/* Runs a step block by block on a backend with the part `s` of the model and compares all it
 * computes. Every rank of a split model must call it at the same time. */
static inline int reference_compare(struct backend *b, const struct backend_shape *s,
				    const struct step *step, const struct reference_trace *trace,
				    bool correct, struct reference_worst *worst, struct error *err)
{
	int64_t tokens = step->tokens, hidden = s->hidden;
	int64_t width = (int64_t)s->query_heads * s->head_dim;
	int64_t first = (int64_t)s->first_query_head * s->head_dim;
	int64_t total = (int64_t)s->total_query_heads * s->head_dim;
	if (b->ops->begin(b, step, err) || b->ops->embed(b, err) ||
	    reference_check(b, BUFFER_RESIDUAL, trace->embedded, tokens, hidden, 0, hidden, correct,
			    "embed", -1, worst, err))
		return -1;
	for (int32_t i = 0; i < s->layers; i++) {
		if (b->ops->qkv(b, i, err) ||
		    reference_check(b, BUFFER_QUERY, trace->layers[i].query, tokens, total, first, width,
				    correct, "qkv", i, worst, err) ||
		    b->ops->attend(b, i, err) ||
		    reference_check(b, BUFFER_ATTENTION, trace->layers[i].attention, tokens, total, first,
				    width, correct, "attend", i, worst, err) ||
		    b->ops->project_attention(b, i, err) ||
		    reference_check(b, BUFFER_RESIDUAL, trace->layers[i].middle, tokens, hidden, 0, hidden,
				    correct, "project_attention", i, worst, err) ||
		    b->ops->gate_up(b, i, err) ||
		    reference_check(b, BUFFER_ACTIVATION, trace->layers[i].activation, tokens,
				    s->total_intermediate, s->first_intermediate, s->intermediate, correct,
				    "gate_up", i, worst, err) ||
		    b->ops->project_mlp(b, i, err) ||
		    reference_check(b, BUFFER_RESIDUAL, trace->layers[i].residual, tokens, hidden, 0,
				    hidden, correct, "project_mlp", i, worst, err))
			return -1;
	}
	if (b->ops->logits(b, err) || b->ops->end(b, err))
		return -1;
	return reference_check(b, BUFFER_LOGITS, trace->logits, step->logit_rows, s->total_vocab,
			       s->first_vocab, s->vocab, false, "logits", -1, worst, err);
}

#endif
