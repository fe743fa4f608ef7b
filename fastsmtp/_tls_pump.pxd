from fastsmtp._client_hello cimport read_hello
from fastsmtp._tls_records cimport Records


cdef class Pump(Records):
    cdef public bint trusted, _suspect
    cdef public object context
    cdef public str servername
    cdef object _choose
    cdef bytes _early
    cdef public Py_ssize_t taken, _wanted
