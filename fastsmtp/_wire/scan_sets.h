/* 64 octets as masks, bit i being octet i, by each instruction set that this build has.
 *
 * Included by _wire/scan.h only. For a set S, fs_look_S returns the masks of 64 octets. fs_see_S
 * accumulates the octets of many steps; fs_seen_high_S and fs_seen_nul_S evaluate them once, at the
 * end: was there an octet >= 0x80, a NUL?
 */
#ifndef FASTSMTP_SCAN_SETS_H
#define FASTSMTP_SCAN_SETS_H

#ifdef FS_AVX
#include <cpuid.h>
#include <immintrin.h>
#define FS_TARGET_avx2 __attribute__((target("avx2,bmi,bmi2,popcnt,lzcnt")))
#define FS_TARGET_avx512 __attribute__((target("avx512f,avx512bw,avx512vbmi2,bmi,bmi2,popcnt,lzcnt")))

static inline int fs_has_avx2(void)
{
    unsigned a, b, c = 0, d; /* for LZCNT, a name that not all supported compilers know */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") &&
           __get_cpuid(0x80000001, &a, &b, &c, &d) && (c >> 5 & 1) != 0;
}

/* VBMI2 came with the processors that do not lower their clock for such vectors. */
static inline int fs_has_avx512(void)
{
    return fs_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2");
}
#endif
#ifdef FS_NEON
#include <arm_neon.h>
#endif
#define FS_TARGET_sse2
#define FS_TARGET_neon
#define FS_TARGET_portable
/* How a set edits a step that has many edits. */
enum { FS_ONE_BY_ONE, FS_BY_TABLE, FS_BY_MASK };
#define FS_WIDE_avx512 FS_BY_MASK
#define FS_WIDE_avx2 FS_BY_TABLE
#define FS_WIDE_sse2 FS_ONE_BY_ONE
#define FS_WIDE_neon FS_ONE_BY_ONE
#define FS_WIDE_portable FS_ONE_BY_ONE

typedef struct {
    uint64_t cr, lf, dot;
} fs_masks;

#ifdef FS_AVX
typedef struct {
    __m512i high, least;
} fs_seen_avx512;

static FS_INLINE FS_TARGET_avx512 fs_seen_avx512 fs_seen_nothing_avx512(void)
{
    fs_seen_avx512 seen = {_mm512_setzero_si512(), _mm512_set1_epi8(-1)};
    return seen;
}

static FS_INLINE FS_TARGET_avx512 fs_masks fs_look_avx512(const unsigned char *p)
{
    const __m512i v = _mm512_loadu_si512(p);
    fs_masks masks = {_mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8('\r')),
                      _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8('\n')),
                      _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8('.'))};
    return masks;
}

static FS_INLINE FS_TARGET_avx512 void fs_see_avx512(fs_seen_avx512 *seen, const unsigned char *p)
{
    const __m512i v = _mm512_loadu_si512(p);
    seen->high = _mm512_or_si512(seen->high, v);
    seen->least = _mm512_min_epu8(seen->least, v);
}

static FS_INLINE FS_TARGET_avx512 int fs_seen_high_avx512(const fs_seen_avx512 *seen)
{
    return _mm512_movepi8_mask(seen->high) != 0;
}

static FS_INLINE FS_TARGET_avx512 int fs_seen_nul_avx512(const fs_seen_avx512 *seen)
{
    return _mm512_testn_epi8_mask(seen->least, seen->least) != 0;
}

typedef struct {
    __m256i high, least;
} fs_seen_avx2;

static FS_INLINE FS_TARGET_avx2 fs_seen_avx2 fs_seen_nothing_avx2(void)
{
    fs_seen_avx2 seen = {_mm256_setzero_si256(), _mm256_set1_epi8(-1)};
    return seen;
}

static FS_INLINE FS_TARGET_avx2 uint64_t fs_mask_of_avx2(char octet, __m256i a, __m256i b)
{
    const __m256i v = _mm256_set1_epi8(octet);
    return (uint64_t)(unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(b, v)) << 32 |
           (unsigned)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, v));
}

static FS_INLINE FS_TARGET_avx2 fs_masks fs_look_avx2(const unsigned char *p)
{
    const __m256i a = _mm256_loadu_si256((const __m256i *)p);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(p + 32));
    fs_masks masks = {fs_mask_of_avx2('\r', a, b), fs_mask_of_avx2('\n', a, b),
                      fs_mask_of_avx2('.', a, b)};
    return masks;
}

static FS_INLINE FS_TARGET_avx2 void fs_see_avx2(fs_seen_avx2 *seen, const unsigned char *p)
{
    const __m256i a = _mm256_loadu_si256((const __m256i *)p);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(p + 32));
    seen->high = _mm256_or_si256(seen->high, _mm256_or_si256(a, b));
    seen->least = _mm256_min_epu8(seen->least, _mm256_min_epu8(a, b));
}

static FS_INLINE FS_TARGET_avx2 int fs_seen_high_avx2(const fs_seen_avx2 *seen)
{
    return _mm256_movemask_epi8(seen->high) != 0;
}

static FS_INLINE FS_TARGET_avx2 int fs_seen_nul_avx2(const fs_seen_avx2 *seen)
{
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(seen->least, _mm256_setzero_si256())) != 0;
}
#endif

#ifdef FS_SSE2
typedef struct {
    __m128i high, least;
} fs_seen_sse2;

static FS_INLINE fs_seen_sse2 fs_seen_nothing_sse2(void)
{
    fs_seen_sse2 seen = {_mm_setzero_si128(), _mm_set1_epi8(-1)};
    return seen;
}

static FS_INLINE uint64_t fs_mask(__m128i a, __m128i b, __m128i c, __m128i d)
{
    uint64_t low = (unsigned)_mm_movemask_epi8(a) | (unsigned)_mm_movemask_epi8(b) << 16;
    uint64_t high = (unsigned)_mm_movemask_epi8(c) | (unsigned)_mm_movemask_epi8(d) << 16;
    return low | high << 32;
}

static FS_INLINE uint64_t fs_mask_of_sse2(char octet, __m128i a, __m128i b, __m128i c, __m128i d)
{
    const __m128i v = _mm_set1_epi8(octet);
    return fs_mask(_mm_cmpeq_epi8(a, v), _mm_cmpeq_epi8(b, v), _mm_cmpeq_epi8(c, v),
                   _mm_cmpeq_epi8(d, v));
}

static FS_INLINE fs_masks fs_look_sse2(const unsigned char *p)
{
    const __m128i a = _mm_loadu_si128((const __m128i *)p);
    const __m128i b = _mm_loadu_si128((const __m128i *)(p + 16));
    const __m128i c = _mm_loadu_si128((const __m128i *)(p + 32));
    const __m128i d = _mm_loadu_si128((const __m128i *)(p + 48));
    fs_masks masks = {fs_mask_of_sse2('\r', a, b, c, d), fs_mask_of_sse2('\n', a, b, c, d),
                      fs_mask_of_sse2('.', a, b, c, d)};
    return masks;
}

static FS_INLINE void fs_see_sse2(fs_seen_sse2 *seen, const unsigned char *p)
{
    const __m128i a = _mm_loadu_si128((const __m128i *)p);
    const __m128i b = _mm_loadu_si128((const __m128i *)(p + 16));
    const __m128i c = _mm_loadu_si128((const __m128i *)(p + 32));
    const __m128i d = _mm_loadu_si128((const __m128i *)(p + 48));
    seen->high = _mm_or_si128(seen->high, _mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d)));
    seen->least = _mm_min_epu8(seen->least, _mm_min_epu8(_mm_min_epu8(a, b), _mm_min_epu8(c, d)));
}

static FS_INLINE int fs_seen_high_sse2(const fs_seen_sse2 *seen)
{
    return _mm_movemask_epi8(seen->high) != 0;
}

static FS_INLINE int fs_seen_nul_sse2(const fs_seen_sse2 *seen)
{
    return _mm_movemask_epi8(_mm_cmpeq_epi8(seen->least, _mm_setzero_si128())) != 0;
}
#endif

#ifdef FS_NEON
typedef struct {
    uint8x16_t high, least;
} fs_seen_neon;

static FS_INLINE fs_seen_neon fs_seen_nothing_neon(void)
{
    fs_seen_neon seen = {vdupq_n_u8(0), vdupq_n_u8(0xff)};
    return seen;
}

/* There is no movemask: each hit gets the weight of its bit, and neighbours are added. */
static FS_INLINE uint64_t fs_mask_of_neon(uint8_t octet, uint8x16_t a, uint8x16_t b, uint8x16_t c,
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

static FS_INLINE fs_masks fs_look_neon(const unsigned char *p)
{
    const uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16);
    const uint8x16_t c = vld1q_u8(p + 32), d = vld1q_u8(p + 48);
    fs_masks masks = {fs_mask_of_neon('\r', a, b, c, d), fs_mask_of_neon('\n', a, b, c, d),
                      fs_mask_of_neon('.', a, b, c, d)};
    return masks;
}

static FS_INLINE void fs_see_neon(fs_seen_neon *seen, const unsigned char *p)
{
    const uint8x16_t a = vld1q_u8(p), b = vld1q_u8(p + 16);
    const uint8x16_t c = vld1q_u8(p + 32), d = vld1q_u8(p + 48);
    seen->high = vorrq_u8(seen->high, vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d)));
    seen->least = vminq_u8(seen->least, vminq_u8(vminq_u8(a, b), vminq_u8(c, d)));
}

static FS_INLINE int fs_seen_high_neon(const fs_seen_neon *seen)
{
    return vmaxvq_u8(seen->high) >= 0x80;
}

static FS_INLINE int fs_seen_nul_neon(const fs_seen_neon *seen)
{
    return vminvq_u8(seen->least) == 0;
}
#endif

#define FS_ONES UINT64_C(0x0101010101010101)
#define FS_LOWS UINT64_C(0x7f7f7f7f7f7f7f7f)

typedef struct {
    uint64_t high, nul;
} fs_seen_portable;

static FS_INLINE fs_seen_portable fs_seen_nothing_portable(void)
{
    fs_seen_portable seen = {0, 0};
    return seen;
}

/* 0x80 in every octet of `word` that is zero, exactly. */
static FS_INLINE uint64_t fs_zeros(uint64_t word)
{
    return ~(((word & FS_LOWS) + FS_LOWS) | word | FS_LOWS);
}

/* Set bit i if octet i of `word` is `octet`; the product gathers the eight marks. */
static FS_INLINE uint64_t fs_mask_of_portable(unsigned char octet, uint64_t word)
{
    return ((fs_zeros(word ^ FS_ONES * octet) >> 7) * UINT64_C(0x0102040810204080)) >> 56;
}

static FS_INLINE fs_masks fs_look_portable(const unsigned char *p)
{
    fs_masks masks = {0, 0, 0};
    for (int i = 0; i < FS_STEP; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        masks.cr |= fs_mask_of_portable('\r', word) << i;
        masks.lf |= fs_mask_of_portable('\n', word) << i;
        masks.dot |= fs_mask_of_portable('.', word) << i;
    }
    return masks;
}

static FS_INLINE void fs_see_portable(fs_seen_portable *seen, const unsigned char *p)
{
    for (int i = 0; i < FS_STEP; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
        seen->high |= word & ~FS_LOWS;
        seen->nul |= fs_zeros(word);
    }
}

static FS_INLINE int fs_seen_high_portable(const fs_seen_portable *seen)
{
    return seen->high != 0;
}

static FS_INLINE int fs_seen_nul_portable(const fs_seen_portable *seen)
{
    return seen->nul != 0;
}

#endif
