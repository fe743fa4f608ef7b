cimport cython
from fastsmtp._connection.output cimport Output
from fastsmtp._connection.stages cimport Stage, Talking
from fastsmtp._smtp.protocol cimport SMTPProtocol
from fastsmtp._tls.pump cimport Pump


cdef class Handshake(Stage):
    cdef public object context
    cdef object _client, _contexts, _handshakes, _loop
    cdef SMTPProtocol _protocol
    cdef Output _output
    cdef Pump _pump
    cdef bytes _flight
    cdef bint _queued

    cpdef octets(self, client, bytes data)
    cpdef eof(self, client)
    cpdef expired(self, client, double now)
    cpdef server_closing(self, client)
    cpdef bint may_read(self) except -1
    cpdef leave(self)

    @cython.locals(flight=bytes, plaintext=bytes)
    cpdef handshake_step(self)


cdef class SecureTalking(Talking):
    cdef SMTPProtocol _protocol
    cdef Output _output
    cdef Pump _pump
    cdef bint _has_more

    @cython.locals(start=Py_ssize_t)
    cpdef octets(self, client, bytes data)
    cpdef eof(self, client)
    cpdef bint holds_input(self) except -1
    cpdef wait_for_turn(self, client)

    @cython.locals(plaintext=bytes, output=bytes)
    cpdef _answer(self, client, bytes data)
    cpdef go_on(self, client)
    cpdef pass_on(self, client, bytes plaintext)
