#include "launcher/start_checks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/mpi_group.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/known_sum.h"

enum { CONFIG_BYTES_MAX = 16 << 20, SUMMED = 257 };

#ifdef TPRUN_CUDA
#define BUILT_FOR ", built with CUDA"
#else
#define BUILT_FOR ", built without CUDA"
#endif

int likeness_make(struct likeness *out, const char *config_path, uint64_t headers, enum dtype dtype,
		  struct error *err)
{
	char *text;
	size_t length;
	if (file_read(config_path, CONFIG_BYTES_MAX, &text, &length, err))
		return -1;
	*out = (struct likeness){
		.version = TPRUN_VERSION BUILT_FOR, .config = hash_bytes(HASH_START, text, length),
		.headers = headers, .dtype = (int32_t)dtype,
	};
	free(text);
	return 0;
}

/* Rank `rank` differs from rank 0: how. 0 where it does not. */
static int compare(const struct likeness *first, const struct likeness *other, int rank,
		   struct error *err)
{
	if (strncmp(first->version, other->version, sizeof first->version))
		return error_run(err, "the ranks are not of one build: rank 0 is tprun %.63s, rank %d is "
				      "tprun %.63s", first->version, rank, other->version);
	if (first->config != other->config)
		return error_run(err, "the ranks read different models: config.json has hash %016" PRIx64
				      " on rank 0 and %016" PRIx64 " on rank %d",
				 first->config, other->config, rank);
	if (first->headers != other->headers)
		return error_run(err, "the ranks read different weights: the safetensors headers have hash "
				      "%016" PRIx64 " on rank 0 and %016" PRIx64 " on rank %d",
				 first->headers, other->headers, rank);
	if (first->dtype != other->dtype)
		return error_run(err, "the ranks run in different types: %s on rank 0 and %s on rank %d",
				 dtype_name((enum dtype)first->dtype),
				 dtype_name((enum dtype)other->dtype), rank);
	return 0;
}

int likeness_check(const struct likeness *own, const struct group *world, struct error *err)
{
	struct likeness *all = calloc((size_t)world->size, sizeof *all);
	int result = world->agree(world, all ? 0 : error_memory(err, "the ranks' builds"), err);
	if (!result)
		result = mpi_group_all_gather(world, own, sizeof *own, all, err);
	for (int r = 1; !result && r < world->size; r++)
		result = compare(&all[0], &all[r], r, err);
	free(all);
	return result;
}

int versions_compare(const struct cuda_versions *all, int ranks, char *warning, size_t room,
		     struct error *err)
{
	char first[96], other[96];
	warning[0] = '\0';
	cuda_versions_text(&all[0], first, sizeof first);
	for (int r = 1; r < ranks; r++) {
		cuda_versions_text(&all[r], other, sizeof other);
		if (all[r].runtime != all[0].runtime)
			return error_run(err, "the ranks were built with different CUDA: rank 0 has %s, rank %d has "
					      "%s; start the same build on every host", first, r, other);
		if (all[r].nccl != all[0].nccl && all[r].nccl && all[0].nccl)
			return error_run(err, "the ranks have different versions of NCCL, which do not talk to each "
					      "other: rank 0 has %s, rank %d has %s; let every host load the same "
					      "libnccl.so (LD_LIBRARY_PATH, the same module)", first, r, other);
		if (all[r].driver != all[0].driver && !warning[0])
			snprintf(warning, room, "tprun: warning: the ranks' GPUs have different drivers: rank 0 has "
						"%s, rank %d has %s; if sums over them fail or hang, ask for nodes "
						"of one kind (sbatch --constraint)", first, r, other);
	}
	return 0;
}

int versions_check(const struct cuda_versions *own, const struct group *world, const struct log *log,
		   struct error *err)
{
	char warning[512];
	struct cuda_versions *all = calloc((size_t)world->size, sizeof *all);
	int result = world->agree(world, all ? 0 : error_memory(err, "the ranks' versions of CUDA"), err);
	if (!result)
		result = mpi_group_all_gather(world, own, sizeof *own, all, err);
	if (!result)
		result = versions_compare(all, world->size, warning, sizeof warning, err);
	if (!result && warning[0] && world->rank == 0)
		log_say(log, LOG_WARNING, "%s", warning);
	free(all);
	return result;
}

int sums_check(const struct group *group, struct error *err)
{
	float values[SUMMED];
	known_parts(values, SUMMED, group->rank, group->size, 0);
	if (group->sum(group, values, SUMMED, err))
		return -1;
	if (known_sums_check(values, SUMMED, group->size, 0, err))
		return error_context(err, "the connection between the ranks changes data");
	return 0;
}
