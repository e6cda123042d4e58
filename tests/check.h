/* tests/check.h - thin macros over cmocka, and what every test needs: temporary directories, model files,
 * shared data. */
#ifndef CAIRN_TESTS_CHECK_H
#define CAIRN_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cairn/base.h>
#include <cmocka.h>

#define CHECK(cond)                                                                                          \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            print_error("%s:%d: not true: %s\n", __FILE__, __LINE__, #cond);                                 \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)
#define CHECK_I64_EQ(a, b)                                                                                   \
    do {                                                                                                     \
        int64_t a_ = (int64_t)(a), b_ = (int64_t)(b);                                                        \
        if (a_ != b_) {                                                                                      \
            print_error("%s:%d: %s = %lld, want %s = %lld\n", __FILE__, __LINE__, #a, (long long)a_, #b,     \
                        (long long)b_);                                                                      \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)
#define CHECK_U64_EQ CHECK_I64_EQ
#define CHECK_GE(a, b)                                                                                       \
    do {                                                                                                     \
        double a_ = (double)(a), b_ = (double)(b);                                                           \
        if (!(a_ >= b_)) {                                                                                   \
            print_error("%s:%d: %s = %.9g is not >= %s = %.9g\n", __FILE__, __LINE__, #a, a_, #b, b_);       \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)
#define CHECK_LE(a, b) CHECK_GE(b, a)
#define CHECK_NEAR(a, b, tol)                                                                                \
    do {                                                                                                     \
        double a_ = (double)(a), b_ = (double)(b), d_ = a_ > b_ ? a_ - b_ : b_ - a_;                         \
        if (!(d_ <= (double)(tol))) {                                                                        \
            print_error("%s:%d: %s = %.9g, want %s = %.9g within %g\n", __FILE__, __LINE__, #a, a_, #b, b_,  \
                        (double)(tol));                                                                      \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)
#define CHECK_STR_EQ(a, b)                                                                                   \
    do {                                                                                                     \
        const char *a_ = (a), *b_ = (b);                                                                     \
        if (!a_ || !b_ || strcmp(a_, b_) != 0) {                                                             \
            print_error("%s:%d: %s = \"%s\", want \"%s\"\n", __FILE__, __LINE__, #a, a_ ? a_ : "(null)",     \
                        b_ ? b_ : "(null)");                                                                 \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)
/* The call may name `why`: a local struct cairn_why is declared by CHECK_OK's user as TEST_WHY. */
#define TEST_WHY struct cairn_why why = {{0}}
#define CHECK_OK(call)                                                                                       \
    do {                                                                                                     \
        enum cairn_err e_ = (call);                                                                          \
        if (e_ != CAIRN_OK) {                                                                                \
            print_error("%s:%d: %s = %s: %s\n", __FILE__, __LINE__, #call, cairn_err_name(e_), why.text);    \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)
/* Fails with this code and says something. */
#define CHECK_ERR(call, want)                                                                                \
    do {                                                                                                     \
        why.text[0] = 0;                                                                                     \
        enum cairn_err e_ = (call);                                                                          \
        if (e_ != (want)) {                                                                                  \
            print_error("%s:%d: %s = %s (%s), want %s\n", __FILE__, __LINE__, #call, cairn_err_name(e_),     \
                        why.text, cairn_err_name(want));                                                     \
            fail();                                                                                          \
        }                                                                                                    \
        if (!why.text[0]) {                                                                                  \
            print_error("%s:%d: %s failed without a word\n", __FILE__, __LINE__, #call);                     \
            fail();                                                                                          \
        }                                                                                                    \
    } while (0)
#define TEST(f) cmocka_unit_test(f)
#define UNUSED_STATE(state) (void)(state)

/* Directories and files for tests; all paths are static storage or OWNED as said. */
static inline char *test_tmpdir(void) /* OWNED (free): a fresh directory */
{
    const char *base = getenv("TMPDIR");
    char *path = NULL;
    if (asprintf(&path, "%s/cairn-test-XXXXXX", base && *base ? base : "/tmp") < 0 || !mkdtemp(path))
        abort();
    return path;
}
static inline void test_rmdir(char *path) /* removes the tree and frees path */
{
    char *cmd = NULL;
    if (path && strstr(path, "cairn-test-") && asprintf(&cmd, "rm -rf '%s'", path) > 0 && system(cmd) != 0)
        fprintf(stderr, "could not remove %s\n", path);
    free(cmd);
    free(path);
}
static inline const char *test_models_dir(void)
{
    static char dir[4096];
    const char *env = getenv("CAIRN_MODELS_DIR"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (env && *env)
        snprintf(dir, sizeof dir, "%s", env);
    else if (cache && *cache)
        snprintf(dir, sizeof dir, "%s/cairn/models", cache);
    else
        snprintf(dir, sizeof dir, "%s/.cache/cairn/models", home ? home : "/root");
    return dir;
}
/* Path of a file of a fetched model, or NULL (then the test should skip()). */
static inline const char *test_model_file(const char *model, const char *file)
{
    static char path[4][8192];
    static unsigned turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s/%s", test_models_dir(), model, file);
    if (access(p, R_OK) == 0)
        return p;
    print_message("SKIP: no %s (scripts/models fetches it)\n", p);
    return NULL;
}
/* A file of the public data beside the checkout, or NULL with a SKIP line. */
static inline const char *test_shared_file(const char *name)
{
    static char path[4][4096];
    static unsigned turn;
    char *p = path[turn++ % 4];
    const char *env = getenv("CAIRN_SHARED_DATA");
    snprintf(p, sizeof path[0], "%s/%s", env && *env ? env : "../shared/data", name);
    if (access(p, R_OK) == 0)
        return p;
    print_message("SKIP: no %s\n", p);
    return NULL;
}
/* xorshift64*: seeded, the same everywhere. */
static inline uint64_t test_rand(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1DULL;
}

#endif
