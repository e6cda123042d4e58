/* eval/ann_curve.c - runs, the setting that is compared, and the picture. */
#include "ann.h"

#include <math.h>
#include <string.h>

enum cairn_err ann_runs_add(struct ann_runs *r, const struct ann_run *run, struct cairn_why *why)
{
    for (size_t i = 0; i < r->n; i++) {
        struct ann_run *old = &r->v[i];
        if (strcmp(old->engine, run->engine) == 0 && strcmp(old->set, run->set) == 0 &&
            strcmp(old->setting, run->setting) == 0) {
            if (run->qps > old->qps)
                *old = *run;
            return CAIRN_OK;
        }
    }
    if (r->n >= ANN_RUNS_MAX)
        return cairn_fail(why, CAIRN_EFULL, "more than %u settings", ANN_RUNS_MAX);
    if (!eval_grow((void **)&r->v, &r->cap, r->n + 1, sizeof *r->v))
        return cairn_fail(why, CAIRN_ENOMEM, "runs");
    r->v[r->n++] = *run;
    return CAIRN_OK;
}

const struct ann_run *ann_runs_at(const struct ann_runs *r, const char *set, const char *engine,
                                  double recall)
{
    const struct ann_run *best = NULL;
    for (size_t i = 0; i < r->n; i++) {
        const struct ann_run *x = &r->v[i];
        if (strcmp(x->set, set) != 0 || strcmp(x->engine, engine) != 0 || !(x->recall >= recall))
            continue;
        if (!best || x->recall < best->recall || (x->recall == best->recall && x->qps > best->qps))
            best = x;
    }
    return best;
}

const struct ann_run *ann_runs_best(const struct ann_runs *r, const char *set, const char *not_this,
                                    double recall)
{
    const struct ann_run *best = NULL;
    for (size_t i = 0; i < r->n; i++) {
        if (strcmp(r->v[i].set, set) != 0 || strncmp(r->v[i].engine, not_this, strlen(not_this)) == 0)
            continue;
        const struct ann_run *x = ann_runs_at(r, set, r->v[i].engine, recall);
        if (x && (!best || x->qps > best->qps))
            best = x;
    }
    return best;
}

/* ---- SVG ---- */

enum { W = 760, H = 460, LEFT = 74, RIGHT = 190, TOP = 46, BOTTOM = 56, ENGINES_MAX = 12 };
#define RECALL_MIN 0.80

static void escaped(struct cairn_buf *b, const char *s)
{
    for (; *s; s++) {
        if (*s == '<')
            cairn_buf_puts(b, "&lt;");
        else if (*s == '>')
            cairn_buf_puts(b, "&gt;");
        else if (*s == '&')
            cairn_buf_puts(b, "&amp;");
        else if ((unsigned char)*s >= 0x20)
            cairn_buf_put(b, s, 1);
    }
}
/* Recall is drawn on -log(1 - recall), so that 0.90, 0.95, 0.99 and 0.999 stand apart. */
static double x_of(double recall)
{
    double top = -log(1 - 0.9995), low = -log(1 - RECALL_MIN), v = -log(1 - fmin(recall, 0.9995));
    return LEFT + (W - LEFT - RIGHT) * (v - low) / (top - low);
}
static double y_of(double qps, double low, double high)
{
    return H - BOTTOM - (H - TOP - BOTTOM) * (log10(qps) - low) / (high - low);
}

enum cairn_err ann_svg(struct cairn_buf *out, const struct ann_runs *r, const char *set, const char *title,
                       const char *ours, struct cairn_why *why)
{
    static const char *const colours[] = {"#c0392b", "#2471a3", "#1e8449", "#b9770e", "#7d3c98", "#117a65",
                                          "#5d6d7e", "#a04000", "#2e4053", "#884ea0", "#148f77", "#7b7d7d"};
    static const double ticks[] = {0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999};
    const char *names[ENGINES_MAX];
    size_t n = 0;
    double low = 12, high = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct ann_run *x = &r->v[i];
        if (strcmp(x->set, set) != 0 || x->recall < RECALL_MIN || !(x->qps > 0))
            continue;
        low = fmin(low, log10(x->qps));
        high = fmax(high, log10(x->qps));
        size_t k = 0;
        while (k < n && strcmp(names[k], x->engine) != 0)
            k++;
        if (k < n)
            continue;
        if (n == ENGINES_MAX)
            return cairn_fail(why, CAIRN_EFULL, "more than %d engines in one picture", ENGINES_MAX);
        names[n++] = x->engine;
        if (strcmp(x->engine, ours) == 0) { /* first in the legend */
            const char *t = names[0];
            names[0] = names[n - 1];
            names[n - 1] = t;
        }
    }
    if (n == 0)
        return cairn_fail(why, CAIRN_ENOTFOUND, "no run of %s reaches recall %.2f: nothing to draw", set,
                          RECALL_MIN);
    low = floor(low);
    high = fmax(ceil(high), low + 1);
    cairn_buf_printf(out,
                     "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
                     "height=\"%d\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n"
                     "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n"
                     "<text x=\"%d\" y=\"26\" font-size=\"15\" font-weight=\"bold\">",
                     W, H, W, H, W, H, LEFT);
    escaped(out, title);
    cairn_buf_puts(out, "</text>\n");
    for (int decade = (int)low; decade <= (int)high; decade++) {
        for (int m = 1; m < 10 && (m == 1 || decade < (int)high); m++) {
            double y = y_of(m * pow(10, decade), low, high);
            bool label = m == 1 || m == 2 || m == 5;
            cairn_buf_printf(out, "<path d=\"M%d %.1fH%d\" stroke=\"%s\"/>\n", LEFT, y, W - RIGHT,
                             m == 1 ? "#bbb" : "#eee");
            double v = m * pow(10, decade);
            if (label && v >= 1000)
                cairn_buf_printf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%gk</text>\n", LEFT - 8,
                                 y + 4, v / 1000);
            else if (label)
                cairn_buf_printf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", LEFT - 8,
                                 y + 4, v);
        }
    }
    for (size_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
        cairn_buf_printf(out,
                         "<path d=\"M%.1f %dV%d\" stroke=\"#ddd\"/>\n<text x=\"%.1f\" y=\"%d\" "
                         "text-anchor=\"middle\">%g</text>\n",
                         x_of(ticks[i]), TOP, H - BOTTOM, x_of(ticks[i]), H - BOTTOM + 18, ticks[i]);
    cairn_buf_printf(out,
                     "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">recall@10</text>\n"
                     "<text transform=\"translate(20 %d) rotate(-90)\" text-anchor=\"middle\">queries per "
                     "second, 1 thread (log)</text>\n",
                     (LEFT + W - RIGHT) / 2, H - 16, (TOP + H - BOTTOM) / 2);
    for (size_t k = n; k-- > 0;) { /* ours last, on top */
        bool first = strcmp(names[k], ours) == 0;
        const char *colour = colours[k];
        double after = 0;
        cairn_buf_printf(out, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%s\" d=\"", colour,
                         first ? "3.5" : "1.5");
        for (char step = 'M';; step = 'L') { /* by recall upwards */
            const struct ann_run *next = NULL;
            for (size_t i = 0; i < r->n; i++) {
                const struct ann_run *x = &r->v[i];
                if (strcmp(x->set, set) == 0 && strcmp(x->engine, names[k]) == 0 && x->recall > after &&
                    x->recall >= RECALL_MIN && x->qps > 0 && (!next || x->recall < next->recall))
                    next = x;
            }
            if (!next)
                break;
            after = next->recall;
            cairn_buf_printf(out, "%c%.1f %.1f", step, x_of(after), y_of(next->qps, low, high));
        }
        cairn_buf_puts(out, "\"/>\n");
        for (size_t i = 0; i < r->n; i++) {
            const struct ann_run *x = &r->v[i];
            if (strcmp(x->set, set) == 0 && strcmp(x->engine, names[k]) == 0 && x->recall >= RECALL_MIN &&
                x->qps > 0)
                cairn_buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"/>\n",
                                 x_of(x->recall), y_of(x->qps, low, high), first ? "4" : "2.5", colour);
        }
        int y = TOP + 12 + (int)k * 20;
        cairn_buf_printf(out,
                         "<path d=\"M%d %dh22\" stroke=\"%s\" stroke-width=\"%s\"/>\n<text x=\"%d\" "
                         "y=\"%d\"%s>",
                         W - RIGHT + 14, y, colour, first ? "3.5" : "1.5", W - RIGHT + 42, y + 4,
                         first ? " font-weight=\"bold\"" : "");
        escaped(out, names[k]);
        cairn_buf_puts(out, "</text>\n");
    }
    cairn_buf_puts(out, "</svg>\n");
    return out->failed ? cairn_fail(why, CAIRN_ENOMEM, "the picture") : CAIRN_OK;
}
