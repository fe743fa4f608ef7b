"""Its functions are called for every message, so they are called from C."""

from fastsmtp.log_text cimport clean, client_word, escaped


cdef str _short(text, Py_ssize_t limit=*)
cpdef str quoted(str value)
