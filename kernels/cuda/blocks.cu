/*
 * blocks.cu - the transformer's blocks: a few tokens through the kernels of gemv.cu, which take the activation, rope or
 * residual after a product along, and for very few tokens the norm before it; many through those of gemm.cu, which take
 * activation and rope along, and cuBLAS, with small kernels between.
 */
#include "kernels/cuda/blocks.cuh"
#include "kernels/cuda/internal.cuh"

__global__ void probe_kernel(void)
{
}

const void *blocks_probe(void)
{
	return (const void *)probe_kernel;
}

/* Whether kernels of ours take a product, with all that its output asks for. */
static bool ours(const struct cuda_backend *b, const struct gemv *g)
{
	return gemv_fits(b, g->tokens, g->columns) || gemm_serve(b, g);
}

static int ours_launch(struct cuda_backend *b, const struct gemv *g, struct error *err)
{
	return gemv_fits(b, g->tokens, g->columns) ? gemv_launch(b, g, err) : gemm_launch(b, g, err);
}

/* A product whose output is no more than a sum, OUTPUT_ADD, _DTYPE or _FLOAT without bias: of too many tokens for gemv.cu
 * through cuBLAS, which thinks in columns: its matrices are ours transposed. */
static int product(struct cuda_backend *b, const struct gemv *g, struct error *err)
{
	static const cudaDataType_t types[] = {CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF};
	cudaDataType_t type = types[b->options.shape.dtype];
	const float one = 1, beta = g->output == OUTPUT_ADD ? 1 : 0;

	if (gemv_fits(b, g->tokens, g->columns))
		return gemv_launch(b, g, err);
	/* Kernels of ours may follow early: what cuBLAS launches has itself waited for all before. */
	return cublas_ok(b, err,
			 b->blas.gemm_ex(b->cublas, CUBLAS_OP_T, CUBLAS_OP_N, g->rows, g->tokens, g->columns, &one,
					 g->weights, type, g->columns, g->input, type, g->columns, &beta, g->target,
					 g->output == OUTPUT_DTYPE ? type : CUDA_R_32F, g->target_stride,
					 CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
			 "cublasGemmEx") ? 0 : -1;
}

/* normed = RMSNorm(residual) of all tokens, unless that was done with the residual. A sum that the
 * residual owes is taken along. */
static int norm_tokens(struct cuda_backend *b, const float *norm, struct error *err)
{
	bool done = b->normed == norm;
	b->normed = NULL;
	if (b->residual.pending)
		return peers_settle_norm(b, norm, err);
	if (!done && rows_gather(b, err))
		return -1;
	return done ? 0 : norm_launch(b, b->step.tokens, NULL, norm, err);
}

/* A norm that the block after this one will want of the step's tokens, or NULL where its gemv
 * takes it along or there is no such block. */
static const float *next_norm(const struct cuda_backend *b, int32_t layer, uint64_t norm)
{
	if (layer >= b->options.shape.layers || gemv_norms(b, b->step.tokens, b->layout.hidden_stride))
		return NULL;
	return layer_at<float>(b, layer, norm);
}

/* Has a gemv take the norm of the residual along, and the sum that this owes. */
static void take_norm(struct cuda_backend *b, struct gemv *g, const float *norm)
{
	struct residual_state *r = &b->residual;
	g->input = r->at;
	g->norm = norm;
	g->epsilon = (float)b->options.shape.norm_epsilon;
	g->hidden = b->options.shape.hidden;
	if (!r->pending)
		return;
	g->receive = r->met = true;
	g->add = r->add;
	g->sum_bias = r->bias;
	g->sum = r->sum;
}

/* A product of the RMSNorm of the residual. Where it takes that along, and with it a sum over the ranks
 * that the residual owes, the residual moves to the other of two places, because some blocks read the
 * old one while one writes the new. */
static int normed_gemv(struct cuda_backend *b, struct gemv *g, const void *weights, int rows, const float *norm,
		       struct error *err)
{
	struct residual_state *r = &b->residual;

	*g = {};
	g->weights = weights;
	g->rows = rows;
	g->columns = b->layout.hidden_stride;
	g->tokens = b->step.tokens;
	if (!gemv_norms(b, g->tokens, g->columns)) {
		g->input = at<void>(b, b->layout.normed);
		return norm_tokens(b, norm, err);
	}
	take_norm(b, g, norm);
	if (g->receive) {
		float *home = at<float>(b, b->layout.residual);
		g->keep = r->at = r->at == home ? at<float>(b, b->layout.residual_other) : home;
		r->pending = false;
	}
	return 0;
}

int block_embed(struct backend *base, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	bool is_float;

	b->blocks_called++;
	if (rope_table_launch(b, err))
		return -1;
	if (b->reduce == REDUCE_NONE)
		return embed_launch(b, b->residual.at, true, false, err);
	if (b->step.through_peers) {
		float *partial = at<float>(b, b->layout.part);
		return embed_launch(b, partial, true, false, err) || peers_begin_sum(b, false, NULL, err) ||
		       peers_push(b, partial, err) ? -1 : 0;
	}
	const float *norm = next_norm(b, 0, b->layout.attention_norm);
	const bool rows = rows_serve(b, b->step.tokens);
	void *buffer = reduce_buffer(b, &is_float);
	if (embed_launch(b, buffer, is_float, !rows, err))
		return -1;
	if (rows)
		return rows_sum(b, false, NULL, norm, err);
	return reduce_sum(b, true, err) || residual_launch(b, buffer, is_float, false, NULL, norm, err) ? -1 : 0;
}

int block_qkv(struct backend *base, int32_t layer, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	const float *norm = layer_at<float>(b, layer, l->attention_norm);
	void *weights = layer_at<void>(b, layer, l->qkv);

	b->blocks_called++;
	struct gemv g;
	if (normed_gemv(b, &g, weights, l->qkv_rows, norm, err))
		return -1;
	g.output = OUTPUT_ROPE;
	g.target = at<void>(b, l->query);
	g.bias = b->has_qkv_bias ? layer_at<float>(b, layer, l->qkv_bias) : NULL;
	g.head_dim = s->head_dim;
	g.head_stride = l->head_stride;
	g.query_heads = s->query_heads;
	g.kv_heads = s->kv_heads;
	g.rope = at<float2>(b, l->rope);
	g.slots = b->step.slots;
	g.keys = cache_keys(b, layer);
	g.values = cache_values(b, layer);
	if (gemv_takes_rope(s) && ours(b, &g))
		return ours_launch(b, &g, err);
	const bool few = gemv_fits(b, g.tokens, g.columns);
	g.output = few ? OUTPUT_FLOAT : OUTPUT_DTYPE;
	g.target = at<void>(b, l->scratch);
	g.target_stride = l->qkv_stride;
	g.bias = NULL;
	return product(b, &g, err) || rope_launch(b, layer, few, err) ? -1 : 0;
}

int block_attend(struct backend *base, int32_t layer, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	b->blocks_called++;
	return attend_tile_launch(b, layer, err) || attend_stream_launch(b, layer, err) ||
	       attend_launch(b, layer, err) ? -1 : 0;
}

/* A product of the step's tokens that has the length of the residual. */
static struct gemv projection(const struct cuda_backend *b, const void *weights, struct cuda_rows input, int columns)
{
	struct gemv g = {};
	g.weights = weights;
	g.rows = b->options.shape.hidden;
	g.columns = columns;
	g.tokens = b->step.tokens;
	g.input = input.data;
	g.target_stride = b->layout.hidden_stride;
	return g;
}

/* project where the step's sums go through the peers' memory: whoever wants the residual next takes
 * the sum. */
static int project_to_peers(struct cuda_backend *b, const void *weights, struct cuda_rows input, int columns,
			    const float *bias, struct error *err)
{
	float *partial = at<float>(b, b->layout.part);

	if (peers_begin_sum(b, true, bias, err))
		return -1;
	if (columns == 0)
		return peers_push(b, NULL, err);
	struct gemv g = projection(b, weights, input, columns);
	if (gemv_fits(b, g.tokens, columns)) {
		g.output = OUTPUT_PEERS;
		g.sum = b->residual.sum;
		return gemv_launch(b, &g, err);
	}
	g.output = OUTPUT_FLOAT;
	g.target = partial;
	return product(b, &g, err) || peers_push(b, partial, err) ? -1 : 0;
}

/* residual += all-reduce(weights · input) + bias, and the next block's norm of it. columns: 0 where
 * this rank has no part. The input is wide exactly where gemv_wide says so. */
static int project(struct cuda_backend *b, const void *weights, struct cuda_rows input, int columns,
		   const float *bias, const float *norm, struct error *err)
{
	int stride = b->layout.hidden_stride, tokens = b->step.tokens;
	bool alone = b->reduce == REDUCE_NONE, is_float = true, published = true;
	void *out = alone ? b->residual.at : reduce_buffer(b, &is_float);

	if (b->step.through_peers)
		return project_to_peers(b, weights, input, columns, bias, err);
	if (columns == 0) {
		if (!alone && zero_launch(b, out, (size_t)tokens * (size_t)stride * (is_float ? 4 : 2), err))
			return -1;
	} else {
		struct gemv g = projection(b, weights, input, columns);
		g.output = alone ? OUTPUT_ADD : is_float ? OUTPUT_FLOAT : OUTPUT_DTYPE;
		g.target = out;
		g.publish = !alone;
		published = gemv_fits(b, tokens, columns);
		if (alone && published) {
			g.bias = bias;
			bias = NULL;
		}
		if (product(b, &g, err))
			return -1;
	}
	if (alone)
		return bias ? residual_launch(b, NULL, true, true, bias, norm, err) : 0;
	if (rows_serve(b, tokens))
		return rows_sum(b, true, bias, norm, err);
	if (reduce_sum(b, published, err))
		return -1;
	return residual_launch(b, out, is_float, true, bias, norm, err);
}

int block_project_attention(struct backend *base, int32_t layer, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const struct cuda_layout *l = &b->layout;
	b->blocks_called++;
	return project(b, layer_at<void>(b, layer, l->output), b->step.attention, l->attention_stride,
		       b->has_output_bias ? layer_at<float>(b, layer, l->output_bias) : NULL,
		       next_norm(b, layer, l->mlp_norm), err);
}

int block_gate_up(struct backend *base, int32_t layer, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	const float *norm = layer_at<float>(b, layer, l->mlp_norm);
	void *weights = layer_at<void>(b, layer, l->gate_up);
	int rows = 2 * s->intermediate;

	b->blocks_called++;
	if (!rows)
		return 0;
	struct gemv g;
	if (normed_gemv(b, &g, weights, rows, norm, err))
		return -1;
	g.output = OUTPUT_GATE_UP;
	g.target = b->step.activation.data;
	g.target_wide = b->step.activation.wide;
	g.target_stride = l->activation_stride;
	g.bias = b->has_gate_up_bias ? layer_at<float>(b, layer, l->gate_up_bias) : NULL;
	if (ours(b, &g))
		return ours_launch(b, &g, err);
	g.output = OUTPUT_DTYPE;
	g.target = at<void>(b, l->scratch);
	g.target_wide = false;
	g.target_stride = l->gate_up_stride;
	g.bias = NULL;
	return product(b, &g, err) || silu_launch(b, layer, err) ? -1 : 0;
}

int block_project_mlp(struct backend *base, int32_t layer, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const struct cuda_layout *l = &b->layout;
	b->blocks_called++;
	return project(b, layer_at<void>(b, layer, l->down), b->step.activation, l->activation_stride,
		       b->has_down_bias ? layer_at<float>(b, layer, l->down_bias) : NULL,
		       next_norm(b, layer + 1, l->attention_norm), err);
}

int block_logits(struct backend *base, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	const float *norm = (const float *)(b->weights + l->final_norm);
	void *weights = b->weights + l->head;
	int rows = b->step.logit_rows;

	b->blocks_called++;
	if (!rows || !s->vocab)
		return 0;
	bool norms = gemv_norms(b, rows, l->hidden_stride);
	if (!norms && (peers_settle(b, err) || norm_launch(b, rows, b->step.logit_tokens, norm, err)))
		return -1;
	struct gemv g = {};
	g.weights = weights;
	g.rows = s->vocab;
	g.columns = l->hidden_stride;
	g.tokens = rows;
	g.input = at<void>(b, l->normed);
	if (norms) {
		take_norm(b, &g, norm);
		g.gather = b->step.logit_tokens;
	}
	g.output = OUTPUT_FLOAT;
	g.target = at<void>(b, l->logits);
	g.target_stride = l->logit_stride;
	return product(b, &g, err);
}
