"""Records of one TLS connection: fields by lifetime, methods by the way of the data."""


cdef class Records:
    # set by the handshake
    cdef public bint established
    cdef public object tls
    cdef object _incoming, _outgoing
    cdef bint _shaking  # its first octets are in the BIO
    # the end: the client's close_notify, and why there is no TLS any more
    cdef public bint ended
    cdef public object error
    # between two reads: octets of a header that is not whole yet, or None; octets that the BIO has,
    # and that are missing, of a record that is not whole; whether the BIO has the size of a record
    cdef bytes _header
    cdef Py_ssize_t _held, _missing
    cdef bint _grown
    # set by _feed: OpenSSL has something to work on, of so many whole records
    cdef bint _ready
    cdef Py_ssize_t _fed
    # what a call may still work on; what it has left for the next one, if there is `more`
    cdef Py_ssize_t _left
    cdef public bint more
    cdef bytes _kept
    # by how many the records without plaintext have outnumbered those with it
    cdef Py_ssize_t _idle

    cpdef object begin(self, object context)
    cpdef object fail(self, object error)
    cpdef object let_go(self)

    cpdef bint step(self, bytes octets) except -1
    cpdef bytes take_unread(self)

    cpdef object keep(self, bytes octets)
    cpdef bytes receive(self, bytes octets)
    cdef bytes _receive_one(self, bytes octets)
    cdef bytes _receive_some(self, bytes read)
    cdef int _count(self, Py_ssize_t idle, Py_ssize_t full) except -1
    cdef Py_ssize_t _feed(self, const unsigned char *octets, Py_ssize_t size) except -1
    cdef Py_ssize_t _feed_part(self, const unsigned char *octets, Py_ssize_t size) except -1
    cdef int _put(self, const unsigned char *octets, Py_ssize_t size) except -1
    cdef int _write(self, const unsigned char *octets, Py_ssize_t size) except -1
    cdef Py_ssize_t _decrypt(
        self, const unsigned char *records, Py_ssize_t fed, char *room, Py_ssize_t size
    ) except -1

    cpdef bytes send(self, bytes octets)
    cpdef bytes take_output(self)
    cpdef bytes close(self)
