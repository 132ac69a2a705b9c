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
