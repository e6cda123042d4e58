/* Random operations against an oracle in memory, with views that stay open, aborted batches and reopening.
 * The oracle is a list of documents; what the store answers must follow from it: lists, texts, searches by a
 * document's own word, filters, records, counts. The seed is printed; CAIRN_TEST_SEED and CAIRN_TEST_OPS
 * choose another run. */
#include "test_index_fixture.h"

#define IDS 40
#define COLLS 2
#define GROUPS 3
#define WORDS 25

struct model_doc {
    bool live;
    uint32_t word[6];
    size_t n_words;
    unsigned groups; /* bits; 0: no ACL */
    unsigned version;
};
struct model {
    struct model_doc docs[COLLS][IDS];
    bool is_public[COLLS];
    char record[8][16]; /* "" : absent */
};

static const char *const coll_names[COLLS] = {"one", "two"};

static void doc_text(const struct model_doc *d, char *text, size_t cap)
{
    size_t at = 0;
    for (size_t i = 0; i < d->n_words; i++)
        at += (size_t)snprintf(text + at, cap - at, "%sword%u", i == 0 ? "" : i % 2 ? "\n" : " ", d->word[i]);
}

static enum cairn_err put_doc(struct store_batch *b, int c, int i, const struct model_doc *d,
                              struct cairn_why *why)
{
    char id[24], text[256];
    static const char *const names[GROUPS] = {"group:a", "group:b", "everyone"};
    const char *principals[GROUPS + 1];
    size_t n = 0;
    for (int g = 0; g < GROUPS; g++)
        if (d->groups >> g & 1)
            principals[n++] = names[g];
    principals[n] = NULL;
    snprintf(id, sizeof(id), "id%02d", i);
    doc_text(d, text, sizeof(text));
    return put_text(b, coll_names[c], id, text, principals, c == 0, why);
}

static bool model_sees(const struct model *m, int c, int i, unsigned groups)
{
    const struct model_doc *d = &m->docs[c][i];
    return d->live && (d->groups ? (d->groups & (groups | 4)) != 0 : m->is_public[c]);
}

static void compare(struct fixture *f, const struct model *m, uint64_t *seed)
{
    TEST_WHY;
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f->s, &why));
    for (int c = 0; c < COLLS; c++) {
        unsigned groups = (unsigned)(test_rand(seed) % 4);
        struct cairn_str names[2];
        struct store_caller caller = {names, 0, false};
        if (groups & 1)
            names[caller.n_principals++] = STR("group:a");
        if (groups & 2)
            names[caller.n_principals++] = STR("group:b");
        struct document_info *list;
        size_t n, want = 0, passages = 0, live = 0, words = 0, all_passages = 0;
        CHECK_OK(store_document_list(v, coll_names[c], &caller, STR(""), 1000, &list, &n, &why));
        uint32_t word = (uint32_t)(test_rand(seed) % WORDS);
        size_t with_word = 0;
        for (int i = 0; i < IDS; i++) {
            const struct model_doc *d = &m->docs[c][i];
            char id[24], text[256];
            snprintf(id, sizeof(id), "id%02d", i);
            live += d->live;
            words += d->live ? d->n_words : 0;
            all_passages += d->live ? d->n_words / 2 + 1 : 0;
            if (!model_sees(m, c, i, groups))
                continue;
            CHECK(want < n && list[want].id.len == 4 && memcmp(list[want].id.p, id, 4) == 0);
            doc_text(d, text, sizeof(text));
            struct document_info info;
            struct cairn_str got;
            CHECK_OK(store_document_get(v, coll_names[c], STR(id), &caller, &info, &got, &why));
            CHECK(got.len == strlen(text) && memcmp(got.p, text, got.len) == 0);
            passages += info.n_passages;
            want++;
            for (size_t p = 0, at = 0; p < info.n_passages;
                 p++) { /* passages of this document that have the word */
                size_t end = at + strcspn(text + at, "\n");
                char spaced[300], needle[24];
                snprintf(spaced, sizeof(spaced), " %.*s ", (int)(end - at), text + at);
                snprintf(needle, sizeof(needle), " word%u ", word);
                with_word += strstr(spaced, needle) != NULL;
                at = end + 1;
            }
        }
        CHECK_U64_EQ(n, want);
        cairn_free(list);
        struct store_filter *filter;
        static struct store_hit hits[1000];
        CHECK_OK(store_filter_open(&filter, v, coll_names[c], &caller, &why));
        CHECK_U64_EQ(store_filter_count(filter), passages);
        char query[24];
        snprintf(query, sizeof(query), "word%u", word);
        CHECK_OK(store_search_lexical(v, coll_names[c], STR(query), filter, 1000, hits, &n, NULL, &why));
        CHECK_U64_EQ(n, with_word);
        if (c == 0) {
            float q[DIM];
            text_vector(query, strlen(query), DIM, q);
            CHECK_OK(store_search_vector(v, coll_names[c], q, DIM, filter, 1000,
                                         &(struct vector_how){.exact = test_rand(seed) % 2}, hits, &n, NULL,
                                         NULL, &why));
            CHECK_U64_EQ(n, passages);
        }
        store_filter_close(filter);
        struct collection_info info;
        CHECK_OK(store_collection_get(v, coll_names[c], &info, &why));
        CHECK_U64_EQ(info.n_documents, live);
        CHECK_U64_EQ(info.n_passages, all_passages);
        CHECK_U64_EQ(info.n_words, words);
    }
    for (int i = 0; i < 8; i++) {
        char key[16];
        struct cairn_str got;
        snprintf(key, sizeof(key), "k%d", i);
        enum cairn_err err = store_record_get(v, "job", STR(key), &got, &why);
        CHECK_I64_EQ(err, m->record[i][0] ? CAIRN_OK : CAIRN_ENOTFOUND);
        CHECK(err || (got.len == strlen(m->record[i]) && memcmp(got.p, m->record[i], got.len) == 0));
    }
    store_view_end(v);
}

static void one_op(struct store_batch *b, struct model *m, uint64_t *seed, unsigned *version)
{
    TEST_WHY;
    int c = (int)(test_rand(seed) % COLLS), i = (int)(test_rand(seed) % IDS);
    struct model_doc *d = &m->docs[c][i];
    switch (test_rand(seed) % 12) {
    case 0:
    case 1:
    case 2: {
        char id[24];
        snprintf(id, sizeof(id), "id%02d", i);
        enum cairn_err err = store_delete(b, coll_names[c], STR(id), &why);
        CHECK_I64_EQ(err, d->live ? CAIRN_OK : CAIRN_ENOTFOUND);
        d->live = false;
        break;
    }
    case 3: {
        int r = (int)(test_rand(seed) % 8);
        char key[16];
        snprintf(key, sizeof(key), "k%d", r);
        if (m->record[r][0] && test_rand(seed) % 2) {
            CHECK_OK(store_record_delete(b, "job", STR(key), &why));
            m->record[r][0] = '\0';
        } else {
            snprintf(m->record[r], sizeof(m->record[r]), "v%u", ++*version);
            CHECK_OK(store_record_put(b, "job", STR(key), m->record[r], strlen(m->record[r]), &why));
        }
        break;
    }
    case 4: {
        struct collection_opts o = {.dim = c == 0 ? DIM : 0, .dense_weight = 0.5f};
        snprintf(o.name, sizeof(o.name), "%s", coll_names[c]);
        if (test_rand(seed) % 8 == 0) { /* all gone, and made again */
            CHECK_OK(store_collection_drop(b, coll_names[c], &why));
            memset(m->docs[c], 0, sizeof(m->docs[c]));
            o.is_public = m->is_public[c];
            CHECK_OK(store_collection_create(b, &o, &why));
        } else {
            m->is_public[c] = o.is_public = test_rand(seed) % 2;
            CHECK_OK(store_collection_update(b, &o, &why));
        }
        break;
    }
    default:
        d->live = true;
        d->version = ++*version;
        d->n_words = 1 + test_rand(seed) % 6;
        for (size_t w = 0; w < d->n_words; w++)
            d->word[w] = (uint32_t)(test_rand(seed) % WORDS);
        d->groups = (unsigned)(test_rand(seed) % 8);
        CHECK_OK(put_doc(b, c, i, d, &why));
    }
}

static void the_store_agrees_with_an_oracle(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const char *env = getenv("CAIRN_TEST_SEED"), *env_ops = getenv("CAIRN_TEST_OPS");
    uint64_t seed = env ? strtoull(env, NULL, 10) | 1 : 20261121;
    unsigned ops = env_ops ? (unsigned)strtoul(env_ops, NULL, 10) : 1500, version = 0, batches = 0,
             reopened = 0, merges = 0;
    print_message("seed %llu, %u operations\n", (unsigned long long)seed, ops);
    struct fixture f = fixture_new();
    struct model m = {
        .is_public = {true, false}
    };
    CHECK_OK(cairn_config_set(f.config, "index.merge_rows_min", "8", &why));
    fixture_open(&f);
    make_collection(&f, coll_names[0], DIM, true);
    make_collection(&f, coll_names[1], 0, false);
    for (unsigned done = 0; done < ops; batches++) {
        struct store_batch *b;
        struct model draft = m;
        CHECK_OK(store_batch_begin(&b, f.s, &why));
        for (unsigned n = 1 + (unsigned)(test_rand(&seed) % 20); n > 0; n--, done++)
            one_op(b, &draft, &seed, &version);
        if (test_rand(&seed) % 8 == 0) {
            store_batch_abort(b);
        } else {
            CHECK_OK(store_batch_commit(b, NULL, &why));
            m = draft;
        }
        if (test_rand(&seed) % 3 == 0) {
            uint32_t merged;
            struct store_merge_opts o = {.full = test_rand(&seed) % 2};
            CHECK_OK(store_merge(f.s, NULL, &o, NULL, NULL, NULL, &merged, &why));
            merges += merged;
        }
        compare(&f, &m, &seed);
        if (test_rand(&seed) % 10 == 0) {
            fixture_close(&f);
            fixture_open(&f);
            compare(&f, &m, &seed);
            reopened++;
        }
        if (batches % 20 == 0)
            fixture_check_clean(&f);
    }
    print_message("%u batches, reopened %u times, %u segments made\n", batches, reopened, merges);
    CHECK_GE(merges, ops / 200);
    fixture_check_clean(&f);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(the_store_agrees_with_an_oracle)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
