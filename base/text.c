/* text.c - UTF-8 by RFC 3629. */
#include <cairn/base.h>

size_t cairn_utf8_next(const char *s, size_t len, uint32_t *cp)
{
    const uint8_t *p = (const uint8_t *)s;
    if (len == 0)
        return 0;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    size_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || len < n)
        return 0;
    uint32_t c = p[0] & (0xFFu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3Fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[n] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        return 0;
    *cp = c;
    return n;
}

size_t cairn_utf8_invalid_at(const char *s, size_t len)
{
    size_t i = 0;
    while (i < len) {
        if (i + 8 <= len) { /* eight ASCII bytes at once */
            uint64_t w;
            __builtin_memcpy(&w, s + i, 8);
            if (!(w & 0x8080808080808080ULL)) {
                i += 8;
                continue;
            }
        }
        uint32_t cp;
        size_t n = cairn_utf8_next(s + i, len - i, &cp);
        if (n == 0)
            return i;
        i += n;
    }
    return len;
}

size_t cairn_utf8_floor(const char *s, size_t len)
{
    size_t i = len;
    for (size_t back = 0; i > 0 && back < 4; back++) {
        uint8_t c = (uint8_t)s[i - 1];
        if (c < 0x80)
            return back == 0 ? len : i; /* stray continuation bytes are cut */
        if (c >= 0xC0) {
            size_t n = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
            return len - (i - 1) >= n ? len : i - 1;
        }
        i--;
    }
    return len;
}
