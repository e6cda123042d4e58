/* config.c - numbers by key, from tables of the rooms. Written before threads start; live keys are stored
 * atomically. */
#include <cairn/base.h>

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TABLES_MAX 16
#define FILE_BYTES_MAX ((size_t)1 << 20)

struct cairn_config {
    struct {
        const struct cairn_conf *rows;
        size_t n;
        _Atomic double *values;
    } tables[TABLES_MAX];
    size_t n_tables;
};

struct cairn_config *cairn_config_new(void) { return cairn_calloc(1, sizeof(struct cairn_config)); }

void cairn_config_free(struct cairn_config *c)
{
    for (size_t i = 0; c && i < c->n_tables; i++)
        cairn_free(c->tables[i].values);
    cairn_free(c);
}

enum cairn_err cairn_config_add_table(struct cairn_config *c, const struct cairn_conf *table, size_t n,
                                      struct cairn_why *why)
{
    if (c->n_tables == TABLES_MAX)
        return cairn_fail(why, CAIRN_EFULL, "more than %d configuration tables", TABLES_MAX);
    _Atomic double *values = cairn_calloc(n, sizeof(*values));
    if (!values)
        return cairn_fail(why, CAIRN_ENOMEM, "configuration table of %zu keys", n);
    for (size_t i = 0; i < n; i++)
        atomic_init(&values[i], table[i].def);
    c->tables[c->n_tables].rows = table;
    c->tables[c->n_tables].n = n;
    c->tables[c->n_tables++].values = values;
    return CAIRN_OK;
}

static _Atomic double *find(const struct cairn_config *c, const char *key, const struct cairn_conf **row)
{
    for (size_t t = 0; t < c->n_tables; t++)
        for (size_t i = 0; i < c->tables[t].n; i++)
            if (strcmp(c->tables[t].rows[i].key, key) == 0) {
                *row = &c->tables[t].rows[i];
                return &c->tables[t].values[i];
            }
    return NULL;
}

enum cairn_err cairn_config_set(struct cairn_config *c, const char *key, const char *value,
                                struct cairn_why *why)
{
    const struct cairn_conf *row;
    _Atomic double *slot = find(c, key, &row);
    if (!slot)
        return cairn_fail(why, CAIRN_EINVAL,
                          "unknown configuration key \"%s\"; `cairn serve --help` lists them", key);
    char *end;
    errno = 0;
    double v = strtod(value, &end);
    if (end == value)
        return cairn_fail(why, CAIRN_EINVAL, "%s: \"%s\" is not a number", key, value);
    switch (tolower((unsigned char)*end)) {
    case 'g':
        v *= 1024;
        /* fall through */
    case 'm':
        v *= 1024;
        /* fall through */
    case 'k':
        v *= 1024;
        end++;
        break;
    default:
        break;
    }
    if (*end)
        return cairn_fail(why, CAIRN_EINVAL, "%s: \"%s\" has text after the number", key, value);
    if (!(v >= row->min && v <= row->max))
        return cairn_fail(why, CAIRN_EINVAL, "%s: %s is outside %g .. %g", key, value, row->min, row->max);
    atomic_store(slot, v);
    return CAIRN_OK;
}

enum cairn_err cairn_config_load(struct cairn_config *c, const char *path, struct cairn_why *why)
{
    char *text = NULL;
    size_t len;
    enum cairn_err err = cairn_read_file(&text, &len, path, FILE_BYTES_MAX, why);
    if (err)
        return err;
    unsigned n = 0;
    for (char *line = text, *next; line && !err; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        n++;
        char *hash = strchr(line, '#');
        if (hash)
            *hash = '\0';
        char *key = line + strspn(line, " \t\r");
        if (!*key)
            continue;
        char *eq = strchr(key, '=');
        if (!eq) {
            err = cairn_fail(why, CAIRN_EINVAL, "%s line %u: expected key = value", path, n);
            break;
        }
        *eq = '\0';
        for (char *e = eq; e > key && isspace((unsigned char)e[-1]);)
            *--e = '\0';
        char *value = eq + 1 + strspn(eq + 1, " \t");
        for (char *e = value + strlen(value); e > value && isspace((unsigned char)e[-1]);)
            *--e = '\0';
        err = cairn_config_set(c, key, value, why);
        if (err)
            (void)cairn_wrap(why, err, "%s line %u", path, n);
    }
    cairn_free(text);
    return err;
}

double cairn_config_num(const struct cairn_config *c, const char *key)
{
    const struct cairn_conf *row;
    const _Atomic double *slot = find(c, key, &row);
    CAIRN_CHECK(slot != NULL);
    return atomic_load(slot);
}

size_t cairn_config_size(const struct cairn_config *c, const char *key)
{
    double v = cairn_config_num(c, key);
    return v <= 0 ? 0 : (size_t)v;
}

size_t cairn_config_count(const struct cairn_config *c)
{
    size_t n = 0;
    for (size_t t = 0; t < c->n_tables; t++)
        n += c->tables[t].n;
    return n;
}

const struct cairn_conf *cairn_config_at(const struct cairn_config *c, size_t i, double *value)
{
    for (size_t t = 0; t < c->n_tables; t++) {
        if (i < c->tables[t].n) {
            if (value)
                *value = atomic_load(&c->tables[t].values[i]);
            return &c->tables[t].rows[i];
        }
        i -= c->tables[t].n;
    }
    return NULL;
}
