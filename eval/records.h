/* eval/records.h - values of units (queries, questions) under names ("fused ndcg@10"): written as JSON lines
 * {"unit", "values": {NAME: number}, ...}, read again, and compared unit by unit. One thread. */
#ifndef CAIRN_EVAL_RECORDS_H
#define CAIRN_EVAL_RECORDS_H

#include "run.h"

#define RECORDS_MAX 20000000u

struct record {
    char *unit, *name;
    double value;
};
struct records { /* zeroed: empty */
    struct record *rows;
    size_t n, cap;
};
CAIRN_MUST_USE enum cairn_err records_add(struct records *r, const char *unit, const char *name, double value,
                                          struct cairn_why *why);
/* Orders by name, then unit; a unit twice under one name is CAIRN_EINVAL. */
CAIRN_MUST_USE enum cairn_err records_finish(struct records *r, struct cairn_why *why);
void records_release(struct records *r);

/* {NAME: [low, high]} of each name, empty without draws; after finish. OWNED. */
CAIRN_MUST_USE enum cairn_err records_intervals(const struct records *r, size_t draws, uint64_t seed,
                                                json_t **out, struct cairn_why *why);
/* Compares with o->baseline when one is named, prints it unless o->json, and puts it into result under
 * "baseline". *code becomes FAILED when --fail-on-drop found a drop. */
CAIRN_MUST_USE enum cairn_err records_against(const struct options *o, const struct records *now,
                                              json_t *result, int *code, struct cairn_why *why);

#endif
