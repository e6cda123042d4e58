/* api/metrics.c - counters, and their text for Prometheus. Relaxed atomics: each number is right, the set is
 * not a snapshot. */
#include "internal.h"

const double api_bucket_s[API_BUCKETS] = {0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                          1,     2.5,   5,    10,    30,   60,  120};

void metrics_count(struct service *s, int method, enum cairn_err err, int64_t micros)
{
    struct api_metrics *m = &s->metrics;
    unsigned code = (unsigned)-(int)err, b = 0;
    if (method < 0 || method >= (int)API_METHODS_MAX || code >= API_CODES)
        return;
    while (b < API_BUCKETS && (double)micros > api_bucket_s[b] * 1e6)
        b++;
    atomic_fetch_add_explicit(&m->calls[method][code], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->bucket[method][b], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->micros[method], (uint_fast64_t)(micros > 0 ? micros : 0),
                              memory_order_relaxed);
}

const struct seen_kind seen_kinds[SEEN_N] = {
    [SEEN_WORDS] = {"query_words", "Words of a question.",          12, {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32}},
    [SEEN_LEXICAL] = {"top_lexical",
                    "BM25 of the best passage.",                    12,
                    {1, 2, 4, 6, 8, 10, 12, 15, 20, 25, 35, 50}                                                  },
    [SEEN_DENSE] = {"top_dense",
                    "Cosine of the nearest passage.",               14,
                    {0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 1}                   },
    [SEEN_RERANK] = {"top_rerank",
                    "Logit of the pair model on the best passage.", 13,
                    {-10, -8, -6, -4, -2, 0, 2, 3, 4, 5, 6, 8, 10}                                               },
    [SEEN_MARGIN] = {"top_margin",
                    "Margin of the reader's best span.",            12,
                    {-15, -12, -9, -6, -3, 0, 3, 6, 9, 12, 15, 20}                                               },
    [SEEN_CHANCE] = {"chance",
                    "Chance that the sources hold the answer.",     13,
                    {0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98}                        },
};

void metrics_seen(struct service *s, enum seen_what what, double v)
{
    const struct seen_kind *k = &seen_kinds[what];
    unsigned b = 0;
    if (v != v)
        return;
    while (b < k->n && v > k->edge[b])
        b++;
    atomic_fetch_add_explicit(&s->metrics.seen[what][b], 1, memory_order_relaxed);
}

static uint64_t get(atomic_uint_fast64_t *v) { return atomic_load_explicit(v, memory_order_relaxed); }

static void head(struct cairn_buf *out, const char *name, const char *type, const char *help)
{
    cairn_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void one(struct cairn_buf *out, const char *name, const char *type, const char *help, uint64_t v)
{
    head(out, name, type, help);
    cairn_buf_printf(out, "%s %" PRIu64 "\n", name, v);
}

enum cairn_err metrics_text(struct service *s, struct cairn_buf *out)
{
    struct api_metrics *m = &s->metrics;
    head(out, "cairn_build_info", "gauge", "Version; the value is always 1.");
    cairn_buf_puts(out, "cairn_build_info{version=\"" CAIRN_VERSION "\"} 1\n");
    head(out, "cairn_start_time_seconds", "gauge", "Start of the service since the epoch.");
    cairn_buf_printf(out, "cairn_start_time_seconds %.3f\n", (double)s->started_us / 1e6);
    head(out, "cairn_requests_total", "counter", "Finished requests by method and code.");
    for (size_t i = 0; i < api_method_count(); i++)
        for (unsigned code = 0; code < API_CODES; code++)
            if (get(&m->calls[i][code]))
                cairn_buf_printf(out, "cairn_requests_total{method=\"%s\",code=\"%s\"} %" PRIu64 "\n",
                                 api_method_at(i)->name, cairn_err_name((enum cairn_err)(-(int)code)),
                                 get(&m->calls[i][code]));
    head(out, "cairn_request_duration_seconds", "histogram", "Time of a request on its worker, by method.");
    for (size_t i = 0; i < api_method_count(); i++) {
        uint64_t sum = 0;
        for (unsigned b = 0; b <= API_BUCKETS; b++)
            sum += get(&m->bucket[i][b]);
        if (!sum)
            continue;
        const char *name = api_method_at(i)->name;
        uint64_t below = 0;
        for (unsigned b = 0; b < API_BUCKETS; b++) {
            below += get(&m->bucket[i][b]);
            cairn_buf_printf(out,
                             "cairn_request_duration_seconds_bucket{method=\"%s\",le=\"%g\"} %" PRIu64 "\n",
                             name, api_bucket_s[b], below);
        }
        cairn_buf_printf(
            out, "cairn_request_duration_seconds_bucket{method=\"%s\",le=\"+Inf\"} %" PRIu64 "\n", name, sum);
        cairn_buf_printf(out, "cairn_request_duration_seconds_sum{method=\"%s\"} %.6f\n", name,
                         (double)get(&m->micros[i]) / 1e6);
        cairn_buf_printf(out, "cairn_request_duration_seconds_count{method=\"%s\"} %" PRIu64 "\n", name, sum);
    }
    one(out, "cairn_connections", "gauge", "Open RPC connections.", get(&m->connections));
    one(out, "cairn_connections_accepted_total", "counter", "RPC connections accepted.", get(&m->accepted));
    one(out, "cairn_connections_refused_total", "counter", "RPC connections turned away at the limit.",
        get(&m->refused_connections));
    one(out, "cairn_requests_waiting", "gauge", "Requests that wait for a worker.", get(&m->queue));
    one(out, "cairn_requests_running", "gauge", "Requests on a worker.", get(&m->running));
    one(out, "cairn_requests_rejected_total", "counter",
        "Requests refused because a queue or limit was full.", get(&m->rejected));
    one(out, "cairn_protocol_errors_total", "counter",
        "Connections closed because their bytes broke the protocol.", get(&m->protocol_errors));
    one(out, "cairn_auth_failures_total", "counter", "Keys that were refused.", get(&m->auth_failures));
    one(out, "cairn_unknown_notifications_total", "counter", "Notifications nobody asked for.",
        get(&m->unknown_notifications));
    head(out, "cairn_tokens_total", "counter", "Tokens of answers by kind.");
    cairn_buf_printf(out,
                     "cairn_tokens_total{kind=\"prompt\"} %" PRIu64
                     "\ncairn_tokens_total{kind=\"completion\"} %" PRIu64 "\n",
                     get(&m->prompt_tokens), get(&m->completion_tokens));
    struct generator_stats g;
    service_generator_stats(s, &g);
    one(out, "cairn_generator_steps_total", "counter", "Passes over the generator's weights.", g.steps);
    one(out, "cairn_generator_rows_total", "counter", "Rows computed by them.", g.rows);
    one(out, "cairn_generator_cached_tokens_total", "counter",
        "Tokens of prompts that were computed for an earlier one.", g.cached_tokens);
    one(out, "cairn_generator_drafted_tokens_total", "counter", "Tokens guessed from the sources.",
        g.drafted);
    one(out, "cairn_generator_accepted_tokens_total", "counter", "Guessed tokens that came true.",
        g.accepted);
    one(out, "cairn_generator_rejected_total", "counter",
        "Answers refused because the generator's queue was full.", g.rejected);
    one(out, "cairn_generator_running", "gauge", "Answers being written.", g.running);
    one(out, "cairn_generator_waiting", "gauge", "Answers that wait to be written.", g.waiting);
    one(out, "cairn_generator_kv_pages", "gauge", "Pages of keys and values.", g.kv_pages);
    one(out, "cairn_generator_kv_pages_free", "gauge", "Pages that a new answer may have.", g.kv_pages_free);
    one(out, "cairn_generator_kv_pages_kept", "gauge", "Pages of kept beginnings of prompts.",
        g.kv_pages_kept);
    head(out, "cairn_sentences_total", "counter", "Sentences of answers by verdict.");
    for (int v = 0; v < 3; v++)
        cairn_buf_printf(out, "cairn_sentences_total{verdict=\"%s\"} %" PRIu64 "\n",
                         verdict_name((enum verdict)v), get(&m->sentences[v]));
    one(out, "cairn_citations_total", "counter", "Citations given.", get(&m->citations));
    one(out, "cairn_citations_dropped_total", "counter",
        "Citation marks of the model that nothing supported.", get(&m->citations_dropped));
    one(out, "cairn_refusals_total", "counter", "Answers refused for want of evidence.", get(&m->refusals));
    one(out, "cairn_passages_embedded_total", "counter", "Passages embedded.", get(&m->embedded));
    one(out, "cairn_documents_put_total", "counter", "Documents put.", get(&m->put));
    one(out, "cairn_documents_deleted_total", "counter", "Documents deleted.", get(&m->deleted));
    struct store_stats st;
    if (store_stats_get(s->store, &st, NULL) == CAIRN_OK) {
        one(out, "cairn_store_generation", "gauge", "Generation of the store.", st.generation);
        one(out, "cairn_store_map_bytes", "gauge", "Size of the map.", st.map_bytes);
        one(out, "cairn_store_map_used_bytes", "gauge", "Used part of the map.", st.map_used_bytes);
        one(out, "cairn_store_file_bytes", "gauge", "Size of the store's file.", st.file_bytes);
        one(out, "cairn_store_readers", "gauge", "Reader slots in use.", st.readers);
        one(out, "cairn_collections", "gauge", "Collections.", st.n_collections);
        one(out, "cairn_documents", "gauge", "Documents.", st.n_documents);
        one(out, "cairn_passages", "gauge", "Passages.", st.n_passages);
        one(out, "cairn_vectors", "gauge", "Vectors.", st.n_vectors);
        one(out, "cairn_vector_segments", "gauge", "Merged segments of vectors.", st.n_segments);
        one(out, "cairn_vector_delta", "gauge", "Vectors not in a segment yet.", st.n_delta);
    }
    struct store_merge_state merge;
    store_merge_state_get(s->store, &merge);
    one(out, "cairn_merge_running", "gauge", "Whether vectors are being merged.", merge.phase != NULL);
    one(out, "cairn_merge_done", "gauge", "Steps done of the merge that runs.", merge.phase ? merge.done : 0);
    one(out, "cairn_merge_total", "gauge", "Steps of the merge that runs.", merge.phase ? merge.total : 0);
    one(out, "cairn_merges_total", "counter", "Segments made by merging.", merge.n_merges);
    one(out, "cairn_merge_errors_total", "counter", "Merges that failed and will be tried again.",
        get(&m->merge_errors));
    head(out, "cairn_ann_recall_ratio", "gauge",
         "Share of the true nearest that sampled vector searches found, by share of rows their filter let "
         "through.");
    for (unsigned b = 0; b < RECALL_BANDS; b++)
        if (get(&m->recall_wanted[b]))
            cairn_buf_printf(out, "cairn_ann_recall_ratio{band=\"%s\"} %.6f\n", recall_band_names[b],
                             (double)get(&m->recall_found[b]) / (double)get(&m->recall_wanted[b]));
    head(out, "cairn_ann_recall_samples_total", "counter", "Vector searches run again exactly.");
    for (unsigned b = 0; b < RECALL_BANDS; b++)
        cairn_buf_printf(out, "cairn_ann_recall_samples_total{band=\"%s\"} %" PRIu64 "\n",
                         recall_band_names[b], get(&m->recall_samples[b]));
    one(out, "cairn_ann_recall_dropped_total", "counter", "Sampled searches the queue had no room for.",
        get(&m->recall_dropped));
    one(out, "cairn_ann_recall_stale_total", "counter", "Sampled searches whose content had changed since.",
        get(&m->recall_stale));
    for (unsigned i = 0; i < SEEN_N; i++) {
        const struct seen_kind *k = &seen_kinds[i];
        char name[64];
        uint64_t below = 0;
        snprintf(name, sizeof name, "cairn_seen_%s", k->name);
        head(out, name, "histogram", k->help);
        for (unsigned b = 0; b <= k->n; b++) {
            below += get(&m->seen[i][b]);
            if (b < k->n)
                cairn_buf_printf(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, k->edge[b], below);
        }
        cairn_buf_printf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_count %" PRIu64 "\n", name, below, name,
                         below);
    }
    return out->failed ? CAIRN_ENOMEM : CAIRN_OK;
}
