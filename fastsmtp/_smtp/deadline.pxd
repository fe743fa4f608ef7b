cimport cython
from fastsmtp._smtp.policy cimport Policy


cdef class Clock:
    cdef public double now, deadline, line_timeout
    cdef public bint receiving, lagging
    cdef public Policy _policy
    cdef public double _credit
    cdef public Py_ssize_t _payload_seen
    cpdef stop(self)
    cpdef await_command(self)
    cpdef await_answer(self, double timeout)
    cpdef begin_body(self)
    cpdef begin_receiving(self, Py_ssize_t payload)

    @cython.locals(gained=double, most=double)
    cpdef received(self, Py_ssize_t payload)
    cpdef end_receiving(self, Py_ssize_t payload)
    cpdef begin_lag(self)
    cpdef end_lag(self, Py_ssize_t payload)
