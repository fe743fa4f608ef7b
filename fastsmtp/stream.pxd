cimport cython

cdef int _UNTOUCHED, _HALF_READ, _DONE
cdef int _HANDING_OVER, _PAUSED
cdef Py_ssize_t _HIGH_WATER, _LOW_WATER, _SMALL, _NOT_READING, _NO_LIMIT

cdef Py_ssize_t _octets(object limit) except? -1


cdef class DataStream:
    cdef public Py_ssize_t byte_length, _buffered, longest_line
    cdef public bint size_exceeded, bare_newline, has_nul, has_8bit
    cdef public object _pieces, _on_chunk, _on_end, _on_room, _on_failure, _aborted
    cdef public object _waiter, _driver
    cdef public bint _ended, _has_consumer, _discarded
    cdef public int _progress, _held
    cdef public Py_ssize_t _bound

    cpdef resume(self)
    cpdef discard(self)
    cdef _hand_over(self)
    cdef _deliver(self)
    cdef _tell_end(self)
    cdef _wake(self)
    cdef _begin(self)
    cdef _forget(self)
    cdef bytes _taken(self)
    cdef bytes _whole(self, Py_ssize_t bound)


cpdef feed_stream(DataStream stream, bytes piece)
cpdef end_stream(DataStream stream)
cpdef abort_stream(DataStream stream, reason)
cpdef drop_stream(DataStream stream)
cpdef bint resume_with_stream(DataStream stream, waiter, driver) except -1
cpdef release_stream(DataStream stream)
cpdef bint is_finished(DataStream stream) except -1
cpdef bint is_half_read(DataStream stream) except -1
cpdef bint is_full(DataStream stream) except -1
