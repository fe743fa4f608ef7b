from fastsmtp._exchange cimport Exchange
from fastsmtp._message cimport Message


cdef class Content:
    cdef public Exchange _dialogue
    cdef public Message message
    cdef public object _chunk
    cdef public object _failure
    cdef public object _skipped

    cpdef reset(self)
    cpdef begin_data(self)
    cpdef piece(self, bytes octets)
    cpdef end_of_data(self)
    cpdef conclude(self)
    cpdef abort(self, reason)
    cdef Message _begin(self)
    cdef object _call_hook(self, Message message)
    cdef object _end_stream(self, Message message)


cpdef handle_data(Exchange dialogue, bytes argument)
