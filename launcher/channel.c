#include "launcher/channel.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "launcher/mpi_call.h"
#include "launcher/mpi_group.h"
#include "launcher/output.h"

enum { KIND_MAX = 32767, IDLE_MIN_NS = 50 * 1000, IDLE_MAX_NS = 1000 * 1000 };

/* A message on its way out or in. */
struct packet {
	struct packet *next;
	MPI_Request request;
	int rank, kind;
	size_t bytes;
	char data[]; /* [bytes + 1] */
};

/* First in, first out. */
struct queue {
	struct packet *first, **end;
};

struct channel {
	const struct group *world;
	MPI_Comm comm;
	int tp;
	struct queue sent, coming;
	struct packet *current; /* lent to the caller */
	long idle_ns;
};

static struct packet *packet_new(int rank, int kind, size_t bytes)
{
	struct packet *packet = malloc(sizeof *packet + bytes + 1);
	if (!packet)
		return NULL;
	*packet = (struct packet){.rank = rank, .kind = kind, .bytes = bytes};
	packet->data[bytes] = '\0';
	return packet;
}

static void queue_put(struct queue *queue, struct packet *packet)
{
	*queue->end = packet;
	queue->end = &packet->next;
}

static struct packet *queue_take(struct queue *queue)
{
	struct packet *packet = queue->first;
	queue->first = packet->next;
	if (!queue->first)
		queue->end = &queue->first;
	return packet;
}

int channel_open(struct channel **out, const struct group *world, int tp, struct error *err)
{
	struct channel *channel = calloc(1, sizeof *channel);
	*out = NULL;
	if (world->agree(world, channel ? 0 : error_memory(err, "the channel between replicas"), err) ||
	    !mpi_ok(err, MPI_Comm_dup(MPI_COMM_WORLD, &channel->comm), "a copy of the world")) {
		free(channel);
		return -1;
	}
	channel->world = world;
	channel->tp = tp;
	channel->sent.end = &channel->sent.first;
	channel->coming.end = &channel->coming.first;
	channel->idle_ns = IDLE_MIN_NS;
	*out = channel;
	return 0;
}

/* What MPI is still at stays its own: after a failure alone, when the process ends anyway. */
static void queue_clear(struct queue *queue)
{
	while (queue->first) {
		struct packet *packet = queue_take(queue);
		int done = 0;
		if (!MPI_Test(&packet->request, &done, MPI_STATUS_IGNORE) && done)
			free(packet);
	}
}

void channel_close(struct channel *channel)
{
	if (!channel)
		return;
	queue_clear(&channel->sent);
	queue_clear(&channel->coming);
	MPI_Comm_free(&channel->comm);
	free(channel->current);
	free(channel);
}

/* Frees what has been sent, and begins to take what has been announced. */
static int work(struct channel *channel, struct error *err)
{
	int done = 1;
	while (channel->sent.first && done) {
		if (!mpi_ok(err, MPI_Test(&channel->sent.first->request, &done, MPI_STATUS_IGNORE),
			    "sending a message"))
			return -1;
		if (done)
			free(queue_take(&channel->sent));
	}
	for (;;) {
		int there, bytes;
		MPI_Message message;
		MPI_Status status;
		if (!mpi_ok(err, MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, channel->comm, &there,
					     &message, &status), "looking for a message"))
			return -1;
		if (!there)
			return 0;
		MPI_Get_count(&status, MPI_BYTE, &bytes);
		struct packet *packet = packet_new(status.MPI_SOURCE, status.MPI_TAG, (size_t)bytes);
		if (!packet)
			return error_memory(err, "a message between replicas");
		if (!mpi_ok(err, MPI_Imrecv(packet->data, bytes, MPI_BYTE, &message, &packet->request),
			    "receiving a message")) {
			free(packet);
			return -1;
		}
		queue_put(&channel->coming, packet);
	}
}

int channel_send(struct channel *channel, int world_rank, int kind, const void *data, size_t bytes,
		 struct error *err)
{
	int own = channel->world->rank;
	if (world_rank < 0 || world_rank >= channel->world->size || (own && world_rank) ||
	    world_rank % channel->tp || own % channel->tp || kind < 0 || kind > KIND_MAX ||
	    bytes > INT_MAX)
		return error_run(err, "no message of kind %d and %zu bytes can go from rank %d to "
				 "rank %d", kind, bytes, own, world_rank);
	struct packet *packet = packet_new(world_rank, kind, bytes);
	if (!packet)
		return error_memory(err, "a message between replicas");
	if (bytes)
		memcpy(packet->data, data, bytes);
	if (!mpi_ok(err, MPI_Isend(packet->data, (int)bytes, MPI_BYTE, world_rank, kind, channel->comm,
				   &packet->request), "sending a message")) {
		free(packet);
		return -1;
	}
	queue_put(&channel->sent, packet);
	channel->idle_ns = IDLE_MIN_NS;
	return work(channel, err);
}

int channel_receive(struct channel *channel, int *world_rank, int *kind, const char **data,
		    size_t *bytes, struct error *err)
{
	int done = 0;
	free(channel->current);
	channel->current = NULL;
	mpi_group_stop_requested(channel->world);
	if (work(channel, err))
		return -1;
	/* In the order of announcement alone, so that no message overtakes another. */
	if (channel->coming.first &&
	    !mpi_ok(err, MPI_Test(&channel->coming.first->request, &done, MPI_STATUS_IGNORE),
		    "receiving a message"))
		return -1;
	if (!done)
		return 0;
	struct packet *packet = channel->current = queue_take(&channel->coming);
	*world_rank = packet->rank;
	*kind = packet->kind;
	*data = packet->data;
	*bytes = packet->bytes;
	channel->idle_ns = IDLE_MIN_NS;
	return 1;
}

void channel_idle(struct channel *channel)
{
	nanosleep(&(struct timespec){.tv_nsec = channel->idle_ns}, NULL);
	channel->idle_ns = channel->idle_ns * 2 < IDLE_MAX_NS ? channel->idle_ns * 2 : IDLE_MAX_NS;
}

int channel_flush(struct channel *channel, double seconds, struct error *err)
{
	double deadline = output_now() + seconds;
	channel->idle_ns = IDLE_MIN_NS;
	for (;;) {
		if (work(channel, err))
			return -1;
		const struct packet *first = channel->sent.first;
		if (!first)
			return 0;
		if (output_now() > deadline)
			return error_run(err, "rank %d has not taken a message of %zu bytes for %g s",
					 first->rank, first->bytes, seconds);
		channel_idle(channel);
	}
}
