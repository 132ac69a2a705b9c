#include "runtime/engine/message.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAGIC 0x70727470

/* The words of the header; counts are of the arrays that follow. */
enum {
	WORD_MAGIC, WORD_KIND, WORD_LENGTH, WORD_ROW,
	WORD_TOKENS, WORD_SEQUENCES, WORD_LOGIT_ROWS, WORD_MAX_BLOCKS, WORD_HAS_GROWTH,
	HEADER_WORDS,
};
enum { REQUEST_WORDS = 4 };

_Static_assert(sizeof(float) == sizeof(int32_t), "floats travel as words");

/* The most penalized ids of a step: a list for every sequence. */
static size_t penalized_limit(const struct backend_options *limits)
{
	int64_t positions = (int64_t)limits->max_blocks * KV_BLOCK;
	int64_t vocab = limits->shape.total_vocab;
	return (size_t)limits->max_sequences * (size_t)(vocab < positions ? vocab : positions);
}

int message_open(struct message *message, const struct backend_options *limits, bool receive,
		 struct error *err)
{
	size_t sequences = (size_t)limits->max_sequences;
	size_t table = sequences * (size_t)limits->max_blocks;
	size_t rows = (size_t)limits->max_logit_rows;

	*message = (struct message){.limits = limits};
	message->capacity = HEADER_WORDS + 2 * (size_t)limits->max_tokens + sequences + 1 + table +
			    rows + sequences + REQUEST_WORDS * rows + penalized_limit(limits);
	if (message->capacity < MESSAGE_FIRST)
		message->capacity = MESSAGE_FIRST;
	/* Broadcasts count bytes in an int. */
	if (message->capacity > INT32_MAX / sizeof(int32_t))
		return error_run(err, "a step of %d sequences with %d KV-cache blocks each is too "
				 "large for a message: take fewer sequences or a smaller --context",
				 limits->max_sequences, limits->max_blocks);
	message->words = calloc(message->capacity, sizeof *message->words);
	if (receive) {
		message->requests = calloc(rows + 1, sizeof *message->requests);
		message->block_table = calloc(table + 1, sizeof *message->block_table);
	}
	if (message->words && (!receive || (message->requests && message->block_table)))
		return 0;
	message_close(message);
	return error_memory(err, "the step message");
}

void message_close(struct message *message)
{
	if (!message)
		return;
	free(message->words);
	free(message->requests);
	free(message->block_table);
	*message = (struct message){0};
}

/* ---- checking --------------------------------------------------------------------------------- */

/* Blocks of the table that a sequence has in use after the step. */
static int32_t blocks_in_use(const struct step *step, int32_t sequence)
{
	return step->positions[step->first_token[sequence + 1] - 1] / KV_BLOCK + 1;
}

/* The tokens and positions of sequence s: at least one, positions rising by one, within the
 * table's blocks. The blocks themselves are checked by check_blocks, once they are unpacked. */
static int check_sequence(const struct backend_options *limits, const struct step *step, int32_t s,
			  struct error *err)
{
	int32_t first = step->first_token[s], end = step->first_token[s + 1];

	if (first < 0 || end <= first || end > step->tokens)
		return error_run(err, "sequence %d of a step has tokens %d to %d of %d", s, first, end,
				 step->tokens);
	if (step->positions[first] < 0 ||
	    (int64_t)step->positions[first] + (end - first) > (int64_t)step->max_blocks * KV_BLOCK)
		return error_run(err, "sequence %d of a step has %d tokens from position %d on, beyond "
				 "the %d blocks of its cache", s, end - first, step->positions[first],
				 step->max_blocks);
	for (int32_t t = first; t < end; t++) {
		if (step->positions[t] != step->positions[first] + (t - first))
			return error_run(err, "the positions of sequence %d of a step have gaps", s);
		if (step->token_ids[t] < 0 || step->token_ids[t] >= limits->shape.total_vocab)
			return error_run(err, "token id %d is outside the vocabulary of %d",
					 step->token_ids[t], limits->shape.total_vocab);
	}
	return 0;
}

static int check_tokens(const struct backend_options *limits, const struct step *step,
			struct error *err)
{
	if (step->tokens < 1 || step->tokens > limits->max_tokens || step->sequences < 1 ||
	    step->sequences > limits->max_sequences || step->logit_rows < 0 ||
	    step->logit_rows > limits->max_logit_rows || step->max_blocks < 1 ||
	    step->max_blocks > limits->max_blocks)
		return error_run(err, "a step of %d tokens, %d sequences, %d rows of logits and %d "
				 "blocks; the backend was opened for %d, %d, %d and %d", step->tokens,
				 step->sequences, step->logit_rows, step->max_blocks,
				 limits->max_tokens, limits->max_sequences, limits->max_logit_rows,
				 limits->max_blocks);
	if (step->first_token[0] != 0 || step->first_token[step->sequences] != step->tokens)
		return error_run(err, "the sequences of a step do not cover its tokens");
	for (int32_t s = 0; s < step->sequences; s++)
		if (check_sequence(limits, step, s, err))
			return -1;
	for (int32_t i = 0; i < step->logit_rows; i++)
		if (step->logit_tokens[i] < 0 || step->logit_tokens[i] >= step->tokens)
			return error_run(err, "a step wants the logits of token %d of %d",
					 step->logit_tokens[i], step->tokens);
	for (int32_t s = 0; step->rope_growth && s < step->sequences; s++)
		if (!(step->rope_growth[s] >= 1 && step->rope_growth[s] < INFINITY))
			return error_run(err, "sequence %d of a step has rope growth %g", s,
					 (double)step->rope_growth[s]);
	return 0;
}

static int check_blocks(const struct backend_options *limits, const struct step *step,
			struct error *err)
{
	for (int32_t s = 0; s < step->sequences; s++) {
		const int32_t *row = step->block_table + (size_t)s * (size_t)step->max_blocks;
		for (int32_t b = blocks_in_use(step, s); b-- > 0;)
			if (row[b] < 0 || row[b] >= limits->kv_blocks)
				return error_run(err, "sequence %d of a step has KV-cache block %d of "
						 "%d", s, row[b], limits->kv_blocks);
	}
	return 0;
}

static int check_requests(const struct backend_options *limits,
			  const struct logit_request *requests, int32_t count, struct error *err)
{
	int32_t vocab = limits->shape.total_vocab;
	size_t penalized = 0;

	for (int32_t i = 0; i < count; i++) {
		const struct logit_request *r = &requests[i];
		if (!(r->inverse_temperature >= 0 && r->inverse_temperature < INFINITY) ||
		    !(r->repetition_penalty > 0 && r->repetition_penalty < INFINITY) ||
		    r->target < -1 || r->target >= vocab)
			return error_run(err, "row %d of a step asks for inverse temperature %g, "
					 "repetition penalty %g and target %d", i,
					 (double)r->inverse_temperature, (double)r->repetition_penalty,
					 r->target);
		if (r->penalized_count < 0 || r->penalized_count > vocab ||
		    (penalized += (size_t)r->penalized_count) > penalized_limit(limits))
			return error_run(err, "the rows of a step penalize more than %zu ids",
					 penalized_limit(limits));
		for (int32_t p = 0; p < r->penalized_count; p++)
			if (r->penalized[p] < 0 || r->penalized[p] >= vocab)
				return error_run(err, "penalized id %d is outside the vocabulary of %d",
						 r->penalized[p], vocab);
	}
	return 0;
}

int message_check_step(const struct backend_options *limits, const struct step *step,
		       const struct logit_request *requests, struct error *err)
{
	if (check_tokens(limits, step, err) || check_blocks(limits, step, err))
		return -1;
	return check_requests(limits, requests, step->logit_rows, err);
}

/* ---- packing ---------------------------------------------------------------------------------- */

static void pack_header(struct message *message, enum message_kind kind)
{
	memset(message->words, 0, MESSAGE_FIRST * sizeof *message->words);
	message->words[WORD_MAGIC] = MESSAGE_MAGIC;
	message->words[WORD_KIND] = kind;
	message->words[WORD_LENGTH] = HEADER_WORDS;
}

/* Appends `count` words. */
static void pack(struct message *message, const void *data, int32_t count)
{
	int32_t *length = &message->words[WORD_LENGTH];
	if (count)
		memcpy(message->words + *length, data, (size_t)count * sizeof *message->words);
	*length += count;
}

void message_pack_step(struct message *message, const struct step *step,
		       const struct logit_request *requests)
{
	pack_header(message, MESSAGE_RUN);
	message->words[WORD_TOKENS] = step->tokens;
	message->words[WORD_SEQUENCES] = step->sequences;
	message->words[WORD_LOGIT_ROWS] = step->logit_rows;
	message->words[WORD_MAX_BLOCKS] = step->max_blocks;
	message->words[WORD_HAS_GROWTH] = step->rope_growth != NULL;
	pack(message, step->token_ids, step->tokens);
	pack(message, step->positions, step->tokens);
	pack(message, step->first_token, step->sequences + 1);
	pack(message, step->logit_tokens, step->logit_rows);
	if (step->rope_growth)
		pack(message, step->rope_growth, step->sequences);
	for (int32_t s = 0; s < step->sequences; s++)
		pack(message, step->block_table + (size_t)s * (size_t)step->max_blocks,
		     blocks_in_use(step, s));
	for (int32_t i = 0; i < step->logit_rows; i++) {
		pack(message, &requests[i].inverse_temperature, 1);
		pack(message, &requests[i].repetition_penalty, 1);
		pack(message, &requests[i].target, 1);
		pack(message, &requests[i].penalized_count, 1);
		pack(message, requests[i].penalized, requests[i].penalized_count);
	}
}

void message_pack_row(struct message *message, int32_t row)
{
	pack_header(message, MESSAGE_LOGIT_ROW);
	message->words[WORD_ROW] = row;
}

void message_pack_stop(struct message *message)
{
	pack_header(message, MESSAGE_STOP);
}

/* ---- unpacking -------------------------------------------------------------------------------- */

int message_length(const struct message *message, size_t *words, struct error *err)
{
	int32_t length = message->words[WORD_LENGTH];

	if (message->words[WORD_MAGIC] != MESSAGE_MAGIC || length < HEADER_WORDS ||
	    (size_t)length > message->capacity)
		return error_run(err, "a step message of %d words came, expected at most %zu: the ranks "
				 "run different programs or options", length, message->capacity);
	*words = (size_t)length;
	return 0;
}

/* Reads a message's words one array after the other. */
struct reader {
	const int32_t *words;
	size_t at, end;
	struct error *err;
};

/* The next `count` words, or NULL with an error where the message ends before. */
static const void *take(struct reader *reader, int32_t count)
{
	if (count < 0 || (size_t)count > reader->end - reader->at) {
		error_run(reader->err, "a step message ends too early");
		return NULL;
	}
	reader->at += (size_t)count;
	return reader->words + reader->at - count;
}

static int unpack_tokens(struct message *message, struct reader *reader)
{
	const int32_t *header = message->words;
	struct step *step = &message->step;

	*step = (struct step){
		.tokens = header[WORD_TOKENS], .sequences = header[WORD_SEQUENCES],
		.logit_rows = header[WORD_LOGIT_ROWS], .max_blocks = header[WORD_MAX_BLOCKS],
		.block_table = message->block_table,
	};
	if (step->sequences < 0 || step->sequences > message->limits->max_sequences)
		return error_run(reader->err, "a step message of %d sequences came", step->sequences);
	if (!(step->token_ids = take(reader, step->tokens)) ||
	    !(step->positions = take(reader, step->tokens)) ||
	    !(step->first_token = take(reader, step->sequences + 1)) ||
	    !(step->logit_tokens = take(reader, step->logit_rows)) ||
	    (header[WORD_HAS_GROWTH] && !(step->rope_growth = take(reader, step->sequences))))
		return -1;
	return check_tokens(message->limits, step, reader->err);
}

static int unpack_blocks(struct message *message, struct reader *reader)
{
	const struct step *step = &message->step;

	for (int32_t s = 0; s < step->sequences; s++) {
		int32_t count = blocks_in_use(step, s);
		const int32_t *blocks = take(reader, count);
		if (!blocks)
			return -1;
		memcpy(message->block_table + (size_t)s * (size_t)step->max_blocks, blocks,
		       (size_t)count * sizeof *blocks);
	}
	return check_blocks(message->limits, step, reader->err);
}

static int unpack_requests(struct message *message, struct reader *reader)
{
	for (int32_t i = 0; i < message->step.logit_rows; i++) {
		struct logit_request *r = &message->requests[i];
		const int32_t *words = take(reader, REQUEST_WORDS);
		if (!words)
			return -1;
		memcpy(&r->inverse_temperature, &words[0], sizeof(float));
		memcpy(&r->repetition_penalty, &words[1], sizeof(float));
		r->target = words[2];
		r->penalized_count = words[3];
		if (!(r->penalized = take(reader, r->penalized_count)))
			return -1;
	}
	return check_requests(message->limits, message->requests, message->step.logit_rows,
			      reader->err);
}

int message_unpack(struct message *message, struct error *err)
{
	struct reader reader = {.words = message->words, .at = HEADER_WORDS, .err = err};

	if (message_length(message, &reader.end, err))
		return -1;
	int32_t kind = message->words[WORD_KIND];
	switch (kind) {
	case MESSAGE_RUN:
		if (unpack_tokens(message, &reader) || unpack_blocks(message, &reader) ||
		    unpack_requests(message, &reader))
			return -1;
		break;
	case MESSAGE_LOGIT_ROW:
		message->row = message->words[WORD_ROW];
		break;
	case MESSAGE_STOP:
		break;
	default:
		return error_run(err, "a step message of the unknown kind %d came", kind);
	}
	if (reader.at != reader.end)
		return error_run(err, "a step message has %zu words too many", reader.end - reader.at);
	return kind;
}
