/* cuda.cuh - what the kernels need of CUDA, under names that the host emulation of tests/cuda_host supplies
 * as well: CAIRN_CUDA_HOST compiles the same kernels for the host. Halves lie in memory as their bits. */
#ifndef CAIRN_CUDA_CUH
#define CAIRN_CUDA_CUH

#include "../device.h"

#ifdef CAIRN_CUDA_HOST
#include <cuda_host.h>

#define SHARED(type, name, count)                                                                            \
    static const char name##_key = 0;                                                                        \
    type *name = (type *)cuda_host_shared(&name##_key, sizeof(type) * (count))
#define SHARED_DYNAMIC(type, name) type *name = (type *)cuda_host_dynamic()

static inline float half_to_float(uint16_t h) { return cuda_host_half_to_float(h); }
static inline uint16_t float_to_half(float f) { return cuda_host_float_to_half(f); }
static inline void mma_16816(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    cuda_host_mma_16816(c, a, b);
}
#else
#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define SHARED_DYNAMIC(type, name)                                                                           \
    extern __shared__ __align__(16) unsigned char shared_dynamic[];                                          \
    type *name = (type *)shared_dynamic

static __device__ __forceinline__ float half_to_float(uint16_t h)
{
    return __half2float(__ushort_as_half(h));
}
static __device__ __forceinline__ uint16_t float_to_half(float f)
{
    return __half_as_ushort(__float2half_rn(f));
}
/* C += A B, 16 x 8 of float from 16 x 16 and 16 x 8 of half; operands over the lanes as PTX lays them. */
static __device__ __forceinline__ void mma_16816(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

#define DEVICE static __device__ __forceinline__
#define KERNEL static __global__
#define ALL_LANES 0xffffffffu

DEVICE float bf16_to_float(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }
DEVICE uint32_t half_pair(float low, float high)
{
    return (uint32_t)float_to_half(low) | (uint32_t)float_to_half(high) << 16;
}
DEVICE float half_low(uint32_t pair) { return half_to_float((uint16_t)pair); }
DEVICE float half_high(uint32_t pair) { return half_to_float((uint16_t)(pair >> 16)); }

/* Over the warp; every lane gets the same, in one order of summation. */
DEVICE float warp_sum(float v)
{
    for (int with = 16; with; with /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, with);
    return v;
}
DEVICE uint32_t warp_max_bits(uint32_t v)
{
    for (int with = 16; with; with /= 2) {
        uint32_t other = __shfl_xor_sync(ALL_LANES, v, with);
        v = other > v ? other : v;
    }
    return v;
}
DEVICE float warp_max(float v)
{
    for (int with = 16; with; with /= 2)
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, with));
    return v;
}
/* Over the block; scratch: 32 floats of shared memory. */
DEVICE float block_sum(float v, float *scratch)
{
    v = warp_sum(v);
    __syncthreads(); /* the last reader of scratch is done */
    if (threadIdx.x % 32 == 0)
        scratch[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0;
    return warp_sum(v);
}
DEVICE uint32_t block_max_bits(uint32_t v, uint32_t *scratch)
{
    v = warp_max_bits(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        scratch[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0;
    return warp_max_bits(v);
}
/* Of |v| as bits: larger bits, larger number, and NaN above all, so that a maximum carries it along. */
DEVICE uint32_t magnitude_bits(float v) { return __float_as_uint(v) & 0x7fffffffu; }

#endif
