/* The shipped encoder for claims: what it says of a claim moves the text's chance by as much as the script
 * that trained it computes in f32, and leaves the claim's verdict; it is refused over another model.
 * CLAIMS_FILE is the repository's overlay, whose "claims.mix" stands here again. */
#include "check.h"

#include <cairn/generator.h>

#include <math.h>

static struct model_registry *registry;
static const struct model_card *card;
static struct ground_encoder *encoder;

static int open_encoder(void **state)
{
    UNUSED_STATE(state);
    struct cairn_why why = {{0}};
    if (!test_model_file("ms-marco-minilm-l-12-v2", "model.safetensors"))
        return 0;
    if (model_registry_open(&registry, test_models_dir(), &why) ||
        model_registry_find(registry, MODEL_RERANKER, "ms-marco-minilm-l-12-v2", &card, &why) ||
        ground_encoder_open(&encoder, card, CLAIMS_FILE, NULL, &why)) {
        print_error("%s\n", why.text);
        return 1;
    }
    return 0;
}
static int close_encoder(void **state)
{
    UNUSED_STATE(state);
    ground_encoder_close(encoder);
    model_registry_close(registry);
    return 0;
}

static const char source[] = "The harbour of Ostend was closed in winter. Ships waited for the tide near the "
                             "lighthouse, and the keeper counted them by hand.";

static double unsupported(const char *text, const struct ground_encoder *e, float *support)
{
    TEST_WHY;
    struct grounding *g;
    struct ground_sentence *list;
    struct ground_source s = {.text = cairn_str_of(source)};
    size_t n;
    CHECK_OK(grounding_open(&g, &s, 1, &(struct ground_opts){.encoder = e}, &why));
    CHECK_OK(grounding_check_text(g, cairn_str_of(text), &list, &n, NULL, &why));
    CHECK_U64_EQ(n, 1);
    double p = (double)grounding_chance(g);
    *support = list[0].score;
    cairn_free(list);
    grounding_close(g);
    return log(p / (1 - p));
}

static void texts_move_as_the_training_script_says(void **state)
{
    UNUSED_STATE(state);
    static const double by_combiner = 0.76392, by_claim = 0.57313, constant = -0.07761, cap = 1.5;
    static const struct {
        const char *claim;
        double odds;
    } rows[] = {
        {"Ships waited near the harbour for a pilot.",  1.2284 },
        {"The keeper never counted the ships by hand.", 4.8386 },
        {"In winter the port of Ostend was shut.",      -0.6479},
    };
    if (!encoder)
        skip();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        float support[2];
        double was = unsupported(rows[i].claim, NULL, &support[0]),
               now = unsupported(rows[i].claim, encoder, &support[1]);
        CHECK_NEAR(now, by_combiner * was + by_claim * fmin(rows[i].odds, cap) + constant,
                   0.15); /* float sums in another order, activations of fewer bits */
        CHECK(support[0] == support[1]);
    }
}

static void another_models_overlay_is_refused(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct ground_encoder *e;
    const struct model_card *other;
    if (!encoder || model_registry_find(registry, MODEL_EMBEDDER, NULL, &other, NULL))
        skip();
    CHECK_ERR(ground_encoder_open(&e, other, CLAIMS_FILE, NULL, &why), CAIRN_ECORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(texts_move_as_the_training_script_says),
        TEST(another_models_overlay_is_refused),
    };
    return cmocka_run_group_tests(tests, open_encoder, close_encoder);
}
