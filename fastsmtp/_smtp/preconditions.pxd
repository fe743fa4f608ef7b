cimport cython
from fastsmtp._smtp.data cimport MailData
from fastsmtp._smtp.dialogue cimport Dialogue
from fastsmtp._parser cimport Command, Fault
from fastsmtp.replies cimport Reply

cdef Reply _NOT_IMPLEMENTED
cdef int _JUNK, _ENDS_GROUP, _UNKNOWN, _BDAT, _NEEDS_AUTH, _COUNTS_UNAUTHENTICATED, _NEEDS_TLS
cdef int _STARTS_TLS, _CONNECTED


@cython.locals(first_line=bint)
cpdef bint check_preconditions(Dialogue dialogue, Command command, tuple refusals, int flags)
cpdef answer_fault(Dialogue dialogue, Fault fault)


@cython.locals(refusal=Reply)
cdef Reply _bdat_refusal(Dialogue dialogue, tuple refusals)
cdef bint _has_to_wait(Dialogue dialogue)
cdef bint _must_upgrade(Dialogue dialogue)
cdef bint _must_authenticate(Dialogue dialogue)
cdef bint _strike_unauthenticated(Dialogue dialogue)
