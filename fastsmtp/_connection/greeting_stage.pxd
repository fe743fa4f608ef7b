from fastsmtp._connection.stages cimport Talking


cpdef tuple is_known(loop, lookup, address)


cdef class GreetingWait(Talking):
    cdef object _client, _delay, _lookup, _name, _address
    cdef Talking _talking
    cdef int _left
    cdef bint _input_over

    cpdef octets(self, client, bytes data)
    cpdef eof(self, client)
    cpdef leave(self)
