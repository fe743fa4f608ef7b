"""A program may pass on a stream or a record of its own, so they are typed as object."""
cimport cython
from fastsmtp.delivery.log cimport entry_of
from fastsmtp.delivery.trace cimport trace_headers
from fastsmtp.session cimport Envelope, Session

cdef Py_ssize_t _DELIVERED, _OVER_SIZE, _ABORTED, _LATE, _UNAVAILABLE, _SECONDS


cdef class Traffic:
    cdef public object sink, log
    cdef public bint headers
    cdef public object tally
    cdef public Py_ssize_t in_flight, open, max_in_flight
    cdef public Py_ssize_t delivered, refused, aborted, late
    cdef object _failures


cpdef announced_size(Session session)


@cython.locals(envelope=Envelope)
cpdef record_of(Session session, node, received)
cdef _recipient_of(address)


cdef class Arrival:
    cdef dict _notes
    cdef object _callback, _record, _stream, _writer
    cdef list _pieces
    cdef Traffic _traffic
    cdef Py_ssize_t _announced, _held
    cdef double _ended_at
    cdef bint _is_coming, _is_over

    cpdef begin(self)
    cpdef fail(self, error)

    @cython.locals(traffic=Traffic, size=Py_ssize_t)
    cpdef _on_chunk(self, piece)
    cdef bint _is_large(self) except -1

    @cython.locals(pieces=list)
    cpdef _on_end(self, error)
    cdef _has_come(self)
    cdef _add_headers(self, first)

    @cython.locals(traffic=Traffic)
    cdef _begin_body(self)
    cdef _write(self, octets)
    cpdef _written(self, future)
    cdef _finish_body(self)
    cpdef _finished(self, future)
    cdef _put(self)
    cpdef _stored(self, future)

    @cython.locals(traffic=Traffic)
    cdef _answer(self, receipt, fates)

    @cython.locals(traffic=Traffic)
    cdef _log_fates(self, fates)
    cdef _end(self)
    cdef _log(self, what, key, value)


cdef Py_ssize_t _outcome(error) except -1
cdef _first_error(fates)
cdef _failure_of(future)
