/* Documents, replacement, deletion, who sees what, generations, records, backup, dump. */
#include "test_index_fixture.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void a_document_comes_back_as_it_was_put(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "hr", DIM, true);
    uint64_t g =
        put_one(&f, "hr", "a/1", "Travel is booked early.\nHotels cost at most 120 euro.", NULL, true);
    CHECK_U64_EQ(g, 2);
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_U64_EQ(store_view_generation(v), 2);
    struct document_info d;
    struct cairn_str text;
    CHECK_OK(store_document_get(v, "hr", STR("a/1"), &caller_nobody, &d, &text, &why));
    CHECK_U64_EQ(d.n_passages, 2);
    CHECK_U64_EQ(d.generation, 2);
    CHECK_U64_EQ(d.text_bytes, text.len);
    CHECK(memcmp(text.p, "Travel is booked early.\nHotels cost at most 120 euro.", text.len) == 0);
    CHECK(d.path.len == 4 && memcmp(d.path.p, "/src", 4) == 0);
    CHECK_STR_EQ(search_ids(v, "hr", "hotels", &caller_nobody), "a/1");
    struct store_filter *filter;
    struct store_hit hit;
    size_t n;
    CHECK_OK(store_filter_open(&filter, v, "hr", &caller_nobody, &why));
    CHECK_U64_EQ(store_filter_count(filter), 2);
    CHECK_OK(store_search_lexical(v, "hr", STR("hotels euro"), filter, 1, &hit, &n, NULL, &why));
    CHECK_U64_EQ(n, 1);
    struct passage_info p;
    CHECK_OK(store_passage_get(v, "hr", hit.passage_id, &p, &why));
    CHECK_U64_EQ(p.ordinal, 1);
    CHECK_U64_EQ(p.start, 24);
    CHECK(p.text.len == 29 && memcmp(p.text.p, "Hotels cost at most 120 euro.", 29) == 0);
    struct cairn_hash h = cairn_hash_bytes(p.text.p, p.text.len);
    CHECK(memcmp(h.b, p.hash.b, 32) == 0);
    float want[DIM], got[DIM];
    text_vector(p.text.p, p.text.len, DIM, want);
    CHECK_OK(store_passage_vector(v, "hr", hit.passage_id, got, &why));
    CHECK(memcmp(want, got, sizeof(want)) == 0);
    memset(got, 0, sizeof(got));
    CHECK_OK(store_vector_by_hash(v, "hr", STR("a/1"), &h, got, &why));
    CHECK(memcmp(want, got, sizeof(want)) == 0);
    h.b[0] ^= 1;
    CHECK_ERR(store_vector_by_hash(v, "hr", STR("a/1"), &h, got, &why), CAIRN_ENOTFOUND);
    CHECK_ERR(store_passage_get(v, "hr", 99, &p, &why), CAIRN_ENOTFOUND);
    CHECK_ERR(store_passage_get(v, "hr", 1ULL << 40, &p, &why), CAIRN_ENOTFOUND);
    CHECK_ERR(store_document_get(v, "it", STR("a/1"), &caller_all, &d, NULL, &why), CAIRN_ENOTFOUND);
    store_filter_close(filter);
    store_view_end(v);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void long_texts_and_many_passages_survive_reopening(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "big", 0, true);
    size_t len = 300000; /* five pieces */
    char *text = cairn_malloc(len + 1);
    uint64_t seed = 3;
    for (size_t i = 0; i < len; i++)
        text[i] = i % 7 == 6 ? ' ' : (char)('a' + test_rand(&seed) % 26);
    text[len] = '\0';
    struct store_passage ps[8];
    for (uint32_t i = 0; i < 8; i++) /* overlapping, and across the ends of pieces */
        ps[i] = (struct store_passage){i * 36000, i * 36000 + 40000, STR("Part > One"), NULL};
    struct store_document d = {
        .id = STR("x"), .title = STR("Big"), .text = {text, len},
                .passages = ps, .n_passages = 8
    };
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_put(b, "big", &d, &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    fixture_close(&f);
    fixture_open(&f);
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    for (uint32_t i = 0; i < 8; i++) {
        struct passage_info p;
        CHECK_OK(store_passage_get(v, "big", i + 1, &p, &why));
        CHECK_U64_EQ(p.text.len, 40000);
        CHECK(memcmp(p.text.p, text + i * 36000, 40000) == 0);
        CHECK(p.path.len == 10);
    }
    struct cairn_str whole;
    struct document_info info;
    CHECK_OK(store_document_get(v, "big", STR("x"), &caller_all, &info, &whole, &why));
    CHECK(whole.len == len && memcmp(whole.p, text, len) == 0);
    float out[1];
    CHECK_ERR(store_passage_vector(v, "big", 1, out, &why), CAIRN_ESTATE);
    store_view_end(v);
    fixture_check_clean(&f);
    cairn_free(text);
    fixture_release(&f);
}

static void replacing_keeps_vectors_by_hash_and_removes_the_rest(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "hr", DIM, true);
    put_one(&f, "hr", "a", "alpha stays\nbeta goes", NULL, true);
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_ERR(put_text(b, "hr", "a", "gamma is new\nalpha stays", NULL, false, &why), CAIRN_EINVAL);
    uint64_t g;
    CHECK_ERR(put_text(b, "hr", "a", "alpha stays", NULL, false, &why),
              CAIRN_ESTATE); /* only abort is left */
    CHECK_ERR(store_batch_commit(b, &g, &why), CAIRN_ESTATE);
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(put_text(b, "hr", "a", "alpha stays", NULL, false, &why)); /* the stored vector is kept */
    CHECK_OK(put_text(b, "hr", "b", "delta\nalpha stays", NULL, true, &why));
    CHECK_OK(put_text(b, "hr", "b", "alpha stays", NULL, false, &why)); /* and one of this very batch */
    CHECK_OK(store_batch_commit(b, &g, &why));
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_STR_EQ(search_ids(v, "hr", "beta", &caller_all), "");
    CHECK_STR_EQ(search_ids(v, "hr", "delta", &caller_all), "");
    CHECK_STR_EQ(search_ids(v, "hr", "alpha", &caller_all), "a b");
    struct cairn_hash h = cairn_hash_bytes("alpha stays", 11);
    float got[DIM], want[DIM];
    text_vector("alpha stays", 11, DIM, want);
    CHECK_OK(store_vector_by_hash(v, "hr", STR("a"), &h, got, &why));
    CHECK(memcmp(want, got, sizeof(want)) == 0);
    CHECK_OK(store_vector_by_hash(v, "hr", STR("b"), &h, got, &why));
    CHECK(memcmp(want, got, sizeof(want)) == 0);
    struct collection_info info;
    CHECK_OK(store_collection_get(v, "hr", &info, &why));
    CHECK_U64_EQ(info.n_documents, 2);
    CHECK_U64_EQ(info.n_passages, 2);
    CHECK_U64_EQ(info.n_words, 4);
    struct store_filter *filter;
    struct store_hit hits[8];
    size_t n;
    CHECK_OK(store_filter_open(&filter, v, "hr", &caller_all, &why));
    for (int exact = 0; exact < 2; exact++) {
        CHECK_OK(store_search_vector(v, "hr", want, DIM, filter, 8, &(struct vector_how){.exact = exact},
                                     hits, &n, NULL, NULL, &why));
        CHECK_U64_EQ(n, 2);
        CHECK_NEAR(hits[0].score, 1, 1e-6);
    }
    CHECK_ERR(store_search_vector(v, "hr", want, DIM - 1, filter, 8, NULL, hits, &n, NULL, NULL, &why),
              CAIRN_EINVAL);
    store_filter_close(filter);
    store_view_end(v);
    delete_one(&f, "hr", "a");
    delete_one(&f, "hr", "b");
    fixture_check_clean(&f);
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_STR_EQ(search_ids(v, "hr", "alpha", &caller_all), "");
    CHECK_OK(store_collection_get(v, "hr", &info, &why));
    CHECK_U64_EQ(info.n_documents + info.n_passages + info.n_words, 0);
    store_view_end(v);
    fixture_release(&f);
}

static void a_batch_is_its_net_effect(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", 0, true);
    put_one(&f, "c", "old", "oldword", NULL, false);
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(put_text(b, "c", "x", "one", NULL, false, &why));
    CHECK_OK(store_delete(b, "c", STR("x"), &why));
    CHECK_ERR(store_delete(b, "c", STR("x"), &why), CAIRN_ENOTFOUND); /* the batch stays usable */
    CHECK_ERR(store_delete(b, "c", STR("never"), &why), CAIRN_ENOTFOUND);
    CHECK_OK(put_text(b, "c", "y", "two", NULL, false, &why));
    CHECK_OK(put_text(b, "c", "y", "three", NULL, false, &why));
    CHECK_OK(store_delete(b, "c", STR("old"), &why));
    CHECK_ERR(store_delete(b, "c", STR("old"), &why), CAIRN_ENOTFOUND);
    CHECK_OK(put_text(b, "c", "old", "newword", NULL, false, &why));
    struct collection_opts o = {.name = "d", .is_public = true};
    CHECK_OK(store_collection_create(b, &o, &why));
    CHECK_OK(put_text(b, "d", "z", "four", NULL, false, &why));
    CHECK_OK(store_collection_drop(b, "d", &why));
    CHECK_OK(store_collection_create(b, &o, &why));
    CHECK_OK(put_text(b, "d", "w", "five", NULL, false, &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_STR_EQ(search_ids(v, "c", "one two three oldword newword", &caller_all), "y old");
    CHECK_STR_EQ(search_ids(v, "c", "two oldword", &caller_all), "");
    CHECK_STR_EQ(search_ids(v, "d", "four five", &caller_all), "w");
    store_view_end(v);
    fixture_check_clean(&f);
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_collection_drop(b, "c", &why));
    CHECK_ERR(put_text(b, "c", "x", "one", NULL, false, &why), CAIRN_ENOTFOUND);
    store_batch_abort(b);
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_collection_drop(b, "c", &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    fixture_check_clean(&f);
    CHECK_OK(store_view_begin(&v, f.s, &why));
    struct collection_info *list;
    size_t n;
    CHECK_OK(store_collection_list(v, &list, &n, &why));
    CHECK_U64_EQ(n, 1);
    CHECK_STR_EQ(list[0].opts.name, "d");
    cairn_free(list);
    store_view_end(v);
    fixture_release(&f);
}

static void only_its_principals_see_a_document(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "open", DIM, true);
    make_collection(&f, "shut", DIM, false);
    const char *const hr[] = {"group:hr", NULL}, *const both[] = {"group:hr", "user:ann", "group:hr", NULL};
    const char *const everyone[] = {"everyone", NULL};
    const char *colls[] = {"open", "shut"};
    for (int i = 0; i < 2; i++) {
        put_one(&f, colls[i], "1-none", "word", NULL, true);
        put_one(&f, colls[i], "2-hr", "word", hr, true);
        put_one(&f, colls[i], "3-both", "word", both, true);
        put_one(&f, colls[i], "4-everyone", "word", everyone, true);
    }
    struct cairn_str ann = STR("user:ann"), group = STR("group:hr"), stranger = STR("user:eve"),
                     star = STR("everyone");
    const struct {
        struct store_caller c;
        const char *open, *shut;
    } rows[] = {
        {{NULL, 0, false},      "1-none 4-everyone",             "4-everyone"                   },
        {{&stranger, 1, false}, "1-none 4-everyone",             "4-everyone"                   },
        {{&star, 1, false},     "1-none 4-everyone",             "4-everyone"                   },
        {{&ann, 1, false},      "1-none 3-both 4-everyone",      "3-both 4-everyone"            },
        {{&group, 1, false},    "1-none 2-hr 3-both 4-everyone", "2-hr 3-both 4-everyone"       },
        {{NULL, 0, true},       "1-none 2-hr 3-both 4-everyone", "1-none 2-hr 3-both 4-everyone"},
    };
    const char *ids[] = {"1-none", "2-hr", "3-both", "4-everyone"};
    float q[DIM];
    text_vector("word", 4, DIM, q);
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    for (size_t r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
        CHECK_STR_EQ(search_ids(v, "open", "word", &rows[r].c), rows[r].open);
        CHECK_STR_EQ(search_ids(v, "shut", "word", &rows[r].c), rows[r].shut);
        for (int i = 0; i < 2; i++) {
            const char *want = i ? rows[r].shut : rows[r].open;
            char got[200] = "", dense[200] = "";
            struct document_info *list, d;
            size_t n;
            CHECK_OK(store_document_list(v, colls[i], &rows[r].c, STR(""), 10, &list, &n, &why));
            for (size_t j = 0; j < n; j++)
                snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%.*s", j ? " " : "",
                         (int)list[j].id.len, list[j].id.p);
            CHECK_STR_EQ(got, want);
            cairn_free(list);
            for (size_t j = 0; j < 4; j++) {
                enum cairn_err err = store_document_get(v, colls[i], STR(ids[j]), &rows[r].c, &d, NULL, &why);
                CHECK_I64_EQ(err, strstr(want, ids[j]) ? CAIRN_OK : CAIRN_ENOTFOUND);
            }
            struct store_filter *filter;
            struct store_hit hits[8];
            CHECK_OK(store_filter_open(&filter, v, colls[i], &rows[r].c, &why));
            for (int exact = 0; exact < 2; exact++) {
                CHECK_OK(store_search_vector(v, colls[i], q, DIM, filter, 8,
                                             &(struct vector_how){.exact = exact}, hits, &n, NULL, NULL,
                                             &why));
                dense[0] = '\0';
                for (size_t j = 0; j < n; j++) {
                    struct passage_info p;
                    CHECK_OK(store_passage_get(v, colls[i], hits[j].passage_id, &p, &why));
                    snprintf(dense + strlen(dense), sizeof(dense) - strlen(dense), "%s%.*s", j ? " " : "",
                             (int)p.document_id.len, p.document_id.p);
                }
                CHECK_STR_EQ(dense, want);
            }
            store_filter_close(filter);
        }
    }
    /* the words for a hidden document are those for one that does not exist */
    struct document_info d;
    struct cairn_why hidden, absent;
    CHECK_I64_EQ(store_document_get(v, "shut", STR("2-hr"), &caller_nobody, &d, NULL, &hidden),
                 CAIRN_ENOTFOUND);
    CHECK_I64_EQ(store_document_get(v, "shut", STR("9-xx"), &caller_nobody, &d, NULL, &absent),
                 CAIRN_ENOTFOUND);
    memcpy(strstr(hidden.text, "2-hr"), "9-xx", 4);
    CHECK_STR_EQ(hidden.text, absent.text);
    store_view_end(v);
    /* a collection that turns public shows its documents without an ACL, and only these */
    struct store_batch *b;
    struct collection_info info;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_OK(store_collection_get(v, "shut", &info, &why));
    store_view_end(v);
    info.opts.is_public = true;
    info.opts.rerank_weight = 0.25f;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_collection_update(b, &info.opts, &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_STR_EQ(search_ids(v, "shut", "word", &caller_nobody), "1-none 4-everyone");
    store_view_end(v);
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    info.opts.dim = 3;
    CHECK_ERR(store_collection_update(b, &info.opts, &why), CAIRN_EINVAL);
    store_batch_abort(b);
    /* replacing with another ACL takes the old one away */
    put_one(&f, "open", "2-hr", "word", everyone, true);
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_STR_EQ(search_ids(v, "open", "word", &caller_nobody), "1-none 4-everyone 2-hr");
    store_view_end(v);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void bad_documents_are_refused_with_words(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", 2, true);
    make_collection(&f, "plain", 0, true);
    float good[2] = {1, 0}, nan_[2] = {NAN, 0}, inf[2] = {0, INFINITY}, zero[2] = {0, 0},
          huge[2] = {3e38f, 3e38f};
    char long_id[DOCUMENT_ID_MAX + 2];
    memset(long_id, 'x', sizeof(long_id) - 1);
    long_id[sizeof(long_id) - 1] = '\0';
    struct cairn_str many[PRINCIPALS_MAX + 1];
    for (size_t i = 0; i <= PRINCIPALS_MAX; i++)
        many[i] = STR("p");
    const struct cairn_str empty = {"", 0};
    const struct {
        const char *id, *title, *text;
        const struct cairn_str *principals;
        size_t n_principals, n_passages;
        struct store_passage p;
        const char *coll;
        enum cairn_err want;
    } rows[] = {
        {"",      "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), good},     "c",     CAIRN_EINVAL   },
        {long_id, "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), good},     "c",     CAIRN_EFULL    },
        {"a\nb",  "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), good},     "c",     CAIRN_EINVAL   },
        {"\xff",  "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), good},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "te\xc3",      NULL,   0,                  1,     {0, 2, STR(""), good},     "c",     CAIRN_EINVAL   },
        {"d",     "\xc0\x80", "text",        NULL,   0,                  1,     {0, 4, STR(""), good},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "t\xc3\xa9xt", NULL,   0,                  1,     {0, 2, STR(""), good},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 5, STR(""), good},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {3, 2, STR(""), good},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 4, STR("\xff"), good}, "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), NULL},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), nan_},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), inf},      "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), zero},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), huge},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), good},     "plain", CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  1,     {0, 4, STR(""), good},     "nope",  CAIRN_ENOTFOUND},
        {"d",     "",         "text",        many,   PRINCIPALS_MAX + 1, 1,     {0, 4, STR(""), good},     "c",     CAIRN_EFULL    },
        {"d",     "",         "text",        &empty, 1,                  1,     {0, 4, STR(""), good},     "c",     CAIRN_EINVAL   },
        {"d",     "",         "text",        NULL,   0,                  65537, {0, 4, STR(""), good},     "c",     CAIRN_EFULL    },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_batch *b;
        const struct store_document d = {.id = STR(rows[i].id),
                                         .title = STR(rows[i].title),
                                         .text = STR(rows[i].text),
                                         .principals = rows[i].principals,
                                         .n_principals = rows[i].n_principals,
                                         .passages = &rows[i].p,
                                         .n_passages = rows[i].n_passages};
        CHECK_OK(store_batch_begin(&b, f.s, &why));
        why.text[0] = '\0';
        enum cairn_err err = store_put(b, rows[i].coll, &d, &why);
        if (err != rows[i].want || !why.text[0])
            print_error("row %zu: %s: %s\n", i, cairn_err_name(err), why.text);
        CHECK_I64_EQ(err, rows[i].want);
        CHECK(why.text[0]);
        store_batch_abort(b);
    }
    CHECK_OK(cairn_config_set(f.config, "index.document_bytes_max", "3", &why));
    struct store_batch *b;
    const struct store_document d = {
        .id = STR("d"), .text = STR("text"), .passages = &rows[0].p, .n_passages = 1};
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_ERR(store_put(b, "c", &d, &why), CAIRN_EFULL);
    store_batch_abort(b);
    static const char *const names[] = {"",
                                        "A",
                                        "-a",
                                        "a b",
                                        "a/b",
                                        "\xc3\xa9",
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct collection_opts o = {0};
        memcpy(o.name, names[i], strnlen(names[i], sizeof(o.name)));
        CHECK_OK(store_batch_begin(&b, f.s, &why));
        CHECK_ERR(store_collection_create(b, &o, &why), CAIRN_EINVAL);
        store_batch_abort(b);
    }
    struct collection_opts o = {.name = "ok", .dim = VECTOR_DIM_MAX + 1};
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_ERR(store_collection_create(b, &o, &why), CAIRN_EINVAL);
    store_batch_abort(b);
    o = (struct collection_opts){.name = "ok", .language = "klingon"};
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_ERR(store_collection_create(b, &o, &why), CAIRN_EINVAL);
    store_batch_abort(b);
    o = (struct collection_opts){.name = "c"};
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_ERR(store_collection_create(b, &o, &why), CAIRN_EEXISTS);
    store_batch_abort(b);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void titles_and_headings_lead_to_their_passages(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    struct collection_opts o = {.name = "c", .is_public = true, .language = "english"};
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_collection_create(b, &o, &why));
    struct store_passage ps[2] = {
        {0, 8,  STR("Travel > Hotels"), NULL},
        {9, 17, STR("Travel > Trains"), NULL}
    };
    struct store_document d = {.id = STR("d"),
                               .title = STR("Expenses"),
                               .text = STR("the cost is capped"),
                               .passages = ps,
                               .n_passages = 2};
    CHECK_OK(store_put(b, "c", &d, &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_STR_EQ(search_ids(v, "c", "hotel", &caller_all), "d");
    CHECK_STR_EQ(search_ids(v, "c", "expense", &caller_all), "d d");
    CHECK_STR_EQ(search_ids(v, "c", "costs", &caller_all), "d"); /* stemmed */
    CHECK_STR_EQ(search_ids(v, "c", "", &caller_all), "");
    CHECK_STR_EQ(search_ids(v, "c", "absent the", &caller_all), "");
    store_view_end(v);
    fixture_release(&f);
}

static void a_view_sees_one_generation(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    put_one(&f, "c", "a", "before", NULL, true);
    struct store_view *old, *now;
    CHECK_OK(store_view_begin(&old, f.s, &why));
    put_one(&f, "c", "a", "after", NULL, true);
    put_one(&f, "c", "b", "before after", NULL, true);
    CHECK_OK(store_view_begin(&now, f.s, &why));
    CHECK_U64_EQ(store_view_generation(now), store_view_generation(old) + 2);
    CHECK_STR_EQ(search_ids(old, "c", "before after", &caller_all), "a");
    CHECK_STR_EQ(search_ids(now, "c", "before", &caller_all), "b");
    struct store_filter *filter;
    struct store_hit hits[4];
    size_t n;
    CHECK_OK(store_filter_open(&filter, old, "c", &caller_all, &why));
    CHECK_ERR(store_search_lexical(now, "c", STR("before"), filter, 4, hits, &n, NULL, &why), CAIRN_EINVAL);
    CHECK_ERR(store_search_lexical(now, "c", STR("before"), NULL, 4, hits, &n, NULL, &why), CAIRN_EINVAL);
    struct cairn_stop stop = {.cancelled = true};
    CHECK_ERR(store_search_lexical(old, "c", STR("before"), filter, 4, hits, &n, &stop, &why),
              CAIRN_ESTOPPED);
    float q[DIM] = {1};
    CHECK_ERR(store_search_vector(old, "c", q, DIM, filter, 4, &(struct vector_how){.exact = true}, hits, &n,
                                  NULL, &stop, &why),
              CAIRN_ESTOPPED);
    CHECK_ERR(store_search_vector(old, "c", q, DIM, filter, 4, NULL, hits, &n, NULL, &stop, &why),
              CAIRN_ESTOPPED);
    q[1] = NAN;
    CHECK_ERR(store_search_vector(old, "c", q, DIM, filter, 4, NULL, hits, &n, NULL, NULL, &why),
              CAIRN_EINVAL);
    CHECK_ERR(store_search_lexical(old, "c", STR("\xff"), filter, 4, hits, &n, NULL, &why), CAIRN_EINVAL);
    store_filter_close(filter);
    store_view_end(old);
    store_view_end(now);
    fixture_release(&f);
}

/* One thread flips a document between two texts; readers must always see exactly one of them, whole. */
struct flipper {
    struct fixture *f;
    atomic_bool end;
    atomic_uint wrong, seen;
};
static void *read_flips(void *arg)
{
    struct flipper *fl = arg;
    struct cairn_why why;
    while (!atomic_load(&fl->end)) {
        struct store_view *v;
        struct store_filter *filter = NULL;
        struct store_hit a[4], b[4];
        size_t na = 9, nb = 9;
        if (store_view_begin(&v, fl->f->s, &why))
            continue;
        if (store_filter_open(&filter, v, "c", &caller_all, &why) ||
            store_search_lexical(v, "c", STR("left"), filter, 4, a, &na, NULL, &why) ||
            store_search_lexical(v, "c", STR("right"), filter, 4, b, &nb, NULL, &why) || na + nb != 2 ||
            (na && nb))
            atomic_fetch_add(&fl->wrong, 1);
        atomic_fetch_add(&fl->seen, 1);
        store_filter_close(filter);
        store_view_end(v);
    }
    return NULL;
}

static void readers_beside_a_writer_see_whole_documents(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    put_one(&f, "c", "d", "left one\nleft two", NULL, true);
    struct flipper fl = {.f = &f};
    pthread_t readers[2];
    for (int i = 0; i < 2; i++)
        CHECK_I64_EQ(pthread_create(&readers[i], NULL, read_flips, &fl), 0);
    for (int i = 0; i < 40; i++)
        put_one(&f, "c", "d", i % 2 ? "left one\nleft two" : "right one\nright two", NULL, true);
    while (atomic_load(&fl.seen) < 20)
        usleep(1000);
    atomic_store(&fl.end, true);
    for (int i = 0; i < 2; i++)
        CHECK_I64_EQ(pthread_join(readers[i], NULL), 0);
    CHECK_U64_EQ(atomic_load(&fl.wrong), 0);
    CHECK_GE(atomic_load(&fl.seen), 20);
    (void)why;
    fixture_check_clean(&f);
    fixture_release(&f);
}

struct keys {
    char text[200];
    size_t max, n;
};
static bool gather(void *ctx, struct cairn_str key, struct cairn_str bytes)
{
    struct keys *k = ctx;
    snprintf(k->text + strlen(k->text), sizeof(k->text) - strlen(k->text), "%.*s=%.*s ", (int)key.len, key.p,
             (int)bytes.len, bytes.p);
    return ++k->n < k->max;
}

static void records_are_kept_by_space_and_key(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_record_put(b, "key", STR("b"), "2", 1, &why));
    CHECK_OK(store_record_put(b, "key", STR("a1"), "1", 1, &why));
    CHECK_OK(store_record_put(b, "key", STR("a2"), "", 0, &why));
    CHECK_OK(store_record_put(b, "job", STR("a1"), "j", 1, &why));
    CHECK_OK(store_record_put(b, "job", STR("gone"), "j", 1, &why));
    CHECK_OK(store_record_delete(b, "job", STR("gone"), &why));
    CHECK_ERR(store_record_delete(b, "job", STR("gone"), &why), CAIRN_ENOTFOUND);
    uint64_t g;
    CHECK_OK(store_batch_commit(b, &g, &why));
    CHECK_U64_EQ(g, 0); /* no collection changed */
    fixture_close(&f);
    fixture_open(&f);
    struct store_view *v;
    struct cairn_str got;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_OK(store_record_get(v, "key", STR("b"), &got, &why));
    CHECK(got.len == 1 && got.p[0] == '2');
    CHECK_OK(store_record_get(v, "key", STR("a2"), &got, &why));
    CHECK_U64_EQ(got.len, 0);
    CHECK_ERR(store_record_get(v, "job", STR("b"), &got, &why), CAIRN_ENOTFOUND);
    CHECK_ERR(store_record_get(v, "nospace", STR("b"), &got, &why), CAIRN_EINVAL);
    struct keys all = {.max = 99}, some = {.max = 99}, one = {.max = 1};
    CHECK_OK(store_record_each(v, "key", STR(""), gather, &all, &why));
    CHECK_STR_EQ(all.text, "a1=1 a2= b=2 ");
    CHECK_OK(store_record_each(v, "key", STR("a"), gather, &some, &why));
    CHECK_STR_EQ(some.text, "a1=1 a2= ");
    CHECK_OK(store_record_each(v, "key", STR(""), gather, &one, &why));
    CHECK_STR_EQ(one.text, "a1=1 ");
    store_view_end(v);
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    CHECK_OK(store_record_delete(b, "key", STR("b"), &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_ERR(store_record_get(v, "key", STR("b"), &got, &why), CAIRN_ENOTFOUND);
    store_view_end(v);
    fixture_check_clean(&f);
    fixture_release(&f);
}

static void put_record(struct fixture *f, const char *key, const char *bytes, uint64_t *generation)
{
    TEST_WHY;
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f->s, &why));
    CHECK_OK(store_record_put(b, "answer", STR(key), bytes, strlen(bytes), &why));
    CHECK_OK(store_batch_commit(b, generation, &why));
}

static void records_alone_make_no_generation(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", 0, true);
    uint64_t before = put_one(&f, "c", "a", "one", NULL, false), g;
    struct store_view *v, *w;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    put_record(&f, "k", "x", &g);
    CHECK_U64_EQ(g, before);
    CHECK_OK(store_view_begin(&w, f.s, &why));
    CHECK_U64_EQ(store_view_generation(w), before);
    CHECK(store_view_commit(w) > store_view_commit(v)); /* who keeps records in memory sees it all the same */
    store_view_end(v);
    store_view_end(w);
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why)); /* records beside a document ride along */
    CHECK_OK(put_text(b, "c", "b", "two", NULL, false, &why));
    CHECK_OK(store_record_put(b, "answer", STR("k"), "y", 1, &why));
    CHECK_OK(store_batch_commit(b, &g, &why));
    CHECK_U64_EQ(g, before + 1);
    delete_one(&f, "c", "b");
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_U64_EQ(store_view_generation(v), before + 2);
    store_view_end(v);
    fixture_check_clean(&f);
    fixture_release(&f);
}

/* Records change while a backup is verified; its generation does not, its content does. */
static void change_a_record(void *ctx, const char *what, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    uint64_t g;
    if (strcmp(what, "verify") == 0)
        put_record(ctx, "during", "x", &g);
}

static void a_backup_beside_records_is_good(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", 0, true);
    put_one(&f, "c", "a", "one", NULL, false);
    char *dest = cairn_path_join(f.dir, "copy");
    CHECK_OK(store_backup(f.s, dest, change_a_record, &f, &why));
    CHECK_OK(store_check(dest, print_finding, NULL, &why));
    cairn_free(dest);
    fixture_release(&f);
}

/* A backup that was killed leaves its directory; the next one of that name removes it, but not one at work.
 */
static void what_a_killed_backup_left_is_removed(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", 0, true);
    pid_t dead = fork();
    CHECK(dead >= 0);
    if (dead == 0)
        _exit(0);
    CHECK(waitpid(dead, NULL, 0) == dead);
    char *dest = cairn_path_join(f.dir, "copies/one"), *other = cairn_path_join(f.dir, "copies/other");
    char *stale = cairn_asprintf("%s.partial-%ld", dest, (long)dead), *deep = cairn_path_join(stale, "store");
    char *file = cairn_path_join(deep, "data.mdb");
    char *own = cairn_asprintf("%s.partial-%ld", dest, (long)getpid());
    char *alive = cairn_asprintf("%s.partial-%ld", dest, (long)getppid());
    char *foreign = cairn_asprintf("%s.partial-%ld", other, (long)dead);
    CHECK_OK(cairn_mkdirs(deep, &why));
    CHECK_OK(cairn_write_file(file, "half", 4, &why));
    CHECK_OK(cairn_mkdirs(own, &why));
    CHECK_OK(cairn_mkdirs(alive, &why));
    CHECK_OK(cairn_mkdirs(foreign, &why));
    CHECK_OK(store_backup(f.s, dest, NULL, NULL, &why));
    CHECK(access(stale, F_OK) != 0 && access(own, F_OK) != 0);
    CHECK(access(alive, F_OK) == 0 && access(foreign, F_OK) == 0);
    cairn_free(dest);
    cairn_free(other);
    cairn_free(stale);
    cairn_free(deep);
    cairn_free(file);
    cairn_free(own);
    cairn_free(alive);
    cairn_free(foreign);
    fixture_release(&f);
}

static void documents_are_listed_in_pages(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", 0, true);
    make_collection(&f, "d", 0, true);
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    char id[24];
    for (int i = 99; i >= 0; i--) {
        snprintf(id, sizeof(id), "doc%02d", i);
        CHECK_OK(put_text(b, "c", id, "word", NULL, false, &why));
    }
    CHECK_OK(put_text(b, "d", "aaa", "word", NULL, false, &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f.s, &why));
    char after[32] = "";
    int seen = 0;
    for (;;) {
        struct document_info *list;
        size_t n;
        CHECK_OK(store_document_list(v, "c", &caller_nobody, STR(after), 7, &list, &n, &why));
        CHECK_LE(n, 7);
        for (size_t i = 0; i < n; i++) {
            snprintf(id, sizeof(id), "doc%02d", seen++);
            CHECK(list[i].id.len == 5 && memcmp(list[i].id.p, id, 5) == 0);
            snprintf(after, sizeof(after), "%s", id);
        }
        cairn_free(list);
        if (n < 7)
            break;
    }
    CHECK_I64_EQ(seen, 100);
    struct document_info *list;
    size_t n;
    CHECK_OK(store_document_list(v, "c", &caller_nobody, STR("doc98x"), 7, &list, &n, &why));
    CHECK_U64_EQ(n, 1);
    cairn_free(list);
    store_view_end(v);
    fixture_release(&f);
}

static void a_second_writer_is_turned_away_and_a_reader_is_not(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    struct store *again;
    CHECK_ERR(store_open(&again, &(struct store_opts){.dir = f.dir}, &why), CAIRN_ENOTFOUND);
    CHECK_ERR(store_open(&again, &(struct store_opts){.dir = f.dir, .read_only = true, .create = true}, &why),
              CAIRN_ENOTFOUND);
    fixture_open(&f);
    make_collection(&f, "c", 0, true);
    put_one(&f, "c", "a", "word", NULL, false);
    CHECK_ERR(store_open(&again, &(struct store_opts){.dir = f.dir}, &why), CAIRN_EBUSY);
    CHECK(strstr(why.text, "stop it"));
    CHECK_ERR(store_open(&again, &(struct store_opts){.dir = f.dir, .read_only = true}, &why), CAIRN_EBUSY);
    fixture_release(&f);
}

static char *own_path(void)
{
    static char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = '\0';
    return path;
}

/* Run as `test_index_store reader DIR`: opens for reading while the parent holds the store for writing. */
static int reader_process(const char *dir)
{
    struct cairn_why why = {{0}};
    struct store *s, *w;
    struct store_view *v;
    struct store_batch *b;
    struct collection_info c;
    if (store_open(&w, &(struct store_opts){.dir = dir}, &why) != CAIRN_EBUSY)
        return 10;
    if (store_open(&s, &(struct store_opts){.dir = dir, .read_only = true}, &why))
        return 11;
    if (store_batch_begin(&b, s, &why) != CAIRN_ESTATE)
        return 12;
    if (store_view_begin(&v, s, &why) || store_collection_get(v, "c", &c, &why) || c.n_documents != 1)
        return 13;
    store_view_end(v);
    store_close(s);
    return 0;
}

static void another_process_may_read_beside_the_writer(void **state)
{
    UNUSED_STATE(state);
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", 0, true);
    put_one(&f, "c", "a", "word", NULL, false);
    pid_t pid = fork();
    if (pid == 0) {
        execl(own_path(), own_path(), "reader", f.dir, (char *)NULL);
        _exit(9);
    }
    int status;
    CHECK_I64_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status));
    CHECK_I64_EQ(WEXITSTATUS(status), 0);
    put_one(&f, "c", "b", "word", NULL, false); /* and the writer goes on */
    fixture_release(&f);
}

static void a_backup_is_whole_and_opens(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    for (int i = 0; i < 20; i++) {
        char id[24];
        snprintf(id, sizeof(id), "d%d", i);
        put_one(&f, "c", id, "some words here\nand there", NULL, true);
    }
    char *dest = cairn_path_join(f.dir, "copies/one");
    CHECK_OK(store_backup(f.s, dest, NULL, NULL, &why));
    CHECK_ERR(store_backup(f.s, dest, NULL, NULL, &why), CAIRN_EEXISTS);
    struct cairn_hash want = digest_of(&f);
    put_one(&f, "c", "later", "words", NULL, true);
    struct fixture copy = {.dir = dest, .config = f.config};
    fixture_open(&copy);
    struct cairn_hash got = digest_of(&copy);
    CHECK(memcmp(want.b, got.b, 32) == 0);
    put_one(&copy, "c", "own", "words", NULL, true); /* a copy is a store like any other */
    fixture_close(&copy);
    CHECK_OK(store_check(dest, print_finding, NULL, &why));
    char *second = cairn_path_join(f.dir, "copies/two");
    CHECK_OK(cairn_failpoint_set("index.backup.before_rename=error", &why));
    CHECK_ERR(store_backup(f.s, second, NULL, NULL, &why), CAIRN_EIO);
    CHECK_OK(cairn_failpoint_set("index.backup.copy=error", &why));
    CHECK_ERR(store_backup(f.s, second, NULL, NULL, &why), CAIRN_EIO);
    CHECK_OK(cairn_failpoint_set(NULL, &why));
    CHECK(access(second, F_OK) != 0);
    CHECK_OK(store_backup(f.s, second, NULL, NULL, &why));
    cairn_free(dest);
    cairn_free(second);
    fixture_release(&f);
}

static bool append_line(void *ctx, const char *json, size_t len)
{
    return cairn_buf_put(ctx, json, len) && cairn_buf_puts(ctx, "\n");
}

static void content_decides_digest_and_dump_not_history(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_buf dumps[2];
    struct cairn_hash digests[2];
    const char *const group[] = {"group:b", "group:\"a\"", NULL};
    for (int i = 0; i < 2; i++) {
        struct fixture f = fixture_new();
        fixture_open(&f);
        make_collection(&f, "c", DIM, true);
        if (i == 1) { /* the same end by another way */
            put_one(&f, "c", "x", "noise", group, true);
            put_one(&f, "c", "two", "other text", NULL, true);
        }
        put_one(&f, "c", i ? "two" : "one", i ? "second \"quoted\"\ttext" : "first text", i ? group : NULL,
                true);
        put_one(&f, "c", i ? "one" : "two", i ? "first text" : "second \"quoted\"\ttext", i ? NULL : group,
                true);
        if (i == 1)
            delete_one(&f, "c", "x");
        digests[i] = digest_of(&f);
        struct store_view *v;
        cairn_buf_init(&dumps[i], 0);
        CHECK_OK(store_view_begin(&v, f.s, &why));
        CHECK_OK(store_dump(v, NULL, append_line, &dumps[i], &why));
        CHECK_ERR(store_dump(v, "nope", append_line, &dumps[i], &why), CAIRN_ENOTFOUND);
        store_view_end(v);
        put_one(&f, "c", "one", "first text.", NULL, true);
        struct cairn_hash changed = digest_of(&f);
        CHECK(memcmp(changed.b, digests[i].b, 32) != 0);
        fixture_release(&f);
    }
    CHECK(memcmp(digests[0].b, digests[1].b, 32) == 0);
    CHECK_STR_EQ(dumps[0].bytes, dumps[1].bytes);
    CHECK(strstr(dumps[0].bytes, "\"principals\":[\"group:\\\"a\\\"\",\"group:b\"]"));
    CHECK(strstr(dumps[0].bytes, "\"text\":\"second \\\"quoted\\\"\\u0009text\""));
    cairn_buf_release(&dumps[0]);
    cairn_buf_release(&dumps[1]);
}

static void stats_count_what_is_there(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    make_collection(&f, "d", 0, true);
    put_one(&f, "c", "a", "one\ntwo", NULL, true);
    put_one(&f, "d", "a", "one", NULL, false);
    struct store_stats st;
    CHECK_OK(store_stats_get(f.s, &st, &why));
    CHECK_U64_EQ(st.generation, 4);
    CHECK_U64_EQ(st.n_collections, 2);
    CHECK_U64_EQ(st.n_documents, 2);
    CHECK_U64_EQ(st.n_passages, 3);
    CHECK_U64_EQ(st.n_vectors, 2);
    CHECK_U64_EQ(st.readers, 1);
    CHECK_GE(st.map_bytes, 64 << 20);
    CHECK_GE(st.file_bytes, st.map_used_bytes);
    unsigned cleared;
    CHECK_OK(store_readers_clear(f.s, &cleared, &why));
    fixture_release(&f);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "reader") == 0)
        return reader_process(argv[2]);
    const struct CMUnitTest tests[] = {
        TEST(a_document_comes_back_as_it_was_put),
        TEST(long_texts_and_many_passages_survive_reopening),
        TEST(replacing_keeps_vectors_by_hash_and_removes_the_rest),
        TEST(a_batch_is_its_net_effect),
        TEST(only_its_principals_see_a_document),
        TEST(bad_documents_are_refused_with_words),
        TEST(titles_and_headings_lead_to_their_passages),
        TEST(a_view_sees_one_generation),
        TEST(readers_beside_a_writer_see_whole_documents),
        TEST(records_are_kept_by_space_and_key),
        TEST(records_alone_make_no_generation),
        TEST(a_backup_beside_records_is_good),
        TEST(what_a_killed_backup_left_is_removed),
        TEST(documents_are_listed_in_pages),
        TEST(a_second_writer_is_turned_away_and_a_reader_is_not),
        TEST(another_process_may_read_beside_the_writer),
        TEST(a_backup_is_whole_and_opens),
        TEST(content_decides_digest_and_dump_not_history),
        TEST(stats_count_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
