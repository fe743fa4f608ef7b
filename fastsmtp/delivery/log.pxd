cpdef entry_of(what, record, Py_ssize_t size, key, value)
