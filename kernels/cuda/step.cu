/*
 * step.cu - the numbers of a step on their way to the device, and recorded steps.
 *
 * begin packs a step's lists one after the other into one pinned buffer, which the step's first
 * kernel fetches, so the offsets depend on nothing but the lists' lengths. Those, with the lengths
 * that the context is rounded up to, are the key of a recorded graph: a step of a form that was
 * seen before is recorded while its blocks are called, and replayed from then on.
 */
#include <string.h>

#include "kernels/cuda/internal.cuh"

/* Contexts of a step count as the next power of two from this on. Each such form costs one step
 * unrecorded and one recording; parts of a context that turn out empty cost next to nothing. */
enum { CONTEXT_MIN = 256, SPLIT_MIN = 32, CLUSTER_CONTEXT = 4096, CONTEXT_WHOLE = 1024 };

enum { FETCH_THREADS = 256, FETCH_BLOCKS = 64 };

static int check_step(const struct cuda_backend *b, const struct step *s, struct error *err)
{
	const struct backend_options *o = &b->options;

	if (s->tokens < 1 || s->tokens > o->max_tokens || s->sequences < 1 ||
	    s->sequences > o->max_sequences || s->sequences > s->tokens || s->logit_rows < 0 ||
	    s->logit_rows > o->max_logit_rows)
		return error_run(err, "a step of %d tokens, %d sequences, %d rows of logits; there is room "
				 "for %d, %d, %d", (int)s->tokens, (int)s->sequences, (int)s->logit_rows,
				 (int)o->max_tokens, (int)o->max_sequences, (int)o->max_logit_rows);
	if (s->first_token[0] != 0 || s->first_token[s->sequences] != s->tokens)
		return error_run(err, "the sequences of a step do not cover its tokens");
	for (int i = 0; i < s->sequences; i++) {
		int first = s->first_token[i], end = s->first_token[i + 1];
		if (end <= first || end > s->tokens)
			return error_run(err, "sequence %d of a step has no tokens", i);
		for (int t = first; t < end; t++)
			if (s->positions[t] < 0 || s->positions[t] / KV_BLOCK >= s->max_blocks ||
			    s->positions[t] / KV_BLOCK >= o->max_blocks ||
			    (t > first && s->positions[t] != s->positions[t - 1] + 1))
				return error_run(err, "sequence %d of a step: position %d is out of place", i,
						 (int)s->positions[t]);
		for (int k = 0; k <= s->positions[end - 1] / KV_BLOCK; k++) {
			int32_t block = s->block_table[(size_t)i * s->max_blocks + k];
			if (block < 0 || block >= o->kv_blocks)
				return error_run(err, "sequence %d of a step: the cache has no block %d", i,
						 (int)block);
		}
	}
	for (int i = 0; i < s->logit_rows; i++)
		if (s->logit_tokens[i] < 0 || s->logit_tokens[i] >= s->tokens)
			return error_run(err, "logits of token %d are wanted, the step has %d",
					 (int)s->logit_tokens[i], (int)s->tokens);
	return 0;
}

/* Room for `count` 4-byte values in the packed buffer: where the host writes, and in *device
 * where the kernels will read. */
static int32_t *pack(struct cuda_backend *b, size_t *used, size_t count, const int32_t **device)
{
	int32_t *host = (int32_t *)(b->step_host + *used);
	*device = (const int32_t *)(b->workspace + b->layout.step + *used);
	*used += (count * 4 + 15) / 16 * 16;
	return host;
}

static int32_t *pack_copy(struct cuda_backend *b, size_t *used, size_t count, const void *from,
			  const int32_t **device)
{
	int32_t *host = pack(b, used, count, device);
	if (count)
		memcpy(host, from, count * 4);
	return host;
}

/* Cuts the contexts of the step's single tokens into pieces of one length, such that there are
 * about ATTEND_WARPS of them and no warp has much more to do than its share. A context that is
 * cut gets fewer than twice as many pieces as its length divided by theirs, hence all together
 * fewer than 2 * ATTEND_WARPS / (kv_heads * tiles). */
static void pack_pieces(struct cuda_backend *b, const struct attend_single *single, size_t *used)
{
	struct cuda_step *d = &b->step;
	int64_t total = 0, length = ATTEND_PIECE, across = b->options.shape.kv_heads * attend_stream_tiles(b);
	const int32_t *device;
	int32_t slots = 0;

	for (int i = 0; i < d->single_count; i++)
		total += single[i].position + 1;
	while (length * ATTEND_WARPS < total * across)
		length *= 2;
	for (int i = 0; i < d->single_count; i++)
		d->piece_count += (int32_t)(single[i].position / length) + 1;
	struct attend_piece *piece = (struct attend_piece *)pack(b, used, 6 * (size_t)d->piece_count, &device);
	d->pieces = (const struct attend_piece *)device;
	for (int i = 0; i < d->single_count; i++) {
		int32_t end = single[i].position + 1, count = (int32_t)((end - 1) / length) + 1;
		for (int32_t k = 0; k < count; k++, piece++) {
			int64_t stop = (k + 1) * length;
			*piece = {single[i].token, (int32_t)(k * length), stop < end ? (int32_t)stop : end, 0, slots, 0};
			if (count > 1) {
				piece->slot = slots + k;
				piece->slots = count;
			}
		}
		slots += count > 1 ? count : 0;
	}
	d->single_count = 0;
}

/* From which position on a sequence sees keys and values of this step: its own, or in blocks that it
 * shares those of the sequences before it. */
static int32_t ready_positions(const struct step *s, int sequence)
{
	const int32_t *table = s->block_table + (size_t)sequence * s->max_blocks;
	int32_t ready = s->positions[s->first_token[sequence]];

	if (s->tokens > SMALL_TOKENS) /* what it takes to know is not worth it */
		return 0;
	for (int i = 0; i < sequence; i++) {
		int32_t first = s->positions[s->first_token[i]], last = s->positions[s->first_token[i + 1] - 1];
		for (int32_t k = first / KV_BLOCK; k <= last / KV_BLOCK && k * KV_BLOCK < ready; k++) {
			int32_t filled = first > k * KV_BLOCK ? first : k * KV_BLOCK;
			if (s->block_table[(size_t)i * s->max_blocks + k] == table[k] && filled < ready)
				ready = filled;
		}
	}
	return ready;
}

/* Divides the tokens among the attention kernels: those of sequences that bring several go into
 * tiles where that kernel can be had; the others go one by one, in a step of few tokens or where
 * attend_stream.cu can't be had, or in pieces. */
static void pack_attention(struct cuda_backend *b, const struct step *s, size_t *used)
{
	struct cuda_step *d = &b->step;
	bool tiles = attend_tile_fits(b);
	const int32_t *device;
	struct attend_single *single = (struct attend_single *)pack(b, used, 4 * (size_t)s->tokens, &device);
	d->single = (const struct attend_single *)device;

	for (int i = 0; i < s->sequences; i++)
		if (!tiles || s->first_token[i + 1] - s->first_token[i] == 1) {
			int32_t ready = ready_positions(s, i);
			for (int t = s->first_token[i]; t < s->first_token[i + 1]; t++)
				single[d->single_count++] = {t, i, s->positions[t], ready};
		} else {
			d->tile_count += (s->first_token[i + 1] - s->first_token[i] + ATTEND_TILE - 1) /
					 ATTEND_TILE;
		}
	struct attend_tile *tile = (struct attend_tile *)pack(b, used, 3 * (size_t)d->tile_count, &device);
	d->tiles = (const struct attend_tile *)device;
	/* The last tiles of a sequence see the longest context: they start first. */
	for (int i = 0; d->tile_count && i < s->sequences; i++) {
		int first = s->first_token[i], count = s->first_token[i + 1] - first;
		for (int k = (count - 1) / ATTEND_TILE; count > 1 && k >= 0; k--, tile++) {
			int rest = count - k * ATTEND_TILE;
			tile->first = first + k * ATTEND_TILE;
			tile->count = rest < ATTEND_TILE ? rest : ATTEND_TILE;
			tile->sequence = i;
		}
	}
	/* Pieces differ from step to step and cannot be recorded: of few tokens only long contexts are
	 * worth it, and of very few none. */
	bool cut = s->tokens > SMALL_TOKENS ||
		   (s->tokens > GEMV_TOKENS && d->table_stride > CONTEXT_WHOLE / KV_BLOCK);
	if (d->single_count && attend_stream_fits(b) && cut)
		pack_pieces(b, single, used);
}

/* Decides into how many parts attend.cu splits contexts of up to `context` positions. */
static void split_contexts(struct cuda_backend *b, int context)
{
	struct cuda_step *d = &b->step;
	int64_t units = (int64_t)d->single_count * b->options.shape.kv_heads *
			((b->group_max + ATTEND_HEADS - 1) / ATTEND_HEADS);
	int most = context / SPLIT_MIN;

	d->splits = d->cluster = 1;
	if (!units)
		return;
	/* A few clusters leave much of the GPU idle, which is worse than what it costs to join through global
	 * memory once contexts are long, or middling where every key is multiplied by several heads. So is it where
	 * a single token has more clusters than fit a block to a multiprocessor: on one H100 a step of
	 * Llama-2-7B takes 4.79 ms with them, and 4.74. */
	int enough = CLUSTER_CONTEXT / (b->group_max > 1 ? 2 : 1);
	bool few = units * ATTEND_CLUSTER * 2 < b->multiprocessors;
	bool crowded = d->single_count == 1 && units * ATTEND_CLUSTER > b->multiprocessors;
	if (b->programmatic && !crowded && (context <= enough || !few)) {
		while (d->cluster < ATTEND_CLUSTER && d->cluster * 2 <= most &&
		       d->cluster * 2 * units <= ATTEND_RESIDENT)
			d->cluster *= 2;
		d->splits = d->cluster;
		return;
	}
	most = ATTEND_BLOCKS / units < most ? (int)(ATTEND_BLOCKS / units) : most;
	d->splits = most > 1 ? most : 1;
}

/* The rows that a projection will read. */
static struct cuda_rows rows_for(const struct cuda_backend *b, int32_t stride, uint64_t narrow, uint64_t wide)
{
	bool is_wide = gemv_wide(b, b->step.tokens, stride);
	return {at<void>(b, is_wide ? wide : narrow), is_wide};
}

/* Packs all of it, and returns the bytes. */
static size_t pack_step(struct cuda_backend *b, const struct step *s)
{
	const struct cuda_layout *l = &b->layout;
	struct cuda_step *d = &b->step;
	size_t used = 0, tokens = (size_t)s->tokens;
	int longest = 0, context = CONTEXT_MIN;

	memset(d, 0, sizeof *d);
	d->tokens = s->tokens;
	d->sequences = s->sequences;
	d->logit_rows = s->logit_rows;
	d->attention = rows_for(b, l->attention_stride, l->attention, l->attention_wide);
	d->activation = rows_for(b, l->activation_stride, l->activation, l->activation_wide);
	for (int i = 0; i < s->sequences; i++) {
		int length = s->positions[s->first_token[i + 1] - 1] + 1;
		longest = length > longest ? length : longest;
	}
	while (context < longest && context < 1 << 30)
		context *= 2;
	d->table_stride = context / KV_BLOCK < b->options.max_blocks ? context / KV_BLOCK
								       : b->options.max_blocks;

	const int32_t *turn;
	*pack(b, &used, 1, &turn) = (int32_t)b->turn;
	d->turn = (const uint32_t *)turn;
	d->through_peers = peers_serve(b, d->tokens);
	pack_copy(b, &used, tokens, s->token_ids, &d->ids);
	pack_copy(b, &used, tokens, s->positions, &d->positions);
	int32_t *sequence_of = pack(b, &used, tokens, &d->sequence_of);
	int32_t *slots = pack(b, &used, tokens, &d->slots);
	pack_copy(b, &used, (size_t)s->logit_rows, s->logit_tokens, &d->logit_tokens);
	pack_attention(b, s, &used);
	if (s->rope_growth) {
		const int32_t *device;
		pack_copy(b, &used, (size_t)s->sequences, s->rope_growth, &device);
		d->growth = (const float *)device;
	}
	int32_t *table = pack(b, &used, (size_t)s->sequences * (size_t)d->table_stride, &d->table);
	for (int i = 0; i < s->sequences; i++, table += d->table_stride) {
		const int32_t *from = s->block_table + (size_t)i * s->max_blocks;
		int blocks = s->positions[s->first_token[i + 1] - 1] / KV_BLOCK + 1;
		memcpy(table, from, (size_t)blocks * 4);
		memset(table + blocks, 0, (size_t)(d->table_stride - blocks) * 4);
		for (int t = s->first_token[i]; t < s->first_token[i + 1]; t++) {
			sequence_of[t] = i;
			slots[t] = from[s->positions[t] / KV_BLOCK] * KV_BLOCK + s->positions[t] % KV_BLOCK;
		}
	}

	split_contexts(b, context);
	return used;
}

__global__ void fetch_kernel(const uint4 *from, uint4 *to, size_t count)
{
	size_t stride = (size_t)gridDim.x * blockDim.x;
	for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride)
		to[i] = __ldcv(from + i);
}

/* In place of a copy: a kernel can be recorded and starts sooner. Whatever comes next may read the numbers before it
 * waits for the kernel ahead, and so it starts after this one. */
static int fetch_step(struct cuda_backend *b, size_t bytes, struct error *err)
{
	size_t count = bytes / sizeof(uint4), blocks = (count + FETCH_THREADS - 1) / FETCH_THREADS;
	if (blocks > FETCH_BLOCKS)
		blocks = FETCH_BLOCKS;
	b->plain_next = b->step_unread = true;
	if (kernel_launch(b, err, "fetch_kernel", fetch_kernel,
			  dim3((unsigned)blocks), FETCH_THREADS, 0, (const uint4 *)b->step_host,
			  at<uint4>(b, b->layout.step), count))
		return -1;
	b->plain_next = true;
	return 0;
}

static bool same_key(const struct graph_key *a, const struct graph_key *c)
{
	return a->tokens == c->tokens && a->logit_rows == c->logit_rows &&
	       a->table_stride == c->table_stride && a->splits == c->splits && a->growth == c->growth;
}

/* The entry of the step's form, made where there is none by giving up the one unused longest. */
static struct graph_entry *find_graph(struct cuda_backend *b)
{
	const struct cuda_step *d = &b->step;
	struct graph_key key = {d->tokens, d->logit_rows, d->table_stride, d->splits, d->growth != NULL};
	struct graph_entry *oldest = b->graphs;

	for (int i = 0; i < GRAPHS; i++) {
		struct graph_entry *e = &b->graphs[i];
		if (e->last_use && same_key(&e->key, &key))
			return e;
		if (e->last_use < oldest->last_use)
			oldest = e;
	}
	if (oldest->graph) {
		cudaStreamSynchronize(b->stream); /* it may be running still */
		cudaGraphExecDestroy(oldest->graph);
	}
	oldest->graph = NULL;
	oldest->key = key;
	oldest->last_use = 0;
	return oldest;
}

static void drop_capture(struct cuda_backend *b)
{
	cudaGraph_t graph = NULL;
	if (b->capturing && cudaStreamEndCapture(b->stream, &graph) == cudaSuccess && graph)
		cudaGraphDestroy(graph);
	b->capturing = false;
	b->recording = NULL;
	cudaGetLastError();
}

int step_begin(struct backend *base, const struct step *s, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);

	drop_capture(b); /* of a step that failed halfway */
	b->blocks_called = 0;
	b->normed = NULL;
	b->turn = (b->turn + b->residual.sums) % PEER_TURNS;
	memset(&b->residual, 0, sizeof b->residual);
	b->residual.at = at<float>(b, b->layout.residual);
	if (check_step(b, s, err) ||
	    (b->step_unread &&
	     !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "waiting for the step before")))
		return -1;
	size_t bytes = pack_step(b, s);
	if (!b->graphs_allowed || s->tokens != s->sequences || s->tokens > SMALL_TOKENS ||
	    s->logit_rows > SMALL_TOKENS || b->step.piece_count)
		return fetch_step(b, bytes, err);

	struct graph_entry *e = find_graph(b);
	bool seen = e->last_use != 0;
	e->last_use = ++b->graph_clock;
	if (e->graph) {
		b->plain_next = b->step_unread = true;
		if (!cuda_ok(b, err, cudaGraphLaunch(e->graph, b->stream), "cudaGraphLaunch"))
			return -1;
		b->residual = e->residual;
		return 1;
	}
	if (seen) {
		if (!cuda_ok(b, err, cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal),
			     "cudaStreamBeginCapture"))
			return -1;
		b->capturing = true;
		b->recording = e;
	}
	return fetch_step(b, bytes, err);
}

/* Ends the recording and runs it. It is kept where `keep`. */
static int finish_capture(struct cuda_backend *b, bool keep, struct error *err)
{
	struct graph_entry *e = b->recording;
	cudaGraph_t graph = NULL;
	cudaGraphExec_t run = NULL;
	int result = -1;

	b->capturing = false;
	b->recording = NULL;
	b->plain_next = true;
	if (!cuda_ok(b, err, cudaStreamEndCapture(b->stream, &graph), "cudaStreamEndCapture") ||
	    !cuda_ok(b, err, cudaGraphInstantiate(&run, graph, 0), "cudaGraphInstantiate") ||
	    !cuda_ok(b, err, cudaGraphLaunch(run, b->stream), "cudaGraphLaunch"))
		goto done;
	if (keep) {
		e->graph = run;
		e->residual = b->residual;
		run = NULL;
	}
	result = 0;
done:
	if (run) {
		cudaStreamSynchronize(b->stream);
		cudaGraphExecDestroy(run);
	}
	if (graph)
		cudaGraphDestroy(graph);
	return result;
}

int step_flush(struct cuda_backend *b, struct error *err)
{
	return b->capturing ? finish_capture(b, false, err) : 0;
}

int step_end(struct backend *base, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	int whole = 1 + 5 * b->options.shape.layers + (b->step.logit_rows > 0);
	/* Every rank waits for every sum, also one without logits. */
	if (b->residual.pending && !b->residual.met && peers_settle(b, err))
		return -1;
	if (!b->capturing)
		return 0;
	return finish_capture(b, b->blocks_called == whole, err);
}

void step_close(struct cuda_backend *b)
{
	drop_capture(b);
	for (int i = 0; i < GRAPHS; i++)
		if (b->graphs[i].graph)
			cudaGraphExecDestroy(b->graphs[i].graph);
}
