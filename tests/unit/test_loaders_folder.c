/* test_loaders_folder.c - a directory as a source, and acl.json. */
#include "check.h"

#include <cairn/loaders.h>
#include <sys/stat.h>

static void put(const char *dir, const char *name, const char *text)
{
    TEST_WHY;
    char *path = cairn_path_join(dir, name);
    CHECK_OK(cairn_write_file(path, text, strlen(text), &why));
    cairn_free(path);
}

static void make(const char *dir, const char *name)
{
    TEST_WHY;
    char *path = cairn_path_join(dir, name);
    CHECK_OK(cairn_mkdirs(path, &why));
    cairn_free(path);
}

static void link_to(const char *dir, const char *name, const char *target)
{
    char *path = cairn_path_join(dir, name);
    CHECK(symlink(target, path) == 0);
    cairn_free(path);
}

static void a_folder_is_listed_in_order_of_ids(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir(), *outside = test_tmpdir();
    make(dir, "b/c");
    make(dir, ".git");
    put(dir, "z.txt", "z");
    put(dir, "b/c/deep.html", "<p>x");
    put(dir, "b.md", "b");
    put(dir, "README", "no extension");
    put(dir, ".hidden.md", "x");
    put(dir, ".git/x.md", "x");
    put(dir, "acl.json", "{}");
    put(dir, "image.png", "\x89PNG\r\n");
    put(dir, "empty", "");
    put(outside, "secret.md", "s");
    char *secret = cairn_path_join(outside, "secret.md");
    link_to(dir, "escape.md", secret);
    link_to(dir, "inside.md", "b.md");
    link_to(dir, "b/up", "..");
    link_to(dir, "nowhere.md", "no-such-file");
    struct loader_listing l;
    CHECK_OK(loader_list(&l, dir, NULL, &why));
    static const char *const want[] = {"README", "b.md", "b/c/deep.html", "inside.md", "z.txt"};
    for (size_t i = 0; i < l.n; i++)
        if (i >= 5 || strcmp(l.files[i].id, want[i]) != 0)
            print_message("listed: %s\n", l.files[i].id);
    CHECK_U64_EQ(l.n, 5);
    for (size_t i = 0; i < 5; i++) {
        CHECK_STR_EQ(l.files[i].id, want[i]);
        CHECK(access(l.files[i].path, R_OK) == 0);
        CHECK(l.files[i].bytes > 0 && l.files[i].modified_us > 0);
    }
    /* .hidden.md, .git, acl.json, image.png, empty, escape.md, b/up, nowhere.md */
    CHECK_U64_EQ(l.n_skipped, 8);
    CHECK(l.skipped_note && strstr(l.skipped_note, "escape.md: a link that leaves the folder"));
    /* what is there and skipped is not gone; what is not there is */
    static const char *const held[] = {"image.png", "empty", "escape.md", "b/up", "nowhere.md"};
    for (size_t i = 0; i < 5; i++)
        CHECK(loader_listing_holds(&l, cairn_str_of(held[i])));
    static const char *const gone[] = {"image", "image.png2", "a", "b/up2", "b/c/deep.htm", "zz", "emp", ""};
    for (size_t i = 0; i < 8; i++)
        CHECK(!loader_listing_holds(&l, cairn_str_of(gone[i])));
    loader_listing_release(&l);
    /* with and without a slash at the end, and one file */
    char *slashed = cairn_asprintf("%s/", dir), *one = cairn_path_join(dir, "b/c/deep.html");
    CHECK_OK(loader_list(&l, slashed, NULL, &why));
    CHECK_U64_EQ(l.n, 5);
    loader_listing_release(&l);
    CHECK_OK(loader_list(&l, one, NULL, &why));
    CHECK_U64_EQ(l.n, 1);
    CHECK_STR_EQ(l.files[0].id, "deep.html");
    loader_listing_release(&l);
    cairn_free(one);
    one = cairn_path_join(dir, "no such");
    CHECK_ERR(loader_list(&l, one, NULL, &why), CAIRN_ENOTFOUND);
    cairn_free(one);
    cairn_free(slashed);
    cairn_free(secret);
    test_rmdir(dir);
    test_rmdir(outside);
}

static void folder_limits_hold(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir();
    struct cairn_config *c = cairn_config_new();
    CHECK(c);
    CHECK_OK(cairn_config_add_table(c, loaders_conf, loaders_conf_len, &why));
    CHECK_OK(cairn_config_set(c, "loaders.depth_max", "3", &why));
    CHECK_OK(cairn_config_set(c, "loaders.files_max", "4", &why));
    CHECK_OK(cairn_config_set(c, "loaders.file_bytes_max", "1024", &why));
    make(dir, "1/2/3/4");
    put(dir, "1/2/ok.md", "x");
    put(dir, "1/2/3/deep.md", "x");
    char big[1026];
    memset(big, 'x', 1025);
    big[1025] = 0;
    put(dir, "big.md", big);
    struct loader_listing l;
    CHECK_OK(loader_list(&l, dir, c, &why));
    CHECK_U64_EQ(l.n, 1);
    CHECK_STR_EQ(l.files[0].id, "1/2/ok.md");
    CHECK_U64_EQ(l.n_skipped, 2);
    CHECK(strstr(l.skipped_note, "loaders.depth_max") && strstr(l.skipped_note, "loaders.file_bytes_max"));
    CHECK(strstr(loader_listing_holds(&l, cairn_str_of("big.md")), "loaders.file_bytes_max"));
    CHECK(strstr(loader_listing_holds(&l, cairn_str_of("1/2/3/deep.md")), "loaders.depth_max"));
    CHECK(!loader_listing_holds(&l, cairn_str_of("1/2/gone.md")));
    loader_listing_release(&l);
    for (int i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d.md", i);
        put(dir, name, "x");
    }
    CHECK_ERR(loader_list(&l, dir, c, &why), CAIRN_EFULL);
    CHECK(l.n == 0 && l.files == NULL);
    cairn_config_free(c);
    test_rmdir(dir);
}

static void a_listing_survives_failed_allocations(void **state)
{
    UNUSED_STATE(state);
    char *dir = test_tmpdir();
    make(dir, "a");
    put(dir, "a/x.md", "x");
    put(dir, "y.md", "y");
    put(dir, "empty.md", "");
    enum cairn_err err = CAIRN_ENOMEM;
    uint64_t n = 1;
    for (; err && n < 500; n++) {
        TEST_WHY;
        struct loader_listing l;
        cairn_alloc_fail_after(n, true);
        err = loader_list(&l, dir, NULL, &why);
        cairn_alloc_fail_after(0, true);
        if (err)
            CHECK(err == CAIRN_ENOMEM && why.text[0] && !l.files);
        loader_listing_release(&l);
    }
    CHECK_I64_EQ(err, CAIRN_OK);
    CHECK_GE(n, 8);
    test_rmdir(dir);
}

static const char *acl_find(const struct loader_acl *a, const char *id)
{
    static char out[256];
    const struct cairn_str *allow;
    size_t n;
    loader_acl_find(a, id, &allow, &n);
    out[0] = 0;
    for (size_t i = 0; i < n; i++)
        snprintf(out + strlen(out), sizeof out - strlen(out), "%s%.*s", i ? "," : "", (int)allow[i].len,
                 allow[i].p);
    return out;
}

static void the_first_matching_rule_wins(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    char *dir = test_tmpdir();
    put(dir, "acl.json",
        "{\"groups\": [\"hr\", \"finance\", \"board\"], \"comment\": \"x\", \"rules\": ["
        "{\"path\": \"finance/open/*\", \"allow\": [\"everyone\"]}, {\"path\": \"finance/*\", \"allow\": "
        "[\"finance\", \"board\"]},"
        "{\"path\": \"hr/?-*secret*.md\", \"allow\": [\"hr\"]}]}");
    char *path = cairn_path_join(dir, "acl.json");
    struct loader_acl *a;
    CHECK_OK(loader_acl_open(&a, path, &why));
    CHECK_STR_EQ(acl_find(a, "finance/open/a/b.md"), "everyone");
    CHECK_STR_EQ(acl_find(a, "finance/openly.md"), "finance,board");
    CHECK_STR_EQ(acl_find(a, "finance/"), "finance,board");
    CHECK_STR_EQ(acl_find(a, "finance"), "");
    CHECK_STR_EQ(acl_find(a, "hr/\xC3\xA4-my secrets.md"), "hr");
    CHECK_STR_EQ(acl_find(a, "hr/ab-secret.md"), "");
    CHECK_STR_EQ(acl_find(a, "hr/a-secret.md.txt"), "");
    CHECK_STR_EQ(acl_find(a, ""), "");
    CHECK_STR_EQ(acl_find(NULL, "x"), "");
    loader_acl_close(a);
    cairn_free(path);
    test_rmdir(dir);
}

static void a_bad_acl_is_refused_as_a_whole(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"",                                                                            "not JSON" },
        {"{\"rules\": [",                                                               "not JSON" },
        {"[]",                                                                          "expected" },
        {"{\"groups\": []}",                                                            "expected" },
        {"{\"rules\": {}}",                                                             "expected" },
        {"{\"rules\": [{\"path\": \"x\"}]}",                                            "\"allow\""},
        {"{\"rules\": [{\"path\": \"x\", \"allow\": []}]}",                             "\"allow\""},
        {"{\"rules\": [{\"path\": \"x\", \"allow\": [1]}]}",                            "string"   },
        {"{\"rules\": [{\"path\": \"x\", \"allow\": [\"\"]}]}",                         "string"   },
        {"{\"rules\": [{\"path\": 5, \"allow\": [\"a\"]}]}",                            "\"path\"" },
        {"{\"rules\": [7]}",                                                            "\"path\"" },
        {"{\"groups\": [\"hr\"], \"rules\": [{\"path\": \"x\", \"allow\": [\"rh\"]}]}", "\"rh\""   },
        {"{\"rules\": [], \"rules\": []}",                                              "not JSON" },
    };
    char *dir = test_tmpdir(), *path = cairn_path_join(dir, "acl.json");
    struct loader_acl *a;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put(dir, "acl.json", bad[i].text);
        CHECK_ERR(loader_acl_open(&a, path, &why), CAIRN_EINVAL);
        CHECK(a == NULL);
        if (!strstr(why.text, bad[i].says))
            print_error("%s: says %s\n", bad[i].text, why.text);
        CHECK(strstr(why.text, bad[i].says) && strstr(why.text, "acl.json"));
    }
    CHECK(unlink(path) == 0);
    enum cairn_err err = loader_acl_open(&a, path, &why);
    CHECK(err != CAIRN_OK && a == NULL);
    cairn_free(path);
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_folder_is_listed_in_order_of_ids),    TEST(folder_limits_hold),
        TEST(a_listing_survives_failed_allocations), TEST(the_first_matching_rule_wins),
        TEST(a_bad_acl_is_refused_as_a_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
