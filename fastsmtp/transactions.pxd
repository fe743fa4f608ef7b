"""Its functions are called for every message, so they are called from C."""

cdef str _short(str text, Py_ssize_t limit=*)
cpdef str quoted(str value)
