/* Opening and closing the CPU backend, its memory, and the start of a step. */
#include <math.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kernels/cpu/cpu.h"

/* ---- memory: the same walk adds up sizes and hands out places ---------------------------- */

static void *take(struct cpu_arena *arena, size_t bytes)
{
	char *place = arena->data ? arena->data + arena->used : NULL;
	arena->used += (bytes + 63) / 64 * 64;
	return place;
}

static float *take_floats(struct cpu_arena *arena, size_t rows, size_t columns)
{
	return take(arena, rows * columns * sizeof(float));
}

static struct cpu_matrix take_matrix(struct cpu_arena *arena, int32_t rows, int32_t columns,
				     enum dtype dtype)
{
	struct cpu_matrix m = {.rows = rows, .columns = columns, .stride = cpu_pad((size_t)columns)};
	m.data = take(arena, (size_t)rows * m.stride * dtype_bytes(dtype));
	return m;
}

static void take_layer(struct cpu_backend *b, struct cpu_layer *layer)
{
	const struct backend_shape *s = b->shape;
	struct cpu_arena *arena = &b->weights;
	int32_t query_rows = s->query_heads * s->head_dim;
	int32_t rows = query_rows + 2 * s->kv_heads * s->head_dim;
	size_t cache = (size_t)b->options.kv_blocks * (size_t)s->kv_heads * KV_BLOCK *
		       b->head_stride * dtype_bytes(s->dtype);

	layer->qkv = take_matrix(arena, rows, s->hidden, s->dtype);
	layer->output = take_matrix(arena, s->hidden, query_rows, s->dtype);
	layer->gate = take_matrix(arena, s->intermediate, s->hidden, s->dtype);
	layer->up = take_matrix(arena, s->intermediate, s->hidden, s->dtype);
	layer->down = take_matrix(arena, s->hidden, s->intermediate, s->dtype);
	layer->attention_norm = take_floats(arena, 1, b->hidden_stride);
	layer->mlp_norm = take_floats(arena, 1, b->hidden_stride);
	layer->query_norm = take_floats(arena, 1, b->head_stride);
	layer->key_norm = take_floats(arena, 1, b->head_stride);
	layer->qkv_bias = take_floats(arena, 1, (size_t)rows);
	layer->output_bias = take_floats(arena, 1, b->hidden_stride);
	layer->gate_bias = take_floats(arena, 1, b->intermediate_stride);
	layer->up_bias = take_floats(arena, 1, b->intermediate_stride);
	layer->down_bias = take_floats(arena, 1, b->hidden_stride);
	layer->keys = take(&b->cache, cache);
	layer->values = take(&b->cache, cache);
}

static void take_model(struct cpu_backend *b)
{
	const struct backend_shape *s = b->shape;
	b->embedding = take_matrix(&b->weights, s->vocab, s->hidden, s->dtype);
	b->head = s->tied ? b->embedding
			  : take_matrix(&b->weights, s->vocab, s->hidden, s->dtype);
	b->final_norm = take_floats(&b->weights, 1, b->hidden_stride);
}

static void take_workspace(struct cpu_backend *b)
{
	const struct backend_options *o = &b->options;
	struct cpu_arena *arena = &b->workspace;
	size_t tokens = (size_t)o->max_tokens, rows = (size_t)o->max_logit_rows;
	size_t items = tokens * (size_t)b->shape->query_heads / ATTEND_ROWS +
		       (size_t)o->max_sequences * (size_t)b->shape->kv_heads;
	size_t half = (size_t)b->shape->head_dim / 2;

	b->residual = take_floats(arena, tokens, b->hidden_stride);
	b->normed = take_floats(arena, tokens > rows ? tokens : rows, b->hidden_stride);
	b->delta = take_floats(arena, tokens, (size_t)b->shape->hidden);
	b->projected = take_floats(arena, tokens, b->projected_stride);
	b->attention = take_floats(arena, tokens, b->attention_stride);
	b->activation = take_floats(arena, tokens, b->intermediate_stride);
	b->up = take_floats(arena, tokens, b->intermediate_stride);
	b->logits = take_floats(arena, rows, b->vocab_stride);
	b->cosine = take_floats(arena, tokens, half);
	b->sine = take_floats(arena, tokens, half);
	b->sequence_of = take(arena, tokens * sizeof *b->sequence_of);
	b->items = take(arena, items * sizeof *b->items);
	b->scratch_stride = cpu_pad((size_t)ATTEND_ROWS * (2 * b->head_stride + STRIP + 2));
	b->scratch = take_floats(arena, (size_t)o->threads, b->scratch_stride);
}

static void set_options(struct cpu_backend *b, const struct backend_options *options)
{
	const struct backend_shape *s = &b->options.shape;
	b->options = *options;
	b->shape = s;
	b->hidden_stride = cpu_pad((size_t)s->hidden);
	b->head_stride = cpu_pad((size_t)s->head_dim);
	b->attention_stride = cpu_pad((size_t)s->query_heads * (size_t)s->head_dim);
	b->projected_stride = b->attention_stride +
			      cpu_pad(2 * (size_t)s->kv_heads * (size_t)s->head_dim);
	b->intermediate_stride = cpu_pad((size_t)s->intermediate);
	b->vocab_stride = cpu_pad((size_t)s->vocab);
}

void cpu_backend_memory(const struct backend_options *options, struct backend_memory *out)
{
	struct cpu_backend b = {0};
	struct cpu_layer layer;
	set_options(&b, options);
	take_layer(&b, &layer);
	b.weights.used *= (size_t)options->shape.layers;
	b.cache.used *= (size_t)options->shape.layers;
	take_model(&b);
	take_workspace(&b);
	*out = (struct backend_memory){.weights = b.weights.used, .kv_cache = b.cache.used,
				       .workspace = b.workspace.used, .overhead = 32 << 20};
}

/* Maps zeroed pages, large ones where the system gives them. */
static int arena_open(struct cpu_arena *arena, uint64_t bytes, const char *what, struct error *err)
{
	*arena = (struct cpu_arena){0};
	if (!bytes)
		return 0;
	void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
		return error_run(err, "no memory for %.1f MiB of %s: use more ranks, or a smaller "
				 "--context", (double)bytes / (1 << 20), what);
	madvise(data, bytes, MADV_HUGEPAGE); /* a wish: no harm where it fails */
	arena->data = data;
	return 0;
}

static void arena_close(struct cpu_arena *arena, uint64_t bytes)
{
	if (arena->data)
		munmap(arena->data, bytes);
}

static void cpu_close(struct backend *base)
{
	struct cpu_backend *b = cpu_of(base);
	if (!b)
		return;
	struct backend_memory memory;
	cpu_backend_memory(&b->options, &memory);
	arena_close(&b->weights, memory.weights);
	arena_close(&b->cache, memory.kv_cache);
	arena_close(&b->workspace, memory.workspace);
	free(b->layers);
	free(b);
}

/* ---- a step ------------------------------------------------------------------------------ */

/* cos and sin of every token's angles, times the magnitude; the angle is a float32 product, as
 * in transformers. */
static void fill_rotations(struct cpu_backend *b)
{
	const struct backend_shape *s = b->shape;
	const struct step *step = &b->step;
	int32_t half = s->head_dim / 2;
	float frequency[HEAD_DIM_MAX / 2];
	for (int32_t q = 0; q < step->sequences; q++) {
		double growth = step->rope_growth ? step->rope_growth[q] : 1;
		for (int32_t i = 0; i < half; i++) {
			frequency[i] = s->rope_frequencies[i];
			if (growth != 1 && i > 0)
				frequency[i] = (float)(frequency[i] *
						       pow(growth, -2.0 * i / (s->head_dim - 2)));
		}
		for (int32_t t = step->first_token[q]; t < step->first_token[q + 1]; t++) {
			for (int32_t i = 0; i < half; i++) {
				float angle = (float)step->positions[t] * frequency[i];
				b->cosine[(size_t)t * half + i] = cosf(angle) * s->rope_magnitude;
				b->sine[(size_t)t * half + i] = sinf(angle) * s->rope_magnitude;
			}
		}
	}
}

static void fill_items(struct cpu_backend *b)
{
	const struct step *step = &b->step;
	b->item_count = b->attend_work = 0;
	for (int32_t q = 0; q < step->sequences; q++) {
		int32_t tokens = step->first_token[q + 1] - step->first_token[q];
		for (int32_t h = 0; h < b->shape->kv_heads; h++) {
			int32_t rows = tokens * b->shape->groups[h].count;
			for (int32_t row = 0; row < rows; row += ATTEND_ROWS)
				b->items[b->item_count++] = (struct cpu_attend_item){q, h, row};
		}
		for (int32_t t = step->first_token[q]; t < step->first_token[q + 1]; t++)
			b->sequence_of[t] = q;
		if (tokens) /* as if all saw what the last one sees */
			b->attend_work += (int64_t)tokens * step->positions[step->first_token[q + 1] - 1] *
					  b->shape->query_heads * b->shape->head_dim * 2;
	}
}

static int cpu_begin(struct backend *base, const struct step *step, struct error *err)
{
	struct cpu_backend *b = cpu_of(base);
	const struct backend_options *o = &b->options;
	if (step->tokens < 0 || step->tokens > o->max_tokens || step->sequences < 0 ||
	    step->sequences > o->max_sequences || step->logit_rows < 0 ||
	    step->logit_rows > o->max_logit_rows)
		return error_run(err, "a step of %d tokens, %d sequences and %d rows of logits exceeds "
				 "the backend's %d, %d and %d", step->tokens, step->sequences,
				 step->logit_rows, o->max_tokens, o->max_sequences, o->max_logit_rows);
	b->step = *step;
	fill_rotations(b);
	fill_items(b);
	return 0;
}

static int cpu_end(struct backend *base, struct error *err)
{
	(void)base;
	(void)err;
	return 0;
}

static int cpu_load_end(struct backend *base, struct error *err)
{
	(void)base;
	(void)err;
	return 0;
}

/* ---- for tests --------------------------------------------------------------------------- */

/* A buffer's place and form. */
static float *find_buffer(struct cpu_backend *b, enum backend_buffer buffer, int32_t *rows,
			  size_t *columns, size_t *stride)
{
	const struct backend_shape *s = b->shape;
	*rows = b->step.tokens;
	switch (buffer) {
	case BUFFER_RESIDUAL:
		*columns = (size_t)s->hidden, *stride = b->hidden_stride;
		return b->residual;
	case BUFFER_QUERY:
		*columns = (size_t)s->query_heads * (size_t)s->head_dim, *stride = b->projected_stride;
		return b->projected;
	case BUFFER_ATTENTION:
		*columns = (size_t)s->query_heads * (size_t)s->head_dim, *stride = b->attention_stride;
		return b->attention;
	case BUFFER_ACTIVATION:
		*columns = (size_t)s->intermediate, *stride = b->intermediate_stride;
		return b->activation;
	case BUFFER_LOGITS:
		*rows = b->step.logit_rows;
		*columns = (size_t)s->vocab, *stride = b->vocab_stride;
		return b->logits;
	}
	return NULL;
}

static int cpu_peek(struct backend *base, enum backend_buffer buffer, float *out, struct error *err)
{
	int32_t rows;
	size_t columns, stride;
	const float *data = find_buffer(cpu_of(base), buffer, &rows, &columns, &stride);
	if (!data)
		return error_run(err, "there is no buffer %d", (int)buffer);
	for (int32_t r = 0; r < rows && columns; r++)
		memcpy(out + (size_t)r * columns, data + (size_t)r * stride, columns * sizeof *out);
	return 0;
}

static int cpu_poke(struct backend *base, enum backend_buffer buffer, const float *in,
		    struct error *err)
{
	int32_t rows;
	size_t columns, stride;
	float *data = find_buffer(cpu_of(base), buffer, &rows, &columns, &stride);
	if (!data || buffer == BUFFER_LOGITS)
		return error_run(err, "buffer %d cannot be written", (int)buffer);
	for (int32_t r = 0; r < rows && columns; r++)
		memcpy(data + (size_t)r * stride, in + (size_t)r * columns, columns * sizeof *in);
	return 0;
}

static const struct backend_ops cpu_ops = {
	.name = "cpu",
	.close = cpu_close,
	.lend = cpu_lend,
	.load = cpu_load,
	.load_random = cpu_load_random,
	.load_end = cpu_load_end,
	.begin = cpu_begin,
	.embed = cpu_embed,
	.qkv = cpu_qkv,
	.attend = cpu_attend,
	.project_attention = cpu_project_attention,
	.gate_up = cpu_gate_up,
	.project_mlp = cpu_project_mlp,
	.logits = cpu_logits,
	.end = cpu_end,
	.candidates = cpu_candidates,
	.logit_row = cpu_logit_row,
	.peek = cpu_peek,
	.poke = cpu_poke,
	.probe = cpu_probe,
};

int cpu_backend_open(struct backend **out, const struct backend_options *options, struct error *err)
{
	struct cpu_backend *b = calloc(1, sizeof *b);
	if (!b)
		return error_memory(err, "the CPU backend");
	b->base.ops = &cpu_ops;
	set_options(b, options);
	b->kernels = cpu_kernels_best();
	if (options->threads < 1 || b->shape->head_dim < 2 || b->shape->head_dim % 2 ||
	    b->shape->head_dim > HEAD_DIM_MAX) {
		error_run(err, "the CPU backend takes even head sizes from 2 to %d and at least one "
			  "thread, not %d and %d", HEAD_DIM_MAX, b->shape->head_dim, options->threads);
		goto fail;
	}
	struct backend_memory memory;
	cpu_backend_memory(options, &memory);
	b->layers = calloc((size_t)b->shape->layers + 1, sizeof *b->layers);
	if (!b->layers) {
		error_memory(err, "the CPU backend's layers");
		goto fail;
	}
	if (arena_open(&b->weights, memory.weights, "weights", err) ||
	    arena_open(&b->cache, memory.kv_cache, "KV cache", err) ||
	    arena_open(&b->workspace, memory.workspace, "workspace", err))
		goto fail;
	for (int32_t i = 0; i < b->shape->layers; i++)
		take_layer(b, &b->layers[i]);
	take_model(b);
	take_workspace(b);
	for (size_t i = 0; i < (size_t)options->max_logit_rows * b->vocab_stride; i++)
		b->logits[i] = -INFINITY;
	*out = &b->base;
	return 0;
fail:
	cpu_close(&b->base);
	return -1;
}
