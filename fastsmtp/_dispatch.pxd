cimport cython
from fastsmtp._exchange cimport Exchange
from fastsmtp._parser cimport Command, Fault

cdef int _JUNK, _SYNC, _UNKNOWN, _BDAT, _AUTHENTICATED, _COUNTED, _UPGRADE, _SWITCH, _CONNECTED


@cython.locals(first_line=bint)
cpdef bint is_answered(Exchange dialogue, Command command, tuple refusals, int flags)
cpdef answer_fault(Exchange dialogue, Fault fault)
cdef bint _must_upgrade(Exchange dialogue)
cdef bint _must_authenticate(Exchange dialogue)
cdef bint _strike_unauthenticated(Exchange dialogue)
