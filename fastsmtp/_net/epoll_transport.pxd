"""The sockets of one server: fields by owner, and the methods that C calls."""

from libc.stdint cimport uint32_t

from fastsmtp._net.turns cimport Flow, Receiver, Source, Turns


cdef class Handle(Flow):
    # the descriptor, -1 from its end on; what the epoll watches it for
    cdef int fd
    cdef uint32_t _watched
    cdef uint32_t _happened  # what the epoll has reported since the last visit
    cdef bint _is_added  # to the epoll, for `_watched` and the end
    cdef Sockets _sockets

    cdef int _watch(self, uint32_t kinds) except -1
    cdef int _unwatch(self) except -1


cdef class Sockets(Source):
    cdef Turns _turns
    cdef object _loop
    cdef unsigned long _forks  # when this was made: a child of that process has another number
    cdef int _epoll, _spare
    # strong references: an event in the epoll points to its handle without one
    cdef set _open
    cdef list _ending
    cdef list _kept  # handles that have ended in this turn: events may point to them
    cdef bint _looking
    cdef bytearray _room

    cdef bint is_inherited(self) noexcept
    cdef int _add(self, Handle handle) except -1
    cdef int _look_once(self, bint at_once, list listening) except -1
    cdef int _let_go_of_epoll(self) except -1
    cdef int _let_go(self) except -1
    cdef int _end(self, SocketTransport transport) except -1
    cdef int _end_all(self) except -1


cdef class Acceptor(Handle):
    cdef object _factory
    cdef str _own_address
    cdef int _own_port, _family
    cdef bint _any_address
    cdef bint _starved  # the last newcomer was not accepted for lack of descriptors

    cdef int _name(self) except -1
    cdef int _take_some(self, double until) except -1
    cdef int _take_one(self) except -1
    cdef int _cannot_take(self) except -1
    cdef int _pause(self) except -1


cdef class SocketTransport(Handle):
    cdef readonly str peer_address, own_address
    cdef readonly int peer_port, own_port
    cdef int _family
    cdef Receiver _receiver  # the protocol again, if C can call it
    cdef readonly object context  # contextvars for calls of its protocol
    cdef object _protocol, _socket, _error
    # pieces that are not sent yet, the first one from `_offset` on
    cdef list _unsent
    cdef Py_ssize_t _offset, _unsent_octets, _high, _low
    cdef bint _reading, _at_eof, _closing, _ended, _paused_writing, _eof_due, _bulk
    cdef bint _has_more  # its protocol has more to do

    cdef int _begin(self, object factory) except -1
    cdef int _take(self, uint32_t kinds) except -1
    cdef int _notice_end(self, uint32_t kinds) except -1
    cdef int _read(self) except -1
    cdef bytes _received(self, Py_ssize_t *count)
    cdef int _take_eof(self) except -1
    cdef int _send_unsent(self) except -1
    cdef int _rewatch(self) except -1
    cdef int _keep(self, bytes octets, Py_ssize_t sent) except -1
    cdef int _tell_full(self) except -1
    cdef int _lose(self, object error) except -1
    cdef int _call_lost(self) except -1
    cdef int _drop_unread(self) except -1
    cdef int _report(self, str what, object error) except -1

    cpdef object write(self, bytes octets)
    cpdef Py_ssize_t get_write_buffer_size(self)
    cpdef bint is_closing(self)
    cpdef object pause_reading(self)
    cpdef object resume_reading(self)
    cpdef object write_eof(self)
    cpdef object close(self)
    cpdef object abort(self)
    cpdef bint is_unix(self)
