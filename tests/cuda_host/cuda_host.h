/* cuda_host.h - enough of CUDA to run the kernels of model/cuda on the host, for tests.
 *
 * A block's threads are fibers that run one at a time and change only where they wait for each other:
 * __syncthreads, __syncwarp, shuffles. Which fiber runs next, and which block, is set by cuda_host_order():
 * ascending, descending or shuffled; a result that depends on it is a race. What a GPU forgives or hangs on
 * is an error here that ends the program with the kernel's name: a barrier that some threads never reach, a
 * shuffle without all of the lanes. Device and shared memory are separate allocations full of NaN, so that
 * AddressSanitizer and comparisons find what is read outside or before it was written.
 * A captured graph keeps the arguments as they were at capture, like the real one.
 * Not modelled: the caches, memory order between blocks of one launch, streams that overlap, time. */
#ifndef CAIRN_TESTS_CUDA_HOST_H
#define CAIRN_TESTS_CUDA_HOST_H

#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
/* Set before a fiber goes on, so they read as they do on a GPU. */
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};

/* ---- inside a kernel */
void cuda_host_barrier();
/* Every lane of the warp gives n <= 32 bytes, and sees those of all: lane i's at 32 i, until its next call.
 */
enum cuda_host_meeting { CUDA_HOST_SYNC, CUDA_HOST_XOR, CUDA_HOST_LANE, CUDA_HOST_MMA };
const unsigned char *cuda_host_gather(const void *mine, size_t n, enum cuda_host_meeting what);
void *cuda_host_shared(const void *key, size_t bytes);
void *cuda_host_dynamic();
[[noreturn]] void cuda_host_fail(const char *what);

static inline void __syncthreads() { cuda_host_barrier(); }
static inline void __syncwarp()
{
    char mine = 0;
    (void)cuda_host_gather(&mine, 1, CUDA_HOST_SYNC);
}
template <typename T>
static inline T cuda_host_shuffle(unsigned mask, T v, unsigned lane, enum cuda_host_meeting what)
{
    if (mask != 0xffffffffu)
        cuda_host_fail("a shuffle of some lanes only is not modelled");
    T got;
    memcpy(&got, cuda_host_gather(&v, sizeof v, what) + 32 * (lane & 31), sizeof got);
    return got;
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int with)
{
    return cuda_host_shuffle(mask, v, threadIdx.x ^ (unsigned)with, CUDA_HOST_XOR);
}
template <typename T> static inline T __shfl_sync(unsigned mask, T v, int lane)
{
    return cuda_host_shuffle(mask, v, (unsigned)lane, CUDA_HOST_LANE);
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += (int)(int8_t)(a >> (8 * i)) * (int)(int8_t)(b >> (8 * i));
    return c;
}
static inline float __uint_as_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint32_t __float_as_uint(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
static inline int __float2int_rn(float f) { return (int)lrintf(f); }
/* Half precision lies in memory as its bits. */
float cuda_host_half_to_float(uint16_t h);
uint16_t cuda_host_float_to_half(float f);
/* D = A B + C of mma.sync.m16n8k16 with half inputs and float sums; operands as PTX lays them over lanes. */
void cuda_host_mma_16816(float c[4], const uint32_t a[4], const uint32_t b[2]);

/* ---- the runtime */
typedef int cudaError_t;
enum {
    cudaSuccess = 0,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorLaunchFailure = 719
};
typedef struct cuda_host_stream *cudaStream_t;
typedef struct cuda_host_graph *cudaGraph_t;
typedef struct cuda_host_graph *cudaGraphExec_t;
typedef struct cuda_host_event *cudaEvent_t;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamCaptureModeThreadLocal, cudaStreamNonBlocking = 1 };
enum { cudaDevAttrMultiProcessorCount, cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount;
};
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);
cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, int mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e);
cudaError_t cudaEventCreate(cudaEvent_t *e);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b);
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);

cudaError_t cuda_host_run(const char *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t s,
                          std::function<void()> body);
template <typename... P, typename... A>
static inline cudaError_t cuda_host_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                                           size_t shared, cudaStream_t s, A... args)
{
    std::tuple<P...> kept(static_cast<P>(args)...);
    return cuda_host_run(name, grid, block, shared, s, [kernel, kept]() { std::apply(kernel, kept); });
}

/* ---- cuBLAS: the one call that is used */
typedef struct cuda_host_blas *cublasHandle_t;
typedef int cublasStatus_t;
enum { CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_INVALID_VALUE = 7 };
enum { CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT, CUDA_R_16F, CUDA_R_32F };
cublasStatus_t cublasCreate(cublasHandle_t *h);
cublasStatus_t cublasDestroy(cublasHandle_t h);
cublasStatus_t cublasSetStream(cublasHandle_t h, cudaStream_t s);
cublasStatus_t cublasSetWorkspace(cublasHandle_t h, void *p, size_t n);
cublasStatus_t cublasGemmEx(cublasHandle_t h, int op_a, int op_b, int m, int n, int k, const void *alpha,
                            const void *a, int type_a, int lda, const void *b, int type_b, int ldb,
                            const void *beta, void *c, int type_c, int ldc, int compute, int algo);

/* ---- what tests turn; exported by the module beside its own entry.
 * The environment sets the same before anything runs: CAIRN_CUDA_HOST_DEVICES (0: none), _MEMORY (bytes),
 * _ORDER. */
#pragma GCC visibility push(default)
extern "C" {
void cuda_host_order(unsigned order);       /* 0 ascending, 1 descending, else a seed */
void cuda_host_memory(size_t bytes);        /* of the device */
void cuda_host_fail_after(unsigned long n); /* the nth launch from now and all after it fail; 0: never */
size_t cuda_host_allocated(void);           /* bytes now: a leak after everything is released */
unsigned long cuda_host_launches(void);
unsigned long cuda_host_allocations(void); /* so far: a step must not make any */
}
#pragma GCC visibility pop

#endif
