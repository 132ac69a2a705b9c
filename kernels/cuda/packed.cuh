/*
 * packed.cuh - bfloat16 weights in 12 bits each, without loss, as packed.cu makes them and gemv_packed.cu reads them.
 *
 * A weight's sign and its 7 bits of mantissa are kept as they are. Of its exponent four bits are left: 1 to 15, counted from
 * where its row's window of 15 exponents begins; 0 is for zero. Nearly all weights of a row lie in such a window, which
 * reaches over four and a half decimal orders. Those few that don't, the row's strays, are zeros there, and stand in a
 * list with their columns, for which a matrix has as many places in each row as one of its rows wants; where that is too
 * many, the matrix is not packed. Every product is that of the weight as it is in the file: what is saved is a quarter of
 * the bytes to be read. Of normally distributed weights one in 7,000 is a stray. (That exponents of trained weights
 * have few bits of information: "70% Size, 100% Accuracy: Lossless LLM Compression", arXiv 2504.11651, which codes them
 * by lengths. Codes of one length waste some of that, and can be undone with seven instructions for eight weights.)
 *
 * A tile is TILE rows, two groups of gemv.cuh. It begins with its side: each row's scale, by which sums are to be
 * multiplied, and strays, each a word of weight and column. Units of UNIT columns follow, as a warp reads them: three pieces
 * of 16 bytes for each lane. Lane 4r + c has row r's columns 16s + 4c to 16s + 4c + 3 for every step s. A word of the first two
 * pieces has the low bytes of a step's weights: the exponent's last bit and the mantissa. A word of the third has the high
 * bytes of two steps', of which only the sign and three bits of exponent are kept: those of the first step in bits 7 and
 * 2 to 0 of each byte, those of the second where turning the word by four bits takes them there.
 */
#ifndef TPRUN_CUDA_PACKED_CUH
#define TPRUN_CUDA_PACKED_CUH

#include "kernels/cuda/gemv.cuh"

enum {
	TILE = 8,		/* rows */
	UNIT = 128,		/* columns */
	STEPS = UNIT / 16,	/* of the tensor cores */
	UNIT_PIECES = 3 * 32,
	INPUT_BITS = 56,	/* by which input is to be scaled up: packed weights are of the order of 2^-112 */
};

static __host__ __device__ __forceinline__ int side_pieces_of(int strays)
{
	return TILE * 4 / 16 * (1 + strays);
}

/* Row r of a tile, and whether there is one. */
__device__ __forceinline__ int tile_row(const struct gemv_rows &m, int tile, int r)
{
	return gemv_row(m, 2 * tile + r / ROWS, r % ROWS);
}

__device__ __forceinline__ bool tile_row_exists(const struct gemv_rows &m, int tile, int r, int row)
{
	return 2 * tile + r / ROWS < m.groups && gemv_row_exists(m, row, r % ROWS);
}

/* The four weights of step S of a lane's unit, as fragments. */
template <int S> __device__ __forceinline__ void packed_weights(const uint4 (&unit)[3], uint32_t (&b)[2])
{
	const uint4 four = unit[S / 4];
	const uint32_t low = S % 4 == 0 ? four.x : S % 4 == 1 ? four.y : S % 4 == 2 ? four.z : four.w;
	const uint32_t both = S / 2 == 0 ? unit[2].x : S / 2 == 1 ? unit[2].y : S / 2 == 2 ? unit[2].z : unit[2].w;
	const uint32_t high = (S % 2 ? __funnelshift_r(both, both, 4) : both) & 0x87878787;
	b[0] = __byte_perm(low, high, 0x5140);
	b[1] = __byte_perm(low, high, 0x7362);
}

#endif
