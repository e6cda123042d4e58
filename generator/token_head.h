/* token_head.h - an encoder with two numbers for each token, and texts as tokens that know their bytes: what
 * the span reader and the second look at claims share. Threads: read-only after open; the encoder queues
 * calls by its own lock. */
#ifndef CAIRN_GENERATOR_TOKEN_HEAD_H
#define CAIRN_GENERATOR_TOKEN_HEAD_H

#include <cairn/model.h>

struct token_head {
    struct encoder *encoder; /* OWNED */
    uint32_t dim;
    float *weight, bias[2]; /* [2, dim] */
    int32_t cls, sep;
};
/* *h zeroed before; release it also after a failure. Reads the tensors NAME.weight and NAME.bias. overlay
 * NULL: they are the model's own. */
CAIRN_MUST_USE enum cairn_err token_head_open(struct token_head *h, const struct model_card *base,
                                              const char *overlay, const char *name,
                                              const struct model_opts *o, struct cairn_why *why);
void token_head_release(struct token_head *h);

struct piece {
    int32_t id;
    uint32_t start, end; /* of the word it belongs to */
};
struct pieces {
    struct piece *at; /* OWNED */
    size_t n, cap;
};
/* Appends the tokens of text[start, end). Words are tokenised one by one: WordPiece never joins two, so the
 * ids are those of the whole text and each token's bytes are known. */
CAIRN_MUST_USE enum cairn_err token_head_pieces(const struct token_head *h, struct pieces *p,
                                                struct cairn_str text, size_t start, size_t end,
                                                struct cairn_why *why);
/* [CLS] a [SEP] b [SEP] -> out [na + nb + 3][2], in that order. */
CAIRN_MUST_USE enum cairn_err token_head_run(const struct token_head *h, const struct piece *a, size_t na,
                                             const struct piece *b, size_t nb, float (*out)[2],
                                             const struct cairn_stop *stop, struct cairn_why *why);

#endif
