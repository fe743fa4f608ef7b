cimport cython
from fastsmtp._smtp.dialogue cimport Dialogue
from fastsmtp._hooks.callback cimport Answer
from fastsmtp._smtp.server_tables cimport ServerTables
from fastsmtp._smtp.starttls cimport greet_inside

cdef int _CONNECTED


cpdef connect(Dialogue dialogue)


@cython.locals(tables=ServerTables)
cpdef _connect_answered(Dialogue dialogue, Answer answer)


@cython.locals(tables=ServerTables)
cpdef handle_ehlo(Dialogue dialogue, bytes argument)
cpdef handle_helo(Dialogue dialogue, bytes argument)
cpdef handle_rset(Dialogue dialogue, bytes argument)
cpdef handle_noop(Dialogue dialogue, bytes argument)
cpdef handle_quit(Dialogue dialogue, bytes argument)
