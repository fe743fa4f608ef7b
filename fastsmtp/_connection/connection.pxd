cimport cython
from fastsmtp._hooks.coroutine_driver cimport drive
from fastsmtp._smtp.protocol cimport SMTPProtocol
from fastsmtp._native cimport monotonic
from fastsmtp._connection.tls_stage cimport SecureLink

cdef double _STALL


cdef class Connection(SecureLink):
    cdef public object _prelude, _introduction
    cdef public str _counted_address
    cdef public bint _started, _refused, _hook_begins

    cpdef data_received(self, bytes data)

    @cython.locals(protocol=SMTPProtocol, now=double)
    cpdef _receive(self, bytes data)

    @cython.locals(protocol=SMTPProtocol, now=double, octets=bytes, deadline=double)
    cpdef _after(self, double began)
