/*
 * weights.cu - filling the weights, from a file's parts or from a formula.
 *
 * Parts pass through two pinned buffers in turn, so that the caller reads the next part while
 * this one is on its way to the device.
 */
#include <string.h>

#include "kernels/cuda/internal.cuh"
#include "kernels/random_weight.h"

static void note_bias(struct cuda_backend *b, enum backend_tensor tensor)
{
	switch (tensor) {
	case TENSOR_QUERY_BIAS:
	case TENSOR_KEY_BIAS:
	case TENSOR_VALUE_BIAS: b->has_qkv_bias = true; break;
	case TENSOR_OUTPUT_BIAS: b->has_output_bias = true; break;
	case TENSOR_GATE_BIAS:
	case TENSOR_UP_BIAS: b->has_gate_up_bias = true; break;
	case TENSOR_DOWN_BIAS: b->has_down_bias = true; break;
	default: break;
	}
}

int weights_load(struct backend *base, const struct tensor_part *part, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	const struct backend_shape *s = &b->options.shape;
	struct cuda_place place;

	if (!cuda_layout_find(&b->layout, s, part->tensor, part->layer, &place))
		return error_run(err, "tensor %d of layer %d has no place in this model",
				 (int)part->tensor, (int)part->layer);
	enum dtype dtype = place.matrix ? s->dtype : DTYPE_F32;
	size_t bytes = dtype_bytes(dtype), width = (size_t)part->columns * bytes;
	if (part->dtype != dtype || part->row < 0 || part->rows < 0 || part->column < 0 ||
	    part->columns < 0 || part->rows > place.rows - part->row ||
	    part->columns > place.columns - part->column)
		return error_run(err, "tensor %d of layer %d: rows %d+%d, columns %d+%d of %s do not fit "
				 "%d x %d of %s", (int)part->tensor, (int)part->layer, (int)part->row,
				 (int)part->rows, (int)part->column, (int)part->columns,
				 dtype_name(part->dtype), (int)place.rows, (int)place.columns,
				 dtype_name(dtype));
	if (!part->rows || !part->columns)
		return 0;
	if (!b->staging[0])
		return error_run(err, "weights were loaded already");
	note_bias(b, part->tensor);

	/* As many rows at a time as the buffer holds, or pieces of a row that is longer still. */
	size_t rows_at_once = width < LOAD_STAGING ? (size_t)LOAD_STAGING / width : 1;
	size_t width_at_once = width < LOAD_STAGING ? width : (size_t)LOAD_STAGING;
	size_t pitch = (size_t)place.stride * bytes;
	unsigned char *target = b->weights + place.offset + (size_t)part->row * pitch +
				(size_t)part->column * bytes;
	for (size_t row = 0; row < (size_t)part->rows; row += rows_at_once)
		for (size_t start = 0; start < width; start += width_at_once) {
			size_t rows = (size_t)part->rows - row, run = width - start;
			rows = rows < rows_at_once ? rows : rows_at_once;
			run = run < width_at_once ? run : width_at_once;
			int k = b->staging_next;
			b->staging_next ^= 1;
			if (!cuda_ok(b, err, cudaEventSynchronize(b->staged[k]), "loading weights"))
				return -1;
			const unsigned char *from = (const unsigned char *)part->data +
						    row * part->row_stride + start;
			if (part->row_stride == run)
				memcpy(b->staging[k], from, rows * run);
			else
				for (size_t i = 0; i < rows; i++)
					memcpy(b->staging[k] + i * run, from + i * part->row_stride, run);
			if (!cuda_ok(b, err,
				     cudaMemcpy2DAsync(target + row * pitch + start, pitch, b->staging[k], run,
						       run, rows, cudaMemcpyHostToDevice, b->stream),
				     "cudaMemcpy2DAsync") ||
			    !cuda_ok(b, err, cudaEventRecord(b->staged[k], b->stream), "cudaEventRecord"))
				return -1;
		}
	b->plain_next = true;
	return 0;
}

template <typename T>
__global__ void random_kernel(T *out, struct cuda_place place, uint64_t stream, float scale)
{
	wait_for_previous();
	int column = (int)(blockIdx.x * blockDim.x + threadIdx.x);
	if (column >= place.columns)
		return;
	for (int row = (int)blockIdx.y; row < place.rows; row += (int)gridDim.y)
		out[(size_t)row * place.stride + column] = from_float<T>(
			random_weight_unit(stream, place.first_row + row, place.first_column + column) *
			scale);
}

__global__ void ones_kernel(float *out, int count)
{
	wait_for_previous();
	int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
	if (i < count)
		out[i] = 1.0f;
}

static int fill_random(struct cuda_backend *b, uint64_t seed, enum backend_tensor tensor, int32_t layer,
		       struct error *err)
{
	struct cuda_place place;
	if (!cuda_layout_find(&b->layout, &b->options.shape, tensor, layer, &place) ||
	    !place.rows || !place.columns)
		return 0;
	unsigned char *target = b->weights + place.offset;
	unsigned across = (unsigned)((place.columns + 255) / 256);
	dim3 grid(across, (unsigned)(place.rows < 4096 ? place.rows : 4096));
	uint64_t stream = random_weight_stream(seed, tensor, layer);

	note_bias(b, tensor);
	if (place.matrix)
		return for_dtype(b->options.shape.dtype, [&](auto w) {
			typedef decltype(w) W;
			return kernel_launch(b, err, "random_kernel", random_kernel<W>, grid, 256, 0,
					     (W *)target, place, stream,
					     random_weight_scale(place.total_columns));
		});
	switch (tensor) {
	case TENSOR_FINAL_NORM:
	case TENSOR_ATTENTION_NORM:
	case TENSOR_MLP_NORM:
	case TENSOR_QUERY_NORM:
	case TENSOR_KEY_NORM:
		return kernel_launch(b, err, "ones_kernel", ones_kernel, dim3(across), 256, 0, (float *)target,
				     place.columns);
	default:
		return kernel_launch(b, err, "random_kernel", random_kernel<float>, grid, 256, 0,
				     (float *)target, place, stream, RANDOM_BIAS_SCALE);
	}
}

int weights_load_random(struct backend *base, uint64_t seed, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	for (int32_t layer = -1; layer < b->options.shape.layers; layer++)
		for (int tensor = 0; tensor < TENSOR_KINDS; tensor++)
			if (fill_random(b, seed, (enum backend_tensor)tensor, layer, err))
				return -1;
	return 0;
}

int weights_load_end(struct backend *base, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	if (!cuda_ok(b, err, cudaStreamSynchronize(b->stream), "loading weights"))
		return -1;
	for (int k = 0; k < 2; k++) {
		if (b->staging[k] && !cuda_ok(b, err, cudaFreeHost(b->staging[k]), "cudaFreeHost"))
			return -1;
		b->staging[k] = NULL;
	}
	return 0;
}
