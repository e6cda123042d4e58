/* test_retriever_models.c - retrieval with the small embedder on a real store: both legs, one generation, the
 * right model. */
#include "check.h"

#include <cairn/retriever.h>
#include <math.h>

#define EMBEDDER "all-minilm-l6-v2"
#define RERANKER "ms-marco-minilm-l-12-v2"

static struct cairn_str S(const char *s) {
    return cairn_str_of(s);
}

static const char *const texts[] = {
    "Employees may spend up to 140 euros per night on a hotel in Lisbon.",
    "The office dog is allowed on Fridays only.",
    "Passwords must have at least fourteen characters.",
    "The cafeteria serves vegetarian food every day.",
    "Annual leave has to be requested two weeks in advance.",
    "Laptops are replaced after four years of use.",
};
#define N (sizeof texts / sizeof texts[0])

struct fixture {
    char *dir;
    struct store *s;
    struct model_registry *models;
    struct encoder *embedder, *reranker;
    struct retriever *r;
};

static struct encoder *encoder_named(struct model_registry *models, enum model_role role, const char *name)
{
    TEST_WHY;
    const struct model_card *card;
    struct encoder *e;
    struct model_opts o = {0};
    CHECK_OK(model_registry_find(models, role, name, &card, &why));
    CHECK_OK(encoder_open(&e, card, &o, &why));
    return e;
}

static void open_fixture(struct fixture *f, const char *collection_embedder, bool with_reranker)
{
    TEST_WHY;
    *f = (struct fixture){0};
    CHECK_OK(model_registry_open(&f->models, test_models_dir(), &why));
    f->embedder = encoder_named(f->models, MODEL_EMBEDDER, EMBEDDER);
    if (with_reranker)
        f->reranker = encoder_named(f->models, MODEL_RERANKER, RERANKER);
    f->dir = test_tmpdir();
    struct store_opts o = {.dir = f->dir, .create = true};
    CHECK_OK(store_open(&f->s, &o, &why));
    CHECK_OK(retriever_open(&f->r, f->s, f->embedder, f->reranker, NULL, &why));
    uint32_t dim = encoder_dim(f->embedder);
    struct cairn_str all[N], titles[N];
    for (size_t i = 0; i < N; i++) {
        all[i] = S(texts[i]);
        titles[i] = S("");
    }
    float *v = cairn_reallocarray(NULL, N * dim, sizeof(*v));
    CHECK(v);
    CHECK_OK(retriever_embed_passages(f->r, titles, all, N, v, NULL, &why));
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f->s, &why));
    struct collection_opts c = {.name = "c",
                                .language = "english",
                                .dim = dim,
                                .is_public = true,
                                .dense_weight = 0.6f,
                                .rerank_weight = 0.5f};
    snprintf(c.embedder, sizeof c.embedder, "%s", collection_embedder);
    CHECK_OK(store_collection_create(b, &c, &why));
    for (size_t i = 0; i < N; i++) {
        char id[16];
        snprintf(id, sizeof id, "d%zu", i);
        struct store_passage p = {.end = (uint32_t)strlen(texts[i]), .vector = v + i * dim};
        struct store_document d = {.id = S(id),
                                   .text = all[i],
                                   .content_hash = cairn_hash_bytes(texts[i], strlen(texts[i])),
                                   .passages = &p,
                                   .n_passages = 1};
        CHECK_OK(store_put(b, "c", &d, &why));
    }
    uint64_t generation;
    CHECK_OK(store_batch_commit(b, &generation, &why));
    cairn_free(v);
}

static void close_fixture(struct fixture *f)
{
    retriever_close(f->r);
    encoder_close(f->embedder);
    encoder_close(f->reranker);
    model_registry_close(f->models);
    store_close(f->s);
    test_rmdir(f->dir);
}

static struct retrieve_request request(const char *query)
{
    return (struct retrieve_request){.collection = "c",
                                     .query = S(query),
                                     .k = N,
                                     .fusion = -1,
                                     .dense_weight = RETRIEVE_DEFAULT,
                                     .rerank_weight = RETRIEVE_DEFAULT,
                                     .mmr_lambda = RETRIEVE_DEFAULT,
                                     .how.exact = true};
}

static void meaning_finds_what_words_do_not(void **state)
{
    UNUSED_STATE(state);
    if (!test_model_file(EMBEDDER, "card.json"))
        skip();
    TEST_WHY;
    struct fixture f;
    open_fixture(&f, EMBEDDER, false);
    struct retrieval x;
    struct retrieve_request q = request("how much may accommodation cost on a business trip to Portugal");
    q.with_vectors = q.with_dense = true;
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK_U64_EQ(x.n_hits, N);
    CHECK_STR_EQ(x.hits[0].document_id, "d0");
    CHECK(x.query_vector && x.dim == encoder_dim(f.embedder));
    CHECK(x.plan.path && x.plan.reason);
    CHECK(x.dense && x.n_dense == N && x.dense_k >= N);
    for (size_t i = 0; i < x.n_hits; i++) {
        double dot = 0;
        for (uint32_t k = 0; k < x.dim; k++)
            dot += (double)x.query_vector[k] * (double)x.hits[i].vector[k];
        CHECK_NEAR(x.hits[i].dense, dot, 1e-4);
        CHECK(isnan(x.hits[i].rerank));
    }
    retrieval_release(&x);
    q.legs = LEG_LEXICAL;
    q.query = S("dog");
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK_U64_EQ(x.n_hits, 1);
    CHECK_STR_EQ(x.hits[0].document_id, "d1");
    CHECK(isnan(x.hits[0].dense) && x.query_vector == NULL && x.plan.path == NULL && x.dense == NULL);
    retrieval_release(&x);
    close_fixture(&f);
}

static void batches_give_what_single_texts_give(void **state)
{
    UNUSED_STATE(state);
    if (!test_model_file(EMBEDDER, "card.json"))
        skip();
    TEST_WHY;
    struct fixture f;
    open_fixture(&f, EMBEDDER, false);
    uint32_t dim = encoder_dim(f.embedder);
    enum { many = 70 }; /* more than two batches, lengths mixed */
    struct cairn_str all[many], titles[many];
    for (size_t i = 0; i < many; i++) {
        all[i] = (struct cairn_str){texts[i % N], 10 + (i * 7) % (strlen(texts[i % N]) - 10)};
        titles[i] = S(i % 3 ? "Title" : "");
    }
    float *v = cairn_reallocarray(NULL, (many + 1) * dim, sizeof(*v));
    CHECK(v);
    CHECK_OK(retriever_embed_passages(f.r, titles, all, many, v, NULL, &why));
    for (size_t i = 0; i < many; i += 9) {
        char joined[256];
        snprintf(joined, sizeof joined, "%s%s%.*s", titles[i].len ? "Title" : "", titles[i].len ? "\n" : "",
                 (int)all[i].len, all[i].p);
        CHECK_OK(encoder_embed(f.embedder, &(struct cairn_str){joined, strlen(joined)}, 1, v + many * dim,
                               NULL, &why));
        double dot = 0;
        for (uint32_t k = 0; k < dim; k++)
            dot += (double)v[i * dim + k] * (double)v[many * dim + k];
        CHECK_NEAR(dot, 1, 1e-4);
    }
    struct cairn_stop stop = {.cancelled = true};
    CHECK_ERR(retriever_embed_passages(f.r, titles, all, many, v, &stop, &why), CAIRN_ESTOPPED);
    CHECK_OK(retriever_embed_passages(f.r, NULL, NULL, 0, v, NULL, &why));
    cairn_free(v);
    close_fixture(&f);
}

static void vectors_of_another_model_are_refused(void **state)
{
    UNUSED_STATE(state);
    if (!test_model_file(EMBEDDER, "card.json"))
        skip();
    TEST_WHY;
    struct fixture f;
    open_fixture(&f, "another-model", false);
    struct retrieval x;
    struct retrieve_request q = request("hotel");
    CHECK_ERR(retrieve(f.r, &q, &x, NULL, &why), CAIRN_ESTATE);
    CHECK(strstr(why.text, "another-model") && strstr(why.text, EMBEDDER));
    q.legs = LEG_LEXICAL;
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    retrieval_release(&x);
    close_fixture(&f);
}

static void the_pair_model_reads_the_top(void **state)
{
    UNUSED_STATE(state);
    if (!test_model_file(EMBEDDER, "card.json") || !test_model_file(RERANKER, "card.json"))
        skip();
    TEST_WHY;
    struct fixture f;
    open_fixture(&f, EMBEDDER, true);
    struct retrieval x;
    struct retrieve_request q = request("how long must a password be?");
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK_STR_EQ(x.hits[0].document_id, "d2");
    CHECK_NEAR(x.rerank_weight, 0.5, 0);
    for (size_t i = 0; i < x.n_hits; i++) {
        CHECK(!isnan(x.hits[i].rerank));
        CHECK(i == 0 || x.hits[0].rerank > x.hits[i].rerank);
    }
    retrieval_release(&x);
    q.rerank_weight = 0;
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK(isnan(x.hits[0].rerank) && x.rerank_us == 0);
    CHECK_NEAR(x.rerank_weight, 0, 0);
    retrieval_release(&x);
    q = request("passwords are long"); /* a claim: the pair model says less of it */
    CHECK_OK(retrieve(f.r, &q, &x, NULL, &why));
    CHECK(x.rerank_weight > 0 && x.rerank_weight < 0.5f);
    retrieval_release(&x);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(meaning_finds_what_words_do_not),
        TEST(batches_give_what_single_texts_give),
        TEST(vectors_of_another_model_are_refused),
        TEST(the_pair_model_reads_the_top),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
