from fastsmtp._smtp.dialogue cimport Exchange
from fastsmtp._hooks.callback cimport Answer

cdef int _CONNECTED


cpdef connect(Exchange dialogue)
cpdef _connect_answered(Exchange dialogue, Answer answer)
cpdef handle_ehlo(Exchange dialogue, bytes argument)
cpdef handle_helo(Exchange dialogue, bytes argument)
cpdef handle_rset(Exchange dialogue, bytes argument)
cpdef handle_noop(Exchange dialogue, bytes argument)
cpdef handle_quit(Exchange dialogue, bytes argument)
