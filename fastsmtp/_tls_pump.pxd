cimport cython
from fastsmtp._client_hello cimport read_hello
from fastsmtp._tls_records cimport Records


cdef class Pump(Records):
    cdef public bint trusted, _suspect
    cdef public object context
    cdef public str servername
    cdef object _choose
    cdef bytes _early
    cdef public Py_ssize_t taken, _wanted

    cpdef bytes shake(self, bytes octets)
    cdef bint _begin(self, bytes octets) except -1

    @cython.locals(start=Py_ssize_t, done=bint)
    cdef bytes _shake(self, bytes octets)
    cdef bint _is_trusted(self) except -1
