/* stream.h - between the tokens of a decoder and the text a caller sees: whole code points, stop strings,
 * finished sentences, loops. One thread; no model needed. */
#ifndef CAIRN_GENERATOR_STREAM_H
#define CAIRN_GENERATOR_STREAM_H

#include <cairn/base.h>

#define STREAM_STOPS_MAX 16u
#define STREAM_STOP_BYTES_MAX 256u
#define STREAM_TEXT_BYTES_MAX (64u * 1024u)

/* The text lives at one address for the whole call (a reader on another thread may look at final bytes). */
struct stream {
    char *text; /* [STREAM_TEXT_BYTES_MAX]; bytes [0, final) are final, [final, len) are held back */
    size_t len, final, checked; /* checked: start of the first sentence that is not handed out */
    const char *const *stop;
    size_t n_stop;
    bool stopped, full; /* a stop string was met; the text limit was met */
};
CAIRN_MUST_USE enum cairn_err stream_init(struct stream *s, const char *const *stop, size_t n_stop,
                                          struct cairn_why *why);
void stream_release(struct stream *s);
/* Adds the bytes of a token (any bytes: a code point may be split over tokens, invalid bytes become U+FFFD).
 * Newly final text is
 * [*from, s->final). After a stop string nothing is taken any more, and it and what follows it are cut. */
void stream_add(struct stream *s, const char *bytes, size_t len, size_t *from);
/* The end: what was held back becomes final, an unfinished code point becomes U+FFFD. */
void stream_end(struct stream *s, size_t *from);
/* The next finished sentence, span in text; last: the text is complete, so the rest counts too. */
bool stream_sentence(struct stream *s, bool last, struct cairn_span *span);

/* True when ids end in the same run of tokens three times over, and that run is long enough to be a loop. */
bool stream_looping(const int32_t *ids, size_t n);

#endif
