/* Any text against any source: the first byte cuts the input into source, question and checked text. */
#include <cairn/generator.h>

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3 || size > 16384)
        return 0;
    const char *p = (const char *)data + 2;
    size_t n = size - 2, a = n * data[0] / 256, b = a + (n - a) * data[1] / 1024;
    struct ground_source s[2] = {{.text = {p, a / 2}}, {.text = {p + a / 2, a - a / 2}}};
    struct ground_opts o = {
        .question = {p + a, b - a}
    };
    struct grounding *g = NULL;
    if (grounding_open(&g, s, 2, &o, NULL) != CAIRN_OK)
        return 0;
    struct ground_sentence *list = NULL;
    size_t count = 0;
    float score = 0;
    if (grounding_check_text(g, (struct cairn_str){p + b, n - b}, &list, &count, &score, NULL) == CAIRN_OK) {
        for (size_t i = 0; i < count; i++) {
            if (list[i].start >= list[i].end || list[i].end > n - b ||
                !(list[i].score >= 0 && list[i].score <= 1))
                abort();
            for (size_t k = 0; k < list[i].n_evidence; k++)
                if (list[i].evidence[k].source > 1 || list[i].evidence[k].start >= list[i].evidence[k].end ||
                    list[i].evidence[k].end > s[list[i].evidence[k].source].text.len)
                    abort();
            for (size_t k = 0; k < list[i].n_flags; k++)
                if (list[i].flags[k].start > list[i].flags[k].end || list[i].flags[k].end > n - b)
                    abort();
        }
        if (!(score >= 0 && score <= 1))
            abort();
    }
    cairn_free(list);
    grounding_close(g);
    return 0;
}
