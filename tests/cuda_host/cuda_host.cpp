/* cuda_host.cpp - fibers for the threads of a block, and a runtime that runs everything at once. */
#include "cuda_host.h"

#include <map>
#include <mutex>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

/* ---- fibers
 * ----------------------------------------------------------------------------------------------------- */

static const size_t stack_bytes = 64 << 10;

#ifdef __x86_64__
/* Saves what a call keeps, changes stacks, and returns into the other. swapcontext() would do, at two system
 * calls a change, and a test makes millions. A jump, because a ret would be predicted wrongly each time. */
extern "C" void cuda_host_switch(void **save, void *to);
asm(".text\n.globl cuda_host_switch\n.type cuda_host_switch,@function\ncuda_host_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\npopq %rcx\njmp *%rcx\n"
    ".size cuda_host_switch,.-cuda_host_switch\n");
#endif

enum fiber_state { RUNNING, AT_BARRIER, AT_WARP, DONE };
struct fiber {
    char *stack;
#ifdef __x86_64__
    void *at;
#else
    ucontext_t at;
#endif
    enum fiber_state state;
    unsigned generation; /* gathers so far */
};
struct warp {
    unsigned arrived;
    enum cuda_host_meeting what;
    size_t bytes[2];
    alignas(16) unsigned char lanes[2][32][32];
};

static std::vector<fiber> fibers;
static std::vector<warp> warps;
static std::vector<unsigned> ready, sequence;
static size_t ready_at;
static unsigned current, n_threads, n_at_barrier, n_done;
static const char *kernel_name = "";
static const std::function<void()> *kernel_body;
static size_t dynamic_bytes;
static std::map<const void *, void *> shared_memory;
#ifdef __x86_64__
static void *scheduler;
#else
static ucontext_t scheduler;
#endif

[[noreturn]] void cuda_host_fail(const char *what)
{
    fprintf(stderr, "cuda_host: %s, block (%u, %u, %u) thread %u: %s\n", kernel_name, blockIdx.x, blockIdx.y,
            blockIdx.z, threadIdx.x, what);
    abort();
}

static void leave()
{
#ifdef __x86_64__
    cuda_host_switch(&fibers[current].at, scheduler);
#else
    swapcontext(&fibers[current].at, &scheduler);
#endif
}

static void fiber_main()
{
    (*kernel_body)();
    fibers[current].state = DONE;
    n_done++;
    if (n_at_barrier)
        cuda_host_fail("this thread has ended, others wait in __syncthreads");
    leave();
    abort();
}

static void fiber_start(unsigned i)
{
    struct fiber &f = fibers[i];
    if (!f.stack) {
        f.stack = (char *)mmap(NULL, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (f.stack == MAP_FAILED)
            cuda_host_fail("no memory for a stack");
    }
    f.state = RUNNING;
    f.generation = 0;
#ifdef __x86_64__
    /* not all at the same distance from a page, or they would share a few lines of the cache */
    void **top = (void **)(f.stack + stack_bytes - 64 - i % 64 * 192);
    *top = (void *)fiber_main; /* the stack is then as after a call */
    for (int r = 0; r < 6; r++)
        *--top = NULL;
    f.at = top;
#else
    getcontext(&f.at);
    f.at.uc_stack.ss_sp = f.stack;
    f.at.uc_stack.ss_size = stack_bytes;
    f.at.uc_link = NULL;
    makecontext(&f.at, fiber_main, 0);
#endif
}

static unsigned order_seed;
static uint64_t order_state;
static unsigned order_random(unsigned n)
{
    order_state = order_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)((order_state >> 33) % n);
}
static void shuffle(std::vector<unsigned> &v, size_t begin)
{
    size_t n = v.size() - begin;
    for (size_t i = 0; order_seed == 1 && i < n / 2; i++)
        std::swap(v[begin + i], v[begin + n - 1 - i]);
    for (size_t i = n; order_seed > 1 && i > 1; i--)
        std::swap(v[begin + i - 1], v[begin + order_random((unsigned)i)]);
}
static void make_ready(unsigned first, unsigned n)
{
    size_t begin = ready.size();
    for (unsigned i = 0; i < n; i++) {
        fibers[first + i].state = RUNNING;
        ready.push_back(first + i);
    }
    shuffle(ready, begin);
}

void cuda_host_barrier()
{
    fibers[current].state = AT_BARRIER;
    if (n_done)
        cuda_host_fail("__syncthreads after other threads have ended");
    if (++n_at_barrier == n_threads) {
        n_at_barrier = 0;
        make_ready(0, n_threads);
    }
    leave();
}

const unsigned char *cuda_host_gather(const void *mine, size_t n, enum cuda_host_meeting what)
{
    unsigned lane = current % 32, first = current - lane, turn = fibers[current].generation++ % 2;
    struct warp &w = warps[current / 32];
    if (n > sizeof w.lanes[0][0])
        cuda_host_fail("more bytes than a lane can give");
    if (!w.arrived) {
        w.what = what;
        w.bytes[turn] = n;
    } else if (w.what != what || w.bytes[turn] != n) {
        cuda_host_fail("lanes of one warp wait in different places");
    }
    memcpy(w.lanes[turn][lane], mine, n);
    fibers[current].state = AT_WARP;
    if (++w.arrived == 32) {
        w.arrived = 0;
        make_ready(first, 32);
    }
    leave();
    return w.lanes[turn][0]; /* others write there again only after they have all come to the next call */
}

void *cuda_host_shared(const void *key, size_t bytes)
{
    void *&p = shared_memory[key];
    if (!p) {
        p = aligned_alloc(16, (bytes + 15) / 16 * 16);
        memset(p, 0xff, bytes);
    }
    return p;
}
static const char dynamic_key = 0;
void *cuda_host_dynamic()
{
    if (!dynamic_bytes)
        cuda_host_fail("dynamic shared memory, but the launch gave none");
    return cuda_host_shared(&dynamic_key, dynamic_bytes);
}

static void run_block(unsigned b)
{
    blockIdx = dim3(b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y);
    n_at_barrier = n_done = 0;
    ready.clear();
    ready_at = 0;
    for (unsigned i = 0; i < n_threads; i++)
        fiber_start(i);
    for (struct warp &w : warps)
        w.arrived = 0;
    make_ready(0, n_threads);
    while (n_done < n_threads) {
        if (ready_at == ready.size())
            cuda_host_fail("threads wait for each other in different places");
        current = ready[ready_at++];
        if (ready_at > 4096) {
            ready.erase(ready.begin(), ready.begin() + (long)ready_at);
            ready_at = 0;
        }
        threadIdx = dim3(current);
#ifdef __x86_64__
        cuda_host_switch(&scheduler, fibers[current].at);
#else
        swapcontext(&scheduler, &fibers[current].at);
#endif
    }
    for (auto &s : shared_memory)
        free(s.second);
    shared_memory.clear();
}

static void run_grid(const char *name, dim3 grid, dim3 block, size_t shared,
                     const std::function<void()> &body)
{
    kernel_name = name;
    kernel_body = &body;
    dynamic_bytes = shared;
    gridDim = grid;
    blockDim = block;
    blockIdx = threadIdx = dim3(0, 0, 0);
    n_threads = block.x;
    if (block.x % 32 || block.x > 1024 || block.y != 1 || block.z != 1)
        cuda_host_fail("a block is one row of whole warps, at most 1024 threads");
    if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
        cuda_host_fail("a grid of no blocks, or of more than 65535 in y or z");
    if (shared > 48 << 10)
        cuda_host_fail("more than 48 KiB of shared memory");
    if (fibers.size() < n_threads)
        fibers.resize(n_threads);
    warps.resize(n_threads / 32);
    unsigned n = grid.x * grid.y * grid.z;
    order_state = order_seed;
    std::vector<unsigned> blocks(n);
    for (unsigned b = 0; b < n; b++)
        blocks[b] = b;
    shuffle(blocks, 0);
    for (unsigned b : blocks)
        run_block(b);
}

/* ---- runtime
 * ---------------------------------------------------------------------------------------------------- */

struct cuda_host_launch_record {
    const char *name;
    dim3 grid, block;
    size_t shared;
    std::function<void()> body;
};
struct cuda_host_graph {
    std::vector<cuda_host_launch_record> launches;
};
struct cuda_host_stream {
    cuda_host_graph *capture;
};
struct cuda_host_event {
    int unused;
};
static std::recursive_mutex runtime; /* one kernel at a time, whoever launches it */
static std::map<void *, size_t> allocations;
static size_t allocated, memory_limit = (size_t)1 << 30;
static unsigned long n_launches, fail_at, n_allocations;
static cudaError_t sticky;
static int devices = 1;

__attribute__((constructor)) static void from_environment()
{
    if (getenv("CAIRN_CUDA_HOST_DEVICES"))
        devices = (int)strtol(getenv("CAIRN_CUDA_HOST_DEVICES"), NULL, 10);
    if (getenv("CAIRN_CUDA_HOST_MEMORY"))
        memory_limit = strtoull(getenv("CAIRN_CUDA_HOST_MEMORY"), NULL, 10);
    if (getenv("CAIRN_CUDA_HOST_ORDER"))
        order_seed = (unsigned)strtoul(getenv("CAIRN_CUDA_HOST_ORDER"), NULL, 10);
}
void cuda_host_order(unsigned order) { order_seed = order; }
void cuda_host_memory(size_t bytes) { memory_limit = bytes; }
void cuda_host_fail_after(unsigned long n)
{
    fail_at = n ? n_launches + n : 0;
    sticky = cudaSuccess;
}
size_t cuda_host_allocated(void) { return allocated; }
unsigned long cuda_host_launches(void) { return n_launches; }
unsigned long cuda_host_allocations(void) { return n_allocations; }

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = devices;
    return devices ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) { return device < devices ? cudaSuccess : cudaErrorNoDevice; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int)
{
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "host emulation");
    p->totalGlobalMem = memory_limit;
    p->major = 9;
    p->multiProcessorCount = 2;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *available = allocated < memory_limit ? memory_limit - allocated : 0;
    *total = memory_limit;
    return sticky;
}
cudaError_t cudaMalloc(void **p, size_t n)
{
    std::lock_guard<std::recursive_mutex> hold(runtime);
    *p = NULL;
    if (sticky)
        return sticky;
    if (!n || n > memory_limit || allocated > memory_limit - n || posix_memalign(p, 256, n))
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, n);
    allocations[*p] = n;
    allocated += n;
    n_allocations++;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p)
{
    std::lock_guard<std::recursive_mutex> hold(runtime);
    if (!p)
        return cudaSuccess;
    auto at = allocations.find(p);
    if (at == allocations.end())
        cuda_host_fail("cudaFree of what cudaMalloc did not give");
    allocated -= at->second;
    allocations.erase(at);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind, cudaStream_t s)
{
    if (s && s->capture)
        cuda_host_fail("a copy inside a captured graph is not modelled");
    if (!sticky)
        memmove(to, from, n);
    return sticky;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t s)
{
    if (s && s->capture)
        cuda_host_fail("a memset inside a captured graph is not modelled");
    if (!sticky)
        memset(to, value, n);
    return sticky;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new cuda_host_stream();
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return sticky; }
cudaError_t cudaStreamBeginCapture(cudaStream_t s, int)
{
    s->capture = new cuda_host_graph();
    return sticky;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = s->capture;
    s->capture = NULL;
    return sticky;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long)
{
    *e = new cuda_host_graph(*g);
    return sticky;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    delete e;
    return cudaSuccess;
}
cudaError_t cuda_host_run(const char *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t s,
                          std::function<void()> body)
{
    std::lock_guard<std::recursive_mutex> hold(runtime);
    if (s && s->capture) {
        s->capture->launches.push_back({kernel, grid, block, shared, body});
        return cudaSuccess;
    }
    n_launches++;
    if (fail_at && n_launches >= fail_at)
        sticky = cudaErrorLaunchFailure; /* as on a GPU: once broken, every later call says so */
    if (!sticky)
        run_grid(kernel, grid, block, shared, body);
    return sticky;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    for (cuda_host_launch_record &l : e->launches)
        if (cudaError_t err = cuda_host_run(l.name, l.grid, l.block, l.shared, s, l.body))
            return err;
    return sticky;
}
cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    *e = new cuda_host_event();
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return sticky; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    *ms = 1;
    return sticky;
}
cudaError_t cudaGetLastError() { return sticky; }
const char *cudaGetErrorString(cudaError_t e) { return e ? "made up by the emulation" : "no error"; }
const char *cudaGetErrorName(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation"
           : e == cudaErrorNoDevice       ? "cudaErrorNoDevice"
           : e                            ? "cudaErrorLaunchFailure"
                                          : "cudaSuccess";
}

/* ---- numbers
 * ---------------------------------------------------------------------------------------------------- */

float cuda_host_half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    if (exponent == 31)
        return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}
uint16_t cuda_host_float_to_half(float f) /* to nearest, ties to even */
{
    uint32_t u = __float_as_uint(f), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (u >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000) { /* subnormal in half: the sum rounds at its last bit */
        float shifted = __uint_as_float(u) + 0.5f;
        return (uint16_t)(sign | (__float_as_uint(shifted) - 0x3f000000));
    }
    u += 0xfff + (u >> 13 & 1);
    return (uint16_t)(sign | ((u - 0x38000000) >> 13));
}

void cuda_host_mma_16816(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    float row[2][16], column[2][16];
    struct {
        uint32_t a[4], b[2];
    } given;
    memcpy(given.a, a, sizeof given.a);
    memcpy(given.b, b, sizeof given.b);
    const unsigned char *all = cuda_host_gather(&given, sizeof given, CUDA_HOST_MMA);
    unsigned lane = threadIdx.x & 31, group = lane / 4, pair = lane % 4;
    /* A: register 0 rows 0-7 k 0-7, 1 rows 8-15 k 0-7, 2 and 3 the same for k 8-15; B: register 0 k 0-7, 1
     * k 8-15, lane / 4 the column */
    for (unsigned i = 0; i < 2; i++)
        for (unsigned k = 0; k < 16; k++) {
            uint32_t pa, pb;
            memcpy(&pa, all + 32 * (group * 4 + k % 8 / 2) + 4 * (i + 2 * (k >= 8)), 4);
            memcpy(&pb, all + 32 * ((pair * 2 + i) * 4 + k % 8 / 2) + 16 + 4 * (k >= 8), 4);
            row[i][k] = cuda_host_half_to_float((uint16_t)(pa >> (k % 2 * 16)));
            column[i][k] = cuda_host_half_to_float((uint16_t)(pb >> (k % 2 * 16)));
        }
    for (unsigned i = 0; i < 4; i++)
        for (unsigned k = 0; k < 16; k++)
            c[i] += row[i / 2][k] * column[i % 2][k];
}

/* ---- cuBLAS
 * ----------------------------------------------------------------------------------------------------- */

struct cuda_host_blas {
    cudaStream_t stream;
};
cublasStatus_t cublasCreate(cublasHandle_t *h)
{
    *h = new cuda_host_blas();
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t h)
{
    delete h;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t h, cudaStream_t s)
{
    h->stream = s;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGemmEx(cublasHandle_t h, int op_a, int op_b, int m, int n, int k, const void *alpha,
                            const void *a, int type_a, int lda, const void *b, int type_b, int ldb,
                            const void *beta, void *c, int type_c, int ldc, int compute, int algo)
{
    if (op_a != CUBLAS_OP_T || op_b != CUBLAS_OP_N || type_a != CUDA_R_16F || type_b != CUDA_R_16F ||
        type_c != CUDA_R_32F || compute != CUBLAS_COMPUTE_32F || algo != CUBLAS_GEMM_DEFAULT || lda < k ||
        ldb < k || ldc < m || h->stream->capture || *(const float *)beta != 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (sticky)
        return CUBLAS_STATUS_SUCCESS; /* the stream says so */
    const uint16_t *pa = (const uint16_t *)a, *pb = (const uint16_t *)b;
    float *pc = (float *)c;
    std::vector<float> wide((size_t)n * (size_t)k), row((size_t)k);
    for (int j = 0; j < n; j++)
        for (int l = 0; l < k; l++)
            wide[(size_t)j * (size_t)k + (size_t)l] =
                cuda_host_half_to_float(pb[(size_t)j * (size_t)ldb + (size_t)l]);
    for (int i = 0; i < m; i++) {
        for (int l = 0; l < k; l++)
            row[(size_t)l] = cuda_host_half_to_float(pa[(size_t)i * (size_t)lda + (size_t)l]);
        for (int j = 0; j < n; j++) {
            float sum = 0;
            for (int l = 0; l < k; l++)
                sum += row[(size_t)l] * wide[(size_t)j * (size_t)k + (size_t)l];
            pc[(size_t)j * (size_t)ldc + (size_t)i] = *(const float *)alpha * sum;
        }
    }
    return CUBLAS_STATUS_SUCCESS;
}
