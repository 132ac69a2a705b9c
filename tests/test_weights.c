/* weights: every rank's part of random checkpoints, and checkpoints that must be refused. */
#define TEST_SUITE "weights"
#include "tests/test.h"

#include "runtime/model/weights.h"
#include "tests/checkpoint_files.h"
#include "tests/fake_group.h"

enum { SLOTS_MAX = 8 * TENSOR_KINDS };

static bool in_layers(int kind)
{
	return kind > TENSOR_FINAL_NORM;
}

static bool is_vector(int kind)
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
static void whole_sizes(const struct model_config *c, int kind, int32_t *rows, int32_t *columns)
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

static size_t tensor_bytes(const struct source_tensor *tensor)
{
	return (size_t)tensor->rows * (size_t)tensor->columns * dtype_bytes(tensor->dtype);
}

static void fill_tensors(struct source *source, bool mixed)
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
static void write_file(const struct source *source, const char *name, int from, int to,
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
static void write_checkpoint(const struct source *source, int files)
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

static struct source *source_make(void)
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

static void source_close(struct source *source)
{
	for (int slot = 0; slot < SLOTS_MAX; slot++)
		free(source->tensors[slot].data);
	folder_remove(source->folder);
	free(source);
}

/* A backend that keeps what it is handed, as float32, and how often. */
struct recorder {
	struct backend backend;
	const struct model_config *config;
	struct shard shard;
	enum dtype dtype;
	int fail_after; /* parts it takes before it fails; -1: all */
	struct recorded {
		int32_t rows, columns;
		float *values;
		unsigned char *times;
	} tensors[SLOTS_MAX];
};

static int recorder_load(struct backend *backend, const struct tensor_part *part, struct error *err)
{
	struct recorder *recorder = (struct recorder *)backend;
	struct recorded *tensor = &recorder->tensors[(part->layer + 1) * TENSOR_KINDS + part->tensor];
	if (recorder->fail_after == 0)
		return error_run(err, "the recorder is full");
	recorder->fail_after--;
	if (part->row < 0 || part->rows < 1 || part->row + part->rows > tensor->rows ||
	    part->column < 0 || part->columns < 1 || part->column + part->columns > tensor->columns)
		return error_run(err, "a part outside tensor %d of layer %d", part->tensor, part->layer);
	if (part->dtype != (is_vector(part->tensor) ? DTYPE_F32 : recorder->dtype))
		return error_run(err, "tensor %d comes as %s", part->tensor, dtype_name(part->dtype));
	for (int32_t r = 0; r < part->rows; r++) {
		size_t to = (size_t)(part->row + r) * (size_t)tensor->columns + (size_t)part->column;
		dtype_convert((const char *)part->data + (size_t)r * part->row_stride, part->dtype,
			      &tensor->values[to], DTYPE_F32, (size_t)part->columns);
		for (int32_t i = 0; i < part->columns; i++)
			tensor->times[to + (size_t)i]++;
	}
	return 0;
}

static const struct backend_ops recorder_ops = {.name = "recorder", .load = recorder_load};

static void recorder_open(struct recorder *recorder, const struct model_config *config,
			  const struct shard *shard, enum dtype dtype)
{
	*recorder = (struct recorder){.backend.ops = &recorder_ops, .config = config,
				      .shard = *shard, .dtype = dtype, .fail_after = -1};
	for (int slot = 0; slot < (config->layers + 1) * TENSOR_KINDS; slot++) {
		struct recorded *tensor = &recorder->tensors[slot];
		if (in_layers(slot % TENSOR_KINDS) != (slot >= TENSOR_KINDS))
			continue;
		struct tensor_extent extent =
			shard_extent(shard, config, (enum backend_tensor)(slot % TENSOR_KINDS));
		tensor->rows = extent.rows;
		tensor->columns = extent.columns;
		size_t count = (size_t)tensor->rows * (size_t)tensor->columns;
		tensor->values = calloc(count + 1, sizeof *tensor->values);
		tensor->times = calloc(count + 1, 1);
	}
}

static void recorder_close(struct recorder *recorder)
{
	for (int slot = 0; slot < SLOTS_MAX; slot++) {
		free(recorder->tensors[slot].values);
		free(recorder->tensors[slot].times);
	}
}

/* Which part of a whole tensor a rank must hold, by its heads and ranges alone. */
static void expected_place(const struct recorder *recorder, int kind, int32_t *first_row,
			   int32_t *first_column)
{
	const struct shard *shard = &recorder->shard;
	int32_t head_dim = recorder->config->head_dim;
	*first_row = *first_column = 0;
	switch (kind) {
	case TENSOR_EMBEDDING:
	case TENSOR_HEAD:
		*first_row = shard->vocab.first;
		break;
	case TENSOR_QUERY:
		*first_row = shard->heads.first * head_dim;
		break;
	case TENSOR_KEY:
	case TENSOR_VALUE:
		*first_row = shard->kv_heads.first * head_dim;
		break;
	case TENSOR_GATE:
	case TENSOR_UP:
		*first_row = shard->intermediate.first;
		break;
	case TENSOR_OUTPUT:
	case TENSOR_QUERY_BIAS:
		*first_column = shard->heads.first * head_dim;
		break;
	case TENSOR_KEY_BIAS:
	case TENSOR_VALUE_BIAS:
		*first_column = shard->kv_heads.first * head_dim;
		break;
	case TENSOR_DOWN:
	case TENSOR_GATE_BIAS:
	case TENSOR_UP_BIAS:
		*first_column = shard->intermediate.first;
		break;
	default:
		break;
	}
}

static int compare_tensor(const struct recorder *recorder, const struct source *source, int slot,
			  struct error *err)
{
	const struct recorded *is = &recorder->tensors[slot];
	const struct source_tensor *whole = &source->tensors[slot];
	int kind = slot % TENSOR_KINDS;
	int32_t first_row, first_column;
	expected_place(recorder, kind, &first_row, &first_column);
	if ((whole->rows == 0) != (is->rows == 0) && kind != TENSOR_EMBEDDING && kind != TENSOR_HEAD &&
	    kind != TENSOR_GATE && kind != TENSOR_UP)
		return error_run(err, "tensor %d: %d rows of %d", kind, is->rows, whole->rows);
	for (int32_t r = 0; r < is->rows; r++) {
		for (int32_t c = 0; c < is->columns; c++) {
			size_t at = (size_t)r * (size_t)is->columns + (size_t)c;
			size_t from = (size_t)(first_row + r) * (size_t)whole->columns +
				      (size_t)(first_column + c);
			float value;
			uint32_t rounded;
			enum dtype dtype = is_vector(kind) ? DTYPE_F32 : recorder->dtype;
			dtype_convert(whole->data + from * dtype_bytes(whole->dtype), whole->dtype,
				      &value, DTYPE_F32, 1);
			dtype_convert(&value, DTYPE_F32, &rounded, dtype, 1);
			dtype_convert(&rounded, dtype, &value, DTYPE_F32, 1);
			if (is->times[at] != 1 || memcmp(&is->values[at], &value, sizeof value) != 0)
				return error_run(err,
						 "tensor %d [%d][%d] came %d times as %a instead of %a",
						 kind, r, c, is->times[at], (double)is->values[at],
						 (double)value);
		}
	}
	return 0;
}

/* What all ranks of a load share. */
struct load_case {
	const struct source *source;
	enum dtype dtype;
	int failing_rank; /* whose backend fails, or -1 */
	const char *truncate; /* a file cut in half between opening and loading, or NULL */
	uint64_t bytes[FAKE_RANKS_MAX], reported[FAKE_RANKS_MAX], announced[FAKE_RANKS_MAX];
	int results[FAKE_RANKS_MAX];
};

struct progress_context {
	struct load_case *load;
	int rank;
};

static void progress_report(void *context, uint64_t done, uint64_t total)
{
	struct progress_context *progress = context;
	progress->load->reported[progress->rank] = done;
	progress->load->announced[progress->rank] = total;
}

static int load_rank(const struct group *group, void *context, struct error *err)
{
	struct load_case *load = context;
	const struct source *source = load->source;
	struct checkpoint *checkpoint = NULL;
	struct shard *shard = malloc(sizeof *shard);
	struct recorder *recorder = calloc(1, sizeof *recorder);
	struct progress_context progress_context = {load, group->rank};
	struct weights_progress progress = {progress_report, &progress_context};
	int result = -1;
	if (shard_make(shard, &source->config, group->size, group->rank, err) ||
	    group->agree(group, checkpoint_open(&checkpoint, source->folder, &source->config, err),
			 err))
		goto done;
	if (load->truncate && group->rank == 0) {
		char path[256];
		snprintf(path, sizeof path, "%s/%s", source->folder, load->truncate);
		FILE *file = fopen(path, "rb");
		fseek(file, 0, SEEK_END);
		long length = ftell(file);
		fclose(file);
		if (truncate(path, length / 2))
			abort();
	}
	if (group->agree(group, 0, err))
		goto done;
	recorder_open(recorder, &source->config, shard, load->dtype);
	if (group->rank == load->failing_rank)
		recorder->fail_after = (int)test_int(0, 5);
	result = weights_load(checkpoint, &source->config, shard, load->dtype, group,
			      &recorder->backend, &progress, &load->bytes[group->rank], err);
	load->results[group->rank] = result;
	for (int slot = 0; !result && slot < (source->config.layers + 1) * TENSOR_KINDS; slot++)
		result = compare_tensor(recorder, source, slot, err);
	recorder_close(recorder);
done:
	checkpoint_close(checkpoint);
	free(recorder);
	free(shard);
	return result;
}

/* Bytes that all ranks together should read: every rank its column-parallel part and vectors,
 * and each byte of a row-parallel tensor once. */
static uint64_t expected_bytes(const struct source *source, int ranks)
{
	uint64_t total = 0;
	struct error err;
	struct shard *shard = malloc(sizeof *shard);
	for (int slot = 0; slot < (source->config.layers + 1) * TENSOR_KINDS; slot++) {
		const struct source_tensor *tensor = &source->tensors[slot];
		int kind = slot % TENSOR_KINDS;
		if (kind == TENSOR_OUTPUT || kind == TENSOR_DOWN) {
			total += tensor_bytes(tensor);
			continue;
		}
		for (int rank = 0; tensor->rows && rank < ranks; rank++) {
			CHECK_OK(shard_make(shard, &source->config, ranks, rank, &err), &err);
			struct tensor_extent extent =
				shard_extent(shard, &source->config, (enum backend_tensor)kind);
			total += (uint64_t)extent.rows * (uint64_t)extent.columns *
				 dtype_bytes(tensor->dtype);
		}
	}
	free(shard);
	return total;
}

static void check_load(const struct source *source, int ranks, enum dtype dtype)
{
	struct error err = {0};
	struct load_case load = {.source = source, .dtype = dtype, .failing_rank = -1};
	CHECK_MSG(fake_group_run(ranks, load_rank, &load, NULL, &err) == 0, "%d ranks: %s", ranks,
		  err.message);
	uint64_t total = 0;
	for (int rank = 0; rank < ranks; rank++) {
		total += load.bytes[rank];
		CHECK(load.reported[rank] == load.bytes[rank] &&
		      load.announced[rank] == load.bytes[rank]);
	}
	CHECK_MSG(total == expected_bytes(source, ranks), "%llu bytes were read, not %llu",
		  (unsigned long long)total, (unsigned long long)expected_bytes(source, ranks));
}

static void random_models_in_parts(void)
{
	for (int i = 0; i < 24; i++) {
		struct source *source = source_make();
		fill_tensors(source, test_int(0, 1));
		write_checkpoint(source, (int)test_int(1, 4));
		for (int ranks = 1; ranks <= source->config.heads && ranks <= 8; ranks++)
			check_load(source, ranks, (enum dtype)test_int(DTYPE_F32, DTYPE_BF16));
		source_close(source);
	}
}

/* Matrices of several pieces: row-parallel ones then take several exchanges. */
static void tensors_beyond_a_piece(void)
{
	struct source *source = source_make();
	source->config = (struct model_config){
		.vocab = 40, .hidden = 301, .intermediate = 70, .layers = 1, .heads = 65,
		.kv_heads = 1, .head_dim = 256, .dtype = DTYPE_F32,
	};
	fill_tensors(source, false);
	write_checkpoint(source, 1);
	check_load(source, 1, DTYPE_BF16);
	check_load(source, 2, DTYPE_F32);
	check_load(source, 7, DTYPE_F16);
	source_close(source);
}

/* A rank whose files end too early, or whose backend fails, ends the load on all ranks, with its
 * name, and leaves none waiting. */
static void failures_reach_all_ranks(void)
{
	for (int i = 0; i < 40; i++) {
		struct source *source = source_make();
		fill_tensors(source, false);
		write_checkpoint(source, 1);
		int ranks = (int)test_int(1, source->config.heads < 8 ? source->config.heads : 8);
		struct error err = {0};
		struct load_case load = {.source = source, .dtype = DTYPE_F32, .failing_rank = -1};
		bool cut = test_int(0, 1);
		if (cut)
			load.truncate = "model.safetensors";
		else
			load.failing_rank = (int)test_int(0, ranks - 1);
		CHECK(fake_group_run(ranks, load_rank, &load, NULL, &err) == -1);
		for (int rank = 0; rank < ranks; rank++)
			CHECK(load.results[rank] == -1);
		CHECK_MSG(strstr(err.message, cut ? "cut off" : "the recorder is full"), "%s", err.message);
		CHECK_MSG(strstr(err.message, "rank") && strstr(err.message, "loading "), "%s",
			  err.message);
		if (cut)
			CHECK_MSG(strstr(err.message, source->folder) && strstr(err.message, "at byte"),
				  "%s", err.message);
		source_close(source);
	}
}

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
	CHECK(truncate(path, 2000) == 0);
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
	RUN(random_models_in_parts);
	RUN(tensors_beyond_a_piece);
	RUN(failures_reach_all_ranks);
	RUN(tensors_must_be_there);
	RUN(types_and_sizes);
	RUN(indexes);
	RUN(folders_refused);
	RUN(tied_heads);
	RUN(shared_models);
	TEST_END();
}
