from fastsmtp._exchange cimport Exchange
from fastsmtp._hooks cimport Answer


cdef class Message:
    cdef public object stream
    cdef public Answer answer
    cdef public Py_ssize_t recipients
    cdef public bint utf8, reject_bare, by_chunks, last, at_end


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
    cdef list _verdict(self, Message message)


cpdef handle_data(Exchange dialogue, bytes argument)
