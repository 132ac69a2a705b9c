/*
 * packed.cu - packs bfloat16 weights, once they are loaded, and tells which matrices are packed: see packed.cuh.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/packed.cuh"

enum {
	WINDOW = 15,		/* exponents */
	SHIFT_MAX = 127 + INPUT_BITS, /* of exponents; so that a scale is a float */
	STRAYS = 4, STRAYS_MOST = 64, /* places for them in each row of a matrix: so many at a time, at most */
	SPARE = 32,		/* a part of the device's memory that stays free: others' estimates are not exact */
};

/* ---- on the device --------------------------------------------------------------------------------- */

/* A weight's exponent in its row's window, 1 to WINDOW; 0 for those that are the same number with it; or -1. */
__device__ __forceinline__ int packed_exponent(uint32_t weight, int shift)
{
	const int exponent = (int)(weight >> 7 & 0xff), at = exponent - shift;
	if ((weight & 0x7fff) == 0 || (shift == 0 && exponent == 0))
		return 0;
	return at >= 1 && at <= WINDOW ? at : -1;
}

/* For a whole warp: the exponent ahead of the window that has most of a row's weights, of such windows the first. `counts`
 * has 256. */
__device__ __forceinline__ int row_shift(const uint16_t *row, int columns, int *counts, int lane)
{
	for (int i = lane; i < 256; i += 32)
		counts[i] = 0;
	__syncwarp();
	for (int i = lane; i < columns; i += 32)
		if (row[i] & 0x7fff) /* a zero is one in any window */
			atomicAdd(&counts[row[i] >> 7 & 0xff], 1);
	__syncwarp();
	int best = 0;
	for (int shift = lane; shift <= SHIFT_MAX; shift += 32) {
		int count = shift == 0 ? counts[0] : 0;
		for (int i = 1; i <= WINDOW; i++)
			count += counts[shift + i];
		best = max(best, count << 8 | (255 - shift));
	}
	return 255 - (__reduce_max_sync(0xffffffffu, best) & 0xff);
}

/* For a whole warp: a row's strays, from `to` on, one every TILE words, and zeros up to `room` of them. Returns their number,
 * which may be more. */
__device__ __forceinline__ int row_strays(const uint16_t *row, int columns, int shift, uint32_t *to, int room, int lane)
{
	int strays = 0;
	for (int first = 0; first < columns; first += 32) {
		const int i = first + lane;
		const uint32_t weight = i < columns ? row[i] : 0;
		const bool stray = packed_exponent(weight, shift) < 0;
		const uint32_t found = __ballot_sync(0xffffffffu, stray);
		const int place = strays + __popc(found & ((1u << lane) - 1));
		if (stray && place < room)
			to[place * TILE] = weight << 16 | (uint32_t)i;
		strays += __popc(found);
	}
	for (int i = strays + lane; i < room; i += 32)
		to[i * TILE] = 0;
	return strays;
}

/* Four weights as a step's word of low bytes, and their high bytes into the word that two steps share. */
__device__ __forceinline__ void pack_step(uint2 four, int shift, bool second, uint32_t &low, uint32_t &high)
{
	const uint32_t weights[4] = {four.x & 0xffff, four.x >> 16, four.y & 0xffff, four.y >> 16};
	low = 0;
#pragma unroll
	for (int i = 0; i < 4; i++) {
		const int at = packed_exponent(weights[i], shift);
		const uint32_t weight = at < 0 ? 0 : weights[i], sign = weight >> 15, exponent = (uint32_t)max(at, 0);
		low |= ((weight & 0x7f) | (exponent & 1) << 7) << 8 * i;
		high |= second ? exponent >> 1 << (8 * i + 4) | sign << (8 * i + 11) % 32
			       : exponent >> 1 << 8 * i | sign << (8 * i + 7);
	}
}

/* Row r of a tile, and its columns: none where there is no such row. */
__device__ __forceinline__ const uint16_t *tile_weights(const uint16_t *weights, const struct gemv_rows &m, int tile, int r,
							int columns, int &count)
{
	const int row = tile_row(m, tile, r);
	const bool there = tile_row_exists(m, tile, r, row);
	count = there ? columns : 0;
	return weights + (there ? (size_t)row * columns : 0);
}

/* The most strays of a row, in *most, which was 0. A block of TILE warps looks through a tile. */
__global__ void __launch_bounds__(32 * TILE)
strays_kernel(const uint16_t *weights, int columns, const __grid_constant__ struct gemv_rows m, int32_t *most)
{
	__shared__ int counts[TILE][256];
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
	int count;
	wait_for_previous();
	const uint16_t *const row = tile_weights(weights, m, (int)blockIdx.x, warp, columns, count);
	const int shift = row_shift(row, count, counts[warp], lane);
	const int strays = row_strays(row, count, shift, NULL, 0, lane);
	if (lane == 0 && strays)
		atomicMax(most, strays);
}

/* A block of TILE warps packs a tile. */
__global__ void __launch_bounds__(32 * TILE)
pack_kernel(const uint16_t *weights, int columns, const __grid_constant__ struct gemv_rows m,
	    const __grid_constant__ struct packed_matrix q, uint4 *tiles)
{
	__shared__ int counts[TILE][256], shifts[TILE];
	const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, tile = (int)blockIdx.x;
	uint4 *const to = tiles + (size_t)tile * q.tile_pieces;
	uint32_t *const side = (uint32_t *)to + warp;
	int count;

	wait_for_previous();
	const uint16_t *row = tile_weights(weights, m, tile, warp, columns, count);
	const int shift = row_shift(row, count, counts[warp], lane);
	row_strays(row, count, shift, side + TILE, q.strays, lane);
	if (lane == 0) {
		*side = __float_as_uint(count ? ldexpf(1.0f, shift - INPUT_BITS) : 0.0f);
		shifts[warp] = shift;
	}
	__syncthreads();
	row = tile_weights(weights, m, tile, lane / 4, columns, count);
	for (int unit = warp; unit < q.units; unit += TILE) {
		uint32_t low[STEPS], high[STEPS / 2] = {};
#pragma unroll
		for (int s = 0; s < STEPS; s++) {
			const int column = unit * UNIT + s * 16 + lane % 4 * 4;
			pack_step(column < count ? *(const uint2 *)(row + column) : make_uint2(0, 0), shifts[lane / 4], s % 2, low[s],
				  high[s / 2]);
		}
		uint4 *at = to + side_pieces_of(q.strays) + unit * UNIT_PIECES + lane;
		at[0] = make_uint4(low[0], low[1], low[2], low[3]);
		at[32] = make_uint4(low[4], low[5], low[6], low[7]);
		at[64] = make_uint4(high[0], high[1], high[2], high[3]);
	}
}

/* ---- which matrices -------------------------------------------------------------------------------- */

/* Where a layer's matrices are in it. Those of all layers come in this order, then the head. */
static uint64_t packed_offset(const struct cuda_layout *l, int i)
{
	const uint64_t offsets[PACKED_LAYER] = {l->qkv, l->output, l->gate_up, l->down};
	return offsets[i];
}

/* Which of them this is, or -1. */
static int packed_index(const struct cuda_backend *b, const void *weights)
{
	const struct cuda_layout *l = &b->layout;
	const uint64_t offset = (uint64_t)((const unsigned char *)weights - b->weights);

	if (offset == l->head)
		return PACKED_LAYER * b->options.shape.layers;
	if (offset < l->first_layer)
		return -1;
	for (int i = 0; i < PACKED_LAYER; i++)
		if ((offset - l->first_layer) % l->layer_bytes == packed_offset(l, i))
			return (int)((offset - l->first_layer) / l->layer_bytes) * PACKED_LAYER + i;
	return -1;
}

/* How a matrix of so many rows, of which the output makes groups, is packed, where no row has more strays. */
static struct packed_matrix packed_shape(const struct gemv_rows *m, int columns, int strays)
{
	struct packed_matrix q = {};
	q.count = (m->groups + 1) / 2;
	q.units = (columns + UNIT - 1) / UNIT;
	q.strays = (strays + STRAYS - 1) / STRAYS * STRAYS;
	q.tile_pieces = side_pieces_of(q.strays) + q.units * UNIT_PIECES;
	return q;
}

/* The product of matrix i, as far as it decides on the packing. */
static struct gemv packed_product(const struct cuda_backend *b, int i)
{
	const struct backend_shape *s = &b->options.shape;
	const struct cuda_layout *l = &b->layout;
	const int layer = i / PACKED_LAYER;
	struct gemv p = {};

	p.columns = l->hidden_stride;
	p.output = OUTPUT_FLOAT;
	p.head_dim = s->head_dim;
	if (layer == s->layers) {
		p.weights = b->weights + l->head;
		p.rows = s->vocab;
		return p;
	}
	p.weights = b->weights + l->first_layer + l->layer_bytes * (uint64_t)layer + packed_offset(l, i % PACKED_LAYER);
	switch (i % PACKED_LAYER) {
	case 0:
		p.rows = l->qkv_rows;
		p.output = gemv_takes_rope(s) ? OUTPUT_ROPE : OUTPUT_FLOAT;
		break;
	case 1:
		p.rows = s->hidden;
		p.columns = l->attention_stride;
		break;
	case 2:
		p.rows = 2 * s->intermediate;
		p.output = OUTPUT_GATE_UP;
		break;
	default:
		p.rows = s->hidden;
		p.columns = l->activation_stride;
	}
	return p;
}

/* Calls f(i, product, rows) for all matrices that there are, until it fails. Returns 0 or -1. */
template <typename F> static int packed_each(const struct cuda_backend *b, F f)
{
	for (int i = 0; i < PACKED_LAYER * b->options.shape.layers + 1; i++) {
		struct gemv p = packed_product(b, i);
		if (p.rows && p.columns && p.columns <= UINT16_MAX && f(i, p, gemv_rows_of(&p)))
			return -1;
	}
	return 0;
}

static size_t packed_size(const struct packed_matrix *q)
{
	return (size_t)q->count * (size_t)q->tile_pieces * sizeof(uint4);
}

/* ---- filling -------------------------------------------------------------------------------------- */

/* Decides how every matrix is packed: by the most strays that one of its rows has. */
static int packed_shapes(struct cuda_backend *b, int32_t *most, size_t count, struct error *err)
{
	int32_t *device = NULL;
	int result = -1;
	if (cuda_ok(b, err, cudaMalloc((void **)&device, count * sizeof *device), "cudaMalloc for packing") &&
	    cuda_ok(b, err, cudaMemsetAsync(device, 0, count * sizeof *device, b->stream), "packing weights")) {
		b->plain_next = true; /* the weights came by another stream */
		result = packed_each(b, [&](int i, const struct gemv &p, const struct gemv_rows &rows) {
			const struct packed_matrix q = packed_shape(&rows, p.columns, 0);
			return kernel_launch(b, err, "strays_kernel", strays_kernel, dim3((unsigned)q.count), 32 * TILE, 0,
					     (const uint16_t *)p.weights, p.columns, rows, device + i);
		});
	}
	if (!result && (!cuda_ok(b, err, cudaMemcpyAsync(most, device, count * sizeof *most, cudaMemcpyDeviceToHost, b->stream),
				 "packing weights") ||
			!cuda_ok(b, err, cudaStreamSynchronize(b->stream), "packing weights")))
		result = -1;
	cudaFree(device);
	return result || packed_each(b, [&](int i, const struct gemv &p, const struct gemv_rows &rows) {
		const struct packed_matrix q = packed_shape(&rows, p.columns, most[i]);
		if (most[i] <= STRAYS_MOST && packed_size(&q) <= UINT32_MAX) /* kernels count bytes in 32 bits */
			b->packed[i] = q;
		return 0;
	}) ? -1 : 0;
}

/* Packs them, where they belong one after the other. */
static int packed_fill(struct cuda_backend *b, struct error *err)
{
	unsigned char *to = b->packed_bytes;
	b->plain_next = true;
	return packed_each(b, [&](int i, const struct gemv &p, const struct gemv_rows &rows) {
		struct packed_matrix *q = &b->packed[i];
		uint4 *const tiles = (uint4 *)to;
		if (!q->count)
			return 0;
		to += packed_size(q);
		q->tiles = tiles;
		return kernel_launch(b, err, "pack_kernel", pack_kernel, dim3((unsigned)q->count), 32 * TILE, 0,
				     (const uint16_t *)p.weights, p.columns, rows, *q, tiles);
	});
}

/* Room for so many bytes, or none: where they don't fit besides what was planned. By the device's size, not by what is
 * free, so that the same command takes the same way, and so computes the same bits, whenever it runs. */
static int packed_room_for(struct cuda_backend *b, size_t bytes, struct error *err)
{
	struct backend_memory planned;
	size_t free_bytes = 0, all = 0;
	if (!cuda_ok(b, err, cudaMemGetInfo(&free_bytes, &all), "cudaMemGetInfo"))
		return -1;
	cuda_backend_memory(&b->options, &planned);
	if (planned.weights + planned.kv_cache + planned.workspace + planned.overhead + bytes > all - all / SPARE)
		return 0;
	cudaError_t status = cudaMalloc((void **)&b->packed_bytes, bytes);
	if (status == cudaErrorMemoryAllocation) { /* someone else has it: it goes without, only slower */
		cudaGetLastError();
		return 0;
	}
	return cuda_ok(b, err, status, "cudaMalloc for packed weights") ? 0 : -1;
}

/* TPRUN_CUDA_PACKED=0 leaves the weights as they are, to measure and to test. */
int packed_build(struct cuda_backend *b, struct error *err)
{
	const char *wanted = getenv("TPRUN_CUDA_PACKED");
	const size_t count = (size_t)PACKED_LAYER * (size_t)b->options.shape.layers + 1;
	size_t bytes = 0;
	int32_t *most;
	int result = -1;

	if (b->options.shape.dtype != DTYPE_BF16 || (wanted && !strcmp(wanted, "0")))
		return 0;
	b->packed = (struct packed_matrix *)calloc(count, sizeof *b->packed);
	most = (int32_t *)calloc(count, sizeof *most);
	if (!b->packed || !most) {
		error_memory(err, "packed weights");
	} else if (!packed_shapes(b, most, count, err)) {
		for (size_t i = 0; i < count; i++)
			bytes += packed_size(&b->packed[i]);
		result = bytes && packed_room_for(b, bytes, err) ? -1 : 0;
	}
	free(most);
	if (!result && b->packed_bytes)
		result = packed_fill(b, err) || !cuda_ok(b, err, cudaStreamSynchronize(b->stream), "packing weights") ? -1 : 0;
	b->plain_next = true;
	return result;
}

void packed_close(struct cuda_backend *b)
{
	cudaFree(b->packed_bytes);
	free(b->packed);
}

double packed_share(struct backend *base, int32_t tokens)
{
	struct cuda_backend *b = cuda_of(base);
	double plain = 0, read = 0;
	packed_each(b, [&](int i, const struct gemv &p, const struct gemv_rows &) {
		const double bytes = 2.0 * p.rows * p.columns;
		plain += bytes;
		read += tokens <= GEMV_TOKENS && b->packed && b->packed[i].tiles ? (double)packed_size(&b->packed[i]) : bytes;
		return 0;
	});
	return plain > 0 ? read / plain : 1;
}

const struct packed_matrix *packed_find(const struct cuda_backend *b, const void *weights)
{
	const int i = b->packed ? packed_index(b, weights) : -1;
	return i >= 0 && b->packed[i].tiles ? &b->packed[i] : NULL;
}
