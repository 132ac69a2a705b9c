/*
 * random_checkpoint.h - random models, whole in memory and written as checkpoints.
 */
#ifndef TPRUN_TESTS_RANDOM_CHECKPOINT_H
#define TPRUN_TESTS_RANDOM_CHECKPOINT_H

#include "runtime/model/weights.h"
#include "tests/checkpoint_files.h"

enum { SLOTS_MAX = 8 * TENSOR_KINDS };

static inline bool in_layers(int kind)
{
	return kind > TENSOR_FINAL_NORM;
}

static inline bool is_vector(int kind)
{
	return kind == TENSOR_FINAL_NORM || kind == TENSOR_ATTENTION_NORM || kind == TENSOR_MLP_NORM ||
	       kind >= TENSOR_QUERY_NORM;
}

/* A random model: its tensors whole, as the files store them. */
struct source {
	struct model_config config;
	char folder[64];
	struct source_tensor {
		int32_t rows, columns; /* 0: none */
		enum dtype dtype;
		char *data;
	} tensors[SLOTS_MAX];
};

/* Rows and columns of a whole tensor, from the family's definition. */
static inline void whole_sizes(const struct model_config *c, int kind, int32_t *rows, int32_t *columns)
{
	int32_t query = c->heads * c->head_dim, key = c->kv_heads * c->head_dim;
	const int32_t sizes[TENSOR_KINDS][2] = {
		[TENSOR_EMBEDDING] = {c->vocab, c->hidden},
		[TENSOR_HEAD] = {c->tied ? 0 : c->vocab, c->hidden},
		[TENSOR_FINAL_NORM] = {1, c->hidden},
		[TENSOR_ATTENTION_NORM] = {1, c->hidden},
		[TENSOR_QUERY] = {query, c->hidden},
		[TENSOR_KEY] = {key, c->hidden},
		[TENSOR_VALUE] = {key, c->hidden},
		[TENSOR_OUTPUT] = {c->hidden, query},
		[TENSOR_MLP_NORM] = {1, c->hidden},
		[TENSOR_GATE] = {c->intermediate, c->hidden},
		[TENSOR_UP] = {c->intermediate, c->hidden},
		[TENSOR_DOWN] = {c->hidden, c->intermediate},
		[TENSOR_QUERY_NORM] = {c->query_key_norm, c->head_dim},
		[TENSOR_KEY_NORM] = {c->query_key_norm, c->head_dim},
		[TENSOR_QUERY_BIAS] = {c->qkv_bias, query},
		[TENSOR_KEY_BIAS] = {c->qkv_bias, key},
		[TENSOR_VALUE_BIAS] = {c->qkv_bias, key},
		[TENSOR_OUTPUT_BIAS] = {c->output_bias, c->hidden},
		[TENSOR_GATE_BIAS] = {c->mlp_bias, c->intermediate},
		[TENSOR_UP_BIAS] = {c->mlp_bias, c->intermediate},
		[TENSOR_DOWN_BIAS] = {c->mlp_bias, c->hidden},
	};
	*rows = sizes[kind][0];
	*columns = sizes[kind][1];
}

static inline size_t tensor_bytes(const struct source_tensor *tensor)
{
	return (size_t)tensor->rows * (size_t)tensor->columns * dtype_bytes(tensor->dtype);
}

static inline void fill_tensors(struct source *source, bool mixed)
{
	for (int slot = 0; slot < (source->config.layers + 1) * TENSOR_KINDS; slot++) {
		struct source_tensor *tensor = &source->tensors[slot];
		int kind = slot % TENSOR_KINDS;
		*tensor = (struct source_tensor){.dtype = source->config.dtype};
		if (mixed && test_int(0, 3) == 0)
			tensor->dtype = (enum dtype)test_int(DTYPE_F32, DTYPE_BF16);
		if (in_layers(kind) == (slot >= TENSOR_KINDS))
			whole_sizes(&source->config, kind, &tensor->rows, &tensor->columns);
		size_t count = (size_t)tensor->rows * (size_t)tensor->columns;
		tensor->data = malloc(count * 4 + 1);
		for (size_t i = 0; i < count; i++) {
			/* Any finite bits of moderate size; the high bits decide the exponent. */
			float value = (float)(int32_t)test_random() * 0x1p-31f;
			dtype_convert(&value, DTYPE_F32, tensor->data + i * dtype_bytes(tensor->dtype),
				      tensor->dtype, 1);
		}
	}
}

/* Writes tensors [from, to) of the slots into one file, in random order of their data. */
static inline void write_file(const struct source *source, const char *name, int from, int to,
		       struct bytes *map)
{
	static const char *const types[] = {"F32", "F16", "BF16"};
	struct bytes header = {0}, data = {0};
	int count = to - from, first = (int)test_int(0, count - 1);
	bytes_print(&header, "{\"__metadata__\": {\"format\": \"pt\"}");
	for (int i = 0; i < count; i++) {
		int slot = from + (first + i) % count;
		const struct source_tensor *tensor = &source->tensors[slot];
		if (!tensor->rows)
			continue;
		char tensor_name[96], shape[64];
		weights_tensor_name(tensor_name, sizeof tensor_name,
				    (enum backend_tensor)(slot % TENSOR_KINDS), slot / TENSOR_KINDS - 1);
		if (is_vector(slot % TENSOR_KINDS))
			snprintf(shape, sizeof shape, "[%d]", tensor->columns);
		else
			snprintf(shape, sizeof shape, "[%d, %d]", tensor->rows, tensor->columns);
		bytes_print(&header,
			    ", \"%s\": {\"dtype\": \"%s\", \"shape\": %s, \"data_offsets\": [%zu, %zu]}",
			    tensor_name, types[tensor->dtype], shape, data.length,
			    data.length + tensor_bytes(tensor));
		bytes_add(&data, tensor->data, tensor_bytes(tensor));
		bytes_print(map, "%s\"%s\": \"%s\"", map->length ? ", " : "", tensor_name, name);
	}
	bytes_add(&header, "}", 2);
	struct bytes file = safetensors_content(header.data, data.data, data.length);
	folder_write(source->folder, name, file.data, file.length);
	bytes_free(&file);
	bytes_free(&header);
	bytes_free(&data);
}

/* One file, or up to four with an index. */
static inline void write_checkpoint(const struct source *source, int files)
{
	int slots = (source->config.layers + 1) * TENSOR_KINDS;
	struct bytes map = {0}, index = {0};
	if (files == 1) {
		write_file(source, "model.safetensors", 0, slots, &map);
	} else {
		for (int i = 0; i < files; i++) {
			char name[64];
			snprintf(name, sizeof name, "model-%d.safetensors", i + 1);
			write_file(source, name, slots * i / files, slots * (i + 1) / files, &map);
		}
		bytes_add(&map, "", 1);
		bytes_print(&index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
		bytes_add(&index, map.data, map.length - 1);
		bytes_print(&index, "}}");
		folder_write(source->folder, "model.safetensors.index.json", index.data, index.length);
	}
	bytes_free(&map);
	bytes_free(&index);
}

static inline struct source *source_make(void)
{
	struct source *source = calloc(1, sizeof *source);
	struct model_config *c = &source->config;
	c->kv_heads = (int32_t)test_int(1, 4);
	c->heads = c->kv_heads * (int32_t)test_int(1, 4);
	c->head_dim = 2 * (int32_t)test_int(1, 8);
	c->hidden = (int32_t)test_int(1, 70);
	c->intermediate = (int32_t)test_int(1, 200);
	c->vocab = (int32_t)test_int(1, 300);
	c->layers = (int32_t)test_int(1, 3);
	c->tied = test_int(0, 1);
	c->qkv_bias = test_int(0, 1);
	c->output_bias = test_int(0, 1);
	c->mlp_bias = test_int(0, 1);
	c->query_key_norm = test_int(0, 1);
	c->dtype = (enum dtype)test_int(DTYPE_F32, DTYPE_BF16);
	folder_make(source->folder);
	return source;
}

static inline void source_close(struct source *source)
{
	for (int slot = 0; slot < SLOTS_MAX; slot++)
		free(source->tensors[slot].data);
	folder_remove(source->folder);
	free(source);
}

#endif
