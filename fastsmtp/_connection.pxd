from fastsmtp._link cimport Link


cdef class Connection(Link):
    cdef public object _server, _prelude, _entry, _introduction
    cdef public str _counted_address, _via
    cdef public bint _started, _refused

    cpdef _receive(self, bytes data)
