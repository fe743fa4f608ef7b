from fastsmtp._smtp.dialogue cimport Dialogue
from fastsmtp._hooks.callback cimport Answer

cdef int _CONNECTED


cpdef connect(Dialogue dialogue)
cpdef _connect_answered(Dialogue dialogue, Answer answer)
cpdef handle_ehlo(Dialogue dialogue, bytes argument)
cpdef handle_helo(Dialogue dialogue, bytes argument)
cpdef handle_rset(Dialogue dialogue, bytes argument)
cpdef handle_noop(Dialogue dialogue, bytes argument)
cpdef handle_quit(Dialogue dialogue, bytes argument)
