"""The C types of the ClientHello parser. Offsets are checked before they are used."""

cimport cython


@cython.locals(message=bytes, end=Py_ssize_t, wanted=Py_ssize_t)
cpdef tuple read_hello(bytes octets)


@cython.locals(
    message=bytearray, at=Py_ssize_t, end=Py_ssize_t, have=Py_ssize_t, whole=Py_ssize_t,
    size=Py_ssize_t, claimed=Py_ssize_t,
)
cdef tuple _message(bytes octets)


@cython.locals(at=Py_ssize_t, end=Py_ssize_t, after=Py_ssize_t)
cdef str _name_in(bytes hello)


@cython.locals(end=Py_ssize_t, after=Py_ssize_t)
cdef str _host_name(bytes extension)


@cython.locals(label=Py_ssize_t, octet="unsigned char")
cdef str _clean(bytes name)


cdef bint _is_of_name(int octet) noexcept


@cython.locals(number=Py_ssize_t, offset=Py_ssize_t)
cdef Py_ssize_t _number(bytes octets, Py_ssize_t at, Py_ssize_t width) except -1


cdef Py_ssize_t _after(bytes octets, Py_ssize_t at, Py_ssize_t width) except -1
