/* msgpack to JSON and back; addresses. */
#include "check.h"

#include "wire.h"

static char *json_of(const void *p, size_t n, bool pretty)
{
    TEST_WHY;
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    CHECK_OK(api_msgpack_to_json(p, n, pretty, &b, &why));
    return cairn_buf_steal(&b);
}
#define CHECK_JSON(bytes, want)                                                                              \
    do {                                                                                                     \
        char *j_ = json_of(bytes, sizeof(bytes) - 1, false);                                                 \
        CHECK_STR_EQ(j_, want);                                                                              \
        cairn_free(j_);                                                                                      \
    } while (0)

static void values_become_json(void **state)
{
    UNUSED_STATE(state);
    CHECK_JSON("\xc0", "null");
    CHECK_JSON("\xc3", "true");
    CHECK_JSON("\x05", "5");
    CHECK_JSON("\xff", "-1");
    CHECK_JSON("\xd0\x80", "-128");
    CHECK_JSON("\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615");
    CHECK_JSON("\xd3\x80\0\0\0\0\0\0\0", "-9223372036854775808");
    CHECK_JSON("\xcb\x3f\xb9\x99\x99\x99\x99\x99\x9a", "0.1");
    CHECK_JSON("\xca\x3d\xcc\xcc\xcd", "0.1");
    CHECK_JSON("\xcb\x3f\xf0\0\0\0\0\0\0", "1.0");
    CHECK_JSON("\xcb\x7f\xf8\0\0\0\0\0\0", "null");
    CHECK_JSON("\xcb\x7f\xf0\0\0\0\0\0\0", "null");
    CHECK_JSON("\xa7\"\\\n\x01\xc3\xa9z", "\"\\\"\\\\\\n\\u0001\xc3\xa9z\"");
    CHECK_JSON("\xc4\x03\x00\xff\x01", "\"AP8B\"");
    CHECK_JSON("\x93\x01\x90\x80", "[1,[],{}]");
    CHECK_JSON("\x82\xa1"
               "a\x01\x02\xa1x",
               "{\"a\":1,\"2\":\"x\"}");
    char *p = json_of("\x81\xa1"
                      "a\x92\x01\x02",
                      6, true);
    CHECK_STR_EQ(p, "{\n  \"a\": [\n    1,\n    2\n  ]\n}");
    cairn_free(p);
}

static void bad_bytes_are_errors(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *p;
        size_t n;
        enum cairn_err err;
    } bad[] = {
        {"",             0, CAIRN_ECORRUPT},
        {"\xc1",         1, CAIRN_ECORRUPT},
        {"\x92\x01",     2, CAIRN_ECORRUPT},
        {"\xa5"
         "ab",  3, CAIRN_ECORRUPT},
        {"\x01\x02",     2, CAIRN_ECORRUPT},
        {"\xa2\xc3\x28", 3, CAIRN_ECORRUPT},
        {"\x81\x90\x01", 3, CAIRN_EINVAL  },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        TEST_WHY;
        struct cairn_buf b;
        cairn_buf_init(&b, 0);
        CHECK_ERR(api_msgpack_to_json(bad[i].p, bad[i].n, false, &b, &why), bad[i].err);
        cairn_buf_release(&b);
    }
    TEST_WHY;
    struct cairn_buf b;
    char deep[4096];
    memset(deep, 0x91, sizeof deep);
    cairn_buf_init(&b, 0);
    CHECK_ERR(api_msgpack_to_json(deep, sizeof deep, false, &b, &why), CAIRN_EFULL);
    memset(deep, '[', sizeof deep);
    CHECK(api_json_to_msgpack(deep, sizeof deep, &b, &why) != CAIRN_OK);
    memset(deep + sizeof deep / 2, ']', sizeof deep / 2);
    CHECK(api_json_to_msgpack(deep, sizeof deep, &b, &why) != CAIRN_OK);
    CHECK_ERR(api_json_to_msgpack("{\"a\":1,\"a\":2}", 13, &b, &why), CAIRN_EINVAL);
    CHECK_ERR(api_json_to_msgpack("{", 1, &b, &why), CAIRN_EINVAL);
    cairn_buf_release(&b);
}

static void json_survives_the_round_trip(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const char *text = "{\"a\":[1,-5,0.1,1e+300,true,false,null],\"b\":{\"c\":\"x\\ny "
                       "\xf0\x9f\x98\x80\"},\"n\":9007199254740993}";
    struct cairn_buf m, j;
    cairn_buf_init(&m, 0);
    cairn_buf_init(&j, 0);
    CHECK_OK(api_json_to_msgpack(text, strlen(text), &m, &why));
    CHECK_OK(api_msgpack_to_json(m.bytes, m.len, false, &j, &why));
    CHECK_STR_EQ(j.bytes, text);
    cairn_buf_release(&m);
    cairn_buf_release(&j);
}

static void addresses_are_checked(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct wire_addr a;
    CHECK_OK(wire_addr_parse(&a, "127.0.0.1:0", &why));
    CHECK(a.loopback && !a.is_unix);
    CHECK_OK(wire_addr_parse(&a, "localhost:7420", &why));
    CHECK(a.loopback);
    CHECK_OK(wire_addr_parse(&a, "[::1]:7420", &why));
    CHECK(a.loopback);
    CHECK_OK(wire_addr_parse(&a, "0.0.0.0:7420", &why));
    CHECK(!a.loopback);
    CHECK_OK(wire_addr_parse(&a, "[::]:7420", &why));
    CHECK(!a.loopback);
    CHECK_OK(wire_addr_parse(&a, "unix:/tmp/x", &why));
    CHECK(a.loopback && a.is_unix);
    static const char *const bad[] = {
        "",      "7420",     "127.0.0.1",      "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
        ":7420", "::1:7420", "example.com:80", "unix:"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK_ERR(wire_addr_parse(&a, bad[i], &why), CAIRN_EINVAL);
    char longer[300];
    snprintf(longer, sizeof longer, "unix:%0200d", 1);
    CHECK_ERR(wire_addr_parse(&a, longer, &why), CAIRN_EINVAL);
}

static void errors_have_two_forms_and_names_come_back(void **state)
{
    UNUSED_STATE(state);
    for (int e = -1; e >= CAIRN_ESTATE; e--)
        CHECK_I64_EQ(wire_err_by_name(cairn_str_of(cairn_err_name((enum cairn_err)e))), e);
    CHECK_I64_EQ(wire_err_by_name(cairn_str_of("SOMETHING_NEW")), CAIRN_EIO);
    struct cairn_buf b;
    struct pk k;
    cairn_buf_init(&b, 0);
    pk_init(&k, &b);
    wire_pack_error(&k, false, CAIRN_ENOTFOUND, "no collection x");
    char *j = json_of(b.bytes, b.len, false);
    CHECK_STR_EQ(j, "\"NOT_FOUND: no collection x\"");
    cairn_free(j);
    cairn_buf_clear(&b);
    wire_pack_error(&k, true, CAIRN_ENOTFOUND, "no collection x");
    j = json_of(b.bytes, b.len, false);
    CHECK_STR_EQ(j, "{\"code\":\"NOT_FOUND\",\"message\":\"no collection x\",\"data\":null}");
    cairn_free(j);
    cairn_buf_release(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(values_become_json),
        TEST(bad_bytes_are_errors),
        TEST(json_survives_the_round_trip),
        TEST(addresses_are_checked),
        TEST(errors_have_two_forms_and_names_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
