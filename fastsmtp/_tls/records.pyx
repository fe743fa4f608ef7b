"""Records of one TLS connection after its handshake: ciphertext in, plaintext out, and back.

In: what was read from the transport, and what is to be sent. Out: plaintext, and what is to be
written to the transport. Nothing that a peer sends makes it raise: a failure is `error`, and from
then on nothing goes in or out. What comes behind close_notify is dropped. RFC 8446 §5.1, §6.1.

Bounded: a call of `receive` works on so many records, and `more` says that some are left for the
next one. Records without plaintext (key updates, alerts, empty ones, fragments of handshakes) cost
OpenSSL up to twenty times as much as one with a command, inside one call of it. So they count as
many, and a client that sends too many of them is cut.

OpenSSL is given whole records and asked for what is in them: it never has to say that it wants
more, which would be an exception each time. It decrypts into the object that is given out.
What is no record goes to OpenSSL as it is, which fails it.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.object cimport PyObject
from fastsmtp._capi cimport new_bytes, resize_bytes, bytes_octets, Py_DECREF

import ssl


cdef enum:
    HEADER = 5
    RECORD = 16384  # octets of plaintext in a record at most (RFC 8446 §5.1)
    SENT_RECORD = 4096  # octets of plaintext in one of ours, see `send`
    LONGEST = HEADER + RECORD + 256  # of a record; one of TLS 1.2 may be longer, and hardly is
    BATCH = 16  # records that OpenSSL gets at a time: it works through all that have no plaintext
    CHANGE_CIPHER_SPEC = 20  # the lowest of the record types, RFC 8446 §5.1
    APPLICATION_DATA = 23  # the highest

# Records of one client that a call of `receive` works on, and for how many of them one without
# plaintext counts.
RECORDS_PER_CALL = 512
IDLE_WEIGHT = 16
# By how many the records without plaintext may outnumber those with it. BoringSSL allows 32 empty
# ones or key updates in a row, Go 16. An OpenSSL client of TLS 1.0 sends one before each record.
MAX_IDLE = 32

cdef Py_ssize_t _RECORDS_PER_CALL = RECORDS_PER_CALL
cdef Py_ssize_t _IDLE_WEIGHT = IDLE_WEIGHT
cdef Py_ssize_t _MAX_IDLE = MAX_IDLE


cdef inline Py_ssize_t length_of(const unsigned char *header) noexcept nogil:
    """Of a record, its header included."""
    return HEADER + (header[3] << 8 | header[4])


cdef inline Py_ssize_t growing(Py_ssize_t size) noexcept nogil:
    """A MemoryBIO keeps four thirds of the largest that was ever in it. One that grows for so many
    octets first has just room for `size`.
    """
    return (size + 3) // 4 * 3 - 3


cdef inline bint is_odd(const unsigned char *header) noexcept nogil:
    """Whether OpenSSL may well refuse the record when it sees the header."""
    return (
        header[0] < CHANGE_CIPHER_SPEC or header[0] > APPLICATION_DATA or header[1] != 3
        or length_of(header) > LONGEST
    )


cdef Py_ssize_t scan_records(
    const unsigned char *octets, Py_ssize_t size, Py_ssize_t most, Py_ssize_t *count
) noexcept nogil:
    """Return the length of the whole records that octets begin with, of LONGEST at most, and count
    them: no more than `most`.
    """
    cdef Py_ssize_t end = 0, following
    count[0] = 0
    while count[0] < most and size - end >= HEADER and not is_odd(octets + end):
        following = end + length_of(octets + end)
        if following > size or following > LONGEST:
            break
        end = following
        count[0] += 1
    return end


cdef Py_ssize_t count_records(
    const unsigned char *octets, Py_ssize_t *at, Py_ssize_t end
) noexcept nogil:
    """Return how many records there are from `at` to `end`, and move `at` there."""
    cdef Py_ssize_t count = 0
    while at[0] < end:
        at[0] += length_of(octets + at[0])
        count += 1
    return count


cdef class Records:
    """Records()\n--\n\nOne end of TLS. Who shakes hands sets `established`, or `error`."""

    cpdef object begin(self, object context):
        """Begin as a server, with a context."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    cpdef object fail(self, object error):
        """There is no TLS any more."""
        self.error = error.with_traceback(None)  # it would hold frames, and they this object
        self._kept = None
        self.more = False

    cpdef object let_go(self):
        """Free what OpenSSL holds; only after a failure, when its last output has been taken."""
        self.tls = self._incoming = self._outgoing = None

    # ---- the handshake --------------------------------------------------------------------------

    cpdef bint step(self, bytes octets) except -1:
        """Go on with octets of the client; True: it is done. Raises what OpenSSL says."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(octets), first = growing(size)
        if not self._shaking and first > 0:  # a ClientHello, the largest of most handshakes
            self._incoming.write(octets[:first])
            octets = octets[first:]
        self._shaking = True
        self._incoming.write(octets)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    cpdef bytes take_unread(self):
        """Return what the client has sent behind its Finished: it begins with a record."""
        return self._incoming.read() if self._incoming.pending else b""

    # ---- in -------------------------------------------------------------------------------------

    cpdef object keep(self, bytes octets):
        """Put `octets` behind those that are left for the next call of `receive`."""
        self._kept = octets if self._kept is None else self._kept + octets
        self.more = True

    cpdef bytes receive(self, bytes octets):
        """Return the plaintext of what was read, as far as it is whole; with `more` set, the next
        call goes on with what is left, also when it brings no octets.
        """
        cdef const unsigned char *start
        cdef Py_ssize_t size
        if self.error is not None or self.ended:
            return b""
        if self.more:
            octets = self._kept + octets
            self._kept = None
            self.more = False
        if self._header is not None:
            octets = self._header + octets
            self._header = None
        start = <const unsigned char *>PyBytes_AS_STRING(octets)
        size = PyBytes_GET_SIZE(octets)
        if not self._missing and size >= HEADER and length_of(start) == size and not is_odd(start):
            return self._receive_one(octets)
        return self._receive_some(octets)

    cdef bytes _receive_one(self, bytes octets):
        """A read that is one record: a command, mostly, or a few."""
        cdef bytes plaintext
        self._put(<const unsigned char *>PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
        self._held = 0
        try:
            plaintext = self.tls.read(PyBytes_GET_SIZE(octets))
            if not plaintext:
                self.ended = True
            elif self._idle:
                self._idle -= 1
            return plaintext
        except ssl.SSLWantReadError:  # it was one of TLS itself
            self._count(1, 0)
        except ssl.SSLZeroReturnError:
            self.ended = True
        except (ssl.SSLError, OSError, ValueError) as error:
            self.fail(error)
        return b""

    cdef bytes _receive_some(self, bytes read):
        cdef const unsigned char *octets = <const unsigned char *>PyBytes_AS_STRING(read)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(read)
        cdef Py_ssize_t at = 0, used = 0, bound = self._held + size, fed
        cdef PyObject *plaintext = NULL
        cdef object result = b""
        self._left = _RECORDS_PER_CALL
        try:
            while at < size and self.error is None and not self.ended:
                if self._left <= 0:
                    self.keep(read[at:])
                    break
                fed = self._feed(octets + at, size - at)
                if self._ready:  # else it has taken all
                    if plaintext is NULL:
                        plaintext = new_bytes(NULL, bound)
                    used += self._decrypt(
                        octets + at, fed, bytes_octets(plaintext) + used, bound - used
                    )
                at += fed
            if plaintext is not NULL:
                if used < bound:
                    resize_bytes(&plaintext, used)
                result = <object>plaintext
        finally:
            if plaintext is not NULL:
                Py_DECREF(plaintext)
        return result

    cdef int _count(self, Py_ssize_t idle, Py_ssize_t full) except -1:
        """Records have been worked on, `idle` of them without plaintext."""
        self._left -= full + idle * _IDLE_WEIGHT
        self._idle = max(0, self._idle + idle - full)
        if self._idle > _MAX_IDLE and self.error is None:
            self.fail(ssl.SSLError(ssl.SSL_ERROR_SSL, "too many records without plaintext"))
        return 0

    cdef Py_ssize_t _feed(self, const unsigned char *octets, Py_ssize_t size) except -1:
        """Give OpenSSL whole records, or what there is of one; return how many octets. `_ready`
        says whether it has something to work on.
        """
        cdef Py_ssize_t count = self._missing
        self._ready = True
        self._fed = 1
        if count == 0:
            # No more than may be idle: nothing is worked on after the one that ends it.
            count = scan_records(octets, size, min(BATCH, _MAX_IDLE + 1 - self._idle), &self._fed)
            if count == 0:
                return self._feed_part(octets, size)
        elif count > size:
            self._ready = False
            count = size
        self._put(octets, count)
        if self._missing:
            self._missing -= count
        return count

    cdef Py_ssize_t _feed_part(self, const unsigned char *octets, Py_ssize_t size) except -1:
        """The same for the beginning of a record, or for one that is odd."""
        self._ready = False
        if size < HEADER:
            self._header = octets[:size]
            return size
        self._missing = length_of(octets)
        if is_odd(octets):  # OpenSSL has to see it before there is more of it
            size = HEADER
            self._ready = True
            self._fed = 0
        self._put(octets, size)
        self._missing -= size
        return size

    cdef int _put(self, const unsigned char *octets, Py_ssize_t size) except -1:
        """Write to the BIO. While it is small it grows once, and not beyond a record."""
        cdef Py_ssize_t first = growing(LONGEST) - self._held
        if not self._grown and size > first:
            self._grown = True
            if first > 0:
                self._write(octets, first)
                octets += first
                size -= first
        return self._write(octets, size)

    cdef int _write(self, const unsigned char *octets, Py_ssize_t size) except -1:
        self._incoming.write(PyMemoryView_FromMemory(<char *>octets, size, PyBUF_READ))
        self._held += size
        return 0

    cdef Py_ssize_t _decrypt(
        self, const unsigned char *records, Py_ssize_t fed, char *room, Py_ssize_t size
    ) except -1:
        """Read what is in the BIO, and count it: `fed` octets of `records` were put there last.
        Returns octets of plaintext, of which there are fewer.
        """
        cdef Py_ssize_t used = 0, at = 0, count, left = self._fed, done
        self._held = 0
        try:
            while True:
                # A read never gives out more than one record.
                count = self.tls.read(
                    RECORD, PyMemoryView_FromMemory(room + used, size - used, PyBUF_WRITE)
                )
                if count == 0:
                    self.ended = True
                    break
                used += count
                count = self._incoming.pending
                # Those before the one that has plaintext had none.
                done = count_records(records, &at, fed - count) if self._fed > 1 else 1
                self._count(done - 1, 1)
                left -= done
                if not count:
                    break
        except ssl.SSLWantReadError:  # the last one was one of TLS itself
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except (ssl.SSLError, OSError, ValueError) as error:
            self.fail(error)
        if left > 0:
            self._count(left, 0)
        return used

    # ---- out ------------------------------------------------------------------------------------

    cpdef bytes send(self, bytes octets):
        """Return what is to be written for `octets`; nothing before the handshake is done and
        after a failure.

        A client that reads 4 KiB at a time and then polls its socket does not see what its TLS
        library still holds of a longer record, and waits until its timeout.
        """
        cdef Py_ssize_t start, size = PyBytes_GET_SIZE(octets)
        if not self.established or self.error is not None:
            return b""
        try:
            if size <= SENT_RECORD:
                self.tls.write(octets)
                return self._outgoing.read()
            parts = []
            for start in range(0, size, SENT_RECORD):
                self.tls.write(octets[start:start + SENT_RECORD])
                parts.append(self._outgoing.read())
            return b"".join(parts)
        except (ssl.SSLError, OSError, ValueError) as error:
            self.fail(error)
            return b""

    cpdef bytes take_output(self):
        """Return what TLS has to say of its own: handshake, tickets, key updates, alerts."""
        if self._outgoing is None or not self._outgoing.pending:
            return b""
        return self._outgoing.read()

    cpdef bytes close(self):
        """Return close_notify, the last octets: nothing can be sent any more."""
        cdef bytes octets
        if not self.established or self.error is not None:
            return b""
        try:
            self.tls.unwrap()
        except (ssl.SSLError, OSError, ValueError):
            pass  # the client's close_notify is not waited for
        octets = self.take_output()
        self.fail(ssl.SSLError(ssl.SSL_ERROR_SSL, "TLS is closed"))
        return octets
