/* Merged vector segments: what they promise whatever they are built from. Exact search over the same store is
 * the truth; recall floors are floors because the graph is approximate by design. */
#include "store.h"
#include "test_index_fixture.h"
#include "vseg.h"

#include <stdlib.h>

/* Vectors around 40 centres, as embeddings lie; the same i gives the same vector. */
static void clustered(uint64_t i, uint32_t dim, float *out)
{
    uint64_t centre = 1000 + i % 40, own = i * 2654435761u + 17;
    for (uint32_t t = 0; t < dim; t++) {
        float a = (float)(test_rand(&centre) >> 40) / 8388608.0f - 1;
        float b = (float)(test_rand(&own) >> 40) / 8388608.0f - 1;
        out[t] = a + 0.6f * b;
    }
}

struct corpus {
    struct fixture f;
    uint32_t dim;
};

static struct corpus corpus_new(uint32_t dim, enum vector_metric metric)
{
    TEST_WHY;
    struct corpus c = {.f = fixture_new(), .dim = dim};
    struct store_batch *b;
    struct collection_opts o = {.name = "v", .dim = dim, .metric = metric, .is_public = true};
    CHECK_OK(cairn_config_set(c.f.config, "index.map_bytes", "256m", &why));
    CHECK_OK(cairn_config_set(c.f.config, "index.merge_rows_min", "100", &why));
    fixture_open(&c.f);
    CHECK_OK(store_batch_begin(&b, c.f.s, &why));
    CHECK_OK(store_collection_create(b, &o, &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    return c;
}

/* Document i has vector clustered(i / copies); principals say which shares of all callers it belongs to. */
static void corpus_put(struct corpus *c, uint64_t from, uint64_t to, uint64_t copies)
{
    TEST_WHY;
    float *v = cairn_reallocarray(NULL, c->dim, sizeof(float));
    for (uint64_t i = from; i < to;) {
        struct store_batch *b;
        CHECK_OK(store_batch_begin(&b, c->f.s, &why));
        for (uint64_t end = i + 500; i < to && i < end; i++) {
            char id[24];
            struct cairn_str who[7] = {STR("all")};
            size_t n = 1;
            uint64_t seed = i + 99, r = test_rand(&seed) % 1000;
            if (i % 40 == 3) /* one of the centres */
                who[n++] = STR("topic");
            if (r < 500)
                who[n++] = STR("half");
            if (r < 200)
                who[n++] = STR("fifth");
            if (r < 50)
                who[n++] = STR("twentieth");
            if (r < 10)
                who[n++] = STR("hundredth");
            if (r < 1)
                who[n++] = STR("thousandth");
            clustered(i / copies, c->dim, v);
            struct store_passage p = {.path = STR(""), .vector = v};
            snprintf(id, sizeof(id), "%llu", (unsigned long long)i);
            struct store_document d = {
                .id = STR(id), .passages = &p, .n_passages = 1, .principals = who, .n_principals = n};
            CHECK_OK(store_put(b, "v", &d, &why));
        }
        CHECK_OK(store_batch_commit(b, NULL, &why));
    }
    cairn_free(v);
}

static void corpus_delete(struct corpus *c, uint64_t from, uint64_t to, uint64_t step)
{
    TEST_WHY;
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, c->f.s, &why));
    for (uint64_t i = from; i < to; i += step) {
        char id[24];
        snprintf(id, sizeof(id), "%llu", (unsigned long long)i);
        CHECK_OK(store_delete(b, "v", STR(id), &why));
    }
    CHECK_OK(store_batch_commit(b, NULL, &why));
}

static uint32_t corpus_merge(struct corpus *c, bool full)
{
    TEST_WHY;
    uint32_t n;
    CHECK_OK(store_merge(c->f.s, "v", &(struct store_merge_opts){.full = full, .threads = 2}, NULL, NULL,
                         NULL, &n, &why));
    return n;
}

static struct vector_info corpus_info(struct corpus *c)
{
    TEST_WHY;
    struct store_view *v;
    struct vector_info info;
    CHECK_OK(store_view_begin(&v, c->f.s, &why));
    CHECK_OK(store_vector_info(v, "v", &info, &why));
    store_view_end(v);
    return info;
}

#define K 10
/* recall@10 over queries near stored vectors; every hit passes the filter and carries its exact score. */
static double recall(struct corpus *c, const char *principal, const struct vector_how *how, const char *path)
{
    TEST_WHY;
    struct store_view *v;
    struct store_filter *f;
    struct cairn_str name = STR(principal ? principal : "");
    struct store_caller caller = {.principals = &name, .n_principals = 1, .all = principal == NULL};
    struct store_hit truth[K], hits[K];
    struct vector_plan plan;
    float *q = cairn_reallocarray(NULL, c->dim, sizeof(float));
    size_t found = 0, wanted = 0;
    CHECK_OK(store_view_begin(&v, c->f.s, &why));
    CHECK_OK(store_filter_open(&f, v, "v", &caller, &why));
    for (uint64_t i = 0; i < 100; i++) {
        size_t n_truth, n;
        clustered(1000003 + i, c->dim, q);
        CHECK_OK(store_search_vector(v, "v", q, c->dim, f, K, &(struct vector_how){.exact = true}, truth,
                                     &n_truth, NULL, NULL, &why));
        CHECK_OK(store_search_vector(v, "v", q, c->dim, f, K, how, hits, &n, &plan, NULL, &why));
        if (path)
            CHECK_STR_EQ(plan.path, path);
        CHECK_LE(n, K);
        for (size_t h = 0; h < n; h++) {
            CHECK(store_filter_has(f, hits[h].passage_id));
            CHECK(h == 0 || hit_before(&hits[h - 1], &hits[h]));
            for (size_t t = 0; t < n_truth; t++)
                if (truth[t].passage_id == hits[h].passage_id) {
                    CHECK(truth[t].score == hits[h].score);
                    found++;
                }
        }
        wanted += n_truth;
    }
    store_filter_close(f);
    store_view_end(v);
    cairn_free(q);
    return wanted ? (double)found / (double)wanted : 1;
}

static void corpus_release(struct corpus *c)
{
    fixture_close(&c->f);
    fixture_check_clean(&c->f);
    fixture_release(&c->f);
}

static void every_segment_kernel_gives_the_scalar_bits(void **state)
{
    UNUSED_STATE(state);
    struct vkernel all[4];
    size_t n = vkernel_available(all);
    const struct vkernel *ref = &all[n - 1];
    CHECK_STR_EQ(ref->name, "scalar");
    static uint8_t rows[4][VECTOR_DIM_MAX + 64];
    static int8_t q[VECTOR_DIM_MAX];
    static float a[VECTOR_DIM_MAX + 1], b[VECTOR_DIM_MAX + 1];
    uint64_t seed = 3;
    for (int round = 0; round < 12; round++) {
        for (size_t i = 0; i < VECTOR_DIM_MAX; i++) {
            q[i] = (int8_t)(round == 0 ? 127 : round == 1 ? -127 : (int)(test_rand(&seed) % 255) - 127);
            a[i] = (float)((double)test_rand(&seed) / 1e18 - 9);
            b[i] = (float)((double)test_rand(&seed) / 1e18 - 9);
            for (int r = 0; r < 4; r++)
                rows[r][i] = round == 0 ? 255 : round == 1 ? 1 : (uint8_t)(1 + test_rand(&seed) % 255);
        }
        for (size_t len = 64; len <= VECTOR_DIM_MAX; len = len < 512 ? len + 64 : len * 2)
            for (size_t k = 0; k < n; k++) {
                size_t shift = (size_t)round % 3;
                const uint8_t *at[4] = {rows[0] + shift, rows[1] + shift, rows[2] + shift, rows[3] + shift};
                int32_t four[4];
                all[k].rows4(at, q, len, four);
                for (int r = 0; r < 4; r++) {
                    CHECK_I64_EQ(four[r], ref->row(at[r], q, len));
                    CHECK_I64_EQ(all[k].row(at[r], q, len), four[r]);
                }
                size_t odd = len - (size_t)round; /* f32 rows have any length */
                float x = all[k].dotf(a + 1, b, odd), y = ref->dotf(a + 1, b, odd);
                CHECK(memcmp(&x, &y, 4) == 0);
                x = all[k].l2f(a + 1, b, odd);
                y = ref->l2f(a + 1, b, odd);
                CHECK(memcmp(&x, &y, 4) == 0);
            }
    }
    for (size_t k = 0; k < n; k++)
        print_message("kernel %s\n", all[k].name);
}

static void a_rotation_keeps_lengths(void **state)
{
    UNUSED_STATE(state);
    static const uint32_t dims[] = {1, 2, 3, 7, 64, 100, 384, 1000, VECTOR_DIM_MAX};
    for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
        static float v[VECTOR_DIM_MAX], w[VECTOR_DIM_MAX];
        clustered(5, dims[d], v);
        memcpy(w, v, sizeof(w));
        vseg_rotate(9, w, dims[d]);
        CHECK_NEAR(vindex_norm(w, dims[d]) / vindex_norm(v, dims[d]), 1, 1e-5);
    }
}

static void every_metric_and_dimension_finds_its_neighbours(void **state)
{
    UNUSED_STATE(state);
    static const uint32_t dims[] = {1, 3, 24, 100, 384};
    for (int metric = METRIC_COSINE; metric <= METRIC_L2; metric++)
        for (size_t d = 0; d < sizeof(dims) / sizeof(dims[0]); d++) {
            struct corpus c = corpus_new(dims[d], (enum vector_metric)metric);
            corpus_put(&c, 0, 2000, 1);
            CHECK_U64_EQ(corpus_merge(&c, true), 1);
            corpus_put(&c, 2000, 2050, 1); /* and a delta */
            if (dims[d] >= 24) {
                double graph = recall(&c, NULL, &(struct vector_how){.ef = 100}, "graph");
                double flat = recall(&c, NULL, &(struct vector_how){.kind = VECTOR_FLAT}, "flat");
                double ivf =
                    recall(&c, NULL, &(struct vector_how){.kind = VECTOR_IVF, .nprobe = 4096}, "ivf");
                print_message("metric %d, %u dimensions: graph %.3f flat %.3f ivf %.3f\n", metric, dims[d],
                              graph, flat, ivf);
                CHECK_GE(graph, 0.97);
                CHECK_GE(flat, 0.99);
                CHECK_GE(ivf, 0.99);
            } else { /* so few dimensions that int8 codes cannot tell all rows apart */
                CHECK_GE(recall(&c, NULL, &(struct vector_how){.ef = 400}, NULL), 0.3);
            }
            corpus_release(&c);
        }
}

static void a_merge_changes_speed_and_never_content(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct corpus c = corpus_new(24, METRIC_COSINE);
    corpus_put(&c, 0, 1200, 1);
    struct cairn_hash before = digest_of(&c.f);
    struct store_view *old;
    CHECK_OK(store_view_begin(&old, c.f.s, &why));
    CHECK_U64_EQ(corpus_merge(&c, true), 1);
    struct cairn_hash after = digest_of(&c.f);
    CHECK(memcmp(&before, &after, sizeof(before)) == 0);
    corpus_delete(&c, 0, 1200, 2);
    CHECK_U64_EQ(corpus_merge(&c, true), 1);
    struct vector_info info;
    CHECK_OK(store_vector_info(old, "v", &info, &why)); /* the older view has what it had */
    CHECK_U64_EQ(info.n_delta, 1200);
    CHECK_U64_EQ(info.n_segments, 0);
    struct store_filter *f;
    struct store_hit hits[K];
    size_t n;
    float q[24];
    CHECK_OK(store_filter_open(&f, old, "v", &caller_all, &why));
    clustered(4, 24, q);
    CHECK_OK(store_search_vector(old, "v", q, 24, f, K, NULL, hits, &n, NULL, NULL, &why));
    CHECK(hits[0].score > 0.9999f);
    store_filter_close(f);
    store_view_end(old);
    corpus_release(&c);
}

static void building_does_not_depend_on_threads(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { N = 3000, D = 40 };
    float *v = cairn_reallocarray(NULL, (size_t)N * D, sizeof(float));
    uint32_t *ids = cairn_reallocarray(NULL, N, 4);
    for (uint32_t i = 0; i < N; i++) {
        ids[i] = 3 * i + 1;
        clustered(i, D, v + (size_t)i * D);
    }
    struct vbuilt one, two;
    struct vbuild_opts o = {.dim = D, .links = 16, .width = 60, .metric = METRIC_L2, .threads = 1};
    CHECK_OK(vbuild(&one, &o, ids, v, N, &why));
    o.threads = 3;
    CHECK_OK(vbuild(&two, &o, ids, v, N, &why));
    CHECK_U64_EQ(one.rec.n_lists, two.rec.n_lists);
    for (int p = 0; p < PART_N; p++)
        if (one.part[p])
            CHECK(memcmp(one.part[p], two.part[p],
                         (size_t)vseg_part_rows(&one.rec, (enum vseg_part)p) *
                             vseg_stride(&one.rec, (enum vseg_part)p)) == 0);
    vbuilt_release(&one);
    vbuilt_release(&two);
    cairn_free(v);
    cairn_free(ids);
}

static void filters_of_every_width_find_what_they_let_through(void **state)
{
    UNUSED_STATE(state);
    struct corpus c = corpus_new(48, METRIC_COSINE);
    TEST_WHY;
    CHECK_OK(cairn_config_set(c.f.config, "index.scan_rows_max", "60", &why));
    corpus_put(&c, 0, 4000, 1);
    corpus_merge(&c, true);
    static const struct {
        const char *who, *path;
    } widths[] = {
        {"all",        "graph"  },
        {"half",       "graph"  },
        {"fifth",      "two_hop"},
        {"twentieth",  "two_hop"},
        {"hundredth",  "scan"   },
        {"thousandth", "scan"   }
    };
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        double r = recall(&c, widths[i].who, &(struct vector_how){.ef = 64}, widths[i].path);
        print_message("%s: %.3f\n", widths[i].who, r);
        CHECK_GE(r, 0.95);
    }
    CHECK_GE(recall(&c, "topic", NULL, NULL), 0.95); /* far from most queries, all in one place */
    CHECK_GE(recall(&c, "nobody", NULL, NULL), 1);   /* nothing wanted, nothing found */
    CHECK_GE(recall(&c, "fifth", &(struct vector_how){.kind = VECTOR_IVF, .nprobe = 4096}, "ivf"), 0.99);
    corpus_release(&c);
}

static void as_many_hits_come_as_are_asked_for(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct corpus c = corpus_new(16, METRIC_COSINE);
    corpus_put(&c, 0, 6000, 1);
    corpus_merge(&c, true);
    static const char *const who[] = {"all", "half", "twentieth", "topic"};
    struct store_hit *hits = cairn_reallocarray(NULL, 6000, sizeof(*hits));
    float q[16];
    clustered(9, 16, q);
    for (size_t i = 0; i < sizeof(who) / sizeof(who[0]); i++) {
        static const size_t ks[] = {1, 10, 150, 2000, 4096, 4097, 6000};
        struct store_view *v;
        struct store_filter *f;
        struct cairn_str name = STR(who[i]);
        CHECK_OK(store_view_begin(&v, c.f.s, &why));
        CHECK_OK(store_filter_open(&f, v, "v", &(struct store_caller){.principals = &name, .n_principals = 1},
                                   &why));
        for (int kind = VECTOR_AUTO; kind <= VECTOR_IVF; kind++)
            for (size_t k = 0; k < sizeof(ks) / sizeof(ks[0]); k++) {
                size_t n;
                struct vector_how how = {.kind = (enum vector_kind)kind, .ef = 1, .nprobe = 1};
                CHECK_OK(store_search_vector(v, "v", q, 16, f, ks[k], &how, hits, &n, NULL, NULL, &why));
                CHECK_U64_EQ(n, ks[k] < store_filter_count(f) ? ks[k] : store_filter_count(f));
            }
        store_filter_close(f);
        store_view_end(v);
    }
    cairn_free(hits);
    corpus_release(&c);
}

static void deletes_and_reinserts_keep_recall(void **state)
{
    UNUSED_STATE(state);
    struct corpus c = corpus_new(48, METRIC_COSINE);
    struct vector_how how = {.ef = 64};
    corpus_put(&c, 0, 3000, 1);
    corpus_merge(&c, true);
    double fresh = recall(&c, NULL, &how, NULL);
    corpus_delete(&c, 0, 3000, 5);
    double fifth = recall(&c, NULL, &how, NULL);
    corpus_delete(&c, 1, 3000, 5);
    corpus_delete(&c, 2, 1500, 5);
    double half = recall(&c, NULL, &how, NULL);
    struct vector_info info = corpus_info(&c);
    CHECK_U64_EQ(info.n_rows, 3000);
    CHECK_U64_EQ(info.n_dead, 1500);
    corpus_merge(&c, false); /* more than a fifth is dead: due by itself */
    info = corpus_info(&c);
    CHECK_U64_EQ(info.n_rows, 1500);
    CHECK_U64_EQ(info.n_dead, 0);
    double merged = recall(&c, NULL, &how, NULL);
    corpus_put(&c, 0, 3000, 1); /* back again, replacing those still there */
    corpus_merge(&c, true);
    info = corpus_info(&c);
    CHECK_U64_EQ(info.n_rows, 3000);
    CHECK_U64_EQ(info.n_segments, 1);
    double again = recall(&c, NULL, &how, NULL);
    print_message("fresh %.3f, 20%% deleted %.3f, 50%% deleted %.3f, merged %.3f, back %.3f\n", fresh, fifth,
                  half, merged, again);
    CHECK_GE(fresh, 0.97);
    CHECK_GE(fifth, fresh - 0.01);
    CHECK_GE(half, fresh - 0.01);
    CHECK_GE(merged, fresh - 0.01);
    CHECK_GE(again, fresh - 0.01);
    corpus_release(&c);
}

static void copies_of_one_vector_hide_nobody(void **state)
{
    UNUSED_STATE(state);
    struct corpus c = corpus_new(32, METRIC_COSINE);
    corpus_put(&c, 0, 3000, 100); /* 30 vectors, 100 copies of each */
    corpus_put(&c, 300000, 300400, 1);
    corpus_merge(&c, true); /* the check of corpus_release proves that all are reached */
    TEST_WHY;
    struct store_view *v;
    struct store_filter *f;
    struct store_hit hits[K];
    size_t n, found = 0;
    float q[32];
    CHECK_OK(store_view_begin(&v, c.f.s, &why));
    CHECK_OK(store_filter_open(&f, v, "v", &caller_all, &why));
    for (uint64_t i = 300000; i < 300400; i++) {
        clustered(i, 32, q);
        CHECK_OK(store_search_vector(v, "v", q, 32, f, K, NULL, hits, &n, NULL, NULL, &why));
        CHECK_U64_EQ(n, K);
        found += hits[0].score > 0.99999f;
    }
    CHECK_GE(found, 396);
    store_filter_close(f);
    store_view_end(v);
    corpus_release(&c);
}

static void segments_stay_few_while_rows_come(void **state)
{
    UNUSED_STATE(state);
    struct corpus c = corpus_new(16, METRIC_DOT);
    uint32_t most = 0;
    for (uint64_t i = 0; i < 30; i++) {
        corpus_put(&c, i * 120, (i + 1) * 120, 1);
        CHECK_GE(corpus_merge(&c, false), 1);
        struct vector_info info = corpus_info(&c);
        CHECK_U64_EQ(info.n_delta, 0);
        CHECK_U64_EQ(info.n_rows, (i + 1) * 120);
        most = info.n_segments > most ? info.n_segments : most;
    }
    CHECK_LE(most, 5);
    CHECK_U64_EQ(corpus_merge(&c, true), corpus_info(&c).n_segments > 1 ? 0 : 1);
    CHECK_U64_EQ(corpus_info(&c).n_segments, 1);
    CHECK_U64_EQ(corpus_merge(&c, true), 0); /* nothing left to do */
    CHECK_GE(recall(&c, NULL, NULL, NULL), 0.97);
    corpus_release(&c);
}

static void a_large_delta_becomes_several_segments(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct corpus c = corpus_new(16, METRIC_COSINE);
    CHECK_OK(cairn_config_set(c.f.config, "index.segment_rows_max", "1024", &why));
    corpus_put(&c, 0, 2500, 1);
    CHECK_U64_EQ(corpus_merge(&c, true), 3);
    struct vector_info info = corpus_info(&c);
    CHECK_U64_EQ(info.n_segments, 3);
    CHECK_U64_EQ(info.n_rows, 2500);
    CHECK_U64_EQ(info.n_delta, 0);
    CHECK_GE(recall(&c, NULL, NULL, NULL), 0.97);
    corpus_release(&c);
}

static void dropping_a_collection_drops_its_segments(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct corpus c = corpus_new(16, METRIC_COSINE);
    corpus_put(&c, 0, 500, 1);
    corpus_merge(&c, true);
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, c.f.s, &why));
    CHECK_OK(store_collection_drop(b, "v", &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    corpus_release(&c);
}

/* A killed merge leaves chunks that nothing refers to; the next one removes them, of dropped collections too.
 */
static void chunks_of_nobody_are_removed(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct corpus c = corpus_new(24, METRIC_COSINE);
    corpus_put(&c, 0, 800, 1);
    for (int round = 0; round < 2; round++) {
        uint32_t n;
        struct store_stats with, without;
        CHECK_OK(cairn_failpoint_set("index.merge.before_flip=error", &why));
        CHECK_ERR(
            store_merge(c.f.s, NULL, &(struct store_merge_opts){.full = true}, NULL, NULL, NULL, &n, &why),
            CAIRN_EIO);
        CHECK_OK(cairn_failpoint_set("", &why));
        CHECK_OK(store_stats_get(c.f.s, &with, &why));
        if (round) {
            struct store_batch *b;
            CHECK_OK(store_batch_begin(&b, c.f.s, &why));
            CHECK_OK(store_collection_drop(b, "v", &why));
            CHECK_OK(store_batch_commit(b, NULL, &why));
        }
        CHECK_OK(store_merge(c.f.s, NULL, NULL, NULL, NULL, NULL, &n, &why));
        CHECK_U64_EQ(n, round ? 0 : 1);
        CHECK_OK(store_stats_get(c.f.s, &without, &why));
        CHECK_LE(without.map_used_bytes, with.map_used_bytes + (1 << 20)); /* freed pages were used again */
        if (!round)
            corpus_put(&c, 0, 800, 1);
    }
    corpus_release(&c);
}

/* A store of format 1 has neither databases nor the byte of a collection's index. */
static void a_store_of_format_one_is_brought_up_when_opened_for_writing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct corpus c = corpus_new(24, METRIC_COSINE);
    corpus_put(&c, 0, 300, 1);
    struct cairn_hash before = digest_of(&c.f);
    fixture_close(&c.f);
    MDB_env *env;
    MDB_dbi dbi[DB_N];
    char *path = cairn_path_join(c.f.dir, "store");
    struct kv kv = {0};
    struct kv_key k;
    struct cairn_str old;
    CHECK_OK(env_open(&env, dbi, path, false, false, 1 << 28, 8, &why));
    CHECK_I64_EQ(mdb_txn_begin(env, NULL, 0, &kv.txn), 0);
    kv.dbi = dbi;
    CHECK_I64_EQ(mdb_drop(kv.txn, dbi[DB_GRAPH], 1), 0);
    CHECK_I64_EQ(mdb_drop(kv.txn, dbi[DB_CHUNK], 1), 0);
    CHECK_OK(kv_put(&kv, DB_META, key_bytes(key_reset(&k), "format", 6), "\1\0\0", 4, &why));
    CHECK_OK(kv_get(&kv, DB_COLLECTION, key_bytes(key_reset(&k), "v", 1), &old, &why));
    char *shorter = cairn_strndup(old.p, old.len);
    memcpy(shorter, old.p, old.len);
    CHECK_OK(kv_put(&kv, DB_COLLECTION, &k, shorter, old.len - 1, &why));
    CHECK_I64_EQ(mdb_txn_commit(kv.txn), 0);
    mdb_env_close(env);
    cairn_free(shorter);
    cairn_free(path);
    struct store *reader;
    CHECK_ERR(store_open(&reader, &(struct store_opts){.dir = c.f.dir, .read_only = true}, &why),
              CAIRN_EUNSUPPORTED);
    fixture_open(&c.f);
    CHECK_U64_EQ(corpus_merge(&c, true), 1);
    struct cairn_hash after = digest_of(&c.f);
    CHECK(memcmp(&before, &after, sizeof(before)) == 0);
    corpus_release(&c);
}

static void a_merge_that_is_told_to_stop_leaves_all_as_it_was(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct corpus c = corpus_new(24, METRIC_COSINE);
    corpus_put(&c, 0, 800, 1);
    struct cairn_hash before = digest_of(&c.f);
    struct cairn_stop stop = {0};
    atomic_store(&stop.cancelled, true);
    uint32_t n;
    CHECK_ERR(store_merge(c.f.s, NULL, &(struct store_merge_opts){.full = true}, NULL, NULL, &stop, &n, &why),
              CAIRN_ESTOPPED);
    CHECK_U64_EQ(corpus_info(&c).n_delta, 800);
    struct cairn_hash after = digest_of(&c.f);
    CHECK(memcmp(&before, &after, sizeof(before)) == 0);
    CHECK_ERR(
        store_merge(c.f.s, NULL, &(struct store_merge_opts){.rest_pct = 91}, NULL, NULL, NULL, &n, &why),
        CAIRN_EINVAL);
    CHECK_U64_EQ(corpus_merge(&c, true), 1);
    corpus_release(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_segment_kernel_gives_the_scalar_bits),
        TEST(a_rotation_keeps_lengths),
        TEST(every_metric_and_dimension_finds_its_neighbours),
        TEST(a_merge_changes_speed_and_never_content),
        TEST(building_does_not_depend_on_threads),
        TEST(filters_of_every_width_find_what_they_let_through),
        TEST(as_many_hits_come_as_are_asked_for),
        TEST(deletes_and_reinserts_keep_recall),
        TEST(copies_of_one_vector_hide_nobody),
        TEST(segments_stay_few_while_rows_come),
        TEST(a_large_delta_becomes_several_segments),
        TEST(dropping_a_collection_drops_its_segments),
        TEST(chunks_of_nobody_are_removed),
        TEST(a_store_of_format_one_is_brought_up_when_opened_for_writing),
        TEST(a_merge_that_is_told_to_stop_leaves_all_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
