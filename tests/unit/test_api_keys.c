/* Keys: made once, stored only as a hash, refused when unknown, changed, expired or revoked. */
#include "wire/api_fixture.h"

static struct api_key_info key_of(enum api_role role)
{
    struct api_key_info i = {.role = role};
    snprintf(i.name, sizeof i.name, "test");
    snprintf(i.principals[0], sizeof i.principals[0], "finance");
    i.n_principals = 1;
    return i;
}

static void a_key_opens_and_its_neighbours_do_not(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    static struct api_key_info want, got, made;
    char secret[80], other[80];
    want = key_of(ROLE_USER);
    CHECK_U64_EQ(keys_count(f.s), 0);
    CHECK_OK(api_key_create(f.s, &want, secret, &made, &why));
    CHECK_OK(api_key_create(f.s, &want, other, NULL, &why));
    CHECK_U64_EQ(keys_count(f.s), 2);
    CHECK(strcmp(secret, other) != 0);
    CHECK_U64_EQ(strlen(secret), 75);
    CHECK(strncmp(secret, "cairn_", 6) == 0 && strncmp(secret + 6, made.id, 16) == 0);
    CHECK_OK(api_key_check(f.s, secret, strlen(secret), &got, &why));
    CHECK_STR_EQ(got.id, made.id);
    CHECK_I64_EQ(got.role, ROLE_USER);
    CHECK_STR_EQ(got.principals[0], "finance");
    for (size_t i = 0; i < strlen(secret); i++) { /* any one character changed */
        char bad[80];
        memcpy(bad, secret, sizeof bad);
        bad[i] = bad[i] == 'x' ? 'y' : 'x';
        CHECK_ERR(api_key_check(f.s, bad, strlen(bad), &got, &why), CAIRN_EUNAUTH);
    }
    for (size_t n = 0; n < strlen(secret); n++)
        CHECK_ERR(api_key_check(f.s, secret, n, &got, &why), CAIRN_EUNAUTH);
    char longer[120];
    snprintf(longer, sizeof longer, "%sx", secret);
    CHECK_ERR(api_key_check(f.s, longer, strlen(longer), &got, &why), CAIRN_EUNAUTH);
    fix_close(&f);
}

static void keys_outlive_the_process_and_revocation_too(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    static struct api_key_info want, got, made;
    char secret[80];
    uint64_t generation;
    want = key_of(ROLE_ADMIN);
    CHECK_OK(api_key_create(f.s, &want, secret, &made, &why));
    service_close(f.s);
    CHECK_OK(service_open(&f.s,
                          &(struct service_opts){.data_dir = f.dir,
                                                 .models_dir = f.dir,
                                                 .embedder = "none",
                                                 .reranker = "none",
                                                 .generator = "none",
                                                 .config = f.config},
                          &why));
    CHECK_OK(api_key_check(f.s, secret, strlen(secret), &got, &why));
    CHECK_OK(key_revoke(f.s, cairn_str_of(made.id), &generation, &why));
    CHECK_ERR(api_key_check(f.s, secret, strlen(secret), &got, &why), CAIRN_EUNAUTH);
    CHECK_ERR(keys_look(f.s, made.id, &got, &why), CAIRN_EUNAUTH);
    CHECK_U64_EQ(keys_count(f.s), 1); /* it still counts: no way back to open access */
    service_close(f.s);
    CHECK_OK(service_open(&f.s,
                          &(struct service_opts){.data_dir = f.dir,
                                                 .models_dir = f.dir,
                                                 .embedder = "none",
                                                 .reranker = "none",
                                                 .generator = "none",
                                                 .config = f.config},
                          &why));
    CHECK_ERR(api_key_check(f.s, secret, strlen(secret), &got, &why), CAIRN_EUNAUTH);
    fix_close(&f);
}

static void an_expired_key_says_so(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    static struct api_key_info want, got;
    char secret[80];
    want = key_of(ROLE_USER);
    want.expires_us = cairn_wall_us() - 1;
    CHECK_OK(api_key_create(f.s, &want, secret, NULL, &why));
    CHECK_ERR(api_key_check(f.s, secret, strlen(secret), &got, &why), CAIRN_EUNAUTH);
    CHECK(strstr(why.text, "expired"));
    fix_close(&f);
}

static bool no_secret(void *ctx, struct cairn_str key, struct cairn_str bytes)
{
    const char *secret = ctx;
    (void)key;
    CHECK(!memmem(bytes.p, bytes.len, secret + 23, 43)); /* the random part is nowhere in the record */
    return true;
}

static void methods_make_list_and_revoke_keys(void **state)
{
    UNUSED_STATE(state);
    TEST_WHY;
    struct fix f = fix_open(NULL);
    json_t *j = fix_call(
        f.s, "key.create",
        "{\"name\":\"web\",\"role\":\"read_only\",\"principals\":[\"hr\",\"legal\"],\"expires_s\":3600}");
    char id[32], secret[80];
    snprintf(id, sizeof id, "%s", j_str(j, "id"));
    snprintf(secret, sizeof secret, "%s", j_str(j, "key"));
    json_decref(j);
    j = fix_call(f.s, "key.list", "{}");
    CHECK_U64_EQ(j_len(j, "keys"), 1);
    CHECK(!json_object_get(json_array_get(json_object_get(j, "keys"), 0), "key"));
    json_decref(j);
    struct store_view *v;
    CHECK_OK(store_view_begin(&v, service_store(f.s), &why));
    CHECK_OK(store_record_each(v, "key", cairn_str_of(""), no_secret, secret, &why));
    store_view_end(v);
    char params[64];
    snprintf(params, sizeof params, "{\"id\":\"%s\"}", id);
    fix_do(f.s, "key.revoke", params);
    static struct api_key_info got;
    CHECK_ERR(api_key_check(f.s, secret, strlen(secret), &got, &why), CAIRN_EUNAUTH);
    fix_fails(f.s, &fix_local, "key.create", "{\"name\":\"x\"}", CAIRN_EINVAL, "role");
    fix_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_key_opens_and_its_neighbours_do_not),
        TEST(keys_outlive_the_process_and_revocation_too),
        TEST(an_expired_key_says_so),
        TEST(methods_make_list_and_revoke_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
