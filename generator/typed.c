/* typed.c - finding and comparing numbers, dates, times, identifiers and quotations.
 * A hand-written scanner over bytes; every reading is decided from the bytes around it, so the same text
 * always gives the same values. Multibyte punctuation (curly quotes, dashes, thin spaces, currency signs) is
 * known; other bytes >= 0x80 are letters. */
#include "typed.h"

#include <math.h>
#include <string.h>

#define NUMBER_GROUPS_MAX 8u
#define NUMBER_DIGITS_MAX 24u /* more digits than this are an identifier, not an amount */
#define QUOTE_BYTES_MAX 1024u
#define QUOTE_WORDS_MIN 3u
#define IDENT_BYTES_MAX 256u
#define APPROX_TOLERANCE 0.05
#define EXACT_TOLERANCE 1e-6

static bool is_digit(unsigned char c) { return c >= '0' && c <= '9'; }
static bool is_upper(unsigned char c) { return c >= 'A' && c <= 'Z'; }
static bool is_ascii_alpha(unsigned char c) { return is_upper(c) || (c >= 'a' && c <= 'z'); }
static bool is_space(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static char lower(char c) { return is_upper((unsigned char)c) ? (char)(c + 32) : c; }

/* Multibyte signs that are not letters; 0 when s is not one. */
enum sign {
    SIGN_NONE,
    SIGN_SPACE,
    SIGN_OPEN,
    SIGN_CLOSE,
    SIGN_APOSTROPHE,
    SIGN_DASH,
    SIGN_DEGREE,
    SIGN_MONEY,
    SIGN_OTHER
};
static size_t sign_at(const char *s, size_t len, enum sign *kind, unsigned *currency)
{
    static const struct {
        const char *bytes;
        enum sign kind;
        unsigned currency;
    } signs[] = {
        {"\xC2\xA0",     SIGN_SPACE,      0},
        {"\xE2\x80\xAF", SIGN_SPACE,      0},
        {"\xE2\x80\x89", SIGN_SPACE,      0},
        {"\xE2\x80\x9C", SIGN_OPEN,       0},
        {"\xE2\x80\x9E", SIGN_OPEN,       0},
        {"\xC2\xAB",     SIGN_OPEN,       0},
        {"\xE2\x80\x9D", SIGN_CLOSE,      0},
        {"\xC2\xBB",     SIGN_CLOSE,      0},
        {"\xE2\x80\x99", SIGN_APOSTROPHE, 0},
        {"\xE2\x80\x98", SIGN_APOSTROPHE, 0},
        {"\xE2\x80\x93", SIGN_DASH,       0},
        {"\xE2\x80\x94", SIGN_DASH,       0},
        {"\xE2\x80\x90", SIGN_DASH,       0},
        {"\xE2\x80\x91", SIGN_DASH,       0},
        {"\xE2\x88\x92", SIGN_DASH,       0},
        {"\xC2\xB0",     SIGN_DEGREE,     0},
        {"\xE2\x82\xAC", SIGN_MONEY,      2},
        {"\xC2\xA3",     SIGN_MONEY,      3},
        {"\xC2\xA5",     SIGN_MONEY,      4},
        {"\xE2\x82\xB9", SIGN_MONEY,      6},
        {"\xE2\x80\xA6", SIGN_OTHER,      0},
        {"\xE2\x80\xA2", SIGN_OTHER,      0},
        {"\xC2\xB7",     SIGN_OTHER,      0},
        {"\xE2\x80\xB2", SIGN_OTHER,      0},
    };
    *kind = SIGN_NONE;
    if (len < 2 || (unsigned char)s[0] < 0x80)
        return 0;
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
        size_t n = strlen(signs[i].bytes);
        if (len >= n && memcmp(s, signs[i].bytes, n) == 0) {
            *kind = signs[i].kind;
            if (currency)
                *currency = signs[i].currency;
            return n;
        }
    }
    return 0;
}

struct scan {
    const char *s;
    size_t start, end;
    struct typed *out;
    size_t n, max;
    bool cut;
};

static bool letter_at(const struct scan *c, size_t i)
{
    if (i >= c->end)
        return false;
    unsigned char b = (unsigned char)c->s[i];
    if (b < 0x80)
        return is_ascii_alpha(b);
    enum sign k;
    return sign_at(c->s + i, c->end - i, &k, NULL) == 0;
}
static bool digit_at(const struct scan *c, size_t i)
{
    return i < c->end && is_digit((unsigned char)c->s[i]);
}
static char at(const struct scan *c, size_t i) { return i < c->end ? c->s[i] : '\0'; }
/* Is the byte before i part of a word or a number? */
static bool joined_before(const struct scan *c, size_t i)
{
    if (i <= c->start)
        return false;
    unsigned char b = (unsigned char)c->s[i - 1];
    if (b < 0x80)
        return is_ascii_alpha(b) || is_digit(b) || b == '_';
    for (size_t back = 2; back <= 3 && back <= i - c->start; back++) {
        enum sign k;
        if (sign_at(c->s + i - back, back, &k, NULL) == back)
            return false;
    }
    return true;
}
static size_t skip_space(const struct scan *c, size_t i)
{
    for (;;) {
        enum sign k;
        size_t n;
        if (i < c->end && (c->s[i] == ' ' || c->s[i] == '\t'))
            i++;
        else if (i < c->end && (n = sign_at(c->s + i, c->end - i, &k, NULL)) > 0 && k == SIGN_SPACE)
            i += n;
        else
            return i;
    }
}
/* Copies the lower-case letters of the word at i; *len bytes were read; words over 23 bytes give "". */
static size_t word_at(const struct scan *c, size_t i, char out[24])
{
    size_t n = 0;
    while (letter_at(c, i + n))
        n++;
    if (n >= 24) {
        out[0] = '\0';
        return n;
    }
    for (size_t k = 0; k < n; k++)
        out[k] = lower(c->s[i + k]);
    out[n] = '\0';
    return n;
}
/* The word that ends before i (one space between), lower-case. */
static void word_before(const struct scan *c, size_t i, char out[24])
{
    out[0] = '\0';
    while (i > c->start && c->s[i - 1] == ' ')
        i--;
    size_t e = i;
    while (i > c->start && is_ascii_alpha((unsigned char)c->s[i - 1]))
        i--;
    if (e - i < 24) {
        for (size_t k = i; k < e; k++)
            out[k - i] = lower(c->s[k]);
        out[e - i] = '\0';
    }
}
static bool in_list(const char *w, const char *list) /* list: " a b c " */
{
    if (!*w)
        return false;
    size_t n = strlen(w);
    for (const char *p = list; (p = strstr(p, w)) != NULL; p++)
        if (p[-1] == ' ' && p[n] == ' ')
            return true;
    return false;
}

static struct typed *push(struct scan *c, enum typed_kind kind, size_t start, size_t end)
{
    if (c->n == c->max) {
        c->cut = true;
        return NULL;
    }
    struct typed *t = &c->out[c->n++];
    *t = (struct typed){.kind = kind, .start = start, .end = end, .alt = NAN, .plain = NAN};
    return t;
}

/* ---- units
 * ------------------------------------------------------------------------------------------------------ */

struct unit {
    const char *word;
    enum typed_dim dim;
    double factor;
    unsigned currency;
};
static const struct unit units[] = {
    {"percent",      DIM_PERCENT,    1,               0},
    {"pct",          DIM_PERCENT,    1,               0},
    {"percentage",   DIM_PERCENT,    1,               0},
    {"prozent",      DIM_PERCENT,    1,               0},
    {"ms",           DIM_SECONDS,    1e-3,            0},
    {"millisecond",  DIM_SECONDS,    1e-3,            0},
    {"milliseconds", DIM_SECONDS,    1e-3,            0},
    {"s",            DIM_SECONDS,    1,               0},
    {"sec",          DIM_SECONDS,    1,               0},
    {"secs",         DIM_SECONDS,    1,               0},
    {"second",       DIM_SECONDS,    1,               0},
    {"seconds",      DIM_SECONDS,    1,               0},
    {"min",          DIM_SECONDS,    60,              0},
    {"mins",         DIM_SECONDS,    60,              0},
    {"minute",       DIM_SECONDS,    60,              0},
    {"minutes",      DIM_SECONDS,    60,              0},
    {"h",            DIM_SECONDS,    3600,            0},
    {"hr",           DIM_SECONDS,    3600,            0},
    {"hrs",          DIM_SECONDS,    3600,            0},
    {"hour",         DIM_SECONDS,    3600,            0},
    {"hours",        DIM_SECONDS,    3600,            0},
    {"day",          DIM_SECONDS,    86400,           0},
    {"days",         DIM_SECONDS,    86400,           0},
    {"week",         DIM_SECONDS,    604800,          0},
    {"weeks",        DIM_SECONDS,    604800,          0},
    {"wk",           DIM_SECONDS,    604800,          0},
    {"fortnight",    DIM_SECONDS,    1209600,         0},
    {"month",        DIM_MONTHS,     1,               0},
    {"months",       DIM_MONTHS,     1,               0},
    {"year",         DIM_MONTHS,     12,              0},
    {"years",        DIM_MONTHS,     12,              0},
    {"yr",           DIM_MONTHS,     12,              0},
    {"yrs",          DIM_MONTHS,     12,              0},
    {"decade",       DIM_MONTHS,     120,             0},
    {"decades",      DIM_MONTHS,     120,             0},
    {"century",      DIM_MONTHS,     1200,            0},
    {"centuries",    DIM_MONTHS,     1200,            0},
    {"mm",           DIM_LENGTH,     1e-3,            0},
    {"cm",           DIM_LENGTH,     1e-2,            0},
    {"m",            DIM_LENGTH,     1,               0},
    {"meter",        DIM_LENGTH,     1,               0},
    {"meters",       DIM_LENGTH,     1,               0},
    {"metre",        DIM_LENGTH,     1,               0},
    {"metres",       DIM_LENGTH,     1,               0},
    {"km",           DIM_LENGTH,     1000,            0},
    {"kilometer",    DIM_LENGTH,     1000,            0},
    {"kilometers",   DIM_LENGTH,     1000,            0},
    {"kilometre",    DIM_LENGTH,     1000,            0},
    {"kilometres",   DIM_LENGTH,     1000,            0},
    {"mile",         DIM_LENGTH,     1609.344,        0},
    {"miles",        DIM_LENGTH,     1609.344,        0},
    {"ft",           DIM_LENGTH,     0.3048,          0},
    {"foot",         DIM_LENGTH,     0.3048,          0},
    {"feet",         DIM_LENGTH,     0.3048,          0},
    {"inch",         DIM_LENGTH,     0.0254,          0},
    {"inches",       DIM_LENGTH,     0.0254,          0},
    {"yard",         DIM_LENGTH,     0.9144,          0},
    {"yards",        DIM_LENGTH,     0.9144,          0},
    {"mg",           DIM_MASS,       1e-3,            0},
    {"g",            DIM_MASS,       1,               0},
    {"gram",         DIM_MASS,       1,               0},
    {"grams",        DIM_MASS,       1,               0},
    {"kg",           DIM_MASS,       1000,            0},
    {"kilogram",     DIM_MASS,       1000,            0},
    {"kilograms",    DIM_MASS,       1000,            0},
    {"tonne",        DIM_MASS,       1e6,             0},
    {"tonnes",       DIM_MASS,       1e6,             0},
    {"lb",           DIM_MASS,       453.59237,       0},
    {"lbs",          DIM_MASS,       453.59237,       0},
    {"oz",           DIM_MASS,       28.349523,       0},
    {"ounce",        DIM_MASS,       28.349523,       0},
    {"ounces",       DIM_MASS,       28.349523,       0},
    {"ml",           DIM_VOLUME,     1e-3,            0},
    {"l",            DIM_VOLUME,     1,               0},
    {"liter",        DIM_VOLUME,     1,               0},
    {"liters",       DIM_VOLUME,     1,               0},
    {"litre",        DIM_VOLUME,     1,               0},
    {"litres",       DIM_VOLUME,     1,               0},
    {"gallon",       DIM_VOLUME,     3.785411784,     0},
    {"gallons",      DIM_VOLUME,     3.785411784,     0},
    {"cup",          DIM_VOLUME,     0.2365882365,    0},
    {"cups",         DIM_VOLUME,     0.2365882365,    0},
    {"tablespoon",   DIM_VOLUME,     0.01478676,      0},
    {"tablespoons",  DIM_VOLUME,     0.01478676,      0},
    {"teaspoon",     DIM_VOLUME,     0.00492892,      0},
    {"teaspoons",    DIM_VOLUME,     0.00492892,      0},
    {"byte",         DIM_BYTES,      1,               0},
    {"bytes",        DIM_BYTES,      1,               0},
    {"kb",           DIM_BYTES,      1e3,             0},
    {"mb",           DIM_BYTES,      1e6,             0},
    {"gb",           DIM_BYTES,      1e9,             0},
    {"tb",           DIM_BYTES,      1e12,            0},
    {"pb",           DIM_BYTES,      1e15,            0},
    {"kib",          DIM_BYTES,      1024,            0},
    {"mib",          DIM_BYTES,      1048576,         0},
    {"gib",          DIM_BYTES,      1073741824,      0},
    {"tib",          DIM_BYTES,      1099511627776.0, 0},
    {"kilobytes",    DIM_BYTES,      1e3,             0},
    {"megabyte",     DIM_BYTES,      1e6,             0},
    {"megabytes",    DIM_BYTES,      1e6,             0},
    {"gigabyte",     DIM_BYTES,      1e9,             0},
    {"gigabytes",    DIM_BYTES,      1e9,             0},
    {"terabyte",     DIM_BYTES,      1e12,            0},
    {"terabytes",    DIM_BYTES,      1e12,            0},
    {"kbps",         DIM_BITRATE,    1e3,             0},
    {"mbps",         DIM_BITRATE,    1e6,             0},
    {"gbps",         DIM_BITRATE,    1e9,             0},
    {"celsius",      DIM_CELSIUS,    1,               0},
    {"fahrenheit",   DIM_FAHRENHEIT, 1,               0},
    {"w",            DIM_POWER,      1,               0},
    {"kw",           DIM_POWER,      1e3,             0},
    {"mw",           DIM_POWER,      1e6,             0},
    {"gw",           DIM_POWER,      1e9,             0},
    {"watt",         DIM_POWER,      1,               0},
    {"watts",        DIM_POWER,      1,               0},
    {"kwh",          DIM_ENERGY,     1e3,             0},
    {"mwh",          DIM_ENERGY,     1e6,             0},
    {"hz",           DIM_FREQUENCY,  1,               0},
    {"khz",          DIM_FREQUENCY,  1e3,             0},
    {"mhz",          DIM_FREQUENCY,  1e6,             0},
    {"ghz",          DIM_FREQUENCY,  1e9,             0},
    {"dollar",       DIM_MONEY,      1,               1},
    {"dollars",      DIM_MONEY,      1,               1},
    {"usd",          DIM_MONEY,      1,               1},
    {"euro",         DIM_MONEY,      1,               2},
    {"euros",        DIM_MONEY,      1,               2},
    {"eur",          DIM_MONEY,      1,               2},
    {"gbp",          DIM_MONEY,      1,               3},
    {"pound",        DIM_NONE,       1,               0},
    {"pounds",       DIM_NONE,       1,               0},
    {"yen",          DIM_MONEY,      1,               4},
    {"jpy",          DIM_MONEY,      1,               4},
    {"chf",          DIM_MONEY,      1,               5},
    {"francs",       DIM_MONEY,      1,               5},
    {"inr",          DIM_MONEY,      1,               6},
    {"rupees",       DIM_MONEY,      1,               6},
};
static const struct unit *unit_named(const char *w)
{
    for (size_t i = 0; *w && i < sizeof units / sizeof units[0]; i++)
        if (strcmp(units[i].word, w) == 0)
            return &units[i];
    return NULL;
}
static double magnitude_named(const char *w)
{
    static const struct {
        const char *word;
        double factor;
    } m[] = {
        {"hundred",   100 },
        {"thousand",  1e3 },
        {"million",   1e6 },
        {"millions",  1e6 },
        {"mn",        1e6 },
        {"mio",       1e6 },
        {"billion",   1e9 },
        {"bn",        1e9 },
        {"mrd",       1e9 },
        {"trillion",  1e12},
        {"tn",        1e12},
        {"k",         1e3 },
        {"thousands", 1e3 }
    };
    for (size_t i = 0; *w && i < sizeof m / sizeof m[0]; i++)
        if (strcmp(m[i].word, w) == 0)
            return m[i].factor;
    return 0;
}
static int month_named(const char *w)
{
    static const char *const names[12] = {"january",   "february", "march",    "april",
                                          "may",       "june",     "july",     "august",
                                          "september", "october",  "november", "december"};
    size_t n = strlen(w);
    if (n < 3)
        return 0;
    for (int i = 0; i < 12; i++)
        if (strcmp(names[i], w) == 0 || (n == 3 && strncmp(names[i], w, 3) == 0) ||
            (i == 8 && strcmp(w, "sept") == 0))
            return i + 1;
    return 0;
}
static int weekday_named(const char *w)
{
    static const char *const names[7] = {"monday", "tuesday",  "wednesday", "thursday",
                                         "friday", "saturday", "sunday"};
    size_t n = strlen(w);
    for (int i = 0; i < 7; i++)
        if (strcmp(names[i], w) == 0 ||
            (n == strlen(names[i]) + 1 && w[n - 1] == 's' && strncmp(names[i], w, n - 1) == 0))
            return i + 1;
    return 0;
}
static int small_number(const char *w)
{
    static const char *const ones[20] = {"zero",    "one",     "two",       "three",    "four",
                                         "five",    "six",     "seven",     "eight",    "nine",
                                         "ten",     "eleven",  "twelve",    "thirteen", "fourteen",
                                         "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
    static const char *const tens[8] = {"twenty", "thirty",  "forty",  "fifty",
                                        "sixty",  "seventy", "eighty", "ninety"};
    for (int i = 0; i < 20; i++)
        if (strcmp(ones[i], w) == 0)
            return i;
    for (int i = 0; i < 8; i++)
        if (strcmp(tens[i], w) == 0)
            return 20 + 10 * i;
    return -1;
}
static int ordinal_word(const char *w)
{
    static const char *const names[12] = {"first",   "second", "third", "fourth", "fifth",    "sixth",
                                          "seventh", "eighth", "ninth", "tenth",  "eleventh", "twelfth"};
    for (int i = 0; i < 12; i++)
        if (strcmp(names[i], w) == 0)
            return i + 1;
    return 0;
}

/* Reads a magnitude and a unit after a number; returns the new end. */
static size_t read_unit(const struct scan *c, size_t i, struct typed *t)
{
    size_t end = i;
    enum sign k;
    unsigned currency = 0;
    char w[24];
    /* a magnitude word, attached ("5k", "$3m", "2.5bn") or after a space */
    size_t p = skip_space(c, i);
    size_t n = word_at(c, p, w);
    bool attached = p == i;
    double mag = 0;
    if (n && attached && n == 1 && (c->s[p] == 'M' || c->s[p] == 'B'))
        mag = c->s[p] == 'M' ? 1e6 : 1e9;
    else if (n && attached && n == 1 && c->s[p] == 'm' && t->dim == DIM_MONEY)
        mag = 1e6;
    else if (n && (!(n == 1) || attached))
        mag = magnitude_named(w);
    if (mag > 0 && !digit_at(c, p + n)) {
        t->value *= mag;
        t->alt *= mag;
        end = p + n;
    }
    /* the unit: a sign, or a word after an optional space, hyphen and adjective */
    p = skip_space(c, end);
    if (at(c, p) == '%') {
        t->dim = DIM_PERCENT;
        return p + 1;
    }
    n = sign_at(c->s + p, c->end - p, &k, &currency);
    if (n && k == SIGN_MONEY) {
        t->dim = DIM_MONEY;
        t->currency = currency;
        return p + n;
    }
    if (n && k == SIGN_DEGREE) {
        size_t q = skip_space(c, p + n);
        if (at(c, q) == 'C' || at(c, q) == 'c') {
            t->dim = DIM_CELSIUS;
            return q + 1;
        }
        if (at(c, q) == 'F' || at(c, q) == 'f') {
            t->dim = DIM_FAHRENHEIT;
            return q + 1;
        }
        return p + n;
    }
    if (n && k == SIGN_DASH && letter_at(c, p + n))
        p += n;
    else if (at(c, p) == '-' && letter_at(c, p + 1))
        p++;
    attached = p == end;
    for (int tries = 0; tries < 2; tries++) {
        n = word_at(c, p, w);
        if (!n)
            break;
        if (strcmp(w, "per") == 0 && tries == 0) {
            char w2[24];
            size_t q = skip_space(c, p + n), n2 = word_at(c, q, w2);
            if (n2 && strcmp(w2, "cent") == 0) {
                t->dim = DIM_PERCENT;
                return q + n2;
            }
            break;
        }
        if (strcmp(w, "degrees") == 0 || strcmp(w, "degree") == 0) {
            size_t q = skip_space(c, p + n);
            char w2[24];
            size_t n2 = word_at(c, q, w2);
            if (n2 && (strcmp(w2, "f") == 0 || strcmp(w2, "fahrenheit") == 0)) {
                t->dim = DIM_FAHRENHEIT;
                return q + n2;
            }
            if (n2 && (strcmp(w2, "c") == 0 || strcmp(w2, "celsius") == 0)) {
                t->dim = DIM_CELSIUS;
                return q + n2;
            }
            break;
        }
        if (attached && tries == 0 && strcmp(w, "f") == 0) { /* "250F" */
            t->dim = DIM_FAHRENHEIT;
            return p + n;
        }
        const struct unit *u = unit_named(w);
        /* one-letter units only when attached ("5m", "20s") and never "5 a" */
        if (u && (n > 1 || attached) && !digit_at(c, p + n)) {
            if (t->dim == DIM_MONEY) { /* "$5 per day" never gets here; "$5 days" is not a thing */
                if (u->dim == DIM_MONEY) {
                    t->currency = u->currency;
                    return p + n;
                }
                return end;
            }
            t->dim = u->dim;
            t->currency = u->currency;
            t->plain = t->value;
            t->value *= u->factor;
            t->alt *= u->factor;
            return p + n;
        }
        if (!in_list(w, " business working calendar consecutive full paid additional more extra us canadian "
                        "australian square "))
            break;
        p = skip_space(c, p + n);
    }
    return end;
}

static bool approx_before(const struct scan *c, size_t i)
{
    char w[24];
    word_before(c, i, w);
    return in_list(w, " about around approximately roughly nearly almost circa some approx ca estimated ") ||
           (i > c->start && c->s[i - 1] == '~');
}

/* ---- dates
 * ------------------------------------------------------------------------------------------------------- */

static bool year_ok(int y) { return y >= 1000 && y <= 2199; }
/* Up to max_digits digits at i; returns how many. */
static size_t digits_at(const struct scan *c, size_t i, size_t max_digits, int *v)
{
    size_t n = 0;
    *v = 0;
    while (n < max_digits && digit_at(c, i + n)) {
        *v = *v * 10 + (c->s[i + n] - '0');
        n++;
    }
    return digit_at(c, i + n) ? 0 : n;
}
static bool ordinal_suffix(const struct scan *c, size_t i)
{
    char w[24];
    size_t n = word_at(c, i, w);
    return n == 2 && in_list(w, " st nd rd th ");
}

/* After a month name ending at i: "12(th)?(, 2024)?" or "2024". */
static size_t date_after_month(struct scan *c, size_t start, size_t i, int month)
{
    size_t p = skip_space(c, i), end = i;
    if (at(c, p) == '.')
        p = skip_space(c, p + 1);
    int day = 0, year = 0, v;
    size_t n = digits_at(c, p, 4, &v);
    if (n == 4 && year_ok(v)) {
        year = v;
        end = p + n;
    } else if (n >= 1 && n <= 2 && v >= 1 && v <= 31 && at(c, p + n) != ':' && at(c, p + n) != '%') {
        day = v;
        end = p + n;
        if (ordinal_suffix(c, end))
            end += 2;
        size_t q = end;
        if (at(c, q) == ',')
            q++;
        q = skip_space(c, q);
        if (digits_at(c, q, 4, &v) == 4 && year_ok(v)) {
            year = v;
            end = q + 4;
        }
    }
    struct typed *t = push(c, TYPED_DATE, start, end);
    if (t) {
        t->month = month;
        t->day = day;
        t->year = year;
    }
    return end;
}

/* A date that starts with digits at i; 0 when there is none. */
static size_t date_at(struct scan *c, size_t i)
{
    int a, b, d;
    size_t n = digits_at(c, i, 4, &a);
    if (!n)
        return 0;
    size_t p = i + n;
    char sep = at(c, p);
    if (n == 4 && year_ok(a) && (sep == '-' || sep == '/' || sep == '.')) { /* 2024-03-12 */
        size_t nb = digits_at(c, p + 1, 2, &b);
        if (nb && b >= 1 && b <= 12 && at(c, p + 1 + nb) == sep) {
            size_t nd = digits_at(c, p + 2 + nb, 2, &d);
            if (!nd && at(c, p + 4 + nb) == 'T')
                nd = 2;
            if (nd && d >= 1 && d <= 31) {
                struct typed *t = push(c, TYPED_DATE, i, p + 2 + nb + nd);
                if (t) {
                    t->year = a;
                    t->month = b;
                    t->day = d;
                }
                return p + 2 + nb + nd;
            }
        }
        return 0;
    }
    if (n > 2 || a < 1 || a > 31)
        return 0;
    if (sep == '/' || sep == '.' || sep == '-') { /* 12/03/2024, 12.03.2024 */
        size_t nb = digits_at(c, p + 1, 2, &b);
        size_t q = p + 1 + nb;
        if (nb && b >= 1 && b <= 31 && at(c, q) == sep) {
            int y;
            size_t ny = digits_at(c, q + 1, 4, &y);
            if ((ny == 4 && year_ok(y)) || (ny == 2 && sep != '-')) {
                if (ny == 2)
                    y += y < 70 ? 2000 : 1900;
                bool dm = b <= 12, md = a <= 12;
                if (dm || md) {
                    struct typed *t = push(c, TYPED_DATE, i, q + 1 + ny);
                    if (t) {
                        t->year = y;
                        t->day = dm ? a : b;
                        t->month = dm ? b : a;
                        if (dm && md && sep == '/' && a != b) {
                            t->alt_day = b;
                            t->alt_month = a;
                        }
                    }
                    return q + 1 + ny;
                }
            }
        }
        if (sep != '.')
            return 0;
        p++; /* "12. March" */
    } else if (ordinal_suffix(c, p)) {
        p += 2;
    }
    char w[24];
    size_t q = skip_space(c, p);
    if (q == p && at(c, p) != '-')
        return 0;
    if (at(c, p) == '-')
        q = p + 1;
    size_t wn = word_at(c, q, w);
    if (wn && strcmp(w, "of") == 0) {
        q = skip_space(c, q + wn);
        wn = word_at(c, q, w);
    }
    int month = wn ? month_named(w) : 0;
    if (!month || !is_upper((unsigned char)c->s[q]))
        return 0;
    size_t end = q + wn;
    q = end;
    if (at(c, q) == '.' || at(c, q) == ',' || at(c, q) == '-')
        q++;
    q = skip_space(c, q);
    int y = 0;
    if (digits_at(c, q, 4, &y) == 4 && year_ok(y))
        end = q + 4;
    else
        y = 0;
    struct typed *t = push(c, TYPED_DATE, i, end);
    if (t) {
        t->day = a;
        t->month = month;
        t->year = y;
    }
    return end;
}

/* "5 pm", "5:30 p.m.", "17:00", "17h30"; 0 when there is none. */
static size_t time_at(struct scan *c, size_t i)
{
    int h, m = 0;
    size_t n = digits_at(c, i, 2, &h);
    if (!n || h > 24)
        return 0;
    size_t p = i + n;
    bool colon = false;
    if (at(c, p) == ':' || at(c, p) == 'h') {
        int mm;
        size_t nm = digits_at(c, p + 1, 2, &mm);
        if (nm == 2 && mm < 60) {
            m = mm;
            p += 1 + nm;
            colon = true;
            int ss;
            if (at(c, p) == ':' && digits_at(c, p + 1, 2, &ss) == 2)
                p += 3;
        } else {
            return 0;
        }
    }
    size_t q = skip_space(c, p);
    char x = lower(at(c, q));
    unsigned flags = 0;
    if ((x == 'a' || x == 'p') && h >= 1 && h <= 12) {
        size_t r = q + 1;
        if (at(c, r) == '.')
            r++;
        if (lower(at(c, r)) == 'm' && !letter_at(c, r + 1) && !digit_at(c, r + 1)) {
            r++;
            if (at(c, r) == '.' && at(c, r - 2) == '.')
                r++;
            if (x == 'p' && h < 12)
                h += 12;
            if (x == 'a' && h == 12)
                h = 0;
            flags = TYPED_MERIDIEM;
            p = r;
            colon = true;
        }
    }
    if (!colon)
        return 0;
    if (h > 12 || h == 0)
        flags = TYPED_MERIDIEM;
    struct typed *t = push(c, TYPED_TIME, i, p);
    if (t) {
        t->minutes = (h % 24) * 60 + m;
        t->flags = flags;
    }
    return p;
}

/* ---- identifiers
 * --------------------------------------------------------------------------------------------------- */

/* Letters after leading digits that make it an amount, not an identifier. */
static bool amount_suffix(const char *s, size_t n)
{
    char w[24];
    if (n == 0 || n >= sizeof w)
        return n == 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_ascii_alpha((unsigned char)s[i]))
            return false;
        w[i] = lower(s[i]);
    }
    w[n] = '\0';
    return unit_named(w) || magnitude_named(w) > 0 || in_list(w, " st nd rd th am pm x b s f ");
}

/* The white-space delimited piece at i, without enclosing punctuation: is it an identifier? *b, *e its span.
 */
static bool ident_at(const struct scan *c, size_t i, size_t *b, size_t *e)
{
    size_t s = i, t = i;
    while (t < c->end && t - i < IDENT_BYTES_MAX && !is_space((unsigned char)c->s[t])) {
        enum sign k;
        size_t n = sign_at(c->s + t, c->end - t, &k, NULL);
        if (n && k != SIGN_OTHER && k != SIGN_DASH)
            break;
        t += n ? n : 1;
    }
    while (s < t && strchr("([{<\"'`*", c->s[s]))
        s++;
    while (t > s && strchr(")]}>\"'`*,.;:!?", c->s[t - 1]))
        t--;
    if (t - s < 2)
        return false;
    const char *p = c->s + s;
    size_t n = t - s, letters = 0, digits = 0, dots = 0, hyphens = 0, under = 0, slash = 0, other = 0,
           amp = 0;
    for (size_t k = 0; k < n; k++) {
        unsigned char x = (unsigned char)p[k];
        letters += is_ascii_alpha(x);
        digits += is_digit(x);
        dots += x == '.';
        hyphens += x == '-';
        under += x == '_';
        slash += x == '/' || x == '\\';
        amp += x == '@';
        other += x >= 0x80 || strchr("()[]{}<>,;!?\"'|=$%*", x) != NULL;
    }
    *b = s;
    *e = t;
    if (n > 6 && (memmem(p, n, "://", 3) || memcmp(p, "www.", 4) == 0))
        return true;
    if (amp == 1 && dots && letters && p[0] != '@' && !slash)
        return true;
    if (other)
        return false;
    if (under && letters && is_ascii_alpha((unsigned char)p[0]) && p[n - 1] != '_')
        return true;
    if (n > 3 && p[0] == '-' && p[1] == '-' && is_ascii_alpha((unsigned char)p[2]))
        return true;
    if (p[0] == '/' && slash >= 2 && letters)
        return true;
    if (slash)
        return false;
    if (!letters && digits && dots >= 2 && hyphens == 0 && digits + dots == n) {
        /* 1.2.3 or an address, but not 12.03.2024 and not 1.234.567 */
        const char *last = memrchr(p, '.', n);
        bool date = dots == 2 && (size_t)(p + n - last) == 5 && (last[1] == '1' || last[1] == '2');
        bool thousands = true;
        size_t run = 0, group = 0;
        for (size_t k = 0; k <= n; k++) {
            if (k == n || p[k] == '.') {
                thousands = thousands && (group == 0 ? run >= 1 && run <= 3 : run == 3);
                group++;
                run = 0;
            } else {
                run++;
            }
        }
        return !date && !thousands;
    }
    if (!letters && hyphens && digits + hyphens == n &&
        digits >= 7) { /* 889-8690; not 2024-03-12 and not 1990-1995 */
        bool iso = n == 10 && p[4] == '-' && p[7] == '-';
        bool years = n == 9 && p[4] == '-';
        return !iso && !years && p[0] != '-';
    }
    if (!letters || !digits)
        return false;
    if (hyphens) {
        /* COVID-19, CVE-2024-1234, T-1000x; not 30-day, mid-2020, 24-hour */
        const char *h = memchr(p, '-', n);
        size_t first = (size_t)(h - p), k = 0;
        if (first == 0)
            return false;
        bool first_alpha = true, rest_digit = false;
        for (; k < first; k++)
            first_alpha = first_alpha && is_ascii_alpha((unsigned char)p[k]);
        for (; k < n; k++)
            rest_digit = rest_digit || is_digit((unsigned char)p[k]);
        if (first_alpha)
            return is_upper((unsigned char)p[0]) && rest_digit && (first > 1 || n > 3) &&
                   !(first > 3 && !is_upper((unsigned char)p[1]) && n - first == 5);
        bool first_mixed = false, d = false, l = false;
        for (k = 0; k < first; k++) {
            d = d || is_digit((unsigned char)p[k]);
            l = l || is_ascii_alpha((unsigned char)p[k]);
        }
        first_mixed = d && l && is_ascii_alpha((unsigned char)p[0]);
        return first_mixed;
    }
    if (memchr(p, ':', n) || memchr(p, '+', n) || memchr(p, '~', n) || memchr(p, '#', n))
        return false;
    if (is_digit((unsigned char)p[0])) {
        size_t k = 0;
        while (k < n && (is_digit((unsigned char)p[k]) || p[k] == '.'))
            k++;
        if (p[k] == 'h' && k + 1 < n && is_digit((unsigned char)p[k + 1]))
            return false; /* 17h30 */
        return !amount_suffix(p + k, n - k) &&
               !(n - k == 2 && strchr("apAP", p[k]) && lower(p[k + 1]) == 'm') &&
               !(n > k + 2 && p[k + 1] == '.');
    }
    if (!is_ascii_alpha((unsigned char)p[0]))
        return false;
    for (size_t k = 0; k < n; k++) /* "end.3" is a missing space, "v2.1" is not */
        if (p[k] == '.' &&
            !(k + 1 < n && is_digit((unsigned char)p[k + 1]) && k > 0 && is_digit((unsigned char)p[k - 1])))
            return false;
    return true;
}

/* ---- numbers
 * -------------------------------------------------------------------------------------------------------- */

struct digits {
    double v, alt; /* alt: the other reading of "1.234", else NaN */
    size_t n, n_groups, whole_end, end;
};

/* A separator and exactly three digits; its length, 0: none. */
static size_t group_separator(const struct scan *c, size_t p, char *sep)
{
    enum sign k;
    size_t n = 0;
    *sep = at(c, p);
    if (*sep == ',' || *sep == '.' || *sep == '\'' || *sep == ' ')
        n = 1;
    else if ((n = sign_at(c->s + p, c->end - p, &k, NULL)) > 0 && (k == SIGN_SPACE || k == SIGN_APOSTROPHE))
        *sep = ' ';
    else
        return 0;
    bool three =
        digit_at(c, p + n) && digit_at(c, p + n + 1) && digit_at(c, p + n + 2) && !digit_at(c, p + n + 3);
    return three ? n : 0;
}

static void read_fraction(const struct scan *c, struct digits *d)
{
    bool comma = at(c, d->end) == ',';
    if (!(at(c, d->end) == '.' || (comma && d->n_groups == 1)) || !digit_at(c, d->end + 1))
        return;
    size_t q = d->end + 1;
    double scale = 0.1, w = d->v;
    while (digit_at(c, q) && d->n < NUMBER_DIGITS_MAX) {
        w += (c->s[q] - '0') * scale;
        scale /= 10;
        q++;
        d->n++;
    }
    if (!comma || q - d->end <= 3) { /* "1,5" but not "in 2019,2020" */
        d->v = w;
        d->end = q;
    }
}

static struct digits read_digits(const struct scan *c, size_t i)
{
    struct digits d = {.alt = NAN, .n_groups = 1, .end = i};
    size_t first = 0;
    char used = 0;
    for (;;) {
        while (digit_at(c, d.end) && d.n < NUMBER_DIGITS_MAX) {
            d.v = d.v * 10 + (c->s[d.end] - '0');
            first += d.n_groups == 1;
            d.n++;
            d.end++;
        }
        d.whole_end = d.end;
        char sep;
        size_t n = d.n_groups < NUMBER_GROUPS_MAX ? group_separator(c, d.end, &sep) : 0;
        if (!n || first > 3 || (d.n_groups > 1 && sep != used))
            break;
        if (sep == '.' && d.n_groups == 1 && !(at(c, d.end + n + 3) == '.' && digit_at(c, d.end + n + 4))) {
            /* one group after a point: 1.234 is read as a decimal, with the other reading kept */
            double frac = 0;
            for (size_t q = 0; q < 3; q++)
                frac = frac * 10 + (c->s[d.end + 1 + q] - '0');
            d.alt = d.v * 1000 + frac;
            d.v += frac / 1000;
            d.end += 4;
            d.n += 3;
            return d;
        }
        if (sep == ' ' && (first == 0 || d.v == 0))
            break;
        used = sep;
        d.n_groups++;
        d.end += n;
    }
    d.end = d.whole_end;
    read_fraction(c, &d);
    return d;
}

struct prefix { /* what stands before the digits and belongs to them */
    size_t start;
    bool money, negative;
    unsigned currency;
};
static struct prefix read_prefix(const struct scan *c, size_t i)
{
    struct prefix r = {.start = i};
    if (i <= c->start)
        return r;
    size_t b = c->s[i - 1] == ' ' ? i - 1 : i;
    if (b > c->start && c->s[b - 1] == '$') {
        r = (struct prefix){.start = b - 1, .money = true, .currency = 1};
    } else {
        for (size_t back = 2; back <= 3 && b >= c->start + back; back++) {
            enum sign k;
            unsigned cur = 0;
            if (sign_at(c->s + b - back, back, &k, &cur) == back && k == SIGN_MONEY)
                r = (struct prefix){.start = b - back, .money = true, .currency = cur};
        }
    }
    if (!r.money) {
        char w[24];
        word_before(c, i, w);
        const struct unit *u = strlen(w) == 3 ? unit_named(w) : NULL;
        if (u && u->dim == DIM_MONEY)
            r = (struct prefix){.start = b - 3, .money = true, .currency = u->currency};
    }
    r.negative =
        r.start > c->start && c->s[r.start - 1] == '-' &&
        (r.start - 1 == c->start || is_space((unsigned char)c->s[r.start - 2]) || c->s[r.start - 2] == '(');
    return r;
}

/* "1." at the start of a line, "step 3", "source 2", "passages 2 and 3": a marker, not an amount. */
static bool only_points(const struct scan *c, size_t i, size_t end, size_t digits, bool line_start,
                        const char *before)
{
    if (digits <= 2 && line_start && (at(c, end) == '.' || at(c, end) == ')'))
        return true;
    if (in_list(before, " and or ") && c->n >= 2 && (c->out[c->n - 2].flags & TYPED_WEAK) &&
        c->out[c->n - 2].end + 6 >= i)
        return true;
    return in_list(before,
                   " step steps passage passages source sources document section item point figure table "
                   "option ");
}

static size_t number_at(struct scan *c, size_t i, bool line_start)
{
    struct digits d = read_digits(c, i);
    size_t p = d.end;
    while (digit_at(c, p)) /* more digits than any amount has */
        p++;
    struct prefix pre = read_prefix(c, i);
    char before[24];
    word_before(c, i, before);
    if (!pre.money && in_list(before, " version release v ver build ")) {
        (void)push(c, TYPED_IDENT, i, p);
        return p;
    }
    struct typed *t = push(c, TYPED_NUMBER, pre.start, p);
    if (!t)
        return p;
    t->value = pre.negative ? -d.v : d.v;
    t->alt = pre.negative ? -d.alt : d.alt;
    if (pre.money) {
        t->dim = DIM_MONEY;
        t->currency = pre.currency;
    }
    if (approx_before(c, pre.start))
        t->flags |= TYPED_APPROX;
    bool bare_year = p - i == 4 && d.whole_end == p && d.n_groups == 1 && year_ok((int)d.v) && !pre.money;
    if (ordinal_suffix(c, p)) {
        t->flags |= TYPED_ORDINAL;
        p += 2;
    } else if (at(c, p) == 's' && !letter_at(c, p + 1) && bare_year) {
        t->flags |= TYPED_YEAR;
        p++;
    } else {
        size_t e = read_unit(c, p, t);
        if (e == p && bare_year)
            t->flags |= TYPED_YEAR;
        p = e;
    }
    t->end = p;
    if (t->dim == DIM_NONE && only_points(c, i, p, d.n, line_start, before))
        t->flags |= TYPED_WEAK;
    return p;
}

/* "twenty-five thousand", "a dozen", "two hundred and six"; 0 when the word at i starts no number. */
static size_t spelled_at(struct scan *c, size_t i, const char *first, size_t first_len)
{
    int v = small_number(first);
    int ord = v < 0 ? ordinal_word(first) : 0;
    if (ord) {
        /* "second" and "seconds" as time units are read with their number */
        struct typed *t = push(c, TYPED_NUMBER, i, i + first_len);
        if (t) {
            t->value = ord;
            char w[24];
            (void)word_at(c, skip_space(c, i + first_len), w);
            bool idle = ord <= 2 || i == c->start || at(c, i + first_len) == '-' ||
                        in_list(w, " passage source step document party ");
            t->flags = TYPED_ORDINAL | TYPED_WORDS | (idle ? TYPED_WEAK : 0u);
        }
        return i + first_len;
    }
    double total = 0, part = 0;
    size_t end = i + first_len, words = 1;
    if (v >= 0) {
        part = v;
    } else if (strcmp(first, "dozen") == 0 || strcmp(first, "half") == 0) {
        struct typed *t = push(c, TYPED_NUMBER, i, end);
        if (t) {
            t->value = first[0] == 'd' ? 12 : 0.5;
            t->flags = TYPED_WORDS | TYPED_WEAK;
        }
        return end;
    } else {
        return 0;
    }
    for (size_t p = end; words < 12;) {
        size_t q = at(c, p) == '-' ? p + 1 : skip_space(c, p);
        if (q == p)
            break;
        char w[24];
        size_t n = word_at(c, q, w);
        if (!n)
            break;
        if (strcmp(w, "and") == 0 && total + part >= 100) {
            q = skip_space(c, q + n);
            n = word_at(c, q, w);
            if (small_number(w) < 0)
                break;
        }
        int s = small_number(w);
        double m = s < 0 ? magnitude_named(w) : 0;
        if (s >= 0) {
            bool fits =
                (part >= 20 && fmod(part, 10) == 0 && s < 10) || (part >= 100 && fmod(part, 100) == 0);
            if (!fits && !(part == 0 && total > 0))
                break;
            part += s;
        } else if (m == 100) {
            part = (part > 0 ? part : 1) * 100;
        } else if (m > 100 && n > 2) {
            total += (part > 0 ? part : 1) * m;
            part = 0;
        } else {
            break;
        }
        p = end = q + n;
        words++;
    }
    struct typed *t = push(c, TYPED_NUMBER, i, end);
    if (!t)
        return end;
    t->value = total + part;
    t->flags = TYPED_WORDS;
    if (approx_before(c, i))
        t->flags |= TYPED_APPROX;
    bool is_one = words == 1 && v <= 1;
    size_t e = read_unit(c, end, t);
    if (is_one && e == end)
        t->flags |= TYPED_WEAK; /* "one of the reasons" */
    t->end = e;
    return e;
}

/* ---- the scan
 * ----------------------------------------------------------------------------------------------------------
 */

size_t typed_citation(struct cairn_str text, size_t i, size_t end, uint32_t *out, size_t max, size_t *n)
{
    *n = 0;
    if (i >= end || end > text.len || text.p[i] != '[')
        return 0;
    size_t p = i + 1, count = 0;
    for (;;) {
        while (p < end && text.p[p] == ' ')
            p++;
        size_t d = 0;
        uint32_t v = 0;
        while (p < end && is_digit((unsigned char)text.p[p]) && d < 4) {
            v = v * 10 + (uint32_t)(text.p[p] - '0');
            p++;
            d++;
        }
        if (!d)
            return 0;
        if (count < max)
            out[count] = v;
        count++;
        while (p < end && text.p[p] == ' ')
            p++;
        if (p >= end || count > 32)
            return 0;
        if (text.p[p] == ']')
            break;
        if (text.p[p] != ',' && text.p[p] != ';')
            return 0;
        p++;
    }
    *n = count < max ? count : max;
    return p + 1 - i;
}

static void quote_at(struct scan *c, size_t i, size_t open_len, bool straight)
{
    size_t b = i + open_len, p = b, words = 0;
    bool in_word = false;
    while (p < c->end && p - b < QUOTE_BYTES_MAX) {
        enum sign k;
        size_t n = sign_at(c->s + p, c->end - p, &k, NULL);
        if ((straight && c->s[p] == '"') || (!straight && (k == SIGN_CLOSE || k == SIGN_OPEN))) {
            words += in_word;
            if (words >= QUOTE_WORDS_MIN)
                (void)push(c, TYPED_QUOTE, b, p);
            return;
        }
        bool alnum = letter_at(c, p) || digit_at(c, p);
        if (!alnum && in_word && c->s[p] != '\'' && k != SIGN_APOSTROPHE && c->s[p] != '-') {
            words++;
            in_word = false;
        } else if (alnum) {
            in_word = true;
        }
        p += n ? n : 1;
    }
}

size_t typed_scan(struct cairn_str text, size_t start, size_t end, struct typed *out, size_t max, bool *cut)
{
    struct scan c = {
        .s = text.p, .start = start, .end = end < text.len ? end : text.len, .out = out, .max = max};
    size_t i = start;
    bool line_start = true, open_straight = false;
    while (i < c.end) {
        unsigned char b = (unsigned char)c.s[i];
        enum sign k;
        size_t n;
        if (b == '[') {
            uint32_t ids[1];
            size_t got;
            n = typed_citation(text, i, c.end, ids, 1, &got);
            if (n) {
                i += n;
                continue;
            }
        }
        if (b == '"') {
            if (!open_straight)
                quote_at(&c, i, 1, true);
            open_straight = !open_straight;
            i++;
            continue;
        }
        n = sign_at(c.s + i, c.end - i, &k, NULL);
        if (n) {
            if (k == SIGN_OPEN)
                quote_at(&c, i, n, false);
            i += n;
            continue;
        }
        if (b == '\n') {
            line_start = true;
            i++;
            continue;
        }
        bool fresh = !joined_before(&c, i);
        bool piece_start =
            i == start || is_space((unsigned char)c.s[i - 1]) || strchr("([{<\"'`*", c.s[i - 1]) != NULL;
        if (!piece_start && (unsigned char)c.s[i - 1] >= 0x80)
            piece_start = !joined_before(&c, i);
        if (piece_start && (b < 0x80)) {
            size_t ib, ie;
            if (ident_at(&c, i, &ib, &ie)) {
                (void)push(&c, TYPED_IDENT, ib, ie);
                i = ie;
                line_start = false;
                continue;
            }
        }
        if (is_digit(b) && fresh) {
            size_t e = date_at(&c, i);
            if (!e)
                e = time_at(&c, i);
            if (!e)
                e = number_at(&c, i, line_start);
            i = e > i ? e : i + 1;
            line_start = false;
            continue;
        }
        if (letter_at(&c, i) && fresh) {
            char w[24];
            n = word_at(&c, i, w);
            size_t e = 0;
            int month = is_upper(b) ? month_named(w) : 0;
            if (month) {
                /* "May", "March", "Sun": only with a day, a year or a preposition beside them */
                size_t p = skip_space(&c, i + n);
                int v;
                bool digits = digits_at(&c, p, 4, &v) > 0;
                char before[24];
                word_before(&c, i, before);
                bool ambiguous =
                    month == 5 || n == 3 || (month == 3 && i == start) || (month == 8 && i == start);
                if (digits || !ambiguous ||
                    (n > 3 || month == 5 ? in_list(before, " in of since until by early late mid from to ")
                                         : false))
                    e = date_after_month(&c, i, i + n, month);
            } else if (is_upper(b) && weekday_named(w)) {
                struct typed *t = push(&c, TYPED_DATE, i, i + n);
                if (t)
                    t->weekday = weekday_named(w);
                e = i + n;
            } else if (strcmp(w, "noon") == 0 || strcmp(w, "midnight") == 0) {
                struct typed *t = push(&c, TYPED_TIME, i, i + n);
                if (t) {
                    t->minutes = w[0] == 'n' ? 720 : 0;
                    t->flags = TYPED_MERIDIEM;
                }
                e = i + n;
            } else {
                e = spelled_at(&c, i, w, n);
            }
            i = e > i ? e : i + n;
            line_start = false;
            continue;
        }
        if (!is_space(b) && b != '-' && b != '*' && b != '#' && b != '>' && b != '(')
            line_start = false;
        i++;
    }
    if (cut)
        *cut = c.cut;
    return c.n;
}

/* ---- comparisons
 * ---------------------------------------------------------------------------------------------------------
 */

static bool close_to(double a, double b, double tolerance)
{
    double scale = fmax(fabs(a), fabs(b));
    return fabs(a - b) <= tolerance * fmax(scale, 1e-12);
}

bool typed_number_comparable(const struct typed *a, const struct typed *b)
{
    if (a->kind != TYPED_NUMBER || b->kind != TYPED_NUMBER || a->dim != b->dim ||
        ((a->flags ^ b->flags) & TYPED_YEAR))
        return false;
    return !(a->currency && b->currency && a->currency != b->currency);
}

bool typed_number_match(const struct typed *a, const struct typed *b)
{
    if (a->kind != TYPED_NUMBER)
        return false;
    if (b->kind == TYPED_DATE) /* a bare year or day of month inside a date */
        return a->dim == DIM_NONE && ((b->year && a->value == b->year) || (b->day && a->value == b->day));
    if (b->kind == TYPED_TIME)
        return a->dim == DIM_NONE && (a->value * 60 == b->minutes || a->value * 60 + 720 == b->minutes);
    if (b->kind != TYPED_NUMBER)
        return false;
    if (a->dim != b->dim && a->dim >= DIM_CELSIUS && a->dim <= DIM_FAHRENHEIT && b->dim >= DIM_CELSIUS &&
        b->dim <= DIM_FAHRENHEIT) {
        double ac = a->dim == DIM_CELSIUS ? a->value : (a->value - 32) / 1.8,
               bc = b->dim == DIM_CELSIUS ? b->value : (b->value - 32) / 1.8;
        return fabs(ac - bc) <= 1.0; /* as written after rounding */
    }
    if (a->dim != b->dim && a->dim != DIM_NONE && b->dim != DIM_NONE)
        return false;
    if (a->dim == DIM_MONEY && b->dim == DIM_MONEY && a->currency && b->currency &&
        a->currency != b->currency)
        return false;
    double tolerance = (a->flags & TYPED_APPROX) ? APPROX_TOLERANCE : EXACT_TOLERANCE;
    bool bare = (a->dim == DIM_NONE) != (b->dim == DIM_NONE);
    const double av[3] = {a->value, a->alt, bare ? a->plain : NAN},
                 bv[3] = {b->value, b->alt, bare ? b->plain : NAN};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            if (!isnan(av[i]) && !isnan(bv[j]) && close_to(av[i], bv[j], tolerance))
                return true;
    return false;
}

bool typed_date_match(const struct typed *a, const struct typed *b)
{
    if (a->kind != TYPED_DATE)
        return false;
    if (b->kind == TYPED_NUMBER) /* "2024" alone carries a claimed year, no more */
        return a->year && !a->month && !a->day && b->value == a->year;
    if (b->kind != TYPED_DATE)
        return false;
    if (a->weekday)
        return a->weekday == b->weekday;
    if (a->year && b->year && a->year != b->year)
        return false;
    const int am[2] = {a->month, a->alt_month}, ad[2] = {a->day, a->alt_day};
    const int bm[2] = {b->month, b->alt_month}, bd[2] = {b->day, b->alt_day};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            if ((i && !am[1]) || (j && !bm[1]))
                continue;
            if (am[i] == bm[j] && (!ad[i] || ad[i] == bd[j]))
                return true;
        }
    return false;
}

bool typed_time_match(const struct typed *a, const struct typed *b)
{
    if (a->kind != TYPED_TIME || b->kind != TYPED_TIME)
        return false;
    if (a->minutes == b->minutes)
        return true;
    /* "5:30" without a.m. or p.m. may be either */
    return !((a->flags & TYPED_MERIDIEM) && (b->flags & TYPED_MERIDIEM)) &&
           a->minutes % 720 == b->minutes % 720;
}

static bool word_byte(unsigned char b) { return b >= 0x80 || is_ascii_alpha(b) || is_digit(b); }

bool typed_find_ident(struct cairn_str text, struct cairn_str ident, size_t *found)
{
    if (ident.len > 1 && (ident.p[0] == 'v' || ident.p[0] == 'V') && is_digit((unsigned char)ident.p[1])) {
        ident.p++;
        ident.len--;
    }
    while (ident.len > 1 && ident.p[ident.len - 1] == '/')
        ident.len--;
    if (!ident.len)
        return false;
    char first = lower(ident.p[0]);
    for (size_t i = 0; i < text.len; i++) {
        if (lower(text.p[i]) != first)
            continue;
        if (i && word_byte((unsigned char)text.p[i - 1]) &&
            !((text.p[i - 1] == 'v' || text.p[i - 1] == 'V') && is_digit((unsigned char)first)))
            continue;
        if (i > 1 && text.p[i - 1] == '.' && is_digit((unsigned char)first) &&
            is_digit((unsigned char)text.p[i - 2]))
            continue;
        size_t a = 0, b = i;
        while (a < ident.len && b < text.len) {
            if (lower(ident.p[a]) == lower(text.p[b])) {
                a++;
                b++;
            } else if (a && (text.p[b] == '-' || text.p[b] == ' ' || text.p[b] == '_')) {
                b++;
            } else if (ident.p[a] == '-' || ident.p[a] == '_') {
                a++;
            } else {
                break;
            }
        }
        if (a < ident.len)
            continue;
        if (b < text.len && word_byte((unsigned char)text.p[b]))
            continue;
        if (b + 1 < text.len && text.p[b] == '.' && is_digit((unsigned char)text.p[b + 1]) &&
            is_digit((unsigned char)text.p[b - 1]))
            continue;
        if (found)
            *found = i;
        return true;
    }
    return false;
}

/* Next letter or digit at or after *i as a folded byte, with *gap set when others were passed; -1 at the end.
 */
static int next_alnum(struct cairn_str s, size_t *i, bool *gap)
{
    *gap = false;
    while (*i < s.len) {
        unsigned char b = (unsigned char)s.p[*i];
        if (b < 0x80) {
            (*i)++;
            if (is_ascii_alpha(b) || is_digit(b))
                return (unsigned char)lower((char)b);
            if (b != '\'')
                *gap = true;
            continue;
        }
        enum sign k;
        size_t n = sign_at(s.p + *i, s.len - *i, &k, NULL);
        if (n) {
            *i += n;
            if (k != SIGN_APOSTROPHE)
                *gap = true;
            continue;
        }
        (*i)++;
        return b;
    }
    return -1;
}

static bool find_part(struct cairn_str text, struct cairn_str part, size_t from, size_t *start, size_t *end)
{
    bool gap;
    size_t q0 = 0;
    int first = next_alnum(part, &q0, &gap);
    if (first < 0) {
        *start = *end = from;
        return true;
    }
    for (size_t i = from; i < text.len; i++) {
        unsigned char b = (unsigned char)text.p[i];
        if ((unsigned char)lower((char)b) != first ||
            (i && word_byte((unsigned char)text.p[i - 1]) && word_byte(b) && b < 0x80 &&
             (unsigned char)text.p[i - 1] < 0x80))
            continue;
        size_t ti = i + 1, qi = q0, last = i + 1;
        bool ok = true;
        for (;;) {
            bool qgap, tgap;
            size_t t2 = ti;
            int qc = next_alnum(part, &qi, &qgap);
            if (qc < 0)
                break;
            int tc = next_alnum(text, &t2, &tgap);
            if (tc != qc || qgap != tgap) {
                ok = false;
                break;
            }
            ti = last = t2;
        }
        if (ok && last < text.len && (unsigned char)text.p[last] < 0x80 &&
            word_byte((unsigned char)text.p[last]))
            ok = false;
        if (ok) {
            *start = i;
            *end = last;
            return true;
        }
    }
    return false;
}

bool typed_find_quote(struct cairn_str text, struct cairn_str quote, size_t *start, size_t *end)
{
    size_t from = 0, at_part = 0;
    bool first = true;
    while (at_part < quote.len) {
        const char *p = quote.p + at_part;
        size_t left = quote.len - at_part, cut = left, skip = 0;
        const char *dots = memmem(p, left, "...", 3), *ell = memmem(p, left, "\xE2\x80\xA6", 3);
        const char *hit = dots && (!ell || dots < ell) ? dots : ell;
        if (hit) {
            cut = (size_t)(hit - p);
            skip = 3;
        }
        size_t s, e;
        if (!find_part(text, (struct cairn_str){p, cut}, from, &s, &e))
            return false;
        if (first)
            *start = s;
        *end = e;
        first = false;
        from = e;
        at_part += cut + skip;
    }
    return !first;
}
