/* acl.c - acl.json: who may read what in a source directory. A rule with an empty list would read as "no
 * rule", that is, perhaps public: such a file is refused as a whole, as is one that names a group it does not
 * declare. */
#include "loaders_private.h"

#include <jansson.h>
#include <string.h>

#define ACL_BYTES_MAX ((size_t)1 << 20)
#define RULES_MAX 10000u
#define PATTERN_BYTES_MAX 1024u
#define ALLOW_MAX 64u /* the store's PRINCIPALS_MAX */
#define PRINCIPAL_BYTES_MAX 128u

struct rule {
    char *pattern;
    struct cairn_str *allow;
    size_t n;
};
struct loader_acl {
    struct rule *rules;
    size_t n;
};

void loader_acl_close(struct loader_acl *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n; i++) {
        for (size_t k = 0; k < a->rules[i].n; k++)
            cairn_free((void *)(uintptr_t)a->rules[i].allow[k].p);
        cairn_free(a->rules[i].allow);
        cairn_free(a->rules[i].pattern);
    }
    cairn_free(a->rules);
    cairn_free(a);
}

static bool declared(const json_t *groups, const char *name)
{
    size_t i;
    json_t *g;
    if (!groups || strcmp(name, "everyone") == 0)
        return true;
    json_array_foreach(groups, i, g)
    {
        if (json_is_string(g) && strcmp(json_string_value(g), name) == 0)
            return true;
    }
    return false;
}

static enum cairn_err read_rule(struct rule *r, const json_t *groups, const json_t *rule, size_t index,
                                struct cairn_why *why)
{
    const json_t *pattern = json_object_get(rule, "path"), *allow = json_object_get(rule, "allow");
    if (!json_is_string(pattern) || json_string_length(pattern) == 0 ||
        json_string_length(pattern) > PATTERN_BYTES_MAX)
        return cairn_fail(why, CAIRN_EINVAL,
                          "rule %zu: \"path\" must be a pattern of 1 to %u bytes, such as \"finance/*\"",
                          index, PATTERN_BYTES_MAX);
    size_t n = json_array_size(allow);
    if (n == 0 || n > ALLOW_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "rule %zu (%.100s): \"allow\" must name 1 to %u groups", index,
                          json_string_value(pattern), ALLOW_MAX);
    r->pattern = cairn_strdup(json_string_value(pattern));
    r->allow = cairn_calloc(n, sizeof(*r->allow));
    if (!r->pattern || !r->allow)
        return cairn_fail(why, CAIRN_ENOMEM, "rule %zu", index);
    for (size_t i = 0; i < n; i++) {
        const json_t *g = json_array_get(allow, i);
        size_t len = json_string_length(g);
        if (!json_is_string(g) || len == 0 || len > PRINCIPAL_BYTES_MAX)
            return cairn_fail(why, CAIRN_EINVAL, "rule %zu (%.100s): a group is a string of 1 to %u bytes",
                              index, r->pattern, PRINCIPAL_BYTES_MAX);
        if (!declared(groups, json_string_value(g)))
            return cairn_fail(why, CAIRN_EINVAL, "rule %zu (%.100s): group \"%.100s\" is not in \"groups\"",
                              index, r->pattern, json_string_value(g));
        char *copy = cairn_strndup(json_string_value(g), len);
        if (!copy)
            return cairn_fail(why, CAIRN_ENOMEM, "rule %zu", index);
        r->allow[r->n++] = (struct cairn_str){copy, len};
    }
    return CAIRN_OK;
}

static enum cairn_err read_rules(struct loader_acl *a, const json_t *root, struct cairn_why *why)
{
    const json_t *groups = json_object_get(root, "groups"), *rules = json_object_get(root, "rules");
    if (!json_is_object(root) || (groups && !json_is_array(groups)) || !json_is_array(rules))
        return cairn_fail(why, CAIRN_EINVAL,
                          "expected {\"groups\": [...], \"rules\": [{\"path\": ..., \"allow\": [...]}]}");
    size_t n = json_array_size(rules);
    if (n > RULES_MAX)
        return cairn_fail(why, CAIRN_EFULL, "%zu rules are more than %u", n, RULES_MAX);
    a->rules = cairn_calloc(n, sizeof(*a->rules));
    if (!a->rules)
        return cairn_fail(why, CAIRN_ENOMEM, "%zu rules", n);
    for (size_t i = 0; i < n; i++) {
        a->n++;
        enum cairn_err err = read_rule(&a->rules[i], groups, json_array_get(rules, i), i, why);
        if (err)
            return err;
    }
    return CAIRN_OK;
}

enum cairn_err loader_acl_open(struct loader_acl **out, const char *path, struct cairn_why *why)
{
    *out = NULL;
    char *text = NULL;
    size_t len = 0;
    enum cairn_err err = cairn_read_file(&text, &len, path, ACL_BYTES_MAX, why);
    if (err)
        return err;
    json_error_t e;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
    cairn_free(text);
    if (!root)
        return cairn_fail(why, CAIRN_EINVAL, "%.200s line %d: not JSON: %s", path, e.line, e.text);
    struct loader_acl *a = cairn_calloc(1, sizeof(*a));
    err = a ? read_rules(a, root, why) : cairn_fail(why, CAIRN_ENOMEM, "rules");
    json_decref(root);
    if (err) {
        loader_acl_close(a);
        return cairn_wrap(why, err, "%.200s", path);
    }
    *out = a;
    return CAIRN_OK;
}

/* '*' any run, '?' one code point. Falls back to the last star only: linear in practice, len * pattern at
 * worst. */
static bool matches(const char *pattern, const char *id)
{
    const char *star = NULL, *at = NULL;
    while (*id) {
        uint32_t cp;
        size_t n = cairn_utf8_next(id, strnlen(id, 4), &cp);
        if (n == 0)
            n = 1;
        if (*pattern == '*') {
            star = pattern++;
            at = id;
        } else if (*pattern == '?') {
            pattern++;
            id += n;
        } else if (*pattern == *id) {
            pattern++;
            id++;
        } else if (star) {
            pattern = star + 1;
            id = ++at;
        } else
            return false;
    }
    while (*pattern == '*')
        pattern++;
    return !*pattern;
}

void loader_acl_find(const struct loader_acl *a, const char *id, const struct cairn_str **allow, size_t *n)
{
    *allow = NULL;
    *n = 0;
    for (size_t i = 0; a && i < a->n; i++)
        if (matches(a->rules[i].pattern, id)) {
            *allow = a->rules[i].allow;
            *n = a->rules[i].n;
            return;
        }
}
