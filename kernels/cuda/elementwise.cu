/*
 * elementwise.cu - the small kernels around the matrix products.
 */
#include "kernels/cuda/internal.cuh"

enum { THREADS = 256 };

/* ---- embedding ------------------------------------------------------------------------------ */

/* A token's row where this rank owns it, otherwise zeros. grid: tokens. */
template <typename W, typename Out>
__global__ void embed_kernel(const W *table, const int32_t *ids, int first, int count, int hidden,
			     int stride, Out *out, bool publish)
{
	allow_next_unless(publish);
	wait_for_previous();
	int token = (int)blockIdx.x, row = ids[token] - first;
	bool mine = row >= 0 && row < count;
	for (int i = (int)threadIdx.x; i < hidden; i += (int)blockDim.x)
		out[(size_t)token * stride + i] =
			from_float<Out>(mine ? to_float(table[(size_t)row * stride + i]) : 0.0f);
	publish_results(publish);
}

int embed_launch(struct cuda_backend *b, void *target, bool wire_float, bool publish, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	dim3 grid((unsigned)b->step.tokens);
	return for_dtype(s->dtype, [&](auto w) {
		typedef decltype(w) W;
		const W *table = (const W *)(b->weights + b->layout.embedding);
		if (wire_float)
			return kernel_launch(b, err, "embed_kernel", embed_kernel<W, float>, grid, THREADS,
					     0, table, b->step.ids, s->first_vocab, s->vocab, s->hidden,
					     b->layout.hidden_stride, (float *)target, publish);
		return kernel_launch(b, err, "embed_kernel", embed_kernel<W, W>, grid, THREADS, 0, table,
				     b->step.ids, s->first_vocab, s->vocab, s->hidden,
				     b->layout.hidden_stride, (W *)target, publish);
	});
}

/* ---- rope ----------------------------------------------------------------------------------- */

/* cos and sin of every token's position, once a step for all layers. The angle is a product
 * in float32, as the models were trained with. grid: tokens. */
__global__ void rope_table_kernel(const int32_t *positions, const int32_t *sequence_of,
				  const float *frequencies, const float *growth, float magnitude,
				  int head_dim, float2 *table)
{
	allow_next();
	wait_for_previous();
	int token = (int)blockIdx.x, pairs = head_dim / 2;
	float position = (float)positions[token];
	float base = growth ? growth[sequence_of[token]] : 1.0f;

	for (int i = (int)threadIdx.x; i < pairs; i += (int)blockDim.x) {
		float frequency = frequencies[i];
		if (base != 1.0f && head_dim > 2)
			frequency = (float)(frequency * pow((double)base, -2.0 * i / (head_dim - 2)));
		float sine, cosine;
		sincosf(position * frequency, &sine, &cosine);
		table[(size_t)token * pairs + i] = make_float2(cosine * magnitude, sine * magnitude);
	}
}

int rope_table_launch(struct cuda_backend *b, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	return kernel_launch(b, err, "rope_table_kernel", rope_table_kernel,
			     dim3((unsigned)b->step.tokens), 64, 0, b->step.positions,
			     b->step.sequence_of, b->frequencies, b->step.growth, s->rope_magnitude,
			     s->head_dim, at<float2>(b, b->layout.rope));
}

struct rope_parameters {
	const float *qkv;	/* [tokens][qkv_stride], without bias */
	const float *bias, *query_norm, *key_norm; /* or NULL */
	const float2 *rope;
	const int32_t *slots;
	float *query;
	void *keys, *values;
	int tokens, qkv_stride, head_dim, head_stride, query_heads, kv_heads;
	float epsilon;
};

/* A warp takes one head of one token: bias, norm, rope, and to the query buffer or the cache. */
template <typename W> __global__ void rope_kernel(const __grid_constant__ struct rope_parameters p)
{
	constexpr int most = HEAD_DIM_MAX / 2 / 32;
	allow_next();
	wait_for_previous();
	const int lane = (int)threadIdx.x % 32, pairs = p.head_dim / 2;
	const int heads = p.query_heads + 2 * p.kv_heads;
	const int64_t index = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
	if (index >= (int64_t)p.tokens * heads)
		return;
	const int token = (int)(index / heads), head = (int)(index % heads);
	const bool is_query = head < p.query_heads;
	const bool is_value = head >= p.query_heads + p.kv_heads;
	const float *in = p.qkv + (size_t)token * p.qkv_stride + head * p.head_dim;
	const float *norm = is_value ? NULL : is_query ? p.query_norm : p.key_norm;
	float a[most], c[most], squares = 0;

#pragma unroll
	for (int k = 0; k < most; k++) {
		int i = lane + 32 * k;
		a[k] = c[k] = 0;
		if (i < pairs) {
			a[k] = in[i];
			c[k] = in[i + pairs];
			if (p.bias) {
				a[k] += p.bias[head * p.head_dim + i];
				c[k] += p.bias[head * p.head_dim + i + pairs];
			}
		}
		squares += a[k] * a[k] + c[k] * c[k];
	}
	float scale = norm ? rsqrtf(warp_sum(squares) / (float)p.head_dim + p.epsilon) : 1.0f;

	float *query = p.query + ((size_t)token * p.query_heads + head) * p.head_stride;
	W *cache = (W *)(is_value ? p.values : p.keys);
	if (!is_query) {
		int kv_head = head - p.query_heads - (is_value ? p.kv_heads : 0), slot = p.slots[token];
		cache += (((size_t)(slot / KV_BLOCK) * p.kv_heads + kv_head) * KV_BLOCK +
			  slot % KV_BLOCK) * p.head_stride;
	}
#pragma unroll
	for (int k = 0; k < most; k++) {
		int i = lane + 32 * k;
		if (i >= pairs)
			continue;
		if (norm) {
			a[k] *= scale * norm[i];
			c[k] *= scale * norm[i + pairs];
		}
		float2 turn = is_value ? make_float2(1, 0) : p.rope[(size_t)token * pairs + i];
		float low = a[k] * turn.x - c[k] * turn.y, high = c[k] * turn.x + a[k] * turn.y;
		if (is_query) {
			query[i] = low;
			query[i + pairs] = high;
		} else {
			cache[i] = from_float<W>(low);
			cache[i + pairs] = from_float<W>(high);
		}
	}
}

int rope_launch(struct cuda_backend *b, int32_t layer, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	struct rope_parameters p = {};
	p.qkv = at<float>(b, l->scratch);
	p.bias = b->has_qkv_bias ? layer_at<float>(b, layer, l->qkv_bias) : NULL;
	p.query_norm = s->query_key_norm ? layer_at<float>(b, layer, l->query_norm) : NULL;
	p.key_norm = s->query_key_norm ? layer_at<float>(b, layer, l->key_norm) : NULL;
	p.rope = at<float2>(b, l->rope);
	p.slots = b->step.slots;
	p.query = at<float>(b, l->query);
	p.keys = cache_keys(b, layer);
	p.values = cache_values(b, layer);
	p.tokens = b->step.tokens;
	p.qkv_stride = l->qkv_stride;
	p.head_dim = s->head_dim;
	p.head_stride = l->head_stride;
	p.query_heads = s->query_heads;
	p.kv_heads = s->kv_heads;
	p.epsilon = (float)s->norm_epsilon;
	int64_t warps = (int64_t)p.tokens * (p.query_heads + 2 * p.kv_heads);
	return for_dtype(s->dtype, [&](auto w) {
		return kernel_launch(b, err, "rope_kernel", rope_kernel<decltype(w)>,
				     dim3((unsigned)((warps + 3) / 4)), 128, 0, p);
	});
}

/* ---- norm, activation, residual ------------------------------------------------------------- */

/* grid: rows. Padding of the residual is zero, and so becomes the output's. */
template <typename W>
__global__ void norm_kernel(const float *residual, const int32_t *gather, const float *weight,
			    int hidden, int stride, float epsilon, W *out)
{
	__shared__ float scratch[32];
	allow_next();
	wait_for_previous();
	int row = (int)blockIdx.x;
	const float4 *in = (const float4 *)(residual + (size_t)(gather ? gather[row] : row) * stride);
	float squares = 0;

	for (int i = (int)threadIdx.x; i < stride / 4; i += (int)blockDim.x) {
		float4 x = in[i];
		squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
	}
	float scale = rsqrtf(block_sum(squares, scratch) / (float)hidden + epsilon);
	out += (size_t)row * stride;
	for (int i = (int)threadIdx.x; i < stride / 4; i += (int)blockDim.x) {
		float4 x = in[i], w = ((const float4 *)weight)[i];
		out[4 * i] = from_float<W>(x.x * scale * w.x);
		out[4 * i + 1] = from_float<W>(x.y * scale * w.y);
		out[4 * i + 2] = from_float<W>(x.z * scale * w.z);
		out[4 * i + 3] = from_float<W>(x.w * scale * w.w);
	}
}

int norm_launch(struct cuda_backend *b, int32_t rows, const int32_t *gather, const float *weight,
		struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	return for_dtype(s->dtype, [&](auto w) {
		typedef decltype(w) W;
		return kernel_launch(b, err, "norm_kernel", norm_kernel<W>, dim3((unsigned)rows), THREADS,
				     0, at<float>(b, b->layout.residual), gather, weight, s->hidden,
				     b->layout.hidden_stride, (float)s->norm_epsilon,
				     at<W>(b, b->layout.normed));
	});
}

/* grid: tokens, parts of a row. in: [tokens][in_stride], the gates and then the ups. */
template <typename W>
__global__ void silu_kernel(const W *in, int in_stride, const float *bias, int count, struct cuda_rows out,
			    int out_stride)
{
	allow_next();
	wait_for_previous();
	int i = (int)(blockIdx.y * blockDim.x + threadIdx.x);
	if (i >= count)
		return;
	const W *row = in + (size_t)blockIdx.x * in_stride;
	float gate = to_float(row[i]), up = to_float(row[i + count]);
	if (bias) {
		gate += bias[i];
		up += bias[i + count];
	}
	store_as<W>(out.data, (size_t)blockIdx.x * out_stride + i, silu(gate) * up, out.wide);
}

int silu_launch(struct cuda_backend *b, int32_t layer, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	const float *bias = b->has_gate_up_bias ? layer_at<float>(b, layer, l->gate_up_bias) : NULL;
	dim3 grid((unsigned)b->step.tokens, (unsigned)((s->intermediate + THREADS - 1) / THREADS));
	return for_dtype(s->dtype, [&](auto w) {
		typedef decltype(w) W;
		return kernel_launch(b, err, "silu_kernel", silu_kernel<W>, grid, THREADS, 0,
				     at<W>(b, l->scratch), l->gate_up_stride, bias, s->intermediate,
				     b->step.activation, l->activation_stride);
	});
}

/* grid: tokens, parts of a row. */
template <typename P>
__global__ void residual_kernel(const P *partial, const float *bias, int hidden, int stride, bool add,
				float *residual)
{
	allow_next();
	wait_for_previous();
	int i = (int)(blockIdx.y * blockDim.x + threadIdx.x);
	if (i >= hidden)
		return;
	size_t place = (size_t)blockIdx.x * stride + i;
	float x = add ? residual[place] : 0.0f;
	if (partial)
		x += to_float(partial[place]);
	residual[place] = bias ? x + bias[i] : x;
}

int residual_launch(struct cuda_backend *b, const void *partial, bool partial_float, bool add,
		    const float *bias, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	dim3 grid((unsigned)b->step.tokens, (unsigned)((s->hidden + THREADS - 1) / THREADS));
	return for_dtype(partial_float ? DTYPE_F32 : s->dtype, [&](auto p) {
		typedef decltype(p) P;
		return kernel_launch(b, err, "residual_kernel", residual_kernel<P>, grid, THREADS, 0,
				     (const P *)partial, bias, s->hidden, b->layout.hidden_stride, add,
				     at<float>(b, b->layout.residual));
	});
}

__global__ void zero_kernel(uint4 *target, size_t count)
{
	wait_for_previous();
	size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
	if (i < count)
		target[i] = uint4();
	publish_results(true);
}

/* A kernel and no memset, so that all nodes of a graph are kernels. bytes: a multiple of 16. */
int zero_launch(struct cuda_backend *b, void *target, size_t bytes, struct error *err)
{
	return kernel_launch(b, err, "zero_kernel", zero_kernel,
			     dim3((unsigned)((bytes / 16 + THREADS - 1) / THREADS)), THREADS, 0,
			     (uint4 *)target, bytes / 16);
}
