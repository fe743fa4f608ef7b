from fastsmtp._secure_link cimport SecureLink


cdef class Connection(SecureLink):
    cdef public object _prelude, _introduction
    cdef public str _counted_address, _via, _peer
    cdef public bint _started, _refused

    cpdef _receive(self, bytes data)
