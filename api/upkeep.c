/* api/upkeep.c - what a service does beside its requests, on one thread of low priority: merges new vectors
 * into segments after commits, and runs a sampled share of vector searches again exactly while no request is
 * in flight, so that recall is measured on the real queries. Lock: mu guards the queue and quit; nothing is
 * called under it. The round's own fields belong to whoever runs rounds: the thread, or a test without one.
 */
#include "internal.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROUND_MS 1000
#define BACKOFF_MS_MAX 300000
#define NICE 10

const char *const recall_band_names[RECALL_BANDS] = {"all", "wide", "middle", "narrow"};

struct sample { /* one allocation: what it points to stands behind it */
    char collection[COLLECTION_NAME_MAX + 1];
    struct cairn_str principals[PRINCIPALS_MAX];
    struct store_caller who;
    struct store_hit *hits;
    float *query;
    uint32_t dim;
    size_t k, n_hits;
    uint64_t generation;
    unsigned band;
};

struct upkeep {
    struct service *s;
    pthread_mutex_t mu;
    pthread_cond_t cond;
    pthread_t thread;
    bool started, quit;
    struct cairn_stop stop;
    struct sample **queue; /* a ring */
    size_t n, first, max;
    double sample_share;
    atomic_uint_fast64_t n_searches;

    bool merged, told_recall; /* merged: generation holds the one of the last merge */
    uint64_t generation;
    int64_t retry_us; /* no merge before */
    unsigned n_failures;
};

enum cairn_err upkeep_open(struct upkeep **out, struct service *s, struct cairn_why *why)
{
    *out = NULL;
    struct upkeep *u = cairn_calloc(1, sizeof *u);
    if (!u)
        return cairn_fail(why, CAIRN_ENOMEM, "upkeep");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&u->mu, NULL);
    pthread_cond_init(&u->cond, &attr);
    pthread_condattr_destroy(&attr);
    u->s = s;
    u->max = conf_size(s, "api.recall_queue_max");
    u->sample_share = cairn_config_num(s->config, "api.recall_sample_pct") / 100;
    u->queue = cairn_calloc(u->max, sizeof(*u->queue));
    if (!u->queue) {
        upkeep_close(u);
        return cairn_fail(why, CAIRN_ENOMEM, "queue of %zu samples", u->max);
    }
    *out = u;
    return CAIRN_OK;
}

static struct sample *take(struct upkeep *u)
{
    struct sample *m = NULL;
    pthread_mutex_lock(&u->mu);
    if (u->n) {
        m = u->queue[u->first];
        u->first = (u->first + 1) % u->max;
        u->n--;
    }
    pthread_mutex_unlock(&u->mu);
    return m;
}

void upkeep_close(struct upkeep *u)
{
    if (!u)
        return;
    upkeep_stop(u);
    for (struct sample *m; (m = take(u));)
        cairn_free(m);
    cairn_free(u->queue);
    pthread_mutex_destroy(&u->mu);
    pthread_cond_destroy(&u->cond);
    cairn_free(u);
}

/* ---- recall ---- */

bool upkeep_wants(struct upkeep *u)
{
    if (!(u->sample_share > 0))
        return false;
    double n = (double)atomic_fetch_add_explicit(&u->n_searches, 1, memory_order_relaxed);
    return (uint64_t)((n + 1) * u->sample_share) != (uint64_t)(n * u->sample_share);
}

static unsigned band_of(double share) { return share >= 1 ? 0 : share > 0.3 ? 1 : share >= 0.05 ? 2 : 3; }

void upkeep_sample(struct upkeep *u, const char *collection, const struct store_caller *who,
                   const float *query, uint32_t dim, size_t k, const struct store_hit *hits, size_t n_hits,
                   uint64_t generation, double share)
{
    size_t bytes = sizeof(struct sample) + n_hits * sizeof *hits + dim * sizeof *query;
    for (size_t i = 0; i < who->n_principals; i++)
        bytes += who->principals[i].len;
    pthread_mutex_lock(&u->mu);
    bool full = u->n == u->max || u->quit;
    pthread_mutex_unlock(&u->mu);
    struct sample *m = full || who->n_principals > PRINCIPALS_MAX ? NULL : cairn_malloc(bytes);
    if (!m) {
        atomic_fetch_add(&u->s->metrics.recall_dropped, 1);
        return;
    }
    memset(m, 0, sizeof *m);
    m->hits = (struct store_hit *)(m + 1);
    m->query = (float *)(m->hits + n_hits);
    char *names = (char *)(m->query + dim);
    snprintf(m->collection, sizeof m->collection, "%s", collection);
    memcpy(m->hits, hits, n_hits * sizeof *hits);
    memcpy(m->query, query, dim * sizeof *query);
    for (size_t i = 0; i < who->n_principals; i++) {
        m->principals[i] = (struct cairn_str){names, who->principals[i].len};
        memcpy(names, who->principals[i].p, who->principals[i].len);
        names += who->principals[i].len;
    }
    m->who = (struct store_caller){m->principals, who->n_principals, who->all};
    m->dim = dim;
    m->k = k;
    m->n_hits = n_hits;
    m->generation = generation;
    m->band = band_of(share);
    pthread_mutex_lock(&u->mu);
    full = u->n == u->max;
    if (!full)
        u->queue[(u->first + u->n++) % u->max] = m;
    pthread_mutex_unlock(&u->mu);
    if (full) {
        cairn_free(m);
        atomic_fetch_add(&u->s->metrics.recall_dropped, 1);
    }
}

/* Found: is among the true ones, or ties with the last of them. */
static size_t count_found(const struct sample *m, const struct store_hit *truth, size_t n)
{
    size_t found = 0;
    for (size_t i = 0; i < m->n_hits; i++) {
        bool in = m->hits[i].score >= truth[n - 1].score;
        for (size_t j = 0; j < n && !in; j++)
            in = truth[j].passage_id == m->hits[i].passage_id;
        found += in;
    }
    return found < n ? found : n;
}

static enum cairn_err measure(struct upkeep *u, const struct sample *m, struct cairn_why *why)
{
    struct api_metrics *x = &u->s->metrics;
    struct store_view *v;
    struct store_filter *f = NULL;
    size_t n = 0;
    struct store_hit *truth = cairn_calloc(m->k, sizeof *truth);
    if (!truth)
        return cairn_fail(why, CAIRN_ENOMEM, "%zu hits", m->k);
    enum cairn_err err = store_view_begin(&v, u->s->store, why);
    if (err) {
        cairn_free(truth);
        return err;
    }
    bool stale = store_view_generation(v) != m->generation;
    if (!stale)
        err = store_filter_open(&f, v, m->collection, &m->who, why);
    if (!err && !stale)
        err = store_search_vector(v, m->collection, m->query, m->dim, f, m->k,
                                  &(struct vector_how){.exact = true}, truth, &n, NULL, &u->stop, why);
    store_filter_close(f);
    store_view_end(v);
    if (stale)
        atomic_fetch_add(&x->recall_stale, 1);
    if (!err && n) {
        atomic_fetch_add(&x->recall_samples[m->band], 1);
        atomic_fetch_add(&x->recall_found[m->band], count_found(m, truth, n));
        atomic_fetch_add(&x->recall_wanted[m->band], n);
    }
    cairn_free(truth);
    return err;
}

static void measure_while_idle(struct upkeep *u)
{
    while (atomic_load(&u->s->in_flight) == 0 && !atomic_load(&u->stop.cancelled)) {
        struct cairn_why why = {{0}};
        struct sample *m = take(u);
        if (!m)
            return;
        enum cairn_err err = measure(u, m, &why);
        cairn_free(m);
        if (err && err != CAIRN_ESTOPPED && !u->told_recall) {
            u->told_recall = true;
            CAIRN_LOG(API, WARN, "recall not measured error=%s why=\"%s\"", cairn_err_name(err), why.text);
        }
    }
}

/* ---- merging ---- */

static void merge_if_due(struct upkeep *u, int64_t now_us)
{
    struct service *s = u->s;
    struct cairn_why why = {{0}};
    struct store_view *v;
    uint32_t n_merged = 0;
    uint64_t generation = 0;
    if (s->read_only || !conf_on(s, "api.merge") || now_us < u->retry_us)
        return;
    int64_t from = cairn_now_us();
    enum cairn_err err = store_view_begin(&v, s->store, &why);
    if (!err) {
        generation = store_view_generation(v);
        store_view_end(v);
        if (u->merged && generation == u->generation)
            return;
        err = CAIRN_FAILPOINT("api.merge")
                  ? cairn_fail(&why, CAIRN_EIO, "failpoint before a merge")
                  : store_merge(s->store, NULL,
                                &(struct store_merge_opts){
                                    .threads = 1, .rest_pct = (uint32_t)conf_size(s, "api.merge_rest_pct")},
                                NULL, NULL, &u->stop, &n_merged, &why);
    }
    if (!err) {
        u->merged = true;
        u->generation = generation;
        u->n_failures = 0;
        if (n_merged)
            CAIRN_LOG(API, INFO, "vectors merged segments=%u generation=%" PRIu64, n_merged, generation);
        return;
    }
    if (err == CAIRN_ESTOPPED)
        return;
    int64_t wait_ms = ROUND_MS;
    for (unsigned i = 0; i < u->n_failures && wait_ms < BACKOFF_MS_MAX; i++)
        wait_ms *= 2;
    if (wait_ms > BACKOFF_MS_MAX)
        wait_ms = BACKOFF_MS_MAX;
    u->retry_us = now_us + cairn_now_us() - from + wait_ms * 1000;
    atomic_fetch_add(&s->metrics.merge_errors, 1);
    if (u->n_failures++ == 0) /* until one succeeds */
        CAIRN_LOG(API, ERROR, "merge failed error=%s why=\"%s\"", cairn_err_name(err), why.text);
}

int64_t upkeep_round(struct upkeep *u, int64_t now_us)
{
    merge_if_due(u, now_us);
    measure_while_idle(u);
    return ROUND_MS;
}

/* ---- the thread ---- */

static void *upkeep_main(void *ctx)
{
    struct upkeep *u = ctx;
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* of this thread, on Linux */
    pthread_mutex_lock(&u->mu);
    while (!u->quit) {
        pthread_mutex_unlock(&u->mu);
        int64_t ms = upkeep_round(u, cairn_now_us());
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_sec += ms / 1000;
        pthread_mutex_lock(&u->mu);
        while (!u->quit && pthread_cond_timedwait(&u->cond, &u->mu, &at) == 0)
            ;
    }
    pthread_mutex_unlock(&u->mu);
    return NULL;
}

enum cairn_err upkeep_start(struct upkeep *u, struct cairn_why *why)
{
    CAIRN_CHECK(!u->started);
    pthread_mutex_lock(&u->mu); /* searches may be looking */
    u->quit = false;
    pthread_mutex_unlock(&u->mu);
    atomic_store(&u->stop.cancelled, false);
    int rc = pthread_create(&u->thread, NULL, upkeep_main, u);
    if (rc != 0)
        return cairn_fail_errno(why, rc, "upkeep thread");
    u->started = true;
    return CAIRN_OK;
}

void upkeep_stop(struct upkeep *u)
{
    if (!u->started)
        return;
    atomic_store(&u->stop.cancelled, true);
    pthread_mutex_lock(&u->mu);
    u->quit = true;
    pthread_cond_signal(&u->cond);
    pthread_mutex_unlock(&u->mu);
    pthread_join(u->thread, NULL);
    u->started = false;
}
