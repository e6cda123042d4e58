/* pool.c - data-parallel ranges.
 *
 * A job is open while the caller still has pieces to hand out. Workers join an open job, and the caller waits
 * for those that joined, never for one that the scheduler has not let run: beside a busy neighbour a job then
 * costs at most what one thread needs, plus the pieces that were taken by a worker which lost its core. While
 * the caller waits for such a one it sleeps, so that its own core is free for it.
 *
 * `gate` is OPEN | WAITING | number of workers inside. The fields of a job are written while the gate is shut
 * and nobody is inside, and read only by who has joined. `epoch` is raised with each job: what idle workers
 * watch, a short while spinning (a step of a model opens the next job within microseconds), then asleep. A
 * worker that finds it was put off its core while it spun has spent a neighbour's time for nothing and does
 * not spin for the next PATIENCE_LOST_NS.
 *
 * No wake-up is lost: a worker counts itself asleep and then lets the kernel compare the epoch; the caller
 * raises the epoch and then reads the count. Likewise for the caller's own sleep on the gate.
 * Pieces shrink towards the end of a job, so that all finish together. Lock: run_lock, one caller at a time.
 */
#include <cairn/base.h>

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 256u
#define OPEN (1u << 31)
#define WAITING (1u << 30)
#define SPIN_NS 60000       /* idle worker: longer than what lies between the jobs of a step */
#define WAIT_NS 20000       /* caller at the end of a job: about a piece */
#define PREEMPTED_NS 200000 /* a turn of a spin takes less than a microsecond unless the core was lost */
#define PATIENCE_LOST_NS 50000000

struct cairn_pool {
    unsigned n_threads;
    pthread_t *threads;
    pthread_mutex_t run_lock;
    size_t n, grain;
    cairn_range_fn fn;
    void *ctx;
    atomic_bool closing;
    _Alignas(64) atomic_uint epoch;
    atomic_uint n_asleep;
    _Alignas(64) atomic_uint gate;
    struct share {
        _Alignas(64) atomic_uint_least64_t units;
    } * shares; /* [n_threads] */
};
struct worker_arg {
    struct cairn_pool *pool;
    unsigned index;
};

static void futex_wait(atomic_uint *word, unsigned value)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}
static void futex_wake(atomic_uint *word, int n)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}
static int64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline void relax(void)
{
    for (int i = 0; i < 8; i++)
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        __asm__ volatile("" ::: "memory");
#endif
}

static inline uint64_t share_of(size_t next, size_t end) { return (uint64_t)next << 32 | end; }
static inline size_t share_next(uint64_t s) { return (size_t)(s >> 32); }
static inline size_t share_end(uint64_t s) { return (size_t)(s & UINT32_MAX); }

/* The second half of what another has left becomes this thread's share. */
static bool steal(struct cairn_pool *p, unsigned self)
{
    for (unsigned i = 1; i < p->n_threads; i++) {
        struct share *from = &p->shares[(self + i) % p->n_threads];
        uint64_t s = atomic_load_explicit(&from->units, memory_order_relaxed);
        while (share_next(s) < share_end(s)) {
            size_t end = share_end(s), middle = share_next(s) + (end - share_next(s)) / 2;
            if (atomic_compare_exchange_weak_explicit(&from->units, &s, share_of(share_next(s), middle),
                                                      memory_order_relaxed, memory_order_relaxed)) {
                atomic_store_explicit(&p->shares[self].units, share_of(middle, end), memory_order_relaxed);
                return true;
            }
        }
    }
    return false;
}

static void take_pieces(struct cairn_pool *p, unsigned self)
{
    struct share *own = &p->shares[self];
    do {
        uint64_t s = atomic_load_explicit(&own->units, memory_order_relaxed);
        while (share_next(s) < share_end(s)) {
            size_t unit = share_next(s), begin = unit * p->grain;
            if (!atomic_compare_exchange_weak_explicit(&own->units, &s, share_of(unit + 1, share_end(s)),
                                                       memory_order_relaxed, memory_order_relaxed))
                continue;
            p->fn(p->ctx, begin, p->n - begin < p->grain ? p->n : begin + p->grain, self);
            s = atomic_load_explicit(&own->units, memory_order_relaxed);
        }
    } while (steal(p, self));
}

/* Works on the job that is open, if one still is. */
static void join(struct cairn_pool *p, unsigned worker)
{
    unsigned gate = atomic_load_explicit(&p->gate, memory_order_relaxed);
    do {
        if (!(gate & OPEN))
            return;
    } while (!atomic_compare_exchange_weak_explicit(&p->gate, &gate, gate + 1, memory_order_acquire,
                                                    memory_order_relaxed));
    take_pieces(p, worker);
    gate = atomic_fetch_sub(&p->gate, 1);
    if (gate == (WAITING | 1u))
        futex_wake(&p->gate, 1);
}

/* Until the epoch is not `seen`. Returns the time until which this worker shall not spin. */
static int64_t await_job(struct cairn_pool *p, unsigned seen, int64_t no_spin_until)
{
    int64_t start = now_ns(), last = start;
    bool spin = start >= no_spin_until;
    while (atomic_load_explicit(&p->epoch, memory_order_acquire) == seen) {
        if (spin) {
            relax();
            int64_t now = now_ns();
            if (now - last > PREEMPTED_NS)
                no_spin_until = now + PATIENCE_LOST_NS;
            spin = now - start < SPIN_NS;
            last = now;
            continue;
        }
        atomic_fetch_add(&p->n_asleep, 1);
        futex_wait(&p->epoch, seen);
        atomic_fetch_sub(&p->n_asleep, 1);
    }
    return no_spin_until;
}

static void *worker_main(void *arg)
{
    struct worker_arg a = *(struct worker_arg *)arg;
    cairn_free(arg);
    struct cairn_pool *p = a.pool;
    unsigned seen = 0;
    int64_t no_spin_until = 0;
    for (;;) {
        no_spin_until = await_job(p, seen, no_spin_until);
        seen = atomic_load_explicit(&p->epoch, memory_order_acquire);
        if (atomic_load(&p->closing))
            return NULL;
        join(p, a.index);
    }
}

static void publish(struct cairn_pool *p)
{
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->n_asleep) > 0)
        futex_wake(&p->epoch, INT_MAX);
}

enum cairn_err cairn_pool_open(struct cairn_pool **out, unsigned n_threads, struct cairn_why *why)
{
    *out = NULL;
    if (n_threads == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        n_threads = cores > 0 ? (unsigned)cores : 1;
    }
    if (n_threads > THREADS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "%u threads, at most %u", n_threads, THREADS_MAX);
    struct cairn_pool *p = cairn_aligned(64, sizeof(*p));
    pthread_t *threads = cairn_calloc(n_threads, sizeof(*threads));
    struct share *shares = cairn_aligned(64, n_threads * sizeof(*shares));
    if (!p || !threads || !shares) {
        cairn_free(p);
        cairn_free(threads);
        cairn_free(shares);
        return cairn_fail(why, CAIRN_ENOMEM, "pool of %u threads", n_threads);
    }
    *p = (struct cairn_pool){.threads = threads, .shares = shares, .n_threads = 1};
    pthread_mutex_init(&p->run_lock, NULL);
    for (unsigned i = 1; i < n_threads; i++) {
        struct worker_arg *arg = cairn_malloc(sizeof(*arg));
        int rc = 0;
        if (arg) {
            *arg = (struct worker_arg){p, i};
            rc = pthread_create(&p->threads[i], NULL, worker_main, arg);
        }
        if (!arg || rc) {
            cairn_free(arg);
            cairn_pool_close(p);
            return cairn_fail(why, CAIRN_ENOMEM, "thread %u of %u could not start", i, n_threads);
        }
        p->n_threads++;
    }
    *out = p;
    return CAIRN_OK;
}

void cairn_pool_close(struct cairn_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->closing, true);
    publish(p);
    for (unsigned i = 1; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_mutex_destroy(&p->run_lock);
    cairn_free(p->threads);
    cairn_free(p->shares);
    cairn_free(p);
}

unsigned cairn_pool_threads(const struct cairn_pool *p) { return p ? p->n_threads : 1; }

void cairn_pool_run(struct cairn_pool *p, size_t n, size_t grain, cairn_range_fn fn, void *ctx)
{
    if (n == 0)
        return;
    grain = grain ? grain : 1;
    if (!p || p->n_threads == 1 || n <= grain) {
        fn(ctx, 0, n, 0);
        return;
    }
    size_t units = n / grain + (n % grain != 0);
    CAIRN_CHECK(units <= UINT32_MAX);
    pthread_mutex_lock(&p->run_lock);
    p->n = n;
    p->grain = grain;
    p->fn = fn;
    p->ctx = ctx;
    for (unsigned i = 0; i < p->n_threads; i++)
        atomic_store_explicit(&p->shares[i].units,
                              share_of(units * i / p->n_threads, units * (i + 1) / p->n_threads),
                              memory_order_relaxed);
    atomic_store_explicit(&p->gate, OPEN, memory_order_release);
    publish(p);
    take_pieces(p, 0);
    unsigned gate = atomic_fetch_and(&p->gate, ~OPEN) & ~OPEN;
    for (int64_t start = 0; gate; gate = atomic_load_explicit(&p->gate, memory_order_acquire)) {
        if (gate == WAITING)
            break;
        if (!start)
            start = now_ns();
        if (now_ns() - start < WAIT_NS)
            relax();
        else if (!(gate & WAITING))
            atomic_fetch_or(&p->gate, WAITING);
        else
            futex_wait(&p->gate, gate);
    }
    pthread_mutex_unlock(&p->run_lock);
}
