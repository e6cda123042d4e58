/* eval/squad.c - answers compared as SQuAD's evaluate-v2.0 compares them: normalise, exact match, F1 of token
 * multisets. The script is Python, so lower case, word characters and white space here are Python's
 * (str.lower, re's \w and \b, str.split). Everything works on code points; a text is decoded once. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct points {
    uint32_t *p;
    size_t n, cap;
};

static bool push(struct points *s, uint32_t c)
{
    if (!eval_grow((void **)&s->p, &s->cap, s->n + 1, sizeof *s->p))
        return false;
    s->p[s->n++] = c;
    return true;
}

static bool decode(struct points *s, const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint32_t c;
        size_t n = cairn_utf8_next(text + i, len - i, &c);
        if (!n) {
            n = 1;
            c = 0xFFFD;
        }
        if (!push(s, c))
            return false;
        i += n;
    }
    return true;
}

static char *encode(const uint32_t *p, size_t n)
{
    char *out = cairn_malloc(n * 4 + 1);
    if (!out)
        return NULL;
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        at += (size_t)utf8proc_encode_char((utf8proc_int32_t)p[i], (utf8proc_uint8_t *)out + at);
    out[at] = 0;
    return out;
}

static utf8proc_category_t category(uint32_t c) { return utf8proc_category((utf8proc_int32_t)c); }

/* Word_Break MidLetter, MidNumLet or Single_Quote (UAX 29): part of Case_Ignorable. */
static bool mid_letter(uint32_t c)
{
    static const uint16_t mid[] = {0x27,   0x2E,   0x3A,   0xB7,   0x387,  0x55F,  0x5F4,  0x2018, 0x2019,
                                   0x2024, 0x2027, 0xFE13, 0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A};
    for (size_t i = 0; i < sizeof mid / sizeof mid[0]; i++)
        if (mid[i] == c)
            return true;
    return false;
}
static bool case_ignorable(uint32_t c)
{
    switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return mid_letter(c);
    }
}
static bool cased(uint32_t c)
{
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
        return true;
    default: /* Other_Lowercase and Other_Uppercase that are not case-ignorable */
        return c == 0xAA || c == 0xBA || (c >= 0x2160 && c <= 0x217F) || (c >= 0x24B6 && c <= 0x24E9) ||
               (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
               (c >= 0x1F170 && c <= 0x1F189);
    }
}

/* A capital sigma is a final one when a cased letter stands before it and none behind, over case-ignorable
 * characters. */
static bool final_sigma(const struct points *s, size_t i)
{
    size_t j = i;
    while (j > 0 && case_ignorable(s->p[j - 1]))
        j--;
    if (j == 0 || !cased(s->p[j - 1]))
        return false;
    for (j = i + 1; j < s->n && case_ignorable(s->p[j]);)
        j++;
    return j == s->n || !cased(s->p[j]);
}

static bool lower(const struct points *in, struct points *out)
{
    for (size_t i = 0; i < in->n; i++) {
        uint32_t c = in->p[i];
        bool ok;
        if (c == 0x130)
            ok = push(out, 'i') && push(out, 0x307);
        else if (c == 0x3A3)
            ok = push(out, final_sigma(in, i) ? 0x3C2 : 0x3C3);
        else
            ok = push(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
        if (!ok)
            return false;
    }
    return true;
}

static bool ascii_punctuation(uint32_t c)
{
    return c > 0x20 && c < 0x7F && !((c | 32) >= 'a' && (c | 32) <= 'z') && !(c >= '0' && c <= '9');
}

static bool space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

/* Python's \w, the underscore having gone with the punctuation. */
static bool word(uint32_t c)
{
    switch (category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return true;
    default:
        return false;
    }
}

static bool article(const uint32_t *p, size_t n)
{
    return (n == 1 && p[0] == 'a') || (n == 2 && p[0] == 'a' && p[1] == 'n') ||
           (n == 3 && p[0] == 't' && p[1] == 'h' && p[2] == 'e');
}

char *eval_normalize(const char *text, size_t len)
{
    struct points a = {0}, b = {0};
    char *s = NULL;
    if (!decode(&a, text, len) || !lower(&a, &b))
        goto done;
    size_t n = 0;
    for (size_t i = 0; i < b.n; i++)
        if (!ascii_punctuation(b.p[i]))
            b.p[n++] = b.p[i];
    for (size_t i = 0; i < n;) { /* an article is a whole run of word characters */
        size_t j = i;
        while (j < n && word(b.p[j]))
            j++;
        if (article(b.p + i, j - i))
            for (size_t k = i; k < j; k++)
                b.p[k] = ' ';
        i = j > i ? j : i + 1;
    }
    size_t out = 0;
    for (size_t i = 0; i < n; i++) {
        if (!space(b.p[i]))
            b.p[out++] = b.p[i];
        else if (out && b.p[out - 1] != ' ')
            b.p[out++] = ' ';
    }
    if (out && b.p[out - 1] == ' ')
        out--;
    s = encode(b.p, out);
done:
    cairn_free(a.p);
    cairn_free(b.p);
    return s;
}

/* ---- tokens ---- */

struct bag {
    struct cairn_str *t;
    size_t n, cap;
};

static int by_token(const void *a, const void *b)
{
    const struct cairn_str *x = a, *y = b;
    size_t len = x->len < y->len ? x->len : y->len;
    int c = memcmp(x->p, y->p, len);
    return c ? c : (x->len > y->len) - (x->len < y->len);
}

static bool fill(struct bag *b, const char *normal)
{
    for (const char *p = normal; *p;) {
        const char *end = strchr(p, ' ');
        size_t len = end ? (size_t)(end - p) : strlen(p);
        if (!eval_grow((void **)&b->t, &b->cap, b->n + 1, sizeof *b->t))
            return false;
        b->t[b->n++] = (struct cairn_str){p, len};
        p += len + (end ? 1 : 0);
    }
    if (b->n)
        qsort(b->t, b->n, sizeof *b->t, by_token);
    return true;
}

static size_t shared_tokens(const struct bag *a, const struct bag *b)
{
    size_t n = 0;
    for (size_t i = 0, j = 0; i < a->n && j < b->n;) {
        int c = by_token(&a->t[i], &b->t[j]);
        n += c == 0;
        i += c <= 0;
        j += c >= 0;
    }
    return n;
}

struct pair {
    char *gold, *answer; /* normalised */
    struct bag g, a;
};
static void pair_release(struct pair *p)
{
    cairn_free(p->gold);
    cairn_free(p->answer);
    cairn_free(p->g.t);
    cairn_free(p->a.t);
}
static enum cairn_err pair_init(struct pair *p, const char *gold, const char *answer, struct cairn_why *why)
{
    *p = (struct pair){eval_normalize(gold, strlen(gold)), eval_normalize(answer, strlen(answer)), {0}, {0}};
    if (p->gold && p->answer && fill(&p->g, p->gold) && fill(&p->a, p->answer))
        return CAIRN_OK;
    pair_release(p);
    return cairn_fail(why, CAIRN_ENOMEM, "comparing an answer");
}
static double pair_f1(const struct pair *p)
{
    if (!p->g.n || !p->a.n)
        return p->g.n == p->a.n;
    double same = (double)shared_tokens(&p->g, &p->a);
    if (same == 0)
        return 0;
    double precision = same / (double)p->a.n, recall = same / (double)p->g.n;
    return 2 * precision * recall / (precision + recall);
}

enum cairn_err eval_f1(const char *gold, const char *answer, double *f1, struct cairn_why *why)
{
    struct pair p;
    enum cairn_err err = pair_init(&p, gold, answer, why);
    if (err)
        return err;
    *f1 = pair_f1(&p);
    pair_release(&p);
    return CAIRN_OK;
}

/* Both normalised: needle stands in hay as whole words. */
bool eval_has_words(const char *hay, const char *needle)
{
    size_t n = strlen(needle);
    if (!n)
        return false;
    for (const char *p = hay; (p = strstr(p, needle)); p++)
        if ((p == hay || p[-1] == ' ') && (p[n] == 0 || p[n] == ' '))
            return true;
    return false;
}

enum cairn_err eval_answer(const char *const *gold, size_t n_gold, const char *answer,
                           struct eval_answer_score *out, struct cairn_why *why)
{
    *out = (struct eval_answer_score){0};
    size_t counted = 0;
    for (size_t i = 0; i <= n_gold; i++) { /* the last turn is the empty answer, where no other counted */
        if (i == n_gold && counted)
            break;
        struct pair p;
        enum cairn_err err = pair_init(&p, i < n_gold ? gold[i] : "", answer, why);
        if (err)
            return err;
        if (i == n_gold || *p.gold) {
            counted++;
            double f1 = pair_f1(&p), exact = strcmp(p.gold, p.answer) == 0,
                   has = p.g.n ? eval_has_words(p.answer, p.gold) : exact;
            double recall = p.g.n ? (double)shared_tokens(&p.g, &p.a) / (double)p.g.n : exact;
            out->exact = exact > out->exact ? exact : out->exact;
            out->f1 = f1 > out->f1 ? f1 : out->f1;
            out->contains = has > out->contains ? has : out->contains;
            out->token_recall = recall > out->token_recall ? recall : out->token_recall;
        }
        pair_release(&p);
    }
    return CAIRN_OK;
}
