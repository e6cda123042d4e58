/* decoder_experts.c - the feed-forward of a mixture of experts. Each row goes to the n_expert_used experts
 * whose router logits are largest, weighted by the softmax over those; the rows of one expert are gathered
 * and computed together, so that a prompt reads an expert's weights once. Experts are taken in the order of
 * their numbers, so a row's sum does not depend on the rows beside it. */
#include "decoder_internal.h"

#include <math.h>
#include <string.h>

/* The experts of one row into chosen[n_expert_used], ascending, and their shares. Of equal logits the lower
 * number wins. */
static void choose(const struct decoder *d, const float *logits, uint32_t *chosen, float *shares)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < d->n_expert_used; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < d->n_expert; e++) {
            bool taken = false;
            for (uint32_t i = 0; i < n; i++)
                taken |= chosen[i] == e;
            if (!taken && (best == UINT32_MAX || logits[e] > logits[best]))
                best = e;
        }
        uint32_t at = n++;
        for (; at > 0 && chosen[at - 1] > best; at--)
            chosen[at] = chosen[at - 1];
        chosen[at] = best;
    }
    float top = logits[chosen[0]], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        top = logits[chosen[i]] > top ? logits[chosen[i]] : top;
    for (uint32_t i = 0; i < n; i++)
        sum += shares[i] = expf(logits[chosen[i]] - top);
    for (uint32_t i = 0; i < n; i++)
        shares[i] /= sum;
}

static void rows_gate(void *ctx, size_t begin, size_t end, unsigned worker)
{
    (void)worker;
    struct decoder *d = ctx;
    for (size_t r = begin; r < end; r++)
        d->compute.ops->swiglu(d->gate + r * d->n_ff, d->up + r * d->n_ff, d->n_ff);
}

void decoder_experts(struct decoder *d, const struct layer *l, size_t n_few, size_t n_many)
{
    struct decoder_moe *m = &d->moe;
    const struct compute *c = &d->compute;
    size_t used = d->n_expert_used, width = d->n_embd, rows = n_few + n_many;
    ops_matmul_mixed(c, d->h, n_few, n_many,
                     &(struct matmul_job){.w = &l->router, .y = m->logits, .ld = d->n_expert}, 1);
    for (size_t r = 0; r < rows; r++)
        choose(d, m->logits + r * d->n_expert, m->chosen + r * used, m->shares + r * used);
    for (uint32_t e = 0; e < d->n_expert; e++) {
        size_t n = 0, few = 0; /* rows keep their order, so those of the kernels for few stay in front */
        for (size_t i = 0; i < rows * used; i++)
            if (m->chosen[i] == e) {
                memcpy(m->in + n * width, d->h + i / used * width, width * sizeof *m->in);
                few += i / used < n_few;
                m->from[n++] = (uint32_t)i;
            }
        if (!n)
            continue;
        const struct weight *w = l->experts + 3 * (size_t)e;
        ops_matmul_mixed(
            c, m->in, few, n - few,
            (struct matmul_job[]){
                {.w = &w[0], .y = d->gate, .ld = d->n_ff},
                {.w = &w[1], .y = d->up,   .ld = d->n_ff}
        },
            2);
        cairn_pool_run(n < 4 ? NULL : c->pool, n, 8, rows_gate, d);
        ops_matmul_mixed(c, d->gate, few, n - few, &(struct matmul_job){.w = &w[2], .y = m->out, .ld = width},
                         1);
        for (size_t j = 0; j < n; j++) {
            float *x = d->x + m->from[j] / used * width, share = m->shares[m->from[j]];
            for (size_t i = 0; i < width; i++)
                x[i] += share * m->out[j * width + i];
        }
    }
}
