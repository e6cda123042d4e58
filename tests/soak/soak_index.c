/* soak_index.c - `soak_index [SECONDS [SEED]]`: one writer puts, replaces and deletes documents, four readers
 * search (approximate, exact, filtered), a merger makes segments without a pause. Readers hold every answer
 * against their own view: each hit is allowed, live, and scored as its stored vector says; a stored vector
 * finds itself. At the end the store is sound and the map has not grown past what the live rows explain. To
 * be run under the thread sanitizer too. */
#include "test_index_fixture.h"
#include "vindex.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define DOCS 6000u
#define READERS 4u
#define D 32u

static struct store *store;
static atomic_bool over;
static atomic_uint_fast64_t n_written, n_searched, n_found, n_self, n_merged, worst_us, longest_wait_us;
static uint64_t seed0;

static void broken(const char *what, const struct cairn_why *why)
{
    fprintf(stderr, "soak_index: %s: %s (seed %llu)\n", what, why->text, (unsigned long long)seed0);
    abort();
}
#define MUST(call)                                                                                           \
    do {                                                                                                     \
        if (call)                                                                                            \
            broken(#call, &why);                                                                             \
    } while (0)
#define HOLDS(cond)                                                                                          \
    do {                                                                                                     \
        if (!(cond))                                                                                         \
            broken(#cond, &why);                                                                             \
    } while (0)

static void raise_to(atomic_uint_fast64_t *most, uint64_t us)
{
    uint64_t have = atomic_load(most);
    while (us > have && !atomic_compare_exchange_weak(most, &have, us))
        ;
}

static void vector_of(uint64_t n, float *out)
{
    uint64_t centre = 77 + n % 25, own = n * 0x9E3779B97F4A7C15ull + 5;
    for (uint32_t i = 0; i < D; i++)
        out[i] = (float)(test_rand(&centre) >> 40) / 8388608.0f - 1 +
                 0.6f * ((float)(test_rand(&own) >> 40) / 8388608.0f - 1);
}

static void *writer(void *arg)
{
    struct cairn_why why = {{0}};
    uint64_t seed = seed0;
    (void)arg;
    while (!atomic_load(&over)) {
        struct store_batch *b;
        uint64_t n = 1 + test_rand(&seed) % 60;
        MUST(store_batch_begin(&b, store, &why));
        for (uint64_t i = 0; i < n; i++) {
            char id[24], text[32];
            float v[D];
            uint64_t doc = test_rand(&seed) % DOCS, r = test_rand(&seed);
            struct cairn_str who[2] = {STR("all"), STR("few")};
            snprintf(id, sizeof(id), "%llu", (unsigned long long)doc);
            if (r % 4 == 0) {
                enum cairn_err err = store_delete(b, "c", STR(id), &why);
                if (err && err != CAIRN_ENOTFOUND)
                    broken("store_delete", &why);
                continue;
            }
            snprintf(text, sizeof(text), "version %llu", (unsigned long long)(r >> 8));
            vector_of(r >> 8, v);
            struct store_passage p = {.end = (uint32_t)strlen(text), .path = STR(""), .vector = v};
            struct store_document d = {.id = STR(id),
                                       .text = STR(text),
                                       .passages = &p,
                                       .n_passages = 1,
                                       .principals = who,
                                       .n_principals = doc % 10 ? 1 : 2};
            MUST(store_put(b, "c", &d, &why));
        }
        MUST(store_batch_commit(b, NULL, &why));
        atomic_fetch_add(&n_written, n);
        usleep(2000);
    }
    return NULL;
}

static void *merger(void *arg)
{
    struct cairn_why why = {{0}};
    (void)arg;
    for (unsigned turn = 1; !atomic_load(&over); turn++) {
        uint32_t n;
        struct store_merge_opts o = {.full = turn % 40 == 0, .threads = 2};
        MUST(store_merge(store, NULL, &o, NULL, NULL, NULL, &n, &why));
        atomic_fetch_add(&n_merged, n);
        usleep(20000);
    }
    return NULL;
}

static void *reader(void *arg)
{
    struct cairn_why why = {{0}};
    uint64_t seed = seed0 + 1000 + (uint64_t)(uintptr_t)arg;
    const struct cairn_str few = STR("few");
    const struct store_caller some = {.principals = &few, .n_principals = 1};
    while (!atomic_load(&over)) {
        struct store_view *v;
        struct store_filter *f;
        int64_t t0 = cairn_now_us();
        MUST(store_view_begin(&v, store, &why));
        raise_to(&longest_wait_us, (uint64_t)(cairn_now_us() - t0));
        bool filtered = test_rand(&seed) % 3 == 0;
        MUST(store_filter_open(&f, v, "c", filtered ? &some : &caller_all, &why));
        for (int i = 0; i < 20 && store_filter_count(f); i++) {
            struct store_hit hits[10];
            struct document_info d;
            char id[24];
            float q[D], row[D];
            size_t n;
            uint64_t doc = test_rand(&seed) % DOCS / 10 * 10; /* those that both filters let through */
            struct cairn_str text;
            snprintf(id, sizeof(id), "%llu", (unsigned long long)doc);
            bool there = store_document_get(v, "c", STR(id), &caller_all, &d, &text, &why) == CAIRN_OK;
            uint64_t version = there ? strtoull(text.p + 8, NULL, 10) : test_rand(&seed);
            vector_of(version, q);
            struct vector_how how = {.exact = test_rand(&seed) % 8 == 0};
            t0 = cairn_now_us();
            MUST(store_search_vector(v, "c", q, D, f, 10, &how, hits, &n, NULL, NULL, &why));
            raise_to(&worst_us, (uint64_t)(cairn_now_us() - t0));
            atomic_fetch_add(&n_searched, 1);
            HOLDS(n == (store_filter_count(f) < 10 ? store_filter_count(f) : 10));
            for (size_t h = 0; h < n; h++) {
                struct passage_info p;
                HOLDS(store_filter_has(f, hits[h].passage_id));
                MUST(store_passage_get(v, "c", hits[h].passage_id, &p, &why));
                MUST(store_passage_vector(v, "c", hits[h].passage_id, row, &why));
                HOLDS(hits[h].score ==
                      vindex_score(METRIC_COSINE, q, vindex_norm(q, D), row, vindex_norm(row, D), D));
            }
            if (there) {
                atomic_fetch_add(&n_self, 1);
                atomic_fetch_add(&n_found, hits[0].score > 0.99999f);
                HOLDS(!how.exact || hits[0].score > 0.99999f);
            }
        }
        store_filter_close(f);
        store_view_end(v);
    }
    return NULL;
}

static void told(void *ctx, const char *line)
{
    (void)ctx;
    fprintf(stderr, "finding: %s\n", line);
}

int main(int argc, char **argv)
{
    unsigned seconds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 10;
    seed0 = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    struct cairn_why why = {{0}};
    struct cairn_config *config = cairn_config_new();
    char *dir = test_tmpdir();
    MUST(cairn_config_add_table(config, index_conf, index_conf_len, &why));
    MUST(cairn_config_set(config, "index.merge_rows_min", "300", &why));
    MUST(store_open(&store, &(struct store_opts){.dir = dir, .create = true, .config = config}, &why));
    struct store_batch *b;
    struct collection_opts o = {.name = "c", .dim = D, .metric = METRIC_COSINE};
    MUST(store_batch_begin(&b, store, &why));
    MUST(store_collection_create(b, &o, &why));
    MUST(store_batch_commit(b, NULL, &why));
    pthread_t threads[READERS + 2];
    HOLDS(pthread_create(&threads[0], NULL, writer, NULL) == 0);
    HOLDS(pthread_create(&threads[1], NULL, merger, NULL) == 0);
    for (uintptr_t i = 0; i < READERS; i++)
        HOLDS(pthread_create(&threads[2 + i], NULL, reader, (void *)i) == 0);
    struct store_stats half, end;
    sleep(seconds / 2);
    MUST(store_stats_get(store, &half, &why));
    sleep(seconds - seconds / 2);
    atomic_store(&over, true);
    for (unsigned i = 0; i < READERS + 2; i++)
        pthread_join(threads[i], NULL);
    MUST(store_stats_get(store, &end, &why));
    store_close(store);
    MUST(store_check(dir, told, NULL, &why));
    printf("soak_index: %u s, %llu writes, %llu merges, %llu searches, slowest search %llu us, longest wait "
           "for a view "
           "%llu us, stored vectors that found themselves %llu of %llu, map used %llu kB at half time, %llu "
           "kB at the "
           "end, store clean\n",
           seconds, (unsigned long long)n_written, (unsigned long long)n_merged,
           (unsigned long long)n_searched, (unsigned long long)worst_us, (unsigned long long)longest_wait_us,
           (unsigned long long)n_found, (unsigned long long)n_self,
           (unsigned long long)half.map_used_bytes / 1024, (unsigned long long)end.map_used_bytes / 1024);
    bool bounded = end.map_used_bytes <= 2 * half.map_used_bytes + (16u << 20);
    bool found = n_found * 100 >= n_self * 99 && n_merged > 0;
    cairn_config_free(config);
    test_rmdir(dir);
    return bounded && found ? 0 : 1;
}
