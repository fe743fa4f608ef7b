cimport cython
from fastsmtp._counts.tally cimport Tally
from fastsmtp._smtp.server_tables cimport ServerTables

cdef Py_ssize_t _TOTAL, _NOW, _LIMIT_ALL, _LIMIT_HOST, _CLOSING


cdef class ConnectionRegistry:
    cdef ServerTables _tables
    cdef Tally _tally
    cdef object _all_gone, _rest_is_gone
    cdef Py_ssize_t _max_clients, _max_per_host
    cdef public dict _hosts
    cdef Py_ssize_t _max_lingering
    cdef public set connections, refused, callers
    cdef public object close_hooks
    cdef public bint closing

    @cython.locals(limit=Py_ssize_t)
    cpdef admit(self, connection)

    @cython.locals(limit=Py_ssize_t, count=Py_ssize_t, key=str)
    cpdef admit_host(self, connection, str address)
    cpdef bint may_linger(self)

    @cython.locals(key=str)
    cpdef finished(self, connection)
    cpdef _look_for_the_last(self)
