/* asked.c - what kind of thing a question asks for, and whether a text has one. English question words; a
 * question of another language asks for anything. */
#include "answer_internal.h"
#include "typed.h"

#include <string.h>

#define QUESTION_READ_MAX 512u
#define TYPED_MAX 64u

/* Lower-case words of the question, one space between, a space at both ends. */
static void plain_words(struct cairn_str q, char *out, size_t max)
{
    size_t n = 0;
    out[n++] = ' ';
    for (size_t i = 0; i < q.len && n + 2 < max; i++) {
        unsigned char c = (unsigned char)q.p[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c >= 0x80;
        if (word)
            out[n++] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : (char)c;
        else if (out[n - 1] != ' ')
            out[n++] = ' ';
    }
    if (out[n - 1] != ' ')
        out[n++] = ' ';
    out[n] = '\0';
}
static bool says(const char *words, const char *const *list)
{
    for (; *list; list++)
        if (strstr(words, *list))
            return true;
    return false;
}

enum asked question_asks(struct cairn_str question)
{
    static const char *const date[] = {" when ",        " which date ",
                                       " what date ",   " which year ",
                                       " what year ",   " which month ",
                                       " which day ",   " which days ",
                                       " what day ",    " since when ",
                                       " which dates ", " what month ",
                                       " what dates ",  NULL};
    static const char *const percent[] = {" percent ", " percentage ", " per cent ", " what share ", NULL};
    static const char *const many[] = {" how many ", " what number ", " which number ", NULL};
    static const char *const money[] = {
        " cost ",     " costs ",  " price ",  " fee ",     " salary ",  " pay ",   " pays ",
        " paid ",     " amount ", " budget ", " rent ",    " charge ",  " money ", " spend ",
        " dividend ", " bonus ",  " worth ",  " charged ", " revenue ", " earn ",  NULL};
    static const char *const asks_price[] = {
        " what will ",       " what does ",          " what is the price ",
        " what is the fee ", " what is the salary ", " what did ",
        " what do ",         " how much ",           NULL};
    static const char *const amount[] = {
        " how much ", " how large ", " how big ",   " how high ", " how heavy ",   " how far ",  " how deep ",
        " how fast ", " how wide ",  " how often ", " how old ",  " what amount ", " how tall ", NULL};
    static const char *const person[] = {" who ", " whom ", " whose ", NULL};
    char w[QUESTION_READ_MAX];
    plain_words(question, w, sizeof w);
    if (says(w, percent))
        return ASKED_PERCENT;
    if (says(w, many))
        return ASKED_NUMBER;
    if (strstr(w, " how much of "))
        return ASKED_ANY; /* "all of it" */
    if (says(w, asks_price) && says(w, money))
        return ASKED_MONEY;
    if (strstr(w, " how long "))
        return ASKED_DURATION;
    if (says(w, amount))
        return ASKED_NUMBER;
    if (says(w, person))
        return ASKED_PERSON;
    if (says(w, date))
        return ASKED_DATE;
    return ASKED_ANY;
}

static bool same_value(const struct typed *a, const struct typed *b)
{
    if (a->kind != b->kind)
        return false;
    return a->kind == TYPED_NUMBER ? typed_number_match(a, b)
           : a->kind == TYPED_DATE ? typed_date_match(a, b)
           : a->kind == TYPED_TIME ? typed_time_match(a, b)
                                   : false;
}

static bool has_word(struct cairn_str t, const char *word, size_t len)
{
    for (size_t i = 0; i + len <= t.len; i++)
        if (memcmp(t.p + i, word, len) == 0)
            return true;
    return false;
}
static bool has_letter(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((p[i] >= 'a' && p[i] <= 'z') || (unsigned char)p[i] >= 0x80)
            return true;
    return false;
}
/* A capitalised word that the question does not have, behind the first word or anywhere in a table row. */
static bool has_new_name(struct cairn_str t, struct cairn_str question)
{
    bool row = memchr(t.p, '|', t.len) != NULL, first = true;
    for (size_t i = 0; i < t.len;) {
        while (i < t.len && strchr(" \t\r\n|*\"'().,:;[]_-", t.p[i])) {
            if (strchr(":|", t.p[i]))
                first = false;
            i++;
        }
        size_t e = i;
        while (e < t.len && !strchr(" \t\r\n|*\"'().,:;[]_", t.p[e]))
            e++;
        if (e == i)
            break;
        unsigned char c = (unsigned char)t.p[i];
        bool cap = (c >= 'A' && c <= 'Z') || c == 0xC3; /* Latin-1 capitals and letters */
        if (cap && e - i > 1 && (row || !first) && has_letter(t.p + i + 1, e - i - 1)) {
            bool asked = false;
            for (size_t k = 0; k + (e - i) <= question.len && !asked; k++)
                asked = memcmp(question.p + k, t.p + i, e - i) == 0;
            if (!asked)
                return true;
        }
        first = false;
        i = e;
    }
    return false;
}

bool answer_has(enum asked kind, struct cairn_str text, struct cairn_str question)
{
    if (kind == ASKED_ANY)
        return true;
    if (kind == ASKED_PERSON)
        return has_new_name(text, question);
    struct typed of_q[TYPED_MAX], found[TYPED_MAX];
    size_t nq = typed_scan(question, 0, question.len, of_q, TYPED_MAX, NULL);
    size_t n = typed_scan(text, 0, text.len, found, TYPED_MAX, NULL);
    bool row = memchr(text.p, '|', text.len) != NULL; /* the unit stands in the head of the column */
    for (size_t i = 0; i < n; i++) {
        const struct typed *t = &found[i];
        bool known = false;
        for (size_t k = 0; k < nq && !known; k++)
            known = same_value(&of_q[k], t);
        if (known)
            continue;
        bool number = t->kind == TYPED_NUMBER, time = t->kind == TYPED_TIME, date = t->kind == TYPED_DATE;
        switch (kind) {
        case ASKED_VALUE:
            return true;
        case ASKED_NUMBER:
            if (number && !(t->flags & TYPED_ORDINAL))
                return true;
            break;
        case ASKED_MONEY:
            if (number && (t->dim == DIM_MONEY || (row && t->dim == DIM_NONE)))
                return true;
            break;
        case ASKED_PERCENT:
            if (number && (t->dim == DIM_PERCENT || (row && t->dim == DIM_NONE)))
                return true;
            break;
        case ASKED_DATE:
            if (date || time || (number && (t->flags & (TYPED_YEAR | TYPED_ORDINAL))) ||
                (number && (t->dim == DIM_SECONDS || t->dim == DIM_MONTHS)))
                return true;
            break;
        case ASKED_DURATION:
            if (date || time ||
                (number && (t->dim == DIM_SECONDS || t->dim == DIM_MONTHS || (row && t->dim == DIM_NONE))))
                return true;
            break;
        default:
            break;
        }
    }
    if (kind == ASKED_DATE || kind == ASKED_DURATION ||
        kind == ASKED_VALUE) { /* days and months that make no date by themselves */
        static const char *const words[] = {
            "Monday",   "Tuesday",  "Wednesday", "Thursday",  "Friday", "Saturday", "Sunday",    "January",
            "February", "March",    "April",     "June",      "July",   "August",   "September", "October",
            "November", "December", "Easter",    "Christmas", "noon",   "midnight"};
        for (size_t k = 0; k < sizeof words / sizeof words[0]; k++) {
            size_t len = strlen(words[k]);
            if (has_word(text, words[k], len) && !has_word(question, words[k], len))
                return true;
        }
    }
    return false;
}
