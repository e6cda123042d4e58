/* test_retriever_store.c - retrieval on a real store without models: the lexical leg, who may see what, what
 * is refused. */
#include "check.h"

#include <cairn/retriever.h>
#include <math.h>

#define DIM 4u

struct fixture {
    char *dir;
    struct store *s;
    struct retriever *r;
};

static struct cairn_str S(const char *s) {
    return cairn_str_of(s);
}

static void
put(struct store_batch *b, const char *collection, const char *id, const char *text, const char *principal,
    const float *vector)
{
    TEST_WHY;
    struct cairn_str who = S(principal);
    struct store_passage p = {.start = 0, .end = (uint32_t)strlen(text), .path = S("Part"), .vector = vector};
    struct store_document d = {.id = S(id),
                               .title = S("Title"),
                               .path = S(id),
                               .mime = S("text/plain"),
                               .text = S(text),
                               .content_hash = cairn_hash_bytes(text, strlen(text)),
                               .principals = &who,
                               .n_principals = principal ? 1 : 0,
                               .passages = &p,
                               .n_passages = 1};
    CHECK_OK(store_put(b, collection, &d, &why));
}

static struct fixture open_fixture(void)
{
    TEST_WHY;
    struct fixture f = {.dir = test_tmpdir()};
    struct store_opts o = {.dir = f.dir, .create = true};
    CHECK_OK(store_open(&f.s, &o, &why));
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    struct collection_opts words = {
        .name = "words", .language = "english", .dense_weight = 0.5f, .rerank_weight = 0.5f};
    struct collection_opts vectors = {
        .name = "vectors", .embedder = "some-model", .dim = DIM, .is_public = true, .dense_weight = 0.5f};
    CHECK_OK(store_collection_create(b, &words, &why));
    CHECK_OK(store_collection_create(b, &vectors, &why));
    put(b, "words", "open.txt", "The hotel limit in Lisbon is EUR 140 a night.", "everyone", NULL);
    put(b, "words", "copy.txt", "the hotel limit in lisbon is eur 140 a night", "everyone", NULL);
    put(b, "words", "new.txt", "The hotel limit in Lisbon is EUR 150 a night.", "everyone", NULL);
    put(b, "words", "hr.txt", "The secret hotel list: hotel, hotel, hotel limit Lisbon.", "hr", NULL);
    put(b, "words", "orphan.txt", "A hotel that nobody may read of, hotel hotel.", NULL, NULL);
    static const float v[DIM] = {1, 0, 0, 0};
    put(b, "vectors", "a.txt", "A hotel.", NULL, v);
    uint64_t generation;
    CHECK_OK(store_batch_commit(b, &generation, &why));
    CHECK_OK(retriever_open(&f.r, f.s, NULL, NULL, NULL, &why));
    return f;
}

static void close_fixture(struct fixture *f)
{
    retriever_close(f->r);
    store_close(f->s);
    test_rmdir(f->dir);
}

static struct retrieve_request request(const char *collection, const char *query)
{
    return (struct retrieve_request){.collection = collection,
                                     .query = S(query),
                                     .fusion = -1,
                                     .dense_weight = RETRIEVE_DEFAULT,
                                     .rerank_weight = RETRIEVE_DEFAULT,
                                     .mmr_lambda = RETRIEVE_DEFAULT};
}

static bool has(const struct retrieval *x, const char *id)
{
    for (size_t i = 0; i < x->n_hits; i++)
        if (strcmp(x->hits[i].document_id, id) == 0)
            return true;
    return false;
}

static void a_question_finds_passages_with_all_their_parts(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = open_fixture();
    struct retrieval x;
    struct retrieve_request q = request("words", "hotel limit in Lisbon");
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK_U64_EQ(x.n_hits, 3);
    CHECK_U64_EQ(x.n_allowed, 3);
    CHECK(x.generation > 0);
    CHECK(x.query_vector == NULL && x.dim == 0);
    for (size_t i = 0; i < 3; i++) {
        const struct retrieved *h = &x.hits[i];
        struct cairn_hash want = cairn_hash_bytes(h->text, strlen(h->text));
        CHECK(memcmp(&h->hash, &want, sizeof want) == 0);
        CHECK_U64_EQ(h->end - h->start, strlen(h->text));
        CHECK_STR_EQ(h->title, "Title");
        char path[64];
        snprintf(path, sizeof path, "%s > Part", h->document_id);
        CHECK_STR_EQ(h->path, path);
        CHECK(h->lexical > 0 && isnan(h->dense) && isnan(h->rerank) && h->vector == NULL);
        CHECK(i == 0 || h->score <= x.hits[i - 1].score);
    }
    /* one of the two that say the same comes last, behind the one that says something else */
    CHECK(strcmp(x.hits[1].document_id, "new.txt") == 0 || strcmp(x.hits[0].document_id, "new.txt") == 0);
    retrieval_release(&x);
    q.k = 2;
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK_U64_EQ(x.n_hits, 2);
    CHECK(has(&x, "new.txt"));
    retrieval_release(&x);
    q = request("words", "zebra");
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK_U64_EQ(x.n_hits, 0);
    retrieval_release(&x);
    close_fixture(&f);
}

static void nobody_sees_what_they_may_not(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = open_fixture();
    struct retrieval x;
    struct retrieve_request q = request("words", "secret hotel list nobody");
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK(!has(&x, "hr.txt") && !has(&x, "orphan.txt"));
    retrieval_release(&x);
    struct cairn_str who[2] = {S("sales"), S("hr")};
    q.caller = (struct store_caller){who, 1, false};
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK(!has(&x, "hr.txt") && !has(&x, "orphan.txt"));
    retrieval_release(&x);
    q.caller.n_principals = 2;
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK(has(&x, "hr.txt") && !has(&x, "orphan.txt"));
    CHECK_U64_EQ(x.n_allowed, 4);
    retrieval_release(&x);
    q.caller = (struct store_caller){.all = true};
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK(has(&x, "hr.txt") && has(&x, "orphan.txt"));
    retrieval_release(&x);
    /* the number of candidates does not let a hidden passage push a visible one out */
    struct cairn_config *c = cairn_config_new();
    CHECK(c);
    CHECK_OK(cairn_config_add_table(c, retriever_conf, retriever_conf_len, &why));
    CHECK_OK(cairn_config_set(c, "retriever.candidates", "1", &why));
    struct retriever *r;
    CHECK_OK(retriever_open(&r, f.s, NULL, NULL, c, &why));
    q = request("words", "hotel");
    q.k = 1;
    CHECK_OK(retrieve(r, &q, &x, NULL, &why));
    CHECK_U64_EQ(x.n_hits, 1);
    CHECK(!has(&x, "hr.txt") && !has(&x, "orphan.txt"));
    retrieval_release(&x);
    retriever_close(r);
    cairn_config_free(c);
    close_fixture(&f);
}

static void bad_requests_are_refused_in_words(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = open_fixture();
    struct retrieval x;
    struct retrieve_request q = request("words", "");
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    q.query = S(" \n\t ");
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    q.query = S("bad \xC3( byte");
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    CHECK(strstr(why.text, "byte 4"));
    char *big = cairn_calloc(QUERY_BYTES_MAX + 2, 1);
    memset(big, 'a', QUERY_BYTES_MAX + 1);
    q.query = S(big);
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    q.query.len--;
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    retrieval_release(&x);
    cairn_free(big);
    q = request("words", "hotel");
    q.k = RETRIEVE_K_MAX + 1;
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    q.k = RETRIEVE_K_MAX;
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    retrieval_release(&x);
    static const float bad[] = {-0.5f, 1.5f, NAN, INFINITY};
    for (size_t i = 0; i < 4; i++) {
        q = request("words", "hotel");
        q.dense_weight = bad[i];
        CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
        q = request("words", "hotel");
        q.rerank_weight = bad[i];
        CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
        q = request("words", "hotel");
        q.mmr_lambda = bad[i];
        CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    }
    q = request("words", "hotel");
    q.legs = 4;
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    q = request("words", "hotel");
    q.fusion = 7;
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    q = request("nothing", "hotel");
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_ENOTFOUND);
    q = request("", "hotel");
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    struct cairn_str many[PRINCIPALS_MAX + 1];
    for (size_t i = 0; i <= PRINCIPALS_MAX; i++)
        many[i] = S("p");
    q = request("words", "hotel");
    q.caller = (struct store_caller){many, PRINCIPALS_MAX + 1, false};
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    q.caller.n_principals = 1;
    many[0] = S("");
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_EINVAL);
    struct cairn_stop stop = {.deadline_us = 1};
    q = request("words", "hotel");
    CHECK_ERR(retrieve(f.r, &q, &x, &stop, &why), CAIRN_EDEADLINE);
    stop = (struct cairn_stop){.cancelled = true};
    CHECK_ERR(retrieve(f.r, &q, &x, &stop, &why), CAIRN_ESTOPPED);
    CHECK(x.hits == NULL && x.n_hits == 0);
    close_fixture(&f);
}

static void without_an_embedder_the_words_decide(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = open_fixture();
    struct retrieval x;
    struct retrieve_request q = request("vectors", "hotel");
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK_U64_EQ(x.n_hits, 1);
    CHECK_U64_EQ(x.dim, DIM);
    CHECK(isnan(x.hits[0].dense) && x.hits[0].vector == NULL);
    retrieval_release(&x);
    q.with_vectors = true;
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK(x.hits[0].vector && x.hits[0].vector[0] == 1.0f && x.hits[0].vector[1] == 0.0f);
    retrieval_release(&x);
    q.legs = LEG_DENSE;
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_ESTATE);
    CHECK(strstr(why.text, "some-model"));
    q.collection = "words";
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_ESTATE);
    CHECK(strstr(why.text, "no vectors"));
    float out[DIM];
    struct cairn_str text = S("x");
    CHECK_ERR(retriever_embed_passages(f.r, NULL, &text, 1, out, NULL, &why), CAIRN_ESTATE);
    close_fixture(&f);
}

static void every_failed_allocation_is_an_error(void **state)
{
    UNUSED_STATE(state);
    struct fixture f = open_fixture();
    struct retrieve_request q = request("words", "hotel limit");
    enum cairn_err err = CAIRN_ENOMEM;
    uint64_t n = 1;
    for (; err && n < 2000; n++) {
        TEST_WHY;
        struct retrieval x;
        cairn_alloc_fail_after(n, true);
        err = retrieve(f.r, &q, &x, NULL, &why);
        cairn_alloc_fail_after(0, true);
        if (err)
            CHECK(err == CAIRN_ENOMEM && why.text[0] && !x.hits && !x.query_vector);
        else
            CHECK_U64_EQ(x.n_hits, 3);
        retrieval_release(&x);
    }
    CHECK_I64_EQ(err, CAIRN_OK);
    CHECK_GE(n, 15);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_question_finds_passages_with_all_their_parts),
        TEST(nobody_sees_what_they_may_not),
        TEST(bad_requests_are_refused_in_words),
        TEST(without_an_embedder_the_words_decide),
        TEST(every_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
