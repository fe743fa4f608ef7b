from fastsmtp._link cimport Link


cdef class SecureLink(Link):
    cdef public object _server, _tls, _contexts, _entry
    cdef public bytes _flight
    cdef public bint _queued, _input_over

    cpdef _receive(self, bytes data)
    cpdef _pass_on(self, pump, bytes plaintext)
    cpdef _write_raw(self, bytes octets)
