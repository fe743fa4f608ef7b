cimport cython
from fastsmtp._smtp.dialogue cimport Dialogue
from fastsmtp._smtp.final_reply cimport Message
from fastsmtp._smtp.states cimport Transaction
from fastsmtp.replies cimport Reply
from fastsmtp.session cimport Session

cdef Py_ssize_t _MAIL, _RCPT
cpdef bint is_observed(Dialogue dialogue) except -1


@cython.locals(first=Reply, octets=bytes)
cpdef tell_accepted(Dialogue dialogue, list group)
cdef _emit(Dialogue dialogue, outcome)


@cython.locals(session=Session, transaction=Transaction, message=Message, began=double)
cpdef outcome_of(Dialogue dialogue, str result, str reply, recipient=*)


@cython.locals(transaction=Transaction)
cdef tuple _addresses(Dialogue dialogue)
cdef str _shown(bytes argument)
