cimport cython
from fastsmtp._tls.client_hello cimport read_hello
from fastsmtp._tls.records cimport Records


cdef class Pump(Records):
    cdef public bint trusted, _suspect, _hello_due, _answer_due
    cdef public object context
    cdef public str servername
    cdef object _choose
    cdef bytes _waiting, _alert
    cdef public Py_ssize_t taken, _wanted, _admitted

    cpdef bint overflows(self, Py_ssize_t count) except -1

    cpdef bytes shake(self, bytes octets)
    cpdef bytes take_output(self)

    @cython.locals(at=Py_ssize_t, size=Py_ssize_t, done=bint)
    cdef bytes _shake(self, bytes octets)
    cdef _admit(self, bytes octets)

    @cython.locals(count=Py_ssize_t)
    cdef _admit_hello(self, bytes octets)

    @cython.locals(at=Py_ssize_t, end=Py_ssize_t, size=Py_ssize_t)
    cdef _admit_record(self, bytes octets)
    cdef _admit_none(self, bytes octets)
    cdef _begin(self, str name)
    cdef bint _is_trusted(self) except -1
