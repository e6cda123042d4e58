/* What the scanner reads, value by value. */
#include "check.h"

#include <math.h>

#include "typed.h"

static size_t scan(const char *s, struct typed *out, size_t max)
{
    bool cut;
    return typed_scan(cairn_str_of(s), 0, strlen(s), out, max, &cut);
}

static void one_number_each_with_its_unit(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *text;
        double value;
        enum typed_dim dim;
    } rows[] = {
        {"5",                   5,            DIM_NONE   },
        {"1,234",               1234,         DIM_NONE   },
        {"1,234,567.89",        1234567.89,   DIM_NONE   },
        {"1.234.567",           1234567,      DIM_NONE   },
        {"1'250'000",           1250000,      DIM_NONE   },
        {"10\xC2\xA0"
         "000",        10000,        DIM_NONE   },
        {"3,5",                 3.5,          DIM_NONE   },
        {"12%",                 12,           DIM_PERCENT},
        {"12 per cent",         12,           DIM_PERCENT},
        {"$3.4 million",        3.4e6,        DIM_MONEY  },
        {"\xE2\x82\xAC"
         "20",         20,           DIM_MONEY  },
        {"20 \xE2\x82\xAC",     20,           DIM_MONEY  },
        {"EUR 20",              20,           DIM_MONEY  },
        {"5k",                  5000,         DIM_NONE   },
        {"2.5bn",               2.5e9,        DIM_NONE   },
        {"30 days",             30 * 86400.0, DIM_SECONDS},
        {"30-day",              30 * 86400.0, DIM_SECONDS},
        {"two weeks",           14 * 86400.0, DIM_SECONDS},
        {"3 years",             36,           DIM_MONTHS },
        {"5GB",                 5e9,          DIM_BYTES  },
        {"20 \xC2\xB0"
         "C",          20,           DIM_CELSIUS},
        {"twenty-five",         25,           DIM_NONE   },
        {"two hundred and six", 206,          DIM_NONE   },
        {"three million",       3e6,          DIM_NONE   },
        {"25 thousand",         25000,        DIM_NONE   },
        {"ten business days",   10 * 86400.0, DIM_SECONDS},
        {"third",               3,            DIM_NONE   },
        {"21st",                21,           DIM_NONE   },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct typed t[8];
        char text[128];
        snprintf(text, sizeof text, "It was %s then.", rows[i].text);
        size_t n = scan(text, t, 8);
        if (n != 1 || t[0].kind != TYPED_NUMBER || t[0].dim != rows[i].dim ||
            !(fabs(t[0].value - rows[i].value) <= 1e-6 * fabs(rows[i].value))) {
            print_error("\"%s\": %zu values, first kind %d %.9g dim %d\n", text, n, n ? (int)t[0].kind : -1,
                        n ? t[0].value : 0, n ? (int)t[0].dim : -1);
            fail();
        }
        CHECK(t[0].start < t[0].end && t[0].end <= strlen(text));
    }
}

static void one_date_each(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *text;
        int year, month, day;
    } rows[] = {
        {"12 March 2024",      2024, 3, 12},
        {"March 12, 2024",     2024, 3, 12},
        {"12th of March 2024", 2024, 3, 12},
        {"2024-03-12",         2024, 3, 12},
        {"12.03.2024",         2024, 3, 12},
        {"12/03/2024",         2024, 3, 12},
        {"March 2024",         2024, 3, 0 },
        {"March 12",           0,    3, 12},
        {"12. March",          0,    3, 12},
        {"Sept 1",             0,    9, 1 },
        {"2024/03/12",         2024, 3, 12},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct typed t[8];
        char text[128];
        snprintf(text, sizeof text, "It was on %s there.", rows[i].text);
        size_t n = scan(text, t, 8);
        if (n != 1 || t[0].kind != TYPED_DATE || t[0].year != rows[i].year || t[0].month != rows[i].month ||
            t[0].day != rows[i].day) {
            print_error("\"%s\": %zu values, kind %d %d-%d-%d\n", text, n, n ? (int)t[0].kind : -1,
                        n ? t[0].year : 0, n ? t[0].month : 0, n ? t[0].day : 0);
            fail();
        }
    }
}

static void what_is_no_value_is_not_read(void **state)
{
    UNUSED_STATE(state);
    static const char *const rows[] = {"I may go and march on.", "See [1] and [2, 3].", "an and/or choice",
                                       "the mid-term plan",      "We can second that.", ""};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct typed t[8];
        size_t n = scan(rows[i], t, 8);
        for (size_t k = 0; k < n; k++)
            if (!(t[k].flags & TYPED_WEAK)) {
                print_error("\"%s\": a value at %zu..%zu\n", rows[i], t[k].start, t[k].end);
                fail();
            }
    }
}

static void identifiers_are_told_from_amounts(void **state)
{
    UNUSED_STATE(state);
    static const char *const is[] = {"CVE-2024-1234",       "10.0.0.1",     "v2.3.1",   "svc_backup_01",
                                     "https://a.example/x", "it@a.example", "COVID-19", "/etc/cairn/conf",
                                     "--dry-run",           "H1N1"};
    static const char *const is_not[] = {"30-day", "5GB", "3rd", "1990s",      "mid-2020",
                                         "5pm",    "$5m", "12%", "well-known", "1,234"};
    for (size_t i = 0; i < sizeof is / sizeof is[0]; i++) {
        char text[128];
        struct typed t[8];
        snprintf(text, sizeof text, "see %s, please", is[i]);
        size_t n = scan(text, t, 8);
        if (n != 1 || t[0].kind != TYPED_IDENT || t[0].end - t[0].start != strlen(is[i])) {
            print_error("%s: not read as an identifier\n", is[i]);
            fail();
        }
    }
    for (size_t i = 0; i < sizeof is_not / sizeof is_not[0]; i++) {
        char text[128];
        struct typed t[8];
        snprintf(text, sizeof text, "see %s, please", is_not[i]);
        size_t n = scan(text, t, 8);
        for (size_t k = 0; k < n; k++)
            if (t[k].kind == TYPED_IDENT) {
                print_error("%s: read as an identifier\n", is_not[i]);
                fail();
            }
    }
}

static void too_many_values_are_reported_not_written(void **state)
{
    UNUSED_STATE(state);
    struct typed t[4];
    bool cut = false;
    const char *s = "11 apples, 12 pears, 13 plums, 14 figs, 15 nuts";
    CHECK_U64_EQ(typed_scan(cairn_str_of(s), 0, strlen(s), t, 4, &cut), 4);
    CHECK(cut);
}

static void random_bytes_stay_in_bounds(void **state)
{
    UNUSED_STATE(state);
    uint64_t seed = 7;
    static const char pieces[] = "0123456789.,:/-[]\"$%@_ apmMarchkgxv\n\xC2\xE2\x80\x9C";
    for (int round = 0; round < 3000; round++) {
        size_t n = test_rand(&seed) % 64;
        char *s = malloc(n ? n : 1); /* exact size: a read past the end is seen by the sanitizer */
        for (size_t i = 0; i < n; i++)
            s[i] = pieces[test_rand(&seed) % (sizeof pieces - 1)];
        struct typed t[32];
        size_t got = typed_scan((struct cairn_str){s, n}, 0, n, t, 32, NULL);
        for (size_t i = 0; i < got; i++)
            CHECK(t[i].start <= t[i].end && t[i].end <= n);
        size_t a, b;
        (void)typed_find_quote((struct cairn_str){s, n}, (struct cairn_str){s, n / 2}, &a, &b);
        (void)typed_find_ident((struct cairn_str){s, n}, (struct cairn_str){s + n / 2, n - n / 2}, &a);
        free(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(one_number_each_with_its_unit),
        TEST(one_date_each),
        TEST(what_is_no_value_is_not_read),
        TEST(identifiers_are_told_from_amounts),
        TEST(too_many_values_are_reported_not_written),
        TEST(random_bytes_stay_in_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
