/*
 * tensor.cuh - tensor-core products and background copies, for the attention of 16-bit models.
 *
 * In the fragments of mma.m16n8k16 a lane holds, of a 16 x 8 result, rows lane/4 and lane/4 + 8,
 * and of each the columns lane%4*2 and the next.
 */
#ifndef TPRUN_CUDA_TENSOR_CUH
#define TPRUN_CUDA_TENSOR_CUH

#include "kernels/cuda/internal.cuh"

__device__ __forceinline__ uint32_t pack_pair(float low, float high, __nv_bfloat16)
{
	__nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
	return *(uint32_t *)&pair;
}

__device__ __forceinline__ uint32_t pack_pair(float low, float high, __half)
{
	__half2 pair = __floats2half2_rn(low, high);
	return *(uint32_t *)&pair;
}

/* d += a b: a 16 x 16 (rows), b 16 x 8 (columns). */
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
					 __nv_bfloat16)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
		     "{%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
					 __half)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
		     "{%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t shared_address(const void *at)
{
	return (uint32_t)__cvta_generic_to_shared(at);
}

/* Four 8 x 8 matrices; lanes 8m..8m+7 give the rows of matrix m. */
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(shared_address(row)) : "memory");
}

__device__ __forceinline__ void load_matrices_turned(uint32_t (&r)[4], const void *row)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(shared_address(row)) : "memory");
}

/* 16 bytes of shared memory. */
__device__ __forceinline__ uint4 load_shared(uint32_t address)
{
	uint4 v;
	asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
		     : "r"(address) : "memory");
	return v;
}

/* 8 bytes of it. */
__device__ __forceinline__ void load_shared(uint32_t address, uint32_t (&v)[2])
{
	asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "r"(address) : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t address, float v)
{
	asm volatile("st.shared.f32 [%0], %1;" :: "r"(address), "f"(v) : "memory");
}

/* 8 bytes where `there`; otherwise v remains as it is. */
__device__ __forceinline__ void load_shared_where(bool there, uint32_t address, uint32_t (&v)[2])
{
	asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.u32 p, %3, 0;\n\t@p ld.shared.v2.u32 {%0,%1}, [%2];\n\t}"
		     : "+r"(v[0]), "+r"(v[1]) : "r"(address), "r"((uint32_t)there) : "memory");
}

/* Adds one to a counter in shared memory, and tells what it was. Who adds sees what those before it had written. */
__device__ __forceinline__ int count_in(int *counter)
{
	int before;
	asm volatile("atom.acq_rel.cta.shared::cta.add.u32 %0, [%1], 1;"
		     : "=r"(before) : "r"(shared_address(counter)) : "memory");
	return before;
}

/* An mbarrier in shared memory, whose phases end when so many threads have arrived. */
__device__ __forceinline__ void phase_prepare(uint64_t *barrier, int threads)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
		     :: "r"(shared_address(barrier)), "r"(threads) : "memory");
}

/* What the thread has written before is seen by those who have waited. */
__device__ __forceinline__ void phase_arrive(uint32_t barrier)
{
	asm volatile("{\n\t.reg .b64 state;\n\t"
		     "mbarrier.arrive.shared::cta.b64 state, [%0];\n\t}"
		     :: "r"(barrier) : "memory");
}

/* Whether a phase is over, of which there are even and odd ones. */
__device__ __forceinline__ bool phase_over(const uint64_t *barrier, uint32_t parity)
{
	uint32_t over;
	asm volatile("{\n\t.reg .pred p;\n\t"
		     "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
		     "selp.u32 %0, 1, 0, p;\n\t}"
		     : "=r"(over) : "r"(shared_address(barrier)), "r"(parity) : "memory");
	return over;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
/* Waits for its end. */
__device__ __forceinline__ void phase_await(const uint64_t *barrier, uint32_t parity)
{
	uint32_t over = 0;
	while (!over)
		asm volatile("{\n\t.reg .pred p;\n\t"
			     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
			     "selp.u32 %0, 1, 0, p;\n\t}"
			     : "=r"(over) : "r"(shared_address(barrier)), "r"(parity) : "memory");
}
#endif

/* 16 bytes to shared memory in the background. */
__device__ __forceinline__ void copy_piece(uint32_t to, const void *from)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
}

/* The same, or zeros where not `there`. */
__device__ __forceinline__ void copy_piece(uint32_t to, const void *from, bool there)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
		     :: "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copy_piece(void *to, const void *from, bool there)
{
	copy_piece(shared_address(to), from, there);
}

/* Four bytes of them. */
__device__ __forceinline__ void copy_word(void *to, const void *from)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(shared_address(to)), "l"(from) : "memory");
}

__device__ __forceinline__ void copy_commit(void)
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All copies but those of the last N commits have arrived. */
template <int N> __device__ __forceinline__ void copy_wait(void)
{
	asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

/* Calls f(W(), d) for the shape's 16-bit type, where decltype(d)::D is the head size up to 64 or 128. */
template <typename F> static inline int for_tensor(const struct cuda_backend *b, F f)
{
	bool small = b->options.shape.head_dim <= 64;
	struct d64 { enum { D = 64 }; };
	struct d128 { enum { D = 128 }; };
	if (b->options.shape.dtype == DTYPE_F16)
		return small ? f(__half(), d64()) : f(__half(), d128());
	return small ? f(__nv_bfloat16(), d64()) : f(__nv_bfloat16(), d128());
}

#endif
