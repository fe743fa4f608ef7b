"""Texts may be of a subclass, so they are typed as object."""


cpdef bytes trace_headers(record, first)


cdef _separator(first)
cdef _literal(address)
cdef bint _is_name(text) except -1
cdef _masked(text, Py_ssize_t limit)
cdef _for(recipients)
cdef _header_text(text)
