/* Token ids against reference implementations: 2,000 generated lines in eleven scripts, real text in five
 * languages, and the lists that come with public vocabularies. reference.py says where the *.ids files come
 * from. */
#include "check.h"

#include <cairn/model.h>
#include <jansson.h>

#define HERE "tests/golden/tokenizer/"

static uint64_t fnv1a(const int32_t *ids, size_t n)
{
    const uint8_t *p = (const uint8_t *)ids;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n * sizeof *ids; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}

static struct tokenizer *open_tokenizer(const char *path)
{
    TEST_WHY;
    struct tokenizer *t;
    size_t len = strlen(path);
    if (len > 4 && strcmp(path + len - 4, ".txt") == 0) {
        CHECK_OK(tokenizer_from_wordpiece(&t, path, true, &why));
        return t;
    }
    struct model_file *f;
    CHECK_OK(model_file_open(&f, path, &why));
    CHECK_OK(tokenizer_from_gguf(&t, f, &why));
    model_file_close(f); /* the tokenizer keeps nothing of it */
    return t;
}

/* One line of an .ids file: count, hash, and for the first lines the ids. Returns the start of the next. */
static const char *check_line(const char *want, const struct tokenizer *t, struct cairn_str text, size_t line,
                              const char *name)
{
    TEST_WHY;
    int32_t *ids;
    size_t n;
    char *end;
    CHECK_OK(tokenizer_encode(t, text, TOKENIZE_PLAIN, &ids, &n, &why));
    size_t want_n = strtoul(want, &end, 10);
    uint64_t want_hash = strtoull(end, &end, 16);
    for (size_t i = 0; *end == ' '; i++) {
        long id = strtol(end, &end, 10);
        if (i >= n || ids[i] != id) {
            print_error("%s: line %zu: token %zu is %d, want %ld\n", name, line, i, i < n ? ids[i] : -1, id);
            fail();
        }
    }
    if (n != want_n || fnv1a(ids, n) != want_hash) {
        print_error("%s: line %zu: %zu tokens, want %zu; or other ids\n", name, line, n, want_n);
        fail();
    }
    /* the pieces say the text again, where the algorithm loses nothing and the text was valid UTF-8 */
    if (strcmp(tokenizer_kind(t), "wordpiece") != 0) {
        struct cairn_buf b;
        cairn_buf_init(&b, 0);
        CHECK_OK(tokenizer_decode(t, ids, n, &b, &why));
        CHECK(b.len == text.len && memcmp(b.bytes ? b.bytes : "", text.p, text.len) == 0);
        cairn_buf_release(&b);
    }
    for (size_t i = 0; i < n; i++)
        CHECK(!tokenizer_is_control(t, ids[i]));
    cairn_free(ids);
    CHECK(*end == '\n');
    return end + 1;
}

static void check_lines(const char *model_path, const char *ids_name)
{
    TEST_WHY;
    if (!model_path)
        skip();
    char *lines, *want, *ids_path = NULL;
    size_t len, want_len, n = 0;
    CHECK(asprintf(&ids_path, HERE "%s.ids", ids_name) > 0);
    CHECK_OK(cairn_read_file(&lines, &len, HERE "lines.bin", 1 << 24, &why));
    CHECK_OK(cairn_read_file(&want, &want_len, ids_path, 1 << 24, &why));
    struct tokenizer *t = open_tokenizer(model_path);
    const char *at = want;
    for (const char *p = lines, *end; p < lines + len; p = end + 1, n++) {
        end = memchr(p, 0, (size_t)(lines + len - p));
        CHECK(end);
        at = check_line(at, t, (struct cairn_str){p, (size_t)(end - p)}, n, ids_name);
    }
    CHECK_U64_EQ(n, 2000);
    CHECK(at == want + want_len);
    tokenizer_close(t);
    cairn_free(lines);
    cairn_free(want);
    free(ids_path);
}

static void check_xquad(const char *model_path, const char *ids_name)
{
    static const char *const languages[] = {"ar", "de", "en", "es", "zh"}; /* as reference.py reads them */
    TEST_WHY;
    char *want, *ids_path = NULL;
    size_t want_len, n = 0;
    if (!model_path || !test_shared_file("xquad/xquad.ar.jsonl"))
        skip();
    CHECK(asprintf(&ids_path, HERE "xquad-%s.ids", ids_name) > 0);
    CHECK_OK(cairn_read_file(&want, &want_len, ids_path, 1 << 24, &why));
    struct tokenizer *t = open_tokenizer(model_path);
    const char *at = want;
    for (size_t k = 0; k < 5; k++) {
        char name[64];
        snprintf(name, sizeof name, "xquad/xquad.%s.jsonl", languages[k]);
        FILE *f = fopen(test_shared_file(name), "r");
        CHECK(f);
        char *line = NULL;
        size_t cap = 0;
        for (size_t i = 0; getline(&line, &cap, f) > 0; i++) {
            if (i % 8)
                continue;
            json_t *o = json_loads(line, 0, NULL);
            static const char *const keys[] = {"question", "passage"};
            for (size_t c = 0; c < 2; c++, n++) {
                const json_t *s = json_object_get(o, keys[c]);
                CHECK(json_is_string(s));
                at = check_line(at, t, (struct cairn_str){json_string_value(s), json_string_length(s)}, n,
                                ids_path);
            }
            json_decref(o);
        }
        free(line);
        fclose(f);
    }
    CHECK_U64_EQ(n, 620);
    CHECK(at == want + want_len);
    tokenizer_close(t);
    cairn_free(want);
    free(ids_path);
}

#define SMOLLM test_model_file("smollm2-135m-instruct-q4_1", "model.gguf")
#define VOCAB test_model_file("all-minilm-l6-v2", "vocab.txt")
static const char *qwen2_file(void)
{
    const char *path = test_model_file("qwen2.5-coder-1.5b-instruct-q4_k_m", "model.gguf");
    return path ? path : test_model_file("qwen2.5-coder-0.5b-instruct-q4_k_m", "model.gguf");
}

static void qwen2_lines_as_llama_cpp(void **state)
{
    UNUSED_STATE(state);
    check_lines(qwen2_file(), "qwen2");
}
static void smollm_lines_as_llama_cpp(void **state)
{
    UNUSED_STATE(state);
    check_lines(SMOLLM, "smollm");
}
static void wordpiece_lines_as_hugging_face(void **state)
{
    UNUSED_STATE(state);
    check_lines(VOCAB, "wordpiece");
}
static void wordpiece_of_gguf_is_the_same(void **state)
{
    UNUSED_STATE(state);
    check_lines(test_shared_file("tiny-models/vocab-bert-bge.gguf"), "wordpiece");
}
static void spm_lines_as_sentencepiece(void **state)
{
    UNUSED_STATE(state);
    check_lines(test_shared_file("tiny-models/vocab-llama-spm.gguf"), "spm");
}
static void qwen2_real_text(void **state)
{
    UNUSED_STATE(state);
    check_xquad(qwen2_file(), "qwen2");
}
static void smollm_real_text(void **state)
{
    UNUSED_STATE(state);
    check_xquad(SMOLLM, "smollm");
}
static void wordpiece_real_text(void **state)
{
    UNUSED_STATE(state);
    check_xquad(VOCAB, "wordpiece");
}

/* NAME.inp: texts separated by a line; NAME.out: a line of ids each. */
static void check_published(const char *name)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    TEST_WHY;
    char file[96], *texts, *want;
    size_t len, want_len, n = 0;
    snprintf(file, sizeof file, "tiny-models/%s.inp", name);
    const char *path = test_shared_file(file);
    if (!path)
        skip();
    CHECK_OK(cairn_read_file(&texts, &len, path, 1 << 20, &why));
    snprintf(file, sizeof file, "tiny-models/%s.out", name);
    CHECK_OK(cairn_read_file(&want, &want_len, test_shared_file(file), 1 << 20, &why));
    snprintf(file, sizeof file, "tiny-models/%s.gguf", name);
    struct tokenizer *t = open_tokenizer(test_shared_file(file));
    const char *p = texts, *at = want;
    for (bool last = false; !last; n++) {
        const char *end = memmem(p, (size_t)(texts + len - p), mark, sizeof mark - 1);
        last = !end;
        if (last)
            end = texts + len;
        int32_t *ids;
        size_t n_ids, i = 0;
        CHECK_OK(tokenizer_encode(t, (struct cairn_str){p, (size_t)(end - p)}, TOKENIZE_PLAIN, &ids, &n_ids,
                                  &why));
        for (; *at && *at != '\n'; i++) {
            while (*at == ' ')
                at++;
            if (!*at || *at == '\n')
                break;
            char *next;
            long id = strtol(at, &next, 10);
            CHECK(next > at && i < n_ids);
            CHECK_I64_EQ(ids[i], id);
            at = next;
        }
        CHECK_U64_EQ(n_ids, i);
        at += *at == '\n';
        cairn_free(ids);
        p = end + sizeof mark - 1;
    }
    CHECK_U64_EQ(n, 47);
    tokenizer_close(t);
    cairn_free(texts);
    cairn_free(want);
}

static void published_wordpiece_list(void **state)
{
    UNUSED_STATE(state);
    check_published("vocab-bert-bge");
}
static void published_spm_list(void **state)
{
    UNUSED_STATE(state);
    check_published("vocab-llama-spm");
}

/* A conversation as chat_encode gives it, against the reference's ids of its text with special tokens on
 * (chat.bin). */
static void check_chat(const char *model_path, const char *ids_name)
{
    const struct chat_message m[] = {
        {"system",    cairn_str_of("You answer from the sources.")          },
        {"user",      cairn_str_of("\n[1] Gr\xc3\xb6\xc3\x9f"
                              "e: 12 m.\n\nHow tall is it?")},
        {"assistant", cairn_str_of("It is 12 m tall [1].")                  },
        {"user",      cairn_str_of(" And in feet?")                         },
    };
    TEST_WHY;
    if (!model_path)
        skip();
    char *want, *end, *path = NULL;
    size_t want_len, n;
    int32_t *ids;
    CHECK(asprintf(&path, HERE "chat-%s.ids", ids_name) > 0);
    CHECK_OK(cairn_read_file(&want, &want_len, path, 1 << 20, &why));
    struct tokenizer *t = open_tokenizer(model_path);
    CHECK_OK(chat_encode(t, CHAT_CHATML, m, 4, &ids, &n, &why));
    CHECK_U64_EQ(n, strtoul(want, &end, 10));
    CHECK(fnv1a(ids, n) == strtoull(end, &end, 16));
    cairn_free(ids);
    cairn_free(want);
    free(path);
    tokenizer_close(t);
}

static void qwen2_conversation(void **state)
{
    UNUSED_STATE(state);
    check_chat(qwen2_file(), "qwen2");
}
static void smollm_conversation(void **state)
{
    UNUSED_STATE(state);
    check_chat(SMOLLM, "smollm");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(qwen2_lines_as_llama_cpp),
        TEST(smollm_lines_as_llama_cpp),
        TEST(wordpiece_lines_as_hugging_face),
        TEST(wordpiece_of_gguf_is_the_same),
        TEST(spm_lines_as_sentencepiece),
        TEST(qwen2_real_text),
        TEST(smollm_real_text),
        TEST(wordpiece_real_text),
        TEST(published_wordpiece_list),
        TEST(published_spm_list),
        TEST(qwen2_conversation),
        TEST(smollm_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
