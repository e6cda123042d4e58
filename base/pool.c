/* pool.c - data-parallel ranges.
 *
 * A job is open while the caller still has pieces to hand out. Workers join an open job, and the caller waits
 * for those that joined, never for one that the scheduler has not let run: beside a busy neighbour a job then
 * costs at most what one thread needs, plus the pieces that were taken by a worker which lost its core. While
 * the caller waits for such a one it sleeps, so that its own core is free for it.
 *
 * `gate` is OPEN | WAITING | number of workers inside. The fields of a job are written while the gate is shut
 * and nobody is inside, and read only by who has joined. `epoch` is raised with each job: what idle workers
 * watch, a short while spinning (a step of a model opens the next job within microseconds), then asleep.
 *
 * No wake-up is lost: a worker counts itself asleep and then lets the kernel compare the epoch; the caller
 * raises the epoch and then reads the count. Likewise for the caller's own sleep on the gate.
 *
 * Each thread starts with a share of its own, in order, so that what it fetches early is what it needs next;
 * who has none left takes the second half of another's. A share is one word, next << 32 | end, in units of
 * grain.
 *
 * Beside a busy neighbour two threads can still be slower than one: they wait for each other's turns. So some
 * jobs are timed: the caller's processor time for its part of the units says how long the whole would have
 * taken it alone. While that is no longer than what the job took, the caller works alone, for ALONE_MIN_NS,
 * and twice as long each time that a new attempt shows the same.
 *
 * Lock: run_lock, one caller at a time. */
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
#define SPIN_NS 60000    /* idle worker: longer than what lies between the jobs of a step */
#define WAIT_NS 20000    /* caller at the end of a job: about a piece */
#define JUDGE_EACH 4     /* jobs: reading the processor's time is a system call */
#define JUDGE_NS 5000000 /* of timed jobs for one judgement */
#define ALONE_MIN_NS 25000000
#define ALONE_MAX_NS 200000000

struct cairn_pool {
    unsigned n_threads;
    pthread_t *threads;
    pthread_mutex_t run_lock;
    size_t n, grain;
    cairn_range_fn fn;
    void *ctx;
    unsigned n_jobs;
    int64_t job_ns, alone_ns; /* of the timed jobs: as they were run, and by the caller alone */
    int64_t alone_until, alone_for;
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
static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    (void)clock_gettime(clock, &t);
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

/* Returns how many units this thread did. */
static size_t take_pieces(struct cairn_pool *p, unsigned self)
{
    struct share *own = &p->shares[self];
    size_t done = 0;
    do {
        uint64_t s = atomic_load_explicit(&own->units, memory_order_relaxed);
        while (share_next(s) < share_end(s)) {
            size_t unit = share_next(s), begin = unit * p->grain;
            if (!atomic_compare_exchange_weak_explicit(&own->units, &s, share_of(unit + 1, share_end(s)),
                                                       memory_order_relaxed, memory_order_relaxed))
                continue;
            p->fn(p->ctx, begin, p->n - begin < p->grain ? p->n : begin + p->grain, self);
            done++;
            s = atomic_load_explicit(&own->units, memory_order_relaxed);
        }
    } while (steal(p, self));
    return done;
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
    (void)take_pieces(p, worker);
    gate = atomic_fetch_sub(&p->gate, 1);
    if (gate == (WAITING | 1u))
        futex_wake(&p->gate, 1);
}

/* Until the epoch is not `seen`. */
static void await_job(struct cairn_pool *p, unsigned seen)
{
    int64_t start = clock_ns(CLOCK_MONOTONIC);
    while (atomic_load_explicit(&p->epoch, memory_order_acquire) == seen) {
        if (clock_ns(CLOCK_MONOTONIC) - start < SPIN_NS) {
            relax();
            continue;
        }
        atomic_fetch_add(&p->n_asleep, 1);
        futex_wait(&p->epoch, seen);
        atomic_fetch_sub(&p->n_asleep, 1);
    }
}

static void *worker_main(void *arg)
{
    struct worker_arg a = *(struct worker_arg *)arg;
    cairn_free(arg);
    struct cairn_pool *p = a.pool;
    unsigned seen = 0;
    for (;;) {
        await_job(p, seen);
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

/* A job of `units` took job_ns; the caller did `done` of them in cpu_ns. */
static void judge(struct cairn_pool *p, int64_t now, int64_t job_ns, int64_t cpu_ns, size_t done,
                  size_t units)
{
    p->job_ns += job_ns;
    p->alone_ns += (int64_t)((double)cpu_ns * (double)units / (double)(done ? done : 1));
    if (p->job_ns < JUDGE_NS)
        return;
    if (p->alone_ns > p->job_ns) {
        p->alone_for = 0;
    } else {
        p->alone_for = !p->alone_for                 ? ALONE_MIN_NS
                       : p->alone_for < ALONE_MAX_NS ? 2 * p->alone_for
                                                     : ALONE_MAX_NS;
        p->alone_until = now + p->alone_for;
    }
    p->job_ns = p->alone_ns = 0;
}

/* Until nobody is inside. */
static void await_workers(struct cairn_pool *p, unsigned gate)
{
    for (int64_t start = 0; gate && gate != WAITING;
         gate = atomic_load_explicit(&p->gate, memory_order_acquire)) {
        if (!start)
            start = clock_ns(CLOCK_MONOTONIC);
        if (clock_ns(CLOCK_MONOTONIC) - start < WAIT_NS)
            relax();
        else if (!(gate & WAITING))
            atomic_fetch_or(&p->gate, WAITING);
        else
            futex_wait(&p->gate, gate);
    }
}

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
    int64_t start = clock_ns(CLOCK_MONOTONIC);
    if (start < p->alone_until) {
        fn(ctx, 0, n, 0);
        pthread_mutex_unlock(&p->run_lock);
        return;
    }
    p->n = n;
    p->grain = grain;
    p->fn = fn;
    p->ctx = ctx;
    for (unsigned i = 0; i < p->n_threads; i++)
        atomic_store_explicit(&p->shares[i].units,
                              share_of(units * i / p->n_threads, units * (i + 1) / p->n_threads),
                              memory_order_relaxed);
    bool timed = p->n_jobs++ % JUDGE_EACH == 0;
    int64_t cpu = timed ? clock_ns(CLOCK_THREAD_CPUTIME_ID) : 0;
    atomic_store_explicit(&p->gate, OPEN, memory_order_release);
    publish(p);
    size_t done = take_pieces(p, 0);
    if (timed)
        cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    await_workers(p, atomic_fetch_and(&p->gate, ~OPEN) & ~OPEN);
    if (timed) {
        int64_t now = clock_ns(CLOCK_MONOTONIC);
        judge(p, now, now - start, cpu, done, units);
    }
    pthread_mutex_unlock(&p->run_lock);
}
