/* hash.c - BLAKE2b-256 and sha256 by libsodium, XXH3 by xxHash, hex. */
#include <cairn/base.h>

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

struct cairn_hash cairn_hash_bytes(const void *bytes, size_t len)
{
    struct cairn_hash h;
    CAIRN_CHECK(crypto_generichash(h.b, sizeof(h.b), bytes, len, NULL, 0) == 0);
    return h;
}

uint64_t cairn_xxh64(const void *bytes, size_t len, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, len, seed);
}

void cairn_hex(char *out, const uint8_t *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * len] = '\0';
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool cairn_unhex(uint8_t *out, size_t len, const char *hex, size_t hex_len)
{
    if (hex_len != 2 * len)
        return false;
    for (size_t i = 0; i < len; i++) {
        int hi = nibble(hex[2 * i]), lo = nibble(hex[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return false;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return true;
}

enum cairn_err cairn_sha256_file(uint8_t out[32], const char *path, cairn_progress_fn progress, void *ctx,
                                 struct cairn_why *why)
{
    enum { PIECE = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return cairn_fail_errno(why, errno, "%s", path);
    enum cairn_err err = CAIRN_OK;
    struct stat st;
    uint8_t *piece = cairn_malloc(PIECE);
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    if (!piece)
        err = cairn_fail(why, CAIRN_ENOMEM, "%s", path);
    else if (fstat(fd, &st) != 0)
        err = cairn_fail_errno(why, errno, "%s", path);
    for (uint64_t done = 0; !err;) {
        ssize_t n = read(fd, piece, PIECE);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err = cairn_fail_errno(why, errno, "%s", path);
        if (n <= 0)
            break;
        crypto_hash_sha256_update(&state, piece, (size_t)n);
        done += (uint64_t)n;
        if (progress)
            progress(ctx, "sha256", done, (uint64_t)st.st_size);
    }
    crypto_hash_sha256_final(&state, out);
    cairn_free(piece);
    close(fd);
    return err;
}
