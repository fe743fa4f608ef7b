"""The PROXY protocol: the header in which a load balancer describes its client.

In: octets as they are read. Out: the header, or why it was refused, as soon as the octets suffice;
the octets after it are kept and returned. No input of a peer raises. How the octets are cut into
feeds changes neither the answer nor the rest: every check looks at the octets in their order, and
the first fault wins.

No more than MAX_HEADER octets are held. The work is linear in the octets of the header; if it comes
in pieces, the octets after the last decided position are scanned again. The header is described in
"The PROXY protocol", versions 1 and 2, of HAProxy's documentation.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp

from ipaddress import IPv6Address

cdef extern from "<assert.h>" nogil:
    # Our invariants: compiled in debug and sanitizer builds only.
    void check "assert" (bint condition)

ctypedef const unsigned char* octets_t

cdef enum:
    MAX_LINE = 107          # of version 1, CR LF included
    PREFIX = 16             # octets of version 2 up to and with the length of the rest
    MAX_BODY = 4096         # octets, of version 2; ours: the format allows 65535
    MAX_HEADER = PREFIX + MAX_BODY
    IPV4_OCTETS = 12        # two addresses, two ports
    IPV6_OCTETS = 36
    SSL_OCTETS = 5          # client and verify, before the TLVs within
    MAX_AUTHORITY = 255
    MAX_UNIQUE_ID = 128
    MAX_IPV6_TEXT = 45      # with an IPv4 address as its last 32 bits (RFC 4291 §2.2)

# Types of TLVs.
cdef enum:
    TLV_AUTHORITY = 0x02
    TLV_CRC32C = 0x03
    TLV_NOOP = 0x04
    TLV_UNIQUE_ID = 0x05
    TLV_SSL = 0x20

cdef octets_t SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
cdef Py_ssize_t SIGNATURE_OCTETS = 12


cpdef enum ProxyFault:
    """Why a header was refused."""
    NO_HEADER = 1           # not the beginning of either version
    TOO_LONG = 2            # no CR LF within the octets of version 1, or a length beyond ours
    BAD_LINE = 3            # version 1 does not have the fields that it must have
    BAD_ADDRESS = 4         # an address or port of version 1
    BAD_VERSION = 5
    BAD_COMMAND = 6
    BAD_FAMILY = 7          # family or transport: only TCP over IPv4 and IPv6
    TOO_SHORT = 8           # no room for the addresses
    BAD_TLV = 9             # beyond its container, or longer than its type may be
    BAD_CHECKSUM = 10


@cython.final
cdef class ProxyHeader:
    """One header that was accepted."""

    cdef readonly int version
    cdef readonly str command
    cdef readonly tuple source
    cdef readonly tuple destination
    cdef readonly list tlvs
    cdef readonly tuple ssl

    def __cinit__(self):
        self.command = "UNKNOWN"
        self.tlvs = []

    def __repr__(self):
        return f"<ProxyHeader {self.version} {self.command} {self.source} {self.destination}>"


@cython.final
cdef class ProxyReader:
    """ProxyReader()\n--\n
    Reads the header of one connection.
    """

    cdef bytes held             # octets fed and not decided
    cdef Py_ssize_t looked      # octets of a line that need not be scanned again
    cdef readonly bytes rest

    def __cinit__(self):
        self.held = self.rest = b""

    def feed(self, bytes data not None):
        """Take octets; return the header, a ProxyFault, or None while more are needed."""
        cdef Py_ssize_t room = MAX_HEADER - PyBytes_GET_SIZE(self.held)
        cdef bytes behind = b""
        check(room > 0)
        if PyBytes_GET_SIZE(data) > room:
            behind = data[room:]
            data = data[:room]
        cdef bytes held = self.held + data if self.held else data
        cdef octets_t text = <octets_t> PyBytes_AS_STRING(held)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(held)
        cdef Py_ssize_t end = 0
        cdef object found = None

        if size and text[0] == c'P':
            found = read_line(text, size, &self.looked, &end)
        elif size:
            found = read_binary(held, text, size, &end)
        if found is None:
            check(size < MAX_HEADER)
            self.held = held
        else:
            if not isinstance(found, ProxyHeader):
                end = 0
            self.rest = held[end:] + behind
            self.held = b""
        return found


# ---------------------------------------------------------------- version 1


# "PROXY" SP ( "TCP4" / "TCP6" ) SP src SP dst SP sport SP dport CRLF; "PROXY UNKNOWN" *OCTET CRLF
cdef object read_line(octets_t text, Py_ssize_t size, Py_ssize_t *looked, Py_ssize_t *end):
    cdef bint unknown = size > 6 and text[6] == c'U'
    cdef Py_ssize_t start = 13 if unknown else 11      # of the rest
    cdef Py_ssize_t index = max(looked[0], start)

    if not begins_like(text, size, b"PROXY ", 6):
        return <int> NO_HEADER
    if size > 6 and not begins_a_line(text, size, unknown):
        return <int> BAD_LINE
    while index < min(size, MAX_LINE):
        if text[index] == c'\r':
            if index + 1 == MAX_LINE:
                return <int> TOO_LONG
            if index + 1 == size:
                break
            if text[index + 1] == c'\n':
                end[0] = index + 2
                if unknown:
                    return kept_addresses(1, "UNKNOWN")
                return parse_line(text[start:index], text[9] == c'6')
        if not unknown and not 32 <= text[index] < 127:
            return <int> BAD_LINE
        index += 1
    if index >= MAX_LINE:
        return <int> TOO_LONG
    looked[0] = index
    return None


cdef bint begins_a_line(octets_t text, Py_ssize_t size, bint unknown) noexcept nogil:
    if not unknown:
        return begins_like(text, size, b"PROXY TCP4 ", 11) \
            or begins_like(text, size, b"PROXY TCP6 ", 11)
    if not begins_like(text, size, b"PROXY UNKNOWN", 13):
        return False
    if size <= 13 or text[13] == c' ':
        return True
    return text[13] == c'\r' and (size == 14 or text[14] == c'\n')


cdef object parse_line(bytes fields, bint is_ipv6):
    cdef list words = fields.split(b" ")
    cdef int source_port, destination_port
    cdef ProxyHeader header
    if len(words) != 4:
        return <int> BAD_LINE
    source = parse_address(words[0], is_ipv6)
    destination = parse_address(words[1], is_ipv6)
    source_port = parse_number(words[2], 5, 65535)
    destination_port = parse_number(words[3], 5, 65535)
    if source is None or destination is None or source_port < 0 or destination_port < 0:
        return <int> BAD_ADDRESS
    header = ProxyHeader.__new__(ProxyHeader)
    header.version = 1
    header.command = "PROXY"
    header.source = (source, source_port)
    header.destination = (destination, destination_port)
    return header


# Decimal without sign or leading zeros, at most `digits` digits; -1 if malformed.
cdef int parse_number(bytes word, Py_ssize_t digits, int largest) noexcept:
    cdef octets_t text = <octets_t> PyBytes_AS_STRING(word)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(word)
    cdef Py_ssize_t index
    cdef int number = 0
    if not 1 <= size <= digits or (size > 1 and text[0] == c'0'):
        return -1
    for index in range(size):
        if not c'0' <= text[index] <= c'9':
            return -1
        number = number * 10 + (text[index] - c'0')
    return number if number <= largest else -1


# A balancer with one socket for IPv6 and IPv4 declares all of its clients as TCP6, and writes IPv4
# addresses as IPv4-mapped IPv6 (HAProxy) or as plain IPv4 (nginx).
cdef str parse_address(bytes word, bint is_ipv6):
    if not is_ipv6:
        return parse_ipv4(word)
    return parse_ipv6(word) if b":" in word else parse_ipv4(word)


cdef str parse_ipv4(bytes word):
    cdef list parts = word.split(b".")
    if len(parts) != 4:
        return None
    for part in parts:
        if parse_number(part, 3, 255) < 0:
            return None
    return word.decode("ascii")


# Without a zone id. An IPv4-mapped IPv6 address becomes plain IPv4, as in version 2.
cdef str parse_ipv6(bytes word):
    cdef octets_t text = <octets_t> PyBytes_AS_STRING(word)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(word)
    cdef Py_ssize_t index
    if size > MAX_IPV6_TEXT:
        return None
    for index in range(size):
        if not (c'0' <= text[index] <= c':' or c'a' <= text[index] | 0x20 <= c'f') \
                and text[index] != c'.':
            return None
    try:
        address = IPv6Address(word.decode("ascii"))
    except ValueError:
        return None
    return str(address.ipv4_mapped or address)


# ---------------------------------------------------------------- version 2


# signature, version and command, family and transport, length; addresses; TLVs
cdef object read_binary(bytes held, octets_t text, Py_ssize_t size, Py_ssize_t *end):
    cdef Py_ssize_t length, addresses = 0
    cdef bint is_local = size > 12 and text[12] & 15 == 0
    cdef int fault = prefix_fault(text, size)
    cdef ProxyHeader header

    if fault:
        return fault
    if size < PREFIX:
        return None
    if not is_local:
        addresses = octets_of_addresses(text[13])
    length = text[14] << 8 | text[15]
    if length < addresses:
        return <int> TOO_SHORT
    if size < PREFIX + length:
        return None
    end[0] = PREFIX + length
    if not addresses:
        return kept_addresses(2, "LOCAL" if is_local else "UNKNOWN")
    header = ProxyHeader.__new__(ProxyHeader)
    header.version = 2
    header.command = "PROXY"
    fill_addresses(header, text + PREFIX, addresses == IPV6_OCTETS)
    return read_tlvs(header, held, text, PREFIX + addresses, end[0])


# The fault of the first 16 octets, as far as they have arrived; 0 for no fault.
cdef int prefix_fault(octets_t text, Py_ssize_t size) noexcept nogil:
    if not begins_like(text, size, <const char *> SIGNATURE, SIGNATURE_OCTETS):
        return NO_HEADER
    if size > 12 and text[12] >> 4 != 2:
        return BAD_VERSION
    if size > 12 and text[12] & 15 > 1:
        return BAD_COMMAND
    # For its own connections (LOCAL) the balancer may state any family.
    if size > 13 and text[12] & 15 and octets_of_addresses(text[13]) < 0:
        return BAD_FAMILY
    if size > 14 and text[14] > MAX_BODY >> 8:      # the first octet of the length may suffice
        return TOO_LONG
    if size > 15 and text[14] == MAX_BODY >> 8 and text[15]:
        return TOO_LONG
    return 0


cdef int octets_of_addresses(unsigned char family) noexcept nogil:
    if family == 0x11:
        return IPV4_OCTETS
    if family == 0x21:
        return IPV6_OCTETS
    return 0 if family == 0 else -1


cdef int fill_addresses(ProxyHeader header, octets_t text, bint is_ipv6) except -1:
    cdef Py_ssize_t one = 16 if is_ipv6 else 4
    cdef octets_t ports = text + 2 * one
    make = make_ipv6 if is_ipv6 else make_ipv4
    header.source = (make(text), ports[0] << 8 | ports[1])
    header.destination = (make(text + one), ports[2] << 8 | ports[3])
    return 0


cdef str make_ipv4(octets_t text):
    return f"{text[0]}.{text[1]}.{text[2]}.{text[3]}"


# IPv4-mapped IPv6 addresses (::ffff:192.0.2.1) become plain IPv4, RFC 4291 section 2.5.5.2.
cdef str make_ipv6(octets_t text):
    address = IPv6Address(<bytes> text[:16])
    return str(address.ipv4_mapped or address)


# *( type, two octets of length, value )
cdef object read_tlvs(
    ProxyHeader header, bytes held, octets_t text, Py_ssize_t start, Py_ssize_t end
):
    cdef Py_ssize_t checksum = 0            # its index, never 0: the signature is there
    cdef Py_ssize_t index = start
    cdef Py_ssize_t size, sub
    cdef int kind
    cdef list within
    while index < end:
        size = tlv_size(text, index, end)
        if size < 0:
            return <int> BAD_TLV
        kind = text[index]
        index += 3
        if (kind == TLV_UNIQUE_ID and size > MAX_UNIQUE_ID) \
                or (kind == TLV_AUTHORITY and size > MAX_AUTHORITY) \
                or (kind == TLV_CRC32C and size != 4) \
                or (kind == TLV_SSL and size < SSL_OCTETS):
            return <int> BAD_TLV
        if kind == TLV_CRC32C:
            if checksum:                    # with two, neither could be computed
                return <int> BAD_TLV
            checksum = index
        elif kind == TLV_SSL:
            within = []
            sub = index + SSL_OCTETS
            while sub < index + size:
                length = tlv_size(text, sub, index + size)
                if length < 0:
                    return <int> BAD_TLV
                within.append((text[sub], held[sub + 3:sub + 3 + length]))
                sub += 3 + length
            header.ssl = (text[index], int_32(text + index + 1), within)
        if kind != TLV_NOOP:
            header.tlvs.append((kind, held[index:index + size]))
        index += size
    if checksum and crc32c(text, end, checksum) != int_32(text + checksum):
        return <int> BAD_CHECKSUM
    return header


# Octets of the value of the TLV at `index`; -1 when it does not fit before `end`.
cdef Py_ssize_t tlv_size(octets_t text, Py_ssize_t index, Py_ssize_t end) noexcept nogil:
    cdef Py_ssize_t size
    if end - index < 3:
        return -1
    size = text[index + 1] << 8 | text[index + 2]
    return size if size <= end - index - 3 else -1


cdef unsigned int int_32(octets_t text) noexcept nogil:
    return <unsigned int> text[0] << 24 | text[1] << 16 | text[2] << 8 | text[3]


# RFC 3720 appendix B.4, over the whole header, with zeros for the four octets at `hole`. Bit by
# bit: a header of 200 octets takes a few microseconds, and few balancers send a checksum.
cdef unsigned int crc32c(octets_t text, Py_ssize_t size, Py_ssize_t hole) noexcept nogil:
    cdef unsigned int polynomial = 0x82F63B78
    cdef unsigned int crc = 0xFFFFFFFF
    cdef Py_ssize_t index
    cdef int bit
    for index in range(size):
        if not hole <= index < hole + 4:
            crc ^= text[index]
        bit = 0
        while bit < 8:
            bit += 1
            crc = crc >> 1 ^ (polynomial & (0 - (crc & 1)))
    return ~crc


# ---------------------------------------------------------------- both


# Whether the octets are a prefix of `word`, or `word` is a prefix of the octets.
cdef bint begins_like(
    octets_t text, Py_ssize_t size, const char *word, Py_ssize_t length
) noexcept nogil:
    return memcmp(text, word, min(size, length)) == 0


cdef ProxyHeader kept_addresses(int version, str command):
    cdef ProxyHeader header = ProxyHeader.__new__(ProxyHeader)
    header.version = version
    header.command = command
    return header
