#include "runtime/model/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/json.h"
#include "runtime/model/safetensors.h"

enum { INDEX_BYTES_MAX = 256 << 20 };

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE "model.safetensors.index.json"

struct checkpoint_file {
	char *name; /* within the folder */
	int fd;
	struct safetensors header;
};

struct checkpoint {
	const char *folder; /* valid while opening */
	struct checkpoint_file *files;
	size_t count;
	struct stored_tensor *stored; /* [layers + 1][TENSOR_KINDS], the model's own first */
	uint64_t bytes;
	enum dtype dtype;
};

void weights_tensor_name(char *name, size_t size, enum backend_tensor tensor, int32_t layer)
{
	static const char *const names[TENSOR_KINDS] = {
		[TENSOR_EMBEDDING] = "model.embed_tokens.weight",
		[TENSOR_HEAD] = "lm_head.weight",
		[TENSOR_FINAL_NORM] = "model.norm.weight",
		[TENSOR_ATTENTION_NORM] = "input_layernorm.weight",
		[TENSOR_QUERY] = "self_attn.q_proj.weight",
		[TENSOR_KEY] = "self_attn.k_proj.weight",
		[TENSOR_VALUE] = "self_attn.v_proj.weight",
		[TENSOR_OUTPUT] = "self_attn.o_proj.weight",
		[TENSOR_MLP_NORM] = "post_attention_layernorm.weight",
		[TENSOR_GATE] = "mlp.gate_proj.weight",
		[TENSOR_UP] = "mlp.up_proj.weight",
		[TENSOR_DOWN] = "mlp.down_proj.weight",
		[TENSOR_QUERY_NORM] = "self_attn.q_norm.weight",
		[TENSOR_KEY_NORM] = "self_attn.k_norm.weight",
		[TENSOR_QUERY_BIAS] = "self_attn.q_proj.bias",
		[TENSOR_KEY_BIAS] = "self_attn.k_proj.bias",
		[TENSOR_VALUE_BIAS] = "self_attn.v_proj.bias",
		[TENSOR_OUTPUT_BIAS] = "self_attn.o_proj.bias",
		[TENSOR_GATE_BIAS] = "mlp.gate_proj.bias",
		[TENSOR_UP_BIAS] = "mlp.up_proj.bias",
		[TENSOR_DOWN_BIAS] = "mlp.down_proj.bias",
	};
	if (layer < 0)
		snprintf(name, size, "%s", names[tensor]);
	else
		snprintf(name, size, "model.layers.%d.%s", layer, names[tensor]);
}

const struct stored_tensor *checkpoint_tensor(const struct checkpoint *checkpoint,
					      enum backend_tensor tensor, int32_t layer)
{
	return &checkpoint->stored[(layer + 1) * TENSOR_KINDS + tensor];
}

static bool folder_holds(const char *folder, const char *name)
{
	struct error ignored;
	char *path = file_join(folder, name, &ignored);
	bool found = path && file_exists(path);
	free(path);
	return found;
}

/* Opens FOLDER/name and reads its header. */
static int add_file(struct checkpoint *checkpoint, const char *name, struct error *err)
{
	struct checkpoint_file *file = &checkpoint->files[checkpoint->count];
	*file = (struct checkpoint_file){.name = strdup(name), .fd = -1};
	checkpoint->count++;
	char *path = file->name ? file_join(checkpoint->folder, name, err) : NULL;
	if (!file->name)
		error_memory(err, name);
	int result = path ? safetensors_open(&file->header, path, err) : -1;
	if (!result) {
		file->fd = open(path, O_RDONLY | O_CLOEXEC);
		if (file->fd < 0)
			result = error_run(err, "cannot open %s: %s", path, strerror(errno));
	}
	free(path);
	return result;
}

static struct checkpoint_file *find_file(struct checkpoint *checkpoint, const char *name)
{
	for (size_t i = 0; i < checkpoint->count; i++)
		if (strcmp(checkpoint->files[i].name, name) == 0)
			return &checkpoint->files[i];
	return NULL;
}

/* Opens the files that the index names, and checks that each tensor is where it says. */
static int add_indexed_files(struct checkpoint *checkpoint, const json_t *root, const char *path,
			     struct error *err)
{
	const json_t *map = json_object_get(root, "weight_map");
	if (!json_is_object(map) || !json_object_size(map))
		return error_run(err, "%s has no weight_map that names tensors", path);
	checkpoint->files = calloc(json_object_size(map), sizeof *checkpoint->files);
	if (!checkpoint->files)
		return error_memory(err, path);
	const char *tensor;
	json_t *value;
	json_object_foreach((json_t *)(uintptr_t)map, tensor, value) {
		const char *name = json_string_value(value);
		if (!name || !*name || strchr(name, '/') || strcmp(name, ".") == 0 ||
		    strcmp(name, "..") == 0 || strlen(name) != json_string_length(value))
			return error_run(err,
					 "%s: the file \"%.200s\" of %.200s is not the name of a file in "
					 "the same folder",
					 path, name ? name : "", tensor);
		struct checkpoint_file *file = find_file(checkpoint, name);
		if (!file) {
			if (!folder_holds(checkpoint->folder, name))
				return error_run(err, "%s: the file %.200s that holds %.200s is not there",
						 path, name, tensor);
			if (add_file(checkpoint, name, err))
				return -1;
			file = &checkpoint->files[checkpoint->count - 1];
		}
		if (!safetensors_find(&file->header, tensor))
			return error_run(err, "%s: %.200s is not in %.200s, where weight_map puts it", path,
					 tensor, name);
	}
	return 0;
}

static int open_index(struct checkpoint *checkpoint, struct error *err)
{
	int result = -1;
	json_t *root = NULL;
	char *path = file_join(checkpoint->folder, INDEX_FILE, err);
	if (path)
		root = json_read_file(path, INDEX_BYTES_MAX, err);
	if (root)
		result = add_indexed_files(checkpoint, root, path, err);
	json_decref(root);
	free(path);
	return result;
}

static int open_files(struct checkpoint *checkpoint, struct error *err)
{
	const char *folder = checkpoint->folder;
	if (!file_exists(folder))
		return error_usage(err, "there is no model folder %s", folder);
	if (folder_holds(folder, SINGLE_FILE)) {
		checkpoint->files = calloc(1, sizeof *checkpoint->files);
		return checkpoint->files ? add_file(checkpoint, SINGLE_FILE, err)
					 : error_memory(err, folder);
	}
	if (folder_holds(folder, INDEX_FILE))
		return open_index(checkpoint, err);
	if (folder_holds(folder, "pytorch_model.bin") ||
	    folder_holds(folder, "pytorch_model.bin.index.json"))
		return error_usage(err,
				   "%s holds its weights as pytorch_model.bin alone, which is not supported; "
				   "load it with transformers and call save_pretrained(folder, "
				   "safe_serialization=True)",
				   folder);
	return error_usage(err, "%s holds neither %s nor %s", folder, SINGLE_FILE, INDEX_FILE);
}

static int refuse_quantized(const struct checkpoint *checkpoint, struct error *err)
{
	static const char *const marks[] = {
		"weight_scale", "weight_scale_inv", "weight_packed", "qweight", "qzeros",
		"scales",	"SCB",		    "absmax",	     "quant_map",
	};
	for (size_t i = 0; i < checkpoint->count; i++) {
		const struct safetensors *header = &checkpoint->files[i].header;
		for (size_t j = 0; j < header->count; j++) {
			const char *end = strrchr(header->tensors[j].name, '.');
			for (size_t m = 0; end && m < sizeof marks / sizeof marks[0]; m++)
				if (strcmp(end + 1, marks[m]) == 0)
					return error_run(err,
							 "%s: %.200s belongs to a quantized checkpoint, "
							 "which is not supported; take the original "
							 "16-bit model",
							 header->path, header->tensors[j].name);
		}
	}
	return 0;
}

/* The one tensor of that name in all files. */
static int find_tensor(const struct checkpoint *checkpoint, const char *name,
		       const struct checkpoint_file **file, const struct safetensor **tensor,
		       struct error *err)
{
	*tensor = NULL;
	for (size_t i = 0; i < checkpoint->count; i++) {
		const struct safetensor *found = safetensors_find(&checkpoint->files[i].header, name);
		if (found && *tensor)
			return error_run(err, "%s: %s is both in %s and in %s", checkpoint->folder, name,
					 (*file)->name, checkpoint->files[i].name);
		if (found) {
			*file = &checkpoint->files[i];
			*tensor = found;
		}
	}
	if (!*tensor)
		return error_run(err, "%s: no file holds the tensor %s, which config.json asks for",
				 checkpoint->folder, name);
	return 0;
}

/* "[2, 3]" */
static void shape_text(char *text, size_t size, const int64_t *shape, int32_t dimensions)
{
	size_t used = (size_t)snprintf(text, size, "[");
	for (int32_t i = 0; i < dimensions && used < size; i++)
		used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "",
					 (long long)shape[i]);
	if (used < size)
		snprintf(text + used, size - used, "]");
}

static int check_tensor(const struct checkpoint_file *file, const struct safetensor *tensor,
			enum backend_tensor kind, const struct tensor_extent *extent,
			struct stored_tensor *out, struct error *err)
{
	int64_t matrix[] = {extent->total_rows, extent->total_columns};
	/* A vector's one row is no dimension of the file's. */
	int32_t dimensions = tensor_is_vector(kind) ? 1 : 2;
	const int64_t *wanted = &matrix[2 - dimensions];
	if (tensor->dimensions != dimensions ||
	    memcmp(tensor->shape, wanted, (size_t)dimensions * sizeof *wanted) != 0) {
		char is[200], should[64];
		shape_text(is, sizeof is, tensor->shape, tensor->dimensions);
		shape_text(should, sizeof should, wanted, dimensions);
		return error_run(err, "%s: %s has the shape %s where config.json asks for %s",
				 file->header.path, tensor->name, is, should);
	}
	static const struct {
		const char *name;
		enum dtype dtype;
	} types[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
		if (strcmp(tensor->type, types[i].name) == 0) {
			*out = (struct stored_tensor){file->fd, file->header.path, tensor->offset,
						      types[i].dtype};
			return 0;
		}
	}
	return error_run(err, "%s: %s has the type %s; F32, F16 and BF16 are supported",
			 file->header.path, tensor->name, tensor->type);
}

/* A tied model may store its head again. A head of other values contradicts the config, and
 * which of the two is meant is the user's to say. Compared at 16 places, which a trained head
 * cannot match by chance. */
static int check_tied_head(const struct checkpoint *checkpoint, struct error *err)
{
	enum { PLACES = 16, PLACE_BYTES = 4096 };
	const struct safetensor *tensors[2];
	const struct checkpoint_file *files[2];
	struct error absent;
	for (int i = 0; i < 2; i++) {
		char name[64];
		weights_tensor_name(name, sizeof name, i ? TENSOR_HEAD : TENSOR_EMBEDDING, -1);
		if (find_tensor(checkpoint, name, &files[i], &tensors[i], &absent))
			return 0;
	}
	bool same = tensors[0]->bytes == tensors[1]->bytes && tensors[0]->type == tensors[1]->type;
	uint64_t bytes = tensors[0]->bytes;
	size_t length = bytes < PLACE_BYTES ? (size_t)bytes : PLACE_BYTES;
	for (uint64_t place = 0; same && place < PLACES; place++) {
		char data[2][PLACE_BYTES];
		for (int i = 0; i < 2; i++)
			if (file_read_at(files[i]->fd, files[i]->header.path,
					 tensors[i]->offset + (bytes - length) / (PLACES - 1) * place,
					 data[i], length, err))
				return -1;
		same = memcmp(data[0], data[1], length) == 0;
	}
	return same ? 0
		    : error_run(err,
				"%s: config.json says tie_word_embeddings, but lm_head.weight differs from "
				"model.embed_tokens.weight; set tie_word_embeddings to false to use it, or "
				"remove it from the files",
				checkpoint->folder);
}

/* Finds and checks every tensor that the config asks for. */
static int locate_tensors(struct checkpoint *checkpoint, const struct model_config *config,
			  struct error *err)
{
	static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
	uint64_t elements[3] = {0};
	size_t slots = ((size_t)config->layers + 1) * TENSOR_KINDS;
	struct shard *whole = malloc(sizeof *whole);
	checkpoint->stored = malloc(slots * sizeof *checkpoint->stored);
	if (!whole || !checkpoint->stored) {
		error_memory(err, checkpoint->folder);
		goto fail;
	}
	if (shard_make(whole, config, 1, 0, err))
		goto fail;
	for (size_t i = 0; i < slots; i++) {
		struct stored_tensor *out = &checkpoint->stored[i];
		enum backend_tensor kind = (enum backend_tensor)(i % TENSOR_KINDS);
		int32_t layer = (int32_t)(i / TENSOR_KINDS) - 1;
		struct tensor_extent extent = shard_extent(whole, config, kind);
		*out = (struct stored_tensor){.fd = -1};
		if (!extent.total_rows || tensor_in_layers(kind) != (layer >= 0))
			continue;
		char name[96];
		weights_tensor_name(name, sizeof name, kind, layer);
		const struct checkpoint_file *file;
		const struct safetensor *tensor;
		if (find_tensor(checkpoint, name, &file, &tensor, err) ||
		    check_tensor(file, tensor, kind, &extent, out, err))
			goto fail;
		checkpoint->bytes += tensor->bytes;
		if (!tensor_is_vector(kind))
			elements[out->dtype] += tensor->bytes / dtype_bytes(out->dtype);
	}
	for (int i = 0; i < 3; i++)
		if (elements[dtypes[i]] > elements[checkpoint->dtype])
			checkpoint->dtype = dtypes[i];
	free(whole);
	return 0;
fail:
	free(whole);
	return -1;
}

int checkpoint_open(struct checkpoint **out, const char *folder, const struct model_config *config,
		    struct error *err)
{
	*out = NULL;
	struct checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
	if (!checkpoint)
		return error_memory(err, folder);
	checkpoint->folder = folder;
	if (open_files(checkpoint, err) || refuse_quantized(checkpoint, err) ||
	    locate_tensors(checkpoint, config, err) ||
	    (config->tied && check_tied_head(checkpoint, err)))
		goto fail;
	checkpoint->folder = NULL;
	*out = checkpoint;
	return 0;
fail:
	checkpoint_close(checkpoint);
	return -1;
}

void checkpoint_close(struct checkpoint *checkpoint)
{
	if (!checkpoint)
		return;
	for (size_t i = 0; i < checkpoint->count; i++) {
		safetensors_close(&checkpoint->files[i].header);
		free(checkpoint->files[i].name);
		if (checkpoint->files[i].fd >= 0)
			close(checkpoint->files[i].fd);
	}
	free(checkpoint->files);
	free(checkpoint->stored);
	free(checkpoint);
}

enum dtype checkpoint_dtype(const struct checkpoint *checkpoint)
{
	return checkpoint->dtype;
}

uint64_t checkpoint_bytes(const struct checkpoint *checkpoint)
{
	return checkpoint->bytes;
}

uint64_t checkpoint_hash(const struct checkpoint *checkpoint)
{
	uint64_t hash = HASH_START;
	for (size_t i = 0; i < checkpoint->count; i++) {
		const struct checkpoint_file *file = &checkpoint->files[i];
		hash = hash_bytes(hash, file->name, strlen(file->name) + 1);
		for (size_t k = 0; k < file->header.count; k++) {
			const struct safetensor *tensor = &file->header.tensors[k];
			size_t shape = (size_t)tensor->dimensions * sizeof tensor->shape[0];
			hash = hash_bytes(hash, tensor->name, strlen(tensor->name) + 1);
			hash = hash_bytes(hash, tensor->type, strlen(tensor->type) + 1);
			hash = hash_bytes(hash, tensor->shape, shape);
			hash = hash_bytes(hash, &tensor->offset, sizeof tensor->offset);
			hash = hash_bytes(hash, &tensor->bytes, sizeof tensor->bytes);
		}
	}
	return hash;
}
