"""Records of one TLS connection after its handshake: ciphertext in, plaintext out, and back.

In: octets read from the transport, and plaintext to send. Out: plaintext, and octets to write to
the transport. No input of a peer makes it raise: a failure is `error`, and after it nothing goes in
or out. Octets after close_notify are dropped. RFC 8446 §5.1, §6.1.

Bounded: a call of `receive` works on a limited number of records; `more` means that some are left
for the next one. Records without plaintext (key updates, alerts, empty ones, fragments of
handshakes) cost OpenSSL up to twenty times as much as one with a command, inside one call of it. So
each counts as many, and a client that sends too many of them is cut.

OpenSSL gets whole records and is read until they are used up, so that it rarely raises
SSLWantReadError, an exception for every read. It decrypts into the object that is returned. Octets
that are not a record are passed on as they are; OpenSSL refuses them.
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
    LONGEST = HEADER + RECORD + 256  # of a record; in TLS 1.2 it may be longer, but hardly ever is
    BATCH = 16  # records that OpenSSL gets at a time: one read processes all without plaintext
    CHANGE_CIPHER_SPEC = 20  # the lowest of the record types, RFC 8446 §5.1
    APPLICATION_DATA = 23  # the highest

# Records of one client that a call of `receive` works on, and how many of them a record without
# plaintext counts as.
RECORDS_PER_CALL = 512
IDLE_WEIGHT = 16
# How many more records without plaintext there may be than with it. BoringSSL allows 32 empty ones
# or key updates in a row, Go 16. An OpenSSL client of TLS 1.0 sends one before each record.
MAX_IDLE = 32

cdef Py_ssize_t _RECORDS_PER_CALL = RECORDS_PER_CALL
cdef Py_ssize_t _IDLE_WEIGHT = IDLE_WEIGHT
cdef Py_ssize_t _MAX_IDLE = MAX_IDLE


cdef inline Py_ssize_t length_of(const unsigned char *header) noexcept nogil:
    """The length of a record, with its header."""
    return HEADER + (header[3] << 8 | header[4])


cdef inline Py_ssize_t growing(Py_ssize_t size) noexcept nogil:
    """How many octets to write first, so that a MemoryBIO grows to just `size`: it always grows to
    four thirds of the largest content so far.
    """
    return (size + 3) // 4 * 3 - 3


cdef inline bint is_odd(const unsigned char *header) noexcept nogil:
    """Whether OpenSSL may refuse the record because of its header."""
    return (
        header[0] < CHANGE_CIPHER_SPEC or header[0] > APPLICATION_DATA or header[1] != 3
        or length_of(header) > LONGEST
    )


cdef Py_ssize_t scan_records(
    const unsigned char *octets, Py_ssize_t size, Py_ssize_t most, Py_ssize_t *count
) noexcept nogil:
    """Return the length of the whole records at the start of the octets, each at most LONGEST, and
    count them: no more than `most`.
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
    """Return the number of records from `at` to `end`, and set `at` to `end`."""
    cdef Py_ssize_t count = 0
    while at[0] < end:
        at[0] += length_of(octets + at[0])
        count += 1
    return count


cdef class Records:
    """Records()\n--\n\nOne end of TLS. The handshake sets `established` or `error`."""

    cpdef object begin(self, object context):
        """Begin as a server, with a context."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    cpdef object fail(self, object error):
        """TLS has failed with `error`."""
        self.error = error.with_traceback(None)  # its frames would refer to this object
        self._kept = None
        self.more = False

    cpdef object let_go(self):
        """Free OpenSSL's objects; only after a failure, when the last output has been taken."""
        self.tls = self._incoming = self._outgoing = None

    # ---- the handshake --------------------------------------------------------------------------

    cpdef bint step(self, bytes octets) except -1:
        """Continue with octets of the client; True: it is done. Raises OpenSSL's errors."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(octets), first = growing(size)
        if not self._shaking and first > 0:  # a ClientHello, mostly the longest client message
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
        """Return the client's octets after its Finished: they begin with a record."""
        return self._incoming.read() if self._incoming.pending else b""

    # ---- in -------------------------------------------------------------------------------------

    cpdef object keep(self, bytes octets):
        """Append `octets` to those that are left for the next call of `receive`."""
        self._kept = octets if self._kept is None else self._kept + octets
        self.more = True

    cpdef bytes receive(self, bytes octets):
        """Return the plaintext of the complete records; with `more` set, the next call continues
        with the rest, even without new octets.
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
        """A read that is one record: mostly one command, or a few."""
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
        except ssl.SSLWantReadError:  # a record without plaintext
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
                if self._ready:  # otherwise all is processed
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
        """Count processed records, `idle` without plaintext and `full` with it."""
        self._left -= full + idle * _IDLE_WEIGHT
        self._idle = max(0, self._idle + idle - full)
        if self._idle > _MAX_IDLE and self.error is None:
            self.fail(ssl.SSLError(ssl.SSL_ERROR_SSL, "too many records without plaintext"))
        return 0

    cdef Py_ssize_t _feed(self, const unsigned char *octets, Py_ssize_t size) except -1:
        """Pass OpenSSL whole records, or the beginning of one; return how many octets. `_ready` is
        set if it has something to work on.
        """
        cdef Py_ssize_t count = self._missing
        self._ready = True
        self._fed = 1
        if count == 0:
            # No more than may be idle: after the record that ends TLS none is processed.
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
        """The same for the beginning of a record, or for an odd record."""
        self._ready = False
        if size < HEADER:
            self._header = octets[:size]
            return size
        self._missing = length_of(octets)
        if is_odd(octets):  # OpenSSL may refuse it before the rest arrives
            size = HEADER
            self._ready = True
            self._fed = 0
        self._put(octets, size)
        self._missing -= size
        return size

    cdef int _put(self, const unsigned char *octets, Py_ssize_t size) except -1:
        """Write to the BIO. If it is small, grow it once, to the size of a record at most."""
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
        """Read the records in the BIO, and count them: the last `fed` octets written to it are at
        `records`. Returns the number of octets of plaintext.
        """
        cdef Py_ssize_t used = 0, at = 0, count, left = self._fed, done
        self._held = 0
        try:
            while True:
                # A read never returns more than one record.
                count = self.tls.read(
                    RECORD, PyMemoryView_FromMemory(room + used, size - used, PyBUF_WRITE)
                )
                if count == 0:
                    self.ended = True
                    break
                used += count
                count = self._incoming.pending
                # The records before the one with plaintext had none.
                done = count_records(records, &at, fed - count) if self._fed > 1 else 1
                self._count(done - 1, 1)
                left -= done
                if not count:
                    break
        except ssl.SSLWantReadError:  # the last record had no plaintext
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
        """Return the octets to write for the plaintext `octets`; b"" before the handshake is done
        and after a failure.

        Records are short: a client that reads 4 KiB at a time and then polls its socket does not
        see what its TLS library still holds of a longer record, and waits until its timeout.
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
        """Return the octets that TLS itself sends: handshake, tickets, key updates, alerts."""
        if self._outgoing is None or not self._outgoing.pending:
            return b""
        return self._outgoing.read()

    cpdef bytes close(self):
        """Return close_notify; after it nothing can be sent."""
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
