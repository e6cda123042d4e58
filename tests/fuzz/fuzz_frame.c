/* One message as the server takes it: scan, envelope, decode, JSON and back. No crash; what was scanned
 * decodes; JSON of valid text parses again. */
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct wire_limits l = {65536, 18, 1024, 4096, 4096};
    struct wire_scan s;
    size_t used = 0;
    wire_scan_init(&s, &l);
    if (wire_scan_feed(&s, bytes, len, &used, NULL) != 1)
        return 0;
    struct wire_envelope e;
    struct cairn_why why;
    if (wire_envelope(&e, bytes, used, &why) && e.kind != WIRE_RESPONSE && e.params_ok) {
        struct wire_reader v;
        uint64_t n;
        (void)(wire_map_find(&e.params, "deadline_ms", &v) && wire_uint(&v, &n));
        if (e.params.at < e.params.len) {
            msgpack_unpacked u;
            size_t off = 0;
            msgpack_unpacked_init(&u);
            if (msgpack_unpack_next(&u, (const char *)e.params.p + e.params.at, e.params.len - e.params.at,
                                    &off) != MSGPACK_UNPACK_SUCCESS)
                __builtin_trap();
            msgpack_unpacked_destroy(&u);
        }
    }
    struct cairn_buf json, back;
    cairn_buf_init(&json, 1u << 22);
    cairn_buf_init(&back, 1u << 22);
    if (api_msgpack_to_json(bytes, used, used & 1, &json, &why) == CAIRN_OK) {
        enum cairn_err err = api_json_to_msgpack(json.bytes, json.len, &back, &why);
        if (err &&
            err != CAIRN_EINVAL) /* duplicate keys and integers past int64 are refused on the way back */
            __builtin_trap();
    }
    cairn_buf_release(&json);
    cairn_buf_release(&back);
    return 0;
}
