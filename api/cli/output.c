/* api/cli/output.c - what a person or a script sees: messages, aligned tables, JSON, progress. */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define COLUMNS_DEFAULT 100u
#define TABLE_COLUMNS_MAX 12u
#define PROGRESS_TTY_US 100000
#define PROGRESS_LINE_US 5000000
#define PROGRESS_BAR 30u

/* ---- messages
 * -----------------------------------------------------------------------------------------------------------------------
 */

int exit_code_of(enum cairn_err err)
{
    switch (err) {
    case CAIRN_OK:
        return EXIT_DONE;
    case CAIRN_EINVAL:
        return EXIT_USAGE;
    case CAIRN_ENOTFOUND:
        return EXIT_NOT_FOUND;
    default:
        return EXIT_FAILED;
    }
}

static void message(const struct args *a, const char *fmt, va_list ap)
{
    char text[1024];
    vsnprintf(text, sizeof text, fmt, ap);
    for (unsigned char *c = (unsigned char *)text; *c; c++) /* names and server messages may carry anything */
        if ((*c < 0x20 && *c != '\n' && *c != '\t') || *c == 0x7f)
            *c = '?';
    fflush(stdout);
    fprintf(stderr, "cairn: %s%s%s\n", a->command ? a->command->name : "", a->command ? ": " : "", text);
}

int fail_text(const struct args *a, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    message(a, fmt, ap);
    va_end(ap);
    return code;
}

int fail_usage(const struct args *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    message(a, fmt, ap);
    va_end(ap);
    fprintf(stderr, "`cairn %s%s--help` says more.\n", a->command ? a->command->name : "",
            a->command ? " " : "");
    return EXIT_USAGE;
}

int fail_with(const struct args *a, enum cairn_err err, const struct cairn_why *why)
{
    return fail_text(a, exit_code_of(err), "%s", why->text[0] ? why->text : cairn_err_name(err));
}

/* ---- text
 * ------------------------------------------------------------------------------------------------------------------------------
 */

/* Bytes of one character at s and how many columns it takes; *bad: it must not reach a terminal. */
static size_t character(const char *s, size_t len, bool *bad, uint32_t *cp)
{
    size_t n = cairn_utf8_next(s, len, cp);
    *bad = n == 0 || (*cp < 0x20 && *cp != '\n' && *cp != '\t') || (*cp >= 0x7f && *cp < 0xa0) ||
           (*cp >= 0x202a && *cp <= 0x202e) ||
           (*cp >= 0x2066 && *cp <= 0x2069); /* C0, DEL, C1, and what turns the direction of the rest */
    return n ? n : 1;
}

void out_text(const char *s, size_t len)
{
    size_t from = 0, i = 0;
    while (i < len) {
        bool bad;
        uint32_t cp = 0;
        size_t n = character(s + i, len - i, &bad, &cp);
        if (bad) {
            fwrite(s + from, 1, i - from, stdout);
            if (cp != '\r')
                fputs("\xef\xbf\xbd", stdout);
            from = i + n;
        }
        i += n;
    }
    fwrite(s + from, 1, len - from, stdout);
}

/* Rough width: enough to keep a table straight for the scripts we index. */
static size_t width_of(uint32_t cp)
{
    if ((cp >= 0x300 && cp <= 0x36f) || cp == 0x200b || cp == 0x200d || (cp >= 0xfe00 && cp <= 0xfe0f))
        return 0;
    return (cp >= 0x1100 && cp <= 0x115f) || (cp >= 0x2e80 && cp <= 0xa4cf) ||
                   (cp >= 0xac00 && cp <= 0xd7a3) || (cp >= 0xf900 && cp <= 0xfaff) ||
                   (cp >= 0xfe30 && cp <= 0xfe6f) || (cp >= 0xff00 && cp <= 0xff60) ||
                   (cp >= 0x1f300 && cp <= 0x1faff) || (cp >= 0x20000 && cp <= 0x3fffd)
               ? 2
               : 1;
}

static size_t text_width(const char *s)
{
    size_t len = strlen(s), width = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp = 0;
        size_t n = cairn_utf8_next(s + i, len - i, &cp);
        width += width_of(cp);
        i += n ? n : 1;
    }
    return width;
}

void out_line(const char *s, size_t len, size_t columns)
{
    size_t used = 0;
    bool space = false;
    for (size_t i = 0; i < len;) {
        bool bad;
        uint32_t cp = 0;
        size_t n = character(s + i, len - i, &bad, &cp);
        if (cp == ' ' || cp == '\n' || cp == '\t' || cp == '\r') {
            space = used > 0;
            i += n;
            continue;
        }
        size_t w = bad ? 1 : width_of(cp);
        if (columns && used + w + (space ? 1 : 0) + (i + n < len ? 1 : 0) > columns) {
            fputs("\xe2\x80\xa6", stdout);
            return;
        }
        if (space) {
            fputc(' ', stdout);
            used++;
            space = false;
        }
        if (bad)
            fputs("\xef\xbf\xbd", stdout);
        else
            fwrite(s + i, 1, n, stdout);
        used += w;
        i += n;
    }
}

size_t out_columns(void)
{
    struct winsize w;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 40)
        return w.ws_col;
    return COLUMNS_DEFAULT;
}

void format_bytes(char out[32], uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 1024 && u < 4) {
        v /= 1024;
        u++;
    }
    snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

void format_time(char out[32], int64_t wall_us)
{
    time_t t = (time_t)(wall_us / 1000000);
    struct tm tm;
    if (wall_us <= 0 || !gmtime_r(&t, &tm) || !strftime(out, 32, "%Y-%m-%d %H:%M:%SZ", &tm))
        snprintf(out, 32, "-");
}

int out_finish(const struct args *a, int code)
{
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout))
        return fail_text(a, code ? code : EXIT_FAILED, "writing to stdout: %s",
                         strerror(errno ? errno : EIO));
    return code;
}

/* ---- tables
 * ------------------------------------------------------------------------------------------------------------------------------
 */

struct table {
    size_t n_columns, n_cells, cap;
    bool right[TABLE_COLUMNS_MAX];
    char **cells; /* headings first */
    bool failed;
};

static void put_cell(struct table *t, char *text)
{
    if (t->n_cells == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 64;
        char **cells = cairn_reallocarray(t->cells, cap, sizeof *cells);
        if (!cells) {
            cairn_free(text);
            t->failed = true;
            return;
        }
        t->cells = cells;
        t->cap = cap;
    }
    t->failed |= !text;
    t->cells[t->n_cells++] = text;
}

struct table *table_new(size_t n_columns, const char *const *headings)
{
    CAIRN_CHECK(n_columns <= TABLE_COLUMNS_MAX);
    struct table *t = cairn_calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->n_columns = n_columns;
    for (size_t i = 0; i < n_columns; i++) {
        size_t len = strlen(headings[i]);
        t->right[i] = len && headings[i][len - 1] == '>';
        put_cell(t, cairn_strndup(headings[i], len - t->right[i]));
    }
    return t;
}

void table_cell(struct table *t, const char *fmt, ...)
{
    if (!t)
        return;
    struct cairn_buf b;
    cairn_buf_init(&b, 4096);
    va_list ap;
    char text[1024];
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    text[cairn_utf8_floor(text, strlen(text))] = '\0';
    for (char *c = text; *c; c++)
        if (*c == '\n' || *c == '\t')
            *c = ' ';
    put_cell(t, cairn_strdup(text));
    cairn_buf_release(&b);
}

void table_print_free(struct table *t)
{
    if (!t)
        return;
    size_t width[TABLE_COLUMNS_MAX] = {0};
    for (size_t i = 0; i < t->n_cells && !t->failed; i++) {
        size_t w = text_width(t->cells[i]);
        if (w > width[i % t->n_columns])
            width[i % t->n_columns] = w;
    }
    for (size_t i = 0; i < t->n_cells; i++) {
        size_t c = i % t->n_columns, w = t->failed ? 0 : text_width(t->cells[i]);
        bool last = c + 1 == t->n_columns;
        if (!t->failed) {
            if (t->right[c])
                printf("%*s", (int)(width[c] - w), "");
            out_text(t->cells[i], strlen(t->cells[i]));
            if (!t->right[c] && !last)
                printf("%*s", (int)(width[c] - w), "");
            fputs(last ? "\n" : "  ", stdout);
        }
        cairn_free(t->cells[i]);
    }
    cairn_free(t->cells);
    cairn_free(t);
}

/* ---- JSON
 * -----------------------------------------------------------------------------------------------------------------------------------
 */

int out_json(const struct args *a, const struct cairn_buf *msgpack)
{
    struct cairn_buf b;
    struct cairn_why why = {{0}};
    cairn_buf_init(&b, 0);
    enum cairn_err err =
        api_msgpack_to_json(msgpack->bytes, msgpack->len, isatty(STDOUT_FILENO) == 1, &b, &why);
    int code = EXIT_DONE;
    if (err) {
        code = fail_with(a, err, &why);
    } else {
        fwrite(b.bytes, 1, b.len, stdout);
        fputc('\n', stdout);
    }
    cairn_buf_release(&b);
    return code;
}

json_t *out_parse(const struct cairn_buf *msgpack)
{
    struct cairn_buf b;
    cairn_buf_init(&b, 0);
    json_t *j = NULL;
    if (!api_msgpack_to_json(msgpack->bytes, msgpack->len, false, &b, NULL) && b.bytes)
        j = json_loadb(b.bytes, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    cairn_buf_release(&b);
    return j;
}

const char *j_text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

double j_num(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

uint64_t j_whole(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    json_int_t i = json_integer_value(v);
    if (json_is_real(v) && json_real_value(v) >= 0 && json_real_value(v) < 9e18)
        return (uint64_t)json_real_value(v);
    return i > 0 ? (uint64_t)i : 0;
}

bool j_true(const json_t *o, const char *key) { return json_is_true(json_object_get(o, key)); }

void out_warnings(const struct args *a, const json_t *result)
{
    json_t *v;
    size_t i;
    json_array_foreach(json_object_get(result, "warnings"), i, v) if (json_is_string(v) && !a->quiet)(void)
        fail_text(a, 0, "note: %s", json_string_value(v));
}

/* ---- progress
 * ----------------------------------------------------------------------------------------------------------------------------------
 */

void progress_begin(struct progress *p, const struct args *a)
{
    *p = (struct progress){.off = a->quiet, .tty = isatty(STDERR_FILENO) == 1, .begun_us = cairn_now_us()};
    p->shown_us = p->begun_us;
}

void progress_update(void *ctx, const char *what, uint64_t done, uint64_t total)
{
    struct progress *p = ctx;
    int64_t now = cairn_now_us();
    bool last = total && done >= total;
    if (p->off)
        return;
    bool same = strncmp(p->what, what, sizeof p->what - 1) == 0;
    if (p->tty ? same && !last && now - p->shown_us < PROGRESS_TTY_US : now - p->shown_us < PROGRESS_LINE_US)
        return;
    p->shown_us = now;
    size_t len = strlen(what);
    len = cairn_utf8_floor(what, len < sizeof p->what - 1 ? len : sizeof p->what - 1);
    memcpy(p->what, what, len);
    p->what[len] = '\0';
    double share = total ? (double)(done < total ? done : total) / (double)total : 0;
    double seconds = (double)(now - p->begun_us) / 1e6;
    if (!p->tty) {
        if (total)
            fprintf(stderr, "%s: %" PRIu64 " of %" PRIu64 " (%.0f %%), %.0f s\n", p->what, done, total,
                    100 * share, seconds);
        else
            fprintf(stderr, "%s: %" PRIu64 ", %.0f s\n", p->what, done, seconds);
        return;
    }
    char bar[PROGRESS_BAR + 1];
    size_t full = (size_t)(share * PROGRESS_BAR);
    for (size_t i = 0; i < PROGRESS_BAR; i++)
        bar[i] = i < full ? '#' : '.';
    bar[PROGRESS_BAR] = '\0';
    if (total)
        fprintf(stderr, "\r%-14s [%s] %3.0f %%  %" PRIu64 "/%" PRIu64 "  %.0f s\x1b[K", p->what, bar,
                100 * share, done, total, seconds);
    else
        fprintf(stderr, "\r%-14s %" PRIu64 "  %.0f s\x1b[K", p->what, done, seconds);
    fflush(stderr);
    p->dirty = true;
}

void progress_end(struct progress *p)
{
    if (p->dirty)
        fputs("\r\x1b[K", stderr);
    p->dirty = false;
}
