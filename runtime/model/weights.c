#include "runtime/model/weights.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>

#include "runtime/base/file.h"
#include "runtime/base/thread.h"
#include "runtime/model/pieces.h"

enum {
	LAYERS_AHEAD = 2, /* that readers may begin before all ranks have read the one before them */
	READ_AHEAD_BYTES = 128 << 10, /* systems take this much of a hint at once, and drop the rest */
	NO_LAYER = INT_MAX,
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
	struct piece_order order;
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
	size_t step, run = piece_run(piece);
	uint64_t offset = piece_offset(piece, &step);
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
	while (!loader->stop && piece_exists(&loader->order, &loader->next)) {
		if (loader->next.tensor.layer <= loader->last) {
			*out = loader->next;
			reader->layer = out->tensor.layer;
			piece_next(&loader->order, &loader->next);
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
			loader->done += piece_bytes(&piece);
			activity_progress(loader->options->activity);
		} else if (!loader->result) {
			piece_error(&piece, &err);
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
	activity_at_layer(loader->options->activity, layer);
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
		.order = {checkpoint, config, shard, options->dtype}, .backend = backend,
		.options = options, .mutex = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER, .last = -1,
	};
	for (loader.next = piece_first(&loader.order); piece_exists(&loader.order, &loader.next);
	     piece_next(&loader.order, &loader.next))
		loader.total += piece_bytes(&loader.next);
	loader.next = piece_first(&loader.order);
	int result = group->agree(group, start_readers(&loader, err), err);
	for (int32_t layer = -1; !result && layer < config->layers; layer++)
		result = group->agree(group, follow_layer(&loader, layer, err), err);
	stop_readers(&loader);
	*bytes_read += loader.done;
	return result;
}
