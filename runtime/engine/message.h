/*
 * message.h - the step message: how rank 0 tells the other ranks what to do.
 *
 * A message is an array of 32-bit words: a header, then a step's arrays one after the other. Of a
 * block table only the blocks in use travel. The first MESSAGE_FIRST words are sent always, so
 * that the receivers know how much to expect; the rest, where there is one, in a second message.
 */
#ifndef TPRUN_ENGINE_MESSAGE_H
#define TPRUN_ENGINE_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "runtime/base/error.h"

enum { MESSAGE_FIRST = 512 }; /* words of the first broadcast: 2 KiB */

enum message_kind {
	MESSAGE_RUN = 1,   /* a step and its logit requests */
	MESSAGE_LOGIT_ROW, /* send your part of a row of logits */
	MESSAGE_STOP,
};

/* Everything is allocated at message_open, from the backend's maxima. */
struct message {
	const struct backend_options *limits;
	int32_t *words;
	size_t capacity; /* in words, at least MESSAGE_FIRST */
	/* What message_unpack found: */
	int32_t row;			/* of LOGIT_ROW */
	struct step step;		/* of RUN; arrays lie in words and block_table */
	struct logit_request *requests; /* [max_logit_rows] */
	int32_t *block_table;		/* [max_sequences][max_blocks] */
};

/* `limits` is borrowed. Only the ranks that receive need `receive`. */
int message_open(struct message *, const struct backend_options *limits, bool receive,
		 struct error *err);
void message_close(struct message *);

/* Whether a step and its requests keep to the limits and are sound in themselves. */
int message_check_step(const struct backend_options *limits, const struct step *,
		       const struct logit_request *requests, struct error *err);

/* Each writes a message into words. A step must have passed message_check_step. */
void message_pack_step(struct message *, const struct step *, const struct logit_request *requests);
void message_pack_row(struct message *, int32_t row);
void message_pack_stop(struct message *);

/* The length in words that the header tells: of the packed message, or of one whose first
 * MESSAGE_FIRST words have come. -1 with an error where it can't be. */
int message_length(const struct message *, size_t *words, struct error *err);
/* Reads a whole message: its kind, or -1. The step is checked like the sender's. */
int message_unpack(struct message *, struct error *err);

#endif
