"""Called for every word of a log line, from C. Texts may be of a subclass of str."""

cimport cython


cpdef str client_word(name, address)
cpdef str text_of(value)
cpdef str clean(text, Py_ssize_t limit=*)


@cython.locals(exact=str, pieces=list, room=Py_ssize_t, length=Py_ssize_t)
cpdef str escaped(text, Py_ssize_t limit, str plain)


@cython.locals(character=Py_UCS4)
cdef bint _is_plain(str text, bint spaces)
