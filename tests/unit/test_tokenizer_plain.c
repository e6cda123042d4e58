/* The tokenizers' short cuts against the plain algorithms (tokenizer_plain.h), over vocabularies of random
 * merges: random texts that look for trouble, and the lines in eleven scripts of tests/golden. */
#include "check.h"
#include "gguf_writer.h"
#include "tokenizer_plain.h"

enum { MADE = 600, NAME_MAX_BYTES = 48, TOKENS_MAX = 1200 };

/* What random words and texts are made of; letters with and without case, digits, spaces of every kind,
 * marks. */
static const char *const parts[] = {"a",
                                    "b",
                                    "e",
                                    "s",
                                    "T",
                                    "re",
                                    "LL",
                                    "the",
                                    " ",
                                    " ",
                                    "  ",
                                    "\n",
                                    "\r\n",
                                    "\t",
                                    "'",
                                    "'s",
                                    "'Ve",
                                    "1",
                                    "23",
                                    "\xd9\xa3",
                                    ",",
                                    ".",
                                    "!!",
                                    "-",
                                    "\xc3\xa9",
                                    "\xd0\x96",
                                    "\xe4\xb8\xad",
                                    "\xe2\x96\x81",
                                    "\xe2\x80\x99",
                                    "\xc2\x85",
                                    "\xe3\x80\x80",
                                    "\xf0\x9f\x98\x80",
                                    "\xff",
                                    "\xe2\x96",
                                    "\x80",
                                    "<|im_end|>"};
enum { PARTS = sizeof parts / sizeof parts[0] };

struct vocabulary {
    char names[TOKENS_MAX][NAME_MAX_BYTES];
    const char *pointers[TOKENS_MAX];
    int32_t types[TOKENS_MAX];
    float scores[TOKENS_MAX];
    size_t n;
};

static bool has_name(const struct vocabulary *v, const char *name)
{
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->names[i], name) == 0)
            return true;
    return false;
}
static void add(struct vocabulary *v, const char *name, int32_t type, float score)
{
    CHECK(v->n < TOKENS_MAX && strlen(name) < NAME_MAX_BYTES);
    memcpy(v->names[v->n], name, strlen(name) + 1);
    v->pointers[v->n] = v->names[v->n];
    v->types[v->n] = type;
    v->scores[v->n++] = score;
}

static struct tokenizer *build(struct cairn_buf *b)
{
    TEST_WHY;
    struct model_file *f;
    struct tokenizer *t;
    CHECK_OK(model_file_parse(&f, b->bytes, b->len, &why));
    CHECK_OK(tokenizer_from_gguf(&t, f, &why));
    model_file_close(f);
    cairn_buf_release(b);
    return t;
}

/* All bytes but one, and random merges of what is there so far, so that many tokens are not what merging
 * their own bytes gives. */
static struct tokenizer *random_bpe(const char *pre, uint64_t *seed)
{
    struct vocabulary *v = calloc(1, sizeof *v);
    static char merges[MADE][2 * NAME_MAX_BYTES];
    const char *merge_pointers[MADE];
    size_t n_merges = 0, frequent = 0;
    char name[2 * NAME_MAX_BYTES];
    for (int pass = 0; pass < 2; pass++) /* those of the parts first: they shall merge */
        for (unsigned byte = 0; byte < 256; byte++) {
            bool in_parts = false;
            for (size_t i = 0; i < PARTS; i++)
                in_parts |= byte && strchr(parts[i], (int)byte);
            if (in_parts != (pass == 0) || byte == 'Q')
                continue;
            w_byte_name(byte, name);
            add(v, name, 1, 0);
            frequent += in_parts;
        }
    for (int round = 0; n_merges < MADE && round < 100 * MADE; round++) {
        size_t made = v->n - 255, k = frequent + made;
        size_t a = test_rand(seed) % k, b = test_rand(seed) % k;
        a = a < frequent ? a : a - frequent + 255;
        b = b < frequent ? b : b - frequent + 255;
        snprintf(name, sizeof name, "%s%s", v->names[a], v->names[b]);
        if (strlen(name) >= NAME_MAX_BYTES || (has_name(v, name) && test_rand(seed) % 4))
            continue;
        snprintf(merges[n_merges], sizeof merges[0], "%s %s", v->names[a], v->names[b]);
        merge_pointers[n_merges] = merges[n_merges];
        n_merges++;
        if (!has_name(v, name))
            add(v, name, 1, 0);
    }
    add(v, "<|im_end|>", 3, 0);
    struct cairn_buf out;
    cairn_buf_init(&out, 0);
    w_header(&out, 0, 5);
    w_kv_string(&out, "tokenizer.ggml.model", "gpt2");
    w_kv_string(&out, "tokenizer.ggml.pre", pre);
    w_kv_strings(&out, "tokenizer.ggml.tokens", v->pointers, v->n);
    w_kv_i32s(&out, "tokenizer.ggml.token_type", v->types, v->n);
    w_kv_strings(&out, "tokenizer.ggml.merges", merge_pointers, n_merges);
    free(v);
    return build(&out);
}

/* Pieces of one to four parts, spaces inside allowed when `across`; few different scores, so that many are
 * equal. */
static struct tokenizer *random_spm(bool across, uint64_t *seed)
{
    struct vocabulary *v = calloc(1, sizeof *v);
    char name[256];
    add(v, "<unk>", 2, 0);
    add(v, "<s>", 3, 0);
    add(v, "</s>", 3, 0);
    for (unsigned b = 0; b < 256; b += 1 + b % 2) { /* some bytes have no token */
        snprintf(name, sizeof name, "<0x%02X>", b);
        add(v, name, 6, 0);
    }
    while (v->n < MADE) {
        name[0] = 0;
        for (uint64_t n = 1 + test_rand(seed) % 4, i = 0; i < n; i++) {
            const char *part = parts[test_rand(seed) % PARTS];
            bool space = part[0] == ' ';
            if ((uint8_t)part[0] == 0xff || part[0] == '\x80' || !strcmp(part, "\xe2\x96") ||
                (space && i > 0 && !across))
                continue;
            strcat(name, space ? "\xe2\x96\x81" : part);
        }
        if (name[0] && strlen(name) < NAME_MAX_BYTES && !has_name(v, name))
            add(v, name, 1, -(float)(test_rand(seed) % 50));
    }
    struct cairn_buf out;
    cairn_buf_init(&out, 0);
    w_header(&out, 0, 5);
    w_kv_string(&out, "tokenizer.ggml.model", "llama");
    w_kv_strings(&out, "tokenizer.ggml.tokens", v->pointers, v->n);
    w_kv_i32s(&out, "tokenizer.ggml.token_type", v->types, v->n);
    w_kv_f32s(&out, "tokenizer.ggml.scores", v->scores, v->n);
    w_kv_bool(&out, "tokenizer.ggml.add_space_prefix", test_rand(seed) % 2);
    free(v);
    return build(&out);
}

static void check_text(const struct tokenizer *t, struct cairn_str text)
{
    TEST_WHY;
    struct plain want;
    int32_t *ids;
    size_t n, i = 0;
    if (!text.len)
        return;
    plain_encode(&want, t, text);
    CHECK_OK(tokenizer_encode(t, text, TOKENIZE_PLAIN, &ids, &n, &why));
    while (i < n && i < want.n_ids && ids[i] == want.ids[i])
        i++;
    if (i < n || n != want.n_ids) {
        print_error("%s: token %zu of %zu, want %zu, in '%.*s'\n", tokenizer_kind(t), i, n, want.n_ids,
                    (int)text.len, text.p);
        fail();
    }
    cairn_free(ids);
    plain_close(&want);
}

static void check_random_texts(const struct tokenizer *t, uint64_t *seed)
{
    char text[2048];
    for (int round = 0; round < 300; round++) {
        size_t len = 0, words = 1 + test_rand(seed) % (round % 50 == 0 ? 400 : 40),
               few = 1 + test_rand(seed) % PARTS; /* few different parts: words come again */
        for (size_t i = 0; i < words; i++) {
            const char *part = parts[(test_rand(seed) % few * 7 + few) % PARTS];
            if (len + strlen(part) > sizeof text)
                break;
            memcpy(text + len, part, strlen(part));
            len += strlen(part);
        }
        check_text(t, (struct cairn_str){text, len});
    }
}

static void check_lines(const struct tokenizer *t)
{
    TEST_WHY;
    char *lines;
    size_t len, n = 0;
    CHECK_OK(cairn_read_file(&lines, &len, "tests/golden/tokenizer/lines.bin", 1 << 24, &why));
    for (const char *p = lines, *end; p < lines + len; p = end + 1, n++) {
        end = memchr(p, 0, (size_t)(lines + len - p));
        if (n % 4 == 0)
            check_text(t, (struct cairn_str){p, (size_t)(end - p)});
    }
    CHECK_U64_EQ(n, 2000);
    cairn_free(lines);
}

static void bpe_short_cuts_change_no_id(void **state)
{
    UNUSED_STATE(state);
    static const char *const pres[] = {"gpt-2", "smollm", "qwen2", "llama-bpe"};
    uint64_t seed = 11;
    for (size_t i = 0; i < 12; i++) {
        struct tokenizer *t = random_bpe(pres[i % 4], &seed);
        check_random_texts(t, &seed);
        if (i < 4)
            check_lines(t);
        tokenizer_close(t);
    }
}

static void spm_short_cuts_change_no_id(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 12;
    for (size_t i = 0; i < 12; i++) {
        struct tokenizer *t = random_spm(i % 2, &seed);
        check_random_texts(t, &seed);
        if (i < 2)
            check_lines(t);
        tokenizer_close(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(bpe_short_cuts_change_no_id),
        TEST(spm_short_cuts_change_no_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
