/* checkpoint: opening a model's files, and all that must be refused. */
#define TEST_SUITE "checkpoint"
#include "tests/test.h"

#include "tests/random_checkpoint.h"

/* A small fixed model for the cases below. */
static struct source *plain_source(bool tied)
{
	struct source *source = source_make();
	source->config = (struct model_config){
		.vocab = 10, .hidden = 8, .intermediate = 12, .layers = 2, .heads = 2, .kv_heads = 1,
		.head_dim = 4, .tied = tied, .dtype = DTYPE_F32,
	};
	fill_tensors(source, false);
	return source;
}

static int open_and_close(const struct source *source, struct error *err)
{
	struct checkpoint *checkpoint;
	int result = checkpoint_open(&checkpoint, source->folder, &source->config, err);
	checkpoint_close(checkpoint);
	return result;
}

static int slot_of(int layer, int kind)
{
	return (layer + 1) * TENSOR_KINDS + kind;
}

static void tensors_must_be_there(void)
{
	struct error err = {0};
	struct source *source = plain_source(false);
	struct source_tensor *down = &source->tensors[slot_of(1, TENSOR_DOWN)];
	write_checkpoint(source, 1);
	CHECK_OK(open_and_close(source, &err), &err);

	down->rows--;
	write_checkpoint(source, 1);
	CHECK_FAILS(open_and_close(source, &err), &err, "[7, 12] where config.json asks for [8, 12]");
	CHECK(strstr(err.message, "model.layers.1.mlp.down_proj.weight"));
	down->rows = 0;
	write_checkpoint(source, 1);
	CHECK_FAILS(open_and_close(source, &err), &err, "model.layers.1.mlp.down_proj.weight");
	CHECK(strstr(err.message, source->folder));
	source_close(source);

	/* A model that needs biases or q/k norms which the files lack. */
	source = plain_source(false);
	write_checkpoint(source, 2);
	source->config.qkv_bias = true;
	CHECK_FAILS(open_and_close(source, &err), &err, "model.layers.0.self_attn.q_proj.bias");
	source->config.qkv_bias = false;
	source->config.query_key_norm = true;
	CHECK_FAILS(open_and_close(source, &err), &err, "model.layers.0.self_attn.q_norm.weight");
	source->config.query_key_norm = false;
	source->config.layers = 3;
	CHECK_FAILS(open_and_close(source, &err), &err, "model.layers.2.input_layernorm.weight");
	source->config.layers = 1; /* what is there beyond the config is ignored */
	CHECK_OK(open_and_close(source, &err), &err);
	source_close(source);
}

static void types_and_sizes(void)
{
	struct error err = {0};
	struct source *source = plain_source(false);
	struct checkpoint *checkpoint;
	source->tensors[slot_of(0, TENSOR_QUERY)].dtype = DTYPE_F16; /* half the bytes are left unused */
	write_checkpoint(source, 1);
	CHECK_OK(checkpoint_open(&checkpoint, source->folder, &source->config, &err), &err);
	CHECK(checkpoint_dtype(checkpoint) == DTYPE_F32);
	uint64_t bytes = 0;
	for (int slot = 0; slot < 3 * TENSOR_KINDS; slot++)
		bytes += tensor_bytes(&source->tensors[slot]);
	CHECK(checkpoint_bytes(checkpoint) == bytes);
	checkpoint_close(checkpoint);

	/* The same file with one type's name changed to others of the same size. */
	char path[128];
	snprintf(path, sizeof path, "%s/model.safetensors", source->folder);
	FILE *file = fopen(path, "r+b");
	char text[8192];
	size_t length = fread(text, 1, sizeof text, file);
	for (size_t i = 8; i + 5 < length; i++) {
		if (memcmp(text + i, "\"F16\"", 5) == 0) {
			fseek(file, (long)i, SEEK_SET);
			fwrite("\"I16\"", 1, 5, file);
		}
	}
	fclose(file);
	CHECK_FAILS(open_and_close(source, &err), &err, "has the type I16");
	source_close(source);
}

static void indexes(void)
{
	static const char index_name[] = "model.safetensors.index.json";
	struct error err = {0};
	struct source *source = plain_source(false);
	char path[128];
	write_checkpoint(source, 3);
	CHECK_OK(open_and_close(source, &err), &err);

	/* A tensor in two files. */
	struct bytes map = {0};
	write_file(source, "model-2.safetensors", 0, 2 * TENSOR_KINDS, &map);
	CHECK_FAILS(open_and_close(source, &err), &err, "is both in model-");
	bytes_free(&map);
	/* A file that lacks what the index says it holds. */
	write_file(source, "model-2.safetensors", 0, TENSOR_KINDS, &map);
	CHECK_FAILS(open_and_close(source, &err), &err, "is not in model-2.safetensors");
	bytes_free(&map);
	/* A file that is not there, and one that is cut off. */
	folder_remove_file(source->folder, "model-3.safetensors");
	write_checkpoint(source, 3);
	folder_remove_file(source->folder, "model-3.safetensors");
	CHECK_FAILS(open_and_close(source, &err), &err, "model-3.safetensors");
	CHECK(strstr(err.message, "is not there"));
	write_checkpoint(source, 3);
	snprintf(path, sizeof path, "%s/model-1.safetensors", source->folder);
	CHECK(truncate(path, 100) == 0);
	CHECK_FAILS(open_and_close(source, &err), &err, "cut off");

	static const char *const bad[][2] = {
		{"{", "not valid JSON"},
		{"[]", "weight_map"},
		{"{}", "weight_map"},
		{"{\"weight_map\": []}", "weight_map"},
		{"{\"weight_map\": {}}", "weight_map"},
		{"{\"weight_map\": {\"a\": 7}}", "the file \"\" of a"},
		{"{\"weight_map\": {\"a\": \"\"}}", "same folder"},
		{"{\"weight_map\": {\"a\": \"..\"}}", "same folder"},
		{"{\"weight_map\": {\"a\": \"../x/model-2.safetensors\"}}", "same folder"},
		{"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "same folder"},
		{"{\"weight_map\": {\"a\": \"model-2.safetensors\\u0000\"}}", "same folder"},
		{"{\"weight_map\": {\"a\": \"other.safetensors\"}}", "other.safetensors"},
		{"{\"weight_map\": {\"lm_head.weight\": \"model-1.safetensors\", "
		 "\"lm_head.weight\": \"model-2.safetensors\"}}", "uplicate"},
	};
	write_checkpoint(source, 3);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		folder_print(source->folder, index_name, bad[i][0]);
		CHECK_FAILS(open_and_close(source, &err), &err, bad[i][1]);
		CHECK(strstr(err.message, index_name));
	}
	source_close(source);
}

static void folders_refused(void)
{
	struct error err = {0};
	struct source *source = plain_source(false);
	CHECK_FAILS(open_and_close(source, &err), &err, "holds neither");
	folder_print(source->folder, "pytorch_model.bin", "");
	CHECK_FAILS(open_and_close(source, &err), &err, "safe_serialization=True");
	static const char *const quantized[] = {"qweight", "weight_scale", "weight_scale_inv"};
	for (size_t i = 0; i < 3; i++) {
		char header[256];
		snprintf(header, sizeof header,
			 "{\"model.layers.0.mlp.up_proj.%s\": {\"dtype\": \"U8\", \"shape\": [0], "
			 "\"data_offsets\": [0, 0]}}", quantized[i]);
		struct bytes file = safetensors_content(header, "", 0);
		folder_write(source->folder, "model.safetensors", file.data, file.length);
		CHECK_FAILS(open_and_close(source, &err), &err, "quantized");
		CHECK(strstr(err.message, quantized[i]));
		bytes_free(&file);
	}
	char folder[64];
	strcpy(folder, source->folder);
	strcpy(source->folder, "/tmp/tprun-no-such-folder");
	CHECK_FAILS(open_and_close(source, &err), &err, "there is no model folder");
	strcpy(source->folder, folder);
	source_close(source);
}

/* A tied model may store its head again, equal to the embedding. */
static void tied_heads(void)
{
	struct error err = {0};
	struct source *source = plain_source(true);
	struct source_tensor *head = &source->tensors[slot_of(-1, TENSOR_HEAD)];
	const struct source_tensor *embedding = &source->tensors[slot_of(-1, TENSOR_EMBEDDING)];
	head->rows = embedding->rows;
	head->data = realloc(head->data, tensor_bytes(embedding));
	memcpy(head->data, embedding->data, tensor_bytes(embedding));
	write_checkpoint(source, 1);
	CHECK_OK(open_and_close(source, &err), &err);
	head->data[77] ^= 1;
	write_checkpoint(source, 1);
	CHECK_FAILS(open_and_close(source, &err), &err, "tie_word_embeddings");
	source->config.tied = false;
	CHECK_OK(open_and_close(source, &err), &err);
	source_close(source);
}

/* The published small checkpoints open, with the sizes their configs promise. */
static void shared_models(void)
{
	static const char *const names[] = {
		"stories260K", "stories260K-f16", "stories260K-bf16-sharded-untied", "golden/llama-gqa",
		"golden/llama3-rope-tied", "golden/mistral-window", "golden/qwen2-bias",
		"golden/qwen3-qknorm",
	};
	const char *shared = test_shared();
	if (!shared) {
		SKIP("no folder of shared models");
		return;
	}
	struct model_config *config = malloc(sizeof *config);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct error err = {0};
		struct checkpoint *checkpoint = NULL;
		char folder[512];
		snprintf(folder, sizeof folder, "%s/models/%s", shared, names[i]);
		CHECK_OK(config_read(config, folder, &err), &err);
		CHECK_OK(checkpoint_open(&checkpoint, folder, config, &err), &err);
		CHECK(checkpoint && checkpoint_dtype(checkpoint) == config->dtype);
		CHECK(checkpoint && checkpoint_bytes(checkpoint) ==
					    config_parameters(config) * dtype_bytes(config->dtype));
		checkpoint_close(checkpoint);
	}
	free(config);
}

int main(void)
{
	RUN(tensors_must_be_there);
	RUN(types_and_sizes);
	RUN(indexes);
	RUN(folders_refused);
	RUN(tied_heads);
	RUN(shared_models);
	TEST_END();
}
