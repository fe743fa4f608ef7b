"""Texts and octets may be of a subclass, so they are typed as object."""
cimport cython


@cython.locals(envelope=bytes, head=str)
cpdef bytes encode_record(record, bint hashes=*)


cpdef bytes encode_envelope(record, bint hashes=*, fingerprint=*)
cdef str _recipient(recipient)
cdef str _quote_or_null(text)
