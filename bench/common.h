/*
 * common.h - what the programs of this folder share: a backend on a published shape with random
 * weights, and steps for it. One rank, or several under mpirun. An error ends all of them.
 */
#ifndef TPRUN_BENCH_COMMON_H
#define TPRUN_BENCH_COMMON_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cuda/cuda.h"
#include "launcher/mpi_group.h"
#include "runtime/base/file.h"
#include "runtime/model/config.h"
#include "runtime/model/rope.h"
#include "runtime/model/shard.h"

static struct group *group;

static inline double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A benchmark has nothing to do after an error. */
static inline void need(int result, const struct error *err)
{
	if (result >= 0)
		return;
	fprintf(stderr, "rank %d: %s\n", group ? group->rank : 0, err->message);
	if (group)
		group->abort(group, err);
	exit(1);
}

static inline void *allocate(size_t count, size_t bytes)
{
	struct error err = {0};
	void *memory = calloc(count + 1, bytes);
	if (!memory)
		need(error_memory(&err, "the benchmark"), &err);
	return memory;
}

/* ---- arguments --------------------------------------------------------------------------- */

/* "--name value": a text, a whole number, or any; a list of these ends with an empty name. */
struct argument {
	const char *name, **text;
	int *number;
	double *real;
};

static inline bool read_arguments(const struct argument *known, int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		const struct argument *k = known;
		char *end = argv[i + 1];
		while (k->name && strcmp(k->name, argv[i]))
			k++;
		if (!k->name)
			return false;
		if (k->text)
			*k->text = argv[i + 1];
		else if (k->number)
			*k->number = (int)strtol(argv[i + 1], &end, 10);
		else
			*k->real = strtod(argv[i + 1], &end);
		if (!k->text && (end == argv[i + 1] || *end))
			return false;
	}
	return argc % 2 == 1;
}

static inline const char *default_backend(void)
{
#ifdef TPRUN_CUDA
	return "cuda";
#else
	return "cpu";
#endif
}

static inline enum dtype dtype_of(const char *name)
{
	return !strcmp(name, "f32") ? DTYPE_F32 : !strcmp(name, "f16") ? DTYPE_F16 : DTYPE_BF16;
}

/* ---- the backend ------------------------------------------------------------------------- */

/* Returns what the backend's own open returns; options->device is set here. */
static inline int open_named(const char *name, struct backend **out, struct backend_options *options,
			     struct error *err)
{
	int gpus = 0;
	need(cuda_device_count(&gpus, err), err);
	options->device = gpus ? group->local_rank % gpus : 0;
	*out = NULL;
	if (!strcmp(name, "cpu"))
		return cpu_backend_open(out, options, err);
#ifdef TPRUN_CUDA
	if (!strcmp(name, "cuda"))
		return cuda_backend_open(out, options, err);
#endif
	return error_usage(err, "no backend %s here", name);
}

static inline const char *reduce_name(const char *backend_name, const struct backend *backend)
{
	(void)backend;
#ifdef TPRUN_CUDA
	if (!strcmp(backend_name, "cuda"))
		return cuda_backend_reduce_name(backend);
#endif
	(void)backend_name;
	return group->size > 1 ? "MPI" : "none";
}

/* The model's part of this rank, its backend, and the lists of a step. */
struct bench {
	struct model_config config;
	struct shard shard;
	float frequencies[HEAD_DIM_MAX / 2];
	struct backend_options options;
	struct backend *backend;
	int blocks_each; /* of a sequence, in the cache that the sequences share out */
	int32_t *ids, *positions, *first, *blocks, *rows;
	struct logit_request *requests;
	struct logit_result *results;
};

/* A sequence may hold `context` positions, the cache `positions` in all. */
static inline void bench_open(struct bench *b, const char *shape, const char *backend, const char *dtype,
			      int threads, int sequences, int context, int positions, int tokens)
{
	struct error err = {0};
	char *text;
	size_t length, most = (size_t)sequences;
	float magnitude;
	int blocks = (context + KV_BLOCK - 1) / KV_BLOCK;

	need(file_read(shape, 1 << 20, &text, &length, &err), &err);
	need(config_parse(&b->config, text, length, shape, &err), &err);
	free(text);
	need(shard_make(&b->shard, &b->config, group->size, group->rank, &err), &err);
	rope_frequencies(&b->config, b->frequencies, &magnitude);
	b->options = (struct backend_options){
		.shape = shard_backend_shape(&b->shard, &b->config, dtype_of(dtype), b->frequencies, magnitude),
		.group = group, .kv_blocks = (positions + KV_BLOCK - 1) / KV_BLOCK, .max_tokens = tokens,
		.max_sequences = sequences, .max_blocks = blocks, .max_logit_rows = sequences,
		.threads = threads, .patience_s = 20,
	};
	double start = now();
	need(open_named(backend, &b->backend, &b->options, &err), &err);
	double opened = now();
	need(b->backend->ops->load_random(b->backend, 1, &err), &err);
	need(b->backend->ops->load_end(b->backend, &err), &err);
	if (group->rank == 0)
		printf("%s, %s, %s, %d ranks, sums: %s; open %.2f s, random weights %.2f s\n", shape,
		       dtype_name(b->options.shape.dtype), backend, group->size,
		       reduce_name(backend, b->backend), opened - start, now() - opened);
	b->blocks_each = b->options.kv_blocks / sequences;
	b->ids = allocate((size_t)tokens, sizeof *b->ids);
	b->positions = allocate((size_t)tokens, sizeof *b->positions);
	b->first = allocate(most + 1, sizeof *b->first);
	b->blocks = allocate(most * (size_t)blocks, sizeof *b->blocks);
	b->rows = allocate(most, sizeof *b->rows);
	b->requests = allocate(most, sizeof *b->requests);
	b->results = allocate(most, sizeof *b->results);
}

static inline void bench_close(struct bench *b)
{
	b->backend->ops->close(b->backend);
	free(b->ids), free(b->positions), free(b->first), free(b->blocks), free(b->rows);
	free(b->requests), free(b->results);
}

/* Sequences [which, which + sequences), each with `tokens` tokens from position `before` on. */
struct part {
	int which, sequences, tokens, before;
};

/* A step of `count` parts, which wants the logits of every sequence's last token. */
static inline struct step bench_step(struct bench *b, const struct part *parts, int count)
{
	int32_t blocks = b->options.max_blocks, tokens = 0, sequences = 0;
	for (const struct part *p = parts; p < parts + count; p++)
		for (int i = p->which; i < p->which + p->sequences; i++, sequences++) {
			b->first[sequences] = tokens;
			for (int t = p->before; t < p->before + p->tokens; t++, tokens++) {
				b->positions[tokens] = t;
				b->ids[tokens] = (int32_t)((t * 7919L + i * 31L) % b->config.vocab);
			}
			b->rows[sequences] = tokens - 1;
			b->requests[sequences] = (struct logit_request){1, 1, NULL, 0, -1};
			for (int k = 0; k < blocks; k++)
				b->blocks[sequences * blocks + k] =
					k < b->blocks_each ? i * b->blocks_each + k : 0;
		}
	b->first[sequences] = tokens;
	return (struct step){tokens, sequences, sequences, blocks, b->ids, b->positions,
			     b->first, b->blocks, b->rows, NULL};
}

#endif
