from fastsmtp.session cimport Envelope


cdef class Transaction:
    cdef public Envelope envelope
    cdef public list rcpt_to
    cdef public object address, sender
    cdef public Py_ssize_t accepted, refused, tried, octets, cost
    cdef public double began
    cdef public bint smtp_utf8, binary
