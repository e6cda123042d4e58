/* test_quant.c - every weight type against blocks worked out by hand, and against a second writing of each
 * layout that goes element by element. */
#include "check.h"

#include <cairn/model.h>
#include <math.h>

static uint16_t half_of(float f) /* exact for the small values used here */
{
    for (uint32_t h = 0; h < 0x7c00; h++) {
        uint16_t bits = (uint16_t)h;
        float back;
        tensor_dequantize(TENSOR_F16, &bits, &back, 1);
        if (back == fabsf(f))
            return (uint16_t)(h | (f < 0 ? 0x8000u : 0));
    }
    fail_msg("%g is not a half", (double)f);
    return 0;
}
static void put_half(uint8_t *p, float f)
{
    uint16_t h = half_of(f);
    memcpy(p, &h, 2);
}

static void halves_follow_the_standard(void **state)
{
    UNUSED_STATE(state);
    const uint16_t in[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x03ff,
                           0x0400, 0x8001, 0x3555, 0x7c00, 0xfc00, 0x7e00};
    const float want[] = {0.0f,     -0.0f,           1.0f,     -2.0f,     65504.0f,
                          0x1p-24f, 1023 * 0x1p-24f, 0x1p-14f, -0x1p-24f, 0.333251953125f,
                          INFINITY, -INFINITY};
    float got[13];
    tensor_dequantize(TENSOR_F16, in, got, 13);
    for (int i = 0; i < 12; i++) {
        CHECK(got[i] == want[i]);
        CHECK(signbit(got[i]) == signbit(want[i]));
    }
    CHECK(isnan(got[12]));
    const uint16_t brain[] = {0x3f80, 0xc000, 0x0001, 0x7f80, 0x7fc0};
    tensor_dequantize(TENSOR_BF16, brain, got, 5);
    CHECK(got[0] == 1.0f && got[1] == -2.0f && got[2] > 0.0f && isinf(got[3]) && isnan(got[4]));
}

static void a_block_worked_out_by_hand(void **state)
{
    UNUSED_STATE(state);
    uint8_t b[210] = {0};
    float y[256];
    put_half(b, 0.5f); /* Q4_0: element 0 has q = 15, element 16 has q = 1 */
    b[2] = 0x1f;
    tensor_dequantize(TENSOR_Q4_0, b, y, 32);
    CHECK(y[0] == 3.5f && y[16] == -3.5f && y[1] == -4.0f && y[31] == -4.0f);
    put_half(b + 2, -1.0f); /* Q4_1: m = -1 */
    memset(b + 4, 0, 16);
    b[4 + 15] = 0xa3;
    tensor_dequantize(TENSOR_Q4_1, b, y, 32);
    CHECK(y[15] == 0.5f && y[31] == 4.0f && y[0] == -1.0f);
    memset(b + 2, 0, 30); /* Q5_0: fifth bits of elements 3 and 19 */
    b[2] = 0x08;
    b[4] = 0x08;
    b[6 + 3] = 0x21;
    tensor_dequantize(TENSOR_Q5_0, b, y, 32);
    CHECK(y[3] == 0.5f && y[19] == 1.0f && y[4] == -8.0f);
    put_half(b + 2, 2.0f); /* Q5_1 */
    memset(b + 4, 0, 20);
    b[4 + 3] = 0x80;
    b[8 + 15] = 0xf0;
    tensor_dequantize(TENSOR_Q5_1, b, y, 32);
    CHECK(y[31] == 17.5f && y[15] == 2.0f);
    memset(b + 2, 0, 32);
    b[2 + 31] = 0x80; /* Q8_0: -128 */
    b[2] = 127;
    tensor_dequantize(TENSOR_Q8_0, b, y, 32);
    CHECK(y[31] == -64.0f && y[0] == 63.5f);
}

/* One element at a time, straight from the description of the layout. */
static float element(enum tensor_type t, const uint8_t *b, size_t i)
{
    float d = 0, m = 0;
    size_t at = t == TENSOR_Q6_K ? 208 : 0;
    tensor_dequantize(TENSOR_F16, b + at, &d, 1);
    if (t != TENSOR_Q6_K)
        tensor_dequantize(TENSOR_F16, b + 2, &m, 1);
    if (t == TENSOR_Q6_K) {
        size_t half = i / 128, r = i % 128, l = r % 32, part = r / 32;
        unsigned low = b[64 * half + l + (part & 1 ? 32 : 0)];
        low = part >= 2 ? low >> 4 : low & 15;
        unsigned high = b[128 + 32 * half + l] >> (2 * part) & 3;
        int scale = (int8_t)b[192 + i / 16];
        return d * (float)scale * (float)((int)(low | high << 4) - 32);
    }
    size_t run = i / 32;
    const uint8_t *s = b + 4;
    unsigned scale = run < 4 ? s[run] & 63u : (s[run + 4] & 15u) | (s[run - 4] >> 6) << 4;
    unsigned min = run < 4 ? s[run + 4] & 63u : (unsigned)(s[run + 4] >> 4) | (s[run] >> 6) << 4;
    const uint8_t *q = b + (t == TENSOR_Q5_K ? 48 : 16) + i / 64 * 32;
    unsigned v = i / 32 % 2 ? q[i % 32] >> 4 : q[i % 32] & 15;
    if (t == TENSOR_Q5_K)
        v |= (b[16 + i % 32] >> run & 1u) << 4;
    return d * (float)scale * (float)v - m * (float)min;
}

static void superblocks_equal_their_description(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 3;
    const enum tensor_type types[] = {TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
    for (int t = 0; t < 3; t++)
        for (int round = 0; round < 20; round++) {
            size_t bytes = tensor_type_bytes(types[t], 512);
            uint8_t b[2 * 210];
            for (size_t i = 0; i < bytes; i++)
                b[i] = (uint8_t)test_rand(&seed);
            for (int block = 0; block < 2; block++) {
                uint8_t *p = b + (size_t)block * bytes / 2;
                put_half(p + (types[t] == TENSOR_Q6_K ? 208 : 0), 0.0625f);
                if (types[t] != TENSOR_Q6_K)
                    put_half(p + 2, -0.25f);
            }
            float y[512];
            tensor_dequantize(types[t], b, y, 512);
            for (size_t i = 0; i < 512; i++)
                CHECK_NEAR(y[i], element(types[t], b + i / 256 * (bytes / 2), i % 256), 1e-5);
        }
}

static void nothing_outside_the_run_is_touched(void **state)
{
    UNUSED_STATE(state);
    static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16, TENSOR_Q4_0,
                                             TENSOR_Q4_1, TENSOR_Q5_0, TENSOR_Q5_1, TENSOR_Q8_0,
                                             TENSOR_Q4_K, TENSOR_Q5_K, TENSOR_Q6_K};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        size_t bytes = tensor_type_bytes(types[t], 256);
        CHECK(bytes > 0);
        uint8_t *src = calloc(1, bytes); /* exactly: a sanitizer sees one byte more */
        float y[258];
        y[0] = y[257] = 42.0f;
        tensor_dequantize(types[t], src, y + 1, 256);
        CHECK(y[0] == 42.0f && y[257] == 42.0f && y[1] == 0.0f && y[256] == 0.0f);
        free(src);
    }
    float y = 0;
    tensor_dequantize((enum tensor_type)99, "", &y, 1);
    CHECK(isnan(y));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(halves_follow_the_standard),
        TEST(a_block_worked_out_by_hand),
        TEST(superblocks_equal_their_description),
        TEST(nothing_outside_the_run_is_touched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
