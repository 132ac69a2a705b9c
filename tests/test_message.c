/* The step message: what goes in comes out, and what is broken on the way is refused. */
#define TEST_SUITE "message"
#include "tests/test.h"

#include "runtime/engine/message.h"
#include "runtime/engine/sequence.h"

enum { SEQUENCES = 4, VOCAB = 700 };

static const struct backend_options limits = {
	.shape = {.total_vocab = VOCAB}, .kv_blocks = 99, .max_tokens = 80,
	.max_sequences = SEQUENCES, .max_blocks = 12, .max_logit_rows = 8,
};

/* A random batch of several sequences, with all that a message can carry. */
static void make_batch(struct batch *batch, struct sequence *sequences, int count, bool growth)
{
	batch_clear(batch);
	for (int s = 0; s < count; s++) {
		struct sequence *q = &sequences[s];
		int32_t tokens = (int32_t)test_int(1, limits.max_tokens / count);
		int32_t rows = (int32_t)test_int(0, 2);
		q->count = q->distinct_count = 0;
		memset(q->seen, 0, (size_t)VOCAB / 8 + 1);
		while (q->count < q->capacity)
			sequence_add(q, (int32_t)test_int(0, VOCAB - 1));
		q->cached = (int32_t)test_int(0, q->capacity - tokens);
		q->table.count = (q->cached + tokens + KV_BLOCK - 1) / KV_BLOCK;
		for (int32_t b = 0; b < q->table.count; b++)
			q->table.blocks[b] = (int32_t)test_int(0, limits.kv_blocks - 1);
		rows = rows < tokens ? rows : tokens;
		struct logit_request *r = batch_add(batch, q, tokens, rows,
						    growth ? (float)(1 + test_real()) : 1);
		for (int32_t i = 0; i < rows; i++) {
			r[i].inverse_temperature = (float)(test_real() * 3);
			r[i].target = (int32_t)test_int(-1, VOCAB - 1);
			r[i].repetition_penalty = i ? 1 : (float)(0.5 + test_real());
			r[i].penalized = i ? NULL : q->distinct;
			r[i].penalized_count = i ? 0 : q->distinct_count;
		}
	}
}

static void check_same(const struct message *message, const struct batch *batch)
{
	const struct step *a = &message->step, *b = &batch->step;
	CHECK(a->tokens == b->tokens && a->sequences == b->sequences &&
	      a->logit_rows == b->logit_rows && a->max_blocks == b->max_blocks);
	CHECK(!memcmp(a->token_ids, b->token_ids, (size_t)b->tokens * 4));
	CHECK(!memcmp(a->positions, b->positions, (size_t)b->tokens * 4));
	CHECK(!memcmp(a->first_token, b->first_token, (size_t)(b->sequences + 1) * 4));
	CHECK(!memcmp(a->logit_tokens, b->logit_tokens, (size_t)b->logit_rows * 4));
	CHECK(!a->rope_growth == !b->rope_growth);
	if (a->rope_growth && b->rope_growth)
		CHECK(!memcmp(a->rope_growth, b->rope_growth, (size_t)b->sequences * 4));
	for (int32_t s = 0; s < b->sequences; s++) {
		int32_t blocks = b->positions[b->first_token[s + 1] - 1] / KV_BLOCK + 1;
		CHECK(!memcmp(a->block_table + s * a->max_blocks, b->block_table + s * b->max_blocks,
			      (size_t)blocks * 4));
	}
	for (int32_t i = 0; i < b->logit_rows; i++) {
		const struct logit_request *x = &message->requests[i], *y = &batch->requests[i];
		CHECK(x->inverse_temperature == y->inverse_temperature &&
		      x->repetition_penalty == y->repetition_penalty && x->target == y->target &&
		      x->penalized_count == y->penalized_count);
		CHECK(y->penalized_count == 0 ||
		      !memcmp(x->penalized, y->penalized, (size_t)y->penalized_count * 4));
	}
}

struct bench {
	struct message sender, receiver;
	struct batch batch;
	struct sequence sequences[SEQUENCES];
};

static void open_bench(struct bench *bench)
{
	struct error err = {0};
	CHECK_OK(message_open(&bench->sender, &limits, false, &err), &err);
	CHECK_OK(message_open(&bench->receiver, &limits, true, &err), &err);
	CHECK_OK(batch_open(&bench->batch, &limits, &err), &err);
	for (int s = 0; s < SEQUENCES; s++)
		CHECK_OK(sequence_open(&bench->sequences[s], (int32_t)test_int(80, 12 * KV_BLOCK), VOCAB,
				       true, &err), &err);
}

static void close_bench(struct bench *bench)
{
	for (int s = 0; s < SEQUENCES; s++)
		sequence_close(&bench->sequences[s]);
	batch_close(&bench->batch);
	message_close(&bench->sender);
	message_close(&bench->receiver);
}

/* The length of the message in the receiver, copied from the sender. */
static size_t deliver(struct bench *bench)
{
	struct error err = {0};
	size_t length = 0;
	CHECK_OK(message_length(&bench->sender, &length, &err), &err);
	memcpy(bench->receiver.words, bench->sender.words,
	       (length < MESSAGE_FIRST ? MESSAGE_FIRST : length) * sizeof *bench->sender.words);
	return length;
}

static void round_trip(void)
{
	struct error err = {0};
	struct bench bench;
	open_bench(&bench);
	for (int round = 0; round < 500; round++) {
		const struct batch *batch = &bench.batch;
		make_batch(&bench.batch, bench.sequences, (int)test_int(1, SEQUENCES), round % 2);
		CHECK_OK(message_check_step(&limits, &batch->step, batch->requests, &err), &err);
		message_pack_step(&bench.sender, &batch->step, batch->requests);
		deliver(&bench);
		CHECK_MSG(message_unpack(&bench.receiver, &err) == MESSAGE_RUN, "%s", err.message);
		check_same(&bench.receiver, batch);
	}
	message_pack_row(&bench.sender, 5);
	CHECK(deliver(&bench) <= MESSAGE_FIRST);
	CHECK(message_unpack(&bench.receiver, &err) == MESSAGE_LOGIT_ROW && bench.receiver.row == 5);
	message_pack_stop(&bench.sender);
	CHECK(deliver(&bench) <= MESSAGE_FIRST);
	CHECK(message_unpack(&bench.receiver, &err) == MESSAGE_STOP);
	close_bench(&bench);
}

/* With a word or two broken: refused, or a step that is sound in itself. */
static void broken(void)
{
	struct error err = {0};
	struct bench bench;
	int refused = 0;
	open_bench(&bench);
	for (int round = 0; round < 10000; round++) {
		make_batch(&bench.batch, bench.sequences, (int)test_int(1, SEQUENCES), round % 2);
		message_pack_step(&bench.sender, &bench.batch.step, bench.batch.requests);
		int64_t length = (int64_t)deliver(&bench);
		for (int64_t words = test_int(1, 2); words > 0; words--)
			bench.receiver.words[test_int(0, test_int(0, 1) ? 12 : length - 1)] =
				test_int(0, 1) ? (int32_t)test_random() : (int32_t)test_int(-2, 900);
		int kind = message_unpack(&bench.receiver, &err);
		refused += kind < 0;
		if (kind == MESSAGE_RUN)
			CHECK_OK(message_check_step(&limits, &bench.receiver.step,
						    bench.receiver.requests, &err), &err);
	}
	CHECK_MSG(refused > 2000, "%d of 10000 refused", refused);
	close_bench(&bench);
}

/* A wrong step of rank 0's own is named before any rank sees it. */
static void refused_steps(void)
{
	struct error err = {0};
	struct bench bench;
	open_bench(&bench);
	struct batch *b = &bench.batch;
	const struct step *step = &b->step;
#define CHECK_REFUSED(change, part)                                                                \
	do {                                                                                       \
		make_batch(b, bench.sequences, 2, true);                                           \
		change;                                                                            \
		CHECK_FAILS(message_check_step(&limits, step, b->requests, &err), &err, part);     \
	} while (0)
	CHECK_REFUSED(b->step.tokens = 81, "opened for 80");
	CHECK_REFUSED(b->step.tokens = 0, "opened for");
	CHECK_REFUSED(b->step.sequences = 5, "opened for");
	CHECK_REFUSED(b->step.logit_rows = 9, "opened for");
	CHECK_REFUSED(b->step.max_blocks = 13, "opened for");
	CHECK_REFUSED(b->token_ids[0] = VOCAB, "token id 700");
	CHECK_REFUSED(b->token_ids[0] = -1, "token id -1");
	CHECK_REFUSED(b->positions[0] = -1, "from position -1 on");
	CHECK_REFUSED(b->positions[step->first_token[1]] = 12 * KV_BLOCK, "beyond the 12 blocks");
	CHECK_REFUSED(b->first_token[1] = 0, "has tokens 0 to 0");
	CHECK_REFUSED(b->first_token[2]--, "do not cover");
	CHECK_REFUSED(b->block_table[0] = 99, "block 99 of 99");
	CHECK_REFUSED(b->rope_growth[1] = 0.5f, "rope growth 0.5");
	CHECK_REFUSED(b->rope_growth[1] = NAN, "rope growth");
	CHECK_REFUSED((b->step.logit_rows = 1, b->logit_tokens[0] = step->tokens), "logits of token");
	CHECK_REFUSED((batch_clear(b), batch_add(b, &bench.sequences[0], 1, 1, 1)->target = VOCAB),
		      "target 700");
	CHECK_REFUSED((batch_clear(b),
		       batch_add(b, &bench.sequences[0], 1, 1, 1)->inverse_temperature = NAN),
		      "inverse temperature");
	int32_t penalized[] = {3, VOCAB};
	CHECK_REFUSED((batch_clear(b),
		       *batch_add(b, &bench.sequences[0], 1, 1, 1) = (struct logit_request){
			       1, 1.5f, penalized, 2, -1}), "penalized id 700");
	make_batch(b, bench.sequences, 2, true);
	CHECK_OK(message_check_step(&limits, step, b->requests, &err), &err);
	close_bench(&bench);
}

int main(void)
{
	RUN(round_trip);
	RUN(broken);
	RUN(refused_steps);
	TEST_END();
}
