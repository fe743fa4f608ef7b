cdef class Pump:
    cdef public bint established, ended, trusted, _suspect
    cdef public object error, context, tls
    cdef public str servername
    cdef object _choose, _incoming, _outgoing
    cdef bytes _early
    cdef public Py_ssize_t taken, _wanted

    cpdef bytes receive(self, bytes octets)
    cdef Py_ssize_t _decrypt(self, Py_ssize_t used, list parts)
    cpdef bytes send(self, bytes octets)
    cpdef bytes take_output(self)
