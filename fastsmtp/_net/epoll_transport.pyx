"""Sockets of a server in one epoll of its own, which the event loop watches as one descriptor.

In: a listening socket, and a protocol factory. Out: asyncio's calls of a protocol, over transports
that read and write immediately: nothing waits for a later turn of the loop if it can be done in
this one. A connection costs the loop nothing: no handle, no request, no callback of its own.

The order of calls is asyncio's: `connection_made`, `data_received`, `eof_received`,
`connection_lost`, `pause_writing` and `resume_writing` in between, never nested except those of
writing; their exceptions end the connection and go to the loop's exception handler.

Each connection has a copy of the context, as with the loop's own transports. Bounded: `_net.turns`
decides how long a turn of the loop may take, and which connection is next; the rest is reported
again, or waits there. Linux only (`AVAILABLE`); the system calls are in `epoll.h`.

A process made by `fork` shares the epoll and the sockets with its parent. It only closes the
descriptors: nothing is read, sent, shut down, accepted, or removed from the epoll.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from fastsmtp._capi cimport (
    new_bytes,
    resize_bytes,
    bytes_octets,
    bytearray_octets,
    Py_DECREF,
    copy_context,
    enter_context,
    leave_context,
)
from fastsmtp._native cimport forks
from fastsmtp._net.turns cimport Flow, Receiver, Source, Turns
from libc.stdint cimport uint32_t

import os
import socket

from fastsmtp._log import logger


cdef extern from "_net/epoll.h" nogil:
    enum:
        FS_HAVE_EPOLL
        FS_UNIX
        FS_INET
    const uint32_t FS_READABLE
    const uint32_t FS_WRITABLE
    const uint32_t FS_BROKEN
    ctypedef struct fs_event:
        pass
    ctypedef struct fs_name:
        char *text
        int port
        int family
    int fs_epoll_new() noexcept
    const uint32_t FS_ERROR
    int fs_epoll_set(int epoll, int fd, void *owner, uint32_t events, bint is_there) noexcept
    void fs_epoll_forget(int epoll, int fd) noexcept
    int fs_why_broken(int fd) noexcept
    int fs_epoll_look(int epoll, fs_event *events, int room) noexcept
    void *fs_event_owner(const fs_event *event) noexcept
    uint32_t fs_event_kinds(const fs_event *event) noexcept
    int fs_accept(int listener, fs_name *peer) noexcept
    int fs_own_name(int fd, fs_name *name) noexcept
    Py_ssize_t fs_recv(int fd, char *octets, size_t room) noexcept
    Py_ssize_t fs_send(int fd, const char *octets, size_t size) noexcept
    int fs_shutdown(int fd) noexcept
    int fs_spare() noexcept
    void fs_close(int fd) noexcept
    bint fs_is_again() noexcept
    bint fs_is_out_of_descriptors() noexcept
    bint fs_is_of_one() noexcept
    int fs_errno() noexcept


cdef enum:
    EVENTS = 256  # of one poll of the epoll
    LOOKS = 4  # polls in one turn, if each of them returns that many events
    NEWCOMERS = 64  # of one listener in one turn
    READS = 4  # of one connection in one turn
    READ = 65536  # octets of one: larger ones leave the processor's cache before they are processed
    BULK = 16384  # octets of a read after which the next one is expected to be large
    LAST_READS = 16  # of one connection that is closed
    HIGH_WATER = 65536  # octets of output, unless the protocol sets other limits

AVAILABLE = bool(FS_HAVE_EPOLL)
PAUSE = 0.1  # seconds that a listener pauses when the system is out of descriptors or memory
NEWCOMERS_TURN = 0.0005  # seconds of a turn for newcomers, besides the time that connections leave

cdef double _NEWCOMERS_TURN = NEWCOMERS_TURN

cdef dict error_texts = {}  # a cache: few numbers occur


cdef object last_error():
    return error_of(fs_errno())


cdef object error_of(int number):
    cdef str text = error_texts.get(number)
    if text is None:
        text = error_texts[number] = os.strerror(number)
    return OSError(number, text)


cdef class Handle(Flow):
    """Handle()\n--\n\nA descriptor in the epoll of `Sockets`."""

    def __cinit__(self):
        self.fd = -1

    cdef int _watch(self, uint32_t kinds) except -1:
        """Have the epoll watch for `kinds`, of FS_READABLE and FS_WRITABLE. 0: only for the end of
        the connection, which must be noticed while input waits and a hook is at work.
        """
        if (kinds == self._watched and self._is_added) or self._sockets.is_inherited():
            return 0
        if fs_epoll_set(self._sockets._epoll, self.fd, <void *>self, kinds, self._is_added) < 0:
            raise last_error()
        self._watched = kinds
        self._is_added = True
        return 0

    cdef int _unwatch(self) except -1:
        """Remove it from the epoll."""
        if self._is_added and not self._sockets.is_inherited():
            fs_epoll_forget(self._sockets._epoll, self.fd)
        self._watched = 0
        self._is_added = False
        return 0


@cython.final
cdef class Sockets(Source):
    """Sockets(turns)\n--\n\nThe sockets of one server on the event loop of its turns."""

    def __cinit__(self, Turns turns not None):
        self._loop = turns.loop
        self._turns = turns
        turns.source = self
        self._forks = forks()
        self._epoll = self._spare = -1
        self._open = set()
        self._ending = []
        self._kept = []
        self._room = bytearray(READ)

    def __dealloc__(self):
        self._let_go_of_epoll()

    def listen(self, sock, factory):
        """Accept on `sock`, which listens and stays the caller's; `factory()` makes a protocol.

        Returns an object whose `close()` must be called before that of the socket. Raises OSError.
        """
        cdef Acceptor acceptor = Acceptor.__new__(Acceptor)
        acceptor._factory = factory
        acceptor._sockets = self
        acceptor.fd = sock.fileno()
        acceptor._name()
        self._add(acceptor)
        return acceptor

    cdef bint is_inherited(self) noexcept:
        """Whether this process is a forked child of the one that made this object."""
        return self._forks != forks()

    def abandon(self):
        """Close all descriptors in a forked child, without any effect on parent and clients."""
        cdef Handle handle
        for handle in self._open:
            if type(handle) is not Acceptor and handle.fd >= 0:
                fs_close(handle.fd)
            handle.fd = -1
        self._let_go_of_epoll()

    cdef int _let_go_of_epoll(self) except -1:
        if self._epoll >= 0:
            fs_close(self._epoll)
        if self._spare >= 0:
            fs_close(self._spare)
        self._epoll = self._spare = -1
        return 0

    cdef int _add(self, Handle handle) except -1:
        """Watch `handle` for input. The first one makes the epoll."""
        if self._epoll < 0:
            self._epoll = fs_epoll_new()
            if self._epoll < 0:
                raise last_error()
            self._spare = fs_spare()
            self._loop.add_reader(self._epoll, self._look)
        handle._watch(FS_READABLE)
        self._open.add(handle)
        return 0

    cdef int _let_go(self) except -1:
        """Close the epoll after the last handle."""
        if self._epoll >= 0 and not self._open:
            if not (self._loop.is_closed() or self.is_inherited()):
                self._loop.remove_reader(self._epoll)
            self._let_go_of_epoll()
        return 0

    def _look(self):
        """Some of the sockets are ready."""
        if self.is_inherited():
            logger.error(
                "a child of the process that listens cannot serve its clients: "
                "call fork() before listen()"
            )
            self.abandon()
        elif self._turns._begin():
            self._look_for_turn()

    cdef int _look_for_turn(self) except -1:
        """Connections first, then newcomers, which need room."""
        cdef Turns turns = self._turns
        cdef list listening = []
        cdef int looks = LOOKS
        # If no connection waits, there is no order to keep.
        cdef bint at_once = not turns._waiting
        self._looking = True
        try:
            while looks and self._look_once(at_once, listening) == EVENTS:
                looks -= 1
                at_once = False
            turns._run()
        finally:
            turns._settle()
            self._looking = False
            self._end_all()
            if self._kept:
                self._kept.clear()
        if listening:
            until = max(turns._ends_at, turns._now_at + _NEWCOMERS_TURN)
            for acceptor in listening:
                (<Acceptor>acceptor)._take_some(until)
        return 0

    cdef int _look_once(self, bint at_once, list listening) except -1:
        """Visit or queue the ready handles; returns how many there were."""
        cdef fs_event events[EVENTS]
        cdef Turns turns = self._turns
        cdef Handle handle
        cdef int count = fs_epoll_look(self._epoll, events, EVENTS), number
        if count < 0:
            return 0  # the last handle was closed, and the queued ones have ended
        turns._share(count)
        for number in range(count):
            # It still exists: a handle that ends in this turn is kept until the end of the turn.
            handle = <Handle>fs_event_owner(&events[number])
            if not handle._is_added:
                continue
            if type(handle) is Acceptor:
                listening.append(handle)
                continue
            handle._happened |= fs_event_kinds(&events[number])
            if at_once and not handle.queued:
                at_once = turns._visit(handle)
            else:
                turns._queue(handle)
        return count

    cdef int _end(self, SocketTransport transport) except -1:
        """`transport` has ended; call its `connection_lost` when no protocol call is running."""
        self._ending.append(transport)
        if not self._looking and len(self._ending) == 1:
            self._loop.call_soon(self._end_later)
        return 0

    def _end_later(self):
        """Outside of a turn."""
        self._end_all()

    cdef int _end_all(self) except -1:
        cdef SocketTransport transport
        try:
            while self._ending:
                transport = self._ending.pop(0)
                if self._looking:
                    self._kept.append(transport)
                self._open.discard(transport)
                transport._call_lost()
        except BaseException:  # the process ends, and the remaining transports have ended too
            self._loop.call_soon(self._end_later)
            raise
        finally:
            self._let_go()
        return 0


@cython.final
cdef class Acceptor(Handle):
    """Acceptor()\n--\n\nA listening socket; made by `Sockets.listen`."""

    def close(self):
        """Accept no more."""
        cdef Sockets sockets = self._sockets
        if self.fd >= 0:
            self._unwatch()
            self.fd = -1
            self._factory = None
            sockets._open.discard(self)
            if sockets._looking:
                sockets._kept.append(self)
            sockets._let_go()

    cdef int _name(self) except -1:
        """Set the local address of the connections, if it is the same for all."""
        cdef fs_name own
        if fs_own_name(self.fd, &own) < 0:
            raise last_error()
        self._own_address = text_of(own.text)
        self._own_port = own.port
        self._family = own.family
        self._any_address = self._own_address in ("0.0.0.0", "::")
        return 0

    cdef int _take_some(self, double until) except -1:
        """Accept until the time `until`, at least one; the epoll reports the rest again."""
        cdef int left = NEWCOMERS
        while left and self._watched and self._take_one():
            left -= 1
            if self._sockets._ending:
                self._sockets._end_all()  # of refused ones, whose descriptors may be needed
            if self._sockets._turns._now() >= until:
                break
        return 0

    cdef int _take_one(self) except -1:
        """Accept one; False: there is none, or the system refuses now."""
        cdef fs_name peer
        cdef Sockets sockets = self._sockets
        cdef SocketTransport transport
        cdef int fd = fs_accept(self.fd, &peer)
        if fd < 0:
            return self._cannot_take()
        self._starved = False
        transport = SocketTransport.__new__(SocketTransport)
        transport.fd = fd
        transport._sockets = sockets
        transport.used = sockets._turns._of_newcomer()
        transport._family = self._family
        transport.peer_address = text_of(peer.text)
        transport.peer_port = peer.port
        transport.own_address = self._own_address
        transport.own_port = self._own_port
        if self._any_address and fs_own_name(fd, &peer) == 0:
            transport.own_address = text_of(peer.text)
        transport._begin(self._factory)
        return True

    cdef int _cannot_take(self) except -1:
        """`accept` has failed; True: the next call may succeed."""
        cdef fs_name peer
        cdef Sockets sockets = self._sockets
        cdef int fd
        if fs_is_again():
            return False
        if fs_is_of_one():
            return True
        if not fs_is_out_of_descriptors() or sockets._spare < 0:
            self._pause()
            return False
        if not self._starved:
            self._starved = True  # in the next turn other connections may have ended
            return False
        # Otherwise clients that wait for a descriptor would be reported again and again.
        fs_close(sockets._spare)
        fd = fs_accept(self.fd, &peer)
        if fd >= 0:
            fs_close(fd)
        sockets._spare = fs_spare()
        return fd >= 0

    cdef int _pause(self) except -1:
        """Out of resources, or the socket is dead: try again a little later."""
        self._unwatch()
        self._sockets._loop.call_later(PAUSE, self._go_on)
        return 0

    def _go_on(self):
        if self.fd >= 0:
            try:
                self._watch(FS_READABLE)
            except OSError:
                pass  # the socket is closed; its owner will notice


cdef str text_of(const char *address):
    """An address in its canonical form; IPv4-mapped IPv6 addresses become plain IPv4."""
    cdef str text = address.decode("ascii")
    return text[7:] if text.startswith("::ffff:") and "." in text else text


@cython.final
cdef class SocketTransport(Handle):
    """SocketTransport()\n--\n\nOne connection, with the methods of asyncio.Transport."""

    def __cinit__(self):
        self._high = HIGH_WATER
        self._low = HIGH_WATER // 4
        self._reading = True

    def __dealloc__(self):
        if self.fd >= 0:
            fs_close(self.fd)

    cdef int _begin(self, object factory) except -1:
        cdef object protocol
        self.context = copy_context()
        enter_context(self.context)
        try:
            protocol = factory()
            self._protocol = protocol
            self._receiver = protocol if isinstance(protocol, Receiver) else None
            self._sockets._add(self)
            protocol.connection_made(self)
        except BaseException as error:
            self._report("connection_made() failed", error)
        finally:
            leave_context(self.context)
        return 0

    # ---- events ---------------------------------------------------------------------------------

    cdef int _visit(self) except -1:
        cdef uint32_t kinds = self._happened
        cdef bint has_more = self._has_more
        self._happened = 0
        self._has_more = False
        enter_context(self.context)
        try:
            if kinds:
                self._take(kinds)
            if has_more and self._receiver is not None:
                self._receiver.go_on()
        except BaseException as error:
            self._report("a call of the protocol failed", error)
        finally:
            leave_context(self.context)
            if self._sockets._ending:
                self._sockets._end_all()
        return 0

    cdef int _take(self, uint32_t kinds) except -1:
        """Handle the events of the epoll."""
        if self._ended:
            return 0
        if not self._watched:
            return self._notice_end(kinds) if kinds & FS_BROKEN else 0
        if kinds & (FS_READABLE | FS_BROKEN) and self._watched & FS_READABLE:
            self._read()
        if kinds & (FS_WRITABLE | FS_BROKEN) and self._watched & FS_WRITABLE:
            self._send_unsent()
        return 0

    cpdef object go_on_later(self):
        """Call the protocol's `go_on` in its turn."""
        self._has_more = True
        self._sockets._turns._queue(self)

    cdef int _notice_end(self, uint32_t kinds) except -1:
        """The client has ended the connection while reading is paused."""
        cdef int number
        if self._family == FS_UNIX and not kinds & FS_ERROR:
            # Its earlier input can still be read, and is reported again with the end.
            return self._unwatch()
        number = fs_why_broken(self.fd)
        return self._lose(error_of(number) if number else None)

    cdef int _read(self) except -1:
        cdef int left = READS
        cdef Py_ssize_t count = 0
        cdef bytes octets
        while left:
            left -= 1
            octets = self._received(&count)
            if count > 0:
                self._bulk = count >= BULK
                if self._receiver is not None:
                    self._receiver.data_received(octets)
                else:
                    self._protocol.data_received(octets)
                if count < READ or not self._watched & FS_READABLE:
                    return 0
                if left and self._sockets._turns.is_over():
                    return 0
            elif count == 0:
                return self._take_eof()
            elif fs_is_again():
                return 0
            else:
                return self._lose(last_error())
        return 0

    cdef bytes _received(self, Py_ssize_t *count):
        """Read once. A large read goes directly into the object that the protocol gets."""
        cdef PyObject *octets = NULL
        cdef bytes result
        if not self._bulk:
            count[0] = fs_recv(self.fd, bytearray_octets(self._sockets._room), READ)
            if count[0] <= 0:
                return None
            return PyBytes_FromStringAndSize(bytearray_octets(self._sockets._room), count[0])
        octets = new_bytes(NULL, READ)
        count[0] = fs_recv(self.fd, bytes_octets(octets), READ)
        if count[0] <= 0:
            Py_DECREF(octets)  # free() leaves errno as it is
            return None
        if count[0] < READ:
            resize_bytes(&octets, count[0])
        result = <object>octets
        Py_DECREF(octets)  # `result` has a reference of its own
        return result

    cdef int _take_eof(self) except -1:
        self._at_eof = True
        if not self._protocol.eof_received():
            self.close()
        return self._rewatch()  # all is read; most connections have ended by now

    cdef int _rewatch(self) except -1:
        cdef uint32_t kinds = 0
        if self._ended:
            return 0
        if self._reading and not self._at_eof and not self._closing:
            kinds |= FS_READABLE
        if self._unsent is not None:
            kinds |= FS_WRITABLE
        return self._watch(kinds)

    # ---- output ---------------------------------------------------------------------------------

    cpdef object write(self, bytes octets):
        """Send `octets` now, as far as the system takes them, and the rest later."""
        cdef Py_ssize_t size, sent
        if octets is None:
            raise TypeError("write takes bytes, got None")
        size = PyBytes_GET_SIZE(octets)
        if self._closing or self._eof_due or not size or self._sockets.is_inherited():
            return None
        if self._unsent is not None:
            self._unsent.append(octets)
            self._unsent_octets += size
            self._tell_full()
            return None
        sent = fs_send(self.fd, PyBytes_AS_STRING(octets), size)
        if sent == size:
            return None
        if sent < 0:
            if not fs_is_again():
                self._lose(last_error())
                return None
            sent = 0
        self._keep(octets, sent)
        return None

    cdef int _keep(self, bytes octets, Py_ssize_t sent) except -1:
        """Keep the octets that the system has not taken; `sent` of them are sent."""
        self._unsent = [octets]
        self._offset = sent
        self._unsent_octets = PyBytes_GET_SIZE(octets) - sent
        self._rewatch()
        self._tell_full()
        return 0

    cdef int _tell_full(self) except -1:
        if self._unsent_octets > self._high and not self._paused_writing:
            self._paused_writing = True
            self._protocol.pause_writing()
        return 0

    cdef int _send_unsent(self) except -1:
        """The system takes octets again."""
        cdef bytes octets = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        cdef Py_ssize_t left = PyBytes_GET_SIZE(octets) - self._offset, sent
        self._unsent = [octets]
        sent = fs_send(self.fd, PyBytes_AS_STRING(octets) + self._offset, left)
        if sent < 0:
            return 0 if fs_is_again() else self._lose(last_error())
        self._offset += sent
        self._unsent_octets -= sent
        if not self._unsent_octets:
            self._unsent = None
            self._offset = 0
            self._rewatch()
            if self._eof_due:
                fs_shutdown(self.fd)
            if self._closing:
                return self._lose(None)
        if self._paused_writing and self._unsent_octets <= self._low:
            self._paused_writing = False
            self._protocol.resume_writing()
        return 0

    # ---- the end --------------------------------------------------------------------------------

    cdef int _lose(self, object error) except -1:
        """The connection has ended; error: the reason, None if we have ended it."""
        if self._ended:
            return 0
        self._unwatch()
        self._ended = self._closing = True
        self._error = error
        self._unsent = None
        self._unsent_octets = 0
        return self._sockets._end(self)

    cdef int _call_lost(self) except -1:
        cdef object protocol = self._protocol
        cdef bint is_broken = self._error is not None
        enter_context(self.context)
        try:
            if protocol is not None:
                protocol.connection_lost(self._error)
        except BaseException as error:
            self._report("connection_lost() failed", error)
        finally:
            leave_context(self.context)
            self._protocol = self._receiver = self._error = None
            if self._socket is not None:
                self._socket.close()
                self._socket = None
            if self.fd >= 0:
                if not self._at_eof and not is_broken:
                    self._drop_unread()
                fs_close(self.fd)
                self.fd = -1
        return 0

    cdef int _drop_unread(self) except -1:
        """Read and drop the remaining input: otherwise the system would send a reset instead of a
        FIN, and a reset can destroy replies that the peer has not read yet.
        """
        cdef char *room = bytearray_octets(self._sockets._room)
        cdef int left = LAST_READS
        while left and fs_recv(self.fd, room, READ) > 0:
            left -= 1
        return 0

    cdef int _report(self, str what, object error) except -1:
        """A call of the protocol has raised: end this connection, and no other."""
        self._lose(error if isinstance(error, Exception) else None)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        context = {
            "message": what, "exception": error, "transport": self, "protocol": self._protocol,
        }
        self._sockets._loop.call_exception_handler(context)
        return 0

    # ---- asyncio.Transport ----------------------------------------------------------------------

    cpdef object write_eof(self):
        """Send FIN after the queued output."""
        if not self._closing and not self._eof_due:
            self._eof_due = True
            if self._unsent is None and not self._sockets.is_inherited():
                fs_shutdown(self.fd)  # a lost peer is noticed by reading

    cpdef object close(self):
        """Stop reading; end when all output is sent."""
        if not self._closing:
            self._closing = True
            if self._unsent is None:
                self._lose(None)
            else:
                self._rewatch()

    cpdef object abort(self):
        """End now and drop unsent output."""
        self._lose(None)

    cpdef object pause_reading(self):
        """Deliver nothing."""
        self._reading = False
        self._rewatch()

    cpdef object resume_reading(self):
        """Deliver what comes in."""
        self._reading = True
        self._rewatch()

    cpdef Py_ssize_t get_write_buffer_size(self):
        """Octets that are not sent."""
        return self._unsent_octets

    cpdef bint is_closing(self):
        """Whether it has ended, or will when all output is sent."""
        return self._closing

    def is_reading(self):
        """Whether what comes in is delivered."""
        return self._reading and not self._at_eof and not self._closing

    def set_write_buffer_limits(self, high=None, low=None):
        """Set the octets of output at which `pause_writing` and `resume_writing` are called."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._high, self._low = high, low

    def get_write_buffer_limits(self):
        """Return (low, high)."""
        return self._low, self._high

    def get_protocol(self):
        """Return the protocol whose methods are called."""
        return self._protocol

    def get_extra_info(self, name, default=None):
        """Return the same as asyncio's transports: "peername", "sockname", "socket"."""
        if name == "peername":
            return self.peer_address if self._family == FS_UNIX else (
                self.peer_address, self.peer_port
            )
        if name == "sockname":
            return self.own_address if self._family == FS_UNIX else (
                self.own_address, self.own_port
            )
        if name == "socket" and self.fd >= 0:
            if self._socket is None:
                self._socket = socket.socket(fileno=os.dup(self.fd))  # with an end of its own
            return self._socket
        return default

    cpdef bint is_unix(self):
        """Whether it is a UNIX socket."""
        return self._family == FS_UNIX
