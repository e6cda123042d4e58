/* The registry: cards read, bad cards left out and explained, the best of a role, files added and checked. */
#include "check.h"
#include "gguf_writer.h"

#include <math.h>
#include <sys/stat.h>

struct place {
    char *dir;
    char path[4096];
};

static const char *at(struct place *p, const char *name)
{
    snprintf(p->path, sizeof p->path, "%s/%s", p->dir, name);
    return p->path;
}

static void put_model(struct place *p, const char *name, const char *card)
{
    TEST_WHY;
    char file[256];
    snprintf(file, sizeof file, "models/%s", name);
    CHECK_OK(cairn_mkdirs(at(p, file), &why));
    snprintf(file, sizeof file, "models/%s/f", name);
    CHECK_OK(cairn_write_file(at(p, file), "x", 1, &why));
    snprintf(file, sizeof file, "models/%s/card.json", name);
    CHECK_OK(cairn_write_file(at(p, file), card, strlen(card), &why));
}

static void cards_are_read_and_the_best_is_found(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct place p = {.dir = test_tmpdir()};
    struct model_registry *r;
    const struct model_card *c;
    CHECK_OK(model_registry_open(&r, at(&p, "models"), &why)); /* not there: empty */
    CHECK_U64_EQ(model_registry_count(r), 0);
    CHECK_ERR(model_registry_find(r, MODEL_EMBEDDER, NULL, &c, &why), CAIRN_ESTATE);
    CHECK(strstr(why.text, "scripts/models"));
    model_registry_close(r);
    put_model(
        &p, "a",
        "{\"name\":\"a\",\"role\":\"embedder\",\"file\":\"f\",\"vocab\":\"f\",\"profile\":\"small\","
        "\"pooling\":\"mean\","
        "\"normalize\":true,\"lower_case\":true,\"max_tokens\":256,\"n_head\":12,\"layer_norm_eps\":1e-12,"
        "\"bytes\":9,\"query_prefix\":\"q: \",\"later\":{\"x\":1}}");
    put_model(
        &p, "b",
        "{\"name\":\"b\",\"role\":\"embedder\",\"file\":\"f\",\"profile\":\"standard\",\"pooling\":\"cls\"}");
    put_model(&p, "c",
              "{\"name\":\"c\",\"role\":\"generator\",\"file\":\"f\",\"profile\":\"middle\",\"template\":"
              "\"chatml\"}");
    put_model(&p, "d", "{\"name\":\"d\",\"role\":\"reranker\",\"file\":\"f\",\"pooling\":\"none\"}");
    put_model(&p, ".hidden", "{}");
    CHECK_OK(cairn_mkdirs(at(&p, "models/unfinished"), &why)); /* no card yet */
    CHECK_OK(model_registry_open(&r, at(&p, "models"), &why));
    CHECK_U64_EQ(model_registry_count(r), 4);
    c = model_registry_at(r, 0);
    CHECK_STR_EQ(c->name, "a");
    CHECK_STR_EQ(c->query_prefix, "q: ");
    CHECK(c->role == MODEL_EMBEDDER && c->pooling == POOL_MEAN && c->normalize && c->lower_case);
    CHECK(c->max_tokens == 256 && c->n_head == 12 && c->layer_norm_eps == 1e-12 && c->bytes == 9);
    CHECK_STR_EQ(c->path, at(&p, "models/a/f"));
    CHECK_STR_EQ(c->vocab, at(&p, "models/a/f"));
    CHECK_OK(model_registry_find(r, MODEL_EMBEDDER, NULL, &c, &why));
    CHECK_STR_EQ(c->name, "b"); /* standard before small */
    CHECK(c->pooling == POOL_CLS && c->vocab == NULL);
    CHECK_OK(model_registry_find(r, MODEL_EMBEDDER, "a", &c, &why));
    CHECK_STR_EQ(c->name, "a");
    CHECK_OK(model_registry_find(r, MODEL_GENERATOR, NULL, &c, &why));
    CHECK_STR_EQ(c->template_name, "chatml");
    CHECK_OK(model_registry_find(r, MODEL_RERANKER, NULL, &c, &why));
    CHECK_I64_EQ(c->pooling, POOL_RANK); /* a pair model, whatever its card says */
    CHECK_ERR(model_registry_find(r, MODEL_EMBEDDER, "c", &c, &why), CAIRN_EINVAL);
    CHECK(strstr(why.text, "generator"));
    CHECK_ERR(model_registry_find(r, MODEL_EMBEDDER, "zz", &c, &why), CAIRN_ESTATE);
    CHECK(c == NULL);
    model_registry_close(r);
    model_registry_close(NULL);
    test_rmdir(p.dir);
}

static void a_bad_card_is_left_out_and_explained(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *card, *says;
    } bad[] = {
        {"",                                                                              "card.json"                    },
        {"{",                                                                             "card.json"                    },
        {"[]",                                                                            "is an object"                 },
        {"{\"name\":\"m\",\"name\":\"m\",\"role\":\"embedder\",\"file\":\"f\"}",          "duplicate"                    },
        {"{\"name\":\"other\",\"role\":\"embedder\",\"file\":\"f\"}",
         "\"name\" is the name of its directory"                                                                         },
        {"{\"role\":\"embedder\",\"file\":\"f\"}",                                        "\"name\" is"                  },
        {"{\"name\":\"m\",\"file\":\"f\"}",                                               "\"role\" is"                  },
        {"{\"name\":\"m\",\"role\":\"poet\",\"file\":\"f\"}",                             "\"role\" has a value"         },
        {"{\"name\":\"m\",\"role\":\"embedder\"}",                                        "\"file\" names"               },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"../m/f\"}",                    "\"file\" is a plain file name"},
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"/etc/passwd\"}",               "\"file\" is a plain file name"},
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"..\"}",                        "\"file\" is a plain file name"},
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"f\",\"vocab\":\"../x\"}",
         "\"vocab\" is a plain file name"                                                                                },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"absent\"}",                    "cannot be read"               },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":7}",                             "\"file\" is a string"         },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"f\",\"pooling\":\"max\"}",
         "\"pooling\" has a value"                                                                                       },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"f\",\"max_tokens\":-1}",
         "\"max_tokens\" is a whole number"                                                                              },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"f\",\"n_head\":4097}",
         "\"n_head\" is a whole number"                                                                                  },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"f\",\"n_head\":1.5}",
         "\"n_head\" is a whole number"                                                                                  },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"f\",\"normalize\":1}",
         "\"normalize\" is true or false"                                                                                },
        {"{\"name\":\"m\",\"role\":\"embedder\",\"file\":\"f\",\"layer_norm_eps\":0}",
         "\"layer_norm_eps\" is"                                                                                         },
        {"{\"name\":\"m\",\"role\":\"generator\",\"file\":\"f\",\"template\":\"jinja\"}", "\"template\" is"              },
    };
    cairn_log_set_level(CAIRN_LOG_ERROR); /* the warnings are expected */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        TEST_WHY;
        struct place p = {.dir = test_tmpdir()};
        struct model_registry *r;
        const struct model_card *c;
        put_model(&p, "good", "{\"name\":\"good\",\"role\":\"embedder\",\"file\":\"f\"}");
        put_model(&p, "m", bad[i].card);
        CHECK_OK(model_registry_open(&r, at(&p, "models"), &why));
        CHECK_U64_EQ(model_registry_count(r), 1);
        CHECK_STR_EQ(model_registry_at(r, 0)->name, "good");
        CHECK_ERR(model_registry_find(r, MODEL_EMBEDDER, "m", &c, &why), CAIRN_ESTATE);
        if (!strstr(why.text, bad[i].says))
            print_error("case %zu: %s\n", i, why.text);
        CHECK(strstr(why.text, bad[i].says));
        model_registry_close(r);
        test_rmdir(p.dir);
    }
    cairn_log_set_level(CAIRN_LOG_WARN);
}

static void put_generator(struct place *p, const char *name, uint64_t rows, float last)
{
    TEST_WHY;
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    w_header(&b, 1, TINY_BPE_KVS + 2);
    w_kv_string(&b, "general.architecture", "qwen2");
    w_kv_u32(&b, "qwen2.attention.head_count", 4);
    w_tiny_bpe(&b);
    w_tensor(&b, "token_embd.weight", 2, (const uint64_t[]){8, rows}, TENSOR_F32, 0);
    w_pad(&b, 32);
    w_zeros(&b, (size_t)rows * 32 - 4);
    w_f32(&b, last);
    CHECK_OK(cairn_write_file(at(p, name), b.bytes, b.len, &why));
    cairn_buf_release(&b);
}

static void a_generator_is_checked_and_added(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct place p = {.dir = test_tmpdir()};
    struct model_registry *r;
    const struct model_card *c;
    put_generator(&p, "g.gguf", TINY_BPE_TOKENS, 1);
    put_generator(&p, "short.gguf", TINY_BPE_TOKENS - 1, 1);
    put_generator(&p, "nan.gguf", TINY_BPE_TOKENS, NAN);
    CHECK_OK(cairn_write_file(at(&p, "junk.gguf"), "GGUFjunk", 8, &why));
    char *models = strdup(at(&p, "models")), *file = strdup(at(&p, "g.gguf"));
    CHECK_OK(model_registry_open(&r, models, &why));
    CHECK_OK(model_registry_add(r, file, "linked", MODEL_GENERATOR, false, &why));
    CHECK_OK(model_registry_find(r, MODEL_GENERATOR, NULL, &c, &why));
    CHECK_STR_EQ(c->name, "linked");
    CHECK_OK(model_registry_add(r, file, "copied", MODEL_GENERATOR, true, &why));
    CHECK_STR_EQ(c->name, "linked"); /* cards stay where they are */
    CHECK_STR_EQ(c->template_name, "chatml");
    CHECK_STR_EQ(c->architecture, "qwen2");
    CHECK_U64_EQ(c->n_head, 4);
    CHECK_U64_EQ(strlen(c->sha256), 64);
    struct stat st;
    CHECK(lstat(at(&p, "models/linked/model.gguf"), &st) == 0 && S_ISLNK(st.st_mode));
    CHECK(lstat(at(&p, "models/copied/model.gguf"), &st) == 0 && S_ISREG(st.st_mode) &&
          (uint64_t)st.st_size == c->bytes);
    CHECK_ERR(model_registry_add(r, file, "copied", MODEL_GENERATOR, true, &why), CAIRN_EEXISTS);
    CHECK_ERR(model_registry_add(r, file, "../up", MODEL_GENERATOR, true, &why), CAIRN_EINVAL);
    CHECK_ERR(model_registry_add(r, file, "", MODEL_GENERATOR, true, &why), CAIRN_EINVAL);
    CHECK_ERR(model_registry_add(r, file, "e", MODEL_EMBEDDER, true, &why), CAIRN_EUNSUPPORTED);
    CHECK_ERR(model_registry_add(r, at(&p, "junk.gguf"), "junk", MODEL_GENERATOR, true, &why),
              CAIRN_ECORRUPT);
    CHECK_ERR(model_registry_add(r, at(&p, "short.gguf"), "short", MODEL_GENERATOR, true, &why),
              CAIRN_ECORRUPT);
    CHECK_ERR(model_registry_add(r, at(&p, "nan.gguf"), "nan", MODEL_GENERATOR, true, &why), CAIRN_ECORRUPT);
    CHECK(strstr(why.text, "'token_embd.weight' has another at element 103"));
    CHECK_ERR(model_registry_add(r, at(&p, "absent.gguf"), "absent", MODEL_GENERATOR, true, &why),
              CAIRN_ENOTFOUND);
    CHECK_U64_EQ(model_registry_count(r), 2);
    CHECK(access(at(&p, "models/junk"), F_OK) != 0 && access(at(&p, "models/.add-junk"), F_OK) != 0);
    model_registry_close(r);
    CHECK_OK(model_registry_open(&r, models, &why)); /* the same after a restart */
    CHECK_U64_EQ(model_registry_count(r), 2);
    CHECK_STR_EQ(model_registry_at(r, 0)->name, "copied");
    model_registry_close(r);
    free(models);
    free(file);
    test_rmdir(p.dir);
}

#define EMBEDDINGS                                                                                           \
    "\"embeddings.word_embeddings.weight\":{\"dtype\":\"F32\",\"shape\":[5,64],\"data_offsets\":[0,1280]},"  \
    "\"embeddings.position_embeddings.weight\":{\"dtype\":\"F32\",\"shape\":[8,64],\"data_offsets\":[1280,"  \
    "3328]}"
#define NOMIC                                                                                                \
    "\"embeddings.word_embeddings.weight\":{\"dtype\":\"F32\",\"shape\":[5,64],\"data_offsets\":[0,1280]},"  \
    "\"encoder.layers.0.attn.Wqkv.weight\":{\"dtype\":\"F32\",\"shape\":[3,64],\"data_offsets\":[1280,2048]" \
    "}"
#define HEAD ",\"classifier.weight\":{\"dtype\":\"F32\",\"shape\":[1,64],\"data_offsets\":[3328,3584]}"

#define PAIR_HEAD ",\"classifier.weight\":{\"dtype\":\"F32\",\"shape\":[2,64],\"data_offsets\":[3328,3840]}"

static void an_encoder_needs_its_vocabulary_beside_it(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct place p = {.dir = test_tmpdir()};
    struct model_registry *r;
    const struct model_card *c;
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    w_safetensors(&b,
                  "{\"__metadata__\":{\"general.architecture\":\"bert\",\"bert.pooling_type\":\"cls\",\"bert."
                  "attention.head_count\":\"2\"}," EMBEDDINGS "}",
                  3328);
    CHECK_OK(cairn_write_file(at(&p, "e.safetensors"), b.bytes, b.len, &why));
    cairn_buf_clear(&b);
    w_safetensors(&b, "{" NOMIC "}", 2048);
    CHECK_OK(cairn_write_file(at(&p, "n.safetensors"), b.bytes, b.len, &why));
    cairn_buf_clear(&b);
    w_safetensors(&b, "{" EMBEDDINGS HEAD "}", 3584);
    CHECK_OK(cairn_write_file(at(&p, "r.safetensors"), b.bytes, b.len, &why));
    cairn_buf_clear(&b);
    w_safetensors(&b, "{" EMBEDDINGS PAIR_HEAD "}", 3840);
    CHECK_OK(cairn_write_file(at(&p, "c.safetensors"), b.bytes, b.len, &why));
    cairn_buf_release(&b);
    char *models = strdup(at(&p, "models"));
    CHECK_OK(model_registry_open(&r, models, &why));
    CHECK_ERR(model_registry_add(r, at(&p, "e.safetensors"), "e", MODEL_EMBEDDER, true, &why),
              CAIRN_ENOTFOUND);
    CHECK(strstr(why.text, "vocab.txt"));
    CHECK_OK(cairn_write_file(at(&p, "vocab.txt"), "[UNK]\n[CLS]\n[SEP]\na\nb\nc\n", 24, &why));
    CHECK_ERR(model_registry_add(r, at(&p, "e.safetensors"), "e", MODEL_EMBEDDER, true, &why),
              CAIRN_ECORRUPT); /* 6 words, 5 rows */
    CHECK_OK(cairn_write_file(at(&p, "vocab.txt"), "[UNK]\n[CLS]\n[SEP]\na\nb\n", 22, &why));
    CHECK_OK(model_registry_add(r, at(&p, "e.safetensors"), "e", MODEL_EMBEDDER, false, &why));
    CHECK_ERR(model_registry_add(r, at(&p, "e.safetensors"), "e2", MODEL_RERANKER, true, &why), CAIRN_EINVAL);
    CHECK_ERR(model_registry_add(r, at(&p, "r.safetensors"), "r2", MODEL_EMBEDDER, true, &why), CAIRN_EINVAL);
    CHECK_ERR(model_registry_add(r, at(&p, "r.safetensors"), "r3", MODEL_GENERATOR, true, &why),
              CAIRN_EUNSUPPORTED);
    CHECK_OK(model_registry_add(r, at(&p, "r.safetensors"), "r", MODEL_RERANKER, true, &why));
    CHECK_ERR(model_registry_add(r, at(&p, "r.safetensors"), "c2", MODEL_CHECKER, true, &why), CAIRN_EINVAL);
    CHECK_ERR(model_registry_add(r, at(&p, "e.safetensors"), "c3", MODEL_CHECKER, true, &why), CAIRN_EINVAL);
    CHECK_ERR(model_registry_add(r, at(&p, "c.safetensors"), "c4", MODEL_RERANKER, true, &why), CAIRN_EINVAL);
    CHECK_OK(model_registry_add(r, at(&p, "c.safetensors"), "c", MODEL_CHECKER, true, &why));
    CHECK_OK(model_registry_find(r, MODEL_CHECKER, NULL, &c, &why));
    CHECK(c->pooling == POOL_NONE && !c->normalize);
    CHECK_OK(model_registry_find(r, MODEL_EMBEDDER, NULL, &c, &why));
    CHECK(c->pooling == POOL_CLS && c->normalize && c->lower_case && c->n_head == 2 && c->max_tokens == 8 &&
          c->vocab);
    CHECK_STR_EQ(c->architecture, "bert");
    CHECK_OK(model_registry_add(r, at(&p, "n.safetensors"), "n", MODEL_EMBEDDER, false, &why));
    CHECK_OK(model_registry_find(r, MODEL_EMBEDDER, "n", &c, &why)); /* no table of positions: rotary */
    CHECK(c->pooling == POOL_MEAN && c->n_head == 1 && c->max_tokens == 2048);
    CHECK_STR_EQ(c->architecture, "nomic-bert");
    CHECK_OK(model_registry_find(r, MODEL_RERANKER, NULL, &c, &why));
    CHECK(c->pooling == POOL_RANK && !c->normalize);
    model_registry_close(r);
    free(models);
    test_rmdir(p.dir);
}

/* What a file says of itself goes into its card: when that makes a bad one, nothing is added. */
static void a_file_that_would_make_a_bad_card_is_not_added(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const char *const says[] = {"\"bert.context_length\":\"-5\"", "\"bert.context_length\":\"3\"",
                                       "\"bert.attention.layer_norm_epsilon\":\"7.5\""};
    struct place p = {.dir = test_tmpdir()};
    struct model_registry *r;
    char *models = strdup(at(&p, "models"));
    CHECK_OK(cairn_write_file(at(&p, "vocab.txt"), "[UNK]\n[CLS]\n[SEP]\na\nb\n", 22, &why));
    CHECK_OK(model_registry_open(&r, models, &why));
    for (size_t i = 0; i <= sizeof says / sizeof says[0]; i++) {
        char head[1000];
        struct cairn_buf b;
        bool bad = i < sizeof says / sizeof says[0];
        snprintf(head, sizeof head, "{\"__metadata__\":{%s}," EMBEDDINGS "}", bad ? says[i] : "");
        cairn_buf_init(&b, 0);
        w_safetensors(&b, head, 3328);
        CHECK_OK(cairn_write_file(at(&p, "e.safetensors"), b.bytes, b.len, &why));
        cairn_buf_release(&b);
        enum cairn_err err = model_registry_add(r, at(&p, "e.safetensors"), "e", MODEL_EMBEDDER, true, &why);
        CHECK((err == CAIRN_OK) == !bad);
        CHECK((access(at(&p, "models/e"), F_OK) == 0) == !bad);
        CHECK(access(at(&p, "models/.add-e"), F_OK) != 0);
        CHECK_U64_EQ(model_registry_count(r), bad ? 0 : 1);
    }
    model_registry_close(r);
    free(models);
    test_rmdir(p.dir);
}

static void the_fetched_models_have_good_cards(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct model_registry *r;
    if (!test_model_file("all-minilm-l6-v2", "card.json"))
        skip();
    CHECK_OK(model_registry_open(&r, test_models_dir(), &why));
    CHECK_GE(model_registry_count(r), 1);
    for (size_t i = 0; i < model_registry_count(r); i++) {
        const struct model_card *c = model_registry_at(r, i);
        struct model_file *f;
        struct cairn_buf b;
        CHECK_OK(model_file_open(&f, c->path, &why));
        cairn_buf_init(&b, 0);
        CHECK_OK(model_file_describe(f, false, &b, &why));
        CHECK(strstr(b.bytes, "weights_bytes"));
        cairn_buf_release(&b);
        model_file_close(f);
    }
    model_registry_close(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(cards_are_read_and_the_best_is_found),
        TEST(a_bad_card_is_left_out_and_explained),
        TEST(a_generator_is_checked_and_added),
        TEST(an_encoder_needs_its_vocabulary_beside_it),
        TEST(a_file_that_would_make_a_bad_card_is_not_added),
        TEST(the_fetched_models_have_good_cards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
