"""The fields of the framing parser, by lifetime, and the methods that write them."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t


cdef extern from "_wire/scan.h" nogil:
    enum:
        VERB_UNKNOWN
        VERB_AUTH
        VERB_HTTP
        VERB_AUTH_LINE
        FS_BOL
        FS_MID
        FS_CR
        FS_DOT_CR
        FS_END
        FS_EDIT

    ctypedef struct fs_body:
        int line_state
        bint transparent
        bint normalize
        bint bare_newline
        bint has_nul
        bint has_8bit
        int64_t line_octets
        int64_t longest_line
        int64_t body_octets

    ctypedef struct fs_read:
        Py_ssize_t done
        unsigned char *out

    ctypedef struct fs_scanner:
        const char *name
        int (*advance)(fs_read *read) noexcept nogil

    int fs_verb(const unsigned char *p, Py_ssize_t n)
    Py_ssize_t scan_lf(const unsigned char *p, Py_ssize_t n)
    Py_ssize_t fs_word_length(const unsigned char *p, Py_ssize_t n)
    Py_ssize_t fs_trim_blanks(const unsigned char *p, Py_ssize_t n)
    Py_ssize_t scan_control(const unsigned char *p, Py_ssize_t n)
    bint fs_is_auth_line(const unsigned char *p, Py_ssize_t n)
    void fs_begin(fs_read *read, const fs_body *body, const unsigned char *octets,
                  Py_ssize_t count, bint discard)
    const fs_scanner *fs_scanner_at(Py_ssize_t at)
    Py_ssize_t fs_room(const fs_body *body, const fs_read *read)
    Py_ssize_t fs_finish(fs_body *body, fs_read *read, const unsigned char *out)
    void FS_CHECK(bint condition)


# What the next octet means.
cdef enum:
    MODE_COMMAND
    MODE_AUTH_LINE
    MODE_MAIL_DATA
    MODE_CHUNK
    MODE_SKIP
    MODE_END_DUE  # the dot line is consumed, END_OF_DATA follows the piece before it
    MODE_DEAD  # permanent: framing can no longer be trusted


cdef enum:
    FAULT_LINE_TOO_LONG = 1
    FAULT_LINE_ENDLESS
    FAULT_BARE_LF
    FAULT_CONTROL_CHARACTER
    FAULT_FOREIGN_PROTOCOL
    FAULT_TOO_MUCH_DATA
    FAULT_AUTH_LINE_TOO_LONG


@cython.final
@cython.freelist(16)
cdef class Command:
    cdef readonly int verb
    cdef readonly bytes argument
    cdef readonly bytes word


@cython.final
@cython.freelist(4)
cdef class Fault:
    cdef readonly int kind


@cython.final
cdef class Signal:
    cdef str _name


@cython.final
cdef class Parser:
    # connection: written by feed(), clear() and the methods that consume; the last `buffered`
    # octets of _buffer are not consumed yet
    cdef bytes _buffer
    cdef readonly Py_ssize_t buffered
    cdef readonly int64_t payload_octets
    cdef Py_ssize_t _max_command_length
    cdef public bint lf_ends_lines  # written by the dialogue between two pulls
    cdef bint _first_octet_due
    # between two pulls: written by _enter(), and reset to MODE_COMMAND when an end is returned
    cdef int _mode
    # command line: the first _scanned octets hold no LF, and _dropped octets came before them
    cdef Py_ssize_t _scanned
    cdef Py_ssize_t _dropped
    cdef bint _dropped_cr
    cdef bint _dropped_auth
    # message: reset by begin_message(); INT64_MAX means no limit
    cdef fs_body _body
    cdef readonly bint size_exceeded, bare_newline, has_nul, has_8bit
    cdef readonly int64_t longest_line  # octets without CR LF
    cdef int64_t _size
    cdef int64_t _drop_limit
    cdef bint _discarding
    cdef bint _holds_cr  # the CR of state FS_CR is not returned yet: it may become a space
    # chunk: written by expect_chunk() and skip_octets()
    cdef int64_t _chunk_left
    cdef bint _last_chunk

    cpdef object feed(self, bytes data)
    cpdef object next_event(self)
    cpdef object begin_message(self, int64_t size, int64_t drop_limit, bint normalize)
    cpdef object expect_auth_line(self)
    cpdef object expect_mail_data(self)
    cpdef object expect_chunk(self, int64_t octets, bint last)
    cpdef object skip_octets(self, int64_t octets)
    cpdef object discard_body(self)
    cpdef object clear(self)
    # buffer and mode
    cdef const unsigned char *_octets(self) noexcept
    cdef int _check(self) noexcept
    cdef object _need_more(self)
    cdef int _enter(self, int mode, int64_t octets) except -1
    cdef Fault _die(self, int kind)
    # lines
    cdef object _next_line(self)
    cdef object _take_line(self, const unsigned char *line, Py_ssize_t n, Py_ssize_t octets)
    cdef int _end_of_line(self, Py_ssize_t octets) noexcept
    cdef object _next_odd_line(self, const unsigned char *line)
    cdef object _end_line(self, Py_ssize_t lf, Py_ssize_t limit, bint is_auth)
    # message content
    cdef object _next_content(self)
    cdef bytes _settle_cr(self, unsigned char octet)
    cdef bytes _scan_piece(self, Py_ssize_t count)
    cdef int _show_facts(self) noexcept
    cdef int _consume_content(self, Py_ssize_t octets) noexcept
    cdef bytes _first_octets(self, Py_ssize_t count)
    cdef object _end_chunk(self)
    cdef object _skip(self)
