/* tokenizer_words.h - words that one call has met before. BPE and SentencePiece cut a text into words whose
 * ids depend on their bytes alone, so a word's second appearance copies the ids of its first out of the
 * call's own output. The cache lives as long as the call; a collision forgets the older word, so its size is
 * bounded and no text can make it slow. */
#ifndef CAIRN_MODEL_TOKENIZER_WORDS_H
#define CAIRN_MODEL_TOKENIZER_WORDS_H

#include "tokenizer.h"

enum {
    WORDS_MIN = 1 << 6,
    WORDS_MAX = 1 << 13, /* slots; 16 bytes each stay in the second-level cache */
    WORD_TEXT_MAX = 64,  /* bytes; longer words seldom come twice */
};

struct word_slot {
    uint32_t tag, start, at; /* of the text; of the output */
    uint16_t len, n;         /* len 0: empty */
};
struct word_cache {
    const char *text;
    struct word_slot *slots;
    size_t mask;
    uint64_t hash; /* of the word asked for last */
};

/* bytes: what words will be parts of, `words_close()`d before it goes. */
static inline bool words_open(struct word_cache *c, const char *bytes, size_t len)
{
    size_t n = WORDS_MIN;
    while (n < WORDS_MAX && n < len / 8)
        n *= 2;
    c->text = bytes;
    c->slots = cairn_calloc(n, sizeof *c->slots);
    c->mask = n - 1;
    return c->slots != NULL;
}
static inline void words_close(struct word_cache *c) { cairn_free(c->slots); }

/* Puts the ids of a word seen before; else false, and words_keep() may follow. 0 < len. */
static inline bool words_put(struct word_cache *c, const char *p, size_t len, struct id_list *l)
{
    if (len > WORD_TEXT_MAX)
        return false;
    c->hash = text_hash(p, len, 0);
    const struct word_slot *s = &c->slots[c->hash & c->mask];
    if (s->tag != c->hash >> 32 || s->len != len || memcmp(c->text + s->start, p, len) != 0)
        return false;
    for (size_t at = s->at, end = at + s->n; at < end; at++)
        ids_put(l, l->ids[at]);
    return true;
}
/* The word that words_put() did not know gave the ids from l->ids[first] on. */
static inline void words_keep(struct word_cache *c, const char *p, size_t len, const struct id_list *l,
                              size_t first)
{
    if (len <= WORD_TEXT_MAX && !l->failed)
        c->slots[c->hash & c->mask] =
            (struct word_slot){(uint32_t)(c->hash >> 32), (uint32_t)(p - c->text), (uint32_t)first,
                               (uint16_t)len, (uint16_t)(l->n - first)};
}

/* Words that are a token by themselves, the most of any text. That merging the bytes of a token gives that
 * token again is true of nearly all, but not a rule: the first who merges one writes down what came out. */
enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };
static inline bool is_whole(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && atomic_load_explicit(&t->whole[id], memory_order_relaxed) == WHOLE_YES;
}
static inline void note_whole(const struct tokenizer *t, int32_t id, const struct id_list *l, size_t first)
{
    if (id >= 0 && !l->failed)
        atomic_store_explicit(&t->whole[id], l->n == first + 1 && l->ids[first] == id ? WHOLE_YES : WHOLE_NO,
                              memory_order_relaxed);
}

#endif
