/* stream.c - hold-back, stop strings, sentence by sentence. Bytes past `final` may still change meaning (an
 * unfinished code point, the beginning of a stop string); bytes before it never do. */
#include "stream.h"

#include <string.h>

#define TAIL_BYTES_MIN                                                                                       \
    3u /* a sentence is finished when this much of the next one is there, with a space or a mark in it */
#define LOOP_TOKENS_MIN 24u /* three times a run of together at least this many tokens is a loop */
#define LOOP_RUN_MAX 64u
#define SPANS 8u

enum cairn_err stream_init(struct stream *s, const char *const *stop, size_t n_stop, struct cairn_why *why)
{
    memset(s, 0, sizeof *s);
    if (n_stop > STREAM_STOPS_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "%zu stop strings: at most %u", n_stop, STREAM_STOPS_MAX);
    for (size_t i = 0; i < n_stop; i++)
        if (!stop[i] || !stop[i][0] || strlen(stop[i]) > STREAM_STOP_BYTES_MAX)
            return cairn_fail(why, CAIRN_EINVAL, "stop string %zu is empty or over %u bytes", i + 1,
                              STREAM_STOP_BYTES_MAX);
    s->text = cairn_malloc(STREAM_TEXT_BYTES_MAX + 4);
    if (!s->text)
        return cairn_fail(why, CAIRN_ENOMEM, "answer text");
    s->text[0] = '\0';
    s->stop = stop;
    s->n_stop = n_stop;
    return CAIRN_OK;
}

void stream_release(struct stream *s)
{
    cairn_free(s->text);
    memset(s, 0, sizeof *s);
}

/* Bytes at the end of text[from, len) that may begin a code point that is not whole yet. */
static size_t unfinished(const char *t, size_t from, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len - from; back++) {
        unsigned char b = (unsigned char)t[len - back];
        if ((b & 0xC0) == 0x80)
            continue;
        size_t need = b >= 0xF0 && b <= 0xF4 ? 4 : b >= 0xE0 ? (b < 0xF0 ? 3 : 1) : b >= 0xC2 ? 2 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

/* Replaces invalid bytes in text[from, s->len - keep) by U+FFFD. */
static void repair(struct stream *s, size_t from, size_t keep)
{
    size_t i = from;
    while (i < s->len - keep) {
        size_t ok = cairn_utf8_invalid_at(s->text + i, s->len - keep - i);
        i += ok;
        if (i >= s->len - keep)
            break;
        if (s->len + 2 > STREAM_TEXT_BYTES_MAX) {
            s->len = i; /* no room to say it: end here */
            s->full = true;
            return;
        }
        memmove(s->text + i + 3, s->text + i + 1, s->len - i - 1);
        memcpy(s->text + i, "\xEF\xBF\xBD", 3);
        s->len += 2;
        i += 3;
    }
}

static void settle(struct stream *s, bool last, size_t *from)
{
    *from = s->final;
    size_t keep = last ? 0 : unfinished(s->text, s->final, s->len);
    repair(s, s->final, keep);
    if (s->full && keep > s->len - s->final)
        keep = 0;
    size_t limit = s->len - keep;
    /* the earliest whole stop string, else the longest tail that may become one */
    size_t cut = SIZE_MAX, hold = 0;
    for (size_t k = 0; k < s->n_stop; k++) {
        size_t n = strlen(s->stop[k]);
        const char *hit = memmem(s->text + s->final, limit - s->final, s->stop[k], n);
        if (hit && (size_t)(hit - s->text) < cut)
            cut = (size_t)(hit - s->text);
        for (size_t m = n - 1; m > hold && !last; m--)
            if (m <= limit - s->final && memcmp(s->text + limit - m, s->stop[k], m) == 0)
                hold = m;
    }
    if (cut != SIZE_MAX) {
        s->len = s->final = cut;
        s->stopped = true;
    } else {
        s->final = limit - (hold < limit - s->final ? hold : limit - s->final);
        s->final = *from + cairn_utf8_floor(s->text + *from, s->final - *from);
    }
    s->text[s->len] = '\0';
}

void stream_add(struct stream *s, const char *bytes, size_t len, size_t *from)
{
    *from = s->final;
    if (s->stopped || s->full)
        return;
    if (len > STREAM_TEXT_BYTES_MAX - s->len) {
        s->full = true;
        return;
    }
    memcpy(s->text + s->len, bytes, len);
    s->len += len;
    settle(s, false, from);
}

void stream_end(struct stream *s, size_t *from)
{
    *from = s->final;
    if (!s->stopped)
        settle(s, true, from);
}

bool stream_sentence(struct stream *s, bool last, struct cairn_span *span)
{
    while (s->checked < s->final && strchr(" \t\r\n", s->text[s->checked]))
        s->checked++;
    if (s->checked >= s->final)
        return false;
    struct cairn_span spans[SPANS];
    struct cairn_str rest = {s->text + s->checked, s->final - s->checked};
    size_t n = cairn_sentences(rest, spans, SPANS);
    if (!n)
        return false;
    if (!last) {
        if (n < 2)
            return false;
        const char *p = rest.p + spans[1].start;
        size_t left = rest.len - spans[1].start;
        if (left < TAIL_BYTES_MIN || p[0] == '[' || (!memchr(p, ' ', left) && n < 3))
            return false;
    }
    span->start = s->checked + spans[0].start;
    span->end = s->checked + spans[0].end;
    s->checked = span->end;
    return true;
}

bool stream_looping(const int32_t *ids, size_t n)
{
    for (size_t run = 1; run <= LOOP_RUN_MAX && run * 3 <= n; run++) {
        size_t times = 3;
        if (run * times < LOOP_TOKENS_MIN)
            times = (LOOP_TOKENS_MIN + run - 1) / run;
        if (run * times > n)
            continue;
        bool same = true;
        for (size_t i = 0; i < run * (times - 1) && same; i++)
            same = ids[n - 1 - i] == ids[n - 1 - i - run];
        if (same)
            return true;
    }
    return false;
}
