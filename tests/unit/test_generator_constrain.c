/* Constrained decoding: a model of random logits cites only sources that there are and quotes only what the
 * passages say; what is allowed is what a look at every token of the vocabulary gives; a rule that never
 * binds changes nothing. */
#include "check.h"
#include "constrain.h"
#include "gguf_writer.h"

#include <math.h>

/* Tokens beside the single bytes: brackets and numbers in every cut, words, parts of code points. */
static const char *const extra[] = {
    "[",     "[1",       "[12",      "[1]",  "[2]",          " [",     " [1",   " [2]",  "].",
    "] [",   "][",       "][3",      "]",    "1]",           "2]",     "12",    "10",    "64",
    "[0",    "[]",       "[99]",     "[[",   "a[i]",         "[1]2",   "the",   " the",  "The",
    " pump", "pump",     " is",      "is",   " tested",      " at",    "at 06", "06:00", "\n",
    "\n\n",  "\xc3\xb6", "\xe4\xb8", "\xad", "\xe4\xb8\xad", "st",     "e",     "ts",    ". ",
    "aa",    "aaa",      "aab",      "b a",  "[3].\n[1",     "] is [", "[6",    "[64]",  "4]",
};
enum { EXTRA = sizeof extra / sizeof extra[0], TOKENS_MAX = 256 + EXTRA + 4 };

static struct tokenizer *make_tokenizer(bool spm, const char *without)
{
    TEST_WHY;
    static char names[TOKENS_MAX][64];
    static float scores[TOKENS_MAX];
    const char *pointers[TOKENS_MAX], *merges[] = {"a a"};
    int32_t types[TOKENS_MAX];
    size_t n = 0;
    const char *controls[] = {"<unk>", "<s>", "<|im_end|>"};
    for (size_t i = 0; i < 3; i++, n++) {
        strcpy(names[n], controls[i]);
        types[n] = i == 0 && spm ? 2 : 3;
    }
    for (unsigned b = 0; b < 256; b++) {
        if (without && b < 128 && strchr(without, (int)b) && b)
            continue;
        if (spm)
            snprintf(names[n], sizeof names[n], "<0x%02X>", b);
        else
            w_byte_name(b, names[n]);
        types[n++] = spm ? 6 : 1;
    }
    for (size_t i = 0; i < EXTRA; i++) {
        char *to = names[n];
        bool single = strlen(extra[i]) == 1;
        if ((single && !spm) || (without && strpbrk(extra[i], without)) ||
            (spm && cairn_utf8_invalid_at(extra[i], strlen(extra[i])) != strlen(extra[i])))
            continue;
        for (const char *p = extra[i]; *p; p++) {
            if (!spm)
                w_byte_name((uint8_t)*p, to);
            else
                strcpy(to, *p == ' ' ? "\xe2\x96\x81" : (char[]){*p, 0});
            to += strlen(to);
        }
        types[n++] = 1;
    }
    for (size_t i = 0; i < n; i++)
        pointers[i] = names[i];
    struct cairn_buf b;
    struct model_file *f;
    struct tokenizer *t;
    cairn_buf_init(&b, 0);
    w_header(&b, 0, 7);
    w_kv_string(&b, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
    w_kv_string(&b, "tokenizer.ggml.pre", "qwen2");
    w_kv_strings(&b, "tokenizer.ggml.tokens", pointers, n);
    w_kv_i32s(&b, "tokenizer.ggml.token_type", types, n);
    w_kv_strings(&b, "tokenizer.ggml.merges", merges, 1);
    w_kv_f32s(&b, "tokenizer.ggml.scores", scores, n);
    w_kv_u32(&b, "tokenizer.ggml.eos_token_id", 2);
    CHECK_OK(model_file_parse(&f, b.bytes, b.len, &why));
    CHECK_OK(tokenizer_from_gguf(&t, f, &why));
    model_file_close(f);
    cairn_buf_release(&b);
    return t;
}

static void random_logits(float *logits, size_t n, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++)
        logits[i] = (float)(test_rand(seed) >> 40) * 0x1p-22f;
}

struct written {
    char text[1 << 14];
    size_t len, tokens;
    bool ended; /* by an end token or for want of one; else by the number of tokens */
};

/* A text of at most `max` tokens from random logits, of which marks and what may follow them are likely. */
static void write_text(struct constrain *c, const struct tokenizer *t, struct sampler *s, size_t max,
                       const char *likely, struct written *out, uint64_t *seed)
{
    size_t n = tokenizer_n_vocab(t);
    float *logits = calloc(n, sizeof *logits), *scratch = calloc(n, sizeof *scratch);
    out->len = out->tokens = 0;
    out->ended = false;
    for (; out->tokens < max; out->tokens++) {
        random_logits(logits, n, seed);
        for (size_t i = 0; i < n && likely; i++) {
            struct cairn_str piece = tokenizer_piece(t, (int32_t)i, false);
            if (piece.len && strchr(likely, piece.p[piece.len - 1]) && piece.p[piece.len - 1])
                logits[i] += 2;
        }
        logits[2] -= likely ? 9 : 0;
        int32_t id = constrain_next(c, s, logits, n, scratch, max - out->tokens);
        if (id < 0 || tokenizer_is_end(t, id)) {
            out->ended = true;
            break;
        }
        struct cairn_str piece = tokenizer_piece(t, id, false);
        CHECK(out->len + piece.len < sizeof out->text);
        memcpy(out->text + out->len, piece.p, piece.len);
        out->len += piece.len;
        constrain_accept(c, id);
    }
    free(logits);
    free(scratch);
}

static size_t check_citations(const struct written *w, size_t n_sources)
{
    size_t n = 0;
    for (size_t i = 0; i < w->len; i++) {
        if (w->text[i] != '[')
            continue;
        size_t number = 0, at = i + 1;
        CHECK(at < w->len && w->text[at] != '0');
        for (; at < w->len && w->text[at] >= '0' && w->text[at] <= '9'; at++)
            number = number * 10 + (size_t)(w->text[at] - '0');
        CHECK(at < w->len && w->text[at] == ']');
        CHECK(number >= 1 && number <= n_sources);
        n++;
    }
    return n;
}

static void every_citation_names_a_source(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const size_t sources[] = {1, 2, 3, 9, 10, 12, 64};
    static struct written w;
    uint64_t seed = 5;
    size_t found = 0;
    for (int spm = 0; spm < 2; spm++) {
        struct tokenizer *t = make_tokenizer(spm, NULL);
        struct constrain_vocab *v;
        CHECK_OK(constrain_vocab_open(&v, t, &why));
        for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++)
            for (int round = 0; round < 60; round++) {
                struct constrain *c;
                struct sampler s = {.temperature = round % 3 ? 0.7f : 0, .state = (uint64_t)round};
                CHECK_OK(constrain_citations(&c, v, sources[i], &why));
                write_text(c, t, &s, (size_t)round + 1, "[]0123456789", &w, &seed);
                found += check_citations(&w, sources[i]);
                constrain_close(c);
            }
        constrain_vocab_close(v);
        tokenizer_close(t);
    }
    CHECK_GE(found, 1000);
}

/* The tokens that may come next: each is made the only likely one. */
static bool may_come(struct constrain *c, size_t n, int32_t id)
{
    static float logits[TOKENS_MAX], scratch[TOKENS_MAX];
    for (size_t i = 0; i < n; i++)
        logits[i] = -1;
    logits[id] = 1;
    return constrain_next(c, &(struct sampler){0}, logits, n, scratch, 1000) == id;
}

static bool citation_fits(const char *text, size_t len, size_t n_sources, bool *open)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '[')
            continue;
        size_t number = 0;
        for (i++; i < len && text[i] >= '0' && text[i] <= '9'; i++) {
            number = number * 10 + (size_t)(text[i] - '0');
            if (number < 1 || number > n_sources)
                return false;
        }
        *open = i == len;
        if (i < len && (text[i] != ']' || !number))
            return false;
    }
    return true;
}

static void what_may_follow_in_a_citation_is_what_the_grammar_says(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const before[] = {"", "a", "[", "[1", "[2", "[1]", "[12", "x [1", "[6", "[1]["};
    for (int spm = 0; spm < 2; spm++) {
        struct tokenizer *t = make_tokenizer(spm, NULL);
        struct constrain_vocab *v;
        size_t n = tokenizer_n_vocab(t);
        CHECK_OK(constrain_vocab_open(&v, t, &why));
        for (size_t k = 1; k <= 64; k = k < 14 ? k + 1 : k + 25)
            for (size_t i = 0; i < sizeof before / sizeof before[0]; i++) {
                struct constrain *c;
                bool open = false;
                if (!citation_fits(before[i], strlen(before[i]), k, &open))
                    continue;
                CHECK_OK(constrain_citations(&c, v, k, &why));
                bool inside = open;
                for (const char *p = before[i]; *p; p++) {
                    char name[8];
                    w_byte_name((uint8_t)*p, name);
                    if (spm)
                        snprintf(name, sizeof name, "<0x%02X>", (unsigned)*p);
                    constrain_accept(c, tokenizer_find(t, name));
                }
                for (int32_t id = 3; id < (int32_t)n; id++) {
                    char all[128];
                    struct cairn_str piece = tokenizer_piece(t, id, false);
                    size_t len = strlen(before[i]);
                    memcpy(all, before[i], len);
                    memcpy(all + len, piece.p, piece.len);
                    CHECK_I64_EQ(may_come(c, n, id), citation_fits(all, len + piece.len, k, &open));
                }
                CHECK_I64_EQ(may_come(c, n, 2), !inside); /* no end within a bracket */
                constrain_close(c);
            }
        constrain_vocab_close(v);
        tokenizer_close(t);
    }
}

/* ---- quotes ---- */

static bool word(uint32_t cp)
{
    return cp < 128 ? (cp >= '0' && cp <= '9') || ((cp | 32) >= 'a' && (cp | 32) <= 'z')
                    : cp >= 0xaa && cp < 0x2000 && cp != 0xd7 && cp != 0xf7;
}
static bool sentence_at(struct cairn_str s, size_t at, bool end)
{
    static struct cairn_span spans[64];
    size_t n = cairn_sentences(s, spans, 64);
    for (size_t i = 0; i < n; i++)
        if ((end ? spans[i].end : spans[i].start) == at)
            return true;
    return end && at == s.len;
}
static bool cut_here(struct cairn_str s, size_t at)
{
    uint32_t a = 0, b = 0;
    size_t before = at;
    if (at == 0 || at == s.len)
        return true;
    if (((uint8_t)s.p[at] & 0xc0) == 0x80)
        return false;
    while (((uint8_t)s.p[--before] & 0xc0) == 0x80)
        ;
    (void)cairn_utf8_next(s.p + before, at - before, &a);
    (void)cairn_utf8_next(s.p + at, s.len - at, &b);
    return !word(a) || !word(b);
}
/* text stands in s, from the beginning of a word or sentence; to the end of one when `whole`. */
static bool stands_in(struct cairn_str s, const char *text, size_t len, enum quote_unit unit, bool whole)
{
    bool words = unit == QUOTE_WORDS;
    for (size_t i = 0; len && i + len <= s.len; i++)
        if (memcmp(s.p + i, text, len) == 0 && !strchr(" \t\r\n", s.p[i]) &&
            (words ? cut_here(s, i) : sentence_at(s, i, false)) &&
            (!whole || (words ? cut_here(s, i + len) : sentence_at(s, i + len, true))))
            return true;
    return false;
}

static const char *const passages_text[] = {
    "The pump is tested at 06:00. The pump at the st\xc3\xb6"
    "ck is not.\n\nJonas tests the pump [1].",
    "\xe4\xb8\xad\xe6\x96\x87\xe6\xb3\xb5\xe6\xaf\x8f\xe5\x91\xa8 is tested",
    "a aa aaa aab aaab aaaa",
    "",
    "e",
};
enum { PASSAGES = sizeof passages_text / sizeof passages_text[0] };

static void every_quote_stands_in_a_passage(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static struct written w;
    uint64_t seed = 8;
    for (int spm = 0; spm < 2; spm++) {
        struct tokenizer *t = make_tokenizer(spm, NULL);
        struct constrain_vocab *v;
        CHECK_OK(constrain_vocab_open(&v, t, &why));
        for (int round = 0; round < 1500; round++) {
            enum quote_unit unit = round / 2 % 2 ? QUOTE_SENTENCES : QUOTE_WORDS;
            struct cairn_str passages[PASSAGES];
            char made[3][200];
            size_t n = 0, source = SIZE_MAX;
            for (size_t i = 0; i < PASSAGES; i++)
                if (round % 2)
                    passages[n++] = cairn_str_of(passages_text[i]);
            for (size_t i = 0; i < 3 && round % 2 == 0; i++) { /* few characters: much occurs many times */
                size_t len = test_rand(&seed) % sizeof made[0];
                for (size_t k = 0; k < len; k++)
                    made[i][k] = "aab the."[test_rand(&seed) % 8];
                passages[n++] = (struct cairn_str){made[i], len};
            }
            struct constrain *c;
            struct sampler s = {.temperature = round % 3 ? 1 : 0, .state = (uint64_t)round};
            CHECK_OK(constrain_quote(&c, v, passages, n, unit, &why));
            CHECK(!constrain_source(c, &source));
            write_text(c, t, &s, round % 5 ? 200 : 3, NULL, &w, &seed);
            if (w.len) {
                size_t skip = w.text[0] == ' ';
                CHECK(constrain_source(c, &source) && source < n);
                CHECK(stands_in(passages[source], w.text + skip, w.len - skip, unit, w.ended));
            }
            constrain_close(c);
        }
        constrain_vocab_close(v);
        tokenizer_close(t);
    }
}

static void what_may_follow_in_a_quote_is_what_the_passages_say(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_str passages[PASSAGES];
    uint64_t seed = 9;
    for (size_t i = 0; i < PASSAGES; i++)
        passages[i] = cairn_str_of(passages_text[i]);
    for (int spm = 0; spm < 2; spm++) {
        struct tokenizer *t = make_tokenizer(spm, NULL);
        struct constrain_vocab *v;
        size_t n = tokenizer_n_vocab(t);
        CHECK_OK(constrain_vocab_open(&v, t, &why));
        for (int round = 0; round < 40; round++) {
            enum quote_unit unit = round % 2 ? QUOTE_SENTENCES : QUOTE_WORDS;
            struct constrain *c;
            char text[256];
            size_t len = 0;
            CHECK_OK(constrain_quote(&c, v, passages, PASSAGES, unit, &why));
            for (int step = 0; step < 12; step++) {
                int32_t fits[TOKENS_MAX];
                size_t n_fits = 0;
                for (int32_t id = 0; id < (int32_t)n; id++) {
                    struct cairn_str piece = tokenizer_piece(t, id, false);
                    bool want = false;
                    memcpy(text + len, piece.p, piece.len);
                    size_t skip = text[0] == ' ' && len + piece.len > 0;
                    for (size_t i = 0; i < PASSAGES; i++)
                        want = want ||
                               (id == 2 ? len && stands_in(passages[i], text + skip, len - skip, unit, true)
                                        : piece.len && stands_in(passages[i], text + skip,
                                                                 len + piece.len - skip, unit, false));
                    CHECK_I64_EQ(may_come(c, n, id), want);
                    if (want && id != 2)
                        fits[n_fits++] = id;
                }
                if (!n_fits)
                    break;
                int32_t id = fits[test_rand(&seed) % n_fits];
                struct cairn_str piece = tokenizer_piece(t, id, false);
                memcpy(text + len, piece.p, piece.len);
                len += piece.len;
                constrain_accept(c, id);
            }
            constrain_close(c);
        }
        constrain_vocab_close(v);
        tokenizer_close(t);
    }
}

static void a_rule_that_does_not_bind_changes_nothing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tokenizer *t = make_tokenizer(false, NULL);
    struct constrain_vocab *v;
    struct constrain *c, *q;
    size_t n = tokenizer_n_vocab(t), n_ids;
    static float logits[TOKENS_MAX], copy[TOKENS_MAX], scratch[TOKENS_MAX];
    uint64_t seed = 4;
    CHECK_OK(constrain_vocab_open(&v, t, &why));
    /* sampled text without brackets */
    CHECK_OK(constrain_citations(&c, v, 3, &why));
    struct sampler free_one = {.temperature = 1, .top_p = 0.9f, .state = 1}, bound = free_one;
    for (int i = 0; i < 500; i++) {
        random_logits(logits, n, &seed);
        for (size_t k = 0; k < n; k++)
            if (memchr(tokenizer_piece(t, (int32_t)k, false).p, '[',
                       tokenizer_piece(t, (int32_t)k, false).len))
                logits[k] = -INFINITY;
        memcpy(copy, logits, sizeof copy);
        int32_t id = sampler_next(&free_one, logits, n, n, scratch);
        CHECK_I64_EQ(constrain_next(c, &bound, copy, n, scratch, 1000), id);
        constrain_accept(c, id);
    }
    constrain_close(c);
    /* a greedy model that writes a right citation, or a span of the passage, anyway */
    static const char said[] = "The pump [2] is [1]. at 06:00 the [3]";
    int32_t *ids;
    struct cairn_str passage = cairn_str_of(said);
    CHECK_OK(tokenizer_encode(t, passage, TOKENIZE_PLAIN, &ids, &n_ids, &why));
    CHECK_OK(constrain_citations(&c, v, 3, &why));
    CHECK_OK(constrain_quote(&q, v, &passage, 1, QUOTE_SENTENCES, &why));
    for (size_t i = 0; i < n_ids; i++) {
        random_logits(logits, n, &seed);
        logits[ids[i]] += 100;
        memcpy(copy, logits, sizeof copy);
        CHECK_I64_EQ(constrain_next(c, &(struct sampler){0}, copy, n, scratch, n_ids - i), ids[i]);
        memcpy(copy, logits, sizeof copy);
        CHECK_I64_EQ(constrain_next(q, &(struct sampler){0}, copy, n, scratch, n_ids - i), ids[i]);
        constrain_accept(c, ids[i]);
        constrain_accept(q, ids[i]);
    }
    cairn_free(ids);
    constrain_close(c);
    constrain_close(q);
    constrain_vocab_close(v);
    tokenizer_close(t);
}

static void what_cannot_be_is_said(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tokenizer *t = make_tokenizer(false, "]"), *none = make_tokenizer(false, "[");
    struct constrain_vocab *v, *no_brackets;
    struct constrain *c;
    static float logits[TOKENS_MAX], scratch[TOKENS_MAX];
    CHECK_OK(constrain_vocab_open(&v, t, &why));
    CHECK_ERR(constrain_citations(&c, v, 3, &why), CAIRN_EUNSUPPORTED);
    CHECK(c == NULL && strstr(why.text, "vocabulary"));
    CHECK_ERR(constrain_citations(&c, v, 0, &why), CAIRN_EINVAL);
    CHECK_ERR(constrain_citations(&c, v, GROUND_SOURCES_MAX + 1, &why), CAIRN_EINVAL);
    /* nothing to quote: the text ends at once */
    CHECK_OK(constrain_quote(&c, v, NULL, 0, QUOTE_WORDS, &why));
    CHECK_I64_EQ(constrain_next(c, &(struct sampler){0}, logits, tokenizer_n_vocab(t), scratch, 9), -1);
    constrain_close(c);
    constrain_vocab_close(v);
    /* who cannot write a bracket breaks no rule */
    CHECK_OK(constrain_vocab_open(&no_brackets, none, &why));
    CHECK_OK(constrain_citations(&c, no_brackets, 3, &why));
    CHECK_I64_EQ(constrain_next(c, &(struct sampler){0}, logits, tokenizer_n_vocab(none), scratch, 9), 0);
    constrain_close(c);
    constrain_vocab_close(no_brackets);
    tokenizer_close(t);
    tokenizer_close(none);
}

static void no_memory_is_an_error_and_not_a_leak(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tokenizer *t = make_tokenizer(false, NULL);
    struct cairn_str passage = cairn_str_of(passages_text[0]);
    for (uint64_t nth = 1;; nth++) {
        struct constrain_vocab *v = NULL;
        struct constrain *c = NULL, *q = NULL;
        cairn_alloc_fail_after(nth, true);
        enum cairn_err err = constrain_vocab_open(&v, t, &why);
        if (!err)
            err = constrain_citations(&c, v, 3, &why);
        if (!err)
            err = constrain_quote(&q, v, &passage, 1, QUOTE_SENTENCES, &why);
        cairn_alloc_fail_after(0, false);
        constrain_close(c);
        constrain_close(q);
        constrain_vocab_close(v);
        if (!err)
            break;
        CHECK_I64_EQ(err, CAIRN_ENOMEM);
    }
    tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_citation_names_a_source),
        TEST(what_may_follow_in_a_citation_is_what_the_grammar_says),
        TEST(every_quote_stands_in_a_passage),
        TEST(what_may_follow_in_a_quote_is_what_the_passages_say),
        TEST(a_rule_that_does_not_bind_changes_nothing),
        TEST(what_cannot_be_is_said),
        TEST(no_memory_is_an_error_and_not_a_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
