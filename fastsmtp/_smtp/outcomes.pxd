from fastsmtp._smtp.states cimport Transaction
from fastsmtp.session cimport Session
cimport cython

cdef Py_ssize_t _MAIL, _RCPT


@cython.locals(session=Session, transaction=Transaction)
cpdef outcome_of(dialogue, str result, str reply, recipient=*)


@cython.locals(transaction=Transaction)
cdef tuple _addresses(dialogue)
cdef str _shown(bytes argument)
