cdef class DataStream:
    cdef public Py_ssize_t byte_length, buffered, longest_line
    cdef public bint size_exceeded, bare_newline, has_nul, has_8bit
    cdef public object _pieces, _on_chunk, _on_end, _on_room, _on_failure, _aborted
    cdef public object _waiter, _driver
    cdef public bint _ended, _has_consumer, _delivering

    cpdef feed(self, bytes piece)
    cpdef end(self)
    cpdef abort(self, reason)
    cpdef drop(self)
    cpdef let_go(self)
    cdef _tell_end(self)
    cdef _wake(self)
    cdef bint _is_free(self)
    cdef bytes _taken(self)
    cdef bint is_finished(self)
