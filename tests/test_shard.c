/* shard: the splitting rule for every count of heads, KV heads and ranks up to 64. */
#define TEST_SUITE "shard"
#include "tests/test.h"

#include "runtime/model/shard.h"

/* All parts together cover the whole once, in order, with block counts that differ by at most
 * one, the larger first. */
static void check_split(int32_t total, int32_t block, int32_t ranks)
{
	int32_t next = 0, least = INT32_MAX, most = 0, before = INT32_MAX;
	for (int32_t rank = 0; rank < ranks; rank++) {
		struct shard_range part = shard_split(total, block, ranks, rank);
		CHECK_MSG(part.first == next && part.count >= 0, "%d in %d, rank %d of %d", total, block,
			  rank, ranks);
		CHECK(part.count == 0 || part.first % block == 0);
		int32_t blocks = (part.count + block - 1) / block;
		CHECK(blocks <= before);
		before = blocks;
		least = blocks < least ? blocks : least;
		most = blocks > most ? blocks : most;
		next += part.count;
	}
	CHECK(next == total && most - least <= 1);
}

static void ranges_cover(void)
{
	for (int32_t total = 0; total <= 130; total++)
		for (int32_t ranks = 1; ranks <= 64; ranks++)
			check_split(total, 1, ranks);
	for (int i = 0; i < 5000; i++)
		check_split((int32_t)test_int(0, 200000), (int32_t)test_int(1, 64),
			    (int32_t)test_int(1, 300));
	check_split(INT32_MAX, SHARD_BLOCK, 4096);
}

/* One split, against the definition: query head h reads KV head h / (heads / kv_heads). */
static void check_heads(const struct model_config *config, struct shard *shard, int32_t ranks)
{
	struct error err = {0};
	int32_t next = 0, readers = config->heads / config->kv_heads;
	for (int32_t rank = 0; rank < ranks; rank++) {
		CHECK_OK(shard_make(shard, config, ranks, rank, &err), &err);
		CHECK(shard->heads.first == next && shard->heads.count >= 1);
		CHECK(shard->heads.count == config->heads / ranks ||
		      shard->heads.count == config->heads / ranks + 1);
		CHECK(shard->kv_heads.count >= 1 && shard->kv_heads.first >= 0 &&
		      shard->kv_heads.first + shard->kv_heads.count <= config->kv_heads);
		/* Going through the groups meets each local query head once, with its own KV head. */
		int32_t local = 0;
		for (int32_t i = 0; i < shard->kv_heads.count; i++) {
			CHECK(shard->groups[i].first == local && shard->groups[i].count >= 1);
			for (int32_t j = 0; j < shard->groups[i].count; j++, local++)
				CHECK_MSG((shard->heads.first + local) / readers ==
						  shard->kv_heads.first + i,
					  "%d over %d heads, rank %d of %d, head %d", config->heads,
					  config->kv_heads, rank, ranks, local);
		}
		CHECK(local == shard->heads.count);
		next += shard->heads.count;
	}
	CHECK(next == config->heads);
}

static void heads_of_all_sizes(void)
{
	struct model_config *config = calloc(1, sizeof *config);
	struct shard *shard = malloc(sizeof *shard);
	config->head_dim = config->hidden = config->intermediate = config->vocab = config->layers = 2;
	for (config->heads = 1; config->heads <= 64; config->heads++)
		for (config->kv_heads = 1; config->kv_heads <= config->heads; config->kv_heads++)
			for (int32_t ranks = 1; ranks <= config->heads; ranks++)
				if (config->heads % config->kv_heads == 0)
					check_heads(config, shard, ranks);
	free(config);
	free(shard);
}

static void ragged_32_over_8_on_3(void)
{
	struct model_config *config = calloc(1, sizeof *config);
	struct shard *shard = malloc(sizeof *shard);
	struct error err = {0};
	config->heads = 32;
	config->kv_heads = 8;
	config->head_dim = 128;
	config->hidden = 4096;
	config->intermediate = 14336;
	config->vocab = 128256;
	/* heads 0-10, 11-21, 22-31: KV heads 0-2, 2-5, 5-7 */
	static const struct {
		struct shard_range heads, kv_heads;
		int32_t counts[4];
	} expected[] = {
		{{0, 11}, {0, 3}, {4, 4, 3}},
		{{11, 11}, {2, 4}, {1, 4, 4, 2}},
		{{22, 10}, {5, 3}, {2, 4, 4}},
	};
	for (int rank = 0; rank < 3; rank++) {
		CHECK_OK(shard_make(shard, config, 3, rank, &err), &err);
		CHECK(!memcmp(&shard->heads, &expected[rank].heads, sizeof shard->heads));
		CHECK(!memcmp(&shard->kv_heads, &expected[rank].kv_heads, sizeof shard->kv_heads));
		for (int i = 0; i < shard->kv_heads.count; i++)
			CHECK(shard->groups[i].count == expected[rank].counts[i]);
	}
	CHECK_FAILS(shard_make(shard, config, 33, 0, &err), &err, "at most 32");
	CHECK(err.kind == ERROR_USAGE);
	CHECK_FAILS(shard_make(shard, config, 0, 0, &err), &err, "rank");
	CHECK_FAILS(shard_make(shard, config, 2, 2, &err), &err, "rank 2 of 2");
	free(config);
	free(shard);
}

/* Column- and row-parallel extents lie side by side; the KV heads' may overlap. */
static void extents(void)
{
	struct model_config *config = calloc(1, sizeof *config);
	struct shard *shard = malloc(sizeof *shard);
	struct error err = {0};
	for (int i = 0; i < 300; i++) {
		config->kv_heads = (int32_t)test_int(1, 8);
		config->heads = config->kv_heads * (int32_t)test_int(1, 8);
		config->head_dim = 2 * (int32_t)test_int(1, 64);
		config->hidden = (int32_t)test_int(1, 500);
		config->intermediate = (int32_t)test_int(1, 2000);
		config->vocab = (int32_t)test_int(1, 2000);
		config->tied = test_int(0, 1);
		config->qkv_bias = config->output_bias = config->mlp_bias = test_int(0, 1);
		config->query_key_norm = test_int(0, 1);
		int32_t ranks = (int32_t)test_int(1, config->heads);
		int64_t cells[TENSOR_KINDS] = {0}, totals[TENSOR_KINDS] = {0};
		for (int32_t rank = 0; rank < ranks; rank++) {
			CHECK_OK(shard_make(shard, config, ranks, rank, &err), &err);
			for (int kind = 0; kind < TENSOR_KINDS; kind++) {
				struct tensor_extent e =
					shard_extent(shard, config, (enum backend_tensor)kind);
				CHECK(e.first_row >= 0 && e.first_row + e.rows <= e.total_rows);
				CHECK(e.first_column >= 0 &&
				      e.first_column + e.columns <= e.total_columns);
				cells[kind] += (int64_t)e.rows * e.columns;
				totals[kind] = (int64_t)e.total_rows * e.total_columns;
			}
			struct backend_shape shape =
				shard_backend_shape(shard, config, DTYPE_BF16, NULL, 1);
			CHECK(shape.query_heads == shard->heads.count && shape.groups == shard->groups);
			CHECK(shape.vocab == shard->vocab.count && shape.total_vocab == config->vocab);
			CHECK(fabs(shape.attention_scale * sqrt(config->head_dim) - 1) < 1e-6);
		}
		static const int split[] = {TENSOR_EMBEDDING, TENSOR_QUERY, TENSOR_OUTPUT, TENSOR_GATE,
					    TENSOR_UP, TENSOR_DOWN, TENSOR_QUERY_BIAS, TENSOR_GATE_BIAS};
		for (size_t k = 0; k < sizeof split / sizeof split[0]; k++)
			CHECK_MSG(cells[split[k]] == totals[split[k]], "tensor %d", split[k]);
		CHECK(cells[TENSOR_KEY] >= totals[TENSOR_KEY]);
		CHECK(totals[TENSOR_HEAD] == (config->tied ? 0 : totals[TENSOR_EMBEDDING]));
		CHECK(cells[TENSOR_MLP_NORM] == (int64_t)ranks * config->hidden);
		CHECK((totals[TENSOR_KEY_NORM] != 0) == config->query_key_norm);
		CHECK((totals[TENSOR_DOWN_BIAS] != 0) == config->mlp_bias);
	}
	free(config);
	free(shard);
}

int main(void)
{
	RUN(ranges_cover);
	RUN(heads_of_all_sizes);
	RUN(ragged_32_over_8_on_3);
	RUN(extents);
	TEST_END();
}
