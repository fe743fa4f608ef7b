cimport cython


cdef class _Entry:
    cdef public object record, future
    cdef public Py_ssize_t octets, tries
    cdef public double until
    cdef public bint is_unclear, is_alone
    cdef public str reason


cdef class Dispatcher:
    cdef object _send, _availability, _name, _gathering, _on_batch, _loop, _expiry, _emptied
    cdef Py_ssize_t _parallel, _max_items, _max_octets, _octets
    cdef object _process
    cdef double _deadline
    cdef dict _open, _running
    cdef readonly object _waiting
    cdef set _pauses
    cdef bint _is_looking, _is_closing

    @cython.locals(entry=_Entry)
    cpdef add(self, record, Py_ssize_t octets)
    cpdef look(self)
    cdef bint _has_room(self) except -1

    @cython.locals(batch=list, entry=_Entry, room=Py_ssize_t, is_over=bint)
    cdef list _taken(self)

    @cython.locals(entry=_Entry, is_up=bint, is_failure=bint)
    cpdef _settle(self, list batch, results)
    cdef _answer(self, _Entry entry, result)
    cdef _forget(self, _Entry entry)


cdef _fail(future, error)
