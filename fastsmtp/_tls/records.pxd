"""Records of one TLS connection: fields by lifetime, methods in the order of the data's path."""


cdef class Records:
    # set by the handshake
    cdef public bint established
    cdef public object tls
    cdef object _incoming, _outgoing
    cdef bint _shaking  # its first octets are in the BIO
    # the end: the client's close_notify, and why TLS has failed
    cdef public bint ended
    cdef public object error
    # between two reads: octets of an incomplete header, or None; octets of an incomplete record
    # that the BIO has, and that are missing; whether the BIO has the size of a record
    cdef bytes _header
    cdef Py_ssize_t _held, _missing
    cdef bint _grown
    # set by _feed: whether OpenSSL has something to work on, and how many whole records
    cdef bint _ready
    cdef Py_ssize_t _fed
    # records that a call may still work on; octets left for the next call, if there is `more`
    cdef Py_ssize_t _left
    cdef public bint more
    cdef bytes _kept
    # how many more records without plaintext there were than with it
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
