cdef class Pace:
    cpdef bint is_over(self)
    cpdef double now(self)
