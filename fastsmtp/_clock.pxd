cdef class Clock:
    cdef public double now, deadline, line_timeout
    cdef public bint receiving, lagging
    cdef public object _options
    cdef public double _credit
    cdef public Py_ssize_t _payload_seen
    cpdef stop(self)
    cpdef await_command(self)
    cpdef await_answer(self, double timeout)
    cpdef begin_body(self)
    cpdef begin_receiving(self, Py_ssize_t payload)
    cpdef received(self, Py_ssize_t payload)
    cpdef end_receiving(self, Py_ssize_t payload)
