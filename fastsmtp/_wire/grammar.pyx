"""The grammar of command arguments: the octets of one line in, paths, parameters and xtext out.

In: the argument of one command line as the parser cut it out, as `bytes`. Out: an `Address`,
strings, integers, or a value that means "malformed": no input of a peer raises. Every string is
decoded once, from UTF-8 that was checked here, so that no surrogate and no forbidden code point
ever reaches a hook or a log.

All work is linear in the number of octets, without recursion, and a path is never read beyond its
256 octets. Each production has its own function. `scan_` functions read only `text[start:end]`, and
return the index after what they recognised, or -1. Nothing is rewritten: no case folding, no
Punycode, no normalising of literals.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport (
    PyUnicode_AsUTF8AndSize,
    PyUnicode_DATA,
    PyUnicode_DecodeUTF8,
    PyUnicode_New,
    PyUnicode_Substring,
)
from libc.string cimport memcpy

ctypedef const unsigned char* octets_t

cdef extern from "_wire/octets.h" nogil:
    const unsigned char[256] CLASSES
    enum:
        OF_ATEXT, OF_LET_DIG, OF_QTEXT, OF_PRINTABLE, OF_VALUE, OF_HEX_DIGIT, OF_KEYWORD, OF_DIGIT
    bint is_space(unsigned char octet)
    bint is_upper_hex(unsigned char octet)
    unsigned char hex_value(unsigned char octet)
    unsigned char upper_case(unsigned char octet)
    bint equals_ignoring_case(octets_t text, const char *word, Py_ssize_t size)
    Py_ssize_t scan_spaces(octets_t text, Py_ssize_t start, Py_ssize_t end)
    Py_ssize_t scan_to_space(octets_t text, Py_ssize_t start, Py_ssize_t end)
    Py_ssize_t scan_ascii(octets_t text, Py_ssize_t start, Py_ssize_t end)
    Py_ssize_t scan_non_ascii(octets_t text, Py_ssize_t start, Py_ssize_t end)
    Py_ssize_t count_characters(octets_t text, Py_ssize_t start, Py_ssize_t end)

cdef extern from "<assert.h>" nogil:
    # Our invariants: compiled in debug and sanitizer builds only.
    void check "assert" (bint condition)

cdef enum:
    MAX_PATH = 256          # RFC 5321 §4.5.3.1.3, brackets and route included
    MAX_DOMAIN = 255        # RFC 5321 §4.5.3.1.2; an EHLO name has the same bound
    MAX_LABEL = 63          # RFC 1035 §2.3.4
    MAX_PARAMETERS = 64     # ours: real commands have fewer than a tenth of it
    MAX_BDAT_DIGITS = 20    # 1*20DIGIT, as of SIZE in RFC 1870 §4
    MAX_REPR = 128          # characters of foreign text in a log line
    SAFE_DIGITS = 18        # this many digits always fit into 63 bits


cpdef enum PathFault:
    """Why a path was refused."""
    BAD_SYNTAX = 1          # RFC 5321 §4.1.2, or non-ASCII that RFC 6531 §3.3 does not allow
    NEEDS_SMTPUTF8 = 2      # well-formed, but RFC 6531 §3.4 asks for the SMTPUTF8 parameter


cpdef enum Leniency:
    """What is accepted as a path: each level accepts all that the one before it accepts."""
    STRICT = 0              # RFC 5321 §4.1.2
    COMMON = 1              # and what old devices send: odd dots, "_" in domains, no brackets
    LENIENT = 2             # and anything else with exactly one "@"


# The result of scan_path: indices into its text, valid as long as that text.
cdef struct Path:
    Py_ssize_t route        # the first octet of the source route, or else of the mailbox
    Py_ssize_t mailbox      # its first octet
    Py_ssize_t at           # the `@` between local part and domain; -1 for `<>` and `<Postmaster>`
    Py_ssize_t end          # of the mailbox: the index of `>`, if the path has brackets


# ---------------------------------------------------------------- what the hooks see


@cython.final
cdef class AddressDSN:
    """AddressDSN(notify=None, orcpt=None)\n--\n
    The DSN parameters of one RCPT (RFC 3461 §4.1, §4.2).
    """

    cdef public list notify
    cdef public str orcpt

    def __init__(self, list notify=None, str orcpt=None):
        self.notify = [] if notify is None else notify
        self.orcpt = orcpt

    def __eq__(self, other):
        if not isinstance(other, AddressDSN):
            return NotImplemented
        cdef AddressDSN dsn = other
        return self.notify == dsn.notify and self.orcpt == dsn.orcpt

    __hash__ = None

    def __repr__(self):
        notify = bounded(ascii(self.notify))
        return f"AddressDSN(notify={notify}, orcpt={bounded(ascii(self.orcpt))})"


@cython.final
@cython.freelist(16)
cdef class Address:
    """Address(raw)\n--\n
    The path of a MAIL or RCPT command, as it was sent (RFC 5321 §4.1.2).

    `Address("<user@example.com>")` makes one from text, by the strict grammar of SMTPUTF8. Raises
    ValueError if the text is not a path.
    """

    # Made with the object and never changed. One string is decoded; the others are cut from it
    # when asked for (measured: parse and read .address 136 ns, with all four decoded at once 205;
    # bench/micro/test_grammar.py).
    cdef readonly str address
    cdef readonly bint is_null
    cdef str route                  # `@a,@b:` as sent, else ""
    cdef Py_ssize_t at              # index of the `@` in address, in characters; -1 without domain
    # Made when first asked for.
    cdef dict _args
    cdef AddressDSN _dsn
    cdef public object valid_since  # of RCPT, for the module of its parameters

    def __cinit__(self):
        self.address = self.route = ""
        self.at = -1
        self.is_null = True

    def __init__(self, str raw not None):
        cdef Py_ssize_t size = -1
        cdef octets_t text = NULL
        cdef Path path
        try:
            text = <octets_t> PyUnicode_AsUTF8AndSize(raw, &size)
        except UnicodeEncodeError:      # a lone surrogate
            pass
        if text == NULL or scan_path(text, 0, size, True, True, STRICT, &path) != size:
            raise ValueError(f"raw must be a path like <user@host>, got {bounded(ascii(raw))}")
        self.route = ""
        self.at = -1
        fill_address(self, text, &path, scan_ascii(text, 0, size) == size)

    @property
    def local_part(self):
        if self.at < 0:
            return self.address
        return PyUnicode_Substring(self.address, 0, self.at)

    @property
    def domain(self):
        if self.at < 0:
            return ""
        return PyUnicode_Substring(self.address, self.at + 1, len(self.address))

    @property
    def raw(self):
        return f"<{self.route}{self.address}>"

    @property
    def args(self):
        if self._args is None:
            self._args = {}
        return self._args

    @property
    def dsn(self):
        if self._dsn is None:
            self._dsn = AddressDSN()
        return self._dsn

    def __eq__(self, other):
        if not isinstance(other, Address):
            return NotImplemented
        cdef Address that = other
        return self.address == that.address and self.route == that.route

    def __hash__(self):
        return hash(self.address)

    def __str__(self):
        return self.address

    def __repr__(self):
        return f"Address({bounded(ascii(self.raw))})"


cdef str bounded(str text):
    return text if len(text) <= MAX_REPR else text[:MAX_REPR] + "..."


cdef int fill_address(
    Address address, octets_t text, const Path *path, bint is_ascii
) except -1:
    check(path.route <= path.mailbox <= path.end)
    check(path.at == -1 or path.mailbox < path.at < path.end - 1)
    address.address = make_str(text + path.mailbox, path.end - path.mailbox, is_ascii)
    address.is_null = path.mailbox == path.end
    if path.mailbox > path.route:
        address.route = make_str(text + path.route, path.mailbox - path.route, is_ascii)
    if path.at >= 0:
        address.at = path.at - path.mailbox
        if not is_ascii:
            address.at = count_characters(text, path.mailbox, path.at)
    return 0


# ---------------------------------------------------------------- arguments of MAIL and RCPT


# "FROM:" Reverse-path [SP Mail-parameters]. RFC 5321 §4.1.1.2
cpdef object parse_reverse_path(bytes argument, bint smtp_utf8, int leniency):
    """Read the argument of MAIL: (Address, octets of the parameters), or a PathFault."""
    return parse_path(argument, b"FROM", False, smtp_utf8, leniency)


# "TO:" ( "<Postmaster>" / Forward-path ) [SP Rcpt-parameters]. RFC 5321 §4.1.1.3
cpdef object parse_forward_path(bytes argument, bint smtp_utf8, int leniency):
    """Read the argument of RCPT: (Address, octets of the parameters), or a PathFault."""
    return parse_path(argument, b"TO", True, smtp_utf8, leniency)


cdef inline object parse_path(
    bytes argument, const char *word, bint forward, bint smtp_utf8, int leniency
):
    if argument is None:
        raise TypeError("an argument is bytes, got None")
    cdef octets_t text = <octets_t> PyBytes_AS_STRING(argument)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(argument)
    cdef Py_ssize_t index
    cdef bint is_ascii
    cdef Path path
    cdef Address address

    index = scan_word_and_colon(text, 0, size, word)
    if index >= 0:
        index = scan_path(text, index, size, forward, not forward, leniency, &path)
    if index >= 0:
        index = scan_to_parameters(text, index, size)
    if index < 0:
        return <int> BAD_SYNTAX
    is_ascii = scan_ascii(text, path.route, path.end) == path.end
    if not is_ascii and not smtp_utf8:
        return <int> NEEDS_SMTPUTF8

    address = Address.__new__(Address)
    fill_address(address, text, &path, is_ascii)
    return address, b"" if index == size else argument[index:]


# What a path may contain depends on a parameter that comes after it, SMTPUTF8. RFC 6531 §3.4
cpdef bint has_parameter(bytes argument, bytes keyword) except -1:
    """Whether the argument of MAIL has the parameter `keyword` after its path."""
    if argument is None or keyword is None:
        raise TypeError("argument and keyword are bytes, got None")
    cdef octets_t text = <octets_t> PyBytes_AS_STRING(argument)
    cdef const char *name = PyBytes_AS_STRING(keyword)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(argument)
    cdef Py_ssize_t name_size = PyBytes_GET_SIZE(keyword)
    cdef Py_ssize_t index, end
    cdef Path path

    if size <= name_size:
        return False
    index = scan_word_and_colon(text, 0, size, b"FROM")
    if index < 0 or scan_to_space(text, index, size) == size:
        return False
    # By the most lenient rules: they find the end of every path that parse_reverse_path accepts.
    index = scan_path(text, index, size, False, True, LENIENT, &path)
    if index >= 0:
        index = scan_to_parameters(text, index, size)
    while 0 <= index < size:
        end = scan_keyword(text, index, size)
        if end - index == name_size and equals_ignoring_case(text + index, name, name_size):
            if end == size or text[end] == b"=" or is_space(text[end]):
                return True
        index = scan_spaces(text, scan_to_space(text, index, size), size)
    return False


# SP esmtp-param *(SP esmtp-param). RFC 5321 §4.1.2
def split_parameters(bytes rest not None, bint smtp_utf8):
    """Split the octets after a path into (KEYWORD, value or None); ("", None) if malformed."""
    cdef octets_t text = <octets_t> PyBytes_AS_STRING(rest)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(rest)
    cdef Py_ssize_t index = 0
    cdef Py_ssize_t name_end, end
    cdef bint is_ascii
    cdef str keyword
    cdef list parameters = []

    while True:
        index = scan_spaces(text, index, size)
        if index == size:
            return parameters
        name_end = scan_keyword(text, index, size)
        end = -1 if name_end == index else scan_value(text, name_end, size, smtp_utf8)
        if end < 0 or len(parameters) == MAX_PARAMETERS:
            parameters.append(("", None))
            return parameters
        keyword = make_upper(text + index, name_end - index)
        if end == name_end:
            parameters.append((keyword, None))
        else:
            name_end += 1
            is_ascii = not smtp_utf8 or scan_ascii(text, name_end, end) == end
            parameters.append((keyword, make_str(text + name_end, end - name_end, is_ascii)))
        index = end


# ---------------------------------------------------------------- other arguments


# xtext = *( xchar / hexchar ). RFC 3461 §4; what it may decode to, RFC 6533 §3
def decode_xtext(str value not None, bint smtp_utf8):
    """Decode xtext once; None if it is malformed or decodes to a forbidden character."""
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t length
    cdef octets_t text
    cdef bytes decoded
    cdef bint is_ascii
    try:
        text = <octets_t> PyUnicode_AsUTF8AndSize(value, &size)
    except UnicodeEncodeError:
        return None
    if scan_plain_xtext(text, 0, size) == size:
        return value
    decoded = PyBytes_FromStringAndSize(NULL, size)
    length = unescape_xtext(text, size, <unsigned char *> PyBytes_AS_STRING(decoded))
    if length < 0:
        return None
    check(length <= size)
    text = <octets_t> PyBytes_AS_STRING(decoded)
    is_ascii = scan_ascii(text, 0, length) == length
    if scan_clean_text(text, 0, length) != length or not (is_ascii or smtp_utf8):
        return None
    return make_str(text, length, is_ascii)


# Mailbox = Local-part "@" ( Domain / address-literal ). RFC 5321 §4.1.2
def parse_mailbox(str text not None, bint smtp_utf8):
    """Whether `text` is a mailbox by the strict grammar."""
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t at = 0
    cdef octets_t mailbox
    try:
        mailbox = <octets_t> PyUnicode_AsUTF8AndSize(text, &size)
    except UnicodeEncodeError:
        return False
    if scan_mailbox(mailbox, 0, size, False, &at) != size:
        return False
    return smtp_utf8 or scan_ascii(mailbox, 0, size) == size


# bdat-cmd = "BDAT" SP chunk-size [ SP end-marker ]. RFC 3030 §2
cpdef object parse_bdat_argument(bytes argument):
    """Read the argument of BDAT: (octets of the chunk, whether it is the last), or None."""
    if argument is None:
        raise TypeError("an argument is bytes, got None")
    cdef octets_t text = <octets_t> PyBytes_AS_STRING(argument)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(argument)
    cdef Py_ssize_t digits = 0
    cdef unsigned long long octets = 0
    cdef bint last = False

    while digits < size and digits <= MAX_BDAT_DIGITS and CLASSES[text[digits]] & OF_DIGIT:
        if digits < SAFE_DIGITS:
            octets = octets * 10 + (text[digits] - c'0')
        digits += 1
    if digits == 0 or digits > MAX_BDAT_DIGITS:
        return None
    if digits < size:
        last = True
        if size - digits != 5 or not is_space(text[digits]) \
                or not equals_ignoring_case(text + digits + 1, b"LAST", 4):
            return None
    return (octets if digits <= SAFE_DIGITS else int(argument[:digits])), last


# Domain / address-literal, but any printable word is accepted. RFC 5321 §4.1.4
def parse_hostname_token(bytes argument not None):
    """Read the argument of EHLO, HELO or LHLO: the name in lower case, or None."""
    cdef octets_t text = <octets_t> PyBytes_AS_STRING(argument)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(argument)
    cdef Py_ssize_t index
    cdef unsigned char *target
    cdef str name

    if not 1 <= size <= MAX_DOMAIN:
        return None
    name = PyUnicode_New(size, 127)
    target = <unsigned char *> PyUnicode_DATA(name)
    for index in range(size):
        if not CLASSES[text[index]] & OF_PRINTABLE or text[index] == b" ":
            return None
        target[index] = text[index] | 0x20 if c'A' <= text[index] <= c'Z' else text[index]
    return name


# ---------------------------------------------------------------- scanners: path and mailbox


# "FROM:" or "TO:" in any case. RFC 5321 §4.1.1.2, §4.1.1.3; SP around the colon is accepted
cdef inline Py_ssize_t scan_word_and_colon(
    octets_t text, Py_ssize_t start, Py_ssize_t end, const char *word
) noexcept nogil:
    cdef Py_ssize_t index = start
    while word[index - start]:
        if index == end or (text[index] & 0xDF) != <unsigned char> word[index - start]:
            return -1
        index += 1
    index = scan_spaces(text, index, end)
    if index == end or text[index] != b":":
        return -1
    return scan_spaces(text, index + 1, end)


# Path = "<" [ A-d-l ":" ] Mailbox ">". RFC 5321 §4.1.2. With `null` also "<>", as in MAIL; with
# `postmaster` also "<Postmaster>", as in RCPT
cdef Py_ssize_t scan_path(
    octets_t text, Py_ssize_t start, Py_ssize_t end,
    bint postmaster, bint null, int leniency, Path *path
) noexcept nogil:
    cdef Py_ssize_t index
    if end - start > MAX_PATH:
        end = start + MAX_PATH
    if start >= end or text[start] != b"<":
        return -1 if leniency == STRICT else \
            scan_path_without_brackets(text, start, end, postmaster, leniency, path)
    path.route = path.mailbox = start + 1
    path.at = -1
    if start + 1 < end and text[start + 1] == b"@":
        path.mailbox = scan_source_route(text, start + 1, end)
        if path.mailbox < 0:
            return -1
    index = scan_mailbox(text, path.mailbox, end, leniency != STRICT, &path.at)
    if index < 0 or index == end or text[index] != b">":
        index = scan_path_without_domain(text, start, end, postmaster, null)
        if index > 0:
            path.at = -1
        elif leniency == LENIENT:
            index = scan_lenient_mailbox(text, path.mailbox, end, &path.at)
        if index < 0 or index == end or text[index] != b">":
            return -1
    path.end = index
    return index + 1


# A mailbox, or with `postmaster` that word, up to the first SP. Ours, for senders that leave out
# the brackets. A source route needs brackets, and so does the null path.
cdef Py_ssize_t scan_path_without_brackets(
    octets_t text, Py_ssize_t start, Py_ssize_t end, bint postmaster, int leniency, Path *path
) noexcept nogil:
    end = scan_to_space(text, start, end)
    if end == start or end - start > MAX_PATH - 2:
        return -1
    path.route = path.mailbox = start
    path.at = -1
    path.end = end
    if postmaster and end - start == 10 and equals_ignoring_case(text + start, b"POSTMASTER", 10):
        return end
    if scan_mailbox(text, start, end, True, &path.at) == end:
        return end
    # A quoted string may continue after the SP, so part of it must not become the mailbox.
    if leniency == LENIENT and text[start] != b'"' \
            and scan_lenient_mailbox(text, start, end, &path.at) == end:
        return end
    return -1


# "<>" (RFC 5321 §4.5.5) and "<Postmaster>" in any case (§4.5.1): the index of `>`
cdef Py_ssize_t scan_path_without_domain(
    octets_t text, Py_ssize_t start, Py_ssize_t end, bint postmaster, bint null
) noexcept nogil:
    if null and end - start >= 2 and text[start + 1] == b">":
        return start + 1
    if postmaster and end - start >= 12 and text[start + 11] == b">" \
            and equals_ignoring_case(text + start + 1, b"POSTMASTER", 10):
        return start + 11
    return -1


# A-d-l ":" = At-domain *( "," At-domain ) ":"; At-domain = "@" Domain. RFC 5321 §4.1.2, appendix C
cdef Py_ssize_t scan_source_route(octets_t text, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t index = start
    while index < end and text[index] == b"@":
        index = scan_domain(text, index + 1, end, False)
        if index < 0 or index == end:
            return -1
        if text[index] == b":":
            return index + 1
        if text[index] != b",":
            return -1
        index += 1
    return -1


# Mailbox = Local-part "@" ( Domain / address-literal ). RFC 5321 §4.1.2
# `loose`, here and below: also what old devices send.
cdef inline Py_ssize_t scan_mailbox(
    octets_t text, Py_ssize_t start, Py_ssize_t end, bint loose, Py_ssize_t *at
) noexcept nogil:
    cdef Py_ssize_t index
    if start < end and text[start] == b'"':
        index = scan_quoted_string(text, start, end)
    else:
        index = scan_dot_string(text, start, end, loose)
    if index < 0 or index == end or text[index] != b"@":
        return -1
    at[0] = index
    index += 1
    if index < end and text[index] == b"[":
        return scan_address_literal(text, index, end)
    return scan_domain(text, index, end, loose)


# Exactly one "@", something on both sides of it, no SP, "<" or control octet: the index of `>`, or
# `end`.
cdef Py_ssize_t scan_lenient_mailbox(
    octets_t text, Py_ssize_t start, Py_ssize_t end, Py_ssize_t *at
) noexcept nogil:
    cdef Py_ssize_t index = start
    at[0] = -1
    while 0 <= index < end and text[index] != b">":
        if text[index] == b"@":
            if at[0] >= 0:
                return -1
            at[0] = index
        if text[index] <= b" " or text[index] == b"<" or text[index] == 127:
            return -1
        index = index + 1 if text[index] < 128 else scan_non_ascii(text, index, end)
    return index if start < at[0] < index - 1 else -1


# Dot-string = Atom *( "." Atom ); Atom = 1*atext. RFC 5321 §4.1.2
# atext =/ UTF8-non-ascii. RFC 6531 §3.3
# Loose: dots anywhere, but not only dots.
cdef inline Py_ssize_t scan_dot_string(
    octets_t text, Py_ssize_t start, Py_ssize_t end, bint loose
) noexcept nogil:
    cdef Py_ssize_t index = start
    cdef Py_ssize_t atom = start
    while index < end:
        if CLASSES[text[index]] & OF_ATEXT:
            index += 1
        elif text[index] >= 128:
            index = scan_non_ascii(text, index, end)
            if index < 0:
                return -1
        elif text[index] == b"." and (index > atom or loose):
            index += 1
            if not loose or index == atom + 1:
                atom = index
        else:
            break
    return index if index > atom else -1


# Quoted-string = DQUOTE *( qtextSMTP / quoted-pairSMTP ) DQUOTE. RFC 5321 §4.1.2
# qtextSMTP =/ UTF8-non-ascii. RFC 6531 §3.3
cdef Py_ssize_t scan_quoted_string(
    octets_t text, Py_ssize_t start, Py_ssize_t end
) noexcept nogil:
    cdef Py_ssize_t index = start + 1
    while 0 <= index < end:
        if CLASSES[text[index]] & OF_QTEXT:
            index += 1
        elif text[index] == b'"':
            return index + 1
        elif text[index] == b"\\":
            if index + 1 == end or not CLASSES[text[index + 1]] & OF_PRINTABLE:
                return -1
            index += 2
        elif text[index] >= 128:
            index = scan_non_ascii(text, index, end)
        else:
            return -1
    return -1


# Domain = sub-domain *( "." sub-domain ); sub-domain = Let-dig [Ldh-str]. RFC 5321 §4.1.2
# sub-domain =/ U-label. RFC 6531 §3.3
# Loose: "_" like a letter, and a dot at the end.
cdef inline Py_ssize_t scan_domain(
    octets_t text, Py_ssize_t start, Py_ssize_t end, bint loose
) noexcept nogil:
    cdef Py_ssize_t index = start
    cdef Py_ssize_t label = start
    while True:
        if index < end:
            if CLASSES[text[index]] & OF_LET_DIG or (text[index] == b"-" and index > label):
                index += 1
                continue
            if text[index] >= 128:
                index = scan_non_ascii(text, index, end)
                if index < 0:
                    return -1
                continue
            if loose and text[index] == b"_":
                index += 1
                continue
        if loose and start < index == label:
            return index if index - start <= MAX_DOMAIN else -1
        if index == label or index - label > MAX_LABEL or text[index - 1] == b"-":
            return -1
        if index == end or text[index] != b".":
            return index if index - start <= MAX_DOMAIN else -1
        index += 1
        label = index


# address-literal = "[" ( IPv4-address-literal / IPv6-address-literal ) "]". RFC 5321 §4.1.3
# General-address-literal is refused: no tag but IPv6 is registered.
cdef Py_ssize_t scan_address_literal(
    octets_t text, Py_ssize_t start, Py_ssize_t end
) noexcept nogil:
    cdef Py_ssize_t index
    if end - start >= 6 and equals_ignoring_case(text + start + 1, b"IPV6:", 5):
        index = scan_ipv6_address(text, start + 6, end)
    else:
        index = scan_ipv4_address(text, start + 1, end)
    return index + 1 if 0 <= index < end and text[index] == b"]" else -1


# IPv4-address-literal = Snum 3("." Snum); Snum = 0 to 255. RFC 5321 §4.1.3
# Without leading zeros, which some parsers read as octal.
cdef Py_ssize_t scan_ipv4_address(
    octets_t text, Py_ssize_t start, Py_ssize_t end
) noexcept nogil:
    cdef Py_ssize_t index = start
    cdef Py_ssize_t first
    cdef int number, count
    for count in range(4):
        if count > 0:
            if index == end or text[index] != b".":
                return -1
            index += 1
        first = index
        number = 0
        while index < end and index - first < 3 and CLASSES[text[index]] & OF_DIGIT:
            number = number * 10 + (text[index] - c'0')
            index += 1
        if index == first or number > 255 or (text[first] == b"0" and index - first > 1):
            return -1
    return index


# IPv6-addr = IPv6-full / IPv6-comp / IPv6v4-full / IPv6v4-comp. RFC 5321 §4.1.3
# "::" stands for at least two groups there.
cdef Py_ssize_t scan_ipv6_address(
    octets_t text, Py_ssize_t start, Py_ssize_t end
) noexcept nogil:
    cdef Py_ssize_t index = start
    cdef Py_ssize_t group
    cdef int groups = 0
    cdef bint compressed = False

    while True:
        if end - index >= 2 and text[index] == b":" and text[index + 1] == b":":
            if compressed:
                return -1
            compressed = True
            index += 2
            if index == end or not CLASSES[text[index]] & OF_HEX_DIGIT:
                break
        elif groups > 0:
            if index == end or text[index] != b":":
                break
            index += 1
        group = index
        while index < end and index - group < 4 and CLASSES[text[index]] & OF_HEX_DIGIT:
            index += 1
        if index < end and text[index] == b".":
            index = scan_ipv4_address(text, group, end)
            groups += 2
            break
        if index == group or groups == 8:
            return -1
        groups += 1
    return index if (groups <= 6 if compressed else groups == 8) else -1


# ---------------------------------------------------------------- scanners: parameters and text


# [ SP esmtp-param ... ] after a path: the first parameter, or the end. RFC 5321 §4.1.2
# A second path is a syntax error, not a parameter, and so are octets directly after the first.
cdef inline Py_ssize_t scan_to_parameters(
    octets_t text, Py_ssize_t start, Py_ssize_t end
) noexcept nogil:
    cdef Py_ssize_t index = scan_spaces(text, start, end)
    if index < end and (index == start or text[index] == b"<"):
        return -1
    return index


# esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-"). RFC 5321 §4.1.2. `start` if there is none
cdef inline Py_ssize_t scan_keyword(
    octets_t text, Py_ssize_t start, Py_ssize_t end
) noexcept nogil:
    cdef Py_ssize_t index = start
    if index < end and CLASSES[text[index]] & OF_LET_DIG:
        index += 1
        while index < end and CLASSES[text[index]] & OF_KEYWORD:
            index += 1
    return index


# [ "=" esmtp-value ] before SP or the end; esmtp-value = 1*(%d33-60 / %d62-126). RFC 5321 §4.1.2
# esmtp-value =/ UTF8-non-ascii. RFC 6531 §3.3
cdef inline Py_ssize_t scan_value(
    octets_t text, Py_ssize_t start, Py_ssize_t end, bint smtp_utf8
) noexcept nogil:
    cdef Py_ssize_t index = start
    if index < end and text[index] == b"=":
        index += 1
        while index < end:
            if CLASSES[text[index]] & OF_VALUE:
                index += 1
            elif text[index] >= 128 and smtp_utf8:
                index = scan_non_ascii(text, index, end)
                if index < 0:
                    return -1
            else:
                break
        if index == start + 1:
            return -1
    return index if index == end or is_space(text[index]) else -1


# *xchar; xchar = %d33-42 / %d44-60 / %d62-126. RFC 3461 §4
cdef Py_ssize_t scan_plain_xtext(octets_t text, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t index = start
    while index < end and CLASSES[text[index]] & OF_VALUE and text[index] != b"+":
        index += 1
    return index


# hexchar = "+" 2(%x30-39 / %x41-46), decoded to its octet. RFC 3461 §4
# Returns how many octets were written, never more than were read, or -1.
cdef Py_ssize_t unescape_xtext(
    octets_t text, Py_ssize_t size, unsigned char *target
) noexcept nogil:
    cdef Py_ssize_t index = 0
    cdef Py_ssize_t length = 0
    while index < size:
        if text[index] == b"+":
            if size - index < 3:
                return -1
            if not (is_upper_hex(text[index + 1]) and is_upper_hex(text[index + 2])):
                return -1
            target[length] = hex_value(text[index + 1]) << 4 | hex_value(text[index + 2])
            index += 3
        elif CLASSES[text[index]] & OF_VALUE or text[index] >= 128:
            target[length] = text[index]
            index += 1
        else:
            return -1
        length += 1
    return length


# *( %d32-126 / UTF8-non-ascii )
cdef Py_ssize_t scan_clean_text(octets_t text, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t index = start
    while 0 <= index < end:
        if CLASSES[text[index]] & OF_PRINTABLE:
            index += 1
        elif text[index] >= 128:
            index = scan_non_ascii(text, index, end)
        else:
            return -1
    return index


# ---------------------------------------------------------------- strings


# The scanners above have checked these octets, so decoding cannot fail.
cdef inline str make_str(octets_t text, Py_ssize_t size, bint is_ascii):
    cdef str made
    if not is_ascii:
        return PyUnicode_DecodeUTF8(<char *> text, size, NULL)
    check(scan_ascii(text, 0, size) == size)
    made = PyUnicode_New(size, 127)
    memcpy(PyUnicode_DATA(made), text, size)
    return made


cdef inline str make_upper(octets_t text, Py_ssize_t size):
    cdef Py_ssize_t index
    cdef str made = PyUnicode_New(size, 127)
    cdef unsigned char *target = <unsigned char *> PyUnicode_DATA(made)
    for index in range(size):
        target[index] = upper_case(text[index])
    return made
