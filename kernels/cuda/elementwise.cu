/*
 * elementwise.cu - the small kernels around the matrix products.
 */
#include "kernels/cuda/internal.cuh"

enum { THREADS = RESIDUAL_THREADS, DEPTH = 4 };

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
	const void *qkv;	/* [tokens][qkv_stride], without bias */
	const float *bias, *query_norm, *key_norm; /* or NULL */
	const float2 *rope;
	const int32_t *slots;
	float *query;
	void *keys, *values;
	int tokens, qkv_stride, head_dim, head_stride, query_heads, kv_heads;
	float epsilon;
};

/* Bias, norm, rope, and to the query buffer or the cache. `lanes` (a power of two) take one head of one
 * token, each N neighbouring pairs of it at a time: a piece in one turn, or single ones in several. */
template <typename W, typename In, int N>
__global__ void rope_kernel(const __grid_constant__ struct rope_parameters p, int lanes)
{
	constexpr int turns = N == 1 ? HEAD_DIM_MAX / 2 / 32 : 1;
	allow_next();
	wait_for_previous();
	const int lane = (int)threadIdx.x & (lanes - 1), pairs = p.head_dim / 2;
	const int heads = p.query_heads + 2 * p.kv_heads;
	const int64_t index = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / lanes;
	const bool there = index < (int64_t)p.tokens * heads; /* the others help with the sum alone */
	const int token = there ? (int)(index / heads) : 0, head = there ? (int)(index % heads) : 0;
	const bool is_query = head < p.query_heads;
	const bool is_value = head >= p.query_heads + p.kv_heads;
	const int first = head * p.head_dim;
	const In *in = (const In *)p.qkv + (size_t)token * p.qkv_stride + first;
	const float *norm = is_value ? NULL : is_query ? p.query_norm : p.key_norm;
	float low[turns][N] = {}, high[turns][N] = {}, squares = 0;

#pragma unroll
	for (int k = 0; k < turns; k++) {
		int i = (lane + lanes * k) * N;
		if (i >= pairs)
			continue;
		load_run(in + i, low[k]);
		load_run(in + i + pairs, high[k]);
		if (p.bias) {
			float low_bias[N], high_bias[N];
			load_run(p.bias + first + i, low_bias);
			load_run(p.bias + first + i + pairs, high_bias);
#pragma unroll
			for (int e = 0; e < N; e++) {
				low[k][e] += low_bias[e];
				high[k][e] += high_bias[e];
			}
		}
#pragma unroll
		for (int e = 0; e < N; e++)
			squares += low[k][e] * low[k][e] + high[k][e] * high[k][e];
	}
	float scale = 1;
	if (p.query_norm) {
		for (int bit = lanes / 2; bit; bit /= 2)
			squares += __shfl_xor_sync(0xffffffffu, squares, bit);
		scale = rsqrtf(squares / (float)p.head_dim + p.epsilon);
	}
	if (!there)
		return;

	float *query = p.query + ((size_t)token * p.query_heads + head) * p.head_stride;
	W *cache = (W *)(is_value ? p.values : p.keys);
	if (!is_query) {
		int kv_head = head - p.query_heads - (is_value ? p.kv_heads : 0), slot = p.slots[token];
		cache += (((size_t)(slot / KV_BLOCK) * p.kv_heads + kv_head) * KV_BLOCK +
			  slot % KV_BLOCK) * p.head_stride;
	}
#pragma unroll
	for (int k = 0; k < turns; k++) {
		int i = (lane + lanes * k) * N;
		if (i >= pairs)
			continue;
#pragma unroll
		for (int e = 0; e < N; e++) {
			float a = low[k][e], c = high[k][e];
			if (norm) {
				a *= scale * norm[i + e];
				c *= scale * norm[i + e + pairs];
			}
			float2 turn = is_value ? make_float2(1, 0) : p.rope[(size_t)token * pairs + i + e];
			low[k][e] = a * turn.x - c * turn.y;
			high[k][e] = c * turn.x + a * turn.y;
		}
		if (is_query) {
			store_run(query + i, low[k]);
			store_run(query + i + pairs, high[k]);
		} else {
			store_run(cache + i, low[k]);
			store_run(cache + i + pairs, high[k]);
		}
	}
}

template <typename W, typename In>
static int rope_run(struct cuda_backend *b, const struct rope_parameters &p, struct error *err)
{
	/* Where all halves of heads are whole pieces, on their boundaries. */
	int run = p.head_dim % (2 * PIECE<In>) ? 1 : PIECE<In>, lanes = 1;
	while (lanes * run < p.head_dim / 2 && lanes < 32)
		lanes *= 2;
	int64_t threads = (int64_t)p.tokens * (p.query_heads + 2 * p.kv_heads) * lanes;
	return kernel_launch(b, err, "rope_kernel",
			     run == 1 ? rope_kernel<W, In, 1> : rope_kernel<W, In, PIECE<In>>,
			     dim3((unsigned)((threads + THREADS - 1) / THREADS)), THREADS, 0, p, lanes);
}

int rope_launch(struct cuda_backend *b, int32_t layer, bool is_float, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	struct rope_parameters p = {};
	p.qkv = at<void>(b, l->scratch);
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
	return for_dtype(s->dtype, [&](auto w) {
		typedef decltype(w) W;
		return is_float ? rope_run<W, float>(b, p, err) : rope_run<W, W>(b, p, err);
	});
}

/* ---- residual, norm, activation ------------------------------------------------------------- */

struct residual_parameters {
	float *residual;
	const void *partial;	/* [rows][stride], float or the shape's dtype; NULL is zero */
	const float *bias;	/* [hidden], or NULL */
	const float *norm;	/* [hidden], or NULL: no norm is wanted */
	const int32_t *gather;	/* [rows], or NULL */
	void *normed;		/* of the shape's dtype, [rows][stride] */
	int hidden, stride;
	bool add, keep;		/* to what is there; the residual changes */
	float epsilon;
};

__device__ __forceinline__ void add_to(float4 &x, float4 y)
{
	x.x += y.x;
	x.y += y.y;
	x.z += y.z;
	x.w += y.w;
}

/* Calls f(k, i) for a thread's next DEPTH places i < count from `from` on. */
template <typename F> __device__ __forceinline__ void for_depth(int from, int count, F f)
{
#pragma unroll
	for (int k = 0; k < DEPTH; k++)
		if (from + k * THREADS < count)
			f(k, from + k * THREADS);
}

/* residual = or += partial + bias, and the RMSNorm of that. grid: rows. Padding is zero in all
 * that is read, and so becomes the output's. */
template <typename W, typename P, bool FEW>
__global__ void __launch_bounds__(THREADS, FEW ? 2 : 5)
residual_kernel(const __grid_constant__ struct residual_parameters p)
{
	__shared__ float scratch[32];
	float4 weight[DEPTH]; /* the norm's first, with FEW rows: nothing else is in these kernels' way */
	allow_next();
	if (FEW && p.norm)
		for_depth((int)threadIdx.x, p.stride / 4, [&](int k, int i) { weight[k] = ((const float4 *)p.norm)[i]; });
	wait_for_previous();
	const int row = (int)blockIdx.x, fours = p.stride / 4;
	const size_t start = (size_t)(p.gather ? p.gather[row] : row) * p.stride;
	const bool once = fours <= DEPTH * THREADS; /* what a thread has of a row stays with it */
	float4 *residual = (float4 *)(p.residual + start);
	const P *partial = p.partial ? (const P *)p.partial + (size_t)row * p.stride : NULL;
	float4 x[DEPTH];
	float squares = 0;

	/* DEPTH of all that comes from far is on its way before the first is used or stored. */
	for (int at4 = (int)threadIdx.x; at4 < fours; at4 += DEPTH * THREADS) {
		float4 y[DEPTH] = {};
#pragma unroll
		for (int k = 0; k < DEPTH; k++)
			x[k] = make_float4(0, 0, 0, 0);
		if (p.add)
			for_depth(at4, fours, [&](int k, int i) { x[k] = residual[i]; });
		if (partial)
			for_depth(at4, fours, [&](int k, int i) { y[k] = load_four(partial + 4 * i); });
		for_depth(at4, fours, [&](int k, int i) {
			add_to(x[k], y[k]);
			if (p.bias)
				add_to(x[k], ((const float4 *)p.bias)[i]);
			if (p.keep)
				residual[i] = x[k];
			squares += four_squares(x[k]);
		});
	}
	if (!p.norm)
		return;
	float scale = rsqrtf(block_sum(squares, scratch) / (float)p.hidden + p.epsilon);
	W *normed = (W *)p.normed + (size_t)row * p.stride;
	for (int at4 = (int)threadIdx.x; at4 < fours; at4 += DEPTH * THREADS) {
		float4 w[DEPTH];
		for_depth(at4, fours, [&](int k, int i) {
			if (!once)
				x[k] = residual[i];
			w[k] = FEW && i < DEPTH * THREADS ? weight[k] : ((const float4 *)p.norm)[i];
		});
		for_depth(at4, fours, [&](int k, int i) {
			store_four(normed + 4 * i,
				   make_float4(x[k].x * scale * w[k].x, x[k].y * scale * w[k].y,
					       x[k].z * scale * w[k].z, x[k].w * scale * w[k].w));
		});
	}
}

static int residual_run(struct cuda_backend *b, struct residual_parameters p, bool partial_float, int rows,
			struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	p.residual = b->residual.at;
	p.normed = at<void>(b, b->layout.normed);
	p.hidden = s->hidden;
	p.stride = b->layout.hidden_stride;
	p.epsilon = (float)s->norm_epsilon;
	return for_dtype(s->dtype, [&](auto w) {
		typedef decltype(w) W;
		auto kernel = rows <= GEMV_TOKENS ? partial_float ? residual_kernel<W, float, true> : residual_kernel<W, W, true>
						  : partial_float ? residual_kernel<W, float, false> : residual_kernel<W, W, false>;
		return kernel_launch(b, err, "residual_kernel", kernel, dim3((unsigned)rows), THREADS, 0, p);
	});
}

int norm_launch(struct cuda_backend *b, int32_t rows, const int32_t *gather, const float *weight,
		struct error *err)
{
	struct residual_parameters p = {};
	p.norm = weight;
	p.gather = gather;
	p.add = true;
	return residual_run(b, p, true, rows, err);
}

int residual_launch(struct cuda_backend *b, const void *partial, bool partial_float, bool add,
		    const float *bias, const float *norm, struct error *err)
{
	struct residual_parameters p = {};
	p.partial = partial;
	p.bias = bias;
	p.norm = norm;
	p.add = add;
	p.keep = true;
	b->normed = norm;
	return residual_run(b, p, partial_float, b->step.tokens, err);
}

/* A thread takes N neighbouring elements. grid: tokens, parts of a row. in: [tokens][in_stride], the
 * gates and then the ups. */
template <typename W, int N>
__global__ void silu_kernel(const W *in, int in_stride, const float *bias, int count, struct cuda_rows out,
			    int out_stride)
{
	allow_next();
	wait_for_previous();
	int i = (int)(blockIdx.y * blockDim.x + threadIdx.x) * N;
	if (i >= count)
		return;
	const W *row = in + (size_t)blockIdx.x * in_stride;
	float gate[N], up[N];
	load_run(row + i, gate);
	load_run(row + i + count, up);
	if (bias) {
		float gate_bias[N], up_bias[N];
		load_run(bias + i, gate_bias);
		load_run(bias + i + count, up_bias);
#pragma unroll
		for (int k = 0; k < N; k++) {
			gate[k] += gate_bias[k];
			up[k] += up_bias[k];
		}
	}
#pragma unroll
	for (int k = 0; k < N; k++)
		gate[k] = silu(gate[k]) * up[k];
	size_t to = (size_t)blockIdx.x * out_stride + i;
	if (out.wide)
		store_run((float *)out.data + to, gate);
	else
		store_run((W *)out.data + to, gate);
}

int silu_launch(struct cuda_backend *b, int32_t layer, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	const float *bias = b->has_gate_up_bias ? layer_at<float>(b, layer, l->gate_up_bias) : NULL;
	return for_dtype(s->dtype, [&](auto w) {
		typedef decltype(w) W;
		/* Where the ups begin on a 16-byte boundary, whole pieces. */
		int run = s->intermediate % PIECE<W> ? 1 : PIECE<W>, threads = THREADS * run;
		dim3 grid((unsigned)b->step.tokens, (unsigned)((s->intermediate + threads - 1) / threads));
		return kernel_launch(b, err, "silu_kernel",
				     run == 1 ? silu_kernel<W, 1> : silu_kernel<W, PIECE<W>>, grid, THREADS, 0,
				     at<W>(b, l->scratch), l->gate_up_stride, bias, s->intermediate,
				     b->step.activation, l->activation_stride);
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
