cimport cython
from fastsmtp._connection.greeting_stage cimport is_known
from fastsmtp._connection.names cimport take_names
from fastsmtp._connection.output cimport Output
from fastsmtp._connection.server_state cimport ServerState
from fastsmtp._smtp.protocol cimport SMTPProtocol
from fastsmtp.session cimport Session


@cython.locals(server=ServerState, session=Session, protocol=SMTPProtocol)
cpdef arrive(connection)


cpdef let_in(connection, address)


@cython.locals(output=Output, protocol=SMTPProtocol)
cdef _refuse(connection, refusal)


cpdef shake_hands(connection)


@cython.locals(session=Session, server=ServerState)
cpdef prepare(connection)
