/* The pre-scan on any bytes: no crash, and a law per input. Fed whole and fed in pieces it says the same;
 * what it accepts has the length msgpack-c finds, where msgpack-c is asked (one input in 64: it is far
 * slower). */
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len < 2)
        return 0;
    uint8_t mode = bytes[0], step = (uint8_t)(1 + bytes[1] % 7);
    bytes += 2;
    len -= 2;
    struct wire_limits l = {65536, mode & 31, 1024, 4096, 4096};
    struct wire_scan whole, pieces;
    size_t used = 0, total = 0;
    int rc, rc2 = 0;
    wire_scan_init(&whole, &l);
    rc = wire_scan_feed(&whole, bytes, len, &used, NULL);
    wire_scan_init(&pieces, &l);
    while (total < len && rc2 == 0) {
        size_t n = len - total < step ? len - total : step, u = 0;
        rc2 = wire_scan_feed(&pieces, bytes + total, n, &u, NULL);
        total += u;
    }
    if (rc != rc2 || used != total)
        __builtin_trap();
    if (rc == 1) {
        struct wire_reader r = {bytes, used, 0};
        if (!wire_skip(&r) || r.at != used)
            __builtin_trap();
    }
    if (rc == 1 && mode >> 6 == 3) {
        msgpack_unpacked u;
        size_t off = 0;
        msgpack_unpacked_init(&u);
        if (msgpack_unpack_next(&u, (const char *)bytes, used, &off) != MSGPACK_UNPACK_SUCCESS || off != used)
            __builtin_trap();
        msgpack_unpacked_destroy(&u);
    }
    return 0;
}
