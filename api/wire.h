/* api/wire.h - reading and writing msgpack bytes, private to the room.
 * The reader walks bytes that wire_scan has accepted, without decoding into a tree; it still checks every
 * bound itself, so that a mistake elsewhere is an error and not an overrun. */
#ifndef CAIRN_API_WIRE_H
#define CAIRN_API_WIRE_H

#include <cairn/api.h>
#include <msgpack.h>
#include <string.h>
#include <sys/socket.h>

#define WIRE_DEPTH_MAX 31u /* one less than msgpack-c's own stack */
#define WIRE_METHOD_MAX 64u

struct wire_reader {
    const uint8_t *p;
    size_t len, at;
};
enum wire_type {
    WIRE_NONE,
    WIRE_NIL,
    WIRE_BOOL,
    WIRE_INT,
    WIRE_FLOAT,
    WIRE_STR,
    WIRE_BIN,
    WIRE_ARRAY,
    WIRE_MAP
};
enum wire_type wire_peek(const struct wire_reader *r);
bool wire_uint(struct wire_reader *r, uint64_t *v); /* non-negative integers of any width */
bool wire_int(struct wire_reader *r, int64_t *v, uint64_t *u, bool *negative);
bool wire_float(struct wire_reader *r, double *v, bool *single);
bool wire_bool(struct wire_reader *r, bool *v);
bool wire_nil(struct wire_reader *r);
bool wire_str(struct wire_reader *r, struct cairn_str *s);
bool wire_bin(struct wire_reader *r, struct cairn_str *s);
bool wire_array(struct wire_reader *r, uint64_t *n);
bool wire_map(struct wire_reader *r, uint64_t *n);
bool wire_skip(struct wire_reader *r); /* one whole value */
/* Value of a key in the map at r (r is not moved); false: absent or not a map. */
bool wire_map_find(const struct wire_reader *r, const char *key, struct wire_reader *value);
static inline bool wire_str_is(struct cairn_str s, const char *lit)
{
    return s.len == strlen(lit) && memcmp(s.p, lit, s.len) == 0;
}

/* A message of msgpack-RPC, taken apart without decoding its params. */
enum wire_kind { WIRE_REQUEST = 0, WIRE_RESPONSE = 1, WIRE_NOTIFICATION = 2 };
struct wire_envelope {
    enum wire_kind kind;
    uint32_t msgid; /* requests and responses */
    struct cairn_str
        method;     /* requests and notifications: at most WIRE_METHOD_MAX bytes, else the empty string */
    bool params_ok; /* params is an array of at most one value */
    struct wire_reader params; /* at that value; len == at: there is none */
};
/* False: not msgpack-RPC, the connection must be closed; why says what is wrong. */
bool wire_envelope(struct wire_envelope *out, const uint8_t *bytes, size_t len, struct cairn_why *why);

/* Writer: msgpack-c's packer over a cairn_buf; check buf.failed once at the end. */
struct pk {
    msgpack_packer p;
    struct cairn_buf *b;
};
void pk_init(struct pk *k, struct cairn_buf *b);
void pk_map(struct pk *k, size_t n);
void pk_array(struct pk *k, size_t n);
void pk_str(struct pk *k, struct cairn_str s);
void pk_cstr(struct pk *k, const char *s); /* NULL: nil */
void pk_bin(struct pk *k, const void *p, size_t len);
void pk_uint(struct pk *k, uint64_t v);
void pk_int(struct pk *k, int64_t v);
void pk_num(struct pk *k, double v); /* NaN and infinity: nil; otherwise float 64 */
void pk_bool(struct pk *k, bool v);
void pk_nil(struct pk *k);
void pk_kstr(struct pk *k, const char *key, struct cairn_str s);
void pk_kcstr(struct pk *k, const char *key, const char *s);
void pk_kuint(struct pk *k, const char *key, uint64_t v);
void pk_kint(struct pk *k, const char *key, int64_t v);
void pk_knum(struct pk *k, const char *key, double v);
void pk_kbool(struct pk *k, const char *key, bool v);
void pk_khash(struct pk *k, const char *key, const struct cairn_hash *h);

/* The error value of a response: "CODE: message", or {code, message, data} after opt-in. */
void wire_pack_error(struct pk *k, bool as_map, enum cairn_err err, const char *text);
enum cairn_err wire_err_by_name(struct cairn_str name); /* unknown: CAIRN_EIO */

/* Addresses: "HOST:PORT", "[V6]:PORT", "unix:PATH". */
struct wire_addr {
    bool is_unix, loopback;
    struct sockaddr_storage sa;
    socklen_t sa_len;
};
CAIRN_MUST_USE enum cairn_err wire_addr_parse(struct wire_addr *out, const char *text, struct cairn_why *why);
/* OWNED text of a bound socket. */
char *wire_addr_text(const struct wire_addr *a, int fd);

#endif
