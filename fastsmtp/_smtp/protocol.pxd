cimport cython
from fastsmtp._smtp.data cimport Content
from fastsmtp._smtp.preconditions cimport is_answered
from fastsmtp._smtp.dialogue cimport Exchange
from fastsmtp._hooks.callback cimport Answer
from fastsmtp._pace cimport Pace
from fastsmtp._parser cimport Command, Fault, Parser
from fastsmtp.replies cimport Reply

cdef int _OPENING, _COMMANDS_PER_TURN, _OCTETS_OF_A_COMMAND
cdef Py_ssize_t _OUT_HIGH_WATER
cdef object _END_OF_DATA


cdef class Dialogue(Exchange):
    cdef public bint blocked
    cdef public Py_ssize_t unsent
    cdef public bint _eof
    cdef Content _content
    cdef Pace _pace
    cdef tuple _handlers, _refusals, _flags

    cpdef receive(self, bytes octets, double now)

    @cython.locals(out=list, octets=bytes)
    cpdef bytes take_output(self, double now)
    cpdef bint settled(self)
    cpdef _run(self, first)

    @cython.locals(budget=int, verb=int, command=Command, flags=int, refusals=tuple, refusal=Reply,
                   parser=Parser, content=Content)
    cpdef _pump(self)
