/* Octets of command arguments: character classes, UTF-8, spaces.
 *
 * Nothing here uses Python or allocates. Functions that take a start and an end read only
 * text[start:end], and return the index after what they recognised, or -1.
 */
#ifndef FASTSMTP_OCTETS_H
#define FASTSMTP_OCTETS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The character classes of the ABNF, one bit each, combined in one constant table. */
enum {
    OF_ATEXT = 1,       /* atext, RFC 5322 section 3.2.3 */
    OF_LET_DIG = 2,     /* Let-dig, RFC 5321 section 4.1.2 */
    OF_QTEXT = 4,       /* qtextSMTP, RFC 5321 section 4.1.2 */
    OF_PRINTABLE = 8,   /* %d32-126 */
    OF_VALUE = 16,      /* esmtp-value, RFC 5321 section 4.1.2: %d33-60 / %d62-126 */
    OF_HEX_DIGIT = 32,  /* HEXDIG in either case */
    OF_KEYWORD = 64,    /* what may follow in an esmtp-keyword: Let-dig / "-" */
    OF_DIGIT = 128
};
#define IN(c, first, last) ((c) >= (first) && (c) <= (last))
#define IS_DIGIT(c) IN(c, '0', '9')
#define IS_LET_DIG(c) (IS_DIGIT(c) || IN(c, 'a', 'z') || IN(c, 'A', 'Z'))
#define IS_HEX_DIGIT(c) (IS_DIGIT(c) || IN(c, 'a', 'f') || IN(c, 'A', 'F'))
#define IS_ATEXT(c) (IS_LET_DIG(c) || (c) == '!' || IN(c, '#', '\'') || IN(c, '*', '+') \
    || (c) == '-' || (c) == '/' || (c) == '=' || (c) == '?' || IN(c, '^', '`') \
    || IN(c, '{', '~'))
#define IS_QTEXT(c) (IN(c, 32, 126) && (c) != '"' && (c) != '\\')
#define CLASS_OF(c) ((IS_ATEXT(c) ? OF_ATEXT : 0) | (IS_LET_DIG(c) ? OF_LET_DIG : 0) \
    | (IS_QTEXT(c) ? OF_QTEXT : 0) | (IN(c, 32, 126) ? OF_PRINTABLE : 0) \
    | (IN(c, 33, 126) && (c) != '=' ? OF_VALUE : 0) | (IS_HEX_DIGIT(c) ? OF_HEX_DIGIT : 0) \
    | (IS_LET_DIG(c) || (c) == '-' ? OF_KEYWORD : 0) | (IS_DIGIT(c) ? OF_DIGIT : 0))
#define FOUR(c) CLASS_OF(c), CLASS_OF((c) + 1), CLASS_OF((c) + 2), CLASS_OF((c) + 3)
#define SIXTEEN(c) FOUR(c), FOUR((c) + 4), FOUR((c) + 8), FOUR((c) + 12)
static const unsigned char CLASSES[256] = {
    SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48),
    SIXTEEN(64), SIXTEEN(80), SIXTEEN(96), SIXTEEN(112)     /* and 0 for all above */
};

/* TAB counts as SP between words, as receivers have always read it. */
static inline int is_space(unsigned char octet)
{
    return octet == ' ' || octet == '\t';
}

static inline int is_upper_hex(unsigned char octet)
{
    return (CLASSES[octet] & OF_HEX_DIGIT) && octet < 'a';
}

static inline unsigned char hex_value(unsigned char octet)
{
    return (unsigned char)(octet <= '9' ? octet - '0' : octet - 'A' + 10);
}

static inline unsigned char upper_case(unsigned char octet)
{
    return (unsigned char)(IN(octet, 'a', 'z') ? octet & 0xDF : octet);
}

static inline int equals_ignoring_case(const unsigned char *text, const char *word, ptrdiff_t size)
{
    for (ptrdiff_t i = 0; i < size; i++)
        if (upper_case(text[i]) != upper_case((unsigned char)word[i]))
            return 0;
    return 1;
}

/* The index after SP and TAB, if there are any. */
static inline ptrdiff_t scan_spaces(const unsigned char *text, ptrdiff_t start, ptrdiff_t end)
{
    while (start < end && is_space(text[start]))
        start++;
    return start;
}

/* The index of the next SP or TAB, or the end. */
static inline ptrdiff_t scan_to_space(const unsigned char *text, ptrdiff_t start, ptrdiff_t end)
{
    while (start < end && !is_space(text[start]))
        start++;
    return start;
}

/* The index of the first octet above 127, or the end. */
static inline ptrdiff_t scan_ascii(const unsigned char *text, ptrdiff_t start, ptrdiff_t end)
{
    uint64_t eight;
    for (; end - start >= 8; start += 8) {
        memcpy(&eight, text + start, 8);
        if (eight & 0x8080808080808080ULL)
            break;
    }
    while (start < end && text[start] < 128)
        start++;
    return start;
}

/* C1 controls, zero width space, line and paragraph separator, bidi embeddings and isolates, word
 * joiner, BOM. U+200C and U+200D pass: several scripts need them (RFC 5892 appendix A.1, A.2). */
static inline int is_forbidden(uint32_t code)
{
    if (code < 0xA0)
        return 1;
    if ((code & ~(uint32_t)0x7F) != 0x2000)
        return code == 0xFEFF;
    if (code <= 0x2028)
        return code == 0x200B || code == 0x2028;
    return code <= 0x202E || code == 0x2060 || IN(code, 0x2066, 0x2069);
}

static inline ptrdiff_t scan_code_point(const unsigned char *text, ptrdiff_t start, ptrdiff_t end)
{
    uint32_t lead = text[start];
    uint32_t code;
    int count;
    if (lead < 0xC2 || lead > 0xF4) /* a continuation, overlong (C0 and C1), beyond U+10FFFF */
        return -1;
    count = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (end - start < count)
        return -1;
    code = lead & (0xFFu >> (count + 1));
    for (int i = 1; i < count; i++) {
        if ((text[start + i] & 0xC0) != 0x80)
            return -1;
        code = code << 6 | (text[start + i] & 0x3Fu);
    }
    if (count == 3 && (code < 0x800 || IN(code, 0xD800, 0xDFFF)))
        return -1;
    if (count == 4 && !IN(code, 0x10000, 0x10FFFF))
        return -1;
    return is_forbidden(code) ? -1 : start + count;
}

/* UTF8-non-ascii = UTF8-2 / UTF8-3 / UTF8-4, one character. RFC 6532 section 3.1, RFC 3629
 * section 4. Besides malformed octets, C1 controls and characters that hide or reorder the text
 * around them are refused. */
static inline ptrdiff_t scan_non_ascii(const unsigned char *text, ptrdiff_t start, ptrdiff_t end)
{
    /* The common case: most letters take two octets. */
    if (text[start] > 0xC2 && text[start] < 0xE0 && end - start >= 2
        && (text[start + 1] & 0xC0) == 0x80)
        return start + 2;
    return scan_code_point(text, start, end);
}

/* Characters in octets that are known to be UTF-8. */
static inline ptrdiff_t count_characters(
    const unsigned char *text, ptrdiff_t start, ptrdiff_t end)
{
    ptrdiff_t count = 0;
    for (; start < end; start++)
        count += (text[start] & 0xC0) != 0x80;
    return count;
}

#endif
