/* Lexical search against an exhaustive scorer, vector search against brute force, kernels against their
 * reference. */
#include "postings.h"
#include "store.h"
#include "test_index_fixture.h"
#include "vindex.h"

/* ---- an oracle that knows nothing of blocks: documents of words w0..wN, scored by the formula ---- */

#define VOCABULARY 60
#define ORACLE_DOCS 2000
struct oracle_doc {
    bool live, hidden;
    uint32_t tf[VOCABULARY], len;
    uint64_t passage; /* id in the store */
};
static struct oracle_doc oracle[ORACLE_DOCS];

/* Words of a document: low numbers are common, and some documents are copies, so that scores tie. */
static void oracle_text(uint64_t *seed, struct oracle_doc *d, char *text, size_t cap)
{
    size_t at = 0;
    memset(d->tf, 0, sizeof(d->tf));
    d->len = 3 + (uint32_t)(test_rand(seed) % 30);
    for (uint32_t i = 0; i < d->len; i++) {
        double u = (double)(test_rand(seed) >> 11) / (double)(1ULL << 53);
        uint32_t w = (uint32_t)(u * u * u * VOCABULARY);
        d->tf[w]++;
        at += (size_t)snprintf(text + at, cap - at, "%sw%ux", i ? " " : "", w);
    }
}

static void oracle_put(struct fixture *f, uint64_t *seed, size_t from, size_t to)
{
    TEST_WHY;
    struct store_batch *b;
    static char text[ORACLE_DOCS][256];
    CHECK_OK(store_batch_begin(&b, f->s, &why));
    for (size_t i = from; i < to; i++) {
        if (i % 5 == 4 && i > from) { /* a copy of the one before */
            oracle[i] = oracle[i - 1];
            memcpy(text[i], text[i - 1], sizeof(text[i]));
        } else {
            oracle_text(seed, &oracle[i], text[i], sizeof(text[i]));
        }
        oracle[i].live = true;
        oracle[i].hidden = test_rand(seed) % 4 == 0;
        char id[24];
        snprintf(id, sizeof(id), "d%05zu", i);
        const char *const secret[] = {"group:secret", NULL}, *const open[] = {"everyone", NULL};
        CHECK_OK(put_text(b, "c", id, text[i], oracle[i].hidden ? secret : open, false, &why));
    }
    CHECK_OK(store_batch_commit(b, NULL, &why));
}

static void oracle_find_ids(struct store_view *v)
{
    TEST_WHY;
    struct store_filter *f;
    CHECK_OK(store_filter_open(&f, v, "c", &caller_all, &why));
    for (uint64_t id = 1, n = 0; n < store_filter_count(f); id++) {
        struct passage_info p;
        if (!store_filter_has(f, id))
            continue;
        n++;
        CHECK_OK(store_passage_get(v, "c", id, &p, &why));
        oracle[strtoul(p.document_id.p + 1, NULL, 10)].passage = id;
    }
    store_filter_close(f);
}

static int by_hit(const void *x, const void *y)
{
    const struct store_hit *a = x, *b = y;
    return hit_before(a, b) ? -1 : hit_before(b, a);
}

static size_t oracle_search(const uint32_t *words, size_t n_words, bool all, double k1, double b,
                            struct store_hit *out)
{
    double n = 0, total = 0, df[VOCABULARY] = {0};
    for (size_t i = 0; i < ORACLE_DOCS; i++)
        if (oracle[i].live) {
            n++;
            total += oracle[i].len;
            for (size_t w = 0; w < VOCABULARY; w++)
                df[w] += oracle[i].tf[w] > 0;
        }
    size_t found = 0;
    for (size_t i = 0; i < ORACLE_DOCS; i++) {
        double sum = 0;
        bool any = false;
        if (!oracle[i].live || (oracle[i].hidden && !all))
            continue;
        for (size_t q = 0; q < n_words; q++) {
            double tf = oracle[i].tf[words[q]];
            if (tf == 0)
                continue;
            any = true;
            sum += log(1 + (n - df[words[q]] + 0.5) / (df[words[q]] + 0.5)) * tf * (k1 + 1) /
                   (tf + k1 * (1 - b + b * oracle[i].len / (total / n)));
        }
        if (any)
            out[found++] = (struct store_hit){oracle[i].passage, (float)sum};
    }
    qsort(out, found, sizeof(*out), by_hit);
    return found;
}

static void compare_searches(struct fixture *f, uint64_t *seed, unsigned rounds)
{
    TEST_WHY;
    static struct store_hit want[ORACLE_DOCS], got[ORACLE_DOCS], all[ORACLE_DOCS];
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, f->s, &why));
    oracle_find_ids(v);
    double k1 = cairn_config_num(f->config, "store.bm25_k1"), b = cairn_config_num(f->config, "store.bm25_b");
    for (unsigned r = 0; r < rounds; r++) {
        uint32_t words[8];
        size_t n_words = 1 + test_rand(seed) % 8, n_got, n_all, len = 0;
        static const size_t ks[] = {1, 3, 10, 100, ORACLE_DOCS};
        size_t k = ks[test_rand(seed) % 5];
        char query[128];
        bool see_all = test_rand(seed) % 2;
        for (size_t i = 0; i < n_words; i++) { /* some twice, some unknown to the store */
            words[i] = (uint32_t)(test_rand(seed) % VOCABULARY);
            len += (size_t)snprintf(query + len, sizeof(query) - len, "%sw%ux", i ? " " : "", words[i]);
        }
        snprintf(query + len, sizeof(query) - len, " unheardof");
        struct store_filter *filter;
        CHECK_OK(store_filter_open(&filter, v, "c", see_all ? &caller_all : &caller_nobody, &why));
        CHECK_OK(store_search_lexical(v, "c", STR(query), filter, k, got, &n_got, NULL, &why));
        CHECK_OK(store_search_lexical_how(v, "c", STR(query), filter, k, true, all, &n_all, NULL, &why));
        CHECK_U64_EQ(n_got, n_all); /* skipping changes nothing, to the bit */
        for (size_t i = 0; i < n_got; i++) {
            CHECK_U64_EQ(got[i].passage_id, all[i].passage_id);
            CHECK(got[i].score == all[i].score);
            CHECK(store_filter_has(filter, got[i].passage_id));
        }
        size_t n_want = oracle_search(words, n_words, see_all, k1, b, want);
        CHECK_U64_EQ(n_got, n_want < k ? n_want : k);
        for (size_t i = 0; i < n_got; i++) { /* equal scores may round apart between two ways to add */
            CHECK_NEAR(got[i].score, want[i].score, 1e-5 * (1 + want[i].score));
            if (i + 1 < n_want && i > 0 && want[i - 1].score - want[i].score > 1e-4 &&
                want[i].score - want[i + 1].score > 1e-4)
                CHECK_U64_EQ(got[i].passage_id, want[i].passage_id);
        }
        for (size_t i = 1; i < n_got; i++)
            CHECK(hit_before(&got[i - 1], &got[i]));
        store_filter_close(filter);
    }
    store_view_end(v);
}

static void lexical_search_equals_scoring_everything(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    uint64_t seed = 42;
    fixture_open(&f);
    make_collection(&f, "c", 0, false);
    memset(oracle, 0, sizeof(oracle));
    oracle_put(&f, &seed, 0, 700);
    compare_searches(&f, &seed, 60);
    oracle_put(&f, &seed, 700, ORACLE_DOCS);
    compare_searches(&f, &seed, 60);
    for (unsigned round = 0; round < 3; round++) { /* deletes make holes, shrink blocks, empty them */
        struct store_batch *b;
        CHECK_OK(store_batch_begin(&b, f.s, &why));
        for (size_t i = round == 2 ? 0 : round; i < ORACLE_DOCS; i += round == 2 ? 1 : 2) {
            char id[24];
            snprintf(id, sizeof(id), "d%05zu", i);
            if (!oracle[i].live || (round == 2 && i % 50 != 0 && i < 1900) || (round == 1 && i < 600))
                continue;
            CHECK_OK(store_delete(b, "c", STR(id), &why));
            oracle[i].live = false;
        }
        CHECK_OK(store_batch_commit(b, NULL, &why));
        compare_searches(&f, &seed, 40);
        fixture_check_clean(&f);
    }
    CHECK_OK(cairn_config_set(f.config, "store.bm25_k1", "2.5", &why)); /* bounds hold under any parameters */
    CHECK_OK(cairn_config_set(f.config, "store.bm25_b", "1", &why));
    oracle_put(&f, &seed, 0, 300);
    compare_searches(&f, &seed, 40);
    CHECK_OK(cairn_config_set(f.config, "store.bm25_k1", "0", &why));
    compare_searches(&f, &seed, 20);
    fixture_release(&f);
}

static void a_front_covers_all_it_was_given(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 9;
    for (unsigned round = 0; round < 300; round++) {
        struct front f = {0};
        uint32_t tfs[100], lens[100];
        struct bm25 m = {1.2, 0.75, 50, 1000};
        double most = 0, bound = 0;
        for (unsigned i = 0; i < 100; i++) {
            tfs[i] = 1 + (uint32_t)(test_rand(&seed) % 40);
            lens[i] = tfs[i] + (uint32_t)(test_rand(&seed) % 500);
            front_add(&f, tfs[i], lens[i]);
            CHECK(f.n <= FRONT_MAX);
            for (unsigned j = 0; j <= i; j++)
                CHECK(front_covers(&f, tfs[j], lens[j]));
            most = fmax(most, bm25_part(&m, tfs[i], lens[i]));
        }
        for (unsigned i = 0; i < f.n; i++)
            bound = fmax(bound, bm25_part(&m, f.at[i].tf, f.at[i].len));
        CHECK_GE(bound, most);
        for (unsigned i = 1; i < f.n; i++)
            CHECK(f.at[i].tf < f.at[i - 1].tf && f.at[i].len < f.at[i - 1].len);
    }
}

/* ---- vectors ---- */

static void every_int8_kernel_gives_the_scalar_sum(void **state)
{
    UNUSED_STATE(state);
    const char *names[4];
    vdot_fn fns[4];
    size_t n = vdot_available(names, fns);
    static int8_t a[VECTOR_DIM_MAX + 3], b[VECTOR_DIM_MAX + 3];
    static const size_t lens[] = {0, 1, 15, 16, 31, 33, 63, 64, 65, 127, 384, 1000, VECTOR_DIM_MAX};
    uint64_t seed = 5;
    for (size_t round = 0; round < 20; round++) {
        for (size_t i = 0; i < sizeof(a); i++) {
            a[i] = (int8_t)(round == 0 ? 127 : round == 1 ? -127 : (int)(test_rand(&seed) % 255) - 127);
            b[i] = (int8_t)(round <= 1 ? 127 : (int)(test_rand(&seed) % 255) - 127);
        }
        for (size_t l = 0; l < sizeof(lens) / sizeof(lens[0]); l++)
            for (size_t f = 0; f < n; f++) {
                size_t shift = round % 3; /* rows in LMDB are not aligned */
                CHECK_I64_EQ(fns[f](a + shift, b + 1, lens[l]), vdot_scalar(a + shift, b + 1, lens[l]));
            }
    }
    print_message("kernels:");
    for (size_t f = 0; f < n; f++)
        print_message(" %s", names[f]);
    print_message("\n");
}

static void quantising_stays_within_half_a_step(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 77;
    float v[100];
    int8_t codes[100];
    for (int round = 0; round < 50; round++) {
        float size = powf(10, (float)(round % 20) - 10);
        for (int i = 0; i < 100; i++)
            v[i] = size * ((float)(test_rand(&seed) % 2001) - 1000) / 1000;
        float scale = vdot_quantise(v, 100, codes);
        for (int i = 0; i < 100; i++) {
            CHECK(codes[i] >= -127);
            CHECK_NEAR(scale * (float)codes[i], v[i], 0.501f * scale);
        }
    }
    memset(v, 0, sizeof(v));
    CHECK(vdot_quantise(v, 100, codes) == 0);
}

#define ROWS 3000
static float rows[ROWS][DIM];
static bool row_live[ROWS];

static void put_rows(struct fixture *f, const char *coll, size_t from, size_t to, uint64_t *seed,
                     bool clustered)
{
    TEST_WHY;
    struct store_batch *b;
    CHECK_OK(store_batch_begin(&b, f->s, &why));
    for (size_t i = from; i < to; i++) {
        for (uint32_t j = 0; j < DIM; j++) {
            rows[i][j] = (float)((double)(test_rand(seed) >> 11) / (double)(1ULL << 53) - 0.5);
            if (clustered) /* near neighbours that differ little: the hard case for codes */
                rows[i][j] = rows[i][j] * 0.3f + (float)((i / 50 * 7 + j * 13) % 11) - 5;
        }
        char id[24];
        snprintf(id, sizeof(id), "r%05zu", i);
        const char *const even[] = {"everyone", NULL}, *const odd[] = {"group:odd", NULL};
        const struct cairn_str p[1] = {STR(i % 2 ? odd[0] : even[0])};
        struct store_passage ps = {0, 4, STR(""), rows[i]};
        struct store_document d = {.id = STR(id),
                                   .text = STR("text"),
                                   .principals = p,
                                   .n_principals = 1,
                                   .passages = &ps,
                                   .n_passages = 1};
        CHECK_OK(store_put(b, coll, &d, &why));
        row_live[i] = true;
    }
    CHECK_OK(store_batch_commit(b, NULL, &why));
}

static void compare_vectors(struct fixture *f, const char *coll, enum vector_metric metric, uint64_t *seed,
                            bool *all)
{
    TEST_WHY;
    static struct store_hit want[ROWS], exact[ROWS], fast[ROWS];
    struct store_view *v;
    size_t found = 0, of = 0;
    CHECK_OK(store_view_begin(&v, f->s, &why));
    static uint64_t ids[ROWS];
    struct store_filter *everything, *filter;
    CHECK_OK(store_filter_open(&everything, v, coll, &caller_all, &why));
    for (uint64_t id = 1, n = 0; n < store_filter_count(everything); id++) {
        struct passage_info p;
        if (!store_filter_has(everything, id))
            continue;
        n++;
        CHECK_OK(store_passage_get(v, coll, id, &p, &why));
        ids[strtoul(p.document_id.p + 1, NULL, 10)] = id;
    }
    store_filter_close(everything);
    CHECK_OK(store_filter_open(&filter, v, coll, *all ? &caller_all : &caller_nobody, &why));
    for (int round = 0; round < 40; round++) {
        float q[DIM];
        size_t near = test_rand(seed) % ROWS, n_want = 0, n_exact, n_fast, k = 10;
        for (uint32_t j = 0; j < DIM; j++)
            q[j] = rows[near][j] + 0.2f * ((float)(test_rand(seed) % 1000) / 1000 - 0.5f);
        for (size_t i = 0; i < ROWS; i++) {
            double dot = 0, qq = 0, rr = 0, dd = 0;
            if (!row_live[i] || (!*all && i % 2))
                continue;
            for (uint32_t j = 0; j < DIM; j++) {
                dot += (double)q[j] * rows[i][j];
                qq += (double)q[j] * q[j];
                rr += (double)rows[i][j] * rows[i][j];
                dd += ((double)q[j] - rows[i][j]) * ((double)q[j] - rows[i][j]);
            }
            double score = metric == METRIC_COSINE ? dot / sqrt(qq * rr)
                           : metric == METRIC_DOT  ? dot
                                                   : -sqrt(dd);
            want[n_want++] = (struct store_hit){ids[i], (float)score};
        }
        qsort(want, n_want, sizeof(want[0]), by_hit);
        CHECK_OK(store_search_vector(v, coll, q, DIM, filter, k, &(struct vector_how){.exact = true}, exact,
                                     &n_exact, NULL, NULL, &why));
        CHECK_OK(store_search_vector(v, coll, q, DIM, filter, k, NULL, fast, &n_fast, NULL, NULL, &why));
        size_t expect = n_want < k ? n_want : k;
        CHECK_U64_EQ(n_exact, expect);
        CHECK_U64_EQ(n_fast, expect);
        for (size_t i = 0; i < expect; i++) {
            CHECK_NEAR(exact[i].score, want[i].score, 1e-4 * (1 + fabsf(want[i].score)));
            CHECK(store_filter_has(filter, fast[i].passage_id));
            for (size_t j = 0; j < expect; j++)
                if (fast[i].passage_id == exact[j].passage_id) {
                    CHECK(fast[i].score == exact[j].score); /* ranked by the same function */
                    found++;
                }
        }
        of += expect;
    }
    CHECK_GE((double)found, 0.99 * (double)of);
    store_filter_close(filter);
    store_view_end(v);
}

static void vector_search_finds_the_nearest(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const names[] = {"cosine", "dot", "l2"};
    for (int metric = 0; metric < 3; metric++) {
        struct fixture f = fixture_new();
        struct store_batch *b;
        uint64_t seed = 1000 + (uint64_t)metric;
        bool all = true, some = false;
        fixture_open(&f);
        struct collection_opts o = {.dim = DIM, .metric = (enum vector_metric)metric};
        snprintf(o.name, sizeof(o.name), "%s", names[metric]);
        CHECK_OK(store_batch_begin(&b, f.s, &why));
        CHECK_OK(store_collection_create(b, &o, &why));
        CHECK_OK(store_batch_commit(b, NULL, &why));
        memset(row_live, 0, sizeof(row_live));
        for (size_t i = 0; i < 70; i++) /* many small commits: segments grow like a counter */
            put_rows(&f, names[metric], i, i + 1, &seed, true);
        put_rows(&f, names[metric], 70, 2200, &seed, true);
        put_rows(&f, names[metric], 2200, ROWS, &seed, true);
        compare_vectors(&f, names[metric], o.metric, &seed, &all);
        compare_vectors(&f, names[metric], o.metric, &seed, &some);
        for (int part = 0; part < 2; part++) { /* a few dead rows in place, then enough to rewrite segments */
            CHECK_OK(store_batch_begin(&b, f.s, &why));
            for (size_t i = 0; i < ROWS; i++) {
                char id[24];
                snprintf(id, sizeof(id), "r%05zu", i);
                if (!row_live[i] || (part == 0 ? i % 9 != 0 : i % 3 == 0 || i / 500 == 1))
                    continue;
                CHECK_OK(store_delete(b, names[metric], STR(id), &why));
                row_live[i] = false;
            }
            CHECK_OK(store_batch_commit(b, NULL, &why));
            compare_vectors(&f, names[metric], o.metric, &seed, &all);
            fixture_check_clean(&f);
        }
        fixture_release(&f);
    }
}

static void equal_vectors_come_in_the_order_of_their_ids(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fixture f = fixture_new();
    struct store_batch *b;
    fixture_open(&f);
    make_collection(&f, "c", DIM, true);
    CHECK_OK(store_batch_begin(&b, f.s, &why));
    for (int i = 0; i < 300; i++) {
        char id[24];
        snprintf(id, sizeof(id), "d%03d", i);
        CHECK_OK(put_text(b, "c", id, i % 3 ? "same" : "other", NULL, true, &why));
    }
    CHECK_OK(store_batch_commit(b, NULL, &why));
    struct store_view *v;
    struct store_filter *filter;
    struct store_hit hits[50];
    float q[DIM];
    size_t n;
    text_vector("same", 4, DIM, q);
    CHECK_OK(store_view_begin(&v, f.s, &why));
    CHECK_OK(store_filter_open(&filter, v, "c", &caller_all, &why));
    for (int exact = 0; exact < 2; exact++) {
        CHECK_OK(store_search_vector(v, "c", q, DIM, filter, 50, &(struct vector_how){.exact = exact}, hits,
                                     &n, NULL, NULL, &why));
        CHECK_U64_EQ(n, 50);
        for (size_t i = 0; i < n; i++)
            CHECK_U64_EQ(hits[i].passage_id, 2 + i / 2 * 3 + i % 2);
    }
    CHECK_ERR(
        store_search_vector(v, "c", q, DIM, filter, SEARCH_HITS_MAX + 1, NULL, hits, &n, NULL, NULL, &why),
        CAIRN_EINVAL);
    CHECK_OK(store_search_vector(v, "c", q, DIM, filter, 0, NULL, hits, &n, NULL, NULL, &why));
    CHECK_U64_EQ(n, 0);
    store_filter_close(filter);
    store_view_end(v);
    fixture_release(&f);
}

/* ---- sets and bytes ---- */

static void a_set_finds_its_next_member(void **state)
{
    UNUSED_STATE(state);
    struct idset s = {0}, t = {0};
    static bool in[200000];
    uint64_t seed = 8;
    memset(in, 0, sizeof(in));
    CHECK_U64_EQ(idset_next(&s, 0), UINT32_MAX);
    for (int i = 0; i < 5000; i++) {
        uint32_t id = (uint32_t)(test_rand(&seed) % (i % 2 ? 200000 : 900));
        in[id] = true;
        CHECK(idset_add(&s, id));
    }
    uint32_t want = UINT32_MAX, n = 0;
    for (uint32_t id = 200000; id-- > 0;) {
        want = in[id] ? id : want;
        n += in[id];
        CHECK_U64_EQ(idset_next(&s, id), want);
        CHECK(idset_has(&s, id) == in[id]);
        if (id % 3 == 0)
            CHECK(idset_add(&t, id));
    }
    CHECK_U64_EQ(idset_count(&s), n);
    idset_and(&s, &t);
    for (uint32_t id = 0; id < 200000; id++)
        CHECK(idset_has(&s, id) == (in[id] && id % 3 == 0));
    CHECK(!idset_has(&s, UINT32_MAX));
    idset_release(&s);
    idset_release(&t);
}

static void readers_of_bytes_stop_at_the_end(void **state)
{
    UNUSED_STATE(state);
    static const uint64_t values[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, 1ULL << 40, UINT64_MAX};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct cairn_buf b;
        cairn_buf_init(&b, 0);
        wr_varint(&b, values[i]);
        struct rd r = rd_of((struct cairn_str){b.bytes, b.len});
        CHECK(rd_varint(&r) == values[i] && rd_done(&r));
        r = rd_of((struct cairn_str){b.bytes, b.len - 1});
        (void)rd_varint(&r);
        CHECK(r.bad && !rd_done(&r));
        r = rd_of((struct cairn_str){b.bytes, b.len});
        uint32_t v32 = rd_var32(&r);
        CHECK(values[i] <= UINT32_MAX ? v32 == values[i] && !r.bad : r.bad);
        cairn_buf_release(&b);
    }
    static const char over[] = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
                      endless[] = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    struct rd r = rd_of((struct cairn_str){over, sizeof(over) - 1});
    CHECK(rd_varint(&r) == 0 && r.bad);
    r = rd_of((struct cairn_str){endless, sizeof(endless) - 1});
    CHECK(rd_varint(&r) == 0 && r.bad);
    r = rd_of((struct cairn_str){"\x05"
                                 "abc",
                                 4}); /* a string longer than what is left */
    CHECK(rd_str(&r).len == 0 && r.bad);
    CHECK(rd_u32(&r) == 0 && rd_left(&r) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(lexical_search_equals_scoring_everything),
        TEST(a_front_covers_all_it_was_given),
        TEST(every_int8_kernel_gives_the_scalar_sum),
        TEST(quantising_stays_within_half_a_step),
        TEST(vector_search_finds_the_nearest),
        TEST(equal_vectors_come_in_the_order_of_their_ids),
        TEST(a_set_finds_its_next_member),
        TEST(readers_of_bytes_stop_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
