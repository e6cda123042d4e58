/* api/conf.c - the limits of this room, by name. */
#include "internal.h"

#define K 1024.0
#define M (1024.0 * 1024.0)

const struct cairn_conf api_conf[] = {
    {"api.message_bytes_max",        16 * M,  1 * K,  1024 * M,  false, "bytes of one message of a known caller"                     },
    {"api.message_bytes_max_noauth", 16 * K,  256,    1 * M,     false,
     "bytes of one message before a key was shown"                                                                                   },
    {"api.depth_max",                16,      4,      31,        false, "nesting of a message of a known caller"                     },
    {"api.depth_max_noauth",         4,       3,      31,        false, "nesting of a message before a key was shown"                },
    {"api.nodes_max",                65536,   64,     16.0 * M,  false, "values in one message of a known caller"                    },
    {"api.nodes_max_noauth",         64,      16,     65536,     false, "values in one message before a key was shown"               },
    {"api.str_bytes_max",            4 * M,   1 * K,  1024 * M,  false, "bytes of one string or bin of a known caller"               },
    {"api.str_bytes_max_noauth",     1 * K,   128,    1 * M,     false,
     "bytes of one string or bin before a key was shown"                                                                             },
    {"api.partial_bytes_max",        64 * M,  1 * M,  4096 * M,  false, "bytes of all half-received messages together"               },
    {"api.inflight_max",             64,      1,      4096,      false, "requests in flight per connection"                          },
    {"api.connections_max",          4096,    1,      100000,    false, "connections"                                                },
    {"api.workers",                  4,       1,      64,        false, "threads that run requests"                                  },
    {"api.queue_max",                256,     1,      65536,     false, "requests that wait for a worker"                            },
    {"api.queue_bytes_max",          256 * M, 1 * M,  16384 * M, false, "bytes of requests that wait for a worker"                   },
    {"api.result_bytes_max",         64 * M,  64 * K, 1024 * M,  false, "bytes of one result"                                        },
    {"api.deadline_ms",              120000,  10,     86400000,  false, "time for a request that names none"                         },
    {"api.deadline_ms_max",          3600000, 10,     86400000,  false,
     "longest time a request may ask for; the default of doc.put and doc.sync"                                                       },
    {"api.idle_ms",                  600000,  100,    86400000,  false,
     "a connection without traffic or work is closed after this"                                                                     },
    {"api.hello_ms",                 10000,   100,    600000,    false,
     "a connection must show a key within this, where keys are needed"                                                               },
    {"api.assembly_ms",              10000,   50,     600000,    false,
     "time to complete one message, and then a second more per KiB"                                                                  },
    {"api.output_bytes_high",        1 * M,   4 * K,  1024 * M,  false,
     "unsent bytes at which events wait and reading stops"                                                                           },
    {"api.output_stall_ms",          30000,   100,    600000,    false,
     "a caller that reads nothing for this long is dropped"                                                                          },
    {"api.drain_ms",                 30000,   0,      600000,    false,
     "after SIGTERM: time for running requests before they are cancelled"                                                            },
    {"api.http_connections_max",     64,      1,      1000,      false, "connections of the HTTP port"                               },
    {"api.put_vectors_max",          4096,    1,      65536,     false, "vectors in one vector.put"                                  },
    {"api.put_documents_max",        1024,    1,      65536,     false, "documents in one doc.put"                                   },
    {"api.sync_batch_documents",     64,      1,      4096,      false, "documents in one commit of doc.sync"                        },
    {"api.sync_batch_bytes",         4 * M,   4 * K,  256 * M,   false, "text bytes in one commit of doc.sync"                       },
    {"api.merge",                    1,       0,      1,         false,
     "merge new vectors into segments beside the requests (serve) and at the end of ingest"                                          },
    {"api.merge_rest_pct",           30,      0,      90,        false, "share of a merge's time spent resting"                      },
    {"api.recall_sample_pct",        1,       0,      100,       false,
     "share of vector searches run again exactly when the server is idle, to measure recall"                                         },
    {"api.recall_queue_max",         64,      1,      4096,      false, "searches that wait to be run again; more are not measured"  },
    {"api.keep_answers",             1,       0,      1,         false,
     "store a record of each answer: generation, prompt hash, model, seed, verdicts"                                                 },
    {"api.reader",                   1,       0,      1,         false, "use the span reader that lies beside the pair model; 0 = no"},
    {"api.answers_max",              10000,   1,      1e9,       false, "answer records kept; the oldest go first"                   },
};
const size_t api_conf_len = sizeof api_conf / sizeof api_conf[0];

enum cairn_err api_config_new(struct cairn_config **out, struct cairn_why *why)
{
    *out = NULL;
    struct cairn_config *c = cairn_config_new();
    if (!c)
        return cairn_fail(why, CAIRN_ENOMEM, "configuration");
    enum cairn_err err = cairn_config_add_table(c, index_conf, index_conf_len, why);
    if (!err)
        err = cairn_config_add_table(c, loaders_conf, loaders_conf_len, why);
    if (!err)
        err = cairn_config_add_table(c, retriever_conf, retriever_conf_len, why);
    if (!err)
        err = cairn_config_add_table(c, generator_conf, generator_conf_len, why);
    if (!err)
        err = cairn_config_add_table(c, api_conf, api_conf_len, why);
    if (err) {
        cairn_config_free(c);
        return err;
    }
    *out = c;
    return CAIRN_OK;
}
