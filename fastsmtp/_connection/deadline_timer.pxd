cimport cython
from fastsmtp._native cimport monotonic
from fastsmtp._net.timer_wheel cimport Timers
from fastsmtp._smtp.protocol cimport SMTPProtocol

cdef double _INFINITY, _COARSE


cdef class DeadlineTimer:
    cdef object _owner, _loop, _other_clock, _handle
    cdef SMTPProtocol _protocol
    cdef Timers _timers
    cdef Py_ssize_t _slot
    cdef double _at
    cdef int _grace
    cdef public bint overdue

    cpdef double now(self)
    cpdef need(self, double deadline)
    cpdef stop(self)

    @cython.locals(wait=double)
    cpdef _arm(self, double deadline)
    cpdef _disarm(self)
