cdef class Events:
    cdef public bint is_observed
    cdef public object tracing
    cdef dict _listeners
    cdef object _failures

    cpdef bint has_listener(self, str event) except -1
