/* prefix.c - the tree of kept pages. The node of a page is nodes[page id], so there is room for every page
 * and nothing to allocate. A node was used at least as lately as those behind it, because a lookup touches
 * all nodes on its way: the least recently used one is always a leaf. */
#include "prefix.h"

#include <string.h>

#define NONE UINT32_MAX

struct node {
    bool used, shared_by_all;
    uint32_t parent, child, next; /* next: of the same parent */
    uint32_t n;                   /* ids; fewer than KV_PAGE only in a leaf */
    uint64_t last_used, held;     /* held: the count in which a sequence had this page or one below it */
    struct cairn_hash partition;
    int32_t ids[KV_PAGE];
};

struct prefix {
    struct kv_pool *pool;
    struct node *nodes;
    uint32_t first; /* of those without a parent */
    uint64_t clock, counted;
    size_t n_used;
};

enum cairn_err prefix_open(struct prefix **out, struct kv_pool *pool, struct cairn_why *why)
{
    *out = NULL;
    struct prefix *c = cairn_calloc(1, sizeof *c);
    struct node *nodes = cairn_calloc(pool->n_pages, sizeof *nodes);
    if (!c || !nodes) {
        cairn_free(c);
        cairn_free(nodes);
        return cairn_fail(why, CAIRN_ENOMEM, "prefix cache of %u pages", pool->n_pages);
    }
    *c = (struct prefix){.pool = pool, .nodes = nodes, .first = NONE};
    *out = c;
    return CAIRN_OK;
}

void prefix_clear(struct prefix *c)
{
    for (uint32_t i = 0; i < c->pool->n_pages; i++) {
        if (c->nodes[i].used)
            kv_unref(c->pool, i);
        c->nodes[i].used = false;
    }
    c->first = NONE;
    c->n_used = 0;
}

void prefix_close(struct prefix *c)
{
    if (!c)
        return;
    prefix_clear(c);
    cairn_free(c->nodes);
    cairn_free(c);
}

size_t prefix_pages(const struct prefix *c) { return c->n_used; }

size_t prefix_idle(struct prefix *c)
{
    size_t n = c->n_used;
    c->counted++;
    for (uint32_t i = 0; i < c->pool->n_pages; i++)
        if (c->nodes[i].used && c->pool->refs[i] > 1)
            for (uint32_t p = i; p != NONE && c->nodes[p].held != c->counted; p = c->nodes[p].parent, n--)
                c->nodes[p].held = c->counted;
    return n;
}

static uint32_t *children(struct prefix *c, uint32_t parent)
{
    return parent == NONE ? &c->first : &c->nodes[parent].child;
}

static bool visible(const struct node *e, const struct decoder_share *share)
{
    return e->shared_by_all ||
           (share->has_partition && memcmp(&e->partition, &share->partition, sizeof e->partition) == 0);
}

static size_t common(const struct node *e, const int32_t *ids, size_t n)
{
    size_t i = 0;
    while (i < n && i < e->n && e->ids[i] == ids[i])
        i++;
    return i;
}

/* The child that shares most ids, and how many. */
static uint32_t best_child(struct prefix *c, uint32_t parent, const int32_t *ids, size_t n,
                           const struct decoder_share *share, size_t *matched)
{
    uint32_t best = NONE;
    *matched = 0;
    for (uint32_t i = *children(c, parent); i != NONE; i = c->nodes[i].next) {
        size_t m = visible(&c->nodes[i], share) ? common(&c->nodes[i], ids, n) : 0;
        if (m > *matched) {
            *matched = m;
            best = i;
        }
    }
    if (best != NONE)
        c->nodes[best].last_used = c->clock;
    return best;
}

size_t prefix_find(struct prefix *c, const int32_t *ids, size_t n, const struct decoder_share *share,
                   uint32_t *pages, uint32_t *tail, size_t *n_tail)
{
    size_t n_pages = 0;
    *n_tail = 0;
    c->clock++;
    for (uint32_t at = NONE;;) {
        size_t from = n_pages * KV_PAGE, matched;
        uint32_t i = best_child(c, at, ids + from, n - from, share, &matched);
        if (i == NONE)
            break;
        kv_ref(c->pool, i);
        if (matched < KV_PAGE) {
            *tail = i;
            *n_tail = matched;
            break;
        }
        pages[n_pages++] = at = i;
    }
    return n_pages;
}

static void drop(struct prefix *c, uint32_t page)
{
    uint32_t *link = children(c, c->nodes[page].parent);
    while (*link != page)
        link = &c->nodes[*link].next;
    *link = c->nodes[page].next;
    c->nodes[page].used = false;
    c->n_used--;
    kv_unref(c->pool, page);
}

bool prefix_evict(struct prefix *c, size_t n)
{
    if (c->pool->n_free < n && c->pool->n_free + prefix_idle(c) < n)
        return false; /* giving up all of it would help nobody */
    while (c->pool->n_free < n) {
        uint32_t oldest = NONE;
        for (uint32_t i = 0; i < c->pool->n_pages; i++)
            if (c->nodes[i].used && c->nodes[i].child == NONE && c->pool->refs[i] == 1 &&
                (oldest == NONE || c->nodes[i].last_used < c->nodes[oldest].last_used))
                oldest = i;
        CAIRN_CHECK(oldest != NONE);
        drop(c, oldest);
    }
    return true;
}

/* The page's reference goes over to the tree. */
static void add(struct prefix *c, uint32_t parent, uint32_t page, const int32_t *ids, size_t n, bool to_all,
                const struct decoder_share *share)
{
    struct node *e = &c->nodes[page];
    CAIRN_CHECK(!e->used);
    *e = (struct node){.used = true,
                       .shared_by_all = to_all,
                       .parent = parent,
                       .child = NONE,
                       .n = (uint32_t)n,
                       .last_used = c->clock};
    if (!to_all)
        e->partition = share->partition;
    memcpy(e->ids, ids, n * sizeof *ids);
    /* what the new node has too is not kept twice */
    for (uint32_t i = *children(c, parent), next; i != NONE; i = next) {
        struct node *o = &c->nodes[i];
        next = o->next;
        if (o->n < n && o->shared_by_all == to_all &&
            memcmp(&o->partition, &e->partition, sizeof e->partition) == 0 && common(o, ids, n) == o->n)
            drop(c, i);
    }
    uint32_t *head = children(c, parent);
    e->next = *head;
    *head = page;
    c->n_used++;
}

void prefix_keep(struct prefix *c, const int32_t *ids, size_t n, const struct decoder_share *share,
                 const uint32_t *table)
{
    uint32_t at = NONE;
    c->clock++;
    for (size_t from = 0; from < n; from += KV_PAGE) {
        size_t m = n - from < KV_PAGE ? n - from : KV_PAGE, matched,
               open = share->n_public <= from      ? 0
                      : share->n_public - from < m ? share->n_public - from
                                                   : m;
        uint32_t i = best_child(c, at, ids + from, m, share, &matched), page = table[from / KV_PAGE];
        if (matched < open && open < m) { /* the public beginning of a page that goes on in private */
            uint32_t copy;
            if (at != NONE) /* not to be given up for its own child */
                kv_ref(c->pool, at);
            if (prefix_evict(c, 1) && kv_take(c->pool, &copy, 1)) {
                kv_copy(c->pool, copy, page, open);
                add(c, at, copy, ids + from, open, true, share);
            }
            if (at != NONE)
                kv_unref(c->pool, at);
        }
        if (matched < m) {
            if ((open < m && !share->has_partition) || c->nodes[page].used)
                return;
            kv_ref(c->pool, page);
            add(c, at, page, ids + from, m, open == m, share);
            i = page;
        }
        if (m < KV_PAGE)
            return;
        at = i;
    }
}
