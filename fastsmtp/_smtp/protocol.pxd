cimport cython
from fastsmtp._smtp.data cimport MailData
from fastsmtp._smtp.preconditions cimport check_preconditions
from fastsmtp._smtp.dialogue cimport Dialogue
from fastsmtp._smtp.simple_verbs cimport connect
from fastsmtp._hooks.callback cimport Answer
from fastsmtp._parser cimport Command, Fault, Parser
from fastsmtp.replies cimport Reply

cdef int _OPENING, _IDLE, _MESSAGE, _COMMANDS_PER_TURN, _OCTETS_OF_A_COMMAND
cdef Py_ssize_t _OUT_HIGH_WATER
cdef object _END_OF_DATA


cdef class SMTPProtocol(Dialogue):
    cdef public bint blocked
    cdef public Py_ssize_t unsent
    cdef public bint _eof, started
    cdef MailData _mail_data

    cpdef client_is(self, str address, bint is_unix)
    cpdef stop_clock(self)
    cpdef double deadline(self)
    cpdef start(self, str client_hostname, double now)
    cpdef receive_eof(self, double now)
    cpdef disconnect(self, double now, reason=*)
    cpdef release(self)
    cpdef bint has_open_message(self)
    cpdef receive(self, bytes octets, double now, Py_ssize_t unsent=*)
    cpdef bint wants_turn(self)

    @cython.locals(out=list, octets=bytes)
    cpdef bytes take_output(self, double now)
    cpdef bint settled(self)
    cpdef _run(self, first)

    @cython.locals(budget=int, verb=int, command=Command, flags=int, refusals=tuple, refusal=Reply,
                   parser=Parser, mail_data=MailData)
    cpdef _pump(self)
