cdef class Events:
    cdef dict _listeners

    cpdef bint has_listener(self, str event) except -1
