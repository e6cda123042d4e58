/* phrase.h - answers as a short phrase: cleaned, found again in the sources, and the numbers of any answer
 * held against what it cites. No model, no lock. */
#ifndef CAIRN_GENERATOR_PHRASE_H
#define CAIRN_GENERATOR_PHRASE_H

#include "reader.h"

/* What a model wrote without marks, quotes, "Answer:", a closing period; its first line. A part of text. */
struct cairn_str phrase_trim(struct cairn_str text);
/* Where the phrase stands in the sources, word by word (case and space aside): the place that a reader's span
 * meets first, else the one whose sentence shares most words with the question. False: nowhere. */
struct phrase_place {
    uint32_t source;
    size_t start, end;
    size_t from, to; /* the sentence, or sentences, that hold it */
};
bool phrase_find(struct cairn_str phrase, const struct answer_request *q, const size_t *lens,
                 size_t n_sources, const struct reader_span *spans, size_t n_spans, struct phrase_place *out);
/* The sentences of a source that hold [start, end). */
struct cairn_span phrase_sentence(struct cairn_str source, size_t start, size_t end);
/* Does every number of text[start, end) outside citation marks stand in one of the passages? Digits are
 * compared without the commas of thousands; up to 20 a passage may spell it. */
bool phrase_numbers_in(struct cairn_str text, size_t start, size_t end, const struct cairn_str *passages,
                       size_t n_passages);

#endif
