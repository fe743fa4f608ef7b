from libc.stdint cimport int64_t


cdef class Tally:
    cdef int64_t *_cells
    cdef Py_buffer _view

    cpdef int add(self, Py_ssize_t cell, int64_t amount=*) except -1
    cpdef int set(self, Py_ssize_t cell, int64_t value) except -1
    cpdef int observe(self, Py_ssize_t cell, double seconds) except -1
    cpdef int observe_size(self, Py_ssize_t cell, int64_t size) except -1
