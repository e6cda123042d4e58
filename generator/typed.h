/* typed.h - values that can be compared exactly: numbers with units, dates, times, identifiers, quotations.
 * A scan finds them in a byte span; the comparisons say whether two of them name the same thing. No state, no
 * allocation. */
#ifndef CAIRN_GENERATOR_TYPED_H
#define CAIRN_GENERATOR_TYPED_H

#include <cairn/base.h>

enum typed_kind { TYPED_NUMBER, TYPED_DATE, TYPED_TIME, TYPED_IDENT, TYPED_QUOTE };

/* What a number counts. Numbers of different dimensions are never equal, except that DIM_NONE goes with any.
 */
enum typed_dim {
    DIM_NONE,
    DIM_PERCENT,
    DIM_MONEY,
    DIM_SECONDS, /* seconds to weeks */
    DIM_MONTHS,  /* months to centuries: not a fixed number of seconds */
    DIM_LENGTH,
    DIM_MASS,
    DIM_VOLUME,
    DIM_BYTES,
    DIM_BITRATE,
    DIM_CELSIUS,
    DIM_FAHRENHEIT,
    DIM_POWER,
    DIM_ENERGY,
    DIM_FREQUENCY,
};

enum typed_flags {
    TYPED_APPROX = 1,   /* "about 70" */
    TYPED_ORDINAL = 2,  /* "3rd" */
    TYPED_YEAR = 4,     /* four bare digits that can be a year */
    TYPED_WEAK = 8,     /* too common to prove anything by its absence: "one", "first", a list marker */
    TYPED_WORDS = 16,   /* spelled out */
    TYPED_MERIDIEM = 32 /* a time that says a.m. or p.m., or is above 12:59 */
};

struct typed {
    enum typed_kind kind;
    enum typed_dim dim;
    unsigned flags;
    size_t start, end; /* byte span in the text; a quotation without its marks */
    double value, alt; /* in the dimension's base unit; alt: the other reading of "1.234", else NaN */
    double plain; /* the number as written, before its unit: what a number without a unit is compared with */
    unsigned currency;      /* 0: not said */
    int year, month, day;   /* 0: not said */
    int alt_month, alt_day; /* the other reading of 03/04/2024 */
    int weekday;            /* 1 Monday .. 7 Sunday, 0: not said */
    int minutes;            /* TYPED_TIME: of the day */
};

/* All typed values of text[start, end), in order; writes at most max and returns how many were written. *cut
 * is set when there were more. Citation marks such as [1] or [2, 3] are skipped. */
size_t typed_scan(struct cairn_str text, size_t start, size_t end, struct typed *out, size_t max, bool *cut);

/* a is claimed, b is found. */
bool typed_number_match(const struct typed *a, const struct typed *b);
bool typed_date_match(const struct typed *a, const struct typed *b);
bool typed_time_match(const struct typed *a, const struct typed *b);
/* Same kind of quantity with another value: what a contradiction is made of. */
bool typed_number_comparable(const struct typed *a, const struct typed *b);

/* Finds an identifier in text without regard to ASCII case, hyphens and spaces inside it, at word borders. */
bool typed_find_ident(struct cairn_str text, struct cairn_str ident, size_t *at);
/* Finds a quotation: letters and digits in the same order, case folded (ASCII), white space and punctuation
 * marks alike.
 * "..." inside the quotation may stand for left-out words. */
bool typed_find_quote(struct cairn_str text, struct cairn_str quote, size_t *start, size_t *end);

/* Length of the citation mark at text[i] ("[3]", "[1, 2]"), 0 when there is none; the numbers go to out
 * (1-based as written). */
size_t typed_citation(struct cairn_str text, size_t i, size_t end, uint32_t *out, size_t max, size_t *n);

#endif
