cdef class WriteWatch:
    cdef public double check_at, _timeout, _taken_at
    cdef public object _transport
    cdef public Py_ssize_t _written, _taken

    cpdef write(self, bytes octets, double now)
    cpdef bint is_stalled(self, double now)
