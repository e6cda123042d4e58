/* loop.c - a fuzz entry run at the speed of a release build, without libFuzzer: inputs of a corpus, changed
 * at random from a seed and thrown at the entry, which aborts when a promise is broken. Coverage steers
 * nothing; it is for the many inputs that a sanitizer's build has no time for.
 *
 *     fuzz_grounding_loop RUNS SEED FILE... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_MAX 400u
#define FILES_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t state;
static size_t draw(size_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (size_t)(state % n);
}

struct input {
    uint8_t bytes[INPUT_MAX];
    size_t n;
};
static struct input corpus[FILES_MAX];
static size_t n_corpus;

static void change(struct input *x)
{
    static const char *const pieces[] = {
        "not ", "12%",  "[1]",  "\xE2\x80\x99",     "3rd ", "1,000", "$5 ",  "March 3, 2020",
        "\"",   "\n- ", "all ", "\xF0\x9F\x98\x80", "...",  "e.g. ", "must "};
    const struct input *other = &corpus[draw(n_corpus)];
    size_t at = draw(x->n), len = 1 + draw(x->n - at);
    switch (draw(6)) {
    case 0:
        x->bytes[at] = (uint8_t)draw(256);
        break;
    case 1:
        x->bytes[at] ^= (uint8_t)(1u << draw(8));
        break;
    case 2: { /* a piece of another input */
        size_t from = draw(other->n);
        len = len < other->n - from ? len : other->n - from;
        memcpy(x->bytes + at, other->bytes + from, len);
        break;
    }
    case 3: /* a piece gone */
        if (x->n - len >= 8) {
            memmove(x->bytes + at, x->bytes + at + len, x->n - at - len);
            x->n -= len;
        }
        break;
    case 4: {
        const char *p = pieces[draw(sizeof pieces / sizeof *pieces)];
        if (at + strlen(p) <= x->n)
            memcpy(x->bytes + at, p, strlen(p));
        break;
    }
    default: /* the cuts */
        x->bytes[draw(2)] = (uint8_t)draw(256);
        break;
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: %s RUNS SEED FILE...\n", argv[0]);
        return 2;
    }
    uint64_t runs = strtoull(argv[1], NULL, 10);
    state = strtoull(argv[2], NULL, 10) * 0x9E3779B97F4A7C15ULL + 88172645463325252ULL;
    for (int i = 3; i < argc && n_corpus < FILES_MAX; i++) {
        struct input *x = &corpus[n_corpus];
        FILE *f = fopen(argv[i], "rb");
        if (!f) {
            perror(argv[i]);
            return 2;
        }
        x->n = fread(x->bytes, 1, INPUT_MAX, f);
        n_corpus += x->n >= 8;
        fclose(f);
    }
    if (!n_corpus) {
        fprintf(stderr, "%s: no file of at least 8 bytes\n", argv[0]);
        return 2;
    }
    for (uint64_t r = 0; r < runs; r++) {
        struct input x = corpus[draw(n_corpus)];
        for (size_t k = 1 + draw(6); k > 0; k--)
            change(&x);
        LLVMFuzzerTestOneInput(x.bytes, x.n);
    }
    printf("%llu inputs, every promise kept\n", (unsigned long long)runs);
    return 0;
}
