/* eval/edits.c - edits of one word, and texts made of passages with them. Everything is drawn from a seed.
 * English. An edit that would not change what the sentence says (a number that the source gives too, a name
 * that stands there) is drawn again a few times and then given up. */
#include "edits.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 8
#define WORDS_MAX 256u
#define SENTENCE_MIN 30u
#define SENTENCE_MAX 400u

const char *const edit_names[EDIT_N] = {"number", "date",     "unit",  "name", "negation", "quantifier",
                                        "swap",   "opposite", "modal", "word", "sentence"};

struct piece { /* a word: letters and digits, with single marks inside */
    size_t start, end;
    bool digit, capital, first;
};

static size_t pieces_of(struct cairn_str s, struct piece *out, size_t max)
{
    size_t n = 0;
    bool first = true;
    for (size_t i = 0; i < s.len && n < max;) {
        if (s.p[i] == '[') { /* citation marks are no words */
            while (i < s.len && s.p[i] != ']')
                i++;
            continue;
        }
        if (!isalnum((unsigned char)s.p[i]) && (unsigned char)s.p[i] < 0x80) {
            if (strchr(".:!?\"\n", s.p[i]))
                first = true;
            i++;
            continue;
        }
        size_t e = i;
        while (e < s.len &&
               (isalnum((unsigned char)s.p[e]) || (unsigned char)s.p[e] >= 0x80 ||
                (e + 1 < s.len && e > i && strchr(".,'-", s.p[e]) && isalnum((unsigned char)s.p[e + 1]) &&
                 (s.p[e] == '\'' || s.p[e] == '-' ||
                  (isdigit((unsigned char)s.p[e - 1]) && isdigit((unsigned char)s.p[e + 1]))))))
            e++;
        out[n++] = (struct piece){i, e, isdigit((unsigned char)s.p[i]) != 0,
                                  isupper((unsigned char)s.p[i]) != 0, first};
        first = false;
        i = e;
    }
    return n;
}

static size_t draw(uint64_t *state, size_t n) { return n ? (size_t)(lab_rand(state) % n) : 0; }

static bool same_word(struct cairn_str s, struct piece p, const char *word)
{
    size_t n = strlen(word);
    return p.end - p.start == n && strncasecmp(s.p + p.start, word, n) == 0;
}

/* Does `word` stand in text between word borders, case apart? */
static bool stands_in(struct cairn_str text, const char *word, size_t n)
{
    for (size_t i = 0; i + n <= text.len; i++)
        if (strncasecmp(text.p + i, word, n) == 0 && (!i || !isalnum((unsigned char)text.p[i - 1])) &&
            (i + n == text.len || !isalnum((unsigned char)text.p[i + n])))
            return true;
    return false;
}

/* sentence with [from, to) replaced. */
static bool put(struct cairn_buf *out, struct cairn_str s, size_t from, size_t to, const char *with, size_t n,
                size_t *start, size_t *end)
{
    cairn_buf_clear(out);
    *start = from;
    *end = from + n;
    return cairn_buf_put(out, s.p, from) && cairn_buf_put(out, with, n) &&
           cairn_buf_put(out, s.p + to, s.len - to);
}

/* A word for a word, keeping a capital at the start. */
static bool put_word(struct cairn_buf *out, struct cairn_str s, struct piece p, const char *with,
                     size_t *start, size_t *end)
{
    char w[64];
    snprintf(w, sizeof w, "%s", with);
    if (p.capital)
        w[0] = (char)toupper((unsigned char)w[0]);
    return put(out, s, p.start, p.end, w, strlen(w), start, end);
}

static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                     "July",    "August",   "September", "October", "November", "December"};
static const char *const days[] = {"Monday", "Tuesday",  "Wednesday", "Thursday",
                                   "Friday", "Saturday", "Sunday"};
/* left is written as right, and the reverse */
static const char *const units[][2] = {
    {"miles",      "kilometers" },
    {"kg",         "pounds"     },
    {"minutes",    "hours"      },
    {"days",       "weeks"      },
    {"million",    "billion"    },
    {"cm",         "mm"         },
    {"mg",         "g"          },
    {"dollars",    "euros"      },
    {"feet",       "meters"     },
    {"inches",     "feet"       },
    {"years",      "months"     },
    {"seconds",    "minutes"    },
    {"hours",      "days"       },
    {"weeks",      "months"     },
    {"pounds",     "ounces"     },
    {"percent",    "degrees"    },
    {"km",         "miles"      },
    {"meters",     "miles"      },
    {"calories",   "grams"      },
    {"grams",      "milligrams" },
    {"cups",       "tablespoons"},
    {"teaspoons",  "cups"       },
    {"Fahrenheit", "Celsius"    },
    {"ounces",     "cups"       },
    {"thousand",   "million"    },
    {"minute",     "hour"       },
    {"year",       "month"      },
    {"day",        "week"       },
    {"hour",       "day"        },
    {"week",       "month"      },
};
static const char *const quantifiers[][2] = {
    {"all",       "some"      },
    {"most",      "few"       },
    {"many",      "few"       },
    {"always",    "sometimes" },
    {"never",     "often"     },
    {"every",     "hardly any"},
    {"often",     "never"     },
    {"usually",   "rarely"    },
    {"some",      "all"       },
    {"several",   "no"        },
    {"sometimes", "always"    },
    {"few",       "most"      },
    {"generally", "never"     },
    {"typically", "rarely"    },
    {"each",      "hardly any"},
    {"rarely",    "usually"   },
    {"only",      "not only"  },
    {"both",      "neither"   },
};
static const char *const modals[][2] = {
    {"must",        "may"     },
    {"may",         "must"    },
    {"should",      "need not"},
    {"required",    "optional"},
    {"optional",    "required"},
    {"mandatory",   "optional"},
    {"might",       "must"    },
    {"can",         "must"    },
    {"recommended", "required"},
    {"could",       "must"    },
};
static const char *const verbs[] = {"is",     "are", "was",   "were",  "can",  "will",
                                    "should", "may", "could", "would", "must", "might"};
static const char *const pointers[] = {"passage", "passages", "step", "steps", "source", "document", "and"};
/* opposites that read well in place */
static const char *const opposites[][2] = {
    {"increase",   "decrease"  },
    {"increases",  "decreases" },
    {"increased",  "decreased" },
    {"higher",     "lower"     },
    {"high",       "low"       },
    {"more",       "less"      },
    {"before",     "after"     },
    {"first",      "last"      },
    {"above",      "below"     },
    {"large",      "small"     },
    {"larger",     "smaller"   },
    {"long",       "short"     },
    {"longer",     "shorter"   },
    {"fast",       "slow"      },
    {"hot",        "cold"      },
    {"old",        "new"       },
    {"good",       "bad"       },
    {"better",     "worse"     },
    {"early",      "late"      },
    {"earlier",    "later"     },
    {"maximum",    "minimum"   },
    {"least",      "most"      },
    {"start",      "end"       },
    {"begin",      "end"       },
    {"open",       "closed"    },
    {"positive",   "negative"  },
    {"internal",   "external"  },
    {"inside",     "outside"   },
    {"hard",       "soft"      },
    {"dry",        "wet"       },
    {"left",       "right"     },
    {"upper",      "lower"     },
    {"gain",       "loss"      },
    {"rise",       "fall"      },
    {"strong",     "weak"      },
    {"thick",      "thin"      },
    {"cheap",      "expensive" },
    {"safe",       "dangerous" },
    {"common",     "rare"      },
    {"reduce",     "increase"  },
    {"reduces",    "increases" },
    {"front",      "back"      },
    {"north",      "south"     },
    {"east",       "west"      },
    {"northern",   "southern"  },
    {"eastern",    "western"   },
    {"hottest",    "coldest"   },
    {"largest",    "smallest"  },
    {"highest",    "lowest"    },
    {"longest",    "shortest"  },
    {"up",         "down"      },
    {"increasing", "decreasing"},
    {"improve",    "worsen"    },
    {"warm",       "cool"      },
    {"light",      "heavy"     },
    {"easy",       "difficult" },
};

static bool year_like(struct cairn_str s, struct piece p)
{
    return p.end - p.start == 4 && (s.p[p.start] == '1' || s.p[p.start] == '2') &&
           strspn(s.p + p.start, "0123456789") >= 4;
}
static bool plain_number(struct cairn_str s, struct piece p)
{
    for (size_t i = p.start; i < p.end; i++)
        if (!isdigit((unsigned char)s.p[i]) && s.p[i] != '.' && s.p[i] != ',')
            return false;
    return p.digit && !year_like(s, p) && p.end - p.start < 16 && !(p.first && p.start < 4);
}
static bool named(struct cairn_str s, struct piece p)
{
    if (!p.capital || p.first || p.end - p.start < 3 || !islower((unsigned char)s.p[p.start + 1]))
        return false;
    for (size_t i = 0; i < 12; i++)
        if (same_word(s, p, months[i]) || (i < 7 && same_word(s, p, days[i])))
            return false;
    static const char *const no[] = {"The",  "This",    "That",     "These",   "There",     "They",
                                     "When", "Passage", "Passages", "However", "According", "Based",
                                     "Yes",  "And",     "But",      "For"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (same_word(s, p, no[i]))
            return false;
    return true;
}
static bool common_content(struct cairn_str s, struct piece p)
{
    size_t n = p.end - p.start;
    for (size_t i = p.start; i < p.end; i++)
        if (!islower((unsigned char)s.p[i]))
            return false;
    static const char *const no[] = {"about",  "after",   "again",  "their",   "there",   "these",
                                     "those",  "which",   "while",  "where",   "would",   "could",
                                     "should", "other",   "being",  "before",  "because", "between",
                                     "under",  "through", "during", "without", "within"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (same_word(s, p, no[i]))
            return false;
    return n >= 5 && n < 40;
}

/* A piece that fits, drawn; -1: none. */
static int pick(struct cairn_str s, const struct piece *p, size_t n,
                bool (*fits)(struct cairn_str, struct piece), uint64_t *state)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += fits(s, p[i]);
    size_t k = draw(state, count);
    for (size_t i = 0; i < n && count; i++)
        if (fits(s, p[i]) && k-- == 0)
            return (int)i;
    return -1;
}

static bool edit_number(struct cairn_str s, const struct piece *p, size_t n, struct cairn_str source,
                        uint64_t *state, struct cairn_buf *out, size_t *start, size_t *end)
{
    int at = pick(s, p, n, plain_number, state);
    for (int t = 0; at >= 0 && t < TRIES; t++) {
        char w[16];
        size_t len = p[at].end - p[at].start, digits = 0;
        memcpy(w, s.p + p[at].start, len);
        for (size_t i = 0; i < len; i++)
            digits += isdigit((unsigned char)w[i]) != 0;
        size_t which = draw(state, digits);
        for (size_t i = 0; i < len; i++)
            if (isdigit((unsigned char)w[i]) && which-- == 0) {
                w[i] = (char)('1' + (w[i] - '0' + (int)draw(state, 8)) % 9);
                break;
            }
        if (memcmp(w, s.p + p[at].start, len) != 0 && !stands_in(source, w, len))
            return put(out, s, p[at].start, p[at].end, w, len, start, end);
    }
    return false;
}

static bool edit_date(struct cairn_str s, const struct piece *p, size_t n, struct cairn_str source,
                      uint64_t *state, struct cairn_buf *out, size_t *start, size_t *end)
{
    size_t from = draw(state, n);
    for (size_t k = 0; k < n; k++) {
        struct piece x = p[(from + k) % n];
        for (int t = 0; t < TRIES; t++) {
            char w[16] = "";
            if (year_like(s, x)) {
                int year = 0;
                for (size_t i = x.start; i < x.end; i++)
                    year = 10 * year + (s.p[i] - '0');
                bool later = draw(state, 2) != 0;
                int years = 1 + (int)draw(state, 40);
                snprintf(w, sizeof w, "%d", later ? year + years : year - years);
            } else if (x.capital)
                for (size_t m = 0; m < 12; m++) {
                    if (same_word(s, x, months[m]) && !(m == 4 && x.first))
                        snprintf(w, sizeof w, "%s", months[(m + 1 + draw(state, 11)) % 12]);
                    else if (m < 7 && same_word(s, x, days[m]))
                        snprintf(w, sizeof w, "%s", days[(m + 1 + draw(state, 6)) % 7]);
                }
            if (!w[0])
                break;
            if (!stands_in(source, w, strlen(w)))
                return put(out, s, x.start, x.end, w, strlen(w), start, end);
        }
    }
    return false;
}

/* The first word of a list that the sentence has, from a drawn place, is replaced by its partner. */
static bool edit_pair(struct cairn_str s, const struct piece *p, size_t n, const char *const (*list)[2],
                      size_t n_list, bool both_ways, bool after_number, uint64_t *state,
                      struct cairn_buf *out, size_t *start, size_t *end)
{
    size_t from = draw(state, n), turn = draw(state, n_list);
    for (size_t k = 0; k < n; k++) {
        size_t at = (from + k) % n;
        if (after_number && !(at && p[at - 1].digit))
            continue;
        for (size_t j = 0; j < n_list; j++) {
            const char *const *e = list[(turn + j) % n_list];
            for (int side = 0; side <= both_ways; side++)
                if (same_word(s, p[at], e[side]))
                    return put_word(out, s, p[at], e[1 - side], start, end);
        }
    }
    return false;
}

static bool edit_name(struct cairn_str s, const struct piece *p, size_t n, struct cairn_str source,
                      struct cairn_str stranger, bool (*fits)(struct cairn_str, struct piece),
                      uint64_t *state, struct cairn_buf *out, size_t *start, size_t *end)
{
    struct piece q[WORDS_MAX];
    size_t m = pieces_of(stranger, q, WORDS_MAX);
    int at = pick(s, p, n, fits, state);
    for (int t = 0; at >= 0 && t < TRIES; t++) {
        int other = pick(stranger, q, m, fits, state);
        if (other < 0)
            return false;
        struct cairn_str w = {stranger.p + q[other].start, q[other].end - q[other].start};
        if (!stands_in(source, w.p, w.len) && !stands_in(s, w.p, w.len))
            return put(out, s, p[at].start, p[at].end, w.p, w.len, start, end);
    }
    return false;
}

static bool edit_negation(struct cairn_str s, const struct piece *p, size_t n, struct cairn_buf *out,
                          size_t *start, size_t *end)
{
    for (size_t i = 1; i < n; i++)
        if (same_word(s, p[i], "not") && i + 1 < n) { /* taken out; what it stood before is marked */
            size_t cut = p[i + 1].start - p[i].start;
            bool ok = put(out, s, p[i].start, p[i + 1].start, "", 0, start, end);
            *start = p[i].start;
            *end = p[i + 1].end - cut;
            return ok;
        }
    for (size_t i = 0; i + 1 < n; i++)
        for (size_t k = 0; k < sizeof verbs / sizeof *verbs; k++)
            if (same_word(s, p[i], verbs[k]) && s.p[p[i].end] == ' ' &&
                !(k >= 7 && p[i].capital)) /* "May" may be a month */
                return put(out, s, p[i].end, p[i].end, " not", 4, start, end);
    return false;
}

static bool edit_swap(struct cairn_str s, const struct piece *p, size_t n, uint64_t *state,
                      struct cairn_buf *out, size_t *start, size_t *end)
{
    for (int kind = 0; kind < 2; kind++) {
        bool (*fits)(struct cairn_str, struct piece) = kind ? plain_number : named;
        for (int t = 0; t < TRIES; t++) {
            int a = pick(s, p, n, fits, state), b = pick(s, p, n, fits, state);
            if (a < 0 || a == b)
                continue;
            if (a > b) {
                int x = a;
                a = b;
                b = x;
            }
            size_t la = p[a].end - p[a].start, lb = p[b].end - p[b].start;
            /* neighbours are one name, and equal ones change nothing */
            if (b == a + 1 || (la == lb && strncasecmp(s.p + p[a].start, s.p + p[b].start, la) == 0))
                continue;
            cairn_buf_clear(out);
            *start = p[a].start;
            *end = p[b].end;
            return cairn_buf_put(out, s.p, p[a].start) && cairn_buf_put(out, s.p + p[b].start, lb) &&
                   cairn_buf_put(out, s.p + p[a].end, p[b].start - p[a].end) &&
                   cairn_buf_put(out, s.p + p[a].start, la) &&
                   cairn_buf_put(out, s.p + p[b].end, s.len - p[b].end);
        }
    }
    return false;
}

static bool fair_sentence(struct cairn_str s)
{
    size_t letters = 0;
    for (size_t i = 0; i < s.len; i++) {
        letters += isalpha((unsigned char)s.p[i]) || s.p[i] == ' ';
        if (s.p[i] == '\n' || s.p[i] == '|')
            return false;
    }
    return s.len >= SENTENCE_MIN && s.len <= SENTENCE_MAX && letters * 10 >= s.len * 8 &&
           strchr(".!", s.p[s.len - 1]) && isupper((unsigned char)s.p[0]);
}

static bool any_sentence(struct cairn_str text, uint64_t *state, struct cairn_str *out)
{
    struct cairn_span spans[64];
    size_t n = cairn_sentences(text, spans, 64);
    n = n > 64 ? 64 : n;
    size_t from = draw(state, n);
    for (size_t i = 0; i < n; i++) {
        struct cairn_span x = spans[(from + i) % n];
        *out = (struct cairn_str){text.p + x.start, x.end - x.start};
        if (fair_sentence(*out))
            return true;
    }
    return false;
}

bool edit_make(enum edit_kind kind, struct cairn_str s, struct cairn_str source, struct cairn_str stranger,
               uint64_t *state, struct cairn_buf *out, size_t *start, size_t *end)
{
    struct piece p[WORDS_MAX];
    struct cairn_str other;
    size_t n = pieces_of(s, p, WORDS_MAX);
    if (n < 3)
        return false;
    for (size_t i = 1; i < n; i++) /* "passage 2", "step 4" point at a place and state nothing */
        if (p[i].digit)
            for (size_t k = 0; k < sizeof pointers / sizeof *pointers; k++)
                p[i].digit = p[i].digit && !same_word(s, p[i - 1], pointers[k]);
    switch (kind) {
    case EDIT_NUMBER:
        return edit_number(s, p, n, source, state, out, start, end);
    case EDIT_DATE:
        return edit_date(s, p, n, source, state, out, start, end);
    case EDIT_UNIT:
        return edit_pair(s, p, n, units, sizeof units / sizeof *units, true, true, state, out, start, end);
    case EDIT_NAME:
        return edit_name(s, p, n, source, stranger, named, state, out, start, end);
    case EDIT_NEGATION:
        return edit_negation(s, p, n, out, start, end);
    case EDIT_QUANTIFIER:
        return edit_pair(s, p, n, quantifiers, sizeof quantifiers / sizeof *quantifiers, false, false, state,
                         out, start, end);
    case EDIT_SWAP:
        return edit_swap(s, p, n, state, out, start, end);
    case EDIT_OPPOSITE:
        return edit_pair(s, p, n, opposites, sizeof opposites / sizeof *opposites, true, false, state, out,
                         start, end);
    case EDIT_MODAL:
        return edit_pair(s, p, n, modals, sizeof modals / sizeof *modals, false, false, state, out, start,
                         end);
    case EDIT_WORD:
        return edit_name(s, p, n, source, stranger, common_content, state, out, start, end);
    case EDIT_SENTENCE:
        if (!any_sentence(stranger, state, &other))
            return false;
        return put(out, s, 0, s.len, other.p, other.len, start, end);
    default:
        return false;
    }
}

/* ---- texts from passages ---- */

struct passages {
    char **text;
    size_t n, cap;
};

static enum cairn_err passage(void *ctx, json_t *o, size_t line, struct cairn_why *why)
{
    (void)line;
    struct passages *p = ctx;
    const char *text = text_of(o, "text");
    if (!text || strlen(text) < 200 || strlen(text) >= 8000)
        return CAIRN_OK;
    if (!eval_grow((void **)&p->text, &p->cap, p->n + 1, sizeof *p->text) ||
        !(p->text[p->n] = cairn_strdup(text)))
        return cairn_fail(why, CAIRN_ENOMEM, "passages");
    p->n++;
    return CAIRN_OK;
}

/* Untrue to the letter, true to the sense: so that a copy is not the only thing that counts as support. */
static bool reword(struct cairn_buf *out, struct cairn_str s, uint64_t *state)
{
    static const char *const leads[] = {"According to the text, ", "In fact, ", "It is said that ",
                                        "The passage says that "};
    static const char *const droppable[] = {"also",   "very",     "however", "then",       "thus",
                                            "indeed", "actually", "just",    "therefore",  "often",
                                            "quite",  "really",   "now",     "furthermore"};
    struct piece p[WORDS_MAX];
    size_t n = pieces_of(s, p, WORDS_MAX), at = 0;
    cairn_buf_clear(out);
    bool ok = true;
    if (draw(state, 5) == 0 && n && !p[0].digit) {
        const char *lead = leads[draw(state, sizeof leads / sizeof *leads)];
        ok = cairn_buf_puts(out, lead);
        /* a word that is no name loses its capital */
        static const char *const lower[] = {"The", "This", "It", "In", "These", "There", "A", "An", "They"};
        for (size_t k = 0; ok && k < sizeof lower / sizeof *lower; k++)
            if (same_word(s, p[0], lower[k])) {
                char c = (char)tolower((unsigned char)s.p[p[0].start]);
                ok = cairn_buf_put(out, &c, 1);
                at = p[0].start + 1;
                break;
            }
    }
    for (size_t i = 1; ok && i + 1 < n; i++)
        for (size_t k = 0; ok && k < sizeof droppable / sizeof *droppable; k++)
            if (same_word(s, p[i], droppable[k]) && s.p[p[i].end] == ' ' && draw(state, 2)) {
                ok = cairn_buf_put(out, s.p + at, p[i].start - at);
                at = p[i].end + 1;
            }
    /* what stands in brackets is left out now and then */
    const char *open = memchr(s.p + at, '(', s.len - at),
               *shut = open ? memchr(open, ')', (size_t)(s.p + s.len - open)) : NULL;
    if (ok && open && shut && draw(state, 2) && (size_t)(open - s.p) > at + 1 && open[-1] == ' ') {
        ok = cairn_buf_put(out, s.p + at, (size_t)(open - s.p) - at - 1);
        at = (size_t)(shut - s.p) + 1;
    }
    return ok && cairn_buf_put(out, s.p + at, s.len - at);
}

static size_t points(const char *p, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += ((unsigned char)p[i] & 0xC0) != 0x80;
    return k;
}

static enum cairn_err one_text(struct ground_set *s, uint32_t source, struct cairn_str text,
                               struct cairn_str stranger, uint64_t *state, struct cairn_buf b[3],
                               struct cairn_why *why)
{
    struct cairn_span spans[64];
    size_t n = cairn_sentences(text, spans, 64), want = 1 + draw(state, 3), got = 0;
    n = n > 64 ? 64 : n;
    size_t from = draw(state, n), edited = draw(state, 5) < 3 ? draw(state, want) : want;
    size_t mark_from = 0, mark_to = 0;
    bool marked = false, ok = true;
    cairn_buf_clear(&b[0]);
    for (size_t i = 0; ok && i < n && got < want; i++) {
        struct cairn_span x = spans[(from + i) % n];
        struct cairn_str sentence = {text.p + x.start, x.end - x.start};
        if (!fair_sentence(sentence))
            continue;
        ok = reword(&b[1], sentence, state);
        struct cairn_str says = {(const char *)b[1].bytes, b[1].len};
        if (ok && got == edited) {
            size_t turn = draw(state, EDIT_N), start, end;
            for (size_t k = 0; k < EDIT_N && !marked; k++)
                if (edit_make((enum edit_kind)((turn + k) % EDIT_N), says, text, stranger, state, &b[2],
                              &start, &end)) {
                    size_t before = points((const char *)b[0].bytes, b[0].len) + (got > 0);
                    says = (struct cairn_str){(const char *)b[2].bytes, b[2].len};
                    mark_from = before + points(says.p, start);
                    mark_to = before + points(says.p, end);
                    marked = true;
                }
        }
        ok = ok && (!got || cairn_buf_puts(&b[0], " ")) && cairn_buf_put(&b[0], says.p, says.len);
        got++;
    }
    if (!ok)
        return cairn_fail(why, CAIRN_ENOMEM, "edited text");
    if (!got)
        return CAIRN_OK;
    char zero = 0;
    if (!cairn_buf_put(&b[0], &zero, 1))
        return cairn_fail(why, CAIRN_ENOMEM, "edited text");
    enum cairn_err err = ground_set_text(s, source, NULL, (const char *)b[0].bytes, marked, why);
    return err || !marked ? err : ground_set_mark(s, mark_from, mark_to, why);
}

enum cairn_err edits_of_passages(struct ground_set *s, const char *dir, uint64_t n, uint64_t seed,
                                 struct cairn_why *why)
{
    static const char *const files[] = {"passages.jsonl", "corpus.jsonl", "documents.jsonl"};
    struct passages p = {0};
    struct cairn_buf b[3], path;
    uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 11;
    cairn_buf_init(&path, 0);
    for (int k = 0; k < 3; k++)
        cairn_buf_init(&b[k], 0);
    enum cairn_err err = CAIRN_OK;
    for (size_t k = 0; k < sizeof files / sizeof *files && !err; k++) {
        cairn_buf_clear(&path);
        if (!cairn_buf_printf(&path, "%s/%s", dir, files[k]))
            err = cairn_fail(why, CAIRN_ENOMEM, "path");
        else if (file_exists((const char *)path.bytes))
            err = each_json((const char *)path.bytes, passage, &p, why);
    }
    if (!err && p.n < 2)
        err = cairn_fail(why, CAIRN_ENOTFOUND,
                         "%s: no passages.jsonl, corpus.jsonl or documents.jsonl with texts", dir);
    s->has_spans = true;
    for (uint64_t i = 0; i < n && !err; i++) {
        size_t at = draw(&state, p.n), other = (at + 1 + draw(&state, p.n - 1)) % p.n;
        char key[32];
        uint32_t source;
        snprintf(key, sizeof key, "passage %zu", at);
        err = ground_set_source(s, key, p.text[at], &source, why);
        if (!err)
            err = one_text(s, source, cairn_str_of(p.text[at]), cairn_str_of(p.text[other]), &state, b, why);
    }
    for (size_t i = 0; i < p.n; i++)
        cairn_free(p.text[i]);
    cairn_free(p.text);
    cairn_buf_release(&path);
    for (int k = 0; k < 3; k++)
        cairn_buf_release(&b[k]);
    return err;
}
