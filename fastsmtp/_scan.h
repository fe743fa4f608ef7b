/* Octet scanners of the framing parser: pointer and length in, index or facts out.
 *
 * Nothing here knows Python, allocates, or reads outside p[0:n]. Message content goes by steps of
 * 64 octets: each becomes bit masks (bit i = octet i), and the line rules of RFC 5321 §2.3.8 and
 * §4.5.2 become shifts of those masks. SSE2 is part of x86-64 and NEON of aarch64, so neither needs
 * a check at run time; elsewhere, or with FASTSMTP_PORTABLE, 64-bit arithmetic does the same.
 */
#ifndef FASTSMTP_SCAN_H
#define FASTSMTP_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(FASTSMTP_PORTABLE) && defined(__SSE2__)
#define FS_SSE2 1
#include <emmintrin.h>
#elif !defined(FASTSMTP_PORTABLE) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define FS_NEON 1
#include <arm_neon.h>
#endif

#define FS_INLINE inline __attribute__((always_inline))
#define FS_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

#ifdef FASTSMTP_DEBUG
#include <stdio.h>
#include <stdlib.h>
#define FS_CHECK(condition)                                                                  \
    ((condition) ? (void)0                                                                   \
                 : (fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #condition),  \
                    abort()))
#else
#define FS_CHECK(condition) ((void)0)
#endif

#define FS_STEP 64
#define FS_VECTOR 16
#define FS_SLACK FS_VECTOR /* copies go by whole vectors: so many octets behind one are writable */

/* ---- verbs (RFC 5321 §4.1.1 and extensions) -------------------------------------------------- */

enum {
    VERB_UNKNOWN, VERB_HELO, VERB_EHLO, VERB_LHLO, VERB_MAIL, VERB_RCPT, VERB_DATA, VERB_BDAT,
    VERB_RSET, VERB_NOOP, VERB_VRFY, VERB_HELP, VERB_QUIT, VERB_AUTH, VERB_STARTTLS, VERB_XCLIENT,
    VERB_XFORWARD, VERB_EXPN, VERB_SEND, VERB_SOML, VERB_SAML, VERB_TURN, VERB_ETRN, VERB_PROXY,
    VERB_HTTP, VERB_AUTH_LINE
};

#define FS_AT(letter, index) ((uint64_t)(unsigned char)(letter) << (8 * (index)))
#define FS_3(a, b, c) (FS_AT(a, 0) | FS_AT(b, 1) | FS_AT(c, 2))
#define FS_4(a, b, c, d) (FS_3(a, b, c) | FS_AT(d, 3))
#define FS_5(a, b, c, d, e) (FS_4(a, b, c, d) | FS_AT(e, 4))
#define FS_6(a, b, c, d, e, f) (FS_5(a, b, c, d, e) | FS_AT(f, 5))
#define FS_7(a, b, c, d, e, f, g) (FS_6(a, b, c, d, e, f) | FS_AT(g, 6))
#define FS_8(a, b, c, d, e, f, g, h) (FS_7(a, b, c, d, e, f, g) | FS_AT(h, 7))

/* The verb p[0:n] as a number. The octets are packed while they are upper-cased, so the lookup is
 * one switch. Control octets must have been refused: NUL would look like a shorter verb's end. */
static inline int fs_verb(const unsigned char *p, ptrdiff_t n)
{
    uint64_t packed = 0;
    if (n < 3 || n > 8)
        return VERB_UNKNOWN;
    for (ptrdiff_t i = 0; i < n; i++) {
        unsigned octet = p[i];
        packed |= (uint64_t)(octet - (octet - 'a' < 26u ? 32u : 0u)) << (8 * i);
    }
    switch (packed) {
    case FS_4('H', 'E', 'L', 'O'): return VERB_HELO;
    case FS_4('E', 'H', 'L', 'O'): return VERB_EHLO;
    case FS_4('L', 'H', 'L', 'O'): return VERB_LHLO;
    case FS_4('M', 'A', 'I', 'L'): return VERB_MAIL;
    case FS_4('R', 'C', 'P', 'T'): return VERB_RCPT;
    case FS_4('D', 'A', 'T', 'A'): return VERB_DATA;
    case FS_4('B', 'D', 'A', 'T'): return VERB_BDAT;
    case FS_4('R', 'S', 'E', 'T'): return VERB_RSET;
    case FS_4('N', 'O', 'O', 'P'): return VERB_NOOP;
    case FS_4('V', 'R', 'F', 'Y'): return VERB_VRFY;
    case FS_4('H', 'E', 'L', 'P'): return VERB_HELP;
    case FS_4('Q', 'U', 'I', 'T'): return VERB_QUIT;
    case FS_4('A', 'U', 'T', 'H'): return VERB_AUTH;
    case FS_8('S', 'T', 'A', 'R', 'T', 'T', 'L', 'S'): return VERB_STARTTLS;
    case FS_7('X', 'C', 'L', 'I', 'E', 'N', 'T'): return VERB_XCLIENT;
    case FS_8('X', 'F', 'O', 'R', 'W', 'A', 'R', 'D'): return VERB_XFORWARD;
    case FS_4('E', 'X', 'P', 'N'): return VERB_EXPN;
    case FS_4('S', 'E', 'N', 'D'): return VERB_SEND;
    case FS_4('S', 'O', 'M', 'L'): return VERB_SOML;
    case FS_4('S', 'A', 'M', 'L'): return VERB_SAML;
    case FS_4('T', 'U', 'R', 'N'): return VERB_TURN;
    case FS_4('E', 'T', 'R', 'N'): return VERB_ETRN;
    case FS_5('P', 'R', 'O', 'X', 'Y'): return VERB_PROXY;
    case FS_3('G', 'E', 'T'):
    case FS_4('H', 'E', 'A', 'D'):
    case FS_4('P', 'O', 'S', 'T'):
    case FS_3('P', 'U', 'T'):
    case FS_5('P', 'A', 'T', 'C', 'H'):
    case FS_6('D', 'E', 'L', 'E', 'T', 'E'):
    case FS_5('T', 'R', 'A', 'C', 'E'):
    case FS_7('C', 'O', 'N', 'N', 'E', 'C', 'T'):
    case FS_7('O', 'P', 'T', 'I', 'O', 'N', 'S'):
    case FS_3('P', 'R', 'I'): return VERB_HTTP;
    default: return VERB_UNKNOWN;
    }
}

/* ---- command lines -------------------------------------------------------------------------- */

/* Index of the first LF in p[0:n], or -1. */
static inline ptrdiff_t scan_lf(const unsigned char *p, ptrdiff_t n)
{
    const unsigned char *lf = n > 0 ? (const unsigned char *)memchr(p, '\n', (size_t)n) : NULL;
    return lf == NULL ? -1 : lf - p;
}

/* How many octets of p[0:n] stand before the first SP or TAB. */
static inline ptrdiff_t fs_word_length(const unsigned char *p, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    while (i < n && p[i] != ' ' && p[i] != '\t')
        i++;
    return i;
}

/* n without the SP and TAB that p[0:n] ends in. */
static inline ptrdiff_t fs_trim_blanks(const unsigned char *p, ptrdiff_t n)
{
    while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t'))
        n--;
    return n;
}

/* Index of the first octet 0x00-0x1F but TAB, or 0x7F, in p[0:n], or -1. */
static inline ptrdiff_t scan_control(const unsigned char *p, ptrdiff_t n)
{
    ptrdiff_t i = 0;
#ifdef FS_SSE2
    const __m128i highest = _mm_set1_epi8(0x1f), del = _mm_set1_epi8(0x7f);
    const __m128i tab = _mm_set1_epi8('\t');
    for (; n - i >= 16; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(p + i));
        __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(v, highest), v);
        low = _mm_andnot_si128(_mm_cmpeq_epi8(v, tab), low);
        int hits = _mm_movemask_epi8(_mm_or_si128(low, _mm_cmpeq_epi8(v, del)));
        if (FS_UNLIKELY(hits))
            return i + __builtin_ctz((unsigned)hits);
    }
#endif
    for (; i < n; i++)
        if (FS_UNLIKELY((p[i] < 0x20 && p[i] != '\t') || p[i] == 0x7f))
            return i;
    return -1;
}

/* Whether p[0:n] begins `AUTH␠` in any case: only such a line may be longer (RFC 4954 §4). */
static inline int fs_is_auth_line(const unsigned char *p, ptrdiff_t n)
{
    return n >= 5 && (p[4] == ' ' || p[4] == '\t') && fs_verb(p, 4) == VERB_AUTH;
}

/* ---- 64 octets as masks ---------------------------------------------------------------------- */

typedef struct {
    uint64_t cr, lf, dot;
} fs_masks;

/* What went by, gathered over many steps, looked at once: was there a NUL, an octet >= 0x80? */
#if defined(FS_SSE2)
typedef struct {
    __m128i high, least;
} fs_seen;

static FS_INLINE fs_seen fs_seen_nothing(void)
{
    fs_seen seen = {_mm_setzero_si128(), _mm_set1_epi8(-1)};
    return seen;
}

static FS_INLINE uint64_t fs_mask(__m128i a, __m128i b, __m128i c, __m128i d)
{
    uint64_t low = (unsigned)_mm_movemask_epi8(a) | (unsigned)_mm_movemask_epi8(b) << 16;
    uint64_t high = (unsigned)_mm_movemask_epi8(c) | (unsigned)_mm_movemask_epi8(d) << 16;
    return low | high << 32;
}

static FS_INLINE uint64_t fs_mask_of(char octet, __m128i a, __m128i b, __m128i c, __m128i d)
{
    const __m128i v = _mm_set1_epi8(octet);
    return fs_mask(_mm_cmpeq_epi8(a, v), _mm_cmpeq_epi8(b, v), _mm_cmpeq_epi8(c, v),
                   _mm_cmpeq_epi8(d, v));
}

static FS_INLINE fs_masks fs_look(const unsigned char *p, fs_seen *seen)
{
    const __m128i a = _mm_loadu_si128((const __m128i *)p);
    const __m128i b = _mm_loadu_si128((const __m128i *)(p + 16));
    const __m128i c = _mm_loadu_si128((const __m128i *)(p + 32));
    const __m128i d = _mm_loadu_si128((const __m128i *)(p + 48));
    fs_masks masks = {fs_mask_of('\r', a, b, c, d), fs_mask_of('\n', a, b, c, d),
                      fs_mask_of('.', a, b, c, d)};
    seen->high = _mm_or_si128(seen->high, _mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d)));
    seen->least = _mm_min_epu8(seen->least, _mm_min_epu8(_mm_min_epu8(a, b), _mm_min_epu8(c, d)));
    return masks;
}

static FS_INLINE int fs_seen_high(const fs_seen *seen)
{
    return _mm_movemask_epi8(seen->high) != 0;
}

static FS_INLINE int fs_seen_nul(const fs_seen *seen)
{
    return _mm_movemask_epi8(_mm_cmpeq_epi8(seen->least, _mm_setzero_si128())) != 0;
}
#elif defined(FS_NEON)
typedef struct {
    uint8x16_t high, least;
} fs_seen;

static FS_INLINE fs_seen fs_seen_nothing(void)
{
    fs_seen seen = {vdupq_n_u8(0), vdupq_n_u8(0xff)};
    return seen;
}

/* There is no movemask: each hit is given the weight of its bit, and neighbours are added up. */
static FS_INLINE uint64_t fs_mask_of(uint8_t octet, uint8x16_t a, uint8x16_t b, uint8x16_t c,
                                     uint8x16_t d)
{
    static const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t v = vdupq_n_u8(octet), weight = vld1q_u8(weights);
    a = vandq_u8(vceqq_u8(a, v), weight);
    b = vandq_u8(vceqq_u8(b, v), weight);
    c = vandq_u8(vceqq_u8(c, v), weight);
    d = vandq_u8(vceqq_u8(d, v), weight);
    a = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(a, a)), 0);
}

static FS_INLINE fs_masks fs_look(const unsigned char *p, fs_seen *seen)
{
    const uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16);
    const uint8x16_t c = vld1q_u8(p + 32), d = vld1q_u8(p + 48);
    fs_masks masks = {fs_mask_of('\r', a, b, c, d), fs_mask_of('\n', a, b, c, d),
                      fs_mask_of('.', a, b, c, d)};
    seen->high = vorrq_u8(seen->high, vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d)));
    seen->least = vminq_u8(seen->least, vminq_u8(vminq_u8(a, b), vminq_u8(c, d)));
    return masks;
}

static FS_INLINE int fs_seen_high(const fs_seen *seen) { return vmaxvq_u8(seen->high) >= 0x80; }

static FS_INLINE int fs_seen_nul(const fs_seen *seen) { return vminvq_u8(seen->least) == 0; }
#else
#define FS_ONES UINT64_C(0x0101010101010101)
#define FS_LOWS UINT64_C(0x7f7f7f7f7f7f7f7f)

typedef struct {
    uint64_t high, nul;
} fs_seen;

static FS_INLINE fs_seen fs_seen_nothing(void)
{
    fs_seen seen = {0, 0};
    return seen;
}

/* 0x80 in every octet of `word` that is zero, exactly. */
static FS_INLINE uint64_t fs_zeros(uint64_t word)
{
    return ~(((word & FS_LOWS) + FS_LOWS) | word | FS_LOWS);
}

/* Octet i of `word` is `octet` -> bit i; the product moves the eight marks side by side. */
static FS_INLINE uint64_t fs_mask_of(unsigned char octet, uint64_t word)
{
    return ((fs_zeros(word ^ FS_ONES * octet) >> 7) * UINT64_C(0x0102040810204080)) >> 56;
}

static FS_INLINE fs_masks fs_look(const unsigned char *p, fs_seen *seen)
{
    fs_masks masks = {0, 0, 0};
    for (int i = 0; i < FS_STEP; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        masks.cr |= fs_mask_of('\r', word) << i;
        masks.lf |= fs_mask_of('\n', word) << i;
        masks.dot |= fs_mask_of('.', word) << i;
        seen->high |= word & ~FS_LOWS;
        seen->nul |= fs_zeros(word);
    }
    return masks;
}

static FS_INLINE int fs_seen_high(const fs_seen *seen) { return seen->high != 0; }

static FS_INLINE int fs_seen_nul(const fs_seen *seen) { return seen->nul != 0; }
#endif

/* ---- message content ------------------------------------------------------------------------ */

/* Where the last octet left us. DOT, DOT_CR: the line so far is a (dropped) dot; that and a CR. */
enum { FS_BOL, FS_MID, FS_CR, FS_DOT, FS_DOT_CR };

/* How a scan stopped. */
enum { FS_ALL, FS_END, FS_EDIT };

/* One message; survives reads and chunks. */
typedef struct {
    int line_state;
    int transparent; /* DATA: leading dots go, a lone one is the end (RFC 5321 §4.5.2) */
    int normalize;   /* bare LF becomes CR LF, bare CR a space */
    int bare_newline, has_nul, has_8bit;
    int64_t line_octets;  /* of the present line, unstuffed; with a CR that may begin its end */
    int64_t longest_line; /* of the lines that CR LF has ended */
    int64_t body_octets;  /* known to be body: no dropped dots, no dot line, no CR of DOT_CR */
} fs_body;

/* The scan's own view while it runs: the line state as bits that shift into the next masks. */
typedef struct {
    uint64_t after_cr, after_crlf, after_dot, after_dot_cr, bare;
    int64_t longest_line;
    int64_t line_start; /* index in this read; below 0: the line began in an earlier one */
    ptrdiff_t dropped;  /* dots */
    fs_seen seen;
} fs_cursor;

/* One read of it. */
typedef struct {
    const unsigned char *octets;
    ptrdiff_t count;
    ptrdiff_t done;     /* consumed */
    ptrdiff_t copied;   /* up to here the octets are in `out`, or were dropped */
    unsigned char *out; /* NULL: as long as body = octets[0:kept], no copy is made */
    int discard;        /* facts only */
    ptrdiff_t kept;     /* behind a scan: up to here the octets are body, or were dropped */
    fs_cursor cursor;
} fs_read;

static FS_INLINE uint64_t fs_first(unsigned count)
{
    return count >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1;
}

static FS_INLINE int fs_popcount(uint64_t x)
{
    /* without SSE4.2 the builtin is a call into the compiler's library */
    x -= x >> 1 & UINT64_C(0x5555555555555555);
    x = (x & UINT64_C(0x3333333333333333)) + (x >> 2 & UINT64_C(0x3333333333333333));
    x = (x + (x >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (int)(x * UINT64_C(0x0101010101010101) >> 56);
}

/* Every set bit grows into `width` set bits, upwards. */
static FS_INLINE uint64_t fs_smear(uint64_t bits, unsigned width)
{
    unsigned have = 1;
    for (; have * 2 <= width; have *= 2)
        bits |= bits << have;
    return bits | bits << (width - have);
}

/* Take the line ends of one step (`ends`: the LFs of CR LF, at least one) into longest_line. */
static FS_INLINE void fs_measure_lines(fs_cursor *cursor, uint64_t ends, uint64_t dots,
                                       ptrdiff_t base)
{
    int64_t length = base + __builtin_ctzll(ends) - 1 - cursor->line_start;
    uint64_t inner = ends & (ends - 1);
    int last = 63 - __builtin_clzll(ends);
    if (length > cursor->longest_line)
        cursor->longest_line = length;
    /* A line inside one step has at most 61 octets, so mostly a longer one was seen before. If not,
     * each start is smeared over as many octets as the longest line has: a CR beyond is further. */
    if (inner != 0 && cursor->longest_line < 61) {
        uint64_t starts = ((ends << 1) & ~dots) | (ends << 1 & dots) << 1, crs = inner >> 1;
        if (crs & ~fs_smear(starts, (unsigned)cursor->longest_line + 1)) {
            for (; crs != 0; crs &= crs - 1) {
                int cr = __builtin_ctzll(crs);
                length = cr - (63 - __builtin_clzll(starts & fs_first((unsigned)cr + 1)));
                if (length > cursor->longest_line)
                    cursor->longest_line = length;
            }
        }
    }
    cursor->line_start = base + last + 1 + (int64_t)(dots >> last >> 1 & 1);
}

/* One vector from `from` to `out`; if `fix`, bare CRs as spaces, and then from[16] is read too. */
static FS_INLINE void fs_copy_vector(unsigned char *out, const unsigned char *from, int fix)
{
#ifdef FS_SSE2
    __m128i v = _mm_loadu_si128((const __m128i *)from);
    if (fix) {
        __m128i next = _mm_loadu_si128((const __m128i *)(from + 1));
        __m128i bare = _mm_andnot_si128(_mm_cmpeq_epi8(next, _mm_set1_epi8('\n')),
                                        _mm_cmpeq_epi8(v, _mm_set1_epi8('\r')));
        v = _mm_xor_si128(v, _mm_and_si128(bare, _mm_set1_epi8('\r' ^ ' ')));
    }
    _mm_storeu_si128((__m128i *)out, v);
#else
    if (!fix) {
        memcpy(out, from, FS_VECTOR);
        return;
    }
    for (int i = 0; i < FS_VECTOR; i++)
        out[i] = from[i] == '\r' && from[i + 1] != '\n' ? ' ' : from[i];
#endif
}

/* from[0:count] to `out`. Reads below `limit`, writes whole vectors. With `fix` no CR of these is
 * the last octet before `limit`: whether that one is bare is not known yet. */
static FS_INLINE unsigned char *fs_copy(unsigned char *out, const unsigned char *from,
                                        ptrdiff_t count, const unsigned char *limit, int fix)
{
    ptrdiff_t i = 0;
    FS_CHECK(count >= 0 && from + count <= limit);
    if (!fix && count > 4 * FS_VECTOR) {
        memcpy(out, from, (size_t)count);
        return out + count;
    }
    for (; i < count && limit - from - i > FS_VECTOR; i += FS_VECTOR)
        fs_copy_vector(out + i, from + i, fix);
    for (; i < count; i++)
        out[i] = fix && from[i] == '\r' && from[i + 1] != '\n' ? ' ' : from[i];
    return out + count;
}

/* Bring `out` up to octets[0:end]. */
static FS_INLINE void fs_flush(fs_read *read, ptrdiff_t end, int fix)
{
    FS_CHECK(read->copied <= end && end <= read->count);
    read->out = fs_copy(read->out, read->octets + read->copied, end - read->copied,
                        read->octets + read->count, fix);
    read->copied = end;
}

/* Edit one step: octets of `dots` are dropped, those of `lfs` get a CR put before them. `out` has
 * come up to the first of them, and comes up to the last. What stands between two may be one octet,
 * so it is copied as vectors, without a call (measured: bench/micro/test_parser.py). */
static FS_INLINE void fs_edit(fs_read *read, uint64_t dots, uint64_t lfs, ptrdiff_t base, int fix)
{
    const unsigned char *const octets = read->octets;
    const int whole = read->count - base > FS_STEP + FS_VECTOR;
    uint64_t edits = dots | lfs;
    unsigned char *out = read->out;
    ptrdiff_t copied = read->copied;
    for (;;) {
        if (lfs & edits & -edits)
            *out++ = '\r';
        else
            copied++;
        edits &= edits - 1;
        if (edits == 0)
            break;
        ptrdiff_t next = base + __builtin_ctzll(edits), count = next - copied;
        if (FS_UNLIKELY(!whole))
            fs_copy(out, octets + copied, count, octets + read->count, fix);
        else
            for (ptrdiff_t i = 0; i < count; i += FS_VECTOR)
                fs_copy_vector(out + i, octets + copied + i, fix);
        out += count;
        copied = next;
    }
    read->out = out;
    read->copied = copied;
}

/* Bring `out` up to the last edit of one step; `bare_crs`: there are bare CRs between the edits. */
static FS_INLINE void fs_edit_step(fs_read *read, uint64_t dots, uint64_t lfs, ptrdiff_t base,
                                   int normalize, int bare_crs)
{
    if ((dots | lfs) == 0)
        return; /* bare CRs only: they become spaces when they are copied */
    /* what stands before the first edit may reach back over many steps */
    fs_flush(read, base + __builtin_ctzll(dots | lfs), normalize);
    if (normalize && bare_crs)
        fs_edit(read, dots, lfs, base, 1);
    else if (lfs != 0)
        fs_edit(read, dots, lfs, base, 0);
    else
        fs_edit(read, dots, 0, base, 0);
}

/* One step of `valid` octets; `step` points at 64 readable ones, those behind `valid` being none of
 * CR, LF, dot, NUL, high. Returns FS_ALL; FS_EDIT: nothing taken, `out` is needed; FS_END: nothing
 * taken, *end is the index of the LF that ends the message. */
static FS_INLINE int fs_step(const fs_body *body, fs_read *read, fs_cursor *cursor,
                             const unsigned char *step, ptrdiff_t base, unsigned valid,
                             unsigned *end)
{
    fs_seen seen = cursor->seen;
    const fs_masks masks = fs_look(step, &seen);
    const uint64_t behind_cr = masks.cr << 1 | cursor->after_cr;
    const uint64_t ends = masks.lf & behind_cr;
    const uint64_t bare = (masks.lf ^ behind_cr) & fs_first(valid);
    const uint64_t dots = body->transparent ? masks.dot & (ends << 1 | cursor->after_crlf) : 0;
    const uint64_t dot_crs = masks.cr & (dots << 1 | cursor->after_dot);
    const uint64_t over = masks.lf & (dot_crs << 1 | cursor->after_dot_cr);
    if (FS_UNLIKELY(over)) {
        *end = (unsigned)__builtin_ctzll(over);
        return FS_END;
    }
    if (FS_UNLIKELY(dots | (body->normalize ? bare : 0))) {
        if (!read->discard) {
            if (read->out == NULL)
                return FS_EDIT;
            fs_edit_step(read, dots, body->normalize ? masks.lf & ~behind_cr : 0, base,
                         body->normalize, (behind_cr & ~masks.lf) != 0);
        }
        cursor->dropped += fs_popcount(dots);
        cursor->line_start += (int64_t)(dots & 1); /* the CR LF before it ended the last step */
    }
    cursor->bare |= bare;
    cursor->seen = seen;
    if (ends != 0)
        fs_measure_lines(cursor, ends, dots, base);
    cursor->after_cr = masks.cr >> (valid - 1) & 1;
    cursor->after_crlf = ends >> (valid - 1) & 1;
    cursor->after_dot = dots >> (valid - 1) & 1;
    cursor->after_dot_cr = dot_crs >> (valid - 1) & 1;
    return FS_ALL;
}

/* A step of less than 64 octets, by way of a padded copy, so that nothing behind them is read. */
static FS_INLINE int fs_short_step(const fs_body *body, fs_read *read, fs_cursor *cursor,
                                   ptrdiff_t base, unsigned valid, unsigned *end)
{
    unsigned char padded[FS_STEP];
    if (valid == 0)
        return FS_ALL;
    memset(padded, 'x', sizeof padded);
    memcpy(padded, read->octets + base, valid);
    return fs_step(body, read, cursor, padded, base, valid, end);
}

/* Begin a read. */
static inline void fs_begin(fs_read *read, const fs_body *body, const unsigned char *octets,
                            ptrdiff_t count, int discard)
{
    fs_cursor *cursor = &read->cursor;
    read->octets = octets;
    read->count = count;
    read->done = read->copied = read->kept = 0;
    read->out = NULL;
    read->discard = discard;
    cursor->after_cr = body->line_state == FS_CR || body->line_state == FS_DOT_CR;
    cursor->after_crlf = body->line_state == FS_BOL;
    cursor->after_dot = body->line_state == FS_DOT;
    cursor->after_dot_cr = body->line_state == FS_DOT_CR;
    cursor->bare = 0;
    cursor->longest_line = body->longest_line;
    cursor->line_start = -body->line_octets;
    cursor->dropped = 0;
    cursor->seen = fs_seen_nothing();
}

/* Scan on from read->done. FS_ALL: the whole read is consumed. FS_END: all up to and with the line
 * that ends the message. FS_EDIT: the next octets are not handed out as they are, so set `out`
 * (fs_room octets) and call again. */
static inline int fs_advance(const fs_body *body, fs_read *read)
{
    fs_cursor cursor = read->cursor; /* a copy whose address stays here lives in registers */
    ptrdiff_t base = read->done;
    unsigned end = 0;
    int status = FS_ALL;
    for (; read->count - base >= FS_STEP; base += FS_STEP) {
        status = fs_step(body, read, &cursor, read->octets + base, base, FS_STEP, &end);
        if (FS_UNLIKELY(status != FS_ALL))
            break;
    }
    if (status == FS_ALL) {
        status = fs_short_step(body, read, &cursor, base, (unsigned)(read->count - base), &end);
        if (status == FS_ALL)
            base = read->kept = read->count;
    }
    if (status == FS_END) {
        /* The octets before the dot are body; with end < 2 it was dropped in an earlier step. */
        unsigned before = end >= 2 ? end - 2 : 0, unused;
        if (fs_short_step(body, read, &cursor, base, before, &unused) == FS_EDIT) {
            status = FS_EDIT;
        } else {
            read->kept = end >= 2 ? base + before : base + (ptrdiff_t)end - 1;
            base += (ptrdiff_t)end + 1;
        }
    }
    read->done = base;
    read->cursor = cursor;
    return status;
}

/* End a read that came to FS_ALL or FS_END: facts and line state go back into the message. Returns
 * the length of the piece. `out` is where the buffer begins that it is in; NULL: it is the start of
 * the read. */
static inline ptrdiff_t fs_finish(fs_body *body, fs_read *read, const unsigned char *out)
{
    const fs_cursor *cursor = &read->cursor;
    if (read->kept < 0) /* dot and CR of the end came with an earlier read */
        read->kept = 0;
    if (read->done == read->kept && cursor->after_dot_cr)
        read->kept--; /* may be the end: not yet body */
    body->bare_newline |= cursor->bare != 0;
    body->has_nul |= fs_seen_nul(&cursor->seen);
    body->has_8bit |= fs_seen_high(&cursor->seen);
    body->longest_line = cursor->longest_line;
    body->line_octets = read->kept - cursor->line_start;
    body->body_octets += read->kept - cursor->dropped;
    body->line_state = cursor->after_dot_cr ? FS_DOT_CR
                       : cursor->after_cr   ? FS_CR
                       : cursor->after_crlf ? FS_BOL
                       : cursor->after_dot  ? FS_DOT
                                            : FS_MID;
    if (body->normalize && body->line_state == FS_CR)
        read->kept--; /* half of CR LF, or a space: the next octet tells */
    if (read->out == NULL)
        return read->kept;
    fs_flush(read, read->kept, body->normalize);
    return read->out - out;
}

/* The most octets that the piece of this read can have, each bare LF being two, and FS_SLACK. */
static inline ptrdiff_t fs_room(const fs_body *body, const fs_read *read)
{
    ptrdiff_t room = read->count + FS_SLACK, i = read->done;
    if (!body->normalize)
        return room;
#ifdef FS_SSE2
    for (; read->count - i >= FS_STEP; i += FS_STEP) {
        __m128i sum = _mm_setzero_si128(), lf = _mm_set1_epi8('\n');
        for (int k = 0; k < FS_STEP; k += FS_VECTOR) {
            __m128i v = _mm_loadu_si128((const __m128i *)(read->octets + i + k));
            sum = _mm_sub_epi8(sum, _mm_cmpeq_epi8(v, lf));
        }
        sum = _mm_sad_epu8(sum, _mm_setzero_si128());
        room += _mm_cvtsi128_si32(sum) + _mm_extract_epi16(sum, 4);
    }
#endif
    for (; i < read->count; i++)
        room += read->octets[i] == '\n';
    return room;
}

#endif
