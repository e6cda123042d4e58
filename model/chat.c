/* chat.c - conversations as token ids. Templates are a list that we know, chosen by what a file says about
 * itself; the template program in the file is never run.
 *
 * Control tokens are put by id; everything that has a content is tokenised with special tokens off, so no
 * text can become one. What is ordinary text in a template ([INST] of mistral-v1) can be imitated by a text:
 * such models offer no defence.
 *
 * - chatml: {bos}<|im_start|>ROLE\nCONTENT<|im_end|>\n ... <|im_start|>assistant\n
 * - mistral-v1, the system's words in the first user turn:
 *   {bos}[INST] SYSTEM\n\nUSER [/INST] ANSWER{eos}[INST] USER [/INST]
 * - mistral-v3, the system's words in the last user turn:
 *   {bos}{[INST]} USER{[/INST]} ANSWER{eos}{[INST]} SYSTEM\n\nUSER{[/INST]}
 * - qwen3: chatml, then <think>\n\n</think>\n\n: an answer, not a page of thoughts before it
 * - llama-3: {bos}<|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|> ...
 * - gemma: {bos}<start_of_turn>user\nSYSTEM\n\nUSER<end_of_turn>\n<start_of_turn>model\nANSWER ...
 *
 * llama-3 and gemma take the white space around each content away, as their templates do.
 * Mistral's pieces are tokenised one by one, as its own tokenizer does: each gets SentencePiece's space in
 * front. */
#include "tokenizer.h"

enum { CHAT_MESSAGES_MAX = 4096 };

enum chat_template chat_template_by_name(const char *name)
{
    for (enum chat_template t = CHAT_CHATML; name && t <= CHAT_GEMMA; t++)
        if (strcmp(name, chat_template_name(t)) == 0)
            return t;
    return CHAT_NONE;
}

const char *chat_template_name(enum chat_template t)
{
    switch (t) {
    case CHAT_CHATML:
        return "chatml";
    case CHAT_MISTRAL_V1:
        return "mistral-v1";
    case CHAT_MISTRAL_V3:
        return "mistral-v3";
    case CHAT_QWEN3:
        return "qwen3";
    case CHAT_LLAMA3:
        return "llama-3";
    case CHAT_GEMMA:
        return "gemma";
    case CHAT_NONE:
        break;
    }
    return "none";
}

static bool contains(struct cairn_str s, const char *needle)
{
    return memmem(s.p, s.len, needle, strlen(needle)) != NULL;
}

/* Whether the vocabulary has a control or user-defined token of this name. */
static bool has_control(const struct model_file *f, const char *name)
{
    size_t n = model_file_array_len(f, "tokenizer.ggml.tokens"), len = strlen(name);
    struct cairn_str s;
    int64_t type;
    for (size_t i = 0; i < n; i++)
        if (model_file_array_string(f, "tokenizer.ggml.tokens", i, &s) && s.len == len &&
            memcmp(s.p, name, len) == 0)
            return model_file_array_int(f, "tokenizer.ggml.token_type", i, &type) &&
                   (type == TOKEN_CONTROL || type == TOKEN_USER);
    return false;
}

enum chat_template chat_template_detect(const struct model_file *f)
{
    struct cairn_str text = {"", 0};
    bool stated = model_file_string(f, "tokenizer.chat_template", &text);
    if (stated && contains(text, "<|im_start|>"))
        return contains(text, "enable_thinking") ? CHAT_QWEN3 : CHAT_CHATML;
    if (stated && contains(text, "<|start_header_id|>"))
        return CHAT_LLAMA3;
    if (stated && contains(text, "<start_of_turn>"))
        return CHAT_GEMMA;
    if (stated && contains(text, "[INST]") && !contains(text, "<<SYS>>") &&
        !contains(text, "[SYSTEM_PROMPT]"))
        return has_control(f, "[INST]") ? CHAT_MISTRAL_V3 : CHAT_MISTRAL_V1;
    if (stated)
        return CHAT_NONE;
    return has_control(f, "<|im_start|>")          ? CHAT_CHATML
           : has_control(f, "<|start_header_id|>") ? CHAT_LLAMA3
           : has_control(f, "<start_of_turn>")     ? CHAT_GEMMA
           : has_control(f, "[INST]")              ? CHAT_MISTRAL_V3
                                                   : CHAT_NONE;
}

/* ---- rendering
 * ------------------------------------------------------------------------------------------------------- */

struct render {
    const struct tokenizer *t;
    struct id_list l;
    struct cairn_buf text; /* the ordinary text since the last control token */
    struct cairn_why *why;
    enum cairn_err err;
};

static void put_text(struct render *r, struct cairn_str s)
{
    (void)cairn_buf_put(&r->text, s.p, s.len); /* flush_text() sees a failure */
}

static void flush_text(struct render *r)
{
    if (r->err)
        return;
    if (r->text.failed) {
        r->err = cairn_fail(r->why, CAIRN_EFULL, "a conversation has at most %d bytes; shorten it",
                            TOKENIZER_TEXT_MAX);
        return;
    }
    int32_t *ids;
    size_t n;
    r->err = tokenizer_encode(r->t, (struct cairn_str){r->text.len ? r->text.bytes : "", r->text.len},
                              TOKENIZE_PLAIN, &ids, &n, r->why);
    if (r->err)
        return;
    for (size_t i = 0; i < n; i++)
        ids_put(&r->l, ids[i]);
    cairn_free(ids);
    cairn_buf_clear(&r->text);
}

static void put_id(struct render *r, int32_t id)
{
    flush_text(r);
    if (id >= 0)
        ids_put(&r->l, id);
}

/* -1: the vocabulary has no such control token. */
static int32_t control(const struct tokenizer *t, const char *name)
{
    int32_t id = tokenizer_find(t, name);
    return id >= 0 && (t->types[id] == TOKEN_CONTROL || t->types[id] == TOKEN_USER) ? id : -1;
}

enum { TRIM = 1, SYSTEM_IN_USER = 2, NO_THOUGHTS = 4 /* an answer begins with thoughts that are none */ };
/* Templates whose every turn is START ROLE gap CONTENT END after. */
struct turn_style {
    const char *start, *middle, *end; /* control tokens; middle may be NULL */
    const char *gap, *after;          /* text behind the role (or middle) and behind end */
    const char *assistant;            /* the role's name for its answers */
    unsigned flags;
};
static const struct turn_style turn_styles[] = {
    [CHAT_CHATML] = {"<|im_start|>",        NULL,                "<|im_end|>",    "\n",   "\n", "assistant", 0                    },
    [CHAT_QWEN3] = {"<|im_start|>",        NULL,                "<|im_end|>",    "\n",   "\n", "assistant", NO_THOUGHTS          },
    [CHAT_LLAMA3] = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",    "\n\n", "",   "assistant", TRIM                 },
    [CHAT_GEMMA] = {"<start_of_turn>",     NULL,                "<end_of_turn>", "\n",   "\n", "model",     TRIM | SYSTEM_IN_USER},
};

static bool is(struct cairn_str s, const char *name)
{
    return name && strlen(name) == s.len && memcmp(name, s.p, s.len) == 0;
}

bool chat_marks_turns(struct cairn_str name)
{
    bool found = is(name, "[INST]") || is(name, "[/INST]");
    for (size_t i = CHAT_CHATML; i < sizeof turn_styles / sizeof turn_styles[0]; i++) {
        const struct turn_style *s = &turn_styles[i];
        found = found || is(name, s->start) || is(name, s->middle) || is(name, s->end);
    }
    return found;
}

static struct cairn_str trimmed(struct cairn_str s)
{
    while (s.len && strchr(" \t\n\v\f\r", s.p[s.len - 1]) && s.p[s.len - 1])
        s.len--;
    while (s.len && strchr(" \t\n\v\f\r", *s.p) && *s.p) {
        s.p++;
        s.len--;
    }
    return s;
}

static void open_turn(struct render *r, const struct turn_style *style, const char *role)
{
    put_id(r, control(r->t, style->start));
    put_text(r, cairn_str_of(strcmp(role, "assistant") == 0 ? style->assistant : role));
    if (style->middle)
        put_id(r, control(r->t, style->middle));
    put_text(r, cairn_str_of(style->gap));
}

static void render_turns(struct render *r, enum chat_template tmpl, const struct chat_message *m, size_t n)
{
    const struct turn_style *style = &turn_styles[tmpl];
    bool opened = false; /* by the system's words */
    if (control(r->t, style->start) < 0 || control(r->t, style->end) < 0 ||
        (style->middle && control(r->t, style->middle) < 0)) {
        r->err = cairn_fail(
            r->why, CAIRN_ESTATE,
            "the %s template needs the control tokens %s, %s and %s, which this model has not; "
            "choose another template in its card",
            chat_template_name(tmpl), style->start, style->middle ? style->middle : style->end, style->end);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        struct cairn_str content = style->flags & TRIM ? trimmed(m[i].content) : m[i].content;
        bool system = (style->flags & SYSTEM_IN_USER) && strcmp(m[i].role, "system") == 0;
        if (system && (i > 0 || n < 2 || strcmp(m[1].role, "user") != 0)) {
            r->err =
                cairn_fail(r->why, CAIRN_EINVAL,
                           "%s takes one system message, the first, before a user message; message %zu is "
                           "another",
                           chat_template_name(tmpl), i);
            return;
        }
        if (!opened)
            open_turn(r, style, system ? "user" : m[i].role);
        put_text(r, content);
        opened = system;
        if (system) {
            put_text(r, cairn_str_of("\n\n"));
            continue;
        }
        put_id(r, control(r->t, style->end));
        put_text(r, cairn_str_of(style->after));
    }
    open_turn(r, style, "assistant");
    for (int i = 0; i < 2 && (style->flags & NO_THOUGHTS); i++) {
        const char *name = i ? "</think>" : "<think>";
        if (control(r->t, name) >= 0)
            put_id(r, control(r->t, name));
        else
            put_text(r, cairn_str_of(name));
        put_text(r, cairn_str_of("\n\n"));
    }
    flush_text(r);
}

/* [INST] or [/INST]: a control token where the template and the vocabulary have it, else text. */
static void put_inst(struct render *r, const char *name, bool as_control)
{
    int32_t id = as_control ? control(r->t, name) : -1;
    if (id >= 0) {
        put_id(r, id);
        return;
    }
    if (name[1] == '/')
        put_text(r, cairn_str_of(" "));
    put_text(r, cairn_str_of(name));
    if (name[1] != '/')
        put_text(r, cairn_str_of(" "));
}

static void render_mistral(struct render *r, const struct chat_message *m, size_t n, bool v3)
{
    const struct cairn_str *system = NULL;
    size_t first = n, last = n;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(m[i].role, "system") == 0) {
            if (system || i > 0) {
                r->err = cairn_fail(r->why, CAIRN_EINVAL,
                                    "%s takes one system message, the first; message %zu is another",
                                    v3 ? "mistral-v3" : "mistral-v1", i);
                return;
            }
            system = &m[i].content;
        } else if (strcmp(m[i].role, "user") == 0) {
            first = first == n ? i : first;
            last = i;
        }
    }
    if (first == n || last != n - 1) {
        r->err = cairn_fail(r->why, CAIRN_EINVAL, "a Mistral conversation ends with a user message; add one");
        return;
    }
    size_t carrier = v3 ? last : first;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(m[i].role, "user") == 0) {
            put_inst(r, "[INST]", v3);
            if (i == carrier && system) {
                put_text(r, *system);
                put_text(r, cairn_str_of("\n\n"));
            }
            put_text(r, m[i].content);
            put_inst(r, "[/INST]", v3);
            flush_text(r);
        } else if (strcmp(m[i].role, "assistant") == 0) {
            if (!r->t->space_prefix) /* else SentencePiece puts it */
                put_text(r, cairn_str_of(" "));
            put_text(r, m[i].content);
            put_id(r, r->t->eos);
        }
    }
}

enum cairn_err chat_encode(const struct tokenizer *t, enum chat_template tmpl, const struct chat_message *m,
                           size_t n_messages, int32_t **ids, size_t *n, struct cairn_why *why)
{
    *ids = NULL;
    *n = 0;
    if (n_messages < 1 || n_messages > CHAT_MESSAGES_MAX)
        return cairn_fail(why, CAIRN_EINVAL, "a conversation has 1 to %d messages: this one has %zu",
                          CHAT_MESSAGES_MAX, n_messages);
    for (size_t i = 0; i < n_messages; i++)
        if (!m[i].role || (strcmp(m[i].role, "system") != 0 && strcmp(m[i].role, "user") != 0 &&
                           strcmp(m[i].role, "assistant") != 0))
            return cairn_fail(why, CAIRN_EINVAL,
                              "roles are system, user and assistant: message %zu has '%.32s'", i,
                              m[i].role ? m[i].role : "none");
    if (tmpl == CHAT_NONE)
        return cairn_fail(
            why, CAIRN_ESTATE,
            "this model has no chat template that is known here (chatml, mistral-v1, mistral-v3, "
            "qwen3, llama-3, gemma); name one as \"template\" in its card.json");
    struct render r = {.t = t, .why = why};
    cairn_buf_init(&r.text, TOKENIZER_TEXT_MAX);
    if (t->model != TOKENIZER_WORDPIECE)
        put_id(&r, t->head); /* bos, where the model wants it; nothing later adds another */
    if (tmpl == CHAT_MISTRAL_V1 || tmpl == CHAT_MISTRAL_V3)
        render_mistral(&r, m, n_messages, tmpl == CHAT_MISTRAL_V3);
    else
        render_turns(&r, tmpl, m, n_messages);
    cairn_buf_release(&r.text);
    if (!r.err && r.l.failed)
        r.err = tokenizer_out_of_memory(why);
    if (r.err) {
        cairn_free(r.l.ids);
        return r.err;
    }
    *ids = r.l.ids;
    *n = r.l.n;
    return CAIRN_OK;
}
