/* test_cuda.c - a module of device.h against the scalar operations and against forwards in double written
 * here: every weight type, shapes of heads, windows, splits and batches, the choice of tokens, the encoder.
 *
 * The module is argv[1], or what device_find() finds. Over the host emulation (tests/cuda_host) each thing is
 * done once more with threads and blocks in other orders, where a missing barrier shows as another result,
 * and with a device that fails. Over a real one the same tests say whether the hardware agrees; without
 * either: SKIP. */
#include "check.h"
#include "device_host.h"
#include "ops.h"

#include <cairn/generator.h>
#include <dlfcn.h>
#include <math.h>

static const struct device_api *api;
static int (*door_product)(const struct device_matrix *m, const float *x, uint32_t rows, int many,
                           const float *bias, int gelu, int add, float *y, uint32_t ld);
static int (*door_choose)(const float *logits, uint32_t n_vocab, uint32_t n_valid,
                          const struct device_choice *choices, uint32_t rows, int32_t *chosen);
/* NULL on a real device. */
static void (*host_order)(unsigned);
static void (*host_memory)(size_t);
static void (*host_fail_after)(unsigned long);
static size_t (*host_allocated)(void);
static unsigned long (*host_launches)(void), (*host_allocations)(void);

#define OK(call)                                                                                             \
    do {                                                                                                     \
        int e_ = (call);                                                                                     \
        if (e_) {                                                                                            \
            print_error("%s:%d: %s = %d: %s\n", __FILE__, __LINE__, #call, e_, api->error());                \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)

static float uniform(uint64_t *seed) { return (float)((double)(test_rand(seed) >> 11) * 0x1p-52 - 1.0); }
static float *floats(size_t n, float scale, float around, uint64_t *seed)
{
    float *f = malloc((n ? n : 1) * sizeof *f);
    for (size_t i = 0; i < n; i++)
        f[i] = around + scale * uniform(seed);
    return f;
}
static double distance(const float *a, const float *b, size_t n)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / (size > 0 ? size : 1));
}

/* ---- products
 * ---------------------------------------------------------------------------------------------------- */

static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0,
                                         TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q8_0,
                                         TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
enum { N_TYPES = sizeof types / sizeof types[0], N = 45, LD = 48 };
static bool is_float(enum tensor_type t) { return t == TENSOR_F32 || t == TENSOR_F16 || t == TENSOR_BF16; }

/* Random bytes are random weights, but for numbers in half precision and float: those give weights of about
 * 0.06. */
static uint8_t *weights(enum tensor_type t, size_t n, size_t k, uint64_t *seed)
{
    static const uint16_t scales[][2] = {
        [TENSOR_F16] = {0x2800, 0     },
          [TENSOR_BF16] = {0x3d00, 0     },
          [TENSOR_Q4_0] = {0x2000, 0     },
        [TENSOR_Q4_1] = {0x2000, 0xab80},
          [TENSOR_Q5_0] = {0x1c00, 0     },
          [TENSOR_Q5_1] = {0x1c00, 0xabc0},
        [TENSOR_Q8_0] = {0x1000, 0     },
          [TENSOR_Q4_K] = {0x0c00, 0x1800},
          [TENSOR_Q5_K] = {0x0800, 0x1800},
        [TENSOR_Q6_K] = {0x0400, 0     },
    };
    size_t total = tensor_type_bytes(t, k) * n,
           block = is_float(t)        ? 1
                   : t >= TENSOR_Q4_K ? 256
                                      : 32,
           size = tensor_type_bytes(t, block);
    CHECK(total > 0);
    uint8_t *w = malloc(total);
    for (size_t i = 0; i < total; i++)
        w[i] = (uint8_t)test_rand(seed);
    for (size_t at = 0; at < total; at += size) {
        float f = uniform(seed) * 0.1f;
        if (t == TENSOR_F32) {
            memcpy(w + at, &f, 4);
            continue;
        }
        uint16_t h = (uint16_t)(scales[t][0] + test_rand(seed) % 0x80 +
                                (is_float(t) && test_rand(seed) % 2 ? 0x8000 : 0));
        memcpy(w + at + (t == TENSOR_Q6_K ? 208 : 0), &h, 2);
        if (scales[t][1])
            memcpy(w + at + 2, &scales[t][1], 2);
    }
    return w;
}

static void products_agree(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const uint32_t counts[] = {1, 2, 3, 7, 13, 40};
    uint64_t seed = 3;
    for (size_t t = 0; t < N_TYPES; t++)
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            uint32_t rows = counts[c], k = is_float(types[t])        ? 301 - (uint32_t)c
                                           : types[t] >= TENSOR_Q4_K ? 512
                                                                     : 32 * (3 + 7 * (uint32_t)c % 17);
            uint8_t *bytes = weights(types[t], N, k, &seed);
            float *x = floats((size_t)rows * k, 1, 0, &seed), *bias = floats(N, 1, 0, &seed);
            for (size_t i = 5; i < (size_t)rows * k; i += 97)
                x[i] *= 30;
            struct weight w = {.type = types[t],
                               .n = N,
                               .k = k,
                               .row_bytes = tensor_type_bytes(types[t], k),
                               .bytes = bytes};
            struct device_matrix m = {.type = (uint32_t)types[t], .n = N, .k = k, .bytes = bytes};
            struct compute scalar;
            CHECK_OK(
                compute_init(&scalar, &(struct model_opts){.backend = BACKEND_SCALAR}, rows, k, 16, &why));
            for (int mode = 0; mode < 3; mode++)
                for (int many = 0; many < 2; many++) {
                    static float want[40 * LD], got[40 * LD];
                    if (mode == 1 && !many) /* GELU belongs to the encoder */
                        continue;
                    for (size_t i = 0; i < (size_t)rows * LD; i++)
                        want[i] = got[i] = i % LD < N ? (float)(i % 7) : 12345.0f;
                    ops_matmul(&scalar, x, rows,
                               &(struct matmul_job){.w = &w,
                                                    .bias = mode ? bias : NULL,
                                                    .y = want,
                                                    .ld = LD,
                                                    .act = mode == 1 ? ACT_GELU : ACT_NONE,
                                                    .add = mode == 2},
                               1);
                    OK(door_product(&m, x, rows, many, mode ? bias : NULL, mode == 1, mode == 2, got, LD));
                    double bound = many ? 2e-3 : is_float(types[t]) ? 2e-6 : 3e-4;
                    for (size_t r = 0; r < rows; r++) {
                        double off = distance(got + r * LD, want + r * LD, N);
                        if (!(off <= bound))
                            print_error("%s rows %u row %zu mode %d many %d k %u\n",
                                        tensor_type_name(types[t]), rows, r, mode, many, k);
                        CHECK_LE(off, bound);
                        for (size_t i = N; i < LD; i++)
                            CHECK(got[r * LD + i] == 12345.0f);
                    }
                }
            compute_release(&scalar);
            free(bytes);
            free(x);
            free(bias);
        }
}

/* The same bits alone and among 8 or 13; NaN and infinity stay in their row; huge rows do not overflow. */
static void a_row_does_not_depend_on_its_company(void **state)
{
    UNUSED_STATE(state);
    enum { K = 512, ROWS = 13 };
    uint64_t seed = 4;
    for (size_t t = 0; t < N_TYPES; t++)
        for (int many = 0; many < 2; many++) {
            static float alone[ROWS * LD], together[ROWS * LD];
            uint8_t *bytes = weights(types[t], N, K, &seed);
            float *x = floats(ROWS * K, 1, 0, &seed);
            x[3 * K + 100] = NAN;
            x[5 * K + 200] = INFINITY;
            for (size_t i = 0; i < K; i++)
                x[7 * K + i] *= 1e6f;
            struct device_matrix m = {.type = (uint32_t)types[t], .n = N, .k = K, .bytes = bytes};
            OK(door_product(&m, x, ROWS, many, NULL, 0, 0, together, LD));
            for (uint32_t from = 0; from < ROWS; from += 1 + from % 3) {
                uint32_t n = 1 + from % 3 < ROWS - from ? 1 + from % 3 : ROWS - from;
                OK(door_product(&m, x + (size_t)from * K, n, many, NULL, 0, 0, alone + (size_t)from * LD,
                                LD));
            }
            for (size_t r = 0; r < ROWS; r++)
                for (size_t i = 0; i < N; i++) {
                    float a = alone[r * LD + i], b = together[r * LD + i];
                    if (r == 3 || r == 5) {
                        CHECK(!isfinite(a) && !isfinite(b));
                    } else {
                        CHECK(isfinite(a));
                        CHECK(memcmp(&a, &b, sizeof a) == 0);
                    }
                }
            free(bytes);
            free(x);
        }
}

/* ---- a decoder of any shape, and the same in double
 * ----------------------------------------------------------------------------------------- */

struct shape {
    uint32_t n_head, n_kv, hd, n_rope, window, halves;
    enum tensor_type type;
};
enum { LAYERS = 2, EMBD = 96, FF = 160, VOCAB = 60, CTX = 600, LAYERS_MATRICES = 7 };
struct model {
    struct shape s;
    struct device_layer layers[LAYERS];
    struct device_decoder_desc desc;
    double rope_step[128];
    void *owned[64];
    size_t n_owned;
};
static void *own(struct model *m, void *p)
{
    CHECK(m->n_owned < 64);
    return m->owned[m->n_owned++] = p;
}
static struct device_matrix random_matrix(struct model *m, uint32_t n, uint32_t k, uint64_t *seed)
{
    return (struct device_matrix){
        .type = (uint32_t)m->s.type, .n = n, .k = k, .bytes = own(m, weights(m->s.type, n, k, seed))};
}
static void model_init(struct model *m, const struct shape *s)
{
    uint64_t seed = 11 + s->hd + s->n_head;
    memset(m, 0, sizeof *m);
    m->s = *s;
    uint32_t q_dim = s->n_head * s->hd, kv_dim = s->n_kv * s->hd;
    for (size_t i = 0; i < LAYERS; i++) {
        struct device_layer *l = &m->layers[i];
        l->q = random_matrix(m, q_dim, EMBD, &seed);
        l->k = random_matrix(m, kv_dim, EMBD, &seed);
        l->v = random_matrix(m, kv_dim, EMBD, &seed);
        l->o = random_matrix(m, EMBD, q_dim, &seed);
        l->gate = random_matrix(m, FF, EMBD, &seed);
        l->up = random_matrix(m, FF, EMBD, &seed);
        l->down = random_matrix(m, EMBD, FF, &seed);
        l->attn_norm = own(m, floats(EMBD, 0.2f, 0.8f, &seed));
        l->ffn_norm = own(m, floats(EMBD, 0.2f, 0.8f, &seed));
        if (s->halves) {
            l->q_bias = own(m, floats(q_dim, 0.2f, 0, &seed));
            l->k_bias = own(m, floats(kv_dim, 0.2f, 0, &seed));
            l->v_bias = own(m, floats(kv_dim, 0.2f, 0, &seed));
            l->o_bias = own(m, floats(EMBD, 0.2f, 0, &seed));
        }
    }
    for (uint32_t i = 0; i < s->n_rope / 2; i++)
        m->rope_step[i] = pow(10000.0, -2.0 * i / s->n_rope);
    m->desc = (struct device_decoder_desc){.n_layer = LAYERS,
                                           .n_embd = EMBD,
                                           .n_head = s->n_head,
                                           .n_kv_head = s->n_kv,
                                           .head_dim = s->hd,
                                           .n_ff = FF,
                                           .n_vocab = VOCAB,
                                           .n_ctx = CTX,
                                           .n_rope = s->n_rope,
                                           .window = s->window,
                                           .halves = s->halves,
                                           .slots_max = 8,
                                           .n_pages = 40,
                                           .eps = 1e-5f,
                                           .rope_step = m->rope_step,
                                           .layers = m->layers,
                                           .embedding = random_matrix(m, VOCAB, EMBD, &seed),
                                           .output = random_matrix(m, VOCAB, EMBD, &seed),
                                           .output_norm = own(m, floats(EMBD, 0.2f, 0.8f, &seed))};
}
static void model_release(struct model *m)
{
    for (size_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
}

static float *dense(const struct device_matrix *m)
{
    float *w = malloc((size_t)m->n * m->k * sizeof *w);
    tensor_dequantize((enum tensor_type)m->type, m->bytes, w, (size_t)m->n * m->k);
    return w;
}
static void product(const struct device_matrix *m, const float *bias, const double *x, double *y, size_t rows,
                    bool add)
{
    float *w = dense(m);
    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < m->n; o++) {
            double sum = bias ? (double)bias[o] : 0;
            for (size_t i = 0; i < m->k; i++)
                sum += (double)w[o * m->k + i] * x[r * m->k + i];
            y[r * m->n + o] = add ? y[r * m->n + o] + sum : sum;
        }
    free(w);
}
static void norm(const double *x, const float *w, double *y, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t i = 0; i < EMBD; i++)
            sum += x[r * EMBD + i] * x[r * EMBD + i];
        for (size_t i = 0; i < EMBD; i++)
            y[r * EMBD + i] = x[r * EMBD + i] / sqrt(sum / EMBD + 1e-5) * (double)w[i];
    }
}
static void turn(const struct model *m, double *x, size_t rows, size_t heads)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < m->s.n_rope / 2; i++) {
                double *p = x + (r * heads + h) * m->s.hd, angle = (double)r * m->rope_step[i];
                double *a = p + (m->s.halves ? i : 2 * i),
                       *b = p + (m->s.halves ? i + m->s.n_rope / 2 : 2 * i + 1);
                double u = *a * cos(angle) - *b * sin(angle), v = *a * sin(angle) + *b * cos(angle);
                *a = u;
                *b = v;
            }
}
/* q, k, v [rows, heads, hd]; causal, or all with all. */
static void attend(const double *q, const double *k, const double *v, double *out, size_t rows, size_t n_head,
                   size_t n_kv, size_t hd, size_t window, bool causal)
{
    double *p = malloc(rows * sizeof *p);
    for (size_t r = 0; r < rows; r++)
        for (size_t h = 0; h < n_head; h++) {
            size_t g = h / (n_head / n_kv), from = causal && window && r + 1 > window ? r + 1 - window : 0,
                   to = causal ? r + 1 : rows;
            double sum = 0;
            for (size_t j = from; j < to; j++) {
                double s = 0;
                for (size_t i = 0; i < hd; i++)
                    s += q[(r * n_head + h) * hd + i] * k[(j * n_kv + g) * hd + i];
                p[j] = exp(s / sqrt((double)hd));
                sum += p[j];
            }
            for (size_t i = 0; i < hd; i++) {
                double o = 0;
                for (size_t j = from; j < to; j++)
                    o += p[j] / sum * v[(j * n_kv + g) * hd + i];
                out[(r * n_head + h) * hd + i] = o;
            }
        }
    free(p);
}
static double *doubles(size_t n) { return calloc(n, sizeof(double)); }

/* Logits of every position. */
static void forward(const struct model *m, const int32_t *tokens, size_t rows, float *logits)
{
    size_t q_dim = m->s.n_head * m->s.hd, kv_dim = m->s.n_kv * m->s.hd;
    double *x = doubles(rows * EMBD), *h = doubles(rows * EMBD), *q = doubles(rows * q_dim),
           *k = doubles(rows * kv_dim), *v = doubles(rows * kv_dim), *mixed = doubles(rows * q_dim),
           *gate = doubles(rows * FF), *up = doubles(rows * FF), *out = doubles(rows * VOCAB);
    float *table = dense(&m->desc.embedding);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < EMBD; i++)
            x[r * EMBD + i] = (double)table[(size_t)tokens[r] * EMBD + i];
    free(table);
    for (size_t i = 0; i < LAYERS; i++) {
        const struct device_layer *l = &m->layers[i];
        norm(x, l->attn_norm, h, rows);
        product(&l->q, l->q_bias, h, q, rows, false);
        product(&l->k, l->k_bias, h, k, rows, false);
        product(&l->v, l->v_bias, h, v, rows, false);
        turn(m, q, rows, m->s.n_head);
        turn(m, k, rows, m->s.n_kv);
        attend(q, k, v, mixed, rows, m->s.n_head, m->s.n_kv, m->s.hd, m->s.window, true);
        product(&l->o, l->o_bias, mixed, x, rows, true);
        norm(x, l->ffn_norm, h, rows);
        product(&l->gate, NULL, h, gate, rows, false);
        product(&l->up, NULL, h, up, rows, false);
        for (size_t j = 0; j < rows * FF; j++)
            gate[j] = gate[j] / (1 + exp(-gate[j])) * up[j];
        product(&l->down, NULL, gate, x, rows, true);
    }
    norm(x, m->desc.output_norm, h, rows);
    product(&m->desc.output, NULL, h, out, rows, false);
    for (size_t j = 0; j < rows * VOCAB; j++)
        logits[j] = (float)out[j];
    double *all[] = {x, h, q, k, v, mixed, gate, up, out};
    for (size_t j = 0; j < sizeof all / sizeof all[0]; j++)
        free(all[j]);
}

/* A step of n tokens of one sequence whose pages are first_page, first_page + stride, ... */
enum { TABLE = (CTX + DEVICE_PAGE - 1) / DEVICE_PAGE };
static void table_fill(int32_t *table, size_t positions, int32_t first_page, int32_t stride)
{
    for (size_t p = 0; p < TABLE; p++)
        table[p] = p * DEVICE_PAGE < positions ? first_page + stride * (int32_t)p : -1;
}
static void run(struct device_decoder *d, const int32_t *tokens, size_t at, size_t n, bool many,
                int32_t first_page, float *logits)
{
    static int32_t positions[CTX], slots[CTX], table[TABLE];
    static uint32_t wanted[CTX];
    for (size_t i = 0; i < n; i++) {
        positions[i] = (int32_t)(at + i);
        slots[i] = 0;
        wanted[i] = (uint32_t)i;
    }
    table_fill(table, at + n, first_page, 2);
    OK(api->decoder_step(d, &(struct device_step){.n_rows = (uint32_t)n,
                                                  .n_many = many ? (uint32_t)n : 0,
                                                  .tokens = tokens + at,
                                                  .positions = positions,
                                                  .slots = slots,
                                                  .tables = table,
                                                  .n_slots = 1,
                                                  .tables_ld = TABLE,
                                                  .wanted = wanted,
                                                  .n_wanted = (uint32_t)n,
                                                  .logits = logits}));
}

static const struct shape shapes[] = {
    {4, 4, 32,  32,  0,   0, TENSOR_F32 }, /* as many keys as queries */
    {3, 1, 64,  64,  0,   0, TENSOR_Q8_0}, /* SmolLM2's group of 3 */
    {6, 1, 16,  8,   0,   1, TENSOR_F16 }, /* Qwen2's group of 6, partly turned, biases */
    {8, 2, 8,   8,   70,  0, TENSOR_Q4_0}, /* a window, the smallest heads */
    {7, 1, 128, 128, 0,   1, TENSOR_F16 }, /* a group of 7 */
    {4, 2, 96,  96,  300, 1, TENSOR_Q5_1}, /* heads that are no power of two, a window over the split */
    {2, 1, 160, 160, 0,   0, TENSOR_F16 }, /* too wide for the tiles */
    {5, 1, 256, 256, 90,  1, TENSOR_BF16},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static void steps_agree_for_every_shape(void **state)
{
    UNUSED_STATE(state);
    enum { TOKENS = 280, LONG = 270 }; /* two shapes go over the end of a split of 256 keys */
    static float want[TOKENS * VOCAB], got[TOKENS * VOCAB], again[TOKENS * VOCAB];
    int32_t tokens[TOKENS];
    uint64_t seed = 21;
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(test_rand(&seed) % VOCAB);
    for (size_t s = 0; s < SHAPES; s++) {
        struct model m;
        struct device_decoder *d = NULL;
        size_t n_tokens = s == 1 || s == 5 ? LONG : 84, n_prompt = n_tokens - 24, n;
        model_init(&m, &shapes[s]);
        forward(&m, tokens, n_tokens, want);
        OK(api->decoder_open(&d, &m.desc));
        CHECK(api->decoder_pages(d) == 40);
        /* a prompt; its end in twos and threes as few rows; one by one */
        run(d, tokens, 0, n_prompt, true, 0, got);
        for (size_t at = n_prompt; at < n_tokens; at += n) {
            n = at + 10 < n_tokens ? 2 + at % 2 : 1;
            run(d, tokens, at, n, false, 0, got + at * VOCAB);
        }
        run(d, tokens, 0, 70, false, 1, again); /* more few rows than one pass takes */
        run(d, tokens, 70, n_tokens - 70, true, 1, again + 70 * VOCAB);
        for (size_t r = 0; r < n_tokens; r++) {
            double a = distance(got + r * VOCAB, want + r * VOCAB, VOCAB),
                   b = distance(again + r * VOCAB, want + r * VOCAB, VOCAB);
            if (!(a <= 6e-3 && b <= 6e-3))
                print_error("shape %zu position %zu: %g %g\n", s, r, a, b);
            CHECK_LE(a, 6e-3);
            CHECK_LE(b, 6e-3);
        }
        api->decoder_close(d);
        model_release(&m);
    }
}

/* Five sequences in one step, prompts among them, give each the bits it gets alone; page copies carry what a
 * page holds. */
static void a_sequence_does_not_depend_on_its_company(void **state)
{
    UNUSED_STATE(state);
    enum { SEQS = 5, EXTRA = 20 };
    static const size_t start[SEQS] = {0, 70, 3, 130, 64}, add[SEQS] = {1, 1, 3, EXTRA, 2};
    static int32_t tokens[SEQS][200], row_tokens[64], positions[64], slots[64], tables[SEQS][TABLE];
    static float alone[64 * VOCAB], together[64 * VOCAB];
    static uint32_t wanted[64];
    uint64_t seed = 5;
    struct model m;
    struct device_decoder *d = NULL;
    model_init(&m, &shapes[1]);
    OK(api->decoder_open(&d, &m.desc));
    uint32_t n = 0;
    float unused[200 * VOCAB];
    for (int i = 0; i < SEQS; i++) {
        for (size_t j = 0; j < 200; j++)
            tokens[i][j] = (int32_t)(test_rand(&seed) % VOCAB);
        if (start[i])
            run(d, tokens[i], 0, start[i], true, 8 * i, unused);
        run(d, tokens[i], start[i], add[i], i == 3, 8 * i, alone + (size_t)n * VOCAB);
        n += (uint32_t)add[i];
    }
    /* the same again: the last keys are overwritten by themselves. Few rows first, so sequence 3 last; and
     * sequence 1 in copies of its pages */
    uint32_t row = 0, order[64];
    for (int turn_ = 0; turn_ < SEQS; turn_++) {
        int i = turn_ == 3 ? 4 : turn_ == 4 ? 3 : turn_;
        uint32_t at = 0;
        for (int j = 0; j < i; j++)
            at += (uint32_t)add[j];
        table_fill(tables[i], start[i] + add[i], 8 * i, 2);
        for (size_t j = 0; j < add[i]; j++, row++) {
            row_tokens[row] = tokens[i][start[i] + j];
            positions[row] = (int32_t)(start[i] + j);
            slots[row] = i;
            order[row] = at + (uint32_t)j;
            wanted[row] = row;
        }
    }
    OK(api->decoder_copy(d, 38, (uint32_t)tables[1][0]));
    OK(api->decoder_copy(d, 36, (uint32_t)tables[1][1]));
    tables[1][0] = 38;
    tables[1][1] = 36;
    OK(api->decoder_step(d, &(struct device_step){.n_rows = row,
                                                  .n_many = EXTRA,
                                                  .tokens = row_tokens,
                                                  .positions = positions,
                                                  .slots = slots,
                                                  .tables = tables[0],
                                                  .n_slots = SEQS,
                                                  .tables_ld = TABLE,
                                                  .wanted = wanted,
                                                  .n_wanted = row,
                                                  .logits = together}));
    for (uint32_t r = 0; r < row; r++)
        CHECK(memcmp(together + (size_t)r * VOCAB, alone + (size_t)order[r] * VOCAB, VOCAB * sizeof(float)) ==
              0);
    api->decoder_close(d);
    model_release(&m);
}

static void steps_that_break_the_rules_are_refused(void **state)
{
    UNUSED_STATE(state);
    struct model m;
    struct device_decoder *d = NULL;
    model_init(&m, &shapes[0]);
    OK(api->decoder_open(&d, &m.desc));
    int32_t token = 1, position = 0, slot = 0, table[TABLE];
    uint32_t wanted = 0;
    float logits[VOCAB];
    table_fill(table, 1, 0, 1);
    const struct device_step good = {.n_rows = 1,
                                     .tokens = &token,
                                     .positions = &position,
                                     .slots = &slot,
                                     .tables = table,
                                     .n_slots = 1,
                                     .tables_ld = TABLE,
                                     .wanted = &wanted,
                                     .n_wanted = 1,
                                     .logits = logits};
    OK(api->decoder_step(d, &good));
    struct device_step s = good;
    s.n_rows = 0;
    CHECK_I64_EQ(api->decoder_step(d, &s), DEVICE_BAD_CALL);
    s = good;
    s.n_slots = 9;
    CHECK_I64_EQ(api->decoder_step(d, &s), DEVICE_BAD_CALL);
    const struct {
        int32_t *what, value;
    } lies[] = {
        {&token,    VOCAB},
        {&token,    -2   },
        {&position, CTX  },
        {&position, 64   },
        {&position, -1   },
        {&slot,     1    },
        {&table[0], 40   },
        {&table[0], -1   }
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        int32_t was = *lies[i].what;
        *lies[i].what = lies[i].value;
        CHECK_I64_EQ(api->decoder_step(d, &good), DEVICE_BAD_CALL);
        CHECK(api->error()[0] != 0);
        *lies[i].what = was;
    }
    wanted = 1;
    CHECK_I64_EQ(api->decoder_step(d, &good), DEVICE_BAD_CALL);
    wanted = 0;
    OK(api->decoder_step(d, &good)); /* a refusal breaks nothing */
    api->decoder_close(d);
    m.desc.head_dim = 12;
    CHECK_I64_EQ(api->decoder_open(&d, &m.desc), DEVICE_UNSUPPORTED);
    CHECK(d == NULL);
    model_release(&m);
}

/* ---- choice
 * ------------------------------------------------------------------------------------------------------ */

static uint64_t splitmix(uint64_t *state) /* the sampler's own generator */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}
static void tokens_are_chosen_as_the_sampler_chooses(void **state)
{
    UNUSED_STATE(state);
    enum { V = 3000, VALID = 2900, ROWS = 18 };
    static float logits[ROWS * V], scratch[V];
    static const struct {
        float temperature, top_p, min_p;
    } ways[] = {
        {0,     0,     0    },
        {0.8f,  0,     0    },
        {1.2f,  0.9f,  0    },
        {0.7f,  0.5f,  0.02f},
        {1,     0,     0.3f },
        {0.01f, 0.99f, 0    }
    };
    uint64_t seed = 77;
    struct device_choice choices[ROWS];
    int32_t got[ROWS], want[ROWS];
    for (size_t i = 0; i < ROWS * V; i++)
        logits[i] = uniform(&seed) * 8;
    for (size_t r = 0; r < ROWS; r++)
        logits[r * V + VALID + 3] = 100;           /* beyond the tokenizer */
    logits[2 * V + 5] = logits[2 * V + 2000] = 50; /* equals: the lower id */
    logits[3 * V] = NAN;
    for (size_t i = 0; i < V; i++)
        logits[4 * V + i] = NAN;
    for (size_t r = 0; r < ROWS; r++) {
        size_t w = r < 6 ? 0 : r % 6;
        struct sampler s = {.temperature = ways[w].temperature,
                            .top_p = ways[w].top_p,
                            .min_p = ways[w].min_p,
                            .state = 1000 + r};
        uint64_t generator = s.state;
        choices[r] = (struct device_choice){.temperature = s.temperature,
                                            .top_p = s.top_p,
                                            .min_p = s.min_p,
                                            .draw = (double)(splitmix(&generator) >> 11) * 0x1p-53};
        want[r] = sampler_next(&s, logits + r * V, V, VALID, scratch);
    }
    OK(door_choose(logits, V, VALID, choices, ROWS, got));
    for (size_t r = 0; r < ROWS; r++)
        if (r == 4)
            CHECK(got[r] >= 0 && got[r] < VALID); /* nothing to choose by */
        else
            CHECK_I64_EQ(got[r], want[r]);
    /* top_k, which the sampler does not have: only the k largest ever come, and each of them comes */
    static float few[200 * 40];
    struct device_choice k3[200];
    int32_t ids[200];
    bool seen[40] = {false};
    for (size_t r = 0; r < 200; r++) {
        for (size_t i = 0; i < 40; i++)
            few[r * 40 + i] = (float)(i * 7 % 40) * 0.05f;
        k3[r] = (struct device_choice){.temperature = 1, .top_k = 3, .draw = ((double)r + 0.5) / 200};
    }
    OK(door_choose(few, 40, 40, k3, 200, ids));
    for (size_t r = 0; r < 200; r++) {
        CHECK(ids[r] * 7 % 40 >= 37);
        seen[ids[r]] = true;
    }
    int different = 0;
    for (int i = 0; i < 40; i++)
        different += seen[i];
    CHECK_I64_EQ(different, 3);
}

/* Greedy decoding that never leaves the device gives the tokens of one that asks for logits each time. */
static void tokens_may_stay_on_the_device(void **state)
{
    UNUSED_STATE(state);
    enum { PROMPT = 9, MORE = 30 };
    struct model m;
    struct device_decoder *d = NULL;
    model_init(&m, &shapes[1]);
    OK(api->decoder_open(&d, &m.desc));
    int32_t tokens[PROMPT + MORE] = {3, 1, 4, 1, 5, 9, 2, 6, 5}, table[TABLE], slot = 0, last = -1;
    float logits[PROMPT * VOCAB];
    for (size_t at = 0; at < PROMPT + MORE - 1;) {
        size_t n = at ? 1 : PROMPT;
        run(d, tokens, at, n, false, 0, logits);
        at += n;
        const float *x = logits + (n - 1) * VOCAB;
        tokens[at] = 0;
        for (int32_t i = 1; i < VOCAB; i++)
            tokens[at] = x[i] > x[tokens[at]] ? i : tokens[at];
    }
    table_fill(table, CTX, 1, 2);
    uint32_t wanted = PROMPT - 1, zero = 0;
    run(d, tokens, 0, PROMPT - 1, false, 1, logits);
    for (int32_t at = PROMPT - 1; at < PROMPT + MORE - 1; at++) {
        int32_t chosen_token = DEVICE_CHOSEN, *token = at == PROMPT - 1 ? &tokens[at] : &chosen_token;
        bool end = at == PROMPT + MORE - 2;
        (void)wanted;
        OK(api->decoder_step(d, &(struct device_step){.n_rows = 1,
                                                      .tokens = token,
                                                      .positions = &at,
                                                      .slots = &slot,
                                                      .tables = table,
                                                      .n_slots = 1,
                                                      .tables_ld = TABLE,
                                                      .wanted = &zero,
                                                      .n_wanted = 1,
                                                      .chosen = end ? &last : NULL}));
    }
    CHECK_I64_EQ(last, tokens[PROMPT + MORE - 1]);
    api->decoder_close(d);
    model_release(&m);
}

/* ---- encoder
 * ----------------------------------------------------------------------------------------------------- */

enum { E_DIM = 48, E_FF = 96, E_VOCAB = 50, E_POSITIONS = 160, E_SEQS = 5 };
struct bert {
    struct device_encoder_layer layers[LAYERS];
    struct device_encoder_desc desc;
    struct model owner; /* of the memory */
};
static struct device_dense random_dense(struct bert *b, uint32_t n, uint32_t k, uint64_t *seed)
{
    return (struct device_dense){random_matrix(&b->owner, n, k, seed),
                                 own(&b->owner, floats(n, 0.1f, 0, seed))};
}
static struct device_norm random_norm(struct bert *b, uint64_t *seed)
{
    return (struct device_norm){own(&b->owner, floats(E_DIM, 0.2f, 0.9f, seed)),
                                own(&b->owner, floats(E_DIM, 0.1f, 0, seed))};
}
static void layernorm(double *x, const struct device_norm *n, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        double mean = 0, square = 0;
        for (size_t i = 0; i < E_DIM; i++)
            mean += x[r * E_DIM + i] / E_DIM;
        for (size_t i = 0; i < E_DIM; i++)
            square += (x[r * E_DIM + i] - mean) * (x[r * E_DIM + i] - mean) / E_DIM;
        for (size_t i = 0; i < E_DIM; i++)
            x[r * E_DIM + i] =
                (x[r * E_DIM + i] - mean) / sqrt(square + 1e-6) * (double)n->w[i] + (double)n->b[i];
    }
}
static void bert_forward(const struct bert *b, const int32_t *ids, const int32_t *kinds, size_t rows,
                         size_t n_head, float *out)
{
    double *x = doubles(rows * E_DIM), *q = doubles(rows * E_DIM), *k = doubles(rows * E_DIM),
           *v = doubles(rows * E_DIM), *mixed = doubles(rows * E_DIM), *inner = doubles(rows * E_FF);
    float *words = dense(&b->desc.words), *places = dense(&b->desc.positions),
          *types_ = dense(&b->desc.types);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < E_DIM; i++)
            x[r * E_DIM + i] = (double)words[(size_t)ids[r] * E_DIM + i] + (double)places[r * E_DIM + i] +
                               (double)types_[(size_t)kinds[r] * E_DIM + i];
    layernorm(x, &b->desc.embedding_norm, rows);
    for (size_t l = 0; l < LAYERS; l++) {
        const struct device_encoder_layer *e = &b->layers[l];
        product(&e->q.w, e->q.b, x, q, rows, false);
        product(&e->k.w, e->k.b, x, k, rows, false);
        product(&e->v.w, e->v.b, x, v, rows, false);
        attend(q, k, v, mixed, rows, n_head, n_head, E_DIM / n_head, 0, false);
        product(&e->o.w, e->o.b, mixed, x, rows, true);
        layernorm(x, &e->attn_norm, rows);
        product(&e->up.w, e->up.b, x, inner, rows, false);
        for (size_t i = 0; i < rows * E_FF; i++)
            inner[i] = 0.5 * inner[i] * (1 + erf(inner[i] / sqrt(2)));
        product(&e->down.w, e->down.b, inner, x, rows, true);
        layernorm(x, &e->out_norm, rows);
    }
    for (size_t i = 0; i < rows * E_DIM; i++)
        out[i] = (float)x[i];
    void *all[] = {x, q, k, v, mixed, inner, words, places, types_};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static void check_encoders(size_t n_types)
{
    static const size_t lens[E_SEQS] = {1, 70, 5, 150, 64};
    enum { ROWS = 290 };
    static int32_t ids[ROWS], kinds[ROWS];
    static float want[ROWS * E_DIM], got[ROWS * E_DIM], alone[ROWS * E_DIM], pooled[E_SEQS * E_DIM];
    static const enum tensor_type kinds_of_weights[] = {TENSOR_F16, TENSOR_F32, TENSOR_BF16};
    for (size_t t = 0; t < n_types; t++)
        for (uint32_t n_head = 2; n_head <= (t ? 2 : 6); n_head += 4) { /* heads of 24 and of 8 */
            uint64_t seed = 31 + t;
            struct bert b = {.owner.s.type = kinds_of_weights[t]};
            for (size_t l = 0; l < LAYERS; l++)
                b.layers[l] = (struct device_encoder_layer){.q = random_dense(&b, E_DIM, E_DIM, &seed),
                                                            .k = random_dense(&b, E_DIM, E_DIM, &seed),
                                                            .v = random_dense(&b, E_DIM, E_DIM, &seed),
                                                            .o = random_dense(&b, E_DIM, E_DIM, &seed),
                                                            .up = random_dense(&b, E_FF, E_DIM, &seed),
                                                            .down = random_dense(&b, E_DIM, E_FF, &seed),
                                                            .attn_norm = random_norm(&b, &seed),
                                                            .out_norm = random_norm(&b, &seed)};
            b.desc =
                (struct device_encoder_desc){.n_layer = LAYERS,
                                             .dim = E_DIM,
                                             .n_head = n_head,
                                             .n_ff = E_FF,
                                             .n_vocab = E_VOCAB,
                                             .n_positions = E_POSITIONS,
                                             .n_types = 2,
                                             .tokens_max = 300,
                                             .eps = 1e-6f,
                                             .words = random_matrix(&b.owner, E_VOCAB, E_DIM, &seed),
                                             .positions = random_matrix(&b.owner, E_POSITIONS, E_DIM, &seed),
                                             .types = random_matrix(&b.owner, 2, E_DIM, &seed),
                                             .embedding_norm = random_norm(&b, &seed),
                                             .layers = b.layers};
            for (size_t i = 0; i < ROWS; i++) {
                ids[i] = (int32_t)(test_rand(&seed) % E_VOCAB);
                kinds[i] = (int32_t)(test_rand(&seed) % 2);
            }
            struct device_encoder *e = NULL;
            OK(api->encoder_open(&e, &b.desc));
            OK(api->encoder_forward(e, ids, kinds, lens, E_SEQS, DEVICE_TAKE_ALL, got));
            for (int take = DEVICE_TAKE_MEAN; take <= DEVICE_TAKE_FIRST; take++) {
                OK(api->encoder_forward(e, ids, kinds, lens, E_SEQS, take, pooled));
                for (size_t s = 0, at = 0; s < E_SEQS; at += lens[s++])
                    for (size_t i = 0; i < E_DIM; i++) {
                        double mean = 0;
                        for (size_t j = 0; j < lens[s]; j++)
                            mean += (double)got[(at + j) * E_DIM + i] / (double)lens[s];
                        CHECK_NEAR(pooled[s * E_DIM + i],
                                   take == DEVICE_TAKE_MEAN ? mean : (double)got[at * E_DIM + i], 1e-5);
                    }
            }
            for (size_t s = 0, at = 0; s < E_SEQS; at += lens[s++]) {
                bert_forward(&b, ids + at, kinds + at, lens[s], n_head, want + at * E_DIM);
                OK(api->encoder_forward(e, ids + at, kinds + at, lens + s, 1, DEVICE_TAKE_ALL,
                                        alone + at * E_DIM));
                for (size_t j = 0; j < lens[s]; j++) {
                    double off = distance(got + (at + j) * E_DIM, want + (at + j) * E_DIM, E_DIM);
                    CHECK_LE(off, 3e-3);
                }
            }
            CHECK(memcmp(alone, got, sizeof got) == 0);
            size_t too_long = E_POSITIONS + 1;
            CHECK_I64_EQ(api->encoder_forward(e, ids, NULL, &too_long, 1, DEVICE_TAKE_ALL, alone),
                         DEVICE_BAD_CALL);
            api->encoder_close(e);
            model_release(&b.owner);
        }
}
static void encoders_agree(void **state)
{
    UNUSED_STATE(state);
    check_encoders(3);
}

/* ---- the emulation only
 * ------------------------------------------------------------------------------------------- */

/* Everything the tests above compute, once more with other orders of threads and blocks: the same bits. */
static void no_result_depends_on_the_order_of_threads(void **state)
{
    UNUSED_STATE(state);
    if (!host_order)
        skip();
    enum { TOKENS = 45 };
    static float first[2][TOKENS * VOCAB], other[2][TOKENS * VOCAB];
#ifdef __SANITIZE_ADDRESS__ /* slow, and looks for something else */
    static const unsigned orders[] = {0, 7};
#else
    static const unsigned orders[] = {0, 1, 7};
#endif
    int32_t tokens[TOKENS];
    uint64_t seed = 8;
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(test_rand(&seed) % VOCAB);
    for (size_t s = 0; s < SHAPES; s++) {
        struct model m;
        model_init(&m, &shapes[s]);
        for (size_t o = 0; o < sizeof orders / sizeof orders[0]; o++) {
            struct device_decoder *d = NULL;
            host_order(orders[o]);
            OK(api->decoder_open(&d, &m.desc));
            float(*to)[TOKENS * VOCAB] = o ? other : first;
            run(d, tokens, 0, 35, true, 0, to[0]);
            run(d, tokens, 35, 8, false, 0, to[0] + 35 * VOCAB);
            run(d, tokens, 43, 2, false, 0, to[0] + 43 * VOCAB);
            run(d, tokens, 0, 9, false, 1, to[1]);
            api->decoder_close(d);
            CHECK(!o || (memcmp(first[0], other[0], sizeof first[0]) == 0 &&
                         memcmp(first[1], other[1], 9 * VOCAB * sizeof(float)) == 0));
        }
        model_release(&m);
    }
    for (size_t o = 1; o < sizeof orders / sizeof orders[0]; o++) {
        host_order(orders[o]);
        check_encoders(1);
        tokens_are_chosen_as_the_sampler_chooses(NULL);
    }
    host_order(0);
}

static void a_step_allocates_nothing_and_close_gives_all_back(void **state)
{
    UNUSED_STATE(state);
    if (!host_allocations)
        skip();
    struct model m;
    struct device_decoder *d = NULL;
    int32_t tokens[120];
    static float logits[120 * VOCAB];
    for (int i = 0; i < 120; i++)
        tokens[i] = i % VOCAB;
    model_init(&m, &shapes[2]);
    OK(api->decoder_open(&d, &m.desc));
    unsigned long before = host_allocations();
    run(d, tokens, 0, 100, true, 0, logits);
    for (size_t at = 100; at < 120; at += 4)
        run(d, tokens, at, 4, false, 0, logits);
    CHECK_I64_EQ(host_allocations(), before);
    api->decoder_close(d);
    model_release(&m);
    CHECK_I64_EQ(host_allocated(), 0);
    /* too little memory, wherever it ends: refused with a sentence, and nothing is kept */
    model_init(&m, &shapes[2]);
    size_t refused = 0;
    for (size_t bytes = 1 << 16; bytes < (size_t)64 << 20; bytes = bytes * 5 / 4) {
        host_memory(bytes);
        int err = api->decoder_open(&d, &m.desc);
        CHECK(err == DEVICE_OK || err == DEVICE_NO_MEMORY);
        refused += err != DEVICE_OK;
        CHECK(err == DEVICE_OK || (d == NULL && strstr(api->error(), "MiB")));
        api->decoder_close(d);
        CHECK_I64_EQ(host_allocated(), 0);
    }
    CHECK(refused > 5);
    host_memory((size_t)1 << 30);
    model_release(&m);
}

/* Whatever launch fails, and whichever call sees it: an error, never a wrong result, and close works. */
static void a_device_that_fails_says_so(void **state)
{
    UNUSED_STATE(state);
    if (!host_fail_after)
        skip();
    struct model m;
    int32_t tokens[40];
    static float want[40 * VOCAB], got[40 * VOCAB];
    for (int i = 0; i < 40; i++)
        tokens[i] = (i * 7) % VOCAB;
    model_init(&m, &shapes[3]);
    struct device_decoder *d = NULL;
    OK(api->decoder_open(&d, &m.desc));
    unsigned long before = host_launches();
    run(d, tokens, 0, 1, false, 0, want);
    unsigned long launches = host_launches() - before;
    CHECK(launches > 10);
    api->decoder_close(d);
    for (unsigned long at = 1; at <= launches; at++) {
        OK(api->decoder_open(&d, &m.desc));
        host_fail_after(at);
        int32_t zero = 0, table[TABLE];
        uint32_t wanted = 0;
        table_fill(table, 1, 0, 1);
        const struct device_step s = {.n_rows = 1,
                                      .tokens = tokens,
                                      .positions = &zero,
                                      .slots = &zero,
                                      .tables = table,
                                      .n_slots = 1,
                                      .tables_ld = TABLE,
                                      .wanted = &wanted,
                                      .n_wanted = 1,
                                      .logits = got};
        CHECK_I64_EQ(api->decoder_step(d, &s), DEVICE_LOST);
        CHECK(api->error()[0] != 0);
        CHECK_I64_EQ(api->decoder_step(d, &s), DEVICE_LOST);
        api->decoder_close(d);
        CHECK_I64_EQ(host_allocated(), 0);
        host_fail_after(0);
    }
    OK(api->decoder_open(&d, &m.desc));
    run(d, tokens, 0, 1, false, 0, got);
    CHECK(memcmp(got, want, VOCAB * sizeof *got) == 0);
    api->decoder_close(d);
    model_release(&m);
}

static void the_bandwidth_probe_and_memory_answer(void **state)
{
    UNUSED_STATE(state);
    double rate = 0;
    uint64_t available = 0, total = 0;
    OK(api->bandwidth(host_order ? (1 << 16) + 48 : 1 << 30, &rate));
    CHECK(rate > 0);
    OK(api->memory(&available, &total));
    CHECK(available > 0 && available <= total);
}

int main(int argc, char **argv)
{
    TEST_WHY;
    if (argc > 1 && setenv("CAIRN_CUDA_MODULE", argv[1], 1))
        return 1;
    api = device_find(&why);
    if (!api) {
        print_message("SKIP: %s\n", why.text);
        return 77;
    }
    void *module = dlopen(getenv("CAIRN_CUDA_MODULE"), RTLD_NOW | RTLD_LOCAL);
    const struct {
        const char *name;
        void *to;
    } symbols[] = {
        {"door_product",          &door_product    },
        {"door_choose",           &door_choose     },
        {"cuda_host_order",       &host_order      },
        {"cuda_host_memory",      &host_memory     },
        {"cuda_host_fail_after",  &host_fail_after },
        {"cuda_host_allocated",   &host_allocated  },
        {"cuda_host_launches",    &host_launches   },
        {"cuda_host_allocations", &host_allocations},
    };
    for (size_t i = 0; module && i < sizeof symbols / sizeof symbols[0]; i++) {
        void *symbol = dlsym(module, symbols[i].name);
        memcpy(symbols[i].to, &symbol, sizeof symbol);
    }
    if (!door_product || !door_choose) {
        print_message("SKIP: the module has no door for tests\n");
        return 77;
    }
    print_message("device: %s\n", api->device);
    const struct CMUnitTest tests[] = {
        TEST(products_agree),
        TEST(a_row_does_not_depend_on_its_company),
        TEST(steps_agree_for_every_shape),
        TEST(a_sequence_does_not_depend_on_its_company),
        TEST(steps_that_break_the_rules_are_refused),
        TEST(tokens_are_chosen_as_the_sampler_chooses),
        TEST(tokens_may_stay_on_the_device),
        TEST(encoders_agree),
        TEST(no_result_depends_on_the_order_of_threads),
        TEST(a_step_allocates_nothing_and_close_gives_all_back),
        TEST(a_device_that_fails_says_so),
        TEST(the_bandwidth_probe_and_memory_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
