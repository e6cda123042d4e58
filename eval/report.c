/* eval/report.c - `cairn eval report`: results of `cairn eval ... --json` as one HTML page that needs nothing
 * else: for each result a table and a drawing of its measures with their intervals, and for answers the curve
 * of F1 over the share of questions answered. */
#include "run.h"

#include <math.h>
#include <string.h>

#define BAR_H 22
#define LABEL_W 190
#define PLOT_W 420
#define ROWS_MAX 200u

static void put_text(struct cairn_buf *b, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '<')
            cairn_buf_puts(b, "&lt;");
        else if (*s == '>')
            cairn_buf_puts(b, "&gt;");
        else if (*s == '&')
            cairn_buf_puts(b, "&amp;");
        else if (*s == '"')
            cairn_buf_puts(b, "&quot;");
        else
            cairn_buf_put(b, s, 1);
    }
}

struct row {
    char name[80];
    double value, low, high; /* low, high NaN: no interval */
};
struct rows {
    struct row at[ROWS_MAX];
    size_t n;
};

static void add_row(struct rows *r, const char *name, double value, const json_t *interval)
{
    if (r->n == ROWS_MAX || !(value >= -1e9 && value <= 1e9))
        return;
    struct row *x = &r->at[r->n++];
    snprintf(x->name, sizeof x->name, "%s", name);
    x->value = value;
    x->low = json_array_size(interval) == 2 ? json_number_value(json_array_get(interval, 0)) : NAN;
    x->high = json_array_size(interval) == 2 ? json_number_value(json_array_get(interval, 1)) : NAN;
}

/* metrics: {LEG: {MEASURE: x}} with intervals {"LEG MEASURE"}, or {MEASURE: x} with {MEASURE}. */
static void collect(struct rows *r, json_t *metrics, json_t *intervals)
{
    const char *name, *measure;
    json_t *v, *x;
    json_object_foreach(metrics, name, v)
    {
        if (json_is_number(v)) {
            if (json_is_real(v))
                add_row(r, name, json_number_value(v), json_object_get(intervals, name));
            continue;
        }
        json_object_foreach(v, measure, x)
        {
            char full[80];
            snprintf(full, sizeof full, "%s %s", name, measure);
            if (json_is_number(x))
                add_row(r, full, json_number_value(x), json_object_get(intervals, full));
        }
    }
}

/* What grounding prints has its values at the top, and interval95: {NAME: [low, high]}. */
static void collect_flat(struct rows *r, json_t *result)
{
    const char *name;
    json_t *v;
    json_object_foreach(result, name, v)
    {
        if (json_is_real(v))
            add_row(r, name, json_real_value(v),
                    json_object_get(json_object_get(result, "interval95"), name));
    }
}

static void draw_bars(struct cairn_buf *b, const struct rows *r)
{
    double most = 1;
    for (size_t i = 0; i < r->n; i++)
        most = fmax(most, fmax(r->at[i].value, isnan(r->at[i].high) ? 0 : r->at[i].high));
    cairn_buf_printf(b, "<svg width=\"%d\" height=\"%zu\" role=\"img\" font-size=\"12\">\n",
                     LABEL_W + PLOT_W + 70, r->n * BAR_H + 20);
    for (int i = 0; i <= 4; i++) {
        double x = LABEL_W + PLOT_W * i / 4.0;
        cairn_buf_printf(
            b,
            "<line x1=\"%.1f\" y1=\"0\" x2=\"%.1f\" y2=\"%zu\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%zu\" "
            "text-anchor=\"middle\" fill=\"#777\">%.3g</text>\n",
            x, x, r->n * BAR_H, x, r->n * BAR_H + 15, most * i / 4);
    }
    for (size_t i = 0; i < r->n; i++) {
        const struct row *x = &r->at[i];
        double y = (double)(i * BAR_H), w = PLOT_W * fmax(0, x->value) / most;
        cairn_buf_printf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">", LABEL_W - 8, y + 15);
        put_text(b, x->name);
        cairn_buf_printf(b,
                         "</text><rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" fill=\"#6a9fb5\"/>",
                         LABEL_W, y + 4, w, BAR_H - 8);
        if (!isnan(x->low)) {
            double a = LABEL_W + PLOT_W * fmax(0, x->low) / most,
                   z = LABEL_W + PLOT_W * fmax(0, x->high) / most, m = y + BAR_H / 2.0;
            cairn_buf_printf(
                b, "<path d=\"M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8\" stroke=\"#222\" fill=\"none\"/>", a,
                m, z, a, m - 4, z, m - 4);
        }
        cairn_buf_printf(b, "<text x=\"%.1f\" y=\"%.1f\">%.3f</text>\n",
                         LABEL_W + 6 + PLOT_W * fmax(fmax(0, x->value), isnan(x->high) ? 0 : x->high) / most,
                         y + 15, x->value);
    }
    cairn_buf_puts(b, "</svg>\n");
}

/* curve: [[coverage, f1], ...] */
static void draw_curve(struct cairn_buf *b, const json_t *curve)
{
    size_t n = json_array_size(curve);
    if (n < 2)
        return;
    cairn_buf_puts(
        b, "<h3>F1 over the share of questions answered, most certain first</h3>\n"
           "<svg width=\"420\" height=\"240\" role=\"img\" font-size=\"12\"><path d=\"M40 10V210H400\" "
           "stroke=\"#222\" fill=\"none\"/>");
    for (int i = 0; i <= 4; i++)
        cairn_buf_printf(b,
                         "<text x=\"%d\" y=\"226\" text-anchor=\"middle\">%.2g</text><text x=\"34\" y=\"%d\" "
                         "text-anchor=\"end\">%.2g</text>",
                         40 + 90 * i, i / 4.0, 214 - 50 * i, i / 4.0);
    cairn_buf_puts(b, "<polyline fill=\"none\" stroke=\"#b5636a\" stroke-width=\"2\" points=\"");
    for (size_t i = 0; i < n; i++) {
        const json_t *p = json_array_get(curve, i);
        cairn_buf_printf(b, "%.1f,%.1f ", 40 + 360 * json_number_value(json_array_get(p, 0)),
                         210 - 200 * json_number_value(json_array_get(p, 1)));
    }
    cairn_buf_puts(b, "\"/></svg>\n");
}

static void put_comparison(struct cairn_buf *b, json_t *c)
{
    const char *name;
    json_t *v;
    if (!json_object_size(c))
        return;
    cairn_buf_puts(
        b, "<h3>Against the "
           "baseline</h3>\n<table><tr><th><th>n<th>before<th>now<th>difference<th>interval<th>p</tr>\n");
    json_object_foreach(c, name, v)
    {
        cairn_buf_printf(b, "<tr%s><td>", json_is_true(json_object_get(v, "drop")) ? " class=\"drop\"" : "");
        put_text(b, name);
        cairn_buf_printf(
            b, "<td>%d<td>%.4f<td>%.4f<td>%+.4f<td>[%+.4f, %+.4f]<td>%.4f</tr>\n",
            (int)json_integer_value(json_object_get(v, "n")), json_number_value(json_object_get(v, "before")),
            json_number_value(json_object_get(v, "now")), json_number_value(json_object_get(v, "difference")),
            json_number_value(json_object_get(v, "low")), json_number_value(json_object_get(v, "high")),
            json_number_value(json_object_get(v, "p")));
    }
    cairn_buf_puts(b, "</table>\n");
}

static void put_result(struct cairn_buf *b, const char *title, json_t *result)
{
    struct rows *r = cairn_calloc(1, sizeof *r);
    if (!r) {
        b->failed = true;
        return;
    }
    const char *set = text_of(result, "set");
    cairn_buf_puts(b, "<section><h2>");
    put_text(b, title);
    if (set) {
        cairn_buf_puts(b, ": ");
        put_text(b, set);
    }
    cairn_buf_puts(b, "</h2>\n");
    if (json_is_object(json_object_get(result, "metrics")))
        collect(r, json_object_get(result, "metrics"), json_object_get(result, "intervals"));
    else
        collect_flat(r, result);
    draw_bars(b, r);
    draw_curve(b, json_object_get(result, "curve"));
    put_comparison(b, json_object_get(result, "baseline"));
    char *settings = json_dumps(json_object_get(result, "settings"), JSON_COMPACT | JSON_ENCODE_ANY);
    if (settings && json_object_get(result, "settings")) {
        cairn_buf_puts(b, "<p class=\"settings\">");
        put_text(b, settings);
        cairn_buf_puts(b, "</p>");
    }
    free(settings); /* jansson's */
    cairn_buf_puts(b, "</section>\n");
    cairn_free(r);
}

enum cairn_err report_write(const char *path, json_t *parts, struct cairn_why *why)
{
    struct cairn_buf b;
    cairn_buf_init(&b, (size_t)64 << 20);
    cairn_buf_puts(
        &b, "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>cairn eval</title>\n<style>"
            "body{font:14px/1.45 sans-serif;margin:2em auto;max-width:60em;color:#222}"
            "h2{border-top:1px solid #ccc;padding-top:1em}table{border-collapse:collapse}"
            "td,th{padding:2px 8px;text-align:right}td:first-child{text-align:left}"
            ".drop{background:#fbe3e4}.settings{color:#777;font-size:12px;overflow-wrap:anywhere}</style>\n"
            "<h1>cairn eval</h1>\n<p>cairn " CAIRN_VERSION
            ". Whiskers are 95 % intervals by bootstrap over queries, questions or sources.</p>\n");
    for (size_t i = 0; i < json_array_size(parts); i++) {
        json_t *p = json_array_get(parts, i), *result = json_object_get(p, "result");
        const char *title = text_of(p, "command");
        if (json_is_object(result))
            put_result(&b, title ? title : "eval", result);
    }
    cairn_buf_puts(&b, "</html>\n");
    enum cairn_err err =
        b.failed ? cairn_fail(why, CAIRN_ENOMEM, "report") : cairn_write_file(path, b.bytes, b.len, why);
    cairn_buf_release(&b);
    return err;
}

static const struct option_row rows[] = {
    {"in",  "FILE", "results, one JSON object a line: of --json, or of `cairn eval all --out`", O_TEXT,
     offsetof(struct options,                                                                                                    set)},
    {"out", "FILE", "the page",                                                                 O_TEXT, offsetof(struct options, out)},
};

static enum cairn_err take_line(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    (void)line;
    (void)why;
    json_array_append_new(ctx, json_is_object(json_object_get(o, "result"))
                                   ? json_incref(o)
                                   : json_pack("{s:s, s:O}", "command", "eval", "result", o));
    return CAIRN_OK;
}

int eval_report(int argc, char **argv)
{
    struct options o = {.command = "eval report"};
    struct cairn_why why = {{0}};
    int code = options_read(&o, rows, sizeof rows / sizeof rows[0], argc, argv);
    if (code)
        return code;
    if (o.help) {
        options_print("eval report --in FILE --out FILE.html", "Draws results of `cairn eval`.", rows,
                      sizeof rows / sizeof rows[0], stdout);
        return finish_output(&o);
    }
    if (!o.set || !o.out)
        return tell(&o, USAGE, "want --in FILE and --out FILE");
    json_t *parts = json_array();
    enum cairn_err err = each_json(o.set, take_line, parts, &why);
    if (!err)
        err = report_write(o.out, parts, &why);
    json_decref(parts);
    return err ? tell_err(&o, err, &why) : DONE;
}
