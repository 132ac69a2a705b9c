#include "runtime/model/pieces.h"

/* The tensor as the shard has it; false where it has no part in it. */
static bool find_loaded(const struct piece_order *order, int kind, int32_t layer,
			struct loaded_tensor *out)
{
	enum backend_tensor tensor = (enum backend_tensor)kind;
	*out = (struct loaded_tensor){
		.kind = tensor,
		.layer = layer,
		.extent = shard_extent(order->shard, order->config, tensor),
		.stored = checkpoint_tensor(order->checkpoint, tensor, layer),
		.dtype = tensor_is_vector(tensor) ? DTYPE_F32 : order->dtype,
	};
	return out->extent.rows && out->extent.columns && tensor_in_layers(tensor) == (layer >= 0);
}

struct piece piece_first(const struct piece_order *order)
{
	/* The end of a tensor before the first. */
	struct piece piece = {.tensor = {.kind = TENSOR_KINDS - 1, .layer = -2}};
	piece_next(order, &piece);
	return piece;
}

void piece_next(const struct piece_order *order, struct piece *piece)
{
	struct loaded_tensor *tensor = &piece->tensor;
	piece->column += piece->columns;
	if (piece->column == tensor->extent.columns) {
		piece->column = 0;
		piece->row += piece->rows;
	}
	if (piece->row == tensor->extent.rows) {
		int kind = (int)tensor->kind, layer = tensor->layer;
		piece->row = 0;
		do {
			if (++kind == TENSOR_KINDS) {
				kind = 0;
				layer++;
			}
			if (layer == order->config->layers) {
				tensor->layer = layer;
				return;
			}
		} while (!find_loaded(order, kind, layer, tensor));
	}
	size_t stored = dtype_bytes(tensor->stored->dtype), wanted = dtype_bytes(tensor->dtype);
	int32_t most = LOAD_PART_BYTES / (int32_t)(stored > wanted ? stored : wanted);
	int32_t columns = tensor->extent.columns, left = tensor->extent.rows - piece->row;
	if (columns > most) {
		int32_t rest = columns - piece->column;
		piece->columns = rest < most ? rest : most;
		piece->rows = 1;
	} else {
		piece->columns = columns;
		piece->rows = left < most / columns ? left : most / columns;
	}
}

uint64_t piece_offset(const struct piece *piece, size_t *step)
{
	const struct tensor_extent *extent = &piece->tensor.extent;
	size_t size = dtype_bytes(piece->tensor.stored->dtype);
	*step = (size_t)extent->total_columns * size;
	return piece->tensor.stored->offset + (uint64_t)(extent->first_row + piece->row) * *step +
	       (uint64_t)(extent->first_column + piece->column) * size;
}

int piece_error(const struct piece *piece, struct error *err)
{
	char name[96];
	weights_tensor_name(name, sizeof name, piece->tensor.kind, piece->tensor.layer);
	return error_context(err, "loading %s", name);
}
