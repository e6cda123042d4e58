/* fuzz_text.c - any bytes through the text loader: an error in words, or a document that keeps every promise.
 */
#include "../unit/loaders_promise.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct cairn_why why = {{0}};
    struct loader_document *d;
    enum cairn_err err = loader_parse(&d, "fuzz", bytes, len, LOADER_TEXT, NULL, &why);
    CAIRN_CHECK(err ? !d && why.text[0] : !promise_broken(d, 2000));
    loader_document_free(d);
    return 0;
}
