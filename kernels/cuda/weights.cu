/*
 * weights.cu - filling the weights, from a file's parts or from a formula.
 *
 * Every thread that loads has a lane of two pinned buffers in turn: it fills one while the other is
 * on its way to the device.
 */
#include "kernels/cuda/internal.cuh"
#include "kernels/random_weight.h"

static void note_bias(struct cuda_backend *b, enum backend_tensor tensor)
{
	bool *has;
	switch (tensor) {
	case TENSOR_QUERY_BIAS:
	case TENSOR_KEY_BIAS:
	case TENSOR_VALUE_BIAS: has = &b->has_qkv_bias; break;
	case TENSOR_OUTPUT_BIAS: has = &b->has_output_bias; break;
	case TENSOR_GATE_BIAS:
	case TENSOR_UP_BIAS: has = &b->has_gate_up_bias; break;
	case TENSOR_DOWN_BIAS: has = &b->has_down_bias; break;
	default: return;
	}
	__atomic_store_n(has, true, __ATOMIC_RELAXED); /* several threads load */
}

/* Where a part goes, and the bytes from a row there to the next. */
static int find_target(struct cuda_backend *b, const struct tensor_part *part, unsigned char **target,
		       size_t *pitch, struct error *err)
{
	const struct backend_shape *s = &b->options.shape;
	struct cuda_place place;

	if (!cuda_layout_find(&b->layout, s, part->tensor, part->layer, &place))
		return error_run(err, "tensor %d of layer %d has no place in this model",
				 (int)part->tensor, (int)part->layer);
	enum dtype dtype = place.matrix ? s->dtype : DTYPE_F32;
	size_t bytes = dtype_bytes(dtype);
	if (part->dtype != dtype || part->row < 0 || part->rows < 1 || part->column < 0 ||
	    part->columns < 1 || part->rows > place.rows - part->row ||
	    part->columns > place.columns - part->column)
		return error_run(err, "tensor %d of layer %d: rows %d+%d, columns %d+%d of %s do not fit "
				 "%d x %d of %s", (int)part->tensor, (int)part->layer, (int)part->row,
				 (int)part->rows, (int)part->column, (int)part->columns,
				 dtype_name(part->dtype), (int)place.rows, (int)place.columns,
				 dtype_name(dtype));
	*pitch = (size_t)place.stride * bytes;
	*target = b->weights + place.offset + (size_t)part->row * *pitch + (size_t)part->column * bytes;
	return 0;
}

/* A lane's memory is taken by the thread that will use it, side by side with the others. */
static int open_lane(struct cuda_backend *b, struct load_lane *lane, struct error *err)
{
	for (int k = 0; k < 2; k++)
		if (!lane->copied[k] &&
		    !cuda_ok(b, err, cudaEventCreateWithFlags(&lane->copied[k], cudaEventDisableTiming),
			     "cudaEventCreate"))
			return -1;
	return lane->data || cuda_ok(b, err, cudaMallocHost((void **)&lane->data, 2 * (size_t)LOAD_PART_BYTES),
				     "cudaMallocHost for loading") ? 0 : -1;
}

int weights_lend(struct backend *base, struct tensor_part *part, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	unsigned char *target = NULL;
	size_t pitch = 0, width = (size_t)part->columns * dtype_bytes(part->dtype);

	if (find_target(b, part, &target, &pitch, err))
		return -1;
	if (b->loaded)
		return error_run(err, "weights were loaded already");
	if (part->thread < 0 || part->thread >= LOAD_THREADS || width * (size_t)part->rows > LOAD_PART_BYTES)
		return error_run(err, "a part of %d rows and %d columns, loaded by thread %d, is too large",
				 (int)part->rows, (int)part->columns, part->thread);
	struct load_lane *lane = &b->lanes[part->thread];
	if (!cuda_ok(b, err, cudaSetDevice(b->options.device), "cudaSetDevice") || open_lane(b, lane, err) ||
	    !cuda_ok(b, err, cudaEventSynchronize(lane->copied[lane->next]), "loading weights"))
		return -1;
	part->data = lane->data + (size_t)lane->next * LOAD_PART_BYTES;
	part->row_stride = width;
	return 0;
}

int weights_load(struct backend *base, const struct tensor_part *part, struct error *err)
{
	struct cuda_backend *b = cuda_of(base);
	struct load_lane *lane = &b->lanes[part->thread];
	unsigned char *target = NULL;
	size_t pitch = 0;

	if (find_target(b, part, &target, &pitch, err) ||
	    !cuda_ok(b, err, cudaMemcpy2DAsync(target, pitch, part->data, part->row_stride, part->row_stride,
					       (size_t)part->rows, cudaMemcpyHostToDevice, b->load_stream),
		     "cudaMemcpy2DAsync") ||
	    !cuda_ok(b, err, cudaEventRecord(lane->copied[lane->next], b->load_stream), "cudaEventRecord"))
		return -1;
	lane->next ^= 1;
	note_bias(b, part->tensor);
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
	/* Parts that are loaded on top come by another stream. */
	b->plain_next = true;
	return cuda_ok(b, err, cudaStreamSynchronize(b->stream), "random weights") ? 0 : -1;
}

int weights_end(struct cuda_backend *b, struct error *err)
{
	int result = cuda_ok(b, err, cudaStreamSynchronize(b->load_stream), "loading weights") ? 0 : -1;
	weights_close(b);
	b->loaded = b->plain_next = true;
	return result;
}

void weights_close(struct cuda_backend *b)
{
	if (b->load_stream)
		cudaStreamSynchronize(b->load_stream); /* what was lent may be on its way */
	for (int i = 0; i < LOAD_THREADS; i++) {
		struct load_lane *lane = &b->lanes[i];
		for (int k = 0; k < 2; k++)
			if (lane->copied[k])
				cudaEventDestroy(lane->copied[k]);
		cudaFreeHost(lane->data);
		*lane = {};
	}
}
