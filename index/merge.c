/* merge.c - see store_merge in cairn/index.h. */
#include "store.h"
#include "vindex.h"

enum cairn_err store_vector_info(struct store_view *v, const char *collection, struct vector_info *out,
                                 struct cairn_why *why)
{
    struct coll_rec coll;
    *out = (struct vector_info){0};
    enum cairn_err err = coll_get(&v->kv, collection, &coll, why);
    out->n_delta = err ? 0 : coll.n_vectors;
    return err;
}
enum cairn_err store_merge(struct store *s, const char *collection, const struct store_merge_opts *o,
                           cairn_progress_fn progress, void *ctx, const struct cairn_stop *stop,
                           uint32_t *n_merged, struct cairn_why *why)
{
    (void)s, (void)collection, (void)o, (void)progress, (void)ctx, (void)stop, (void)why;
    *n_merged = 0;
    return CAIRN_OK;
}
void store_merge_state_get(struct store *s, struct store_merge_state *out)
{
    (void)s;
    *out = (struct store_merge_state){0};
}
