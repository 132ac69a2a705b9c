/*
 * hash.h - a 64-bit hash of bytes, to tell whether ranks read the same: FNV-1a, by Fowler, Noll and Vo
 * (RFC 9923). No defence against anybody who looks for collisions.
 */
#ifndef TPRUN_BASE_HASH_H
#define TPRUN_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define HASH_START UINT64_C(0xcbf29ce484222325)

/* Goes on from `hash`, which at first is HASH_START. */
static inline uint64_t hash_bytes(uint64_t hash, const void *data, size_t length)
{
	const unsigned char *bytes = (const unsigned char *)data;
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
	return hash;
}

#endif
