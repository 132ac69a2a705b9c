#include "runtime/model/weights.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/file.h"
#include "runtime/model/checkpoint.h"

enum {
	READERS = 8,		  /* threads that read at once */
	SLICE_ELEMENTS = 1 << 19, /* of one thread at a time: 1 or 2 MiB */
};

/* What one rank's loading holds. After a failure it goes on taking part in the exchanges of the
 * layer, with whatever its buffers hold, so that no other rank waits for it; all ranks then
 * learn of it when they agree at the layer's end. */
struct loader {
	const struct checkpoint *checkpoint;
	const struct model_config *config;
	const struct shard *shard;
	const struct group *group;
	struct backend *backend;
	enum dtype dtype; /* of matrices in the backend */
	const struct weights_progress *progress;
	uint64_t done, total; /* bytes this rank reads */
	int result;	      /* -1 from the first failure on, err holding it */
	struct error *err;
	/* stored: as read; rows: converted; send, receive: of an exchange. */
	char *stored, *rows, *send, *receive;
	size_t piece; /* bytes of each: at least one row from every rank */
	size_t *send_bytes, *receive_bytes; /* [ranks] */
};

/* One tensor while it is loaded. */
struct loaded_tensor {
	enum backend_tensor kind;
	int32_t layer;
	struct tensor_extent extent;
	const struct stored_tensor *stored;
	enum dtype dtype; /* in the backend */
};

/* Bytes of the longest row of any tensor, in the widest type. */
static size_t longest_row(const struct model_config *config)
{
	int64_t columns = config->hidden, attention = (int64_t)config->heads * config->head_dim;
	columns = attention > columns ? attention : columns;
	columns = config->intermediate > columns ? config->intermediate : columns;
	return (size_t)columns * sizeof(float);
}

static int32_t rows_per_piece(const struct loader *loader, const struct loaded_tensor *tensor)
{
	size_t stored = dtype_bytes(tensor->stored->dtype), wanted = dtype_bytes(tensor->dtype);
	size_t row = (size_t)tensor->extent.total_columns * (stored > wanted ? stored : wanted);
	size_t rows = loader->piece / row;
	return rows < INT32_MAX ? (int32_t)rows : INT32_MAX;
}

static void loader_fail(struct loader *loader, const struct loaded_tensor *tensor)
{
	char name[96];
	weights_tensor_name(name, sizeof name, tensor->kind, tensor->layer);
	error_context(loader->err, "loading %s", name);
	loader->result = -1;
}

/* Tells the system which bytes will be wanted soon, so that it reads them while we convert, send
 * and upload. A refusal changes nothing. */
static void read_ahead(const struct loaded_tensor *tensor, uint64_t offset, uint64_t bytes)
{
	(void)posix_fadvise(tensor->stored->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_WILLNEED);
}

/* Reads `count` consecutive elements and, where the backend wants another type, converts them
 * from loader->stored to loader->rows. In slices on several threads: one core copies from the
 * page cache at a fraction of what a disk or a GPU's link can take, and disks like a queue. */
static int read_and_convert(struct loader *loader, const struct loaded_tensor *tensor,
			    uint64_t offset, size_t count)
{
	const struct stored_tensor *stored = tensor->stored;
	size_t size = dtype_bytes(stored->dtype), wanted = dtype_bytes(tensor->dtype);
	bool convert = stored->dtype != tensor->dtype;
	int64_t slices = (int64_t)((count + SLICE_ELEMENTS - 1) / SLICE_ELEMENTS), failed = slices;
#pragma omp parallel for num_threads(READERS) schedule(dynamic) if (slices > 1)
	for (int64_t i = 0; i < slices; i++) {
		struct error own = {0};
		size_t first = (size_t)i * SLICE_ELEMENTS;
		size_t part = count - first < SLICE_ELEMENTS ? count - first : SLICE_ELEMENTS;
		char *data = loader->stored + first * size;
		if (file_read_at(stored->fd, stored->path, offset + first * size, data, part * size,
				 &own)) {
#pragma omp critical(weights_read_failed)
			if (i < failed) { /* the first in the file is the one to tell */
				failed = i;
				*loader->err = own;
			}
		} else if (convert) {
			dtype_convert(data, stored->dtype, loader->rows + first * wanted, tensor->dtype,
				      part);
		}
	}
	return failed < slices ? -1 : 0;
}

/* Reads elements [first, first + count) of the whole tensor and returns them as the backend wants
 * them, in the loader's memory; after a failure that memory holds anything. `after` elements
 * follow them that will be read next. */
static const char *read_elements(struct loader *loader, const struct loaded_tensor *tensor,
				 uint64_t first, size_t count, size_t after)
{
	const struct stored_tensor *stored = tensor->stored;
	size_t size = dtype_bytes(stored->dtype);
	uint64_t offset = stored->offset + first * size;
	if (loader->result)
		return loader->rows;
	if (after)
		read_ahead(tensor, offset + count * size, after * size);
	if (read_and_convert(loader, tensor, offset, count)) {
		loader_fail(loader, tensor);
		return loader->rows;
	}
	loader->done += count * size;
	if (loader->progress)
		loader->progress->report(loader->progress->context, loader->done, loader->total);
	return stored->dtype == tensor->dtype ? loader->stored : loader->rows;
}

/* Hands rows [row, row + rows) of this rank's part, all its columns, to the backend. */
static void put_rows(struct loader *loader, const struct loaded_tensor *tensor, int32_t row,
		     int32_t rows, const char *data)
{
	if (loader->result || !rows || !tensor->extent.columns)
		return;
	struct tensor_part part = {
		.tensor = tensor->kind,
		.layer = tensor->layer,
		.row = row,
		.rows = rows,
		.columns = tensor->extent.columns,
		.data = data,
		.row_stride = (size_t)tensor->extent.columns * dtype_bytes(tensor->dtype),
		.dtype = tensor->dtype,
	};
	if (loader->backend->ops->load(loader->backend, &part, loader->err))
		loader_fail(loader, tensor);
}

/* A part that is contiguous in the file: whole rows, or a stretch of a vector. */
static void load_contiguous(struct loader *loader, const struct loaded_tensor *tensor)
{
	const struct tensor_extent *extent = &tensor->extent;
	size_t columns = (size_t)extent->columns;
	int32_t at_once = rows_per_piece(loader, tensor);
	for (int32_t row = 0; row < extent->rows; row += at_once) {
		int32_t left = extent->rows - row, rows = left < at_once ? left : at_once;
		int32_t after = left - rows < at_once ? left - rows : at_once;
		uint64_t first = (uint64_t)(extent->first_row + row) * (uint64_t)extent->total_columns +
				 (uint64_t)extent->first_column;
		put_rows(loader, tensor, row, rows,
			 read_elements(loader, tensor, first, (size_t)rows * columns,
				       (size_t)after * columns));
	}
}

/* Where each rank's columns of a row-parallel tensor lie. */
static struct shard_range columns_of_rank(const struct loader *loader,
					  const struct loaded_tensor *tensor, int32_t rank)
{
	const struct model_config *config = loader->config;
	int32_t ranks = loader->shard->ranks;
	if (tensor->kind == TENSOR_DOWN)
		return shard_split(config->intermediate, SHARD_BLOCK, ranks, rank);
	struct shard_range heads = shard_split(config->heads, 1, ranks, rank);
	return (struct shard_range){heads.first * config->head_dim, heads.count * config->head_dim};
}

/* Sorts whole rows into the send buffer: for each rank its columns of all these rows. */
static void pack_columns(struct loader *loader, const struct loaded_tensor *tensor,
			 const char *data, int32_t rows)
{
	size_t size = dtype_bytes(tensor->dtype);
	size_t stride = (size_t)tensor->extent.total_columns * size;
	char *out = loader->send;
	for (int32_t rank = 0; rank < loader->shard->ranks; rank++) {
		struct shard_range columns = columns_of_rank(loader, tensor, rank);
		size_t bytes = (size_t)columns.count * size;
		for (int32_t row = 0; row < rows; row++, out += bytes)
			memcpy(out, data + (size_t)row * stride + (size_t)columns.first * size, bytes);
		loader->send_bytes[rank] = (size_t)rows * bytes;
	}
}

/* How many rows each rank reads for one exchange: they must fit in a piece, and so must what the
 * rank with most columns, the first, receives of all ranks' rows. */
static int32_t rows_per_exchange(const struct loader *loader, const struct loaded_tensor *tensor)
{
	size_t ranks = (size_t)loader->shard->ranks;
	size_t columns = (size_t)columns_of_rank(loader, tensor, 0).count;
	size_t receivable = loader->piece / (ranks * columns * dtype_bytes(tensor->dtype));
	size_t readable = (size_t)rows_per_piece(loader, tensor);
	return (int32_t)(receivable < readable ? receivable : readable);
}

/* Round `round` of a row-parallel tensor takes these of a rank's rows. */
static struct shard_range rows_of_round(const struct loader *loader,
					const struct loaded_tensor *tensor, int32_t rank,
					int32_t round, int32_t at_once)
{
	struct shard_range mine = shard_split(tensor->extent.total_rows, 1, loader->shard->ranks, rank);
	int64_t first = (int64_t)round * at_once;
	first = first < mine.count ? first : mine.count;
	int64_t left = mine.count - first;
	return (struct shard_range){mine.first + (int32_t)first,
				    (int32_t)(left < at_once ? left : at_once)};
}

/* A row-parallel tensor: each rank reads its share of the whole rows and sends every other rank
 * that one's columns. Returns -1 only where the exchange itself fails. */
static int load_exchanged(struct loader *loader, const struct loaded_tensor *tensor)
{
	int32_t ranks = loader->shard->ranks, rank = loader->shard->rank;
	size_t total_columns = (size_t)tensor->extent.total_columns;
	size_t row_bytes = (size_t)tensor->extent.columns * dtype_bytes(tensor->dtype);
	int32_t at_once = rows_per_exchange(loader, tensor);
	int32_t most = shard_split(tensor->extent.total_rows, 1, ranks, 0).count;
	for (int32_t round = 0; (int64_t)round * at_once < most; round++) {
		struct shard_range rows = rows_of_round(loader, tensor, rank, round, at_once);
		struct shard_range next = rows_of_round(loader, tensor, rank, round + 1, at_once);
		const char *data = read_elements(loader, tensor, (uint64_t)rows.first * total_columns,
						 (size_t)rows.count * total_columns,
						 (size_t)next.count * total_columns);
		pack_columns(loader, tensor, data, rows.count);
		for (int32_t from = 0; from < ranks; from++)
			loader->receive_bytes[from] =
				(size_t)rows_of_round(loader, tensor, from, round, at_once).count *
				row_bytes;
		if (loader->group->exchange(loader->group, loader->send, loader->send_bytes,
					    loader->receive, loader->receive_bytes, loader->err)) {
			loader_fail(loader, tensor);
			return -1;
		}
		const char *received = loader->receive;
		for (int32_t from = 0; from < ranks; from++) {
			struct shard_range sent = rows_of_round(loader, tensor, from, round, at_once);
			put_rows(loader, tensor, sent.first, sent.count, received);
			received += loader->receive_bytes[from];
		}
	}
	return 0;
}

/* The tensor as this rank loads it; false where the model has none. */
static bool find_loaded(const struct loader *loader, enum backend_tensor kind, int32_t layer,
			struct loaded_tensor *out)
{
	*out = (struct loaded_tensor){
		.kind = kind,
		.layer = layer,
		.extent = shard_extent(loader->shard, loader->config, kind),
		.stored = checkpoint_tensor(loader->checkpoint, kind, layer),
		.dtype = tensor_is_vector(kind) ? DTYPE_F32 : loader->dtype,
	};
	return out->extent.total_rows && tensor_in_layers(kind) == (layer >= 0);
}

static bool is_exchanged(const struct loader *loader, enum backend_tensor kind)
{
	return tensor_is_row_parallel(kind) && loader->shard->ranks > 1;
}

/* Bytes of all that this rank will read. */
static uint64_t bytes_to_read(const struct loader *loader)
{
	uint64_t total = 0;
	struct loaded_tensor tensor;
	for (int32_t layer = -1; layer < loader->config->layers; layer++) {
		for (int kind = 0; kind < TENSOR_KINDS; kind++) {
			if (!find_loaded(loader, (enum backend_tensor)kind, layer, &tensor))
				continue;
			const struct tensor_extent *extent = &tensor.extent;
			uint64_t elements = (uint64_t)extent->rows * (uint64_t)extent->columns;
			if (is_exchanged(loader, tensor.kind))
				elements = (uint64_t)shard_split(extent->total_rows, 1,
								 loader->shard->ranks,
								 loader->shard->rank)
						   .count *
					   (uint64_t)extent->total_columns;
			total += elements * dtype_bytes(tensor.stored->dtype);
		}
	}
	return total;
}

static int load_layer(struct loader *loader, int32_t layer)
{
	struct loaded_tensor tensor;
	for (int kind = 0; kind < TENSOR_KINDS; kind++) {
		if (!find_loaded(loader, (enum backend_tensor)kind, layer, &tensor))
			continue;
		if (!is_exchanged(loader, tensor.kind))
			load_contiguous(loader, &tensor);
		else if (load_exchanged(loader, &tensor))
			return -1;
	}
	return loader->group->agree(loader->group, loader->result, loader->err);
}

static int loader_open(struct loader *loader)
{
	size_t ranks = (size_t)loader->shard->ranks;
	loader->piece = longest_row(loader->config) * ranks;
	if (loader->piece < WEIGHTS_PIECE_BYTES)
		loader->piece = WEIGHTS_PIECE_BYTES;
	loader->stored = malloc(loader->piece);
	loader->rows = malloc(loader->piece);
	loader->send = malloc(loader->piece);
	loader->receive = malloc(loader->piece);
	loader->send_bytes = calloc(ranks, sizeof *loader->send_bytes);
	loader->receive_bytes = calloc(ranks, sizeof *loader->receive_bytes);
	if (!loader->stored || !loader->rows || !loader->send || !loader->receive ||
	    !loader->send_bytes || !loader->receive_bytes)
		return error_memory(loader->err, "the buffers that weights are read into");
	loader->total = bytes_to_read(loader);
	return 0;
}

static void loader_close(struct loader *loader)
{
	free(loader->stored);
	free(loader->rows);
	free(loader->send);
	free(loader->receive);
	free(loader->send_bytes);
	free(loader->receive_bytes);
}

int weights_load(struct checkpoint *checkpoint, const struct model_config *config,
		 const struct shard *shard, enum dtype dtype, const struct group *group,
		 struct backend *backend, const struct weights_progress *progress,
		 uint64_t *bytes_read, struct error *err)
{
	struct loader loader = {
		.checkpoint = checkpoint, .config = config, .shard = shard, .group = group,
		.backend = backend, .dtype = dtype, .progress = progress, .err = err,
	};
	int result = group->agree(group, loader_open(&loader), err);
	for (int32_t layer = -1; !result && layer < config->layers; layer++)
		result = load_layer(&loader, layer);
	*bytes_read += loader.done;
	loader_close(&loader);
	return result;
}
