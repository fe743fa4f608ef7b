from fastsmtp._exchange cimport Exchange
from fastsmtp._hooks cimport Answer


cdef class Message:
    cdef public object stream
    cdef public Answer answer
    cdef public Py_ssize_t recipients
    cdef public bint utf8, reject_bare, by_chunks, last, at_end


cpdef list verdicts(Exchange dialogue, Message message)
