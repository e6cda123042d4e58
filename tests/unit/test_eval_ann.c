/* Vector files that lie, exact search against a plain one, which setting is compared, and the picture. */
#include "check.h"

#include "ann.h"

#include <math.h>

/* Reads bytes as a file of that name. */
static enum cairn_err read_as(const char *dir, const char *name, const void *bytes, size_t len,
                              struct ann_floats *out, struct cairn_why *why)
{
    char *path = cairn_path_join(dir, name);
    enum cairn_err err = cairn_write_file(path, bytes, len, why);
    if (!err)
        err = ann_floats_read(out, path, 0, why);
    cairn_free(path);
    return err;
}

static size_t npy(char *to, const char *header, const float *values, size_t n)
{
    size_t len = strlen(header);
    memcpy(to, "\x93NUMPY\1\0", 8);
    to[8] = (char)(len & 255);
    to[9] = (char)(len >> 8);
    memcpy(to + 10, header, len);
    if (n)
        memcpy(to + 10 + len, values, n * sizeof *values);
    return 10 + len + n * sizeof *values;
}

static void npy_files_are_read_and_written_back(void **state)
{
    (void)state;
    TEST_WHY;
    float v[6] = {1, 2, 3, 4, 5, 6};
    char *dir = test_tmpdir(), *path = cairn_path_join(dir, "w.npy"), bytes[512];
    struct ann_floats a, b;
    struct ann_ids ids = {NULL, 0, 0};
    size_t len = npy(bytes, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }  \n", v, 6);
    CHECK_OK(read_as(dir, "a.npy", bytes, len, &a, &why));
    CHECK(a.n == 3 && a.dim == 2 && memcmp(a.v, v, sizeof v) == 0);
    CHECK_OK(ann_floats_write(path, &a, &why));
    CHECK_OK(ann_floats_read(&b, path, 2, &why));
    CHECK(b.n == 2 && b.dim == 2 && memcmp(b.v, v, 16) == 0);
    CHECK_ERR(ann_ids_read(&ids, path, 0, &why), CAIRN_EUNSUPPORTED); /* floats are no ids */
    ann_floats_release(&a);
    ann_floats_release(&b);
    cairn_free(path);
    test_rmdir(dir);
}

static void a_header_that_lies_is_an_error_and_allocates_nothing(void **state)
{
    (void)state;
    TEST_WHY;
    static const struct {
        const char *header;
        enum cairn_err want;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 4096), }\n",             CAIRN_ECORRUPT    },
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551615, 2), }\n",    CAIRN_ECORRUPT    },
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999, 2), }\n",
         CAIRN_EUNSUPPORTED                                                                                       },
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1000000), }\n",                 CAIRN_ECORRUPT    },
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 0), }\n",                       CAIRN_ECORRUPT    },
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 2), }\n",                       CAIRN_ECORRUPT    },
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 2), }\n",                      CAIRN_EUNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }\n",                       CAIRN_ECORRUPT    },
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n",                         CAIRN_EUNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }\n",                    CAIRN_EUNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3",                                CAIRN_EUNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': False, 'shape':",                                   CAIRN_EUNSUPPORTED},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }\n",                       CAIRN_EUNSUPPORTED},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }\n",                        CAIRN_EUNSUPPORTED},
        {"{}\n",                                                                                CAIRN_ECORRUPT    },
        {"",                                                                                    CAIRN_ECORRUPT    },
    };
    float v[6] = {1, 2, 3, 4, 5, 6};
    char *dir = test_tmpdir(), bytes[512];
    struct ann_floats a;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t len = npy(bytes, cases[i].header, v, 6);
        CHECK_ERR(read_as(dir, "a.npy", bytes, len, &a, &why), cases[i].want);
        CHECK(a.v == NULL);
    }
    size_t len = npy(bytes, cases[7].header, v, 6);
    for (size_t cut = 0; cut < len; cut++)
        CHECK_ERR(read_as(dir, "a.npy", bytes, cut, &a, &why), CAIRN_ECORRUPT);
    bytes[8] = bytes[9] = (char)0xff; /* a header of 65,535 bytes */
    CHECK_ERR(read_as(dir, "a.npy", bytes, len, &a, &why), CAIRN_ECORRUPT);
    bytes[6] = 9;
    CHECK_ERR(read_as(dir, "a.npy", bytes, len, &a, &why), CAIRN_EUNSUPPORTED);
    v[4] = NAN;
    len = npy(bytes, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n", v, 6);
    CHECK_ERR(read_as(dir, "a.npy", bytes, len, &a, &why), CAIRN_ECORRUPT);
    CHECK_ERR(read_as(dir, "a.csv", bytes, len, &a, &why), CAIRN_EINVAL);
    test_rmdir(dir);
}

static void fvecs_rows_must_agree(void **state)
{
    (void)state;
    TEST_WHY;
    char *dir = test_tmpdir(), bytes[24];
    int32_t d = 2;
    float v[4] = {1, 2, 3, 4};
    struct ann_floats a;
    for (int i = 0; i < 2; i++) {
        memcpy(bytes + i * 12, &d, 4);
        memcpy(bytes + i * 12 + 4, v + i * 2, 8);
    }
    CHECK_OK(read_as(dir, "a.fvecs", bytes, 24, &a, &why));
    CHECK(a.n == 2 && a.dim == 2 && memcmp(a.v, v, sizeof v) == 0);
    ann_floats_release(&a);
    for (size_t cut = 0; cut < 24; cut++)
        if (cut != 12) /* there it is a whole file of one row */
            CHECK_ERR(read_as(dir, "a.fvecs", bytes, cut, &a, &why), CAIRN_ECORRUPT);
    static const int32_t lies[] = {1, 3, 0, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        memcpy(bytes + 12, &lies[i], 4);
        CHECK_ERR(read_as(dir, "a.fvecs", bytes, 24, &a, &why), CAIRN_ECORRUPT);
    }
    for (size_t i = 2; i < sizeof lies / sizeof lies[0]; i++) {
        memcpy(bytes, &lies[i], 4);
        CHECK_ERR(read_as(dir, "a.fvecs", bytes, 24, &a, &why), CAIRN_ECORRUPT);
    }
    test_rmdir(dir);
}

static void exact_search_equals_a_plain_one(void **state)
{
    (void)state;
    TEST_WHY;
    enum { N = 5000, DIM = 16, NQ = 300, K = 10 };
    struct ann_floats base, query;
    struct ann_ids truth;
    uint8_t *alive = cairn_malloc(N);
    CHECK(alive != NULL);
    CHECK_OK(ann_generate(&base, &query, N, DIM, NQ, 3, &why));
    for (int i = 0; i < N; i++)
        alive[i] = i % 3 != 0;
    CHECK_OK(ann_exact(&truth, &base, &query, NQ, alive, K, NULL, &why));
    for (int q = 0; q < NQ; q += 37) {
        float last = INFINITY;
        for (int k = 0; k < K; k++) {
            int32_t id = truth.v[q * K + k];
            float dot = 0;
            size_t better = 0;
            CHECK(id >= 0 && id < N && alive[id]);
            for (int i = 0; i < DIM; i++)
                dot += base.v[id * DIM + i] * query.v[q * DIM + i];
            CHECK(dot <= last + 1e-5f);
            last = dot;
            for (int j = 0; j < N; j++) {
                float other = 0;
                for (int i = 0; i < DIM; i++)
                    other += base.v[j * DIM + i] * query.v[q * DIM + i];
                better += alive[j] && other > dot + 1e-5f;
            }
            CHECK((int)better <= k);
        }
    }
    CHECK_NEAR(ann_recall(&truth, truth.v, NQ), 1, 0);
    memset(alive, 0, N);
    alive[4] = 1;
    ann_ids_release(&truth);
    CHECK_OK(ann_exact(&truth, &base, &query, 2, alive, K, NULL, &why)); /* fewer rows than k */
    CHECK(truth.v[0] == 4 && truth.v[1] == -1 && truth.v[K] == 4);
    CHECK_NEAR(ann_recall(&truth, truth.v, 2), 1, 0);
    ann_ids_release(&truth);
    ann_floats_release(&base);
    ann_floats_release(&query);
    cairn_free(alive);
}

static void add(struct ann_runs *r, const char *engine, const char *setting, double recall, double qps)
{
    TEST_WHY;
    struct ann_run run = {.recall = recall, .qps = qps};
    snprintf(run.engine, sizeof run.engine, "%s", engine);
    snprintf(run.set, sizeof run.set, "s");
    snprintf(run.setting, sizeof run.setting, "%s", setting);
    CHECK_OK(ann_runs_add(r, &run, &why));
}

static void the_first_setting_that_reaches_a_recall_is_compared(void **state)
{
    (void)state;
    struct ann_runs r = {0};
    add(&r, "cairn", "ef=20", 0.94, 900);
    add(&r, "cairn", "ef=40", 0.97, 500);
    add(&r, "cairn", "ef=30", 0.951, 700);
    add(&r, "cairn", "ef=30", 0.951, 650); /* a slower pass */
    add(&r, "hnswlib", "ef=20", 0.96, 100);
    add(&r, "hnswlib", "ef=64", 0.99, 50);
    add(&r, "other", "x", 0.955, 300);
    CHECK_U64_EQ(r.n, 6);
    CHECK_NEAR(ann_runs_at(&r, "s", "cairn", 0.95)->qps, 700, 0);
    CHECK_NEAR(ann_runs_at(&r, "s", "hnswlib", 0.95)->qps, 100, 0);
    CHECK(ann_runs_at(&r, "s", "cairn", 0.98) == NULL);
    CHECK(ann_runs_at(&r, "t", "cairn", 0.9) == NULL);
    CHECK_STR_EQ(ann_runs_best(&r, "s", "cairn", 0.95)->engine, "other");
    CHECK_STR_EQ(ann_runs_best(&r, "s", "cairn", 0.99)->engine, "hnswlib");
    CHECK(ann_runs_best(&r, "s", "cairn", 0.999) == NULL);
    cairn_free(r.v);
}

/* Every element is closed in order, no bare ampersand, attributes quoted: enough of XML for what is written.
 */
static void check_xml(const char *s)
{
    size_t depth = 0;
    for (; *s; s++) {
        CHECK(*s != '>');
        if (*s == '&')
            CHECK(!strncmp(s, "&amp;", 5) || !strncmp(s, "&lt;", 4) || !strncmp(s, "&gt;", 4));
        if (*s != '<')
            continue;
        bool closing = s[1] == '/';
        size_t quotes = 0;
        while (*s && (*s != '>' || quotes % 2)) {
            quotes += *s == '"';
            s++;
            CHECK(*s != '<');
        }
        CHECK(*s == '>' && quotes % 2 == 0);
        CHECK(!closing || depth > 0);
        depth = closing ? depth - 1 : depth + (s[-1] != '/');
    }
    CHECK_U64_EQ(depth, 0);
}

static void the_picture_is_well_formed(void **state)
{
    (void)state;
    TEST_WHY;
    struct ann_runs r = {0};
    struct cairn_buf b;
    cairn_buf_init(&b, 1 << 20);
    CHECK_ERR(ann_svg(&b, &r, "s", "none", "cairn", &why), CAIRN_ENOTFOUND);
    add(&r, "a<b>&c", "1", 0.9, 10);
    add(&r, "cairn", "1", 0.92, 5000);
    add(&r, "cairn", "2", 1.0, 900);
    add(&r, "low", "1", 0.3, 1e6); /* off the picture */
    CHECK_OK(ann_svg(&b, &r, "s", "x < y & \"z\"", "cairn", &why));
    check_xml(b.bytes);
    CHECK(strstr(b.bytes, "a&lt;b&gt;&amp;c") && strstr(b.bytes, "stroke-width=\"3.5\""));
    CHECK(!strstr(b.bytes, "nan") && !strstr(b.bytes, "inf") && !strstr(b.bytes, ">low<"));
    cairn_buf_release(&b);
    cairn_free(r.v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(npy_files_are_read_and_written_back),
        TEST(a_header_that_lies_is_an_error_and_allocates_nothing),
        TEST(fvecs_rows_must_agree),
        TEST(exact_search_equals_a_plain_one),
        TEST(the_first_setting_that_reaches_a_recall_is_compared),
        TEST(the_picture_is_well_formed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
