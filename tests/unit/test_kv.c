/* test_kv.c - pages of keys and values, steps over several sequences, and kept beginnings of prompts: nothing
 * leaks, nothing is shared that must not be, and what a sequence computes does not depend on its company. */
#include "kv.h"
#include "tiny_decoder.h"

#include <math.h>

static char *dir, path[512];
static int setup(void **state)
{
    UNUSED_STATE(state);
    dir = test_tmpdir();
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    tiny_decoder_write(path);
    return 0;
}
static int teardown(void **state)
{
    UNUSED_STATE(state);
    test_rmdir(dir);
    return 0;
}

/* Room for `pages` pages. */
static struct decoder *open_with(size_t pages, enum cache_type type)
{
    TEST_WHY;
    struct decoder *d = NULL;
    struct kv_shape s;
    CHECK(kv_shape_init(&s, type, TINY_LAYERS, TINY_KV, TINY_HD));
    CHECK_OK(decoder_open_file(
        &d, path, &(struct model_opts){.cache_type = type, .kv_bytes = pages * s.page_bytes}, &why));
    return d;
}
static size_t n_free(struct decoder *d)
{
    struct decoder_kv kv;
    decoder_kv_get(d, &kv);
    return kv.n_free;
}
static void random_ids(int32_t *ids, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(test_rand(&seed) % TINY_VOCAB);
}
/* Logits after ids, computed as a prompt by a sequence of its own. */
static void alone(struct decoder *d, const int32_t *ids, size_t n, float *logits)
{
    TEST_WHY;
    struct decoder_seq *s = NULL;
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    for (size_t done = 0; done < n;) {
        size_t rows = n - done < DECODER_ROWS_MAX ? n - done : DECODER_ROWS_MAX;
        CHECK_OK(decoder_step(
            d,
            &(struct decoder_item){
                .seq = s, .tokens = ids + done, .n = rows, .n_logits = done + rows == n, .prompt = true},
            1, logits, &why));
        done += rows;
    }
    decoder_seq_close(s);
}

/* Random use of a pool that is too small for all, against lists of tokens: the lengths, the pages in use and
 * the logits are always those that the lists say. */
static void pages_never_leak_and_sequences_stay_what_they_are(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { SEQS = 6, PAGES = 20, LONG = 400 };
    struct decoder *d = open_with(PAGES, CACHE_F16), *other = open_with(PAGES, CACHE_F16);
    struct decoder_seq *s[SEQS] = {0};
    static int32_t ids[SEQS][LONG + 128], source[3][LONG + 128];
    size_t len[SEQS] = {0}, full = 0, hits = 0, checks = 0;
    uint64_t seed = 99;
    struct decoder_share share[3];
    for (int i = 0; i < 3; i++) { /* three texts with a common beginning, two partitions */
        random_ids(source[i], LONG + 128, 7 + (uint64_t)i);
        memcpy(source[i], source[0], 100 * sizeof source[0][0]);
        share[i] = (struct decoder_share){.n_public = 30, .has_partition = i > 0};
        share[i].partition.b[3] = (uint8_t)(i == 2);
    }
    for (int turn = 0; turn < 3000; turn++) {
        size_t i = test_rand(&seed) % SEQS, t = i % 3;
        switch (test_rand(&seed) % 8) {
        case 0:
            if (s[i]) {
                if (test_rand(&seed) % 2)
                    decoder_prefix_keep(s[i], ids[i], len[i], &share[t]);
                decoder_seq_close(s[i]);
                s[i] = NULL;
            } else {
                size_t n = 2 + test_rand(&seed) % LONG;
                CHECK_OK(decoder_seq_open(&s[i], d, LONG + 128, &why));
                memcpy(ids[i], source[t], (LONG + 128) * sizeof ids[i][0]);
                len[i] = decoder_prefix_find(s[i], ids[i], n, &share[t]);
                CHECK(len[i] < n);
                hits += len[i] > 0;
            }
            break;
        case 1:
            if (s[i]) {
                len[i] = test_rand(&seed) % (len[i] + 1);
                decoder_seq_truncate(s[i], (uint32_t)len[i]);
                ids[i][len[i]] = (int32_t)(test_rand(&seed) % TINY_VOCAB); /* and goes on otherwise */
            }
            break;
        case 2:
            if (s[i])
                decoder_prefix_keep(s[i], ids[i], len[i], &share[t]);
            break;
        case 3:
            if (s[i] && decoder_seq_reserve(s[i], (uint32_t)(test_rand(&seed) % LONG), &why) == CAIRN_EFULL)
                full++;
            break;
        default: {
            struct decoder_item items[SEQS];
            size_t n = 0, who[SEQS];
            float logits[SEQS * TINY_VOCAB], want[TINY_VOCAB];
            for (size_t j = 0; j < SEQS; j++)
                if (s[j] && test_rand(&seed) % 2) {
                    size_t rows = 1 + test_rand(&seed) % 40;
                    rows = len[j] + rows > LONG ? 0 : rows;
                    if (rows) {
                        items[n] = (struct decoder_item){
                            .seq = s[j], .tokens = ids[j] + len[j], .n = rows, .n_logits = 1, .prompt = true};
                        who[n++] = j;
                    }
                }
            if (!n)
                break;
            enum cairn_err err = decoder_step(d, items, n, logits, &why);
            if (err) {
                CHECK_I64_EQ(err, CAIRN_EFULL);
                full++;
                break;
            }
            for (size_t k = 0; k < n; k++)
                len[who[k]] += items[k].n;
            size_t k = test_rand(&seed) % n;
            if (turn % 8 == 0) {
                alone(other, ids[who[k]], len[who[k]], want);
                CHECK(memcmp(want, logits + k * TINY_VOCAB, sizeof want) == 0);
                checks++;
            }
        }
        }
        for (size_t j = 0; j < SEQS; j++)
            if (s[j])
                CHECK_U64_EQ(decoder_seq_len(s[j]), len[j]);
    }
    CHECK(full > 10 && hits > 50 && checks > 50);
    for (size_t i = 0; i < SEQS; i++)
        decoder_seq_close(s[i]);
    CHECK_U64_EQ(n_free(d), PAGES);
    decoder_close(d); /* checks that no page is held */
    decoder_close(other);
}

static void a_step_gives_each_sequence_what_it_gets_alone(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { LONG = 90, N = 5 };
    static const enum model_backend backends[] = {BACKEND_SCALAR, BACKEND_AVX2, BACKEND_AVX512};
    for (size_t b = 0; b < 3; b++)
        for (int type = CACHE_F16; type <= CACHE_Q8; type++) {
            if (!model_backend_available(backends[b]))
                continue;
            struct decoder *d = NULL;
            CHECK_OK(decoder_open_file(
                &d, path, &(struct model_opts){.backend = backends[b], .cache_type = (enum cache_type)type},
                &why));
            static int32_t ids[N][LONG + 20];
            static float want[N][20][TINY_VOCAB], got[N * 20 * TINY_VOCAB];
            struct decoder_seq *s[N] = {0};
            struct decoder_item items[N];
            for (size_t i = 0; i < N; i++) { /* alone: a prompt, then token by token */
                random_ids(ids[i], LONG + 20, 50 + i);
                CHECK_OK(decoder_seq_open(&s[i], d, 0, &why));
                CHECK_OK(decoder_eval(s[i], ids[i], LONG, false, NULL, NULL, &why));
                for (size_t j = 0; j < 20; j++)
                    CHECK_OK(decoder_eval(s[i], ids[i] + LONG + j, 1, false, want[i][j], NULL, &why));
                decoder_seq_truncate(s[i], i == 2 ? 0 : LONG);
            }
            /* together: as many tokens at once as i says, while number 2 is at its prompt again */
            size_t at[N] = {0}, prompt = 0;
            while (prompt < LONG || at[0] < 20) {
                size_t n = 0, row = 0, who[N], rows[N];
                for (size_t i = 0; i < N; i++) {
                    bool reads = i == 2 && prompt < LONG;
                    size_t m = reads ? 13 : 1 + 3 * i, left = reads ? LONG - prompt : 20 - at[i];
                    m = m < left ? m : left;
                    if (!m)
                        continue;
                    items[n] = (struct decoder_item){.seq = s[i],
                                                     .tokens = ids[i] + (reads ? prompt : LONG + at[i]),
                                                     .n = m,
                                                     .n_logits = reads ? 0 : m,
                                                     .prompt = reads};
                    rows[n] = m;
                    who[n++] = i;
                }
                CHECK_OK(decoder_step(d, items, n, got, &why));
                for (size_t k = 0; k < n; k++) {
                    size_t i = who[k];
                    for (size_t j = 0; j < items[k].n_logits; j++, row++)
                        CHECK(memcmp(got + row * TINY_VOCAB, want[i][at[i] + j], sizeof want[i][j]) == 0);
                    *(items[k].prompt ? &prompt : &at[i]) += rows[k];
                }
            }
            for (size_t i = 0; i < N; i++) {
                CHECK_U64_EQ(decoder_seq_len(s[i]), LONG + 20);
                decoder_seq_close(s[i]);
            }
            decoder_close(d);
        }
}

static void smaller_elements_give_nearly_the_same_logits(void **state)
{
    UNUSED_STATE(state);
    enum { LONG = 200 };
    int32_t ids[LONG];
    float logits[3][TINY_VOCAB];
    random_ids(ids, LONG, 3);
    for (int type = CACHE_F16; type <= CACHE_Q8; type++) {
        TEST_WHY;
        struct decoder *d = NULL; /* exact: 8-bit inputs of the prompt would hide what 16-bit keys cost */
        CHECK_OK(decoder_open_file(
            &d, path, &(struct model_opts){.cache_type = (enum cache_type)type, .exact = true}, &why));
        alone(d, ids, LONG, logits[type]);
        decoder_close(d);
    }
    double size = 0, off[3] = {0};
    for (int i = 0; i < TINY_VOCAB; i++) {
        size += pow((double)logits[CACHE_F32][i], 2);
        for (int type = CACHE_F16; type <= CACHE_Q8; type++)
            off[type] += pow((double)(logits[type][i] - logits[CACHE_F32][i]), 2);
    }
    CHECK_LE(sqrt(off[CACHE_F16] / size), 2e-3);
    CHECK_LE(sqrt(off[CACHE_Q8] / size), 5e-2);
    CHECK(off[CACHE_F16] > 0 && off[CACHE_Q8] > off[CACHE_F16]); /* they are what they say */
}

static uint32_t found(struct decoder *d, const int32_t *ids, size_t n, const struct decoder_share *share,
                      float *logits)
{
    TEST_WHY;
    struct decoder_seq *s = NULL;
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    uint32_t len = decoder_prefix_find(s, ids, n, share);
    if (logits)
        CHECK_OK(decoder_step(d,
                              &(struct decoder_item){
                                  .seq = s, .tokens = ids + len, .n = n - len, .n_logits = 1, .prompt = true},
                              1, logits, &why));
    decoder_seq_close(s);
    return len;
}
static void keep(struct decoder *d, const int32_t *ids, size_t n, const struct decoder_share *share)
{
    TEST_WHY;
    struct decoder_seq *s = NULL;
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    CHECK_OK(decoder_eval(s, ids, n, false, NULL, NULL, &why));
    decoder_prefix_keep(s, ids, n, share);
    decoder_seq_close(s);
}
static struct decoder_share share_of(uint8_t who, size_t n_public)
{
    struct decoder_share s = {.n_public = n_public, .has_partition = who > 0};
    s.partition.b[31] = who;
    return s;
}

static void a_kept_beginning_gives_the_logits_of_a_computed_one(void **state)
{
    UNUSED_STATE(state);
    enum { LONG = 230 };
    for (int type = CACHE_F16; type <= CACHE_Q8; type++) {
        int32_t ids[LONG], other[LONG];
        float cold[TINY_VOCAB], warm[TINY_VOCAB];
        struct decoder *d = open_with(32, (enum cache_type)type);
        struct decoder_share me = share_of(1, 10);
        random_ids(ids, LONG, 1);
        alone(d, ids, LONG, cold);
        keep(d, ids, LONG, &me);
        CHECK_U64_EQ(found(d, ids, LONG, &me, warm), LONG - 1);
        CHECK(memcmp(cold, warm, sizeof cold) == 0);
        static const size_t cuts[] = {1, 2, 9, 10, 11, 63, 64, 65, 127, 128, 129, 191, 192, 200, 229};
        for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) { /* the same up to there */
            memcpy(other, ids, sizeof ids);
            other[cuts[i]] = (other[cuts[i]] + 1) % TINY_VOCAB;
            alone(d, other, LONG, cold);
            CHECK_U64_EQ(found(d, other, LONG, &me, warm), cuts[i]);
            CHECK(memcmp(cold, warm, sizeof cold) == 0);
            if (i % 4 == 1)
                keep(d, other, LONG, &me); /* branches */
        }
        decoder_close(d);
    }
}

static void nothing_private_is_found_by_another_partition(void **state)
{
    UNUSED_STATE(state);
    enum { LONG = 300, PUBLIC = 100 };
    int32_t ids[LONG], other[LONG];
    float cold[TINY_VOCAB], warm[TINY_VOCAB];
    struct decoder *d = open_with(64, CACHE_F16);
    struct decoder_share a = share_of(1, PUBLIC), b = share_of(2, PUBLIC), nobody = share_of(0, PUBLIC);
    random_ids(ids, LONG, 1);
    alone(d, ids, LONG, cold);
    CHECK_U64_EQ(found(d, ids, LONG, &a, NULL), 0);
    keep(d, ids, LONG, &a);
    CHECK_U64_EQ(found(d, ids, LONG, &a, warm), LONG - 1);
    CHECK(memcmp(cold, warm, sizeof cold) == 0);
    /* the very same prompt: another partition, and none, get the public tokens and not one more */
    CHECK_U64_EQ(found(d, ids, LONG, &b, warm), PUBLIC);
    CHECK(memcmp(cold, warm, sizeof cold) == 0);
    CHECK_U64_EQ(found(d, ids, LONG, &nobody, warm), PUBLIC);
    CHECK(memcmp(cold, warm, sizeof cold) == 0);
    /* a caller who says that more is public does not get at it */
    struct decoder_share liar = share_of(3, LONG);
    CHECK_U64_EQ(found(d, ids, LONG, &liar, NULL), PUBLIC);
    /* both keep their own; neither learns of the other's */
    memcpy(other, ids, sizeof ids);
    other[250] = (other[250] + 1) % TINY_VOCAB;
    keep(d, other, LONG, &b);
    CHECK_U64_EQ(found(d, ids, LONG, &b, NULL), 250);
    CHECK_U64_EQ(found(d, other, LONG, &a, NULL), 250);
    CHECK_U64_EQ(found(d, other, LONG, &nobody, NULL), PUBLIC);
    keep(d, ids + 50, 100, &nobody); /* without a partition nothing private stays */
    CHECK_U64_EQ(found(d, ids + 50, 200, &a, NULL), 100);
    CHECK_U64_EQ(found(d, ids + 50, 200, &nobody, NULL), 100);
    decoder_close(d);
}

static void a_page_that_someone_else_has_is_copied_before_it_is_written(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { LONG = 150 };
    int32_t ids[LONG], other[LONG];
    float cold[TINY_VOCAB], warm[TINY_VOCAB], mine[TINY_VOCAB];
    struct decoder *d = open_with(32, CACHE_F16);
    struct decoder_share me = share_of(1, 0);
    struct decoder_seq *s = NULL;
    random_ids(ids, LONG, 1);
    random_ids(other, LONG, 2);
    memcpy(other, ids, 70 * sizeof ids[0]);
    alone(d, ids, LONG, cold);
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    CHECK_OK(decoder_eval(s, ids, 140, false, NULL, NULL, &why));
    decoder_prefix_keep(s, ids, 140, &me);
    decoder_seq_truncate(s, 70); /* writes other tokens into what is kept */
    CHECK_OK(decoder_step(
        d,
        &(struct decoder_item){.seq = s, .tokens = other + 70, .n = LONG - 70, .n_logits = 1, .prompt = true},
        1, mine, &why));
    CHECK_U64_EQ(found(d, ids, LONG, &me, warm), 140);
    CHECK(memcmp(cold, warm, sizeof cold) == 0);
    alone(d, other, LONG, cold);
    CHECK(memcmp(cold, mine, sizeof cold) == 0);
    decoder_seq_close(s);
    decoder_close(d);
}

static void the_longest_unused_beginning_makes_room(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { TEXTS = 5, LONG = 129 };
    static int32_t ids[TEXTS][LONG];
    struct decoder *d = open_with(8, CACHE_F16);
    struct decoder_share me = share_of(1, 0);
    for (size_t i = 0; i < TEXTS; i++)
        random_ids(ids[i], LONG, 10 + i);
    for (size_t i = 0; i < 4; i++)
        keep(d, ids[i], LONG - 1, &me); /* two pages each: full */
    CHECK_U64_EQ(n_free(d), 8);
    CHECK_U64_EQ(found(d, ids[0], LONG, &me, NULL), LONG - 1);
    keep(d, ids[4], LONG - 1, &me);
    CHECK_U64_EQ(found(d, ids[0], LONG, &me, NULL), LONG - 1); /* was used: stays */
    CHECK_U64_EQ(found(d, ids[1], LONG, &me, NULL), 0);        /* went, from its leaf on */
    CHECK_U64_EQ(found(d, ids[4], LONG, &me, NULL), LONG - 1);
    /* what a sequence has is not given up for another */
    struct decoder_seq *s = NULL, *t = NULL;
    CHECK_OK(decoder_seq_open(&s, d, 512, &why));
    CHECK_U64_EQ(decoder_prefix_find(s, ids[0], LONG, &me), LONG - 1);
    CHECK_OK(decoder_seq_open(&t, d, 512, &why));
    CHECK_ERR(decoder_seq_reserve(t, 7 * 64, &why), CAIRN_EFULL);
    CHECK_U64_EQ(decoder_seq_len(t), 0);
    CHECK_OK(decoder_seq_reserve(t, 6 * 64, &why));
    CHECK_U64_EQ(n_free(d), 0);
    int32_t token = 1;
    CHECK_ERR(decoder_eval(s, &token, 1, false, NULL, NULL, &why), CAIRN_EFULL);
    CHECK_U64_EQ(decoder_seq_len(s), LONG - 1);
    decoder_seq_close(t);
    CHECK_OK(decoder_eval(s, &token, 1, false, NULL, NULL, &why));
    decoder_seq_close(s);
    CHECK_U64_EQ(n_free(d), 8);
    decoder_close(d);
}

static void a_reserve_that_fails_gives_nothing_up(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { LONG = 129 };
    int32_t ids[LONG], other[2 * LONG];
    struct decoder *d = open_with(8, CACHE_F16);
    struct decoder_share me = share_of(1, 0);
    struct decoder_seq *s = NULL, *t = NULL, *u = NULL;
    random_ids(ids, LONG, 1);
    random_ids(other, 2 * LONG, 2);
    CHECK_OK(decoder_seq_open(&t, d, 0, &why));
    CHECK_OK(decoder_seq_open(&u, d, 0, &why));
    CHECK_OK(decoder_seq_reserve(t, 4 * KV_PAGE, &why));
    keep(d, ids, LONG - 1, &me);
    CHECK_U64_EQ(n_free(d), 4); /* two of them kept */
    CHECK_ERR(decoder_seq_reserve(u, 5 * KV_PAGE, &why), CAIRN_EFULL);
    CHECK_U64_EQ(found(d, ids, LONG, &me, NULL), LONG - 1);
    decoder_seq_close(t);
    /* a kept page above one that a sequence has cannot be given up, though it is nobody's */
    keep(d, other, KV_PAGE, &me);
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    CHECK_OK(decoder_eval(s, other, 2 * KV_PAGE, false, NULL, NULL, &why));
    decoder_prefix_keep(s, other, 2 * KV_PAGE, &me);
    CHECK_U64_EQ(n_free(d), 5); /* eight, the two of s, and the one that is kept above its second */
    CHECK_ERR(decoder_seq_reserve(u, 6 * KV_PAGE, &why), CAIRN_EFULL);
    CHECK_U64_EQ(found(d, ids, LONG, &me, NULL), LONG - 1);
    CHECK_OK(decoder_seq_reserve(u, 5 * KV_PAGE, &why));
    decoder_seq_close(u);
    decoder_seq_close(s);
    CHECK_U64_EQ(n_free(d), 8);
    decoder_close(d);
}

static void a_step_that_fails_keeps_no_page_for_it(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { LONG = 5 * KV_PAGE };
    int32_t ids[LONG];
    struct decoder *d = open_with(4, CACHE_F16);
    struct decoder_seq *s[3];
    random_ids(ids, LONG, 1);
    for (int i = 0; i < 3; i++)
        CHECK_OK(decoder_seq_open(&s[i], d, 0, &why));
    CHECK_OK(decoder_seq_reserve(s[0], KV_PAGE + 1, &why));
    const struct decoder_item items[] = {
        {.seq = s[0], .tokens = ids, .n = 1,           .prompt = true}, /* has its pages, and keeps them */
        {.seq = s[1], .tokens = ids, .n = KV_PAGE,     .prompt = true},
        {.seq = s[2], .tokens = ids, .n = 2 * KV_PAGE, .prompt = true},
    };
    CHECK_ERR(decoder_step(d, items, 3, NULL, &why), CAIRN_EFULL);
    CHECK_U64_EQ(n_free(d), 2);
    CHECK_OK(decoder_step(d, items, 2, NULL, &why));
    CHECK_U64_EQ(n_free(d), 1);
    for (int i = 0; i < 3; i++)
        decoder_seq_close(s[i]);
    decoder_close(d);
}

static void what_is_reserved_is_not_given_back_for_a_beginning(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { LONG = 129 };
    int32_t ids[LONG];
    struct decoder *d = open_with(8, CACHE_F16);
    struct decoder_share me = share_of(1, 0);
    struct decoder_seq *s = NULL;
    random_ids(ids, LONG, 1);
    keep(d, ids, LONG - 1, &me);
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    CHECK_OK(decoder_seq_reserve(s, 4 * KV_PAGE, &why));
    CHECK_U64_EQ(decoder_prefix_find(s, ids, LONG, &me), 0);
    CHECK_U64_EQ(n_free(d), 4);
    decoder_seq_close(s);
    decoder_close(d);
}

static void a_card_says_which_template(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char speaking[600];
    snprintf(speaking, sizeof speaking, "%s/speaks.gguf", dir);
    tiny_decoder_write_as(speaking, true);
    struct model_card card = {.name = (char[]){"speaks"}, .path = speaking};
    for (int i = 0; i < 2; i++) { /* the file's looks, and another */
        struct decoder *d = NULL;
        card.template_name = i ? (char[]){"mistral-v1"} : NULL;
        CHECK_OK(decoder_open(&d, &card, NULL, &why));
        CHECK_I64_EQ(decoder_template(d), i ? CHAT_MISTRAL_V1 : CHAT_CHATML);
        decoder_close(d);
    }
}

static void budgets_are_checked_at_open(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct decoder *d = NULL;
    struct kv_shape s;
    CHECK(kv_shape_init(&s, CACHE_F16, TINY_LAYERS, TINY_KV, TINY_HD));
    CHECK_ERR(decoder_open_file(&d, path, &(struct model_opts){.kv_bytes = s.page_bytes - 1}, &why),
              CAIRN_EINVAL);
    CHECK_ERR(decoder_open_file(&d, path, &(struct model_opts){.kv_bytes = s.page_bytes, .n_ctx = 65}, &why),
              CAIRN_EINVAL);
    CHECK_OK(decoder_open_file(&d, path, &(struct model_opts){.kv_bytes = 3 * s.page_bytes}, &why));
    CHECK_U64_EQ(decoder_n_ctx(d), 3 * KV_PAGE); /* cut to what there is room for */
    decoder_close(d);
    CHECK_OK(decoder_open_file(&d, path, NULL, &why));
    CHECK_U64_EQ(decoder_n_ctx(d), TINY_CTX);
    CHECK_U64_EQ(n_free(d), 2 * TINY_CTX / KV_PAGE);
    struct decoder_seq *q = NULL;
    int32_t ids[300] = {0};
    float logits[TINY_VOCAB];
    CHECK_OK(decoder_seq_open(&q, d, 300, &why));
    struct decoder_item bad[] = {
        {.seq = q,       .tokens = ids, .n = 0        },
        { .seq = q, .tokens = ids,        .n = 1,  .n_logits = 2},
        { .seq = q, .tokens = ids,      .n = 257, .prompt = true},
    };
    for (size_t i = 0; i < 3; i++)
        CHECK_ERR(decoder_step(d, &bad[i], 1, logits, &why), CAIRN_EINVAL);
    CHECK_ERR(decoder_step(d, bad, 0, logits, &why), CAIRN_EINVAL);
    decoder_seq_close(q);
    decoder_close(d);
}

static void no_memory_is_an_error_and_a_step_wants_none(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    int32_t ids[200];
    float logits[2 * TINY_VOCAB];
    struct decoder_share me = share_of(1, 20);
    random_ids(ids, 200, 1);
    for (uint64_t nth = 1;; nth++) {
        struct decoder *d = NULL;
        struct decoder_seq *s = NULL, *t = NULL;
        cairn_alloc_fail_after(nth, true);
        enum cairn_err err = decoder_open_file(&d, path, NULL, &why);
        if (!err)
            err = decoder_seq_open(&s, d, 0, &why);
        if (!err)
            err = decoder_seq_open(&t, d, 0, &why);
        if (!err) {
            uint64_t before = cairn_alloc_count();
            CHECK_OK(decoder_step(d,
                                  (struct decoder_item[]){
                                      {.seq = s, .tokens = ids, .n = 150, .n_logits = 1,      .prompt = true},
                                      {.seq = t,        .tokens = ids,              .n = 3,  .n_logits = 1}
            },
                                  2, logits, &why));
            decoder_prefix_keep(s, ids, 150, &me);
            decoder_seq_truncate(t, 0);
            CHECK_U64_EQ(decoder_prefix_find(t, ids, 200, &me), 150);
            CHECK_OK(decoder_step(d, &(struct decoder_item){.seq = t, .tokens = ids, .n = 9}, 1, NULL, &why));
            CHECK_U64_EQ(cairn_alloc_count(), before);
        }
        cairn_alloc_fail_after(0, false);
        decoder_seq_close(s);
        decoder_seq_close(t);
        decoder_close(d);
        if (!err)
            break;
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pages_never_leak_and_sequences_stay_what_they_are),
        TEST(a_step_gives_each_sequence_what_it_gets_alone),
        TEST(smaller_elements_give_nearly_the_same_logits),
        TEST(a_kept_beginning_gives_the_logits_of_a_computed_one),
        TEST(nothing_private_is_found_by_another_partition),
        TEST(a_page_that_someone_else_has_is_copied_before_it_is_written),
        TEST(the_longest_unused_beginning_makes_room),
        TEST(a_reserve_that_fails_gives_nothing_up),
        TEST(a_step_that_fails_keeps_no_page_for_it),
        TEST(what_is_reserved_is_not_given_back_for_a_beginning),
        TEST(a_card_says_which_template),
        TEST(budgets_are_checked_at_open),
        TEST(no_memory_is_an_error_and_a_step_wants_none),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
