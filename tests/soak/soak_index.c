/* soak_index.c - `soak_index [SECONDS [SEED]]`: one writer puts, replaces and deletes; four readers search
 * approximately, exactly and filtered; a third party merges all the while. Every hit must be live in the view
 * that found it and pass the filter; the nearest by the graph may not beat the nearest by exact search. Ends
 * with a full merge, the check, and a bound on the map: used bytes <= MAP_FACTOR times the live bytes + a
 * fixed part. Prints operations, the longest search, growth. */
#include "test_index_fixture.h"

#include <pthread.h>

#define SLOTS 2000u
#define READERS 4u
/* Pages of a copy-on-write map stay free for reuse, and a merge holds old and new rows at once; what a reader
 * keeps back adds to that. Live bytes here are a row's text, postings, f32 and codes. */
#define MAP_FACTOR 12u
#define MAP_FIXED ((uint64_t)48 << 20)
#define ROW_BYTES 1024u

static struct store *the_store;
static atomic_bool done;
static atomic_ullong n_batches, n_merges, n_searches, n_found, n_asked, longest_us;
static uint64_t seed0 = 4711;

#define MUST(cond)                                                                                           \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            fprintf(stderr, "%s:%d: not true: %s (%s)\n", __FILE__, __LINE__, #cond, why.text);              \
            _exit(1);                                                                                        \
        }                                                                                                    \
    } while (0)

static void *writer(void *arg)
{
    struct cairn_why why = {{0}};
    uint64_t seed = seed0 * 2 + 1;
    (void)arg;
    for (unsigned n = 1; !atomic_load(&done); n++) {
        static const char *const groups[] = {"group:a", NULL};
        struct store_batch *b;
        MUST(store_batch_begin(&b, the_store, &why) == CAIRN_OK);
        for (unsigned i = 0; i < 40; i++) {
            uint64_t r = test_rand(&seed);
            char id[24], text[64];
            (void)snprintf(id, sizeof(id), "d%llu", (unsigned long long)(r % SLOTS));
            (void)snprintf(text, sizeof(text), "row %llu of %u", (unsigned long long)(r % SLOTS), n);
            enum cairn_err err = (r >> 40) % 4 == 0
                                     ? store_delete(b, "c", STR(id), &why)
                                     : put_text(b, "c", id, text, r % 2 ? groups : NULL, true, &why);
            MUST(err == CAIRN_OK || err == CAIRN_ENOTFOUND);
        }
        MUST(store_batch_commit(b, NULL, &why) == CAIRN_OK);
        atomic_fetch_add(&n_batches, 1);
    }
    return NULL;
}

static void *merger(void *arg)
{
    struct cairn_why why = {{0}};
    (void)arg;
    for (unsigned turn = 0; !atomic_load(&done); turn++) {
        uint32_t n = 0;
        struct store_merge_opts o = {.full = turn % 8 == 7, .threads = 1, .rest_pct = turn % 2 ? 50 : 0};
        MUST(store_merge(the_store, "c", &o, NULL, NULL, NULL, &n, &why) == CAIRN_OK);
        atomic_fetch_add(&n_merges, n);
        usleep(2000);
    }
    return NULL;
}

static void check_hits(struct store_view *v, const struct store_filter *f, const struct store_hit *hits,
                       size_t n)
{
    struct cairn_why why = {{0}};
    struct passage_info p;
    float have[DIM], want[DIM];
    for (size_t i = 0; i < n; i++) {
        MUST(store_filter_has(f, hits[i].passage_id));
        MUST(store_passage_get(v, "c", hits[i].passage_id, &p, &why) == CAIRN_OK);
        MUST(store_passage_vector(v, "c", hits[i].passage_id, have, &why) == CAIRN_OK);
        text_vector(p.text.p, p.text.len, DIM, want);
        MUST(memcmp(have, want, sizeof(have)) == 0);
        MUST(i == 0 || hits[i - 1].score >= hits[i].score);
    }
}

static void *reader(void *arg)
{
    struct cairn_why why = {{0}};
    uint64_t seed = seed0 + 77 * (uint64_t)(uintptr_t)arg + 1;
    static const struct cairn_str names[] = {
        {"group:a", 7}
    };
    static const struct store_caller one = {.principals = names, .n_principals = 1};
    while (!atomic_load(&done)) {
        struct store_view *v;
        struct store_filter *f;
        struct store_hit near[10], truth[10];
        size_t n, n_truth;
        float q[DIM];
        char text[32];
        uint64_t r = test_rand(&seed);
        (void)snprintf(text, sizeof(text), "query %llu", (unsigned long long)r);
        text_vector(text, strlen(text), DIM, q);
        MUST(store_view_begin(&v, the_store, &why) == CAIRN_OK);
        MUST(store_filter_open(&f, v, "c", r % 3 ? &caller_all : &one, &why) == CAIRN_OK);
        struct vector_how how = {.kind = (enum vector_kind)(r / 3 % 4), .ef = 200, .nprobe = 64};
        int64_t from = cairn_now_us();
        MUST(store_search_vector(v, "c", q, DIM, f, 10, &how, near, &n, NULL, NULL, &why) == CAIRN_OK);
        unsigned long long took = (unsigned long long)(cairn_now_us() - from),
                           most = atomic_load(&longest_us);
        while (took > most && !atomic_compare_exchange_weak(&longest_us, &most, took))
            ;
        MUST(store_search_vector(v, "c", q, DIM, f, 10, &(struct vector_how){.exact = true}, truth, &n_truth,
                                 NULL, NULL, &why) == CAIRN_OK);
        check_hits(v, f, near, n);
        check_hits(v, f, truth, n_truth);
        MUST(n_truth == (store_filter_count(f) < 10 ? store_filter_count(f) : 10));
        MUST(n == 0 || near[0].score <= truth[0].score + 1e-5f);
        for (size_t i = 0; i < n_truth; i++)
            for (size_t j = 0; j < n; j++)
                if (near[j].passage_id == truth[i].passage_id)
                    atomic_fetch_add(&n_found, 1);
        atomic_fetch_add(&n_asked, n_truth);
        store_filter_close(f);
        store_view_end(v);
        atomic_fetch_add(&n_searches, 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    TEST_WHY;
    unsigned seconds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 10;
    seed0 = argc > 2 ? strtoull(argv[2], NULL, 10) : seed0;
    struct fixture f = fixture_new();
    pthread_t threads[2 + READERS];
    struct store_stats first, last;
    struct collection_opts o = {.name = "c", .dim = DIM, .metric = METRIC_COSINE, .is_public = true};
    struct store_batch *b;
    MUST(cairn_config_set(f.config, "index.map_bytes", "1g", &why) == CAIRN_OK);
    MUST(cairn_config_set(f.config, "index.merge_rows_min", "200", &why) == CAIRN_OK);
    MUST(cairn_config_set(f.config, "index.scan_rows_max", "100", &why) == CAIRN_OK);
    MUST(store_open(&the_store, &(struct store_opts){.dir = f.dir, .create = true, .config = f.config},
                    &why) == CAIRN_OK);
    MUST(store_batch_begin(&b, the_store, &why) == CAIRN_OK);
    MUST(store_collection_create(b, &o, &why) == CAIRN_OK);
    MUST(store_batch_commit(b, NULL, &why) == CAIRN_OK);
    MUST(store_stats_get(the_store, &first, &why) == CAIRN_OK);
    MUST(pthread_create(&threads[0], NULL, writer, NULL) == 0);
    MUST(pthread_create(&threads[1], NULL, merger, NULL) == 0);
    for (uintptr_t i = 0; i < READERS; i++)
        MUST(pthread_create(&threads[2 + i], NULL, reader, (void *)i) == 0);
    for (unsigned i = 0; i < seconds; i++)
        (void)sleep(1);
    atomic_store(&done, true);
    for (unsigned i = 0; i < 2 + READERS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    uint32_t n = 0;
    MUST(store_merge(the_store, NULL, &(struct store_merge_opts){.full = true}, NULL, NULL, NULL, &n, &why) ==
         CAIRN_OK);
    MUST(store_stats_get(the_store, &last, &why) == CAIRN_OK);
    double recall = (double)n_found / (double)(n_asked ? n_asked : 1);
    printf("soak_index: %u s: %llu batches, %llu segments made, %llu searches of each kind, longest %.1f ms, "
           "recall %.4f, %llu vectors, used bytes %llu -> %llu, file %llu\n",
           seconds, (unsigned long long)n_batches, (unsigned long long)n_merges,
           (unsigned long long)n_searches, (double)longest_us / 1000, recall,
           (unsigned long long)last.n_vectors, (unsigned long long)first.map_used_bytes,
           (unsigned long long)last.map_used_bytes, (unsigned long long)last.file_bytes);
    MUST(store_check(f.dir, print_finding, NULL, &why) == CAIRN_OK);
    MUST(last.map_used_bytes <= MAP_FIXED + MAP_FACTOR * ROW_BYTES * last.n_vectors);
    MUST(n_batches > 0 && n_merges > 0 && n_searches > 0);
    MUST(recall >= 0.9);
    store_close(the_store);
    fixture_release(&f);
    return 0;
}
