from fastsmtp._smtp.states cimport Transaction
from fastsmtp.replies cimport Reply
from fastsmtp.session cimport Session
cimport cython

cdef Py_ssize_t _MAIL, _RCPT
cpdef bint is_observed(dialogue) except -1


@cython.locals(first=Reply, octets=bytes)
cpdef tell_accepted(dialogue, list group)
cdef _emit(dialogue, outcome)


@cython.locals(session=Session, transaction=Transaction)
cpdef outcome_of(dialogue, str result, str reply, recipient=*)


@cython.locals(transaction=Transaction)
cdef tuple _addresses(dialogue)
cdef str _shown(bytes argument)
