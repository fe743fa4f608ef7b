"""The interface of stages, with C types."""


cdef class Stage:
    cpdef octets(self, client, bytes data)
    cpdef eof(self, client)
    cpdef expired(self, client, double now)
    cpdef server_closing(self, client)
    cpdef bint may_read(self) except -1
    cpdef leave(self)


cpdef Stage held(Stage stage)


cdef class Lost(Stage):
    cpdef expired(self, client, double now)


cdef class Lingering(Stage):
    cpdef eof(self, client)


cdef class Talking(Stage):
    cpdef octets(self, client, bytes data)
    cpdef eof(self, client)
    cpdef expired(self, client, double now)
    cpdef server_closing(self, client)
    cpdef bint holds_input(self) except -1
    cpdef wait_for_turn(self, client)
    cpdef go_on(self, client)
