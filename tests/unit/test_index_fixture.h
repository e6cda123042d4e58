/* test_index_fixture.h - a store in a fresh directory, and documents made from a few words. A document's text
 * is its passages joined by newlines; a passage's vector follows from its text, so that it can be made again
 * anywhere. */
#ifndef CAIRN_TESTS_INDEX_FIXTURE_H
#define CAIRN_TESTS_INDEX_FIXTURE_H

#include "check.h"

#include <cairn/index.h>
#include <math.h>

#define DIM 24u
#define STR(s) cairn_str_of(s)
static const struct store_caller caller_all = {.all = true};
static const struct store_caller caller_nobody = {0};

struct fixture {
    char *dir;
    struct store *s;
    struct cairn_config *config;
};

static inline struct fixture fixture_new(void)
{
    TEST_WHY;
    struct fixture f = {.dir = test_tmpdir(), .config = cairn_config_new()};
    CHECK_OK(cairn_config_add_table(f.config, index_conf, index_conf_len, &why));
    CHECK_OK(cairn_config_set(f.config, "index.map_bytes", "64m", &why));
    return f;
}

static inline void fixture_open(struct fixture *f)
{
    TEST_WHY;
    CHECK_OK(
        store_open(&f->s, &(struct store_opts){.dir = f->dir, .create = true, .config = f->config}, &why));
}

static inline void fixture_close(struct fixture *f)
{
    store_close(f->s);
    f->s = NULL;
}

static inline void fixture_release(struct fixture *f)
{
    fixture_close(f);
    cairn_config_free(f->config);
    test_rmdir(f->dir);
}

static inline void print_finding(void *ctx, const char *line)
{
    (void)ctx;
    print_error("finding: %s\n", line);
}

static inline void fixture_check_clean(struct fixture *f)
{
    TEST_WHY;
    CHECK_OK(store_check(f->dir, print_finding, NULL, &why));
}

/* Direction from the text's hash; equal texts have equal vectors. */
static inline void text_vector(const char *text, size_t len, uint32_t dim, float *out)
{
    uint64_t seed = cairn_xxh64(text, len, 7) | 1;
    for (uint32_t i = 0; i < dim; i++)
        out[i] = (float)((double)(test_rand(&seed) >> 11) / (double)(1ULL << 53) - 0.5);
}

#define FIXTURE_PASSAGES_MAX 256
static inline enum cairn_err put_text(struct store_batch *b, const char *coll, const char *id,
                                      const char *text, const char *const *principals, bool vectors,
                                      struct cairn_why *why)
{
    static float v[FIXTURE_PASSAGES_MAX][DIM];
    struct store_passage ps[FIXTURE_PASSAGES_MAX];
    struct cairn_str names[PRINCIPALS_MAX];
    size_t n = 0, n_names = 0, len = strlen(text), at = 0;
    while (at < len && n < FIXTURE_PASSAGES_MAX) {
        size_t end = at + strcspn(text + at, "\n");
        ps[n] = (struct store_passage){(uint32_t)at, (uint32_t)end, STR(""), NULL};
        if (vectors) {
            text_vector(text + at, end - at, DIM, v[n]);
            ps[n].vector = v[n];
        }
        n++;
        at = end + 1;
    }
    for (; principals && principals[n_names]; n_names++)
        names[n_names] = STR(principals[n_names]);
    struct store_document d = {
        .id = STR(id),
        .title = STR(""),
        .path = STR("/src"),
        .mime = STR("text/plain"),
        .text = {text, len},
        .content_hash = cairn_hash_bytes(text, len),
        .modified_us = 5,
        .principals = names,
        .n_principals = n_names,
        .passages = ps,
        .n_passages = n
    };
    return store_put(b, coll, &d, why);
}

static inline void make_collection(struct fixture *f, const char *name, uint32_t dim, bool is_public)
{
    TEST_WHY;
    struct store_batch *b;
    struct collection_opts o = {.dim = dim, .is_public = is_public, .dense_weight = 0.5f};
    snprintf(o.name, sizeof(o.name), "%s", name);
    CHECK_OK(store_batch_begin(&b, f->s, &why));
    CHECK_OK(store_collection_create(b, &o, &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
}

static inline uint64_t put_one(struct fixture *f, const char *coll, const char *id, const char *text,
                               const char *const *principals, bool vectors)
{
    TEST_WHY;
    struct store_batch *b;
    uint64_t generation = 0;
    CHECK_OK(store_batch_begin(&b, f->s, &why));
    CHECK_OK(put_text(b, coll, id, text, principals, vectors, &why));
    CHECK_OK(store_batch_commit(b, &generation, &why));
    return generation;
}

static inline void delete_one(struct fixture *f, const char *coll, const char *id)
{
    TEST_WHY;
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f->s, &why));
    CHECK_OK(store_delete(b, coll, STR(id), &why));
    CHECK_OK(store_batch_commit(b, NULL, &why));
}

/* Number of hits; their documents' ids joined by spaces in out (static). */
static inline const char *search_ids(struct store_view *v, const char *coll, const char *query,
                                     const struct store_caller *c)
{
    static char out[4096];
    TEST_WHY;
    struct store_filter *f;
    struct store_hit hits[64];
    size_t n, len = 0;
    out[0] = '\0';
    CHECK_OK(store_filter_open(&f, v, coll, c, &why));
    CHECK_OK(store_search_lexical(v, coll, STR(query), f, 64, hits, &n, NULL, &why));
    for (size_t i = 0; i < n; i++) {
        struct passage_info p;
        CHECK_OK(store_passage_get(v, coll, hits[i].passage_id, &p, &why));
        CHECK(store_filter_has(f, hits[i].passage_id));
        len += (size_t)snprintf(out + len, sizeof(out) - len, "%s%.*s", i ? " " : "", (int)p.document_id.len,
                                p.document_id.p);
    }
    store_filter_close(f);
    return out;
}

static inline struct cairn_hash digest_of(struct fixture *f)
{
    TEST_WHY;
    struct store_view *v;
    struct cairn_hash h;
    CHECK_OK(store_view_begin(&v, f->s, &why));
    CHECK_OK(store_digest(v, &h, &why));
    store_view_end(v);
    return h;
}

#endif
