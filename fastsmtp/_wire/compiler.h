/* The built-ins of GCC and clang that the scanners use, for MSVC too. */
#ifndef FASTSMTP_COMPILER_H
#define FASTSMTP_COMPILER_H

#if defined(_MSC_VER) && !defined(__clang__)

#include <intrin.h>
#include <stdlib.h>

#define FS_INLINE __forceinline
#define FS_UNLIKELY(condition) (condition)
#define __attribute__(list)
#define __builtin_bswap64 _byteswap_uint64
#define __builtin_ctz(word) __builtin_ctzll(word)
#define __builtin_popcount(word) __builtin_popcountll(word)

static __forceinline int __builtin_ctzll(unsigned long long word)
{
    unsigned long bit;
    _BitScanForward64(&bit, word);
    return (int)bit;
}

static __forceinline int __builtin_clzll(unsigned long long word)
{
    unsigned long bit;
    _BitScanReverse64(&bit, word);
    return 63 - (int)bit;
}

/* Without POPCNT, which not every x86-64 has. */
static __forceinline int __builtin_popcountll(unsigned long long word)
{
    word -= word >> 1 & 0x5555555555555555;
    word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
    return (int)(word * 0x0101010101010101 >> 56);
}

#else

#define FS_INLINE inline __attribute__((always_inline))
#define FS_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

#endif
#endif
