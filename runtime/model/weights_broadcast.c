/* The whole model's pieces go round the ranks that read, its sources. In a round each source has one
 * piece, read ahead by its threads, and one exchange brings every rank what it holds of them. */
#include "runtime/model/weights.h"

#include <stdlib.h>

#include "runtime/base/file.h"
#include "runtime/base/thread.h"
#include "runtime/model/pieces.h"

enum { SOURCES_MAX = 64 }; /* a rank that holds the whole model gets a piece of each in a round */

/* One of a source's threads, with the piece that it has read or is about to. */
struct reader {
	struct sender *sender;
	pthread_t thread;
	int index;
	struct piece piece;
	char *data; /* [LOAD_PART_BYTES] */
	bool full;  /* until the main thread has sent it */
};

/* One rank's part in the work. The main thread sends and loads, in the order of the rounds. */
struct sender {
	struct piece_order order; /* of the whole model */
	const struct group *world;
	struct backend *backend;
	const struct weights_options *options;
	const struct shard *mine;
	struct shard whole, *shards; /* [mine->ranks]: those that the ranks of a replica hold */
	int apart, sources;	     /* ranks from a source to the next; how many there are */
	struct piece pieces[SOURCES_MAX]; /* of the round */
	struct reader readers[LOAD_THREADS];
	int started;
	char *send, *receive;
	size_t send_room, receive_room, *send_bytes, *receive_bytes; /* the latter of each rank */
	uint64_t total; /* bytes that this rank reads */

	pthread_mutex_t mutex; /* of all below, and readers[].full */
	pthread_cond_t changed;
	uint64_t done;
	bool stop;
	int result; /* -1 from the first failure of a reader on, error holding it */
	struct error error;
};

/* Which source this rank is; -1: none. */
static int source_of(const struct sender *sender, int rank)
{
	return rank % sender->apart ? -1 : rank / sender->apart;
}

static void skip_pieces(const struct sender *sender, struct piece *piece, int count)
{
	for (; count && piece_exists(&sender->order, piece); count--)
		piece_next(&sender->order, piece);
}

/* ---- readers ----------------------------------------------------------------------------- */

/* Reads every started-th of its rank's pieces. */
static void *reader_run(void *context)
{
	struct reader *reader = context;
	struct sender *sender = reader->sender;
	struct piece *piece = &reader->piece;
	struct error err = {0};
	size_t step;
	*piece = piece_first(&sender->order);
	pthread_mutex_lock(&sender->mutex); /* which is had when all are started */
	int source = source_of(sender, sender->world->rank);
	skip_pieces(sender, piece, source + reader->index * sender->sources);
	while (!sender->stop && piece_exists(&sender->order, piece)) {
		pthread_mutex_unlock(&sender->mutex);
		int result = file_read_at(piece->tensor.stored->fd, piece->tensor.stored->path,
					  piece_offset(piece, &step), reader->data,
					  (size_t)piece_bytes(piece), &err);
		pthread_mutex_lock(&sender->mutex);
		if (!result) {
			sender->done += piece_bytes(piece);
			reader->full = true;
			activity_progress(sender->options->activity);
		} else if (!sender->result) {
			piece_error(piece, &err);
			sender->error = err;
			sender->result = -1;
			sender->stop = true;
		}
		pthread_cond_broadcast(&sender->changed);
		while (!sender->stop && reader->full)
			pthread_cond_wait(&sender->changed, &sender->mutex);
		skip_pieces(sender, piece, sender->started * sender->sources);
	}
	pthread_mutex_unlock(&sender->mutex);
	return NULL;
}

/* Fewer threads than asked for do as well, as long as there is one. */
static int start_readers(struct sender *sender, struct error *err)
{
	int wanted = sender->options->threads;
	struct error why = {0};
	wanted = wanted < 1 ? 1 : wanted > LOAD_THREADS ? LOAD_THREADS : wanted;
	pthread_mutex_lock(&sender->mutex);
	while (sender->started < wanted) {
		struct reader *reader = &sender->readers[sender->started];
		*reader = (struct reader){.sender = sender, .index = sender->started};
		reader->data = malloc(LOAD_PART_BYTES);
		int result = reader->data ? thread_start(&reader->thread, reader_run, reader,
							 "reading weights", &why)
					  : error_memory(&why, "what weights are read into");
		if (result) {
			free(reader->data);
			break;
		}
		sender->started++;
	}
	pthread_mutex_unlock(&sender->mutex);
	if (sender->started)
		return 0;
	*err = why;
	return -1;
}

static void stop_readers(struct sender *sender)
{
	pthread_mutex_lock(&sender->mutex);
	sender->stop = true;
	pthread_cond_broadcast(&sender->changed);
	pthread_mutex_unlock(&sender->mutex);
	for (int i = 0; i < sender->started; i++) {
		pthread_join(sender->readers[i].thread, NULL);
		free(sender->readers[i].data);
	}
}

/* Waits until this rank's piece of a round is read. */
static int wait_read(struct sender *sender, const struct reader *reader, struct error *err)
{
	pthread_mutex_lock(&sender->mutex);
	while (!reader->full && !sender->result)
		pthread_cond_wait(&sender->changed, &sender->mutex);
	int result = reader->full ? 0 : -1;
	if (result)
		*err = sender->error;
	pthread_mutex_unlock(&sender->mutex);
	return result;
}

static void release_reader(struct sender *sender, struct reader *reader)
{
	pthread_mutex_lock(&sender->mutex);
	reader->full = false;
	pthread_cond_broadcast(&sender->changed);
	pthread_mutex_unlock(&sender->mutex);
}

/* ---- what goes where --------------------------------------------------------------------- */

/* Rows and columns of the whole tensor that a piece and a shard have in common. */
struct overlap {
	int32_t row, rows, column, columns;
};

static int32_t common(int32_t first, int32_t count, int32_t other, int32_t others, int32_t *begin)
{
	int32_t end = first + count < other + others ? first + count : other + others;
	*begin = first > other ? first : other;
	return end > *begin ? end - *begin : 0;
}

/* Returns its bytes, as stored, filled up so that what is sent behind it is aligned as well. */
static size_t find_overlap(const struct sender *sender, const struct piece *piece,
			   const struct shard *shard, struct overlap *out)
{
	if (!piece_exists(&sender->order, piece))
		return 0;
	struct tensor_extent extent = shard_extent(shard, sender->order.config, piece->tensor.kind);
	out->rows = common(piece->row, piece->rows, extent.first_row, extent.rows, &out->row);
	out->columns = common(piece->column, piece->columns, extent.first_column, extent.columns,
			      &out->column);
	size_t count = (size_t)out->rows * (size_t)out->columns;
	return (count * dtype_bytes(piece->tensor.stored->dtype) + sizeof(float) - 1) / sizeof(float) *
	       sizeof(float);
}

static int make_room(char **buffer, size_t *room, size_t bytes, struct error *err)
{
	if (bytes <= *room && *buffer)
		return 0;
	free(*buffer);
	*buffer = malloc(bytes + 1);
	*room = *buffer ? bytes : 0;
	return *buffer ? 0 : error_memory(err, "weights on their way between ranks");
}

/* Puts every rank's part of this rank's piece, `data`, one behind the other. */
static int pack(struct sender *sender, const struct piece *piece, const char *data, struct error *err)
{
	struct overlap part;
	size_t total = 0;
	for (int r = 0; r < sender->world->size; r++) {
		const struct shard *shard = &sender->shards[r % sender->mine->ranks];
		total += sender->send_bytes[r] = data ? find_overlap(sender, piece, shard, &part) : 0;
	}
	if (make_room(&sender->send, &sender->send_room, total, err))
		return -1;
	char *next = sender->send;
	for (int r = 0; r < sender->world->size; next += sender->send_bytes[r++]) {
		if (!sender->send_bytes[r])
			continue;
		find_overlap(sender, piece, &sender->shards[r % sender->mine->ranks], &part);
		size_t size = dtype_bytes(piece->tensor.stored->dtype), run = (size_t)part.columns * size;
		const char *from = data + (size_t)(part.row - piece->row) * piece_run(piece) +
				   (size_t)(part.column - piece->column) * size;
		for (size_t row = 0; row < (size_t)part.rows; row++)
			memcpy(next + row * run, from + row * piece_run(piece), run);
	}
	return 0;
}

/* Hands this rank's part of a piece to the backend. */
static int load_part(struct sender *sender, const struct piece *piece, const struct overlap *overlap,
		     const char *from, struct error *err)
{
	const struct loaded_tensor *tensor = &piece->tensor;
	struct backend *backend = sender->backend;
	struct tensor_extent extent = shard_extent(sender->mine, sender->order.config, tensor->kind);
	struct tensor_part part = {
		.tensor = tensor->kind, .layer = tensor->layer, .dtype = tensor->dtype,
		.row = overlap->row - extent.first_row, .rows = overlap->rows,
		.column = overlap->column - extent.first_column, .columns = overlap->columns,
	};
	size_t run = (size_t)part.columns * dtype_bytes(tensor->stored->dtype);
	if (backend->ops->lend(backend, &part, err))
		return piece_error(piece, err);
	for (int32_t row = 0; row < part.rows; row++, from += run)
		dtype_convert(from, tensor->stored->dtype, (char *)part.data + part.row_stride * (size_t)row,
			      tensor->dtype, (size_t)part.columns);
	return backend->ops->load(backend, &part, err) ? piece_error(piece, err) : 0;
}

/* ---- rounds ------------------------------------------------------------------------------ */

/* Brings all that this rank will be sent in the round into receive_bytes, and room for it. */
static int expect(struct sender *sender, struct error *err)
{
	struct overlap part;
	size_t total = 0;
	for (int r = 0; r < sender->world->size; r++) {
		int s = source_of(sender, r);
		sender->receive_bytes[r] = s < 0 ? 0 : find_overlap(sender, &sender->pieces[s],
								    sender->mine, &part);
		total += sender->receive_bytes[r];
	}
	return make_room(&sender->receive, &sender->receive_room, total, err);
}

/* All ranks agree before they exchange, which waits gently for whoever still reads, and where one
 * could not read, or could not load what came before, ends the work everywhere. */
static int run_round(struct sender *sender, int round, int result, struct error *err)
{
	const struct group *world = sender->world;
	int source = source_of(sender, world->rank);
	struct reader *reader = &sender->readers[round % sender->started];
	const struct piece *piece = source < 0 ? NULL : &sender->pieces[source];
	bool reads = piece && piece_exists(&sender->order, piece);
	if (!result && reads)
		result = wait_read(sender, reader, err);
	if (!result)
		result = pack(sender, piece, reads ? reader->data : NULL, err);
	if (!result)
		result = expect(sender, err);
	if (world->agree(world, result, err))
		return -1;
	if (reads)
		release_reader(sender, reader);
	return world->exchange(world, sender->send, sender->send_bytes, sender->receive,
			       sender->receive_bytes, err);
}

static int load_round(struct sender *sender, struct error *err)
{
	const char *from = sender->receive;
	struct overlap part;
	for (int s = 0; s < sender->sources; s++) {
		size_t bytes = find_overlap(sender, &sender->pieces[s], sender->mine, &part);
		if (bytes && load_part(sender, &sender->pieces[s], &part, from, err))
			return -1;
		from += bytes;
	}
	return 0;
}

static int run_rounds(struct sender *sender, struct error *err)
{
	const struct weights_progress *progress = sender->options->progress;
	struct piece next = piece_first(&sender->order);
	int result = 0;
	for (int round = 0; piece_exists(&sender->order, &next); round++) {
		for (int s = 0; s < sender->sources; s++, skip_pieces(sender, &next, 1))
			sender->pieces[s] = next;
		activity_at_layer(sender->options->activity, sender->pieces[0].tensor.layer);
		if (run_round(sender, round, result, err))
			return -1;
		result = load_round(sender, err);
		if (progress) {
			pthread_mutex_lock(&sender->mutex);
			uint64_t done = sender->done;
			pthread_mutex_unlock(&sender->mutex);
			progress->report(progress->context, done, sender->total);
		}
	}
	return sender->world->agree(sender->world, result, err);
}

/* The shards of all ranks, and the bytes that this one will read. */
static int prepare(struct sender *sender, struct error *err)
{
	int tp = sender->mine->ranks, size = sender->world->size, number = 0;
	sender->shards = malloc((size_t)tp * sizeof *sender->shards);
	sender->send_bytes = calloc((size_t)size, sizeof(size_t));
	sender->receive_bytes = calloc((size_t)size, sizeof(size_t));
	if (!sender->shards || !sender->send_bytes || !sender->receive_bytes)
		return error_memory(err, "the shards of all ranks");
	if (shard_make(&sender->whole, sender->order.config, 1, 0, err))
		return -1;
	for (int r = 0; r < tp; r++)
		if (shard_make(&sender->shards[r], sender->order.config, tp, r, err))
			return -1;
	for (struct piece piece = piece_first(&sender->order); piece_exists(&sender->order, &piece);
	     piece_next(&sender->order, &piece), number++)
		if (number % sender->sources == source_of(sender, sender->world->rank))
			sender->total += piece_bytes(&piece);
	return 0;
}

int weights_broadcast(struct checkpoint *checkpoint, const struct model_config *config,
		      const struct shard *shard, const struct group *world, struct backend *backend,
		      const struct weights_options *options, uint64_t *bytes_read, struct error *err)
{
	struct sender *sender = calloc(1, sizeof *sender);
	int result = sender ? 0 : error_memory(err, "loading weights");
	if (!result) {
		*sender = (struct sender){
			.order = {checkpoint, config, &sender->whole, options->dtype},
			.world = world, .backend = backend, .options = options, .mine = shard,
			.apart = (world->size + SOURCES_MAX - 1) / SOURCES_MAX,
			.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER,
		};
		sender->sources = (world->size + sender->apart - 1) / sender->apart;
		result = prepare(sender, err) || start_readers(sender, err) ? -1 : 0;
	}
	result = world->agree(world, result, err);
	if (!result)
		result = run_rounds(sender, err);
	if (!sender)
		return result;
	stop_readers(sender);
	*bytes_read += sender->done;
	free(sender->shards);
	free(sender->send_bytes);
	free(sender->receive_bytes);
	free(sender->send);
	free(sender->receive);
	free(sender);
	return result;
}
