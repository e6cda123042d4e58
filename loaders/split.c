/* split.c - an outline -> passages of about `target` bytes, at most `max`.
 * Pieces become units that are never larger than max: a long paragraph gives its sentences, a long table its
 * rows, long code its lines; what is still too long is cut at a space, else between code points. Units are
 * packed in order inside a section (from one heading with text below it to the next), so a passage never
 * mixes two sections. A heading goes with the first text below it; several headings in a row go together. A
 * short rest joins the passage before it. Passages are spans of the text: nothing is repeated, and only space
 * lies between them. */
#include "loaders_private.h"

struct unit {
    uint32_t start, end, path;
    bool glue, heading;
};
struct splitter {
    const char *text;
    const struct split_limits *limits;
    struct unit *units; /* of the open section */
    size_t n, cap;
    size_t heading_bytes; /* of the section's leading headings, 0 once text follows */
    bool has_text;
    struct loader_passage *out;
    size_t n_out, cap_out;
    char *const *paths;
};

static enum cairn_err unit_add(struct splitter *s, size_t start, size_t end, uint32_t path, bool glue,
                               bool heading, struct cairn_why *why)
{
    text_trim(s->text, &start, &end);
    if (start == end)
        return CAIRN_OK;
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        struct unit *units = cairn_reallocarray(s->units, cap, sizeof(*units));
        if (!units)
            return cairn_fail(why, CAIRN_ENOMEM, "units of a section");
        s->units = units;
        s->cap = cap;
    }
    s->units[s->n++] = (struct unit){(uint32_t)start, (uint32_t)end, path, glue, heading};
    return CAIRN_OK;
}

/* [start, end) as units of at most max bytes, cut at the last space of the second half of each, else on a
 * code point. */
static enum cairn_err add_cut(struct splitter *s, size_t start, size_t end, uint32_t path, bool glue,
                              bool heading, struct cairn_why *why)
{
    size_t max = s->limits->max;
    enum cairn_err err = CAIRN_OK;
    while (!err) {
        text_trim(s->text, &start, &end);
        if (end - start <= max)
            return unit_add(s, start, end, path, glue, heading, why);
        size_t cut = 0;
        for (size_t i = cairn_utf8_floor(s->text + start, max); i > max / 2; i--)
            if (text_space(s->text + start + i, 1)) {
                cut = i;
                break;
            }
        if (!cut)
            cut = cairn_utf8_floor(s->text + start, max);
        err = unit_add(s, start, start + cut, path, false, heading, why);
        start += cut;
    }
    return err;
}

static enum cairn_err add_sentences(struct splitter *s, const struct piece *p, struct cairn_why *why)
{
    struct cairn_str text = {s->text + p->start, p->end - p->start};
    size_t n = cairn_sentences(text, NULL, 0);
    struct cairn_span *spans = cairn_reallocarray(NULL, n + 1, sizeof(*spans));
    if (!spans)
        return cairn_fail(why, CAIRN_ENOMEM, "%zu sentences", n);
    n = cairn_sentences(text, spans, n);
    enum cairn_err err = CAIRN_OK;
    size_t start = 0;
    for (size_t i = 1; i <= n && !err; i++) {
        size_t end = i < n ? spans[i].start : text.len;
        if (end > start)
            err = add_cut(s, p->start + start, p->start + end, p->path, p->glue && i == n, false, why);
        start = end;
    }
    if (!err && n == 0)
        err = add_cut(s, p->start, p->end, p->path, p->glue, false, why);
    cairn_free(spans);
    return err;
}

static enum cairn_err add_lines(struct splitter *s, const struct piece *p, struct cairn_why *why)
{
    enum cairn_err err = CAIRN_OK;
    for (size_t start = p->start, end; start < p->end && !err; start = end) {
        for (end = start; end < p->end && s->text[end] != '\n';)
            end++;
        end += end < p->end;
        err = add_cut(s, start, end, p->path, false, false, why);
    }
    return err;
}

static enum cairn_err emit(struct splitter *s, size_t start, size_t end, uint32_t path, struct cairn_why *why)
{
    if (s->n_out >= s->limits->passages_max)
        return cairn_fail(
            why, CAIRN_EFULL,
            "more than %zu passages in one document: split the file or raise loaders.passages_max",
            s->limits->passages_max);
    if (s->n_out == s->cap_out) {
        size_t cap = s->cap_out ? s->cap_out * 2 : 16;
        struct loader_passage *out = cairn_reallocarray(s->out, cap, sizeof(*out));
        if (!out)
            return cairn_fail(why, CAIRN_ENOMEM, "%zu passages", cap);
        s->out = out;
        s->cap_out = cap;
    }
    char *copy = cairn_strdup(s->paths[path]);
    if (!copy)
        return cairn_fail(why, CAIRN_ENOMEM, "path of a passage");
    s->out[s->n_out++] = (struct loader_passage){(uint32_t)start, (uint32_t)end, copy};
    return CAIRN_OK;
}

/* Packs the open section and empties it. */
static enum cairn_err pack(struct splitter *s, struct cairn_why *why)
{
    const struct unit *u = s->units;
    size_t target = s->limits->target, max = s->limits->max, first = s->n_out;
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0, j; i < s->n && !err; i = j) {
        for (j = i + 1; j < s->n; j++) {
            size_t now = u[j - 1].end - u[i].start, with = u[j].end - u[i].start;
            if (with > max || (with > target && now >= target / 2 && !u[j - 1].glue))
                break;
        }
        if (j < s->n) { /* what announces the next unit goes with it, unless nothing would be left */
            size_t k = j;
            while (k > i + 1 && u[k - 1].glue)
                k--;
            if (!u[k - 1].glue)
                j = k;
        }
        /* Of headings in a row the lowest one names the passage. */
        err = emit(s, u[i].start, u[j - 1].end, u[j - 1].path, why);
    }
    if (!err && s->n_out >= first + 2) {
        struct loader_passage *last = &s->out[s->n_out - 1], *prev = last - 1;
        if (last->end - last->start < target / 4 && last->end - prev->start <= max) {
            prev->end = last->end;
            cairn_free(last->path);
            s->n_out--;
        }
    }
    s->n = 0;
    s->has_text = false;
    return err;
}

/* One past the last piece of the table that starts at i. */
static size_t table_end(const struct outline *o, size_t i)
{
    size_t j = i + 1;
    while (j < o->n && o->pieces[j].group == o->pieces[i].group && o->pieces[j].kind == PIECE_ROW)
        j++;
    return j;
}

enum cairn_err split_passages(struct loader_passage **out, size_t *n, const struct outline *o,
                              const char *text, const struct split_limits *limits, struct cairn_why *why)
{
    *out = NULL;
    *n = 0;
    struct splitter s = {.text = text, .limits = limits, .paths = o->paths};
    size_t whole_max = limits->target + limits->target / 3; /* a paragraph up to this is not taken apart */
    if (whole_max > limits->max)
        whole_max = limits->max;
    enum cairn_err err = CAIRN_OK;
    for (size_t i = 0; i < o->n && !err; i++) {
        const struct piece *p = &o->pieces[i];
        size_t len = p->end - p->start;
        if (p->kind == PIECE_HEADING) {
            if (s.has_text || (s.n && p->end - s.units[0].start > limits->target))
                err = pack(&s, why);
            if (!err)
                err = add_cut(&s, p->start, p->end, p->path, true, true, why);
            continue;
        }
        size_t headings = !s.has_text && s.n ? p->start - s.units[0].start : 0;
        s.has_text = true;
        if (p->kind == PIECE_ROW && p->group) {
            size_t end = table_end(o, i);
            size_t whole = o->pieces[end - 1].end - p->start;
            if (whole + headings <= limits->max) {
                err = unit_add(&s, p->start, o->pieces[end - 1].end, p->path, o->pieces[end - 1].glue, false,
                               why);
                i = end - 1;
                continue;
            }
        }
        if (p->kind == PIECE_ROW)
            err = add_cut(&s, p->start, p->end, p->path, p->glue, false, why);
        else if (len <= whole_max && len + headings <= limits->max)
            err = unit_add(&s, p->start, p->end, p->path, p->glue, false, why);
        else if (p->kind == PIECE_CODE)
            err = add_lines(&s, p, why);
        else
            err = add_sentences(&s, p, why);
    }
    if (!err)
        err = pack(&s, why);
    cairn_free(s.units);
    if (err) {
        for (size_t i = 0; i < s.n_out; i++)
            cairn_free(s.out[i].path);
        cairn_free(s.out);
        return err;
    }
    *out = s.out;
    *n = s.n_out;
    return CAIRN_OK;
}
