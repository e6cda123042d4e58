/* Tokenizers: the vocabulary's rules, special tokens, bytes of every kind, decoding. Ids against references
 * are in tests/golden/tokenizer. */
#include "check.h"
#include "gguf_writer.h"
#include "tokenizer.h"

#include <math.h>

static enum cairn_err build(struct cairn_buf *b, struct tokenizer **t, struct cairn_why *why)
{
    struct model_file *f;
    *t = NULL;
    enum cairn_err err = model_file_parse(&f, b->bytes, b->len, why);
    if (!err)
        err = tokenizer_from_gguf(t, f, why);
    model_file_close(f);
    return err;
}

static struct tokenizer *tiny_bpe(const char *pre)
{
    TEST_WHY;
    struct cairn_buf b;
    struct tokenizer *t;
    cairn_buf_init(&b, 0);
    w_header(&b, 0, TINY_BPE_KVS);
    w_kv_string(&b, "tokenizer.ggml.model", "gpt2");
    w_kv_string(&b, "tokenizer.ggml.pre", pre);
    w_kv_strings(&b, "tokenizer.ggml.tokens", tiny_bpe_tokens, TINY_BPE_TOKENS);
    w_kv_i32s(&b, "tokenizer.ggml.token_type", tiny_bpe_types, TINY_BPE_TOKENS);
    w_kv_strings(&b, "tokenizer.ggml.merges", tiny_bpe_merges, TINY_BPE_MERGES);
    w_kv_u32(&b, "tokenizer.ggml.eos_token_id", 10);
    w_kv_u32(&b, "tokenizer.ggml.bos_token_id", 8);
    w_kv_bool(&b, "tokenizer.ggml.add_bos_token", true);
    CHECK_OK(build(&b, &t, &why));
    cairn_buf_release(&b);
    return t;
}

static struct tokenizer *tiny_spm(void)
{
    TEST_WHY;
    struct cairn_buf b;
    struct tokenizer *t;
    cairn_buf_init(&b, 0);
    w_header(&b, 0, TINY_SPM_KVS);
    w_tiny_spm(&b);
    CHECK_OK(build(&b, &t, &why));
    cairn_buf_release(&b);
    return t;
}

static const char tiny_words[] =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhe\n##llo\nwor\n##ld\n!\ncafe\n\xe4\xb8\xad\n##x\nx\n";

static struct tokenizer *tiny_wordpiece(bool lower)
{
    TEST_WHY;
    struct tokenizer *t;
    CHECK_OK(tokenizer_from_wordpiece_bytes(&t, tiny_words, sizeof tiny_words - 1, lower, &why));
    return t;
}

/* want: ids, ended by -1 */
static void check_ids(const struct tokenizer *t, const char *text, size_t len, unsigned flags,
                      const int *want)
{
    TEST_WHY;
    int32_t *ids;
    size_t n, i = 0;
    CHECK_OK(tokenizer_encode(t, (struct cairn_str){text, len}, flags, &ids, &n, &why));
    for (; want[i] >= 0 && i < n; i++)
        if (ids[i] != want[i])
            break;
    if (want[i] >= 0 || i != n) {
        print_error("'%s': %zu ids, differs at %zu:", text, n, i);
        for (size_t k = 0; k < n; k++)
            print_error(" %d", ids[k]);
        print_error("\n");
        fail();
    }
    cairn_free(ids);
}
#define IDS(t, text, flags, ...) check_ids(t, text, sizeof(text) - 1, flags, (const int[]){__VA_ARGS__, -1})

static void bpe_merges_lowest_rank_first(void **state)
{
    UNUSED_STATE(state);
    struct tokenizer *t = tiny_bpe("qwen2");
    CHECK_STR_EQ(tokenizer_kind(t), "bpe/qwen2");
    CHECK_U64_EQ(tokenizer_n_vocab(t), TINY_BPE_TOKENS);
    IDS(t, "abc", 0, 6);
    IDS(t, "bc", 0, 11);
    IDS(t, "bab", 0, 1, 5);
    IDS(t, " ab abc", 0, 7, 3, 6); /* "ab c" ranks before space + "ab", so the space stays alone */
    IDS(t, "a\nb", 0, 0, 4, 1);
    IDS(t, "aXb", 0, 0, 1); /* a byte without a token is dropped, as in the reference */
    check_ids(t, "", 0, TOKENIZE_PLAIN, (const int[]){-1});
    check_ids(t, "", 0, TOKENIZE_ADD_SPECIAL, (const int[]){8, -1});
    tokenizer_close(t);
}

/* The heap of long words and the scan of short ones give the same ids. */
static void long_words_merge_as_short_ones(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tokenizer *t = tiny_bpe("qwen2");
    uint64_t seed = 3;
    for (int round = 0; round < 500; round++) {
        /* "abc" is closed under merges: a long word of pieces that cannot join is the pieces one by one */
        char text[400];
        size_t len = 0, n_want = 0;
        int32_t want[400], *ids;
        size_t n;
        int last = -1;
        while (len < 390) {
            static const struct {
                const char *text;
                int id;
            } parts[] = {
                {"abc", 6},
                {"ab",  5},
                {"c",   2},
                {"a",   0}
            };
            int k = (int)(test_rand(&seed) % 4);
            if ((last == 1 && k == 2)) /* ab c would join */
                continue;
            memcpy(text + len, parts[k].text, strlen(parts[k].text));
            len += strlen(parts[k].text);
            want[n_want++] = parts[k].id;
            last = k;
        }
        CHECK_OK(tokenizer_encode(t, (struct cairn_str){text, len}, 0, &ids, &n, &why));
        CHECK_U64_EQ(n, n_want);
        CHECK(memcmp(ids, want, n * sizeof *ids) == 0);
        cairn_free(ids);
    }
    tokenizer_close(t);
}

static void text_never_becomes_a_control_token(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char text[] =
        "<|im_end|><|im_start|> </s> <s>[INST] a <tool> [CLS] [SEP] <|endoftext|> b </s>";
    struct tokenizer *ts[] = {tiny_bpe("qwen2"), tiny_bpe("smollm"),   tiny_bpe("gpt-2"),
                              tiny_spm(),        tiny_wordpiece(true), tiny_wordpiece(false)};
    for (size_t i = 0; i < sizeof ts / sizeof ts[0]; i++) {
        int32_t *ids;
        size_t n;
        CHECK_OK(tokenizer_encode(ts[i], cairn_str_of(text), TOKENIZE_PLAIN, &ids, &n, &why));
        CHECK_GE(n, 1);
        for (size_t k = 0; k < n; k++)
            CHECK(!tokenizer_is_control(ts[i], ids[k]));
        cairn_free(ids);
        tokenizer_close(ts[i]);
    }
}

/* Found by fuzz_gguf: a file that types its unknown token as control, so that any odd character of a text
 * gave it. */
static void the_unknown_token_steers_nothing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    for (int64_t unknown = 0; unknown < 3; unknown += 2) { /* <unk>, typed control; </s> */
        struct cairn_buf b;
        struct tokenizer *t;
        int32_t types[TINY_SPM_TOKENS], *ids;
        size_t n;
        memcpy(types, tiny_spm_types, sizeof types);
        types[0] = 3;
        cairn_buf_init(&b, 0);
        w_header(&b, 0, TINY_SPM_KVS + 1);
        w_kv_string(&b, "tokenizer.ggml.model", "llama");
        w_kv_strings(&b, "tokenizer.ggml.tokens", tiny_spm_tokens, TINY_SPM_TOKENS);
        w_kv_i32s(&b, "tokenizer.ggml.token_type", types, TINY_SPM_TOKENS);
        w_kv_f32s(&b, "tokenizer.ggml.scores", tiny_spm_scores, TINY_SPM_TOKENS);
        w_kv_u32(&b, "tokenizer.ggml.unknown_token_id", (uint32_t)unknown);
        if (unknown == 2) {
            CHECK_ERR(build(&b, &t, &why), CAIRN_ECORRUPT);
        } else {
            CHECK_OK(build(&b, &t, &why));
            CHECK_OK(tokenizer_encode(t, cairn_str_of("q"), TOKENIZE_PLAIN, &ids, &n, &why));
            CHECK(n > 0 && ids[n - 1] == 0 && !tokenizer_is_control(t, 0));
            cairn_free(ids);
            tokenizer_close(t);
        }
        cairn_buf_release(&b);
    }
}

/* Files that call the mark or the end of a turn user-defined, or ordinary, and have the merges to form it. */
static void no_merge_forms_what_steers_a_conversation(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { PARTS = 11, WHOLE = PARTS, N };
    static const struct {
        const char *last[3]; /* the last two parts and the whole */
        const char *merges[5];
        int32_t type;
        uint32_t eos;
        bool steers;
    } cases[] = {
        {{"T", "[INST", "[INST]"}, {"[ I", "[I N", "[IN S", "[INS T", "[INST ]"}, 4, UINT32_MAX, true },
        {{"X", "[INSX", "[INSX]"}, {"[ I", "[I N", "[IN S", "[INS X", "[INSX ]"}, 4, UINT32_MAX, false},
        {{"X", "[INSX", "[INSX]"}, {"[ I", "[I N", "[IN S", "[INS X", "[INSX ]"}, 4, WHOLE,      true },
        {{"X", "[INSX", "[INSX]"}, {"[ I", "[I N", "[IN S", "[INS X", "[INSX ]"}, 1, WHOLE,      true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int spm = 0; spm < 2; spm++) {
            struct cairn_buf b;
            struct tokenizer *t = NULL;
            const char *const *last = cases[i].last;
            const char *tokens[N] = {"<unk>", "[",   "I",    "N",     "S",     "]",
                                     "[I",    "[IN", "[INS", last[0], last[1], last[2]};
            const int32_t types[N] = {2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, cases[i].type};
            const float scores[N] = {0};
            cairn_buf_init(&b, 0);
            w_header(&b, 0, 7);
            w_kv_string(&b, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
            w_kv_string(&b, "tokenizer.ggml.pre", "gpt-2");
            w_kv_strings(&b, "tokenizer.ggml.tokens", tokens, N);
            w_kv_i32s(&b, "tokenizer.ggml.token_type", types, N);
            w_kv_f32s(&b, "tokenizer.ggml.scores", scores, N);
            w_kv_strings(&b, "tokenizer.ggml.merges", cases[i].merges, 5);
            w_kv_u32(&b, "tokenizer.ggml.eos_token_id", cases[i].eos);
            enum cairn_err err = build(&b, &t, &why);
            if (!spm && cases[i].steers) { /* as merges into control tokens are */
                CHECK_I64_EQ(err, CAIRN_ECORRUPT);
                CHECK(strstr(why.text, "tokenizer.ggml.merges[4]") != NULL);
            } else {
                int32_t *ids;
                size_t n;
                bool whole = false;
                CHECK_OK(err);
                CHECK_OK(tokenizer_encode(t, cairn_str_of(last[2]), TOKENIZE_PLAIN, &ids, &n, &why));
                for (size_t k = 0; k < n; k++)
                    whole = whole || ids[k] == WHOLE;
                if (spm)
                    CHECK(whole == !cases[i].steers);
                cairn_free(ids);
            }
            tokenizer_close(t);
            cairn_buf_release(&b);
        }
}

static void special_tokens_are_found_when_asked_for(void **state)
{
    UNUSED_STATE(state);
    struct tokenizer *t = tiny_bpe("qwen2");
    IDS(t, "<|im_start|>ab<|im_end|>", TOKENIZE_PARSE_SPECIAL, 9, 5, 10);
    IDS(t, "a<tool>b", TOKENIZE_PARSE_SPECIAL, 0, 12, 1);
    IDS(t, "<|im_start|>a", TOKENIZE_PARSE_SPECIAL | TOKENIZE_ADD_SPECIAL, 8, 9, 0);
    CHECK_I64_EQ(tokenizer_find(t, "<|im_end|>"), 10);
    CHECK_I64_EQ(tokenizer_find(t, "nothing"), -1);
    CHECK(tokenizer_is_control(t, 10) && tokenizer_is_end(t, 10) && tokenizer_is_end(t, 8) &&
          !tokenizer_is_end(t, 9));
    CHECK(!tokenizer_is_control(t, -1) && !tokenizer_is_control(t, 13) && !tokenizer_is_end(t, INT32_MAX));
    CHECK_U64_EQ(tokenizer_piece(t, 10, false).len, 0);
    CHECK_U64_EQ(tokenizer_piece(t, 10, true).len, 10);
    CHECK_U64_EQ(tokenizer_piece(t, 9999, true).len, 0);
    struct cairn_str s = tokenizer_piece(t, 7, false);
    CHECK(s.len == 3 && memcmp(s.p, " ab", 3) == 0);
    tokenizer_close(t);
}

static void sentencepiece_merges_by_score_and_falls_back_to_bytes(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tokenizer *t = tiny_spm();
    CHECK_STR_EQ(tokenizer_kind(t), "spm");
    IDS(t, "ab", 0, 8); /* the space in front joins */
    IDS(t, "aab", 0, 4, 5, 7);
    IDS(t, "ab\nX", 0, 8, 3, 17); /* <0x0A>, <0x58> */
    IDS(t, "ab\xc3", 0, 8, 0);    /* no byte token: <unk> */
    IDS(t, "</s>", 0, 4, 13, 14); /* merges stop short of the control token */
    IDS(t, "ab", TOKENIZE_ADD_SPECIAL, 1, 8);
    IDS(t, "</s>ab", TOKENIZE_PARSE_SPECIAL, 2, 8);
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    CHECK_OK(tokenizer_decode(t, (const int32_t[]){1, 8, 3, 8, 17}, 5, &b, &why));
    CHECK_STR_EQ(b.bytes, "ab\n abX");
    CHECK_ERR(tokenizer_decode(t, (const int32_t[]){18}, 1, &b, &why), CAIRN_EINVAL);
    CHECK_ERR(tokenizer_decode(t, (const int32_t[]){-1}, 1, &b, &why), CAIRN_EINVAL);
    cairn_buf_release(&b);
    tokenizer_close(t);
}

static void wordpiece_normalises_as_bert(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tokenizer *t = tiny_wordpiece(true), *cased = tiny_wordpiece(false);
    CHECK_STR_EQ(tokenizer_kind(t), "wordpiece");
    IDS(t, "Hello WORLD!", TOKENIZE_ADD_SPECIAL, 2, 5, 6, 7, 8, 9, 3);
    IDS(t, "Caf\xc3\xa9", 0, 10);                     /* é in one code point */
    IDS(t, "cafe\xcc\x81", 0, 10);                    /* and in two */
    IDS(t, "x\xe4\xb8\xadx", 0, 13, 11, 13);          /* ideographs stand alone */
    IDS(t, "he\x07llo\xef\xbf\xbd\t x", 0, 5, 6, 13); /* control characters and U+FFFD vanish */
    IDS(t, "he\xffllo", 0, 5, 6);                     /* so do stray bytes */
    IDS(t, "hezzz he", 0, 1, 5);                      /* one part unknown: the word is */
    IDS(cased, "He he", 0, 1, 5);
    IDS(cased, "caf\xc3\xa9", 0, 1);
    /* 100 code points are a word, 101 are [UNK] */
    char word[102];
    memset(word, 'x', sizeof word);
    int32_t *ids;
    size_t n;
    CHECK_OK(tokenizer_encode(t, (struct cairn_str){word, 100}, 0, &ids, &n, &why));
    CHECK_U64_EQ(n, 100);
    cairn_free(ids);
    CHECK_OK(tokenizer_encode(t, (struct cairn_str){word, 101}, 0, &ids, &n, &why));
    CHECK(n == 1 && ids[0] == 1);
    cairn_free(ids);
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    CHECK_OK(tokenizer_decode(t, (const int32_t[]){2, 5, 6, 7, 8, 9, 3}, 7, &b, &why));
    CHECK_STR_EQ(b.bytes, "hello world !");
    cairn_buf_release(&b);
    tokenizer_close(t);
    tokenizer_close(cased);
}

static void any_bytes_are_accepted(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tokenizer *ts[] = {tiny_bpe("qwen2"), tiny_bpe("smollm"),   tiny_bpe("gpt-2"),
                              tiny_spm(),        tiny_wordpiece(true), tiny_wordpiece(false)};
    uint64_t seed = 11;
    for (int round = 0; round < 3000; round++) {
        char text[64];
        size_t len = test_rand(&seed) % sizeof text;
        for (size_t i = 0; i < len; i++)
            text[i] =
                (char)(test_rand(&seed) % 3 ? "ab c\n'sS1<|>\xc3\xe2\x96\x81\xf0\x9f"[test_rand(&seed) % 18]
                                            : (char)test_rand(&seed));
        char *copy = malloc(len + 1);
        memcpy(copy, text, len);
        for (size_t k = 0; k < sizeof ts / sizeof ts[0]; k++) {
            int32_t *ids;
            size_t n;
            CHECK_OK(tokenizer_encode(ts[k], (struct cairn_str){copy, len}, (unsigned)(round & 3), &ids, &n,
                                      &why));
            for (size_t i = 0; i < n; i++)
                CHECK(ids[i] >= 0 && (size_t)ids[i] < tokenizer_n_vocab(ts[k]));
            cairn_free(ids);
        }
        free(copy);
    }
    for (size_t k = 0; k < sizeof ts / sizeof ts[0]; k++)
        tokenizer_close(ts[k]);
}

/* A hostile text must not cost the square of its length. */
static void a_long_run_is_cheap(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { LEN = 2000000 };
    struct tokenizer *ts[] = {tiny_bpe("qwen2"), tiny_spm(), tiny_wordpiece(true)};
    char *text = malloc(LEN);
    memset(text, 'a', LEN);
    for (size_t i = 1; i < LEN; i += 2)
        text[i] = 'b';
    for (size_t k = 0; k < 3; k++) {
        int32_t *ids;
        size_t n;
        CHECK_OK(tokenizer_encode(ts[k], (struct cairn_str){text, LEN}, 0, &ids, &n, &why));
        CHECK_U64_EQ(n, k == 2 ? 1 : LEN / 2);
        cairn_free(ids);
        tokenizer_close(ts[k]);
    }
    free(text);
    struct tokenizer *t = tiny_spm();
    int32_t *ids;
    size_t n;
    CHECK_ERR(tokenizer_encode(t, (struct cairn_str){"", (size_t)1 << 40}, 0, &ids, &n, &why), CAIRN_EINVAL);
    CHECK(ids == NULL && n == 0);
    tokenizer_close(t);
}

/* ---- rules
 * ---------------------------------------------------------------------------------------------------------
 */

struct vocab_spec { /* NULL or 0: the valid one's */
    const char *model, *pre;
    const char *const *tokens;
    size_t n_tokens, n_types, n_scores, n_merges;
    const int32_t *types;
    const float *scores;
    const char *const *merges;
    uint32_t eos;
    enum cairn_err want;
    const char *says;
};

static void each_vocabulary_rule_is_kept(void **state)
{
    UNUSED_STATE(state);
    static const int32_t bad_types[TINY_BPE_TOKENS] = {1, 1, 7, 1, 1, 1, 1, 1, 3, 3, 3, 1, 4};
    static const float bad_scores[TINY_SPM_TOKENS] = {0, NAN};
    static const char *const no_space[] = {"ab"}, *const unknown_part[] = {"a b", "q r"},
                             *const unknown_whole[] = {"b a"}, *const empty_part[] = {"a "},
                             *const control[] = {"<|endoftext|> a"};
    static const char *const bad_byte[] = {"<unk>", "<s>", "</s>", "<0xG0>"}, *const short_byte[] = {
                                                                                  "<unk>", "<s>", "</s>",
                                                                                  "<0x"};
    static const float four_scores[4] = {0};
    static const int32_t four_types[] = {2, 3, 3, 6};
    static const char *const no_unk[] = {"\xe2\x96\x81"
                                         "a",
                                         "[CLS]", "[SEP]"};
    static const int32_t no_unk_types[] = {1, 3, 3};
    const struct vocab_spec specs[] = {
        {.model = "rwkv",                          .want = CAIRN_EUNSUPPORTED, .says = "gpt2, llama or bert: 'rwkv'"      }, /* T1 */
        {.pre = "tekken",
         .want = CAIRN_EUNSUPPORTED,
         .says = "gpt-2, smollm, qwen2 or llama-bpe: 'tekken'"                                                            }, /* T1 */
        {.pre = "default",                         .want = CAIRN_EUNSUPPORTED, .says = "gpt-2, smollm, qwen2 or llama-bpe"}, /* T1 */
        {.tokens = tiny_bpe_tokens,
         .n_tokens = 0,
         .n_types = 1,
         .want = CAIRN_ECORRUPT,
         .says = "a vocabulary has 1 to"}, /* T2 */
        {.n_types = 12,          .want = CAIRN_ECORRUPT,                                    .says = "as many token types as tokens"                                                                  }, /* T3 */
        {.types = bad_types, .want = CAIRN_ECORRUPT,.says = "tokenizer.ggml.token_type[2]"}, /* T3 */
        {.model = "llama",
         .n_scores = 3,
         .want = CAIRN_ECORRUPT,
         .says = "as many scores as tokens"}, /* T3 */
        {.model = "llama",
         .scores = bad_scores,
         .want = CAIRN_ECORRUPT,
         .says = "tokenizer.ggml.scores[1]"}, /* T3 */
        {.merges = no_space,
         .n_merges = 1,
         .want = CAIRN_ECORRUPT,
         .says = "tokenizer.ggml.merges[0]"}, /* T4 */
        {.merges = unknown_part,
         .n_merges = 2,
         .want = CAIRN_ECORRUPT,
         .says = "tokenizer.ggml.merges[1]"}, /* T4 */
        {.merges = unknown_whole,
         .n_merges = 1,
         .want = CAIRN_ECORRUPT,
         .says = "tokenizer.ggml.merges[0]"}, /* T4 */
        {.merges = empty_part,
         .n_merges = 1,
         .want = CAIRN_ECORRUPT,
         .says = "tokenizer.ggml.merges[0]"}, /* T4 */
        {.merges = control,
         .n_merges = 1,
         .want = CAIRN_ECORRUPT,
         .says = "tokenizer.ggml.merges[0]"}, /* T4 */
        {.eos = 13,                            .want = CAIRN_ECORRUPT,                                               .says = "tokenizer.ggml.eos_token_id = 13 of 13"                                                                               }, /* T5 */
        {.eos = 0x80000000,                        .want = CAIRN_ECORRUPT,                                                        .says = "special tokens are in the vocabulary"                                                                                           }, /* T5 */
        {.model = "llama",
         .tokens = bad_byte,
         .n_tokens = 4,
         .types = four_types,
         .n_types = 4,
         .scores = four_scores,
         .n_scores = 4,
         .eos = 2,
         .want = CAIRN_ECORRUPT,
         .says = "tokenizer.ggml.tokens[3]"}, /* T6 */
        {.model = "llama",
         .tokens = short_byte,
         .n_tokens = 4,
         .types = four_types,
         .n_types = 4,
         .scores = four_scores,
         .n_scores = 4,
         .eos = 2,
         .want = CAIRN_ECORRUPT,
         .says = "byte tokens read <0xNN>"}, /* T6 */
        {.model = "bert",
         .tokens = no_unk,
         .n_tokens = 3,
         .types = no_unk_types,
         .n_types = 3,
         .eos = 1,
         .want = CAIRN_ECORRUPT,
         .says = "[UNK], [CLS] and [SEP]"}, /* T7 */
        {.eos = 10,                      .want = CAIRN_OK,                                                         .says = ""                                                                                            },
        {.eos = UINT32_MAX,                                 .want = CAIRN_OK,                                               .says = ""                                                                               }, /* T5: as files say "none" */
    };
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        const struct vocab_spec *s = &specs[i];
        TEST_WHY;
        struct cairn_buf b;
        struct tokenizer *t;
        bool spm = s->model && strcmp(s->model, "llama") == 0;
        size_t n_tokens = s->tokens ? s->n_tokens : spm ? TINY_SPM_TOKENS : TINY_BPE_TOKENS;
        cairn_buf_init(&b, 0);
        w_header(&b, 0, 7);
        w_kv_string(&b, "tokenizer.ggml.model", s->model ? s->model : "gpt2");
        w_kv_string(&b, "tokenizer.ggml.pre", s->pre ? s->pre : "qwen2");
        w_kv_strings(&b, "tokenizer.ggml.tokens",
                     s->tokens ? s->tokens
                     : spm     ? tiny_spm_tokens
                               : tiny_bpe_tokens,
                     n_tokens);
        w_kv_i32s(&b, "tokenizer.ggml.token_type",
                  s->types ? s->types
                  : spm    ? tiny_spm_types
                           : tiny_bpe_types,
                  s->n_types ? s->n_types : n_tokens);
        w_kv_f32s(&b, "tokenizer.ggml.scores", s->scores ? s->scores : tiny_spm_scores,
                  s->n_scores ? s->n_scores : TINY_SPM_TOKENS);
        w_kv_strings(&b, "tokenizer.ggml.merges", s->merges ? s->merges : tiny_bpe_merges,
                     s->merges ? s->n_merges : TINY_BPE_MERGES);
        w_kv_u32(&b, "tokenizer.ggml.eos_token_id", s->eos ? s->eos : 10);
        enum cairn_err err = build(&b, &t, &why);
        if (err != s->want || !strstr(why.text, s->says))
            print_error("case %zu (%s): %s: %s\n", i, s->says, cairn_err_name(err), why.text);
        CHECK(err == s->want && strstr(why.text, s->says) && !t == (err != CAIRN_OK));
        tokenizer_close(t);
        cairn_buf_release(&b);
    }
}

static void a_word_list_without_its_special_tokens_is_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct tokenizer *t;
    CHECK_ERR(tokenizer_from_wordpiece_bytes(&t, "a\nb\n", 4, true, &why), CAIRN_ECORRUPT);
    CHECK_ERR(tokenizer_from_wordpiece_bytes(&t, "", 0, true, &why), CAIRN_ECORRUPT);
    CHECK_ERR(tokenizer_from_wordpiece(&t, "/nonexistent/vocab.txt", true, &why), CAIRN_ENOTFOUND);
    /* Windows line ends and a last line without one */
    CHECK_OK(tokenizer_from_wordpiece_bytes(&t, "[UNK]\r\n[CLS]\r\n[SEP]\r\nhe", 23, true, &why));
    IDS(t, "he", 0, 3);
    tokenizer_close(t);
    tokenizer_close(NULL);
}

static void running_out_of_memory_is_an_error_each_time(void **state)
{
    UNUSED_STATE(state);
    struct tokenizer *ts[] = {tiny_bpe("qwen2"), tiny_spm(), tiny_wordpiece(true)};
    static const char text[] = "ab abc abababababababababababababababababababababababababab he <|im_end|> ab";
    for (size_t k = 0; k < 3; k++) {
        for (uint64_t n = 1;; n++) {
            TEST_WHY;
            int32_t *ids = NULL;
            size_t n_ids;
            cairn_alloc_fail_after(n, false);
            enum cairn_err err = tokenizer_encode(ts[k], cairn_str_of(text), 3, &ids, &n_ids, &why);
            cairn_alloc_fail_after(0, false);
            cairn_free(ids);
            if (err == CAIRN_OK) {
                CHECK_GE(n, 2);
                break;
            }
            CHECK_I64_EQ(err, CAIRN_ENOMEM);
        }
        tokenizer_close(ts[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(bpe_merges_lowest_rank_first),
        TEST(long_words_merge_as_short_ones),
        TEST(text_never_becomes_a_control_token),
        TEST(the_unknown_token_steers_nothing),
        TEST(no_merge_forms_what_steers_a_conversation),
        TEST(special_tokens_are_found_when_asked_for),
        TEST(sentencepiece_merges_by_score_and_falls_back_to_bytes),
        TEST(wordpiece_normalises_as_bert),
        TEST(any_bytes_are_accepted),
        TEST(a_long_run_is_cheap),
        TEST(each_vocabulary_rule_is_kept),
        TEST(a_word_list_without_its_special_tokens_is_refused),
        TEST(running_out_of_memory_is_an_error_each_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
