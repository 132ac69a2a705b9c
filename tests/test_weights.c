/* weights: every rank's part of random checkpoints, and failures while they are read. */
#define TEST_SUITE "weights"
#include "tests/test.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "runtime/model/checkpoint.h"
#include "tests/fake_group.h"
#include "tests/random_checkpoint.h"

/* How often each byte of a file was read while times was set: every read goes through here, in place of
 * the C library's pread. */
static struct {
	ino_t file;
	_Atomic unsigned char *times; /* [size] */
	size_t size;
} counted;

ssize_t pread(int fd, void *data, size_t bytes, off_t offset);
ssize_t pread(int fd, void *data, size_t bytes, off_t offset)
{
	struct stat info;
	ssize_t got = syscall(SYS_pread64, fd, data, bytes, offset);
	if (counted.times && !fstat(fd, &info) && info.st_ino == counted.file)
		for (size_t i = 0; got > 0 && i < (size_t)got; i++)
			counted.times[(size_t)offset + i]++;
	return got;
}

/* A backend that keeps what it is handed, as float32, and how often. */
struct recorder {
	struct backend backend;
	const struct model_config *config;
	struct shard shard;
	enum dtype dtype;
	int fail_after; /* parts it takes before it fails; -1: all */
	pthread_mutex_t mutex; /* of what follows and fail_after */
	unsigned threads; /* that loaded something */
	char *lent[LOAD_THREADS]; /* of each thread */
	size_t gap;
	struct recorded {
		int32_t rows, columns;
		float *values;
		unsigned char *times;
	} tensors[SLOTS_MAX];
};

/* Memory with gaps between the rows, a block of its own for every part, so that a sanitizer sees a
 * byte too much. */
static int recorder_lend(struct backend *backend, struct tensor_part *part, struct error *err)
{
	struct recorder *recorder = (struct recorder *)backend;
	size_t bytes = (size_t)part->columns * dtype_bytes(part->dtype);
	if (part->thread < 0 || part->thread >= LOAD_THREADS || part->rows < 1 || part->columns < 1 ||
	    bytes * (size_t)part->rows > LOAD_PART_BYTES)
		return error_run(err, "a part of %d rows and %d columns by thread %d", part->rows,
				 part->columns, part->thread);
	part->row_stride = bytes + recorder->gap;
	free(recorder->lent[part->thread]);
	part->data = recorder->lent[part->thread] =
		malloc(part->row_stride * (size_t)part->rows - recorder->gap);
	return 0;
}

static int recorder_load(struct backend *backend, const struct tensor_part *part, struct error *err)
{
	struct recorder *recorder = (struct recorder *)backend;
	struct recorded *tensor = &recorder->tensors[(part->layer + 1) * TENSOR_KINDS + part->tensor];
	pthread_mutex_lock(&recorder->mutex);
	bool full = recorder->fail_after == 0;
	recorder->fail_after--;
	recorder->threads |= 1u << part->thread;
	pthread_mutex_unlock(&recorder->mutex);
	if (full)
		return error_run(err, "the recorder is full");
	if (part->data != recorder->lent[part->thread])
		return error_run(err, "a part that was not lent");
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

static const struct backend_ops recorder_ops = {.name = "recorder", .lend = recorder_lend,
						 .load = recorder_load};

static void recorder_open(struct recorder *recorder, const struct model_config *config,
			  const struct shard *shard, enum dtype dtype)
{
	*recorder = (struct recorder){.backend.ops = &recorder_ops, .config = config,
				      .shard = *shard, .dtype = dtype, .fail_after = -1,
				      .mutex = PTHREAD_MUTEX_INITIALIZER};
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
	for (int thread = 0; thread < LOAD_THREADS; thread++)
		free(recorder->lent[thread]);
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
	int threads;
	size_t gap; /* between lent rows */
	int failing_rank; /* whose backend or file fails, or -1 */
	int unreadable;	  /* a file that fails takes the place of that rank's; -1: its backend fails */
	int tp; /* weights_broadcast to replicas of so many ranks; 0: weights_load */
	const char *truncate; /* a file cut in half between opening and loading, or NULL */
	uint64_t bytes[FAKE_RANKS_MAX], reported[FAKE_RANKS_MAX], announced[FAKE_RANKS_MAX];
	int results[FAKE_RANKS_MAX];
	unsigned used[FAKE_RANKS_MAX]; /* threads, a bit each */
};

static struct load_case load_case(const struct source *source, enum dtype dtype)
{
	return (struct load_case){.source = source, .dtype = dtype, .failing_rank = -1,
				  .unreadable = -1, .threads = (int)test_int(1, 5),
				  .gap = 4 * (size_t)test_int(0, 3)};
}

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
	const struct weights_progress progress = {progress_report, &progress_context};
	const struct weights_options options = {
		.dtype = load->dtype, .threads = load->threads, .progress = &progress,
	};
	int result = -1;
	int tp = load->tp ? load->tp : group->size;
	if (shard_make(shard, &source->config, tp, group->rank % tp, err) ||
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
	if (load->unreadable >= 0 && group->rank == load->failing_rank)
		dup2(load->unreadable, checkpoint_tensor(checkpoint, TENSOR_EMBEDDING, -1)->fd);
	recorder_open(recorder, &source->config, shard, load->dtype);
	recorder->gap = load->gap;
	if (load->unreadable < 0 && group->rank == load->failing_rank)
		recorder->fail_after = (int)test_int(0, 5);
	result = (load->tp ? weights_broadcast : weights_load)(checkpoint, &source->config, shard, group,
							       &recorder->backend, &options,
							       &load->bytes[group->rank], err);
	load->results[group->rank] = result;
	load->used[group->rank] = recorder->threads;
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

/* The same where each byte is read once for all. */
static uint64_t model_bytes(const struct source *source)
{
	uint64_t total = 0;
	for (int slot = 0; slot < (source->config.layers + 1) * TENSOR_KINDS; slot++)
		total += tensor_bytes(&source->tensors[slot]);
	return total;
}

static void check_loaded(const struct source *source, int ranks, struct load_case load)
{
	struct error err = {0};
	CHECK_MSG(fake_group_run(ranks, load_rank, &load, NULL, &err) == 0, "%d ranks: %s", ranks,
		  err.message);
	uint64_t total = 0, expected = load.tp ? model_bytes(source) : expected_bytes(source, ranks);
	for (int rank = 0; rank < ranks; rank++) {
		total += load.bytes[rank];
		CHECK(load.reported[rank] == load.bytes[rank] &&
		      load.announced[rank] == load.bytes[rank]);
		CHECK(load.used[rank] && load.used[rank] < 1u << load.threads);
	}
	CHECK_MSG(total == expected, "%llu bytes were read, not %llu", (unsigned long long)total,
		  (unsigned long long)expected);
}

static void check_load(const struct source *source, int ranks, enum dtype dtype)
{
	struct load_case load = load_case(source, dtype);
	check_loaded(source, ranks, load);
	load.tp = ranks;
	check_loaded(source, ranks, load);
	if (ranks > 1 && ranks % 2 == 0) {
		load.tp = ranks / 2;
		check_loaded(source, ranks, load);
	}
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

/* Matrices of several parts. */
static void tensors_beyond_a_part(void)
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

/* Rows of several parts. */
static void rows_beyond_a_part(void)
{
	struct source *source = source_make();
	source->config = (struct model_config){
		.vocab = 8, .hidden = 2, .intermediate = 2 * LOAD_PART_BYTES / 4 + 77, .layers = 1,
		.heads = 2, .kv_heads = 1, .head_dim = 2, .dtype = DTYPE_F16,
	};
	fill_tensors(source, false);
	write_checkpoint(source, 1);
	check_load(source, 1, DTYPE_F32);
	check_load(source, 2, DTYPE_F16);
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
		struct load_case load = load_case(source, DTYPE_F32);
		bool cut = test_int(0, 1);
		load.tp = test_int(0, 1) ? ranks : 0;
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

/* Reading a process's own memory where it has none is an I/O error. */
static void read_errors_reach_all_ranks(void)
{
	for (int i = 0; i < 8; i++) {
		struct source *source = source_make();
		source->config.vocab = 300; /* every rank of 8 has a part of the embedding */
		fill_tensors(source, false);
		write_checkpoint(source, 1);
		int ranks = (int)test_int(1, source->config.heads < 8 ? source->config.heads : 8);
		struct error err = {0};
		struct load_case load = load_case(source, DTYPE_F32);
		load.failing_rank = (int)test_int(0, ranks - 1);
		load.tp = i & 1 ? ranks : 0;
		load.unreadable = open("/proc/self/mem", O_RDONLY);
		char rank[16], path[128];
		snprintf(rank, sizeof rank, "rank %d: ", load.failing_rank);
		snprintf(path, sizeof path, "%s/model.safetensors at byte ", source->folder);
		CHECK(load.unreadable >= 0);
		CHECK(fake_group_run(ranks, load_rank, &load, NULL, &err) == -1);
		for (int r = 0; r < ranks; r++)
			CHECK(load.results[r] == -1);
		CHECK_MSG(strstr(err.message, rank) && strstr(err.message, path) &&
			  strstr(err.message, "Input/output error"), "%s", err.message);
		close(load.unreadable);
		source_close(source);
	}
}

/* One reader for every byte, however many ranks and copies of the model there are. */
static void broadcast_reads_each_byte_once(void)
{
	static const int cases[][2] = {{1, 1}, {2, 2}, {3, 3}, {4, 4}, {7, 7}, {6, 2}, {4, 1}, {64, 16}, {63, 1}};
	struct source *source = source_make();
	char path[128];
	struct stat info;
	uint64_t header;
	source->config = (struct model_config){
		.vocab = 3000, .hidden = 512, .intermediate = 700, .layers = 2, .heads = 16,
		.kv_heads = 4, .head_dim = 32, .dtype = DTYPE_F16, .qkv_bias = true,
	};
	fill_tensors(source, false);
	write_checkpoint(source, 1);
	snprintf(path, sizeof path, "%s/model.safetensors", source->folder);
	int fd = open(path, O_RDONLY);
	CHECK(fd >= 0 && !fstat(fd, &info) && read(fd, &header, sizeof header) == sizeof header);
	close(fd);
	counted.file = info.st_ino;
	counted.size = (size_t)info.st_size;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct load_case load = load_case(source, DTYPE_BF16);
		uint64_t once = 0, more = 0;
		load.tp = cases[i][1];
		counted.times = calloc(counted.size, 1);
		check_loaded(source, cases[i][0], load);
		for (size_t at = 8 + (size_t)header; at < counted.size; at++) {
			once += counted.times[at] == 1;
			more += counted.times[at] > 1;
		}
		CHECK_MSG(once == model_bytes(source) && !more, "%d ranks, %d a replica: %llu bytes were "
			  "read once, of %llu, and %llu more often", cases[i][0], load.tp,
			  (unsigned long long)once, (unsigned long long)model_bytes(source),
			  (unsigned long long)more);
		free((void *)counted.times);
		counted.times = NULL;
	}
	source_close(source);
}

/* ---- what the disk reads ----------------------------------------------------------------- */

/* Bytes that this process made the system fetch from disks; -1 where it does not tell. */
static long long bytes_fetched(void)
{
	char line[128];
	long long bytes = -1;
	FILE *file = fopen("/proc/self/io", "r");
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "read_bytes: %lld", &bytes) == 1)
			break;
	if (file)
		fclose(file);
	return bytes;
}

/* Writes the file to its disk and makes the system forget it. Returns its size, or 0 where pages
 * stay, as they do without a disk. */
static long long forget_file(const char *path)
{
	struct stat info;
	int fd = open(path, O_RDONLY);
	long long size = fd < 0 || fstat(fd, &info) ? 0 : (long long)info.st_size;
	if (!size || fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)) {
		close(fd);
		return 0;
	}
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = ((size_t)size + page - 1) / page, left = 0;
	unsigned char *there = calloc(pages, 1);
	void *map = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED || mincore(map, (size_t)size, there))
		left = pages;
	for (size_t i = 0; i < pages; i++)
		left += there[i] & 1;
	if (map != MAP_FAILED)
		munmap(map, (size_t)size);
	free(there);
	close(fd);
	return left ? 0 : size;
}

/* Ranks that share every page of their columns make the disk read each page once. */
static void ranks_fetch_each_page_once(void)
{
	static const int ranks[] = {1, 2, 4, 7};
	struct source *source = source_make();
	char path[128];
	source->config = (struct model_config){
		.vocab = 2000, .hidden = 1024, .intermediate = 2816, .layers = 3, .heads = 16,
		.kv_heads = 16, .head_dim = 64, .dtype = DTYPE_F16,
	};
	fill_tensors(source, false);
	write_checkpoint(source, 1);
	snprintf(path, sizeof path, "%s/model.safetensors", source->folder);
	for (size_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++) {
		struct error err = {0};
		struct load_case load = load_case(source, DTYPE_F16);
		long long size = forget_file(path), before = bytes_fetched();
		if (!size || before < 0) {
			SKIP("%s", size ? "the system does not count what disks read"
					: "no disk holds the temporary folder");
			break;
		}
		CHECK_MSG(fake_group_run(ranks[i], load_rank, &load, NULL, &err) == 0, "%s", err.message);
		long long fetched = bytes_fetched() - before;
		CHECK_MSG(fetched > size / 10 * 9 && fetched < size + (1 << 20),
			  "%d ranks made the disk read %lld bytes of a file of %lld", ranks[i], fetched,
			  size);
	}
	source_close(source);
}

int main(void)
{
	RUN(random_models_in_parts);
	RUN(tensors_beyond_a_part);
	RUN(rows_beyond_a_part);
	RUN(broadcast_reads_each_byte_once);
	RUN(read_errors_reach_all_ranks);
	RUN(ranks_fetch_each_page_once);
	RUN(failures_reach_all_ranks);
	TEST_END();
}
