cimport cython
from fastsmtp._exchange cimport Exchange
from fastsmtp._parser cimport Command, Fault


cdef class Dialogue(Exchange):
    cdef public bint blocked
    cdef public Py_ssize_t unsent
    cdef public bint _eof
    cdef public tuple _rows

    cpdef receive(self, bytes octets, double now)
    cpdef bytes take_output(self, double now)
    cpdef bint settled(self)

    @cython.locals(budget=int, command=Command, flags=int)
    cpdef _pump(self)
