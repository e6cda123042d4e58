/* test_model_need.c - memory promises: opening a decoder reads no weights, a step allocates nothing, and a
 * process that has computed with all of its context has taken what was forecast. Models are zeros in sparse
 * files: as large as wanted, written in no time. Every allocation of the process is counted, by whoever it is
 * made, because the C library's own entry points are replaced here. */
#include "check.h"
#include "gguf_writer.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define COUNTS_MEMORY 0 /* the sanitizer's own allocator and shadow are in every number */
#else
#define COUNTS_MEMORY 1
#endif

static atomic_uint_fast64_t n_allocated;
#if COUNTS_MEMORY
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void *malloc(size_t n)
{
    atomic_fetch_add(&n_allocated, 1);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size)
{
    atomic_fetch_add(&n_allocated, 1);
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n)
{
    atomic_fetch_add(&n_allocated, 1);
    return __libc_realloc(p, n);
}
int posix_memalign(void **p, size_t align, size_t n)
{
    atomic_fetch_add(&n_allocated, 1);
    *p = __libc_memalign(align, n);
    return *p ? 0 : 12;
}
void *aligned_alloc(size_t align, size_t n)
{
    atomic_fetch_add(&n_allocated, 1);
    return __libc_memalign(align, n);
}
#endif

static bool skipped(void)
{
    if (!COUNTS_MEMORY)
        print_message("SKIP: memory cannot be counted under a sanitizer\n");
    return !COUNTS_MEMORY;
}

/* A llama of F16 zeros, about 40 MB a layer. */
enum { EMBD = 1024, HEADS = 16, KV_HEADS = 4, FF = 4096, VOCAB = 4096, LAYERS = 5, CONTEXT = 512 };
enum { KV_DIM = EMBD / HEADS * KV_HEADS };

static uint64_t tensor(struct cairn_buf *b, const char *name, uint64_t k, uint64_t n, uint64_t at)
{
    uint64_t dims[2] = {k, n}, bytes = k * (n > 1 ? n * 2 : 4);
    w_tensor(b, name, n > 1 ? 2 : 1, dims, n > 1 ? TENSOR_F16 : TENSOR_F32, at);
    return at + (bytes + 31) / 32 * 32;
}

static void sparse_model(const char *path)
{
    static const struct {
        const char *name;
        uint64_t k, n;
    } each[] = {
        {"attn_norm",   EMBD, 1     },
        {"attn_q",      EMBD, EMBD  },
        {"attn_k",      EMBD, KV_DIM},
        {"attn_v",      EMBD, KV_DIM},
        {"attn_output", EMBD, EMBD  },
        {"ffn_norm",    EMBD, 1     },
        {"ffn_gate",    EMBD, FF    },
        {"ffn_up",      EMBD, FF    },
        {"ffn_down",    FF,   EMBD  },
    };
    struct cairn_buf b;
    uint64_t at = 0;
    cairn_buf_init(&b, 0);
    w_header(&b, 2 + LAYERS * 9, 9);
    w_kv_string(&b, "general.architecture", "llama");
    w_kv_u32(&b, "llama.block_count", LAYERS);
    w_kv_u32(&b, "llama.context_length", CONTEXT);
    w_kv_u32(&b, "llama.embedding_length", EMBD);
    w_kv_u32(&b, "llama.feed_forward_length", FF);
    w_kv_u32(&b, "llama.attention.head_count", HEADS);
    w_kv_u32(&b, "llama.attention.head_count_kv", KV_HEADS);
    w_kv_f32(&b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    w_kv_string(&b, "tokenizer.ggml.model", "no_vocab");
    at = tensor(&b, "token_embd.weight", EMBD, VOCAB, at);
    at = tensor(&b, "output_norm.weight", EMBD, 1, at);
    for (int i = 0; i < LAYERS; i++)
        for (size_t j = 0; j < sizeof each / sizeof each[0]; j++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, each[j].name);
            at = tensor(&b, name, each[j].k, each[j].n, at);
        }
    w_pad(&b, 32);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(b.bytes, 1, b.len, f) == b.len);
    CHECK_I64_EQ(ftruncate(fileno(f), (off_t)(b.len + at)), 0);
    CHECK_I64_EQ(fclose(f), 0);
    cairn_buf_release(&b);
}

struct fixture {
    char *dir, path[4200];
};
static struct fixture fixture_new(void)
{
    struct fixture f = {.dir = test_tmpdir()};
    snprintf(f.path, sizeof f.path, "%s/zeros.gguf", f.dir);
    sparse_model(f.path);
    return f;
}

static double status_kb(const char *field)
{
    char line[256];
    double kb = -1;
    FILE *f = fopen("/proc/self/status", "re");
    CHECK(f);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, field, strlen(field)) == 0)
            kb = strtod(line + strlen(field), NULL);
    (void)fclose(f);
    CHECK(kb >= 0);
    return kb;
}

static long faults(void)
{
    struct rusage r;
    CHECK_I64_EQ(getrusage(RUSAGE_SELF, &r), 0);
    return r.ru_minflt + r.ru_majflt;
}

/* Names, hyper-parameters and norms are read: a few pages. The weights have 40,000. */
static void opening_a_decoder_reads_no_weights(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct decoder *d;
    if (skipped())
        return;
    struct fixture f = fixture_new();
    struct stat st;
    CHECK_I64_EQ(stat(f.path, &st), 0);
    CHECK_GE(st.st_size, 150e6);
    struct model_opts opts = {.n_ctx = 16};
    double file_kb = status_kb("RssFile:");
    long before = faults();
    CHECK_OK(decoder_open_file(&d, f.path, &opts, &why));
    long pages = (long)sysconf(_SC_PAGESIZE), taken = faults() - before;
    double grown = (status_kb("RssFile:") - file_kb) * 1024;
    print_message("%ld faults, %.0f bytes of files in memory, of a file of %.0f\n", taken, grown,
                  (double)st.st_size);
    CHECK_LE(taken, st.st_size / pages / 20);
    CHECK_LE(grown, (double)st.st_size / 20);
    decoder_close(d);
    test_rmdir(f.dir);
}

static void a_decoder_step_allocates_nothing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static float logits[16 * VOCAB];
    int32_t ids[300];
    struct cairn_pool *pool;
    struct decoder *d;
    struct decoder_seq *s;
    if (skipped())
        return;
    struct fixture f = fixture_new();
    for (int i = 0; i < 300; i++)
        ids[i] = i % VOCAB;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    struct model_opts opts = {.pool = pool};
    CHECK_OK(decoder_open_file(&d, f.path, &opts, &why));
    CHECK_OK(decoder_seq_open(&s, d, 0, &why));
    CHECK_GE(atomic_load(&n_allocated), 10); /* the counter counts */
    static const size_t steps[] = {300, 1, 1, 4, 16, 9};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        uint64_t before = atomic_load(&n_allocated);
        CHECK_OK(decoder_eval(s, ids, steps[i], steps[i] <= 16, logits, NULL, &why));
        CHECK_U64_EQ(atomic_load(&n_allocated) - before, 0);
    }
    struct decoder_seq *other;
    CHECK_OK(decoder_seq_open(&other, d, 0, &why));
    struct decoder_item items[] = {
        {.seq = s,       .tokens = ids, .n = 1,        .n_logits = 1 },
        { .seq = other, .tokens = ids,       .n = 70, .n_logits = 1, .prompt = true},
    };
    uint64_t before = atomic_load(&n_allocated);
    CHECK_OK(decoder_step(d, items, 2, logits, &why));
    CHECK_U64_EQ(atomic_load(&n_allocated) - before, 0);
    decoder_seq_close(other);
    decoder_seq_close(s);
    decoder_close(d);
    cairn_pool_close(pool);
    test_rmdir(f.dir);
}

/* ---- encoder ---- */

enum { DIM = 32, ENC_FF = 64, WORDS = 8, POSITIONS = 256 };

static void put_tensor(struct cairn_buf *b, const char *name, size_t n, size_t k, size_t *at)
{
    char shape[48];
    if (n)
        snprintf(shape, sizeof shape, "[%zu,%zu]", n, k);
    else
        snprintf(shape, sizeof shape, "[%zu]", k);
    size_t bytes = (n ? n : 1) * k * 4;
    cairn_buf_printf(b, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                     b->len > 1 ? "," : "", name, shape, *at, *at + bytes);
    *at += bytes;
}
static void put_pair(struct cairn_buf *b, const char *name, size_t n, size_t k, size_t *at)
{
    char full[128];
    snprintf(full, sizeof full, "%s.weight", name);
    put_tensor(b, full, n, k, at);
    snprintf(full, sizeof full, "%s.bias", name);
    put_tensor(b, full, 0, n ? n : k, at);
}

static struct encoder *tiny_encoder(const char *dir, struct cairn_pool *pool)
{
    TEST_WHY;
    static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n";
    char path[4200], words[4200], name[] = "tiny";
    struct cairn_buf h, b;
    size_t at = 0;
    struct encoder *e;
    cairn_buf_init(&h, 0);
    cairn_buf_init(&b, 0);
    cairn_buf_puts(&h, "{");
    put_tensor(&h, "embeddings.word_embeddings.weight", WORDS, DIM, &at);
    put_tensor(&h, "embeddings.position_embeddings.weight", POSITIONS, DIM, &at);
    put_tensor(&h, "embeddings.token_type_embeddings.weight", 2, DIM, &at);
    put_pair(&h, "embeddings.LayerNorm", 0, DIM, &at);
    put_pair(&h, "encoder.layer.0.attention.self.query", DIM, DIM, &at);
    put_pair(&h, "encoder.layer.0.attention.self.key", DIM, DIM, &at);
    put_pair(&h, "encoder.layer.0.attention.self.value", DIM, DIM, &at);
    put_pair(&h, "encoder.layer.0.attention.output.dense", DIM, DIM, &at);
    put_pair(&h, "encoder.layer.0.attention.output.LayerNorm", 0, DIM, &at);
    put_pair(&h, "encoder.layer.0.intermediate.dense", ENC_FF, DIM, &at);
    put_pair(&h, "encoder.layer.0.output.dense", DIM, ENC_FF, &at);
    put_pair(&h, "encoder.layer.0.output.LayerNorm", 0, DIM, &at);
    cairn_buf_puts(&h, "}");
    w_safetensors(&b, h.bytes, at);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    snprintf(words, sizeof words, "%s/vocab.txt", dir);
    CHECK_OK(cairn_write_file(path, b.bytes, b.len, &why));
    CHECK_OK(cairn_write_file(words, vocab, sizeof vocab - 1, &why));
    struct model_card card = {.name = name,
                              .path = path,
                              .vocab = words,
                              .role = MODEL_EMBEDDER,
                              .pooling = POOL_MEAN,
                              .n_head = 2};
    struct model_opts opts = {.pool = pool};
    CHECK_OK(encoder_open(&e, &card, &opts, &why));
    cairn_buf_release(&h);
    cairn_buf_release(&b);
    return e;
}

/* A call makes its lists once; the batches that it runs take nothing, however many they are. */
static void batches_of_an_encoder_allocate_nothing(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    enum { SEQS = 100, LEN = 100 };
    static int32_t ids[SEQS * LEN];
    static float hidden[SEQS * LEN * DIM];
    size_t lens[SEQS];
    struct cairn_pool *pool;
    if (skipped())
        return;
    char *dir = test_tmpdir();
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    struct encoder *e = tiny_encoder(dir, pool);
    for (int i = 0; i < SEQS; i++)
        lens[i] = LEN;
    for (int i = 0; i < SEQS * LEN; i++)
        ids[i] = i % WORDS;
    uint64_t start = atomic_load(&n_allocated);
    CHECK_OK(encoder_forward(e, ids, NULL, lens, 1, hidden, NULL, &why));
    uint64_t one = atomic_load(&n_allocated) - start;
    start = atomic_load(&n_allocated);
    CHECK_OK(encoder_forward(e, ids, NULL, lens, SEQS, hidden, NULL, &why));
    CHECK_U64_EQ(atomic_load(&n_allocated) - start, one);
    encoder_close(e);
    cairn_pool_close(pool);
    test_rmdir(dir);
}

/* ---- the forecast ---- */

/* In a child: fills all pages of keys and values, which are of two sequences, and writes how much its memory
 * grew at the most. Pages of the file count with the rest: all that the process has mapped and touched, as
 * the kernel's VmHWM has it. */
static void use_and_measure(const char *path, uint32_t n_ctx, int fd)
{
    TEST_WHY;
    struct cairn_pool *pool;
    struct decoder *d;
    struct decoder_seq *s[2];
    double start = status_kb("VmRSS:");
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    struct model_opts opts = {.pool = pool, .n_ctx = n_ctx};
    CHECK_OK(decoder_open_file(&d, path, &opts, &why));
    uint32_t n = decoder_n_ctx(d);
    int32_t *ids = calloc(n, sizeof *ids);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i % decoder_n_vocab(d));
    float *logits = calloc(decoder_n_vocab(d), sizeof *logits);
    CHECK(ids && logits);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(decoder_seq_open(&s[i], d, 0, &why));
        CHECK_OK(decoder_eval(s[i], ids, n - 1, false, NULL, NULL, &why));
        CHECK_OK(decoder_eval(s[i], ids, 1, false, logits, NULL, &why));
    }
    struct decoder_kv kv;
    decoder_kv_get(d, &kv);
    CHECK_U64_EQ(kv.n_free, 0);
    double grown = (status_kb("VmHWM:") - start) * 1024;
    CHECK_I64_EQ(write(fd, &grown, sizeof grown), sizeof grown);
    _exit(0);
}

static void check_forecast(const char *path, uint32_t n_ctx)
{
    TEST_WHY;
    int fd[2], status = 1;
    double grown = 0;
    CHECK_I64_EQ(pipe(fd), 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        use_and_measure(path, n_ctx, fd[1]);
    (void)close(fd[1]); /* a child that fails must not leave us waiting */
    struct cairn_pool *pool;
    struct model_file *f;
    struct model_need need;
    CHECK_OK(cairn_pool_open(&pool, 2, &why));
    struct model_opts opts = {.pool = pool, .n_ctx = n_ctx};
    CHECK_OK(model_file_open(&f, path, &why));
    CHECK_OK(model_need_of(&need, f, path, NULL, &opts, &why));
    model_file_close(f);
    cairn_pool_close(pool);
    CHECK_I64_EQ(read(fd[0], &grown, sizeof grown), sizeof grown);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    (void)close(fd[0]);
    double total = (double)(need.mapped + need.held + need.kv);
    print_message("forecast %.1f MB (file %.1f, held %.1f, keys and values %.1f), taken %.1f\n", total / 1e6,
                  (double)need.mapped / 1e6, (double)need.held / 1e6, (double)need.kv / 1e6, grown / 1e6);
    CHECK_NEAR(grown, total, 0.05 * total);
}

static void a_process_takes_what_was_forecast(void **state)
{
    UNUSED_STATE(state);
    if (skipped())
        return;
    struct fixture f = fixture_new();
    check_forecast(f.path, CONTEXT);
    test_rmdir(f.dir);
}

static void so_it_is_for_a_real_model_with_its_tokenizer(void **state)
{
    UNUSED_STATE(state);
    const char *path = skipped() ? NULL : test_model_file("smollm2-135m-instruct-q4_1", "model.gguf");
    if (path)
        check_forecast(path, 512);
}

static void what_cannot_be_said_is_said(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), path[4200];
    struct model_file *f;
    struct model_need need;
    struct model_opts opts = {0};
    encoder_close(tiny_encoder(dir, NULL));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK_OK(model_file_open(&f, path, &why));
    CHECK_ERR(model_need_of(&need, f, path, NULL, &opts, &why),
              COUNTS_MEMORY ? CAIRN_ESTATE : CAIRN_EUNSUPPORTED);
    model_file_close(f);
    static const char *const encoders[] = {"bert", "nomic-bert"};
    for (int i = 0; i < 2; i++) {
        struct cairn_buf b;
        cairn_buf_init(&b, 0);
        w_header(&b, 0, 1);
        w_kv_string(&b, "general.architecture", encoders[i]);
        CHECK_OK(model_file_parse(&f, b.bytes, b.len, &why));
        CHECK_ERR(model_need_of(&need, f, path, NULL, &opts, &why),
                  COUNTS_MEMORY ? CAIRN_ESTATE : CAIRN_EUNSUPPORTED);
        model_file_close(f);
        cairn_buf_release(&b);
    }
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(opening_a_decoder_reads_no_weights),           TEST(a_decoder_step_allocates_nothing),
        TEST(batches_of_an_encoder_allocate_nothing),       TEST(a_process_takes_what_was_forecast),
        TEST(so_it_is_for_a_real_model_with_its_tokenizer), TEST(what_cannot_be_said_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
