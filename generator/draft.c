/* draft.c - prompt lookup. The list is read from its end for every guess: a few microseconds for thousands of
 * tokens, next to a step of milliseconds, so there is no index to keep. */
#include "draft.h"

#include <string.h>

enum { MATCH_MAX = 4, MATCH_MIN = 2 };

size_t draft_find(const int32_t *ids, size_t n, size_t from, size_t to, int32_t *out, size_t max)
{
    size_t best = 0, at = 0;
    bool best_inside = false;
    if (n < MATCH_MIN + 1 || !max)
        return 0;
    for (size_t i = n - 1; i >= MATCH_MIN; i--) { /* ids[i] would come next */
        if (ids[i - 1] != ids[n - 1] || ids[i - 2] != ids[n - 2])
            continue;
        size_t m = MATCH_MIN;
        while (m < MATCH_MAX && m < i && ids[i - 1 - m] == ids[n - 1 - m])
            m++;
        bool inside = i >= from && i < to;
        if (m > best || (m == best && inside && !best_inside)) {
            best = m;
            best_inside = inside;
            at = i;
        }
    }
    if (!best)
        return 0;
    size_t len = n - at < max ? n - at : max;
    memcpy(out, ids + at, len * sizeof *out);
    return len;
}

void draft_told(struct draft_pace *p, size_t drafted, size_t accepted)
{
    if (!drafted)
        p->rest -= p->rest > 0;
    else if (accepted == drafted)
        p->length = p->length + 2 < DRAFT_MAX ? p->length + 2 : DRAFT_MAX;
    else {
        p->length = p->length / 2 > accepted ? p->length / 2 : accepted > 1 ? accepted : 1;
        p->rest = accepted ? 0 : DRAFT_REST;
    }
}
