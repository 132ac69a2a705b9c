/* Filling the weights, from a checkpoint's parts or at random. */
#include "kernels/cpu/cpu.h"
#include "kernels/random_weight.h"

/* Where a tensor of this rank lies, and which part of the model's tensor it is. */
struct place {
	char *data;
	int32_t rows, columns;
	size_t stride; /* bytes */
	enum dtype dtype;
	int64_t first_row, first_column, total_columns;
};

static struct place vector_place(float *data, int32_t columns)
{
	return (struct place){.data = (char *)data, .rows = data ? 1 : 0, .columns = columns,
			      .dtype = DTYPE_F32, .total_columns = columns};
}

/* Rows [row, row + rows) of a stored matrix, which the model counts from first_row. */
static struct place matrix_place(const struct cpu_backend *b, const struct cpu_matrix *m,
				 int32_t row, int32_t rows, int64_t first_row)
{
	size_t stride = m->stride * dtype_bytes(b->shape->dtype);
	return (struct place){.data = m->data + (size_t)row * stride, .rows = rows,
			      .columns = m->columns, .stride = stride, .dtype = b->shape->dtype,
			      .first_row = first_row, .total_columns = m->columns};
}

/* A column-parallel bias: the model's elements from `first` on. */
static struct place bias_place(float *data, int32_t columns, int64_t first)
{
	struct place p = vector_place(data, columns);
	p.first_column = first;
	return p;
}

/* A row-parallel matrix: all rows, the model's columns from `first` on. */
static struct place column_place(const struct cpu_backend *b, const struct cpu_matrix *m,
				 int64_t first, int64_t total)
{
	struct place p = matrix_place(b, m, 0, m->rows, 0);
	p.first_column = first;
	p.total_columns = total;
	return p;
}

static struct place model_place(const struct cpu_backend *b, enum backend_tensor tensor)
{
	const struct backend_shape *s = b->shape;
	switch (tensor) {
	case TENSOR_EMBEDDING:
		return matrix_place(b, &b->embedding, 0, s->vocab, s->first_vocab);
	case TENSOR_HEAD:
		return s->tied ? (struct place){0}
			       : matrix_place(b, &b->head, 0, s->vocab, s->first_vocab);
	case TENSOR_FINAL_NORM:
		return vector_place(b->final_norm, s->hidden);
	default:
		return (struct place){0};
	}
}

/* rows is 0 where this model has no such tensor. */
static struct place find_place(const struct cpu_backend *b, enum backend_tensor tensor,
			       int32_t layer)
{
	const struct backend_shape *s = b->shape;
	if (layer == -1)
		return model_place(b, tensor);
	if (layer < 0 || layer >= s->layers)
		return (struct place){0};
	const struct cpu_layer *l = &b->layers[layer];
	int32_t query_rows = s->query_heads * s->head_dim, kv_rows = s->kv_heads * s->head_dim;
	int64_t first_query = (int64_t)s->first_query_head * s->head_dim;
	int64_t first_kv = (int64_t)s->first_kv_head * s->head_dim;
	switch (tensor) {
	case TENSOR_ATTENTION_NORM:
		return vector_place(l->attention_norm, s->hidden);
	case TENSOR_QUERY:
		return matrix_place(b, &l->qkv, 0, query_rows, first_query);
	case TENSOR_KEY:
		return matrix_place(b, &l->qkv, query_rows, kv_rows, first_kv);
	case TENSOR_VALUE:
		return matrix_place(b, &l->qkv, query_rows + kv_rows, kv_rows, first_kv);
	case TENSOR_OUTPUT:
		return column_place(b, &l->output, first_query,
				    (int64_t)s->total_query_heads * s->head_dim);
	case TENSOR_MLP_NORM:
		return vector_place(l->mlp_norm, s->hidden);
	case TENSOR_GATE:
		return matrix_place(b, &l->gate, 0, s->intermediate, s->first_intermediate);
	case TENSOR_UP:
		return matrix_place(b, &l->up, 0, s->intermediate, s->first_intermediate);
	case TENSOR_DOWN:
		return column_place(b, &l->down, s->first_intermediate, s->total_intermediate);
	case TENSOR_QUERY_NORM:
		return s->query_key_norm ? vector_place(l->query_norm, s->head_dim) : (struct place){0};
	case TENSOR_KEY_NORM:
		return s->query_key_norm ? vector_place(l->key_norm, s->head_dim) : (struct place){0};
	case TENSOR_QUERY_BIAS:
		return bias_place(l->qkv_bias, query_rows, first_query);
	case TENSOR_KEY_BIAS:
		return bias_place(l->qkv_bias + query_rows, kv_rows, first_kv);
	case TENSOR_VALUE_BIAS:
		return bias_place(l->qkv_bias + query_rows + kv_rows, kv_rows, first_kv);
	case TENSOR_OUTPUT_BIAS:
		return vector_place(l->output_bias, s->hidden);
	case TENSOR_GATE_BIAS:
		return bias_place(l->gate_bias, s->intermediate, s->first_intermediate);
	case TENSOR_UP_BIAS:
		return bias_place(l->up_bias, s->intermediate, s->first_intermediate);
	case TENSOR_DOWN_BIAS:
		return vector_place(l->down_bias, s->hidden);
	default:
		return (struct place){0};
	}
}

/* The weights' own place. */
int cpu_lend(struct backend *base, struct tensor_part *part, struct error *err)
{
	struct place p = find_place(cpu_of(base), part->tensor, part->layer);
	if (part->row < 0 || part->rows < 1 || part->rows > p.rows - part->row || part->column < 0 ||
	    part->columns < 1 || part->columns > p.columns - part->column)
		return error_run(err, "tensor kind %d of layer %d: rows %d+%d and columns %d+%d lie "
				 "outside this rank's %d x %d", (int)part->tensor, part->layer, part->row,
				 part->rows, part->column, part->columns, p.rows, p.columns);
	if (part->dtype != p.dtype)
		return error_run(err, "tensor kind %d of layer %d came as %s, but is kept as %s",
				 (int)part->tensor, part->layer, dtype_name(part->dtype),
				 dtype_name(p.dtype));
	part->data = p.data + (size_t)part->row * p.stride +
		     (size_t)part->column * dtype_bytes(p.dtype);
	part->row_stride = p.stride;
	return 0;
}

int cpu_load(struct backend *base, const struct tensor_part *part, struct error *err)
{
	(void)base, (void)part, (void)err;
	return 0;
}

struct fill {
	struct place place;
	uint64_t stream;
	float scale;
};

static void fill_row(void *arg, int64_t row, int thread)
{
	const struct fill *f = arg;
	char *target = f->place.data + (size_t)row * f->place.stride;
	(void)thread;
	float values[256];
	for (int32_t c = 0; c < f->place.columns;) {
		int32_t count = cpu_min(256, f->place.columns - c);
		for (int32_t i = 0; i < count; i++)
			values[i] = f->scale * random_weight_unit(f->stream, f->place.first_row + row,
								  f->place.first_column + c + i);
		dtype_convert(values, DTYPE_F32, target + (size_t)c * dtype_bytes(f->place.dtype),
			      f->place.dtype, (size_t)count);
		c += count;
	}
}

static bool is_norm(enum backend_tensor tensor)
{
	return tensor == TENSOR_FINAL_NORM || tensor == TENSOR_ATTENTION_NORM ||
	       tensor == TENSOR_MLP_NORM || tensor == TENSOR_QUERY_NORM || tensor == TENSOR_KEY_NORM;
}

int cpu_load_random(struct backend *base, uint64_t seed, struct error *err)
{
	const struct cpu_backend *b = cpu_of(base);
	(void)err;
	for (int32_t layer = -1; layer < b->shape->layers; layer++) {
		activity_at_layer(b->options.activity, layer);
		for (int tensor = 0; tensor < TENSOR_KINDS; tensor++) {
			struct fill f = {.place = find_place(b, (enum backend_tensor)tensor, layer)};
			if (is_norm((enum backend_tensor)tensor)) {
				for (int32_t c = 0; c < f.place.columns && f.place.rows; c++)
					((float *)f.place.data)[c] = 1;
				continue;
			}
			f.stream = random_weight_stream(seed, tensor, layer);
			f.scale = tensor >= TENSOR_QUERY_BIAS ? RANDOM_BIAS_SCALE
							      : random_weight_scale(f.place.total_columns);
			cpu_run(b, f.place.rows, (int64_t)f.place.rows * f.place.columns, fill_row, &f);
		}
	}
	return 0;
}
