/* test_loaders_hostile.c - files that are not text, and text made to hurt: an error in words or a result,
 * soon. */
#include "check.h"
#include "loaders_promise.h"

#define REPEAT_MAX 100000u

static char *repeat(const char *head, const char *s, size_t n, const char *tail, size_t *len)
{
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    cairn_buf_puts(&b, head);
    for (size_t i = 0; i < n; i++)
        cairn_buf_puts(&b, s);
    cairn_buf_puts(&b, tail);
    CHECK(!b.failed);
    *len = b.len;
    return cairn_buf_steal(&b);
}

static void what_is_not_text_is_refused_with_a_reason(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *bytes;
        size_t len;
        const char *says;
    } bad[] = {
        {"",                      0,  "empty"   },
        {" \n\t \xC2\xA0\r\n",    7,  "empty"   },
        {"\xEF\xBB\xBF",          3,  "empty"   },
        {"abc\0def",              7,  "offset 3"},
        {"\x01\x02\x03\x04\x05",  5,  "binary"  },
        {"na\xEFve",              5,  "offset 2"},
        {"cut \xE2\x82",          6,  "offset 4"},
        {"sur\xED\xA0\x80rogate", 12, "offset 3"},
        {"%PDF-1.7 ...",          12, "PDF"     },
        {"PK\x03\x04....",        8,  "ZIP"     },
        {"\xFF\xFEh\0i\0",        6,  "UTF-16"  },
    };
    static const char *const names[] = {"a.txt", "a.md", "a.html", "a"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        for (size_t k = 0; k < 4; k++) {
            TEST_WHY;
            struct loader_document *d;
            CHECK_ERR(loader_parse(&d, names[k], bad[i].bytes, bad[i].len, LOADER_UNKNOWN, NULL, &why),
                      CAIRN_EINVAL);
            CHECK(d == NULL);
            if (!strstr(why.text, bad[i].says) || !strstr(why.text, names[k]))
                print_error("says: %s; want: %s\n", why.text, bad[i].says);
            CHECK(strstr(why.text, bad[i].says) && strstr(why.text, names[k]));
        }
    TEST_WHY;
    struct loader_document *d;
    CHECK_ERR(loader_parse(&d, "a.html", "<p hidden>x</p><script>y</script>", 33, LOADER_UNKNOWN, NULL, &why),
              CAIRN_EINVAL);
    CHECK(strstr(why.text, "empty"));
}

struct hostile {
    enum loader_format format;
    const char *head, *unit, *tail;
    size_t n;
    enum cairn_err want;
};

static void text_made_to_hurt_ends_soon(void **state)
{
    UNUSED_STATE(state);
    static const struct hostile cases[] = {
        {LOADER_HTML,     "",                      "<div>",                  "x",    REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "",                      "<div></b>",              "x",    REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "",                      "<b><div></b>",           "x",    REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "",                      "<span><div></span>",     "x",    REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "",                      "<div><table><td></div>", "x",    REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "<svg>",                 "<g>",                    "x",    REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "",                      "<table><tr><td>",        "x",    REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "",                      "<ul><li>",               "x",    REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "<a ",                   "a=1 ",                   ">x",   REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "<a ",                   "a=\"1\"b='2'",           ">x",   REPEAT_MAX,      CAIRN_EINVAL},
        {LOADER_HTML,     "<p title=\"",           "long ",                  "\">x", REPEAT_MAX,      CAIRN_OK    },
        {LOADER_HTML,     "<",                     "p",                      ">x",   REPEAT_MAX,      CAIRN_OK    },
        {LOADER_HTML,     "x",                     "<p>y",                   "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_HTML,     "x",                     "<li>y",                  "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_HTML,     "x<!--",                 "-",                      "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_HTML,     "x",                     "<",                      "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_HTML,     "x",                     "</div>",                 "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_HTML,     "x",                     "&amp",                   "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_HTML,     "<script>",              "<!--<script>",           "x",    REPEAT_MAX,      CAIRN_EINVAL}, /* all of it is script */
        {LOADER_MARKDOWN, "",                      ">",                      " x",   REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "> ",                     "x\n",  REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "- ",                     "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "- - - - - - - - - - x", "\n",                     "y",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "[",                      "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "![[]()",                 "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "*a_",                    "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "_",                      ".",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "`a``",                   "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "<?",                     "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "a <!A ",                 "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "<a href=\"",             "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "&lt",                    "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "| a |\n",                "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "|-|\n",                  "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "[a]: b\n",               "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "---\n",                  "x",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_MARKDOWN, "",                      "# a\n",                  "x",    REPEAT_MAX,      CAIRN_EFULL }, /* headings without number */
        {LOADER_MARKDOWN, "x",                     "    ",                   "y",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_TEXT,     "",                      "x",                      "",     20 * REPEAT_MAX, CAIRN_OK    },
        {LOADER_TEXT,     "",                      "\xE6\xBC\xA2",           "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_TEXT,     "x",                     "\n",                     "y",    REPEAT_MAX,      CAIRN_OK    },
        {LOADER_TEXT,     "",                      "a. ",                    "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_TEXT,     "",                      "- a\n",                  "",     REPEAT_MAX,      CAIRN_OK    },
        {LOADER_TEXT,     "",                      "(",                      "",     REPEAT_MAX,      CAIRN_OK    },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        TEST_WHY;
        size_t len;
        char *text = repeat(cases[i].head, cases[i].unit, cases[i].n, cases[i].tail, &len);
        struct loader_document *d;
        int64_t started = cairn_now_us();
        enum cairn_err err = loader_parse(&d, "x", text, len, cases[i].format, NULL, &why);
        if (getenv("CAIRN_TEST_TIMES"))
            print_message("%8.3f s  %s\n", (double)(cairn_now_us() - started) / 1e6, cases[i].unit);
        if (err != cases[i].want)
            print_error("%s x %zu: %s %s\n", cases[i].unit, cases[i].n, cairn_err_name(err), why.text);
        CHECK_I64_EQ(err, cases[i].want);
        if (!err)
            CHECK(promise_broken(d, 2000) == NULL);
        loader_document_free(d);
        cairn_free(text);
    }
}

static void the_tree_of_a_page_has_a_memory_limit(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct cairn_config *c = cairn_config_new();
    CHECK(c);
    CHECK_OK(cairn_config_add_table(c, loaders_conf, loaders_conf_len, &why));
    CHECK_OK(cairn_config_set(c, "loaders.html_tree_bytes_max", "4m", &why));
    /* each paragraph opens all of the formatting elements again: memory grows with the product */
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    cairn_buf_puts(&b, "<p>");
    for (int i = 0; i < 500; i++)
        cairn_buf_printf(&b, "<b id=%d>", i);
    for (int i = 0; i < 5000; i++)
        cairn_buf_puts(&b, "<p>x");
    struct loader_document *d;
    CHECK_ERR(loader_parse(&d, "x.html", b.bytes, b.len, LOADER_UNKNOWN, c, &why), CAIRN_EFULL);
    CHECK(strstr(why.text, "loaders.html_tree_bytes_max"));
    cairn_buf_release(&b);
    cairn_config_free(c);
}

static void every_failed_allocation_is_an_error(void **state)
{
    UNUSED_STATE(state);
    static const struct {
        const char *name, *text;
    } docs[] = {
        {"a.md",   "---\ntitle: T\n---\n# A\n\ntext: \n\n- b\n\n## C `d`\n\n| a | b |\n|---|---|\n| c | d "
                 "|\n\n```\ncode\n```\n\nlong. text.\n"           },
        {"a.html", "<title>T</title><body><header><a>x</a></header><h1>A</h1><p>text</p><ul><li>b</"
                   "ul><table><tr><th>a<th>b<tr><td>c<td>d"
                   "</table><sup>2</sup><pre>c</pre>"           },
        {"a.txt",  "TITLE\n\n1. Part\n   text\n\n- item\n\nmore text. And more.\n"},
    };
    for (size_t i = 0; i < 3; i++) {
        uint64_t n = 1;
        enum cairn_err err = CAIRN_ENOMEM;
        for (; err && n < 5000; n++) {
            TEST_WHY;
            struct loader_document *d;
            cairn_alloc_fail_after(n, true);
            err = loader_parse(&d, docs[i].name, docs[i].text, strlen(docs[i].text), LOADER_UNKNOWN, NULL,
                               &why);
            cairn_alloc_fail_after(0, true);
            if (err) {
                CHECK_I64_EQ(err, CAIRN_ENOMEM);
                CHECK(d == NULL && why.text[0]);
            } else
                CHECK(promise_broken(d, 2000) == NULL);
            loader_document_free(d);
        }
        CHECK_I64_EQ(err, CAIRN_OK);
        CHECK_GE(n, 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_not_text_is_refused_with_a_reason),
        TEST(text_made_to_hurt_ends_soon),
        TEST(the_tree_of_a_page_has_a_memory_limit),
        TEST(every_failed_allocation_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
