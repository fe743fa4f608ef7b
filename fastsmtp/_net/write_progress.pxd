cimport cython
from fastsmtp._net.epoll_transport cimport SocketTransport

cdef double _INFINITY


cdef class WriteWatch:
    cdef public double check_at, _timeout, _taken_at
    cdef public object _transport
    cdef public Py_ssize_t _written, _taken
    cdef SocketTransport _direct

    @cython.locals(before=Py_ssize_t)
    cpdef write(self, bytes octets, double now)
    cdef _begin(self, double now, Py_ssize_t waiting)
    cpdef Py_ssize_t unsent(self)
    cpdef bint is_stalled(self, double now)
