cdef class Events:
    cdef public bint is_observed
    cdef dict _listeners

    cpdef bint has_listener(self, str event) except -1
