/* Octet scanners of the framing parser: pointer and length in, index or facts out.
 *
 * Nothing here uses Python, allocates, or reads outside p[0:n]. Message content is scanned in steps
 * of 64 octets: each becomes bit masks (bit i = octet i), and the line rules of RFC 5321 §2.3.8 and
 * §4.5.2 become shifts of those masks. How the masks are made depends on the instruction set
 * (_wire/scan_sets.h); the loop around them is the same for all sets (_wire/scan_advance.h). SSE2
 * is part of x86-64 and NEON of aarch64, so neither needs a check at run time; AVX2 and AVX-512 do.
 * On other processors, or with FASTSMTP_PORTABLE, 64-bit arithmetic does the same.
 */
#ifndef FASTSMTP_SCAN_H
#define FASTSMTP_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(FASTSMTP_PORTABLE) && defined(__SSE2__)
#define FS_SSE2 1
#include <emmintrin.h>
#ifdef __x86_64__
#define FS_AVX 1
#endif
#elif !defined(FASTSMTP_PORTABLE) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define FS_NEON 1
#endif

#include "_wire/compiler.h"

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
#define FS_LINE_IN_STEP 61 /* the most octets of a line that starts and ends in one step */
#define FS_LONG_READ 4096
#define FS_VECTOR 16
#define FS_SLACK FS_STEP /* writable octets after a buffer, because copies write whole vectors */

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

/* The verb p[0:n] as a number. The octets are upper-cased and packed, so the lookup is one switch:
 * clearing the bit of lower case turns only letters into letters. Control octets must have been
 * refused before: NUL would look like the end of a shorter verb. */
static inline int fs_verb(const unsigned char *p, ptrdiff_t n)
{
    uint64_t packed = 0;
    if (n < 3 || n > 8)
        return VERB_UNKNOWN;
    for (ptrdiff_t i = 0; i < n; i++)
        packed |= (uint64_t)(p[i] & ~0x20u) << (8 * i);
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

/* How many octets of p[0:n] come before the first SP or TAB. */
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

/* Index of the first octet 0x00-0x1F except TAB, or 0x7F, in p[0:n], or -1. */
static inline ptrdiff_t scan_control(const unsigned char *p, ptrdiff_t n)
{
    ptrdiff_t i = 0;
#ifdef FS_SSE2
    const __m128i highest = _mm_set1_epi8(0x1f), del = _mm_set1_epi8(0x7f);
    const __m128i tab = _mm_set1_epi8('\t');
    for (; i < n && n >= FS_VECTOR; i += FS_VECTOR) {
        if (n - i < FS_VECTOR)
            i = n - FS_VECTOR; /* overlaps octets that were checked already */
        __m128i v = _mm_loadu_si128((const __m128i *)(p + i));
        __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(v, highest), v);
        low = _mm_andnot_si128(_mm_cmpeq_epi8(v, tab), low);
        int hits = _mm_movemask_epi8(_mm_or_si128(low, _mm_cmpeq_epi8(v, del)));
        if (hits != 0)
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

#include "_wire/scan_sets.h"

/* ---- message content ------------------------------------------------------------------------ */

/* The state after the last octet. DOT: the line so far is a (dropped) dot; DOT_CR: and a CR. */
enum { FS_BOL, FS_MID, FS_CR, FS_DOT, FS_DOT_CR };

/* How a scan stopped. */
enum { FS_ALL, FS_END, FS_EDIT };

/* One message; survives reads and chunks. */
typedef struct {
    int line_state;
    int transparent; /* DATA: leading dots are dropped, a single one is the end (RFC 5321 §4.5.2) */
    int normalize;   /* bare LF becomes CR LF, bare CR a space */
    int bare_newline, has_nul, has_8bit;
    int64_t line_octets;  /* of the current line, unstuffed; with a CR that may belong to its end */
    int64_t longest_line; /* of the lines that CR LF has ended */
    int64_t body_octets;  /* known to be body: no dropped dots, no dot line, no CR of DOT_CR */
} fs_body;

/* The scan's own view while it runs: the line state as bits that shift into the next masks. */
typedef struct {
    uint64_t transparent, normalize; /* of the message, all bits or none */
    uint64_t after_cr, after_crlf, bare;
    uint64_t after_dot;   /* bit 0: after a dropped dot; bit 1: after that and a CR */
    int64_t line_octets;  /* of the current line up to here, without the dropped dot */
    int64_t longest_line;
    int64_t usual_line; /* lines up to this length need no measuring: longest_line, or -1 for all */
    ptrdiff_t dropped; /* dots */
    int high, nul;     /* seen, not counting the steps that fs_advance is working on */
} fs_cursor;

/* One read of it. */
typedef struct {
    const unsigned char *octets;
    ptrdiff_t count;
    ptrdiff_t done;     /* consumed */
    ptrdiff_t copied;   /* up to here the octets are in `out`, or were dropped */
    unsigned char *out; /* NULL: as long as body = octets[0:kept], no copy is made */
    int discard;        /* facts only */
    unsigned end;       /* at FS_END, octets[done + end] is the LF that ends the message */
    ptrdiff_t kept;     /* after a scan: up to here the octets are body, or were dropped */
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

/* Extend every set bit upwards to `width` set bits. */
static FS_INLINE uint64_t fs_smear(uint64_t bits, unsigned width)
{
    unsigned have = 1;
    for (; have * 2 <= width; have *= 2)
        bits |= bits << have;
    return bits | bits << (width - have);
}

/* Update longest_line with the lines that end in one step. `first`: octets of the first of them. */
static FS_INLINE void fs_longer_line(fs_cursor *cursor, uint64_t ends, uint64_t dots, int64_t first)
{
    const uint64_t inner = ends & (ends - 1);
    if (ends == 0)
        return;
    if (first > cursor->longest_line)
        cursor->longest_line = first;
    /* Lines inside the step: each start is extended over as many octets as the longest line has; a
     * CR outside of that ends a longer line. */
    if (inner != 0 && cursor->longest_line < FS_LINE_IN_STEP) {
        uint64_t starts = ((ends << 1) & ~dots) | (ends << 1 & dots) << 1, crs = inner >> 1;
        if (crs & ~fs_smear(starts, (unsigned)cursor->longest_line + 1)) {
            for (; crs != 0; crs &= crs - 1) {
                const int cr = __builtin_ctzll(crs);
                const uint64_t before = starts & fs_first((unsigned)cr + 1);
                const int64_t length = cr - (63 - __builtin_clzll(before));
                if (length > cursor->longest_line)
                    cursor->longest_line = length;
            }
        }
    }
    cursor->usual_line = cursor->longest_line < FS_LINE_IN_STEP ? -1 : cursor->longest_line;
}

/* Measure the lines of one step of `valid` octets; `ends`: the LFs of CR LF. Where lines have
 * any length, a branch on whether a step has a line end is unpredictable, so there is none. */
static FS_INLINE void fs_measure_lines(fs_cursor *cursor, uint64_t ends, uint64_t dots,
                                       unsigned valid)
{
    const int64_t none = -(int64_t)(ends == 0);
    const int64_t below = __builtin_ctzll(ends | UINT64_C(1) << 63);
    const int64_t above = __builtin_clzll(ends | 1);
    const int64_t begun = cursor->line_octets - (int64_t)(dots & 1), first = begun + below - 1;
    if (FS_UNLIKELY(first > cursor->usual_line))
        fs_longer_line(cursor, ends, dots, first);
    cursor->line_octets = ((begun + 1) & none) + above - (int64_t)(FS_STEP - valid) -
                          (int64_t)(dots >> (63 - above) >> 1 & 1);
}

/* Copy one vector from `from` to `out`; if `fix`, bare CRs as spaces, then from[16] is read too. */
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

/* Copy from[0:count] to `out`. Reads below `limit`, writes whole vectors. With `fix` no CR of these
 * is the last octet before `limit`: whether that one is bare is not known yet. */
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

/* Edit one step: octets of `dots` are dropped, and a CR is inserted before those of `lfs`. `out` is
 * complete up to the first of them, and then up to the last. There may be a single octet between
 * two, so it is copied as vectors, without a call (measured: bench/micro/test_parser.py). */
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
    /* the octets before the first edit may reach back over many steps */
    fs_flush(read, base + __builtin_ctzll(dots | lfs), normalize);
    if (normalize && bare_crs)
        fs_edit(read, dots, lfs, base, 1);
    else if (lfs != 0)
        fs_edit(read, dots, lfs, base, 0);
    else
        fs_edit(read, dots, 0, base, 0);
}

#ifdef FS_AVX
/* The octets of `v` (at most 32) with a CR before each bit of `lfs`. */
static FS_INLINE FS_TARGET_avx512 void fs_spread(unsigned char *out, __m512i v, uint32_t lfs)
{
    /* Two positions for each octet, one for a CR before it and its own; unused ones are dropped. */
    const uint64_t own = UINT64_C(0xaaaaaaaaaaaaaaaa);
    const uint64_t places = _pext_u64(own, own | _pdep_u64(lfs, own >> 1));
    _mm512_storeu_si512(out, _mm512_mask_expand_epi8(_mm512_set1_epi8('\r'), places, v));
}

/* The same as fs_edit_step, for a whole step at once, however many edits it has: VBMI2 compresses
 * and expands octets by a mask. `out` is then complete up to the end of the step, except for a CR
 * there: whether that one is bare, or body at all, is not known yet. */
static __attribute__((noinline)) FS_TARGET_avx512 void fs_edit_wide(
    fs_read *read, fs_masks masks, uint64_t dots, uint64_t lfs, ptrdiff_t base, unsigned valid,
    int normalize)
{
    const unsigned count = valid - (unsigned)(masks.cr >> (valid - 1) & 1);
    const uint64_t kept = fs_first(count) & ~dots;
    __m512i v = _mm512_maskz_loadu_epi8(fs_first(count), read->octets + base);
    fs_flush(read, base, normalize);
    if (normalize)
        v = _mm512_mask_mov_epi8(v, masks.cr & ~(masks.lf >> 1), _mm512_set1_epi8(' '));
    v = _mm512_maskz_compress_epi8(kept, v);
    const int octets = __builtin_popcountll(kept);
    if (lfs == 0) {
        _mm512_storeu_si512(read->out, v);
    } else {
        lfs = _pext_u64(lfs, kept);
        const uint32_t low = (uint32_t)lfs;
        fs_spread(read->out, v, low);
        if (octets > 32)
            fs_spread(read->out + 32 + __builtin_popcount(low), _mm512_alignr_epi64(v, v, 4),
                      (uint32_t)(lfs >> 32));
    }
    read->out += octets + __builtin_popcountll(lfs);
    read->copied = base + count;
}

#define FS_FEW_EDITS 4 /* up to so many in a step are done one by one (measured: a stuffed line) */

/* For each mask of eight octets, the index of each output octet: with a gap (0x80) before the
 * octets of the mask (fs_apart), and without the octets of the mask (fs_together). */
static unsigned char fs_apart[256][16], fs_together[256][8];

static __attribute__((constructor)) void fs_make_moves(void)
{
    memset(fs_apart, 0x80, sizeof fs_apart);
    for (int mask = 0; mask < 256; mask++)
        for (int octet = 0, apart = 0, together = 0; octet < 8; octet++) {
            apart += mask >> octet & 1;
            fs_apart[mask][apart++] = (unsigned char)octet;
            if ((mask >> octet & 1) == 0)
                fs_together[mask][together++] = (unsigned char)octet;
        }
}

/* The same for AVX2, eight octets at a time. PDEP and PEXT would do with words what VBMI2 does, but
 * some processors take hundreds of cycles for them. */
static __attribute__((noinline)) FS_TARGET_avx2 void fs_edit_by_table(
    fs_read *read, fs_masks masks, uint64_t dots, uint64_t lfs, ptrdiff_t base, unsigned valid,
    int normalize)
{
    const unsigned count = valid - (unsigned)(masks.cr >> (valid - 1) & 1);
    const uint64_t taken = fs_first(count);
    const unsigned char *from = read->octets + base;
    unsigned char padded[FS_STEP + FS_VECTOR], kept[FS_STEP + FS_VECTOR];
    fs_flush(read, base, normalize);
    const int spaces = normalize && (masks.cr & ~(masks.lf >> 1) & taken) != 0;
    if (spaces || valid < FS_STEP) {
        memset(padded, 'x', sizeof padded);
        memcpy(padded, from, valid);
        from = padded;
        for (int i = 0; spaces && i < FS_STEP; i += FS_VECTOR)
            fs_copy_vector(padded + i, padded + i, 1);
    }
    unsigned octets = count;
    if (dots != 0) {
        unsigned char *out = lfs != 0 ? kept : read->out;
        for (unsigned i = 0; i < count; i += 8) {
            const unsigned mask = dots >> i & 0xff;
            const __m128i move = _mm_loadl_epi64((const __m128i *)fs_together[mask]);
            const __m128i v = _mm_loadl_epi64((const __m128i *)(from + i));
            _mm_storel_epi64((__m128i *)out, _mm_shuffle_epi8(v, move));
            out += 8 - __builtin_popcount(mask);
        }
        octets -= (unsigned)__builtin_popcountll(dots);
        lfs = _pext_u64(lfs, taken & ~dots);
        from = kept;
    }
    if (lfs != 0) {
        unsigned char *out = read->out;
        for (unsigned i = 0; i < octets; i += 8) {
            const unsigned mask = lfs >> i & 0xff;
            const __m128i move = _mm_loadu_si128((const __m128i *)fs_apart[mask]);
            const __m128i v = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i *)(from + i)), move);
            _mm_storeu_si128((__m128i *)out, _mm_blendv_epi8(v, _mm_set1_epi8('\r'), move));
            out += 8 + __builtin_popcount(mask);
        }
    }
    read->out += octets + (unsigned)__builtin_popcountll(lfs);
    read->copied = base + count;
}
#else
#define fs_edit_by_table(read, masks, dots, lfs, base, valid, normalize) ((void)0)
#define FS_FEW_EDITS FS_STEP
#define fs_edit_wide(read, masks, dots, lfs, base, valid, normalize) ((void)0)
#endif

/* The line rules for one step of `valid` octets; no bit beyond them is set in `masks`. Returns
 * FS_ALL; FS_EDIT: nothing taken, `out` is needed; FS_END: nothing taken, read->end is set. */
static FS_INLINE int fs_step(fs_read *read, fs_cursor *cursor, const fs_masks masks,
                             ptrdiff_t base, unsigned valid, int wide)
{
    const uint64_t behind_cr = masks.cr << 1 | cursor->after_cr;
    const uint64_t ends = masks.lf & behind_cr;
    const uint64_t bare = (masks.lf ^ behind_cr) & fs_first(valid);
    const uint64_t dots = masks.dot & (ends << 1 | cursor->after_crlf) & cursor->transparent;
    const uint64_t unclean = bare & cursor->normalize;
    if (FS_UNLIKELY(dots | cursor->after_dot | unclean)) {
        const uint64_t dot_crs = masks.cr & (dots << 1 | (cursor->after_dot & 1));
        const uint64_t over = masks.lf & (dot_crs << 1 | cursor->after_dot >> 1);
        if (over) {
            read->end = (unsigned)__builtin_ctzll(over);
            return FS_END;
        }
        if ((dots | unclean) != 0 && !read->discard) {
            if (read->out == NULL)
                return FS_EDIT;
            if (wide == FS_BY_MASK)
                fs_edit_wide(read, masks, dots, unclean & masks.lf, base, valid,
                             cursor->normalize != 0);
            else if (wide == FS_BY_TABLE && fs_popcount(dots | (unclean & masks.lf)) > FS_FEW_EDITS)
                fs_edit_by_table(read, masks, dots, unclean & masks.lf, base, valid,
                                 cursor->normalize != 0);
            else
                fs_edit_step(read, dots, unclean & masks.lf, base, cursor->normalize != 0,
                             (unclean & behind_cr) != 0);
        }
        cursor->dropped += fs_popcount(dots);
        cursor->after_dot = (dots >> (valid - 1) & 1) | (dot_crs >> (valid - 1) & 1) << 1;
        fs_measure_lines(cursor, ends, dots, valid);
    } else {
        fs_measure_lines(cursor, ends, 0, valid);
    }
    cursor->bare |= bare;
    cursor->after_cr = masks.cr >> (valid - 1) & 1;
    cursor->after_crlf = ends >> (valid - 1) & 1;
    return FS_ALL;
}

/* 64 readable octets for a step of `valid` ones, fewer than 64: those that end where the step ends,
 * or a padded copy if the read is shorter. Nothing outside of the read is accessed. */
static FS_INLINE const unsigned char *fs_short_octets(const fs_read *read, unsigned valid,
                                                      unsigned char *padded)
{
    const ptrdiff_t before = read->done + (ptrdiff_t)valid - FS_STEP;
    if (before >= 0)
        return read->octets + before;
    memset(padded, 'x', FS_STEP);
    memcpy(padded, read->octets + read->done, valid);
    return padded;
}

/* Octets up to the next multiple of 64, where the scan of a long read continues: a vector that lies
 * in two cache lines is loaded twice (measured with AVX-512: alignment saves a tenth). */
static FS_INLINE unsigned fs_head(const fs_read *read)
{
    const unsigned char *octets = read->octets + read->done;
    return read->count - read->done >= FS_LONG_READ ? (unsigned)-(uintptr_t)octets % FS_STEP : 0;
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
    cursor->transparent = body->transparent ? ~UINT64_C(0) : 0;
    cursor->normalize = body->normalize ? ~UINT64_C(0) : 0;
    cursor->after_cr = body->line_state == FS_CR || body->line_state == FS_DOT_CR;
    cursor->after_crlf = body->line_state == FS_BOL;
    cursor->after_dot = body->line_state == FS_DOT      ? 1
                        : body->line_state == FS_DOT_CR ? 2
                                                        : 0;
    cursor->bare = 0;
    cursor->longest_line = body->longest_line;
    cursor->usual_line = body->longest_line < FS_LINE_IN_STEP ? -1 : body->longest_line;
    cursor->line_octets = body->line_octets + (body->line_state == FS_DOT_CR);
    cursor->dropped = 0;
    cursor->high = cursor->nul = 0;
}

/* fs_advance_S, for each instruction set S: continue the scan at read->done. FS_ALL: the whole read
 * is consumed. FS_END: all up to and with the line that ends the message. FS_EDIT: the next octets
 * have to be changed, so set `out` (fs_room octets) and call again. */
#define FS_JOIN_(a, b) a##b
#define FS_JOIN(a, b) FS_JOIN_(a, b)
#ifdef FS_AVX
#define FS_SET avx512
#include "_wire/scan_advance.h"
#define FS_SET avx2
#include "_wire/scan_advance.h"
#endif
#ifdef FS_SSE2
#define FS_SET sse2
#include "_wire/scan_advance.h"
#endif
#ifdef FS_NEON
#define FS_SET neon
#include "_wire/scan_advance.h"
#endif
#define FS_SET portable
#include "_wire/scan_advance.h"

typedef struct {
    const char *name;
    int (*advance)(fs_read *read);
} fs_scanner;

/* Scanner number `at` of those that this processor can run, the best first; NULL after the last. */
static inline const fs_scanner *fs_scanner_at(ptrdiff_t at)
{
    static const fs_scanner scanners[] = {
#ifdef FS_AVX
        {"avx512", fs_advance_avx512},
        {"avx2", fs_advance_avx2},
#endif
#ifdef FS_SSE2
        {"sse2", fs_advance_sse2},
#endif
#ifdef FS_NEON
        {"neon", fs_advance_neon},
#endif
        {"portable", fs_advance_portable},
    };
#ifdef FS_AVX
    at += !fs_has_avx512() + !fs_has_avx2();
#endif
    return at < (ptrdiff_t)(sizeof scanners / sizeof *scanners) ? &scanners[at] : NULL;
}

/* End a read that came to FS_ALL or FS_END: store facts and line state in the message. Returns the
 * length of the piece. `out`: the buffer that holds the piece; NULL: the piece is the start of the
 * read. */
static inline ptrdiff_t fs_finish(fs_body *body, fs_read *read, const unsigned char *out)
{
    const fs_cursor *cursor = &read->cursor;
    if (read->kept < 0) /* dot and CR of the end came with an earlier read */
        read->kept = 0;
    const int dot_cr = cursor->after_dot >> 1 != 0;
    if (read->done == read->kept && dot_cr)
        read->kept--; /* may be the end: not yet body */
    body->bare_newline |= cursor->bare != 0;
    body->has_nul |= cursor->nul;
    body->has_8bit |= cursor->high;
    body->longest_line = cursor->longest_line;
    body->line_octets = cursor->line_octets - dot_cr;
    body->body_octets += read->kept - cursor->dropped;
    body->line_state = dot_cr               ? FS_DOT_CR
                       : cursor->after_cr   ? FS_CR
                       : cursor->after_crlf ? FS_BOL
                       : cursor->after_dot  ? FS_DOT
                                            : FS_MID;
    if (body->normalize && body->line_state == FS_CR)
        read->kept--; /* half of CR LF, or a space: the next octet decides */
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
