from fastsmtp._smtp.policy cimport Policy


cdef class Counters:
    cdef Policy _policy
    cdef public Py_ssize_t unrecognized, unauthenticated, errors, junk, auth_failures, messages
    cdef public Py_ssize_t unlogged
    cpdef bint strike_unauthenticated(self)
    cpdef bint strike_error(self)
    cpdef bint strike_junk(self)
    cpdef message_done(self, bint accepted, bint is_tiny)
    cpdef bint too_much_junk(self)
    cpdef bint too_many_messages(self, Py_ssize_t limit)
