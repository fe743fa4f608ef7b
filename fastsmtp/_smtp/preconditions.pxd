cimport cython
from fastsmtp._smtp.data cimport Content
from fastsmtp._smtp.dialogue cimport Exchange
from fastsmtp._parser cimport Command, Fault
from fastsmtp.replies cimport Reply

cdef Reply _NOT_IMPLEMENTED
cdef int _JUNK, _SYNC, _UNKNOWN, _BDAT, _AUTHENTICATED, _COUNTED, _UPGRADE, _SWITCH, _CONNECTED


@cython.locals(first_line=bint)
cpdef bint is_answered(Exchange dialogue, Command command, tuple refusals, int flags)
cpdef answer_fault(Exchange dialogue, Fault fault)


@cython.locals(refusal=Reply)
cdef Reply _bdat_refusal(Exchange dialogue, tuple refusals)
cdef bint _must_upgrade(Exchange dialogue)
cdef bint _must_authenticate(Exchange dialogue)
cdef bint _strike_unauthenticated(Exchange dialogue)
