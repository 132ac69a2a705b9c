/* The transformer's blocks but attention: what lies between the residual and the products. */
#include <omp.h>

#include "kernels/cpu/cpu.h"

void cpu_run(const struct cpu_backend *b, int64_t items, int64_t work,
	     void (*run)(void *arg, int64_t item, int thread), void *arg)
{
	if (b->options.threads == 1 || items <= 1 || work < ALONE) {
		for (int64_t i = 0; i < items; i++)
			run(arg, i, 0);
		return;
	}
#pragma omp parallel for num_threads(b->options.threads) schedule(dynamic, 1)
	for (int64_t i = 0; i < items; i++)
		run(arg, i, omp_get_thread_num());
}

/* ---- products: shared out by panels of rows and blocks of tokens ------------------------- */

static int64_t token_chunks(int32_t tokens)
{
	return (tokens + TOKEN_CHUNK - 1) / TOKEN_CHUNK;
}

/* One thread's share of products over the same tokens. */
struct share {
	int32_t row, rows, token, tokens;
};

static int64_t share_count(int32_t rows, int32_t tokens)
{
	return (int64_t)((rows + PANEL - 1) / PANEL) * ((tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK);
}

/* The blocks of one panel follow each other, so that its weights come from memory once. */
static struct share share_at(int64_t index, int32_t rows, int32_t tokens)
{
	int32_t blocks = (tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK;
	struct share s = {.row = (int32_t)(index / blocks) * PANEL,
			  .token = (int32_t)(index % blocks) * TOKEN_BLOCK};
	s.rows = cpu_min(PANEL, rows - s.row);
	s.tokens = cpu_min(TOKEN_BLOCK, tokens - s.token);
	return s;
}

/* out[tokens][out_stride] = input · matrix^T, of which one share. */
static void multiply_share(const struct cpu_backend *b, const struct cpu_matrix *m, struct share s,
			   const float *input, size_t input_stride, float *out, size_t out_stride)
{
	struct product p = {
		.weight = m->data + (size_t)s.row * m->stride * dtype_bytes(b->shape->dtype),
		.weight_stride = m->stride,
		.rows = s.rows,
		.columns = (int)m->stride, /* the padding is zero on both sides */
		.tokens = s.tokens,
		.input = input + (size_t)s.token * input_stride,
		.input_stride = input_stride,
		.out = out + (size_t)s.token * out_stride + s.row,
		.out_stride = out_stride,
	};
	b->kernels->product[b->shape->dtype](&p);
}

struct multiply {
	const struct cpu_backend *backend;
	const struct cpu_matrix *matrix;
	const float *input;
	size_t input_stride;
	int32_t tokens;
	float *out;
	size_t out_stride;
};

static void multiply_item(void *arg, int64_t index, int thread)
{
	const struct multiply *m = arg;
	struct share s = share_at(index, m->matrix->rows, m->tokens);
	(void)thread;
	multiply_share(m->backend, m->matrix, s, m->input, m->input_stride, m->out, m->out_stride);
}

void cpu_multiply(const struct cpu_backend *b, const struct cpu_matrix *matrix, const float *input,
		  size_t input_stride, int32_t tokens, float *out, size_t out_stride)
{
	struct multiply m = {b, matrix, input, input_stride, tokens, out, out_stride};
	cpu_run(b, share_count(matrix->rows, tokens), (int64_t)matrix->rows * matrix->columns * tokens,
		multiply_item, &m);
}

/* ---- norm -------------------------------------------------------------------------------- */

struct norm {
	struct cpu_backend *backend;
	const float *weight;
	const int32_t *tokens;
	int32_t count;
};

static void norm_chunk(void *arg, int64_t chunk, int thread)
{
	const struct norm *n = arg;
	struct cpu_backend *b = n->backend;
	int32_t first = (int32_t)chunk * TOKEN_CHUNK, end = cpu_min(first + TOKEN_CHUNK, n->count);
	(void)thread;
	for (int32_t i = first; i < end; i++) {
		size_t token = (size_t)(n->tokens ? n->tokens[i] : i);
		b->kernels->rms_norm(b->residual + token * b->hidden_stride, n->weight, b->shape->hidden,
				     (int)b->hidden_stride, (float)b->shape->norm_epsilon,
				     b->normed + (size_t)i * b->hidden_stride);
	}
}

void cpu_norm(struct cpu_backend *b, const float *weight, const int32_t *tokens, int32_t count)
{
	struct norm n = {b, weight, tokens, count};
	cpu_run(b, token_chunks(count), (int64_t)count * b->shape->hidden, norm_chunk, &n);
}

/* delta, its first `count` values. */
static int sum_over_ranks(struct cpu_backend *b, size_t count, struct error *err)
{
	const struct group *group = b->options.group;
	profile_begin(b->options.profile, "all-reduce");
	int result = group->sum(group, b->delta, count, err);
	profile_end(b->options.profile);
	return result;
}

/* ---- embed ------------------------------------------------------------------------------- */

int cpu_embed(struct backend *base, struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	const struct backend_shape *s = b->shape;
	size_t hidden = (size_t)s->hidden, tokens = (size_t)b->step.tokens;
	size_t row_bytes = b->embedding.stride * dtype_bytes(s->dtype);
	memset(b->delta, 0, tokens * hidden * sizeof *b->delta);
	for (size_t t = 0; t < tokens; t++) {
		int32_t id = b->step.token_ids[t] - s->first_vocab;
		if (id >= 0 && id < s->vocab)
			dtype_convert(b->embedding.data + (size_t)id * row_bytes, s->dtype,
				      b->delta + t * hidden, DTYPE_F32, hidden);
	}
	if (sum_over_ranks(b, tokens * hidden, err))
		return -1;
	for (size_t t = 0; t < tokens; t++)
		memcpy(b->residual + t * b->hidden_stride, b->delta + t * hidden, hidden * sizeof(float));
	return 0;
}

/* ---- qkv --------------------------------------------------------------------------------- */

struct layer_work {
	struct cpu_backend *backend;
	const struct cpu_layer *layer;
};

/* Turns the pairs (i, i + head_dim/2) by the token's angles (Su et al. 2021, in the order of
 * halves that Hugging Face's checkpoints have). */
static void rotate(float *restrict head, const float *restrict cosine, const float *restrict sine,
		   int32_t half)
{
	for (int32_t i = 0; i < half; i++) {
		float a = head[i], b = head[i + half];
		head[i] = a * cosine[i] - b * sine[i];
		head[i + half] = b * cosine[i] + a * sine[i];
	}
}

/* Bias, q/k norm and rope of one head, which is `in` and comes back, padded, in `head`. */
static void finish_head(const struct cpu_backend *b, const float *in, const float *bias,
			const float *norm, int32_t token, bool turns, float *head)
{
	int32_t size = b->shape->head_dim;
	for (int32_t i = 0; i < size; i++)
		head[i] = in[i] + bias[i];
	if (norm && b->shape->query_key_norm)
		b->kernels->rms_norm(head, norm, size, (int)b->head_stride,
				     (float)b->shape->norm_epsilon, head);
	if (turns)
		rotate(head, b->cosine + (size_t)token * (size_t)(size / 2),
		       b->sine + (size_t)token * (size_t)(size / 2), size / 2);
}

static void finish_token(struct cpu_backend *b, const struct cpu_layer *layer, int32_t token)
{
	const struct backend_shape *s = b->shape;
	float head[HEAD_DIM_MAX] __attribute__((aligned(64))) = {0};
	float *row = b->projected + (size_t)token * b->projected_stride;
	const float *bias = layer->qkv_bias;
	int32_t size = s->head_dim, position = b->step.positions[token];
	for (int32_t h = 0; h < s->query_heads; h++, row += size, bias += size) {
		finish_head(b, row, bias, layer->query_norm, token, true, head);
		memcpy(row, head, (size_t)size * sizeof *head);
	}
	int32_t block = b->step.block_table[(size_t)b->sequence_of[token] * (size_t)b->step.max_blocks +
					    (size_t)(position / KV_BLOCK)];
	size_t slot = (size_t)(position % KV_BLOCK) * b->head_stride * dtype_bytes(s->dtype);
	for (int32_t h = 0; h < 2 * s->kv_heads; h++, row += size, bias += size) {
		bool key = h < s->kv_heads;
		finish_head(b, row, bias, key ? layer->key_norm : NULL, token, key, head);
		char *tile = cpu_cache_tile(b, key ? layer->keys : layer->values, block, h % s->kv_heads);
		dtype_convert(head, DTYPE_F32, tile + slot, s->dtype, b->head_stride);
	}
}

static void finish_chunk(void *arg, int64_t chunk, int thread)
{
	const struct layer_work *h = arg;
	int32_t first = (int32_t)chunk * TOKEN_CHUNK;
	int32_t end = cpu_min(first + TOKEN_CHUNK, h->backend->step.tokens);
	(void)thread;
	for (int32_t t = first; t < end; t++)
		finish_token(h->backend, h->layer, t);
}

int cpu_qkv(struct backend *base, int32_t layer, struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	struct layer_work h = {b, &b->layers[layer]};
	(void)err;
	cpu_norm(b, h.layer->attention_norm, NULL, b->step.tokens);
	cpu_multiply(b, &h.layer->qkv, b->normed, b->hidden_stride, b->step.tokens, b->projected,
		     b->projected_stride);
	cpu_run(b, token_chunks(b->step.tokens), 4ll * b->step.tokens * h.layer->qkv.rows, finish_chunk,
		&h);
	return 0;
}

/* ---- project ----------------------------------------------------------------------------- */

struct addition {
	struct cpu_backend *backend;
	const float *bias;
};

static void add_chunk(void *arg, int64_t chunk, int thread)
{
	const struct addition *a = arg;
	struct cpu_backend *b = a->backend;
	int32_t hidden = b->shape->hidden, first = (int32_t)chunk * TOKEN_CHUNK;
	int32_t end = cpu_min(first + TOKEN_CHUNK, b->step.tokens);
	(void)thread;
	for (int32_t t = first; t < end; t++) {
		float *residual = b->residual + (size_t)t * b->hidden_stride;
		const float *delta = b->delta + (size_t)t * (size_t)hidden;
		for (int32_t i = 0; i < hidden; i++)
			residual[i] += delta[i] + a->bias[i];
	}
}

/* residual += sum over ranks of matrix · input, + bias. Every rank joins the sum, also one whose
 * part has no columns. */
static int project(struct cpu_backend *b, const struct cpu_matrix *matrix, const float *input,
		   const float *bias, struct error *err)
{
	struct addition a = {b, bias};
	size_t hidden = (size_t)b->shape->hidden, count = (size_t)b->step.tokens * hidden;
	if (matrix->columns)
		cpu_multiply(b, matrix, input, matrix->stride, b->step.tokens, b->delta, hidden);
	else
		memset(b->delta, 0, count * sizeof *b->delta);
	if (sum_over_ranks(b, count, err))
		return -1;
	cpu_run(b, token_chunks(b->step.tokens), (int64_t)count, add_chunk, &a);
	return 0;
}

int cpu_project_attention(struct backend *base, int32_t layer, struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	const struct cpu_layer *l = &b->layers[layer];
	return project(b, &l->output, b->attention, l->output_bias, err);
}

int cpu_project_mlp(struct backend *base, int32_t layer, struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	const struct cpu_layer *l = &b->layers[layer];
	return project(b, &l->down, b->activation, l->down_bias, err);
}

/* ---- gate and up ------------------------------------------------------------------------- */

static void gate_up_item(void *arg, int64_t index, int thread)
{
	const struct layer_work *h = arg;
	struct cpu_backend *b = h->backend;
	const struct cpu_layer *l = h->layer;
	size_t stride = b->intermediate_stride;
	struct share s = share_at(index, b->shape->intermediate, b->step.tokens);
	(void)thread;
	multiply_share(b, &l->gate, s, b->normed, b->hidden_stride, b->activation, stride);
	multiply_share(b, &l->up, s, b->normed, b->hidden_stride, b->up, stride);
	for (int32_t t = s.token; t < s.token + s.tokens; t++) {
		size_t at = (size_t)t * stride + (size_t)s.row;
		b->kernels->silu_multiply(b->activation + at, b->up + at, l->gate_bias + s.row,
					  l->up_bias + s.row, (int)cpu_pad((size_t)s.rows));
	}
}

int cpu_gate_up(struct backend *base, int32_t layer, struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	struct layer_work h = {b, &b->layers[layer]};
	(void)err;
	cpu_norm(b, h.layer->mlp_norm, NULL, b->step.tokens);
	cpu_run(b, share_count(b->shape->intermediate, b->step.tokens),
		2ll * b->shape->intermediate * b->shape->hidden * b->step.tokens, gate_up_item, &h);
	return 0;
}
