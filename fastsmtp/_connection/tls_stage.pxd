cimport cython
from fastsmtp._connection.output cimport Link
from fastsmtp._tls.pump cimport Pump


cdef class SecureLink(Link):
    cdef public object _server, _tls, _contexts, _entry
    cdef public bytes _flight
    cdef public bint _queued, _tls_due, _input_over

    cpdef _receive(self, bytes data)

    cpdef go_on(self)
    cpdef _wait_for_turn(self)

    @cython.locals(pump=Pump, flight=bytes, plaintext=bytes)
    cpdef handshake_step(self)
    cpdef _established(self, Pump pump, bytes plaintext)

    @cython.locals(pump=Pump, start=Py_ssize_t)
    cpdef _take_ciphertext(self, bytes data)

    @cython.locals(plaintext=bytes, output=bytes)
    cpdef _answer_tls(self, Pump pump, bytes data)
    cpdef _pass_on(self, Pump pump, bytes plaintext)
    cpdef _write_raw(self, bytes octets)
