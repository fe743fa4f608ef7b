cimport cython


cdef class Timers:
    cdef object _loop, _now, _context, _handle
    cdef dict _slots
    cdef Py_ssize_t _looked_at

    @cython.locals(second=Py_ssize_t, slot=set)
    cpdef Py_ssize_t add(self, waiting, double deadline)

    @cython.locals(slot=set)
    cpdef remove(self, waiting, Py_ssize_t second)
