cdef class Counters:
    cdef public object _options
    cdef public Py_ssize_t unrecognized, unauthenticated, errors, junk, auth_failures, messages
    cpdef message_accepted(self)
