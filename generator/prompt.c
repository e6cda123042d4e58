/* prompt.c - the prompt: a fixed system message, the numbered sources best first, the question last.
 * Sources and question are tokenised with special tokens off (chat_encode), so no document can speak as the
 * system. Tokens are counted per source as written; joined text may differ by a token or two at the borders,
 * which the decoder's context allows for. */
#include "prompt.h"

#include <string.h>
#include <strings.h>

#define PROMPT_BYTES_MAX (8u * 1024u * 1024u)
#define HEADING_BYTES_MAX 300u /* of a title or a path */

/* Nothing here invites a refusal: whether there is an answer is decided from evidence, before decoding and by
 * the checker. Told to reply NOT FOUND where the sources do not answer, the 1.5B model does so for questions
 * they answer nearly as often as for others. */
static const char system_text[] =
    "You answer questions from numbered sources. Use only facts stated in the sources. "
    "Answer in one to three short, complete sentences. After each sentence write the number of its source in "
    "square brackets, like [1].";

static const char phrase_text[] =
    "You answer questions from numbered sources. Reply with the shortest phrase from the sources that "
    "answers "
    "the question, copied as it is written there, without a sentence around it: a name, a date, a number, a "
    "few words.";

static bool heading_like(const char *p, size_t n)
{
    static const char *const headings[] = {"question:", "sources:", "answer:", "system:"};
    for (size_t i = 0; i < sizeof headings / sizeof headings[0]; i++)
        if (n >= strlen(headings[i]) && strncasecmp(p, headings[i], strlen(headings[i])) == 0)
            return true;
    return false;
}

/* Code points that a reader does not see: zero width, direction marks, tags. Text for the model alone. */
static bool invisible(uint32_t c)
{
    return (c >= 0x200B && c <= 0x200F) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2060 && c <= 0x2069) ||
           c == 0xFEFF || (c >= 0xE0000 && c <= 0xE007F);
}
static bool put_visible(struct cairn_buf *b, const char *p, size_t n)
{
    size_t from = 0, i = 0;
    while (i < n) {
        if ((unsigned char)p[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t c = 0;
        size_t len = cairn_utf8_next(p + i, n - i, &c);
        if (!len)
            len = 1;
        else if (invisible(c)) {
            if (!cairn_buf_put(b, p + from, i - from))
                return false;
            from = i + len;
        }
        i += len;
    }
    return cairn_buf_put(b, p + from, n - from);
}

static bool put_line(struct cairn_buf *b, struct cairn_str s)
{
    size_t n = cairn_utf8_floor(s.p, s.len < HEADING_BYTES_MAX ? s.len : HEADING_BYTES_MAX);
    size_t from = b->len;
    if (!put_visible(b, s.p, n))
        return false;
    for (size_t i = from; i < b->len; i++)
        if (b->bytes[i] == '\n' || b->bytes[i] == '\r')
            b->bytes[i] = ' ';
    return true;
}

bool prompt_source(struct cairn_buf *b, const struct answer_source *s, size_t number, size_t len)
{
    bool ok = cairn_buf_printf(b, "[%zu] ", number) && put_line(b, s->title);
    if (s->path.len && s->title.len)
        ok = ok && cairn_buf_puts(b, " - ");
    ok = ok && put_line(b, s->path) && cairn_buf_puts(b, "\n");
    struct cairn_buf shown;
    cairn_buf_init(&shown, PROMPT_BYTES_MAX);
    ok = ok && put_visible(&shown, s->text.p, len);
    size_t i = 0;
    while (ok && i < shown.len) {
        const char *p = shown.bytes + i, *nl = memchr(p, '\n', shown.len - i);
        size_t n = nl ? (size_t)(nl - p) + 1 : shown.len - i, lead = 0;
        while (lead < n && (p[lead] == ' ' || p[lead] == '\t'))
            lead++;
        if (heading_like(p + lead, n - lead))
            ok = cairn_buf_puts(b, "| ");
        ok = ok && cairn_buf_put(b, p, n);
        i += n;
    }
    cairn_buf_release(&shown);
    return ok && cairn_buf_puts(b, "\n\n");
}

/* The user message. cut_len: bytes of the first source's text. */
static bool put_user(struct cairn_buf *b, const struct answer_request *q, size_t n_sources, size_t cut_len)
{
    bool ok = cairn_buf_puts(b, "Sources:\n\n");
    for (size_t i = 0; i < n_sources && ok; i++)
        ok = prompt_source(b, &q->sources[i], i + 1, i == 0 ? cut_len : q->sources[i].text.len);
    return ok && cairn_buf_puts(b, "Question: ") && cairn_buf_put(b, q->question.p, q->question.len);
}

static enum cairn_err count_tokens(const struct tokenizer *t, struct cairn_str text, size_t *n,
                                   struct cairn_why *why)
{
    int32_t *ids = NULL;
    enum cairn_err err = tokenizer_encode(t, text, TOKENIZE_PLAIN, &ids, n, why);
    cairn_free(ids);
    return err;
}
static enum cairn_err count_source(const struct tokenizer *t, const struct answer_source *s, size_t number,
                                   size_t len, size_t *n, struct cairn_why *why)
{
    struct cairn_buf b;
    cairn_buf_init(&b, PROMPT_BYTES_MAX);
    enum cairn_err err = prompt_source(&b, s, number, len)
                             ? count_tokens(t, (struct cairn_str){b.bytes, b.len}, n, why)
                             : cairn_fail(why, CAIRN_ENOMEM, "text of source %zu", number);
    cairn_buf_release(&b);
    return err;
}

/* The longest prefix of the first source that fits and ends with a sentence (or, if not even one does, a code
 * point). */
static enum cairn_err cut_first(const struct tokenizer *t, const struct answer_source *s, size_t budget,
                                size_t *len, struct cairn_why *why)
{
    size_t lo = 0, hi = s->text.len; /* by bytes first: tokens grow with bytes */
    for (unsigned step = 0; step < 12 && hi - lo > 32; step++) {
        size_t mid = cairn_utf8_floor(s->text.p, lo + (hi - lo) / 2), n;
        enum cairn_err err = count_source(t, s, 1, mid, &n, why);
        if (err)
            return err;
        if (n <= budget)
            lo = mid;
        else
            hi = mid;
    }
    size_t max = 4096;
    struct cairn_span *spans = cairn_malloc(max * sizeof *spans);
    if (!spans)
        return cairn_fail(why, CAIRN_ENOMEM, "sentences of the first source");
    size_t n = cairn_sentences(s->text, spans, max), best = 0;
    for (size_t i = 0; i < n && i < max; i++)
        if (spans[i].end <= lo)
            best = spans[i].end;
    cairn_free(spans);
    *len = best ? best : cairn_utf8_floor(s->text.p, lo);
    return CAIRN_OK;
}

static enum cairn_err encode(int32_t **ids, size_t *n, const struct tokenizer *t, enum chat_template tmpl,
                             enum answer_style style, struct cairn_str user, struct cairn_why *why)
{
    const struct chat_message m[2] = {
        {"system", cairn_str_of(style == ANSWER_PHRASE ? phrase_text : system_text)},
        {"user",   user                                                            }
    };
    return chat_encode(t, tmpl, m, 2, ids, n, why);
}

enum cairn_err prompt_build(struct prompt *out, const struct tokenizer *t, enum chat_template tmpl,
                            const struct answer_request *q, const struct prompt_limits *limits,
                            struct cairn_why *why)
{
    memset(out, 0, sizeof *out);
    size_t n;
    enum cairn_err err = count_tokens(t, q->question, &n, why);
    if (err)
        return err;
    if (n > limits->question_tokens_max)
        return cairn_fail(why, CAIRN_EINVAL,
                          "question of %zu tokens: at most %zu (generator.question_tokens_max)", n,
                          limits->question_tokens_max);
    size_t used = 0, total = 0, cut_len = q->n_sources ? q->sources[0].text.len : 0;
    while (used < q->n_sources && used < limits->sources_max) {
        err = count_source(t, &q->sources[used], used + 1, q->sources[used].text.len, &n, why);
        if (err)
            return err;
        if (total + n > limits->context_tokens) {
            if (used > 0)
                break;
            err = cut_first(t, &q->sources[0], limits->context_tokens, &cut_len, why);
            if (err)
                return err;
            out->first_cut = true;
            used = 1;
            break;
        }
        total += n;
        used++;
    }
    out->first_len = cut_len;
    out->sources_used = used;
    out->sources_dropped = q->n_sources - used;
    struct cairn_buf b;
    cairn_buf_init(&b, PROMPT_BYTES_MAX);
    int32_t *other = NULL;
    size_t n_other = 0;
    if (!put_user(&b, q, used, cut_len))
        err = cairn_fail(why, CAIRN_ENOMEM, "prompt text");
    if (!err)
        err = encode(&out->ids, &out->n, t, tmpl, q->style, (struct cairn_str){b.bytes, b.len}, why);
    if (!err) /* what two prompts without a word in common share is the template's and ours */
        err = encode(&other, &n_other, t, tmpl, q->style, cairn_str_of("0"), why);
    if (!err)
        while (out->n_fixed < out->n && out->n_fixed < n_other &&
               out->ids[out->n_fixed] == other[out->n_fixed])
            out->n_fixed++;
    cairn_free(other);
    cairn_buf_release(&b);
    if (err)
        prompt_release(out);
    return err;
}

void prompt_release(struct prompt *p)
{
    cairn_free(p->ids);
    p->ids = NULL;
    p->n = 0;
}
