/* trees.h - the trained combiner: small trees over the features of grounding_internal.h, in whole numbers, so
 * that one file gives the same bits on every machine. trees.c has the file's format. Threads: read-only once
 * made, shared by any number. */
#ifndef CAIRN_GENERATOR_TREES_H
#define CAIRN_GENERATOR_TREES_H

#include "grounding_internal.h"

#define TREES_MAX 512u
#define TREE_DEPTH 3u
#define TREE_SPLITS ((1u << TREE_DEPTH) - 1)
#define TREE_LEAVES (1u << TREE_DEPTH)
#define TREE_CARD_MAX 8192u

/* Splits as a heap: the children of i are 2i+1 (feature <= bin) and 2i+2. */
struct ground_tree {
    uint8_t feature[TREE_SPLITS], bin[TREE_SPLITS];
    int32_t leaf[TREE_LEAVES]; /* log-odds of "unsupported", in 1/65536 */
};
struct ground_trees {
    int32_t base;
    size_t n;
    struct ground_tree trees[TREES_MAX];
    char card[TREE_CARD_MAX]; /* lines, for a person */
};

uint8_t trees_bin(float f); /* 0..1 in 255 steps; outside and NaN: the nearest end, 0 */
int32_t tree_leaf(const struct ground_tree *t, const uint8_t x[GF_N]);
int32_t trees_margin(const struct ground_trees *t, const uint8_t x[GF_N]);
/* 65536 / (1 + exp(-margin)), whole numbers only. */
int32_t trees_logistic(int32_t margin);
float trees_support(const struct ground_trees *t, const float f[GF_N]);

/* OWNED text of the file. */
CAIRN_MUST_USE enum cairn_err trees_write(const struct ground_trees *t, struct cairn_buf *out,
                                          struct cairn_why *why);
CAIRN_MUST_USE enum cairn_err trees_parse(struct ground_trees **out, const char *text, size_t len,
                                          struct cairn_why *why);

#endif
