"""Framing: octets in; command and AUTH lines, mail data and BDAT chunks out.

In: `feed()` takes the octets of a read; `begin_message()`, `expect_*()` and `skip_octets()` set
between two pulls what the next octets are. Out: `next_event()`, one event per call, until it
returns None. The meaning of commands and replies to them are the dialogue's.

No input of a peer raises, no event refers to our buffer, and no result depends on how the octets
were cut into reads (except the pieces of a body). Memory: at most one command or AUTH line, and
the octets that were fed and not yet pulled.

RFC 5321 §2.3.7, §2.3.8, §4.1.1.4, §4.5.2; RFC 3030 §2; RFC 4954 §4. The scanners: `_wire/scan.h`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from fastsmtp._capi cimport new_bytes, resize_bytes, bytes_octets, bytes_size, Py_DECREF
from libc.stdint cimport INT64_MAX
from libc.string cimport memcpy

from enum import IntEnum


cdef enum:
    MAX_AUTH_LINE = 12288 + 2  # RFC 4954 §4, and CR LF
    ENDLESS = 16  # a line longer than this many times its limit is not SMTP
    MIN_COMMAND_LENGTH = 8  # `AUTH␠` must fit, since it decides which limit applies
    MAX_COMMAND_LENGTH = 1 << 26
    MAX_WORD = 128  # of an unknown verb, for the log
    NORMALIZE_SLICE = 16384  # octets that are changed for one piece while normalising
    LARGE_READ = 131072
    LARGE_READ_SLICE = 2048  # the same if the read alone takes most of the memory allowed


cdef const fs_scanner *scanner  # in use; only tests set it a second time


def scanners():
    """Return the names of the scanners of content that this processor can run, the best first."""
    cdef list names = []
    while fs_scanner_at(len(names)) is not NULL:
        names.append(fs_scanner_at(len(names)).name.decode())
    return tuple(names)


def use_scanner(str name):
    """Use this one of `scanners()` in all parsers; all give the same results."""
    global scanner
    scanner = fs_scanner_at(scanners().index(name))


use_scanner(scanners()[0])


class Verb(IntEnum):
    """The verb of a command line (RFC 5321 §4.1.1 and extensions); HTTP is any HTTP method."""

    UNKNOWN = 0
    HELO = 1
    EHLO = 2
    LHLO = 3
    MAIL = 4
    RCPT = 5
    DATA = 6
    BDAT = 7
    RSET = 8
    NOOP = 9
    VRFY = 10
    HELP = 11
    QUIT = 12
    AUTH = 13
    STARTTLS = 14
    XCLIENT = 15
    XFORWARD = 16
    EXPN = 17
    SEND = 18
    SOML = 19
    SAML = 20
    TURN = 21
    ETRN = 22
    PROXY = 23
    HTTP = 24
    AUTH_LINE = 25


class FaultKind(IntEnum):
    """What was wrong with the octets; all except three leave the parser dead."""

    LINE_TOO_LONG = 1
    LINE_ENDLESS = 2
    BARE_LF = 3
    CONTROL_CHARACTER = 4
    FOREIGN_PROTOCOL = 5
    TOO_MUCH_DATA = 6
    AUTH_LINE_TOO_LONG = 7


@cython.final
@cython.freelist(16)
cdef class Command:
    """Command()\n--\n\nA well-formed command line; made by Parser only."""

    def __init__(self):
        raise TypeError(f"{type(self).__name__} objects are made by a Parser")

    def __repr__(self):
        word = f" {self.word!r}" if self.word else ""
        # the argument of AUTH may be a password, which must not show in logs and tracebacks
        secret = self.verb == VERB_AUTH or self.verb == VERB_AUTH_LINE
        argument = b"..." if secret else self.argument[:MAX_WORD]
        return f"<Command {Verb(self.verb).name}{word} {argument!r}>"


@cython.final
@cython.freelist(4)
cdef class Fault:
    """Fault()\n--\n\nMalformed input; made by Parser only."""

    def __init__(self):
        raise TypeError(f"{type(self).__name__} objects are made by a Parser")

    def __repr__(self):
        return f"<Fault {FaultKind(self.kind).name}>"


@cython.final
cdef class Signal:
    """Signal()\n--\n\nAn end: END_OF_DATA or END_OF_CHUNK."""

    def __init__(self):
        raise TypeError(f"{type(self).__name__} has two objects, END_OF_DATA and END_OF_CHUNK")

    def __repr__(self):
        return self._name


cdef Signal make_signal(str name):
    cdef Signal signal = Signal.__new__(Signal)
    signal._name = name
    return signal


cdef Signal end_of_data = make_signal("END_OF_DATA")
cdef Signal end_of_chunk = make_signal("END_OF_CHUNK")
END_OF_DATA = end_of_data
END_OF_CHUNK = end_of_chunk


@cython.final
cdef class Parser:
    """Parser(max_command_length=2048)\n--\n\nThe octets of one connection as events."""

    def __cinit__(self, Py_ssize_t max_command_length=2048):
        if not MIN_COMMAND_LENGTH <= max_command_length <= MAX_COMMAND_LENGTH:
            raise ValueError(
                f"max_command_length takes {MIN_COMMAND_LENGTH} to {MAX_COMMAND_LENGTH} octets, "
                f"got {max_command_length}"
            )
        self._buffer = b""
        self._max_command_length = max_command_length
        self._first_octet_due = True
        self._mode = MODE_COMMAND
        self.begin_message(0, 0, False)

    # Both compiled code, for every read, event and message, and tests call these, hence cpdef.

    cpdef object feed(self, bytes data):
        """Take the octets of one read."""
        cdef bytes joined
        cdef char *octets
        if data is None:
            raise TypeError("feed takes bytes, got None")
        if self._mode == MODE_DEAD or PyBytes_GET_SIZE(data) == 0:
            return None
        if self.buffered == 0:
            self._buffer = data
        else:
            joined = PyBytes_FromStringAndSize(NULL, self.buffered + PyBytes_GET_SIZE(data))
            octets = PyBytes_AS_STRING(joined)
            memcpy(octets, self._octets(), self.buffered)
            memcpy(octets + self.buffered, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            self._buffer = joined
        self.buffered = PyBytes_GET_SIZE(self._buffer)

    cpdef object next_event(self):
        """Return the next event of the fed octets, or None when more are needed."""
        self._check()
        if self._mode == MODE_COMMAND or self._mode == MODE_AUTH_LINE:
            return self._next_line()
        if self._mode == MODE_MAIL_DATA or self._mode == MODE_CHUNK:
            return self._next_content()
        if self._mode == MODE_SKIP:
            return self._skip()
        if self._mode == MODE_END_DUE:
            self._mode = MODE_COMMAND
            return end_of_data
        return None

    cpdef object begin_message(self, int64_t size, int64_t drop_limit, bint normalize):
        """Start a message: set its limits, forget the facts of the last one."""
        if size < 0 or drop_limit < 0:
            raise ValueError(f"size and drop_limit take octets, got {size} and {drop_limit}")
        self._size = size if size > 0 else INT64_MAX
        self._drop_limit = drop_limit if drop_limit > 0 else INT64_MAX
        self._discarding = self._holds_cr = self.size_exceeded = False
        self._body = fs_body(
            line_state=FS_BOL, transparent=False, normalize=normalize, bare_newline=False,
            has_nul=False, has_8bit=False, line_octets=0, longest_line=0, body_octets=0,
        )
        self._show_facts()

    cpdef object expect_auth_line(self):
        """Read the client's answer to a 334 next."""
        self._enter(MODE_AUTH_LINE, 0)

    cpdef object expect_mail_data(self):
        """Read DATA content next, as if CR LF had just been seen."""
        self._enter(MODE_MAIL_DATA, 0)
        self._body.line_state = FS_BOL

    cpdef object expect_chunk(self, int64_t octets, bint last):
        """Read `octets` octets of BDAT content next."""
        self._enter(MODE_CHUNK, octets)
        self._last_chunk = last

    cpdef object skip_octets(self, int64_t octets):
        """Drop the next `octets` octets without a scan."""
        self._enter(MODE_SKIP, octets)

    cpdef object discard_body(self):
        """Scan the rest of this message, but return no more of it."""
        self._discarding = True
        self._holds_cr = False

    cpdef object clear(self):
        """Forget the buffered octets and the state of an unfinished command line."""
        self._buffer = b""
        self.buffered = self._scanned = self._dropped = 0

    @property
    def body_octets(self):
        """Octets of this message so far."""
        return self._body.body_octets

    # ---- buffer and mode ----------------------------------------------------------------------

    cdef const unsigned char *_octets(self) noexcept:
        cdef PyObject *buffer = <PyObject *>self._buffer  # borrowed: no reference is taken
        return <const unsigned char *>bytes_octets(buffer) + bytes_size(buffer) - self.buffered

    cdef int _check(self) noexcept:
        # the invariants of the fields; compiled in debug builds only
        FS_CHECK(0 <= self.buffered <= PyBytes_GET_SIZE(self._buffer))
        FS_CHECK(0 <= self._scanned <= self.buffered)
        FS_CHECK(self._dropped == 0 or self._scanned == 0)
        FS_CHECK(self._chunk_left >= 0)
        FS_CHECK(not self._holds_cr or (self._body.normalize and self._body.line_state == FS_CR))
        FS_CHECK(self._mode != MODE_DEAD or PyBytes_GET_SIZE(self._buffer) == 0)
        FS_CHECK(self.size_exceeded == (self._body.body_octets > self._size))
        return 0

    cdef object _need_more(self):
        # An idle connection must not keep a whole read in memory for the few octets at its end.
        if self.buffered == 0:
            self._buffer = b""
        elif self.buffered < PyBytes_GET_SIZE(self._buffer):
            self._buffer = self._first_octets(self.buffered)
        return None

    cdef int _enter(self, int mode, int64_t octets) except -1:
        if octets < 0:
            raise ValueError(f"a count of octets is not negative, got {octets}")
        if self._mode == MODE_DEAD:
            return 0
        if self._mode != MODE_COMMAND:
            raise RuntimeError("the content expected before has not ended yet")
        self._mode = mode
        self._chunk_left = octets
        return 0

    cdef Fault _die(self, int kind):
        self.clear()
        self._mode = MODE_DEAD
        return make_fault(kind)

    # ---- lines --------------------------------------------------------------------------------

    cdef object _next_line(self):
        cdef const unsigned char *line = self._octets()
        cdef Py_ssize_t left, cr
        if self.buffered == 0:
            return self._need_more()
        if self._scanned == 0 and self._dropped == 0:
            # Nearly every line is complete, and its first control octet is the CR before its LF,
            # so one scan finds both, within the limit of any line.
            left = min(self.buffered, self._max_command_length, MAX_AUTH_LINE)
            cr = scan_control(line, left)
            if 0 <= cr < left - 1 and line[cr] == b"\r" and line[cr + 1] == b"\n":
                return self._take_line(line, cr, cr + 2)
        return self._next_odd_line(line)

    cdef object _take_line(self, const unsigned char *line, Py_ssize_t n, Py_ssize_t octets):
        """The event of line[0:n], a well-formed line; octets: its length with CR LF."""
        cdef Command command
        if self._mode == MODE_AUTH_LINE:
            command = make_auth_line(line, n)
        else:
            command = make_command(line, fs_trim_blanks(line, n))
        self._end_of_line(octets)
        return command

    cdef int _end_of_line(self, Py_ssize_t octets) noexcept:
        self.buffered -= octets
        self._scanned = self._dropped = 0
        self._first_octet_due = False
        self._mode = MODE_COMMAND
        return 0

    cdef object _next_odd_line(self, const unsigned char *line):
        """The same for a line that is incomplete, too long, or has control octets."""
        cdef Py_ssize_t left = self.buffered, limit, endless, lf
        cdef bint is_auth
        if self._first_octet_due:
            self._first_octet_due = False
            if line[0] == 0x00 or line[0] == 0x03 or line[0] == 0x16:
                return self._die(FAULT_FOREIGN_PROTOCOL)
        if self._mode == MODE_AUTH_LINE:
            is_auth = True
        else:
            is_auth = self._dropped_auth if self._dropped else fs_is_auth_line(line, left)
        limit = MAX_AUTH_LINE if is_auth else self._max_command_length
        endless = ENDLESS * limit - self._dropped
        lf = scan_lf(line + self._scanned, min(left, endless) - self._scanned)
        if lf >= 0:
            return self._end_line(self._scanned + lf, limit, is_auth)
        if left >= endless:
            return self._die(FAULT_LINE_ENDLESS)
        self._scanned = left
        if self._dropped + left >= limit:
            # The line is too long already: drop it, and keep what is needed to judge its end.
            self._dropped += left
            self._dropped_auth = is_auth
            self._dropped_cr = line[left - 1] == b"\r"
            self.buffered = self._scanned = 0
        return self._need_more()

    cdef object _end_line(self, Py_ssize_t lf, Py_ssize_t limit, bint is_auth):
        """The event of the line that ends at octets[lf]."""
        cdef const unsigned char *line = self._octets()
        cdef bint has_cr = self._dropped > 0 and self._dropped_cr
        cdef Py_ssize_t n = lf
        cdef Fault event
        if lf > 0:
            has_cr = line[lf - 1] == b"\r"
            n -= has_cr
        if not has_cr and not self.lf_ends_lines:
            return self._die(FAULT_BARE_LF)
        if self._dropped + lf + 1 > limit:
            event = make_fault(FAULT_AUTH_LINE_TOO_LONG if is_auth else FAULT_LINE_TOO_LONG)
        elif scan_control(line, n) >= 0:
            event = make_fault(FAULT_CONTROL_CHARACTER)
        else:
            return self._take_line(line, n, lf + 1)
        self._end_of_line(lf + 1)
        return event

    # ---- message content ----------------------------------------------------------------------

    cdef object _next_content(self):
        cdef Py_ssize_t count
        cdef bytes piece
        while self._mode != MODE_END_DUE:
            count = self.buffered
            if self._mode == MODE_CHUNK and count >= self._chunk_left:
                count = self._chunk_left
                if count == 0:
                    return self._end_chunk()
            if count == 0:
                return self._need_more()
            piece = self._settle_cr(self._octets()[0])
            if piece is None:
                piece = self._scan_piece(count)
            if piece is not None:
                return piece
            if self._body.body_octets > self._drop_limit:
                return self._die(FAULT_TOO_MUCH_DATA)
        self._mode = MODE_COMMAND
        return end_of_data

    cdef bytes _settle_cr(self, unsigned char octet):
        """Decide by `octet` what the CR before it is; return its piece, None without one."""
        cdef bint is_lf = octet == b"\n"
        if self._body.line_state == FS_DOT_CR:
            if is_lf:
                return None  # the end, which the scan will see
            self._body.line_state = FS_CR
            self._body.line_octets += 1
            self._body.body_octets += 1
            self.size_exceeded = self._body.body_octets > self._size
        elif not self._holds_cr:
            return None
        self._holds_cr = False
        if self._discarding or self._body.body_octets > min(self._size, self._drop_limit):
            return None
        return b"\r" if is_lf or not self._body.normalize else b" "

    cdef bytes _scan_piece(self, Py_ssize_t count):
        """Consume up to `count` octets and return their piece of the body, None if it is empty.

        A piece never crosses `size` or `drop_limit`: exactly that many octets are returned, however
        they were cut into reads, and the rest is only scanned.
        """
        cdef fs_body body = self._body  # written back at the end: a MemoryError changes nothing
        cdef fs_read read
        cdef int64_t room = min(self._size, self._drop_limit) - body.body_octets
        cdef bint discard = self._discarding or room <= 0
        cdef Py_ssize_t length
        cdef Py_ssize_t piece_size = NORMALIZE_SLICE
        cdef bytes piece = None
        cdef int status
        if PyBytes_GET_SIZE(self._buffer) > LARGE_READ:
            piece_size = LARGE_READ_SLICE
        if not discard and room < count:
            count = room
        body.transparent = self._mode == MODE_MAIL_DATA
        fs_begin(&read, &body, self._octets(), count, discard)
        status = scanner.advance(&read)
        if status == FS_EDIT and body.normalize and count > piece_size:
            # Normalising can double the octets of a read, which is kept until all are returned:
            # small pieces keep the sum within the memory bound of a connection.
            count = piece_size if read.done < piece_size else min(read.done, 2 * piece_size)
            fs_begin(&read, &body, self._octets(), count, discard)
            status = scanner.advance(&read)
        if status == FS_EDIT:
            piece = edited_piece(&body, &read, &status)
        else:
            length = fs_finish(&body, &read, NULL)
            if length > 0 and not discard:
                piece = self._first_octets(length)
        self._body = body
        self._show_facts()
        self.size_exceeded = body.body_octets > self._size
        self._holds_cr = body.normalize and body.line_state == FS_CR and not discard
        self._consume_content(read.done)
        if status == FS_END:
            self._mode = MODE_END_DUE
        return piece

    cdef int _show_facts(self) noexcept:
        """Publish the facts of the message so far."""
        self.bare_newline = self._body.bare_newline
        self.has_nul = self._body.has_nul
        self.has_8bit = self._body.has_8bit
        self.longest_line = self._body.longest_line
        return 0

    cdef int _consume_content(self, Py_ssize_t octets) noexcept:
        self.buffered -= octets
        self.payload_octets += octets
        if self._mode != MODE_MAIL_DATA:
            self._chunk_left -= octets
        if self.buffered == 0:
            self._buffer = b""  # the pieces are copies, and the next call may come late
        return 0

    cdef bytes _first_octets(self, Py_ssize_t count):
        """The next octets as a bytes object; the one that was fed where possible."""
        if count == PyBytes_GET_SIZE(self._buffer):
            return self._buffer
        return PyBytes_FromStringAndSize(<const char *>self._octets(), count)

    cdef object _end_chunk(self):
        if self._last_chunk:
            if self._body.line_state == FS_CR:
                self._body.line_state = FS_MID
                self._body.bare_newline = True
                self._show_facts()
                if self._holds_cr:
                    self._holds_cr = False
                    return b" "
            self._body.longest_line = max(self._body.longest_line, self._body.line_octets)
            self._show_facts()
        self._mode = MODE_COMMAND
        return end_of_chunk

    cdef object _skip(self):
        self._consume_content(min(self._chunk_left, self.buffered))
        if self._chunk_left > 0:
            return self._need_more()
        self._mode = MODE_COMMAND
        return end_of_chunk


cdef Fault make_fault(int kind):
    cdef Fault fault = Fault.__new__(Fault)
    fault.kind = kind
    return fault


cdef Command make_command(const unsigned char *line, Py_ssize_t n):
    """Cut line[0:n], without its CR LF, into verb and argument."""
    cdef Py_ssize_t word = fs_word_length(line, n)
    cdef Command command = Command.__new__(Command)
    command.verb = fs_verb(line, word)
    command.word = b""
    if command.verb == VERB_UNKNOWN or command.verb == VERB_HTTP:
        command.word = PyBytes_FromStringAndSize(<const char *>line, min(word, MAX_WORD))
    command.argument = b""
    if word < n:
        command.argument = PyBytes_FromStringAndSize(<const char *>line + word + 1, n - word - 1)
    return command


cdef Command make_auth_line(const unsigned char *line, Py_ssize_t n):
    """line[0:n] unchanged: trailing blanks are not base64 and have to be refused."""
    cdef Command command = Command.__new__(Command)
    command.verb = VERB_AUTH_LINE
    command.word = b""
    command.argument = PyBytes_FromStringAndSize(<const char *>line, n)
    return command


cdef bytes edited_piece(fs_body *body, fs_read *read, int *status):
    """Continue a scan at octets that have to be changed or dropped."""
    cdef PyObject *octets = new_bytes(NULL, fs_room(body, read))
    cdef Py_ssize_t length
    read.out = <unsigned char *>bytes_octets(octets)
    status[0] = scanner.advance(read)
    length = fs_finish(body, read, <unsigned char *>bytes_octets(octets))
    resize_bytes(&octets, length)  # frees it if it raises
    piece = <bytes>octets
    Py_DECREF(octets)
    return piece if length > 0 else None
