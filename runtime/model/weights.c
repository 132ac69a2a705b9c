#include "runtime/model/weights.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>

#include "runtime/base/file.h"
#include "runtime/base/thread.h"
#include "runtime/model/checkpoint.h"

enum {
	LAYERS_AHEAD = 2, /* that readers may begin before all ranks have read the one before them */
	READ_AHEAD_BYTES = 128 << 10, /* systems take this much of a hint at once, and drop the rest */
	NO_LAYER = INT_MAX,
};

/* One tensor while it is loaded. */
struct loaded_tensor {
	enum backend_tensor kind;
	int32_t layer;
	struct tensor_extent extent;
	const struct stored_tensor *stored;
	enum dtype dtype; /* in the backend */
};

/* A rectangle of a tensor, in this rank's coordinates, that one reader reads at once. */
struct piece {
	struct loaded_tensor tensor;
	int32_t row, rows, column, columns;
};

struct reader {
	struct loader *loader;
	int index;
	pthread_t thread;
	int32_t layer; /* of the piece in work, or NO_LAYER */
	char *stored;  /* a piece as the file has it, where the backend wants another type */
};

/* One rank's loading. Readers take the pieces in the order of the layers. The main thread follows
 * with the other ranks, a layer at a time, so that a failure anywhere is soon known everywhere. */
struct loader {
	const struct checkpoint *checkpoint;
	const struct model_config *config;
	const struct shard *shard;
	struct backend *backend;
	const struct weights_options *options;
	uint64_t total; /* bytes this rank reads */
	struct reader readers[LOAD_THREADS];
	int started;

	pthread_mutex_t mutex; /* of all below */
	pthread_cond_t changed;
	struct piece next;
	int32_t last;	   /* the layer up to which readers may go */
	uint64_t done;
	bool stop;
	int result; /* -1 from the first failure on, error holding it */
	struct error error;
};

/* ---- what is read ------------------------------------------------------------------------ */

/* The tensor as this rank loads it; false where it has no part in it. */
static bool find_loaded(const struct loader *loader, int kind, int32_t layer,
			struct loaded_tensor *out)
{
	enum backend_tensor tensor = (enum backend_tensor)kind;
	*out = (struct loaded_tensor){
		.kind = tensor,
		.layer = layer,
		.extent = shard_extent(loader->shard, loader->config, tensor),
		.stored = checkpoint_tensor(loader->checkpoint, tensor, layer),
		.dtype = tensor_is_vector(tensor) ? DTYPE_F32 : loader->options->dtype,
	};
	return out->extent.rows && out->extent.columns && tensor_in_layers(tensor) == (layer >= 0);
}

/* Bytes of all that this rank will read. */
static uint64_t bytes_to_read(const struct loader *loader)
{
	uint64_t total = 0;
	struct loaded_tensor tensor;
	for (int32_t layer = -1; layer < loader->config->layers; layer++)
		for (int kind = 0; kind < TENSOR_KINDS; kind++)
			if (find_loaded(loader, kind, layer, &tensor))
				total += (uint64_t)tensor.extent.rows * (uint64_t)tensor.extent.columns *
					 dtype_bytes(tensor.stored->dtype);
	return total;
}

/* Turns a piece into the one behind it: whole rows, or parts of one that is too long. Behind the
 * model's end, its layer is one that there is not. */
static void advance(const struct loader *loader, struct piece *piece)
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
			if (layer == loader->config->layers) {
				tensor->layer = layer;
				return;
			}
		} while (!find_loaded(loader, kind, layer, tensor));
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

/* ---- readers ----------------------------------------------------------------------------- */

/* Reads `rows` runs of a file, `step` bytes from one to the next, to places `stride` apart. Short
 * runs would come from a disk one by one, and its pages, which hold other ranks' runs too, perhaps
 * once for each rank. So the system is told first to fetch all of them, which it does in one go and
 * once for all ranks of the node. */
static int read_runs(const struct stored_tensor *stored, uint64_t offset, size_t step, char *data,
		     size_t stride, size_t run, int32_t rows, struct error *err)
{
	if (rows == 1 || (step == run && stride == run))
		return file_read_at(stored->fd, stored->path, offset, data, run * (size_t)rows, err);
	uint64_t end = offset + step * (size_t)(rows - 1) + run;
	for (uint64_t at = offset; at < end; at += READ_AHEAD_BYTES)
		(void)posix_fadvise(stored->fd, (off_t)at,
				    (off_t)(end - at < READ_AHEAD_BYTES ? end - at : READ_AHEAD_BYTES),
				    POSIX_FADV_WILLNEED);
	for (int32_t row = 0; row < rows; row++)
		if (file_read_at(stored->fd, stored->path, offset + step * (size_t)row,
				 data + stride * (size_t)row, run, err))
			return -1;
	return 0;
}

/* From the file into the memory that the backend lends, converted where it wants another type. */
static int read_piece(struct reader *reader, const struct piece *piece, struct error *err)
{
	const struct loaded_tensor *tensor = &piece->tensor;
	const struct tensor_extent *extent = &tensor->extent;
	const struct stored_tensor *stored = tensor->stored;
	struct backend *backend = reader->loader->backend;
	struct tensor_part part = {
		.tensor = tensor->kind, .layer = tensor->layer, .row = piece->row, .rows = piece->rows,
		.column = piece->column, .columns = piece->columns, .dtype = tensor->dtype,
		.thread = reader->index,
	};
	if (backend->ops->lend(backend, &part, err))
		return -1;
	bool convert = stored->dtype != tensor->dtype;
	size_t size = dtype_bytes(stored->dtype), run = (size_t)piece->columns * size;
	size_t step = (size_t)extent->total_columns * size;
	uint64_t offset = stored->offset + (uint64_t)(extent->first_row + piece->row) * step +
			  (uint64_t)(extent->first_column + piece->column) * size;
	if (read_runs(stored, offset, step, convert ? reader->stored : part.data,
		      convert ? run : part.row_stride, run, piece->rows, err))
		return -1;
	for (int32_t row = 0; convert && row < piece->rows; row++)
		dtype_convert(reader->stored + run * (size_t)row, stored->dtype,
			      (char *)part.data + part.row_stride * (size_t)row, tensor->dtype,
			      (size_t)piece->columns);
	return backend->ops->load(backend, &part, err);
}

/* Waits for a piece that may be read; false where there are none, or none are wanted any more. */
static bool take_piece(struct reader *reader, struct piece *out)
{
	struct loader *loader = reader->loader;
	while (!loader->stop && loader->next.tensor.layer < loader->config->layers) {
		if (loader->next.tensor.layer <= loader->last) {
			*out = loader->next;
			reader->layer = out->tensor.layer;
			advance(loader, &loader->next);
			return true;
		}
		pthread_cond_wait(&loader->changed, &loader->mutex);
	}
	return false;
}

static void *reader_run(void *context)
{
	struct reader *reader = context;
	struct loader *loader = reader->loader;
	struct error err = {0};
	struct piece piece;
	pthread_mutex_lock(&loader->mutex);
	while (take_piece(reader, &piece)) {
		pthread_mutex_unlock(&loader->mutex);
		int result = read_piece(reader, &piece, &err);
		pthread_mutex_lock(&loader->mutex);
		reader->layer = NO_LAYER;
		if (!result) {
			loader->done += (uint64_t)piece.rows * (uint64_t)piece.columns *
					dtype_bytes(piece.tensor.stored->dtype);
		} else if (!loader->result) {
			char name[96];
			weights_tensor_name(name, sizeof name, piece.tensor.kind, piece.tensor.layer);
			error_context(&err, "loading %s", name);
			loader->error = err;
			loader->result = -1;
			loader->stop = true;
		}
		pthread_cond_broadcast(&loader->changed);
	}
	pthread_mutex_unlock(&loader->mutex);
	return NULL;
}

/* ---- the main thread --------------------------------------------------------------------- */

/* Fewer readers than asked for do as well, as long as there is one. */
static int start_readers(struct loader *loader, struct error *err)
{
	int wanted = loader->options->threads;
	struct error why;
	wanted = wanted < 1 ? 1 : wanted > LOAD_THREADS ? LOAD_THREADS : wanted;
	for (int i = 0; i < wanted; i++) {
		struct reader *reader = &loader->readers[i];
		*reader = (struct reader){.loader = loader, .index = i, .layer = NO_LAYER};
		reader->stored = malloc(LOAD_PART_BYTES);
		int result = reader->stored ? thread_start(&reader->thread, reader_run, reader,
							   "reading weights", &why)
					    : error_memory(&why, "what weights are read into");
		if (result) {
			free(reader->stored);
			break;
		}
		loader->started++;
	}
	if (loader->started)
		return 0;
	*err = why;
	return -1;
}

static void stop_readers(struct loader *loader)
{
	pthread_mutex_lock(&loader->mutex);
	loader->stop = true;
	pthread_cond_broadcast(&loader->changed);
	pthread_mutex_unlock(&loader->mutex);
	for (int i = 0; i < loader->started; i++) {
		pthread_join(loader->readers[i].thread, NULL);
		free(loader->readers[i].stored);
	}
}

/* Whether this layer is read, and all before it. */
static bool layer_done(const struct loader *loader, int32_t layer)
{
	for (int i = 0; i < loader->started; i++)
		if (loader->readers[i].layer <= layer)
			return false;
	return loader->next.tensor.layer > layer;
}

/* Lets the readers go on, and waits until they are through with a layer or one has failed. */
static int follow_layer(struct loader *loader, int32_t layer, struct error *err)
{
	const struct weights_progress *progress = loader->options->progress;
	pthread_mutex_lock(&loader->mutex);
	loader->last = layer + LAYERS_AHEAD;
	pthread_cond_broadcast(&loader->changed);
	for (;;) {
		if (progress)
			progress->report(progress->context, loader->done, loader->total);
		if (loader->result || layer_done(loader, layer))
			break;
		pthread_cond_wait(&loader->changed, &loader->mutex);
	}
	int result = loader->result;
	if (result)
		*err = loader->error;
	pthread_mutex_unlock(&loader->mutex);
	return result;
}

int weights_load(struct checkpoint *checkpoint, const struct model_config *config,
		 const struct shard *shard, const struct group *group, struct backend *backend,
		 const struct weights_options *options, uint64_t *bytes_read, struct error *err)
{
	struct loader loader = {
		.checkpoint = checkpoint, .config = config, .shard = shard, .backend = backend,
		.options = options, .mutex = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER, .last = -1,
	};
	/* Before the first tensor of all. */
	loader.next.tensor.kind = TENSOR_KINDS - 1;
	loader.next.tensor.layer = -2;
	advance(&loader, &loader.next);
	loader.total = bytes_to_read(&loader);
	int result = group->agree(group, start_readers(&loader, err), err);
	for (int32_t layer = -1; !result && layer < config->layers; layer++)
		result = group->agree(group, follow_layer(&loader, layer, err), err);
	stop_readers(&loader);
	*bytes_read += loader.done;
	return result;
}
