/* tests/wire/api_fixture.h - a service without models on a fresh directory, and calls in JSON: what goes in
 * and comes out of a test reads like the documentation. */
#ifndef CAIRN_TESTS_API_FIXTURE_H
#define CAIRN_TESTS_API_FIXTURE_H

#include "check.h"

#include "internal.h"
#include <jansson.h>

struct fix {
    char *dir;
    struct cairn_config *config;
    struct service *s;
};

/* settings: "key=value" strings ended by NULL. */
static inline struct fix fix_open(const char *const *settings)
{
    TEST_WHY;
    struct fix f = {.dir = test_tmpdir()};
    CHECK_OK(api_config_new(&f.config, &why));
    for (size_t i = 0; settings && settings[i]; i++) {
        char key[128];
        const char *eq = strchr(settings[i], '=');
        CHECK(eq && (size_t)(eq - settings[i]) < sizeof key);
        snprintf(key, sizeof key, "%.*s", (int)(eq - settings[i]), settings[i]);
        CHECK_OK(cairn_config_set(f.config, key, eq + 1, &why));
    }
    CHECK_OK(service_open(&f.s,
                          &(struct service_opts){.data_dir = f.dir,
                                                 .models_dir = f.dir,
                                                 .embedder = "none",
                                                 .reranker = "none",
                                                 .generator = "none",
                                                 .config = f.config,
                                                 .create = true},
                          &why));
    return f;
}

static inline void fix_close(struct fix *f)
{
    service_close(f->s);
    cairn_config_free(f->config);
    test_rmdir(f->dir);
}

static const struct api_caller fix_local = {.role = ROLE_ADMIN, .key_id = "", .local = true};

/* The result, or NULL with *err and why. OWNED: json_decref. */
static inline json_t *fix_try(struct service *s, const struct api_caller *c, const char *method,
                              const char *params, const struct api_sink *sink, enum cairn_err *err,
                              struct cairn_why *told)
{
    TEST_WHY;
    struct cairn_buf in, out, text;
    json_t *j = NULL;
    cairn_buf_init(&in, 0);
    cairn_buf_init(&out, 0);
    cairn_buf_init(&text, 0);
    CHECK_OK(api_json_to_msgpack(params, strlen(params), &in, &why));
    *err = service_call(s, c, method, in.bytes, in.len, sink, NULL, &out, &why);
    if (!*err) {
        CHECK_OK(api_msgpack_to_json(out.bytes, out.len, false, &text, &why));
        j = json_loads(text.bytes, JSON_DECODE_ANY, NULL);
        CHECK(j);
    } else {
        CHECK(why.text[0]);
        CHECK_U64_EQ(out.len, 0);
    }
    *told = why;
    cairn_buf_release(&in);
    cairn_buf_release(&out);
    cairn_buf_release(&text);
    return j;
}

static inline json_t *fix_call(struct service *s, const char *method, const char *params)
{
    TEST_WHY;
    enum cairn_err err;
    json_t *j = fix_try(s, &fix_local, method, params, NULL, &err, &why);
    if (err)
        print_error("%s %s: %s: %s\n", method, params, cairn_err_name(err), why.text);
    CHECK(j);
    return j;
}
static inline void fix_do(struct service *s, const char *method, const char *params)
{
    json_decref(fix_call(s, method, params));
}
static inline void fix_fails(struct service *s, const struct api_caller *c, const char *method,
                             const char *params, enum cairn_err want, const char *words)
{
    TEST_WHY;
    enum cairn_err err;
    json_t *j = fix_try(s, c, method, params, NULL, &err, &why);
    if (err != want || (words && !strstr(why.text, words)))
        print_error("%s %s: got %s: %s; want %s with \"%s\"\n", method, params, cairn_err_name(err), why.text,
                    cairn_err_name(want), words ? words : "");
    CHECK(!j && err == want && (!words || strstr(why.text, words)));
}
static inline int64_t j_int(json_t *j, const char *key)
{
    json_t *v = json_object_get(j, key);
    CHECK(json_is_integer(v));
    return json_integer_value(v);
}
static inline const char *j_str(json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    CHECK(s);
    return s;
}
static inline size_t j_len(json_t *j, const char *key)
{
    CHECK(json_is_array(json_object_get(j, key)));
    return json_array_size(json_object_get(j, key));
}

/* Three small documents of an invented company. */
static inline void fix_fill(struct service *s)
{
    fix_do(s, "doc.put",
           "{\"collection\":\"hr\",\"create\":true,\"documents\":["
           "{\"id\":\"leave.md\",\"text\":\"# Annual leave\\n\\nEvery employee has 28 days of annual leave. "
           "Unused days expire on 31 March.\\n\"},"
           "{\"id\":\"travel.md\",\"text\":\"# Travel policy\\n\\nTrains are booked in second class. Flights "
           "need approval by a director.\\n\"},"
           "{\"id\":\"pay.md\",\"text\":\"# Salary bands\\n\\nBand four starts at 61000 euro a "
           "year.\\n\",\"principals\":[\"finance\"]}]}");
}

#endif
