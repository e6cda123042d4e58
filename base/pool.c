/* pool.c - data-parallel ranges.
 * Lock order: run_lock (one caller at a time), then state_lock. A job is published by raising `epoch`;
 * workers spin on it for a short while (a step of a model starts the next range within microseconds), then
 * sleep on the condition variable. Pieces are handed out by an atomic cursor, so that a worker slowed down by
 * a neighbour takes fewer of them. */
#include <cairn/base.h>

#include <pthread.h>
#include <unistd.h>

#define THREADS_MAX 256u
#define SPINS 4000

struct cairn_pool {
    unsigned n_threads;
    pthread_t *threads;
    pthread_mutex_t run_lock, state_lock;
    pthread_cond_t wake;
    atomic_uint epoch;    /* raised once a job */
    atomic_uint n_asleep; /* guarded by state_lock for sleepers; read loosely by the caller */
    atomic_uint n_busy;   /* workers that still may touch the job */
    atomic_size_t cursor;
    bool closing; /* state_lock */
    size_t n, grain;
    cairn_range_fn fn;
    void *ctx;
};
struct worker_arg {
    struct cairn_pool *pool;
    unsigned index;
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_pieces(struct cairn_pool *p, unsigned worker)
{
    for (;;) {
        size_t begin = atomic_fetch_add_explicit(&p->cursor, p->grain, memory_order_relaxed);
        if (begin >= p->n)
            return;
        size_t end = p->n - begin < p->grain ? p->n : begin + p->grain;
        p->fn(p->ctx, begin, end, worker);
    }
}

static void *worker_main(void *arg)
{
    struct worker_arg a = *(struct worker_arg *)arg;
    cairn_free(arg);
    struct cairn_pool *p = a.pool;
    unsigned seen = 0;
    for (;;) {
        int spins = 0;
        while (atomic_load_explicit(&p->epoch, memory_order_acquire) == seen) {
            if (++spins < SPINS) {
                relax();
                continue;
            }
            pthread_mutex_lock(&p->state_lock);
            atomic_fetch_add(&p->n_asleep, 1);
            while (atomic_load(&p->epoch) == seen)
                pthread_cond_wait(&p->wake, &p->state_lock);
            atomic_fetch_sub(&p->n_asleep, 1);
            pthread_mutex_unlock(&p->state_lock);
        }
        seen = atomic_load_explicit(&p->epoch, memory_order_acquire);
        if (p->closing)
            return NULL;
        take_pieces(p, a.index);
        atomic_fetch_sub_explicit(&p->n_busy, 1, memory_order_release);
    }
}

static void publish(struct cairn_pool *p)
{
    atomic_fetch_add(&p->epoch, 1);
    if (atomic_load(&p->n_asleep) > 0) {
        pthread_mutex_lock(&p->state_lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->state_lock);
    }
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
    struct cairn_pool *p = cairn_calloc(1, sizeof(*p));
    pthread_t *threads = cairn_calloc(n_threads, sizeof(*threads));
    if (!p || !threads) {
        cairn_free(p);
        cairn_free(threads);
        return cairn_fail(why, CAIRN_ENOMEM, "pool of %u threads", n_threads);
    }
    p->threads = threads;
    p->n_threads = 1;
    pthread_mutex_init(&p->run_lock, NULL);
    pthread_mutex_init(&p->state_lock, NULL);
    pthread_cond_init(&p->wake, NULL);
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
    p->closing = true;
    publish(p);
    for (unsigned i = 1; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->state_lock);
    pthread_mutex_destroy(&p->run_lock);
    cairn_free(p->threads);
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
    pthread_mutex_lock(&p->run_lock);
    p->n = n;
    p->grain = grain;
    p->fn = fn;
    p->ctx = ctx;
    atomic_store_explicit(&p->cursor, 0, memory_order_relaxed);
    atomic_store_explicit(&p->n_busy, p->n_threads - 1, memory_order_relaxed);
    publish(p);
    take_pieces(p, 0);
    /* Every worker passes each epoch exactly once, so the next job cannot start under a late one. */
    for (int spins = 0; atomic_load_explicit(&p->n_busy, memory_order_acquire) > 0; spins++) {
        if (spins < SPINS)
            relax();
        else
            usleep(0); /* a neighbour has the core: let it finish */
    }
    pthread_mutex_unlock(&p->run_lock);
}
