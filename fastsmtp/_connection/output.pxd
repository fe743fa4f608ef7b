cimport cython
from fastsmtp._connection.deadline_timer cimport DeadlineTimer
from fastsmtp._counts.tally cimport Tally
from fastsmtp._net.epoll_transport cimport SocketTransport
from fastsmtp._tls.pump cimport Pump

cdef double _INFINITY
cdef Py_ssize_t _SENT


cdef class Output:
    cdef public object transport
    cdef SocketTransport _direct
    cdef DeadlineTimer _timer
    cdef Tally _tally
    cdef public Pump pump
    cdef double _timeout, _taken_at
    cdef public double check_at, close_at
    cdef Py_ssize_t _written, _taken
    cdef public bint is_reading, at_eof

    cpdef write(self, bytes octets, double now)
    cpdef write_raw(self, bytes octets)

    @cython.locals(before=Py_ssize_t)
    cdef _send(self, bytes octets, double now)
    cdef _watch(self, double now, Py_ssize_t waiting)
    cpdef Py_ssize_t unsent(self)
    cpdef set_reading(self, bint reading)
    cpdef finish(self, double now, bint parted)
    cpdef lost(self)
