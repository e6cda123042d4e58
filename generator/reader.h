/* reader.h - the span reader: where in the sources the short answer to a question stands, and how sure that
 * is. Threads: a reader is read-only after open; its encoder queues calls by its own lock. */
#ifndef CAIRN_GENERATOR_READER_H
#define CAIRN_GENERATOR_READER_H

#include <cairn/generator.h>

#define READER_SPANS_MAX 32u

struct reader; /* cairn/generator.h: reader_open, reader_close */
struct reader_span {
    uint32_t source;
    size_t start, end; /* bytes in that source's text, on word borders */
    size_t from, to;   /* the run of sentences that was read */
    float margin;      /* logit of the span over that of "there is none here" */
};
/* The best span of each run of sentences, best margin first; at most READER_SPANS_MAX runs, sources in their
 * order. Source i is read up to lens[i] bytes. */
CAIRN_MUST_USE enum cairn_err reader_read(const struct reader *r, const struct answer_request *q,
                                          const size_t *lens, size_t n_sources, struct reader_span *out,
                                          size_t *n, const struct cairn_stop *stop, struct cairn_why *why);
/* Widens the span, within its run, until it cuts no number: the encoder's tokens end at every mark, a number
 * does not ("4,097.9", never "4"). */
void reader_whole_numbers(struct cairn_str text, struct reader_span *s);

#endif
