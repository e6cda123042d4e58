/* prompt.h - question and sources -> token ids, inside a budget. */
#ifndef CAIRN_GENERATOR_PROMPT_H
#define CAIRN_GENERATOR_PROMPT_H

#include <cairn/generator.h>

struct prompt_limits {
    size_t context_tokens, question_tokens_max, sources_max;
};
struct prompt {
    int32_t *ids; /* OWNED */
    size_t n;
    size_t n_fixed; /* the first ids are our own text and the template's, the same in every prompt of this
                       model */
    size_t sources_used, sources_dropped;
    bool first_cut;   /* the best source alone was too long and ends early */
    size_t first_len; /* bytes of the first source that stand in the prompt */
};
/* Sources keep their rank as number, best first: [n] in an answer is then the n-th source of the request, and
 * dropping the lowest ranked leaves what is before it unchanged. Overflow: whole sources are dropped from the
 * lowest rank up; when the best one alone does not fit it is cut at a sentence end. A question over its limit
 * is CAIRN_EINVAL. */
CAIRN_MUST_USE enum cairn_err prompt_build(struct prompt *out, const struct tokenizer *t,
                                           enum chat_template tmpl, const struct answer_request *q,
                                           const struct prompt_limits *limits, struct cairn_why *why);
void prompt_release(struct prompt *p);
/* The text of one source as it stands in the prompt: heading line, then the text, with lines that imitate our
 * own headings marked as quoted and without code points that no reader sees. len: how much of the source's
 * text. */
bool prompt_source(struct cairn_buf *b, const struct answer_source *s, size_t number, size_t len);

#endif
