/* need.c - the memory that a model needs, for `cairn model inspect`. It is not computed from shapes: the
 * model is opened and what that took from the heap is counted, so that the answer cannot drift from the code
 * that allocates. Opening touches no weights of a decoder, so this is quick for files of any size; an encoder
 * packs its weights, which is most of what it holds. */
#include "file.h"

#include <string.h>

/* Bytes of the mapping that computing touches: the header once, and the weights; of a token embedding that is
 * not also the output only single rows. */
static uint64_t mapped_bytes(const struct model_file *f)
{
    const struct model_tensor *rows =
        model_file_tensor(f, "output.weight") ? model_file_tensor(f, "token_embd.weight") : NULL;
    uint64_t weights = 0, behind = f->len;
    for (size_t i = 0; i < f->n_tensors; i++) {
        const struct model_tensor *t = &f->tensors[i];
        uint64_t at = (uint64_t)((const uint8_t *)t->bytes - f->bytes);
        behind = at < behind ? at : behind;
        weights += t == rows ? 0 : t->n_bytes;
    }
    return behind + weights;
}

static enum cairn_err decoder_need(struct model_need *out, const char *path, const struct model_opts *o,
                                   struct cairn_why *why)
{
    struct decoder *d = NULL;
    struct decoder_kv kv;
    size_t before = cairn_heap_bytes();
    enum cairn_err err = decoder_open_file(&d, path, o, why);
    if (!err) {
        decoder_kv_get(d, &kv);
        out->kv = kv.page_bytes * kv.n_pages;
        out->n_ctx = decoder_n_ctx(d);
        out->held = cairn_heap_bytes() - before - out->kv;
    }
    decoder_close(d);
    return err;
}

static enum cairn_err encoder_need(struct model_need *out, const struct model_card *card,
                                   const struct model_opts *o, struct cairn_why *why)
{
    struct encoder *e = NULL;
    size_t before = cairn_heap_bytes();
    enum cairn_err err = encoder_open(&e, card, o, why);
    if (!err)
        out->held = cairn_heap_bytes() - before;
    encoder_close(e);
    return err;
}

enum cairn_err model_need_of(struct model_need *out, const struct model_file *f, const char *path,
                             const struct model_card *card, const struct model_opts *o, struct cairn_why *why)
{
    struct cairn_str arch = {"", 0};
    if (cairn_heap_bytes() == 0)
        return cairn_fail(why, CAIRN_EUNSUPPORTED,
                          "this build's C library does not count what it has allocated");
    memset(out, 0, sizeof *out);
    out->mapped = mapped_bytes(f);
    (void)model_file_string(f, "general.architecture", &arch);
    bool bert = f->format == FORMAT_SAFETENSORS || (arch.len == 4 && memcmp(arch.p, "bert", 4) == 0) ||
                (arch.len == 10 && memcmp(arch.p, "nomic-bert", 10) == 0);
    if (bert && !card)
        return cairn_fail(why, CAIRN_ESTATE,
                          "what an encoder needs depends on its card; add the file (cairn model add) and "
                          "inspect it by name");
    return bert ? encoder_need(out, card, o, why) : decoder_need(out, path, o, why);
}
