#include "runtime/engine/sequence.h"

#include <stdlib.h>
#include <string.h>

int sequence_open(struct sequence *sequence, int32_t capacity, int32_t vocab, bool distinct,
		  struct error *err)
{
	size_t ids = (size_t)capacity;

	*sequence = (struct sequence){.capacity = capacity};
	if (kv_table_open(&sequence->table, capacity / KV_BLOCK + 1, err))
		return -1;
	sequence->ids = malloc((ids + 1) * sizeof *sequence->ids);
	if (distinct) {
		sequence->distinct = malloc((ids + 1) * sizeof *sequence->distinct);
		sequence->seen = calloc((size_t)vocab / 8 + 1, 1);
	}
	if (sequence->ids && (!distinct || (sequence->distinct && sequence->seen)))
		return 0;
	sequence_close(sequence);
	return error_memory(err, "a sequence");
}

void sequence_close(struct sequence *sequence)
{
	if (!sequence)
		return;
	kv_table_close(&sequence->table);
	free(sequence->ids);
	free(sequence->distinct);
	free(sequence->seen);
	*sequence = (struct sequence){0};
}

void sequence_add(struct sequence *sequence, int32_t id)
{
	sequence->ids[sequence->count++] = id;
	if (!sequence->distinct || sequence->seen[id / 8] >> id % 8 & 1)
		return;
	sequence->seen[id / 8] |= (uint8_t)(1 << id % 8);
	sequence->distinct[sequence->distinct_count++] = id;
}

int batch_open(struct batch *batch, const struct backend_options *limits, struct error *err)
{
	size_t tokens = (size_t)limits->max_tokens, sequences = (size_t)limits->max_sequences;
	size_t rows = (size_t)limits->max_logit_rows;

	*batch = (struct batch){.limits = limits};
	batch->token_ids = calloc(tokens + 1, sizeof *batch->token_ids);
	batch->positions = calloc(tokens + 1, sizeof *batch->positions);
	batch->first_token = calloc(sequences + 1, sizeof *batch->first_token);
	batch->block_table = calloc(sequences * (size_t)limits->max_blocks + 1,
				    sizeof *batch->block_table);
	batch->logit_tokens = calloc(rows + 1, sizeof *batch->logit_tokens);
	batch->rope_growth = calloc(sequences + 1, sizeof *batch->rope_growth);
	batch->requests = calloc(rows + 1, sizeof *batch->requests);
	if (!batch->token_ids || !batch->positions || !batch->first_token || !batch->block_table ||
	    !batch->logit_tokens || !batch->rope_growth || !batch->requests) {
		batch_close(batch);
		return error_memory(err, "a batch");
	}
	batch_clear(batch);
	return 0;
}

void batch_close(struct batch *batch)
{
	if (!batch)
		return;
	free(batch->token_ids);
	free(batch->positions);
	free(batch->first_token);
	free(batch->block_table);
	free(batch->logit_tokens);
	free(batch->rope_growth);
	free(batch->requests);
	*batch = (struct batch){0};
}

void batch_clear(struct batch *batch)
{
	batch->step = (struct step){
		.max_blocks = batch->limits->max_blocks,
		.token_ids = batch->token_ids, .positions = batch->positions,
		.first_token = batch->first_token, .block_table = batch->block_table,
		.logit_tokens = batch->logit_tokens,
	};
}

struct logit_request *batch_add(struct batch *batch, const struct sequence *sequence, int32_t count,
				int32_t rows, float growth)
{
	struct step *step = &batch->step;
	const struct kv_table *table = &sequence->table;
	struct logit_request *requests = &batch->requests[step->logit_rows];

	memcpy(&batch->token_ids[step->tokens], &sequence->ids[sequence->cached],
	       (size_t)count * sizeof *batch->token_ids);
	for (int32_t i = 0; i < count; i++)
		batch->positions[step->tokens + i] = sequence->cached + i;
	memcpy(&batch->block_table[(size_t)step->sequences * (size_t)step->max_blocks],
	       table->blocks, (size_t)table->count * sizeof *table->blocks);
	step->tokens += count;
	for (int32_t i = 0; i < rows; i++) {
		batch->logit_tokens[step->logit_rows + i] = step->tokens - rows + i;
		requests[i] = (struct logit_request){
			.inverse_temperature = 1, .repetition_penalty = 1, .target = -1};
	}
	step->logit_rows += rows;
	batch->rope_growth[step->sequences++] = growth;
	batch->first_token[step->sequences] = step->tokens;
	/* Only where a sequence has grown, so that other steps keep their plain form. */
	if (growth != 1)
		step->rope_growth = batch->rope_growth;
	return requests;
}
