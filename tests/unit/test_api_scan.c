/* The pre-scan: refuses at the header, costs linear time, and agrees with msgpack-c on all it accepts. */
#include "check.h"

#include "wire.h"

static const struct wire_limits wide = {1 << 20, 16, 65536, 1 << 19, 1 << 19};

static int feed(const struct wire_limits *l, const void *bytes, size_t len, size_t *used,
                struct cairn_why *why)
{
    struct wire_scan s;
    wire_scan_init(&s, l);
    return wire_scan_feed(&s, bytes, len, used, why);
}

static void whole_values_end_where_they_end(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *bytes;
        size_t len, used;
    } cases[] = {
        {"\x01",                          1,  1 },
        {"\xff",                          1,  1 },
        {"\xc0\xc0",                      2,  1 },
        {"\xa3"
         "abcX",                 5,  4 },
        {"\x90",                          1,  1 },
        {"\x80",                          1,  1 },
        {"\x92\x01\x91\x80\x05",          5,  4 },
        {"\x81\xa1k\x93\x01\x02\x03",     7,  7 },
        {"\xcb\x3f\xf0\0\0\0\0\0\0",      9,  9 },
        {"\xc4\x02zz",                    4,  4 },
        {"\xd9\x02zz",                    4,  4 },
        {"\xda\0\x02zz",                  5,  5 },
        {"\xdb\0\0\0\x02zz",              7,  7 },
        {"\xdc\0\x01\x05",                4,  4 },
        {"\xdd\0\0\0\x01\x05",            6,  6 },
        {"\xde\0\x01\x05\x06",            5,  5 },
        {"\xdf\0\0\0\x01\x05\x06",        7,  7 },
        {"\x94\x00\x01\xa5hello\x91\x80", 11, 11},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        TEST_WHY;
        size_t used = 99;
        CHECK_I64_EQ(feed(&wide, cases[i].bytes, cases[i].len, &used, &why), 1);
        CHECK_U64_EQ(used, cases[i].used);
        for (size_t cut = 0; cut < cases[i].used; cut++) { /* any shorter start is simply not whole yet */
            CHECK_I64_EQ(feed(&wide, cases[i].bytes, cut, &used, &why), 0);
            CHECK_U64_EQ(used, cut);
        }
    }
}

static void bombs_are_refused_at_their_header(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *bytes;
        size_t len;
        enum cairn_err err;
    } cases[] = {
        {"\xdd\xff\xff\xff\xff",         5, CAIRN_EFULL   }, /* 4 G array entries */
        {"\xdf\xff\xff\xff\xff",         5, CAIRN_EFULL   },
        {"\xdb\xff\xff\xff\xff",         5, CAIRN_EFULL   },
        {"\xc6\xff\xff\xff\xff",         5, CAIRN_EFULL   },
        {"\xdb\x00\x08\x00\x01",         5, CAIRN_EFULL   }, /* one byte over the limit of a string */
        {"\xdd\x00\x01\x00\x00",         5, CAIRN_EFULL   }, /* 65536 entries and the array itself */
        {"\x92\xdd\x00\x00\xff\xff\x01", 7, CAIRN_EFULL   }, /* together with what the parent still owes */
        {"\xc1",                         1, CAIRN_ECORRUPT},
        {"\x91\xc1",                     2, CAIRN_ECORRUPT},
        {"\xc7\x01\x01\x00",             4, CAIRN_ECORRUPT},
        {"\xc8",                         1, CAIRN_ECORRUPT},
        {"\xd4\x01\x01",                 3, CAIRN_ECORRUPT},
        {"\xd6\xff\0\0\0\0",             6, CAIRN_ECORRUPT}, /* a timestamp too: no method takes one */
        {"\xd8",                         1, CAIRN_ECORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        TEST_WHY;
        size_t used;
        struct wire_scan s;
        wire_scan_init(&s, &wide);
        CHECK_ERR(
            (enum cairn_err)wire_scan_feed(&s, (const uint8_t *)cases[i].bytes, cases[i].len, &used, &why),
            cases[i].err);
        CHECK_ERR((enum cairn_err)wire_scan_feed(&s, (const uint8_t *)"\x01", 1, &used, &why),
                  CAIRN_ECORRUPT); /* and stays refused */
    }
    TEST_WHY;
    size_t used;
    CHECK_I64_EQ(feed(&wide, "\xdb\x00\x08\x00\x00", 5, &used, &why), 0); /* exactly the limit */
    CHECK_I64_EQ(feed(&wide, "\xdd\x00\x00\xff\xff", 5, &used, &why), 0);
}

static void depth_is_counted_in_containers(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    uint8_t nest[64];
    size_t used;
    for (size_t limit = 0; limit <= 40; limit++) {
        struct wire_limits l = wide;
        size_t real = limit > WIRE_DEPTH_MAX ? WIRE_DEPTH_MAX : limit;
        l.depth = limit;
        memset(nest, 0x91, sizeof nest);
        nest[real] = 0x05;
        CHECK_I64_EQ(feed(&l, nest, real + 1, &used, &why), 1);
        nest[real] = 0x90; /* an empty container is a container */
        CHECK_ERR((enum cairn_err)feed(&l, nest, real + 1, &used, &why), CAIRN_EFULL);
        memset(nest, 0x81, sizeof nest);
        if (real < WIRE_DEPTH_MAX)
            CHECK_ERR((enum cairn_err)feed(&l, nest, sizeof nest, &used, &why), CAIRN_EFULL);
    }
}

static void message_bytes_count_what_is_declared(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct wire_limits l = {10, 16, 100, 100, 100};
    size_t used;
    CHECK_I64_EQ(feed(&l,
                      "\xa9"
                      "123456789",
                      10, &used, &why),
                 1);
    CHECK_ERR((enum cairn_err)feed(&l, "\xaa", 1, &used, &why), CAIRN_EFULL);
    CHECK_I64_EQ(feed(&l, "\x99\1\2\3\4\5\6\7\1\2", 10, &used, &why), 1);
    CHECK_ERR((enum cairn_err)feed(&l, "\x9a", 1, &used, &why), CAIRN_EFULL);
    CHECK_ERR((enum cairn_err)feed(&l, "\x85", 1, &used, &why), CAIRN_EFULL); /* ten values and the header */
    /* header, string header, seven bytes, and one byte owed: ten */
    CHECK_I64_EQ(feed(&l,
                      "\x92\xa7"
                      "1234567",
                      9, &used, &why),
                 0);
    CHECK_ERR((enum cairn_err)feed(&l, "\x92\xa8", 2, &used, &why), CAIRN_EFULL);
}

/* A random value; now and then over a limit, now and then damaged. */
static void grow(struct cairn_buf *b, uint64_t *seed, unsigned depth)
{
    uint64_t r = test_rand(seed);
    uint8_t tag;
    unsigned n = (unsigned)(r >> 8) % 5;
    switch (r % 16) {
    case 0:
    case 1:
    case 2:
        if (depth < 18) {
            bool map = r >> 16 & 1;
            switch (r >> 17 & 3) {
            case 0:
                tag = (uint8_t)((map ? 0x80u : 0x90u) | n);
                cairn_buf_put(b, &tag, 1);
                break;
            case 1:
                cairn_buf_put(b, map ? "\xde\0" : "\xdc\0", 2);
                tag = (uint8_t)n;
                cairn_buf_put(b, &tag, 1);
                break;
            default:
                cairn_buf_put(b, map ? "\xdf\0\0\0" : "\xdd\0\0\0", 4);
                tag = (uint8_t)n;
                cairn_buf_put(b, &tag, 1);
            }
            for (unsigned i = 0; i < (map ? 2 * n : n); i++)
                grow(b, seed, depth + 1);
            break;
        }
        __attribute__((fallthrough));
    case 3:
    case 4:
        tag = (uint8_t)(0xa0u | n);
        cairn_buf_put(b, &tag, 1);
        cairn_buf_put(b, "abcde", n);
        break;
    case 5:
        cairn_buf_put(b, "\xc4", 1);
        tag = (uint8_t)n;
        cairn_buf_put(b, &tag, 1);
        cairn_buf_put(b, "\0\xff\1\2\3", n);
        break;
    case 6: {
        static const uint8_t tags[] = {0xcc, 0xcd, 0xce, 0xcf, 0xd0, 0xd1, 0xd2, 0xd3, 0xca, 0xcb};
        static const uint8_t sizes[] = {1, 2, 4, 8, 1, 2, 4, 8, 4, 8};
        size_t i = (size_t)(r >> 20) % 10;
        cairn_buf_put(b, &tags[i], 1);
        cairn_buf_put(b, "\x12\x34\x56\x78\x9a\xbc\xde\xf0", sizes[i]);
        break;
    }
    case 7:
        cairn_buf_put(b, r >> 20 & 1 ? "\xc2" : "\xc3", 1);
        break;
    case 8:
        cairn_buf_put(b, "\xc0", 1);
        break;
    default:
        tag = (uint8_t)(r >> 24);
        tag = tag < 0x80 || tag >= 0xe0 ? tag : 7;
        cairn_buf_put(b, &tag, 1);
    }
}

static void accepted_bytes_decode_whole_and_byte_by_byte(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 20261121;
    size_t accepted = 0, refused = 0, cut = 0;
    for (int turn = 0; turn < 60000; turn++) {
        TEST_WHY;
        struct cairn_buf b;
        cairn_buf_init(&b, 1 << 20);
        grow(&b, &seed, 0);
        for (uint64_t k = test_rand(&seed) % 4; k > 1; k--) /* half of them damaged */
            b.bytes[test_rand(&seed) % b.len] = (char)test_rand(&seed);
        struct wire_limits l = {4096, 12, 200, 1000, 1000};
        size_t used, total = 0;
        int rc = feed(&l, b.bytes, b.len, &used, &why), rc2 = 0;
        struct wire_scan s;
        wire_scan_init(&s, &l);
        while (total < b.len && rc2 == 0) {
            size_t u;
            rc2 = wire_scan_feed(&s, (const uint8_t *)b.bytes + total, 1, &u, &why);
            total += u;
        }
        CHECK_I64_EQ(rc2, rc);
        CHECK_U64_EQ(total, used);
        accepted += rc == 1;
        refused += rc < 0;
        cut += rc == 0;
        if (rc == 1) {
            msgpack_unpacked u;
            size_t off = 0;
            msgpack_unpacked_init(&u);
            CHECK(msgpack_unpack_next(&u, b.bytes, used, &off) == MSGPACK_UNPACK_SUCCESS);
            CHECK_U64_EQ(off, used);
            msgpack_unpacked_destroy(&u);
            struct wire_reader r = {(const uint8_t *)b.bytes, used, 0};
            CHECK(wire_skip(&r));
            CHECK_U64_EQ(r.at, used);
        }
        cairn_buf_release(&b);
    }
    print_message("accepted %zu, refused %zu, not whole %zu\n", accepted, refused, cut);
    CHECK_GE(accepted, 10000);
    CHECK_GE(refused, 500);
    CHECK_GE(cut, 500);
}

static void a_scan_serves_one_value_after_the_other(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    const uint8_t bytes[] = {0x92, 0x01, 0xa1, 'x', 0x05, 0x90, 0xc1};
    const size_t want[] = {4, 1, 1};
    struct wire_scan s;
    size_t at = 0, used;
    wire_scan_init(&s, &wide);
    for (int i = 0; i < 3; i++) {
        CHECK_I64_EQ(wire_scan_feed(&s, bytes + at, sizeof bytes - at, &used, &why), 1);
        CHECK_U64_EQ(used, want[i]);
        at += used;
    }
    CHECK_ERR((enum cairn_err)wire_scan_feed(&s, bytes + at, sizeof bytes - at, &used, &why), CAIRN_ECORRUPT);
}

static void envelopes_are_taken_apart(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct wire_envelope e;
    const char good[] = "\x94\x00\xce\xff\xff\xff\xff\xa4ping\x91\x80";
    CHECK(wire_envelope(&e, (const uint8_t *)good, sizeof good - 1, &why));
    CHECK_U64_EQ(e.msgid, UINT32_MAX);
    CHECK(wire_str_is(e.method, "ping"));
    CHECK(e.params_ok && e.params.len - e.params.at == 1);
    const char notify[] = "\x93\x02\xa8$/cancel\x91\x07";
    CHECK(wire_envelope(&e, (const uint8_t *)notify, sizeof notify - 1, &why));
    CHECK(e.kind == WIRE_NOTIFICATION);
    const char two[] = "\x94\x00\x01\xa1x\x92\x01\x02";
    CHECK(wire_envelope(&e, (const uint8_t *)two, sizeof two - 1, &why));
    CHECK(!e.params_ok);
    static const struct {
        const char *p;
        size_t n;
    } bad[] = {
        {"\x05",                                  1 },
        {"\x80",                                  1 },
        {"\x93\x00\x01\xa1x",                     5 },
        {"\x95\x00\x01\xa1x\x90\x90",             7 },
        {"\x94\x03\x01\xa1x\x90",                 6 },
        {"\x94\x00\xff\xa1x\x90",                 6 }, /* a negative msgid */
        {"\x94\x00\xcf\0\0\0\1\0\0\0\0\xa1x\x90", 14}, /* more than 32 bits */
        {"\x94\x00\x01\x05\x90",                  5 }, /* the method is no string */
        {"\x94\xa1\x30\x01\xa1x\x90",             7 },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        why.text[0] = 0;
        CHECK(!wire_envelope(&e, (const uint8_t *)bad[i].p, bad[i].n, &why));
        CHECK(why.text[0]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(whole_values_end_where_they_end),
        TEST(bombs_are_refused_at_their_header),
        TEST(depth_is_counted_in_containers),
        TEST(message_bytes_count_what_is_declared),
        TEST(accepted_bytes_decode_whole_and_byte_by_byte),
        TEST(a_scan_serves_one_value_after_the_other),
        TEST(envelopes_are_taken_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
