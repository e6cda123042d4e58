/* vector.put and vector.search, what a collection of brought vectors does with texts, recall measured on live
 * searches, and the upkeep thread. No model files are needed. */
#include "wire/api_fixture.h"

#include <math.h>
#include <stdlib.h>

static const char *const all_sampled[] = {"api.recall_sample_pct=100", NULL};

static void fill(struct service *s)
{
    fix_do(s, "collection.create", "{\"collection\":\"v\",\"dim\":3,\"index\":\"hnsw\"}");
    fix_do(s, "vector.put",
           "{\"collection\":\"v\",\"vectors\":["
           "{\"id\":\"x\",\"vector\":[1,0,0],\"text\":\"A red apple.\",\"title\":\"Apple\"},"
           "{\"id\":\"y\",\"vector\":[0,1.5,0]},"
           "{\"id\":\"z\",\"vector\":[0,0,-2],\"text\":\"A secret pear.\",\"principals\":[\"staff\"]}]}");
}

static json_t *hit(json_t *j, size_t i) { return json_array_get(json_object_get(j, "hits"), i); }

static void brought_vectors_are_found_until_deleted(void **state)
{
    UNUSED_STATE(state);
    struct fix f = fix_open(NULL);
    fill(f.s);
    json_t *j = fix_call(f.s, "collection.describe", "{\"collection\":\"v\"}");
    CHECK_I64_EQ(j_int(j, "dim"), 3);
    CHECK_STR_EQ(j_str(j, "metric"), "cosine");
    CHECK(*j_str(j, "index"));
    CHECK_STR_EQ(j_str(j, "embedder"), "");
    json_decref(j);
    j = fix_call(f.s, "vector.search",
                 "{\"collection\":\"v\",\"vector\":[2,0.5,0],\"k\":2,\"with_text\":true,\"explain\":true,"
                 "\"ef\":50,\"nprobe\":4,\"index\":\"flat\"}");
    CHECK_U64_EQ(j_len(j, "hits"), 2);
    CHECK_STR_EQ(j_str(hit(j, 0), "id"), "x");
    CHECK_STR_EQ(j_str(hit(j, 0), "text"), "A red apple.");
    CHECK_STR_EQ(j_str(hit(j, 0), "title"), "Apple");
    CHECK_STR_EQ(j_str(hit(j, 1), "id"), "y");
    CHECK_STR_EQ(j_str(hit(j, 1), "text"), "");
    CHECK(fabs(json_number_value(json_object_get(hit(j, 0), "score")) - 2 / sqrt(4.25)) < 1e-5);
    CHECK(j_int(hit(j, 0), "passage_id") > 0 && j_int(j, "generation") > 0);
    json_t *plan = json_object_get(j, "explain");
    CHECK(*j_str(plan, "path") && *j_str(plan, "reason"));
    static const char *const counts[] = {"n_segments", "n_delta", "n_scored", "ef", "nprobe"};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        CHECK(j_int(plan, counts[i]) >= 0);
    CHECK(json_is_number(json_object_get(plan, "share")));
    json_decref(j);
    j = fix_call(f.s, "vector.search", "{\"collection\":\"v\",\"vector\":[1,0,0]}");
    CHECK_U64_EQ(j_len(j, "hits"), 3);
    CHECK(!json_object_get(hit(j, 0), "text") && !json_object_get(j, "explain"));
    json_decref(j);
    /* an id put again is replaced */
    fix_do(f.s, "vector.put", "{\"collection\":\"v\",\"vectors\":[{\"id\":\"x\",\"vector\":[-1,0,0]}]}");
    j = fix_call(f.s, "vector.search", "{\"collection\":\"v\",\"vector\":[-1,0,0],\"k\":1}");
    CHECK_STR_EQ(j_str(hit(j, 0), "id"), "x");
    json_decref(j);
    fix_do(f.s, "doc.delete", "{\"collection\":\"v\",\"ids\":[\"x\",\"y\"]}");
    j = fix_call(f.s, "vector.search", "{\"collection\":\"v\",\"vector\":[1,0,0]}");
    CHECK_U64_EQ(j_len(j, "hits"), 1);
    CHECK_STR_EQ(j_str(hit(j, 0), "id"), "z");
    json_decref(j);
    fix_close(&f);
}

#define PUT(vectors) "{\"collection\":\"v\",\"vectors\":[" vectors "]}"
#define GOOD "{\"id\":\"good\",\"vector\":[1,1,1]}"
static void a_bad_vector_is_named_and_nothing_is_put(void **state)
{
    UNUSED_STATE(state);
    static const char *const few[] = {"api.put_vectors_max=4", NULL};
    struct fix f = fix_open(few);
    fill(f.s);
    fix_do(f.s, "doc.put",
           "{\"collection\":\"texts\",\"create\":true,\"documents\":[{\"id\":\"a\",\"text\":\"b c\"}]}");
    static const struct {
        const char *params, *words[2];
    } bad[] = {
        {PUT(""),                                                              {"vectors: empty", ""}           },
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[1,2]}"),                         {"vectors[1].vector: 2", "\"b\""}},
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[]}"),                            {"vectors[1].vector: 0", "\"b\""}},
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[1,2,1e300]}"),                   {"vectors[1].vector[2]", "\"b\""}},
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[1,2,\"3\"]}"),                   {"vectors[1].vector[2]", "\"b\""}},
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[1,null,3]}"),                    {"vectors[1].vector[1]", "\"b\""}},
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":\"123\"}"),                       {"vectors[1].vector", "\"b\""}   },
        {PUT(GOOD ",{\"id\":\"b\"}"),                                          {"vectors[1].vector is", "\"b\""}},
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[0,0,0]}"),                       {"vectors[1]", "all zero"}       },
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[3e38,3e38,0]}"),                 {"vectors[1]", "too large"}      },
        {PUT(GOOD "," GOOD),                                                   {"vectors[1].id", "vectors[0]"}  },
        {PUT(GOOD ",{\"vector\":[1,2,3]}"),                                    {"vectors[1].id", "missing"}     },
        {PUT(GOOD ",{\"id\":\"\",\"vector\":[1,2,3]}"),                        {"vectors[1].id", ""}            },
        {PUT(GOOD ",{\"id\":\"\\u0001\",\"vector\":[1,2,3]}"),                 {"vectors[1].id", "control"}     },
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[1,2,3],\"extra\":1}"),           {"vectors[1].", "extra"}         },
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[1,2,3],\"text\":7}"),            {"vectors[1].text", ""}          },
        {PUT(GOOD ",{\"id\":\"b\",\"vector\":[1,2,3],\"principals\":[\"\"]}"),
         {"vectors[1].principals[0]", ""}                                                                       },
        {PUT(GOOD ",7"),                                                       {"vectors[1]", "map"}            },
        {PUT(GOOD "," GOOD "," GOOD "," GOOD "," GOOD),                        {"vectors", "at most 4"}         },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        for (size_t w = 0; w < 2; w++)
            fix_fails(f.s, &fix_local, "vector.put", bad[i].params, CAIRN_EINVAL, bad[i].words[w]);
    fix_fails(f.s, &fix_local, "doc.get", "{\"collection\":\"v\",\"id\":\"good\"}", CAIRN_ENOTFOUND, NULL);
    fix_fails(f.s, &fix_local, "vector.put", "{\"collection\":\"no\",\"vectors\":[" GOOD "]}",
              CAIRN_ENOTFOUND, "collection.create");
    fix_fails(f.s, &fix_local, "vector.put", "{\"collection\":\"texts\",\"vectors\":[" GOOD "]}",
              CAIRN_ESTATE, "holds no vectors");
    static const struct {
        const char *params, *words;
        enum cairn_err err;
    } asked[] = {
        {"{\"collection\":\"v\"}",                                       "vector is missing", CAIRN_EINVAL   },
        {"{\"collection\":\"v\",\"vector\":[1,2]}",                      "vectors of 3",      CAIRN_EINVAL   },
        {"{\"collection\":\"v\",\"vector\":[0,0,0]}",                    "param vector",      CAIRN_EINVAL   },
        {"{\"collection\":\"v\",\"vector\":[1,0,0],\"k\":0}",            "param k",           CAIRN_EINVAL   },
        {"{\"collection\":\"v\",\"vector\":[1,0,0],\"k\":1001}",         "param k",           CAIRN_EINVAL   },
        {"{\"collection\":\"v\",\"vector\":[1,0,0],\"ef\":4097}",        "param ef",          CAIRN_EINVAL   },
        {"{\"collection\":\"v\",\"vector\":[1,0,0],\"nprobe\":0}",       "param nprobe",      CAIRN_EINVAL   },
        {"{\"collection\":\"v\",\"vector\":[1,0,0],\"index\":\"tree\"}", "auto, flat, hnsw",  CAIRN_EINVAL   },
        {"{\"collection\":\"texts\",\"vector\":[1,0,0]}",                "holds no vectors",  CAIRN_ESTATE   },
        {"{\"collection\":\"no\",\"vector\":[1,0,0]}",                   "no",                CAIRN_ENOTFOUND},
    };
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++)
        fix_fails(f.s, &fix_local, "vector.search", asked[i].params, asked[i].err, asked[i].words);
    static const char *const created[][2] = {
        {"{\"collection\":\"n\",\"dim\":0}",                          "param dim"   },
        {"{\"collection\":\"n\",\"dim\":4097}",                       "param dim"   },
        {"{\"collection\":\"n\",\"dim\":4,\"embedder\":\"some\"}",    "param dim"   },
        {"{\"collection\":\"n\",\"metric\":\"dot\"}",                 "param metric"},
        {"{\"collection\":\"n\",\"dim\":4,\"metric\":\"manhattan\"}", "param metric"},
        {"{\"collection\":\"n\",\"dim\":4,\"index\":\"tree\"}",       "param index" },
    };
    for (size_t i = 0; i < sizeof created / sizeof created[0]; i++)
        fix_fails(f.s, &fix_local, "collection.create", created[i][0], CAIRN_EINVAL, created[i][1]);
    fix_close(&f);
}

static enum cairn_err put_bin(struct service *s, const void *bytes, size_t len, struct cairn_why *why)
{
    struct cairn_buf in, out;
    struct pk k;
    cairn_buf_init(&in, 0);
    cairn_buf_init(&out, 0);
    pk_init(&k, &in);
    pk_map(&k, 2);
    pk_kcstr(&k, "collection", "v");
    pk_cstr(&k, "vectors");
    pk_array(&k, 1);
    pk_map(&k, 2);
    pk_kcstr(&k, "id", "bin");
    pk_cstr(&k, "vector");
    pk_bin(&k, bytes, len);
    enum cairn_err err = service_call(s, &fix_local, "vector.put", in.bytes, in.len, NULL, NULL, &out, why);
    cairn_buf_release(&in);
    cairn_buf_release(&out);
    return err;
}

static void a_vector_may_be_a_bin(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    fill(f.s);
    static const uint8_t good[] = {0, 0, 0x80, 0xbf, 0, 0, 0, 0, 0, 0, 0, 0}, /* -1, 0, 0 */
        nan_[] = {0, 0, 0x80, 0x3f, 0, 0, 0xc0, 0x7f, 0, 0, 0, 0},
                         inf[] = {0, 0, 0x80, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0};
    CHECK_OK(put_bin(f.s, good, sizeof good, &why));
    json_t *j = fix_call(f.s, "vector.search", "{\"collection\":\"v\",\"vector\":[-3,0,0],\"k\":1}");
    CHECK_STR_EQ(j_str(hit(j, 0), "id"), "bin");
    json_decref(j);
    CHECK_ERR(put_bin(f.s, good, sizeof good - 1, &why), CAIRN_EINVAL);
    CHECK(strstr(why.text, "vectors[0].vector: a bin of 11 bytes"));
    CHECK_ERR(put_bin(f.s, nan_, sizeof nan_, &why), CAIRN_EINVAL);
    CHECK(strstr(why.text, "vectors[0].vector[1]") && strstr(why.text, "\"bin\""));
    CHECK_ERR(put_bin(f.s, inf, sizeof inf, &why), CAIRN_EINVAL);
    CHECK(strstr(why.text, "vectors[0].vector[0]"));
    CHECK_ERR(put_bin(f.s, good, 0, &why), CAIRN_EINVAL);
    fix_close(&f);
}

static void only_allowed_vectors_are_seen(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    enum cairn_err err;
    fill(f.s);
    struct cairn_str staff = cairn_str_of("staff");
    struct api_caller of_staff = {.role = ROLE_USER, .principals = &staff, .n_principals = 1, .key_id = "k1"},
                      guest = {.role = ROLE_USER, .principals = NULL, .n_principals = 0, .key_id = "k2"},
                      reader = {
                          .role = ROLE_READ_ONLY, .principals = NULL, .n_principals = 0, .key_id = "k3"};
    const char *q = "{\"collection\":\"v\",\"vector\":[0,0,-1],\"exact\":false,\"explain\":true}";
    json_t *j = fix_try(f.s, &of_staff, "vector.search", q, NULL, &err, &why);
    CHECK(j && j_len(j, "hits") == 3);
    CHECK_STR_EQ(j_str(hit(j, 0), "id"), "z");
    json_decref(j);
    for (int exact = 0; exact < 2; exact++) {
        j = fix_try(f.s, &guest, "vector.search",
                    exact ? "{\"collection\":\"v\",\"vector\":[0,0,-1],\"exact\":true}" : q, NULL, &err,
                    &why);
        CHECK(j && j_len(j, "hits") == 2);
        for (size_t i = 0; i < 2; i++)
            CHECK(strcmp(j_str(hit(j, i), "id"), "z") != 0);
        json_decref(j);
    }
    j = fix_call(f.s, "vector.search", "{\"collection\":\"v\",\"vector\":[0,0,-1],\"principals\":[]}");
    CHECK_U64_EQ(j_len(j, "hits"), 2);
    json_decref(j);
    fix_fails(f.s, &guest, "vector.search",
              "{\"collection\":\"v\",\"vector\":[0,0,-1],\"principals\":[\"staff\"]}", CAIRN_EDENIED,
              "principals[0]");
    fix_fails(f.s, &guest, "vector.put", PUT("{\"id\":\"z\",\"vector\":[1,1,1]}"), CAIRN_EDENIED, "z");
    fix_fails(f.s, &guest, "vector.put", PUT("{\"id\":\"w\",\"vector\":[1,1,1],\"principals\":[\"staff\"]}"),
              CAIRN_EDENIED, "principals[0]");
    fix_fails(f.s, &reader, "vector.put", PUT(GOOD), CAIRN_EDENIED, "role");
    /* a put without principals keeps the ACL */
    j = fix_try(f.s, &of_staff, "vector.put", PUT("{\"id\":\"z\",\"vector\":[0,0,-5]}"), NULL, &err, &why);
    CHECK(j);
    json_decref(j);
    j = fix_try(f.s, &guest, "vector.search", q, NULL, &err, &why);
    CHECK(j && j_len(j, "hits") == 2);
    json_decref(j);
    fix_close(&f);
}

static void texts_are_searched_by_words_where_vectors_are_brought(void **state)
{
    UNUSED_STATE(state);
    struct fix f = fix_open(NULL);
    fill(f.s);
    json_t *j = fix_call(f.s, "search", "{\"collection\":\"v\",\"query\":\"red apples\",\"explain\":true}");
    CHECK_U64_EQ(j_len(j, "hits"), 1);
    CHECK_STR_EQ(j_str(hit(j, 0), "document_id"), "x");
    CHECK_STR_EQ(j_str(json_object_get(j, "explain"), "legs"), "lexical");
    CHECK(!json_object_get(json_object_get(j, "explain"), "plan"));
    json_decref(j);
    fix_do(f.s, "ask", "{\"collection\":\"v\",\"question\":\"What is red?\",\"mode\":\"extract\"}");
    fix_fails(f.s, &fix_local, "search", "{\"collection\":\"v\",\"query\":\"red\",\"legs\":\"dense\"}",
              CAIRN_ESTATE, "vector.search");
    fix_fails(f.s, &fix_local, "doc.put",
              "{\"collection\":\"v\",\"documents\":[{\"id\":\"a\",\"text\":\"b c\"}]}", CAIRN_ESTATE,
              "vector.put");
    char params[512];
    snprintf(params, sizeof params, "{\"collection\":\"v\",\"path\":\"%s\"}", f.dir);
    fix_fails(f.s, &fix_local, "doc.sync", params, CAIRN_ESTATE, "vector.put");
    fix_close(&f);
}

/* Where a model makes the vectors, one may be asked with but none put: they would not be the model's. */
static void a_collection_of_a_model_takes_no_brought_vectors(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    struct store_batch *b;
    uint64_t generation;
    const float one[3] = {0, 1, 0};
    CHECK_OK(store_batch_begin(&b, f.s->store, &why));
    CHECK_OK(store_collection_create(
        b, &(struct collection_opts){.name = "v", .embedder = "some-model", .dim = 3, .is_public = true},
        &why));
    CHECK_OK(store_put(b, "v",
                       &(struct store_document){
                           .id = cairn_str_of("d"),
                           .text = cairn_str_of("one"),
                           .passages = &(struct store_passage){.end = 3, .vector = one},
                           .n_passages = 1
    },
                       &why));
    CHECK_OK(store_batch_commit(b, &generation, &why));
    fix_fails(f.s, &fix_local, "vector.put", PUT(GOOD), CAIRN_ESTATE, "some-model");
    json_t *j = fix_call(f.s, "vector.search", "{\"collection\":\"v\",\"vector\":[0,3,0]}");
    CHECK_U64_EQ(j_len(j, "hits"), 1);
    CHECK_STR_EQ(j_str(hit(j, 0), "id"), "d");
    json_decref(j);
    fix_close(&f);
}

#define N 300u
#define DIM 8u
static void put_random(struct service *s, const char *metric, unsigned seed)
{
    char params[N * DIM * 12 + N * 64 + 256];
    size_t n = (size_t)snprintf(params, sizeof params, "{\"collection\":\"%s\",\"vectors\":[", metric);
    char create[128];
    snprintf(create, sizeof create, "{\"collection\":\"%s\",\"dim\":%u,\"metric\":\"%s\"}", metric, DIM,
             metric);
    fix_do(s, "collection.create", create);
    for (unsigned i = 0; i < N; i++) {
        n +=
            (size_t)snprintf(params + n, sizeof params - n, "%s{\"id\":\"%u\",\"vector\":[", i ? "," : "", i);
        for (unsigned d = 0; d < DIM; d++) {
            seed = seed * 1664525u + 1013904223u;
            n += (size_t)snprintf(params + n, sizeof params - n, "%s%.4f", d ? "," : "",
                                  (double)(seed >> 8) / (1 << 23) - 1);
        }
        /* one of ten is for few eyes, one of two for some */
        n += (size_t)snprintf(params + n, sizeof params - n, "]%s}",
                              i % 50 == 0  ? ",\"principals\":[\"few\"]"
                              : i % 2 == 0 ? ",\"principals\":[\"some\"]"
                                           : ",\"principals\":[\"many\"]");
    }
    snprintf(params + n, sizeof params - n, "]}");
    fix_do(s, "vector.put", params);
}

static void exact_is_what_the_planner_finds_in_small_sets(void **state)
{
    UNUSED_STATE(state);
    static const char *const metrics[] = {"cosine", "dot", "l2"};
    struct fix f = fix_open(NULL);
    for (size_t m = 0; m < 3; m++) {
        put_random(f.s, metrics[m], (unsigned)m + 1);
        for (unsigned q = 0; q < 10; q++) {
            json_t *found[2];
            for (int exact = 0; exact < 2; exact++) {
                char params[256];
                snprintf(params, sizeof params,
                         "{\"collection\":\"%s\",\"vector\":[%u,1,-1,0.5,%u,0,2,-2],\"k\":20,\"exact\":%s}",
                         metrics[m], q, 10 - q, exact ? "true" : "false");
                json_t *j = fix_call(f.s, "vector.search", params);
                CHECK_U64_EQ(j_len(j, "hits"), 20);
                found[exact] = json_incref(json_object_get(j, "hits"));
                json_decref(j);
            }
            CHECK(json_equal(found[0], found[1]));
            double last = INFINITY;
            for (size_t i = 0; i < 20; i++) {
                double score = json_number_value(json_object_get(json_array_get(found[0], i), "score"));
                CHECK(score <= last);
                last = score;
            }
            json_decref(found[0]);
            json_decref(found[1]);
        }
    }
    fix_close(&f);
}

static void search_as(struct service *s, const char *principals)
{
    char params[256];
    snprintf(params, sizeof params, "{\"collection\":\"cosine\",\"vector\":[1,2,3,4,5,6,7,8],\"k\":5%s%s%s}",
             principals ? ",\"principals\":[" : "", principals ? principals : "", principals ? "]" : "");
    fix_do(s, "vector.search", params);
}

static void recall_is_measured_when_idle_by_band(void **state)
{
    UNUSED_STATE(state);
    struct fix f = fix_open(all_sampled);
    struct api_metrics *m = &f.s->metrics;
    put_random(f.s, "cosine", 9);
    search_as(f.s, NULL);
    search_as(f.s, "\"many\"");
    search_as(f.s, "\"few\"");
    fix_do(f.s, "vector.search", "{\"collection\":\"cosine\",\"vector\":[1,2,3,4,5,6,7,8],\"exact\":true}");
    atomic_fetch_add(&f.s->in_flight, 1); /* a request runs: nothing is measured */
    (void)upkeep_round(f.s->upkeep, cairn_now_us());
    for (unsigned b = 0; b < RECALL_BANDS; b++)
        CHECK_U64_EQ(atomic_load(&m->recall_samples[b]), 0);
    atomic_fetch_sub(&f.s->in_flight, 1);
    (void)upkeep_round(f.s->upkeep, cairn_now_us());
    uint64_t samples = 0, found = 0, wanted = 0;
    for (unsigned b = 0; b < RECALL_BANDS; b++) {
        samples += atomic_load(&m->recall_samples[b]);
        found += atomic_load(&m->recall_found[b]);
        wanted += atomic_load(&m->recall_wanted[b]);
    }
    CHECK_U64_EQ(samples, 3); /* the exact one needs no measuring */
    CHECK_U64_EQ(wanted, 15);
    CHECK_U64_EQ(found, wanted);
    CHECK_U64_EQ(atomic_load(&m->recall_stale), 0);
    /* what changed since is not judged by what is there now */
    search_as(f.s, NULL);
    fix_do(f.s, "doc.delete", "{\"collection\":\"cosine\",\"ids\":[\"1\"]}");
    (void)upkeep_round(f.s->upkeep, cairn_now_us());
    CHECK_U64_EQ(atomic_load(&m->recall_stale), 1);
    /* a search that missed is told */
    float q[DIM] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct store_caller all = {.all = true};
    struct store_hit wrong = {1, -1.0f};
    json_t *j =
        fix_call(f.s, "vector.search", "{\"collection\":\"cosine\",\"vector\":[1,2,3,4,5,6,7,8],\"k\":1}");
    uint64_t generation = (uint64_t)j_int(j, "generation");
    if ((uint64_t)j_int(hit(j, 0), "passage_id") == 1)
        wrong.passage_id = 2;
    json_decref(j);
    (void)upkeep_round(f.s->upkeep, cairn_now_us()); /* the search above is itself a sample */
    static const double shares[] = {1, 0.31, 0.05, 0.049};
    for (unsigned b = 0; b < RECALL_BANDS; b++) {
        uint64_t had = atomic_load(&m->recall_wanted[b]), hits = atomic_load(&m->recall_found[b]);
        upkeep_sample(f.s->upkeep, "cosine", &all, q, DIM, 1, &wrong, 1, generation, shares[b]);
        (void)upkeep_round(f.s->upkeep, cairn_now_us());
        CHECK_U64_EQ(atomic_load(&m->recall_wanted[b]) - had, 1);
        CHECK_U64_EQ(atomic_load(&m->recall_found[b]) - hits, 0);
    }
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    CHECK_I64_EQ(metrics_text(f.s, &b), CAIRN_OK);
    CHECK(strstr(b.bytes, "cairn_ann_recall_ratio{band=\"wide\"} "));
    CHECK(strstr(b.bytes, "cairn_ann_recall_samples_total{band=\"narrow\"} "));
    CHECK(strstr(b.bytes, "cairn_ann_recall_stale_total 1\n"));
    CHECK(strstr(b.bytes, "cairn_vector_delta ") && strstr(b.bytes, "cairn_merges_total "));
    cairn_buf_release(&b);
    j = fix_call(f.s, "server.stats", "{}");
    CHECK(json_is_null(json_object_get(json_object_get(j, "merge"), "phase")));
    CHECK(j_int(json_object_get(j, "store"), "n_delta") >= 0 &&
          j_int(json_object_get(j, "store"), "n_segments") >= 0);
    json_decref(j);
    fix_close(&f);
}

static void upkeep_merges_what_was_put(void **state)
{
    UNUSED_STATE(state);
    static const char *const small[] = {"index.merge_rows_min=20", NULL};
    struct fix f = fix_open(small);
    put_random(f.s, "cosine", 9);
    json_t *before = fix_call(f.s, "server.stats", "{}");
    CHECK_I64_EQ(j_int(json_object_get(before, "store"), "n_delta"), N);
    (void)upkeep_round(f.s->upkeep, cairn_now_us());
    json_t *after = fix_call(f.s, "server.stats", "{}");
    CHECK_I64_EQ(j_int(json_object_get(after, "store"), "n_delta"), 0);
    CHECK_I64_EQ(j_int(json_object_get(after, "store"), "n_segments"), 1);
    CHECK_I64_EQ(j_int(json_object_get(after, "merge"), "n_merges"), 1);
    CHECK_I64_EQ(j_int(after, "generation"), j_int(before, "generation"));
    (void)upkeep_round(f.s->upkeep, cairn_now_us()); /* nothing new: nothing to do */
    json_decref(after);
    after = fix_call(f.s, "server.stats", "{}");
    CHECK_I64_EQ(j_int(json_object_get(after, "merge"), "n_merges"), 1);
    json_decref(before);
    json_decref(after);
    fix_close(&f);
}

static void a_full_queue_drops_and_a_small_share_samples_few(void **state)
{
    UNUSED_STATE(state);
    static const char *const two[] = {"api.recall_sample_pct=100", "api.recall_queue_max=2", NULL},
                             *const tenth[] = {"api.recall_sample_pct=10", NULL},
                             *const none[] = {"api.recall_sample_pct=0", NULL};
    struct fix f = fix_open(two);
    put_random(f.s, "cosine", 5);
    for (int i = 0; i < 5; i++)
        search_as(f.s, NULL);
    CHECK_U64_EQ(atomic_load(&f.s->metrics.recall_dropped), 3);
    fix_close(&f); /* with samples waiting */
    f = fix_open(tenth);
    put_random(f.s, "cosine", 5);
    for (int i = 0; i < 40; i++)
        search_as(f.s, NULL);
    (void)upkeep_round(f.s->upkeep, cairn_now_us());
    uint64_t samples = 0;
    for (unsigned b = 0; b < RECALL_BANDS; b++)
        samples += atomic_load(&f.s->metrics.recall_samples[b]);
    CHECK_U64_EQ(samples, 4);
    fix_close(&f);
    f = fix_open(none);
    CHECK(!upkeep_wants(f.s->upkeep));
    fix_close(&f);
}

static void a_failed_merge_is_tried_again_later_and_later(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    struct api_metrics *m = &f.s->metrics;
    put_random(f.s, "cosine", 4);
    CHECK_OK(cairn_failpoint_set("api.merge=error", &why));
    int64_t now = 1000000000;
    for (int i = 0; i < 5; i++)
        (void)upkeep_round(f.s->upkeep, now + i * 200000);
    CHECK_U64_EQ(atomic_load(&m->merge_errors), 1); /* the others came before its time */
    now += 600000000;
    (void)upkeep_round(f.s->upkeep, now);
    (void)upkeep_round(f.s->upkeep, now + 1999999); /* two seconds now */
    CHECK_U64_EQ(atomic_load(&m->merge_errors), 2);
    now += 600000000;
    (void)upkeep_round(f.s->upkeep, now);
    (void)upkeep_round(f.s->upkeep, now + 3999999);
    CHECK_U64_EQ(atomic_load(&m->merge_errors), 3);
    CHECK_OK(cairn_failpoint_set(NULL, &why));
    (void)upkeep_round(f.s->upkeep, now + 600000000);
    CHECK_U64_EQ(atomic_load(&m->merge_errors), 3);
    fix_close(&f);
}

struct load {
    struct service *s;
    atomic_bool stop;
    unsigned id;
    uint64_t calls;
};
static void *load_main(void *ctx)
{
    struct load *l = ctx;
    for (unsigned i = 0; !atomic_load(&l->stop); i++, l->calls++) {
        char params[256];
        snprintf(params, sizeof params,
                 "{\"collection\":\"cosine\",\"vectors\":[{\"id\":\"%u-%u\",\"vector\":[1,2,3,4,5,6,7,%u]}]}",
                 l->id, i % 20, i % 9);
        if (l->id == 0)
            fix_do(l->s, "vector.put", params);
        else
            search_as(l->s, NULL);
    }
    return NULL;
}

static void the_thread_starts_and_stops_under_load(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(all_sampled);
    put_random(f.s, "cosine", 3);
    struct load loads[3];
    pthread_t threads[3];
    for (unsigned i = 0; i < 3; i++) {
        loads[i] = (struct load){.s = f.s, .id = i};
        CHECK(pthread_create(&threads[i], NULL, load_main, &loads[i]) == 0);
    }
    for (int turn = 0; turn < 20; turn++) {
        CHECK_OK(upkeep_start(f.s->upkeep, &why));
        struct timespec ms = {0, (turn % 4) * 20000000L};
        nanosleep(&ms, NULL);
        upkeep_stop(f.s->upkeep);
    }
    CHECK_OK(upkeep_start(f.s->upkeep, &why));
    for (unsigned i = 0; i < 3; i++) {
        atomic_store(&loads[i].stop, true);
        pthread_join(threads[i], NULL);
        CHECK_GE(loads[i].calls, 1);
    }
    fix_close(&f); /* stops the thread */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(brought_vectors_are_found_until_deleted),
        TEST(a_bad_vector_is_named_and_nothing_is_put),
        TEST(a_vector_may_be_a_bin),
        TEST(only_allowed_vectors_are_seen),
        TEST(texts_are_searched_by_words_where_vectors_are_brought),
        TEST(a_collection_of_a_model_takes_no_brought_vectors),
        TEST(exact_is_what_the_planner_finds_in_small_sets),
        TEST(recall_is_measured_when_idle_by_band),
        TEST(a_full_queue_drops_and_a_small_share_samples_few),
        TEST(upkeep_merges_what_was_put),
        TEST(a_failed_merge_is_tried_again_later_and_later),
        TEST(the_thread_starts_and_stops_under_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
