"""Fields of the dialogue by lifetime, and the methods that are called from C."""

from fastsmtp._smtp.deadline cimport Clock
from fastsmtp._hooks.binding cimport Hooks
from fastsmtp._hooks.callback cimport Answer, new_answer
from fastsmtp._native cimport thread_ident
from fastsmtp._pace cimport Pace
from fastsmtp._parser cimport Parser
from fastsmtp._smtp.reply_queue cimport ReplyQueue
from fastsmtp._smtp.server_tables cimport ServerTables
from fastsmtp._smtp.states cimport Transaction
from fastsmtp.replies cimport Reply
from fastsmtp.session cimport set_envelope

cdef double _STALL
cdef int _CONNECTED, _GREETED, _OPENING, _CLOSING, _WAITING
cdef Reply _SHUTTING_DOWN
cdef Py_ssize_t _IDLE, _ACCEPTED, _REFUSED
cdef dict _ASKED, _FAILURES


cdef class Intake:
    cdef public object message

    cpdef abort(self, reason)
    cpdef reset(self)


cdef class Dialogue(ReplyQueue):
    # connection
    cdef public object options, host, tls, trace
    cdef public Hooks hooks
    cdef Pace _pace
    cdef public str client_hostname, remote_address, via, peer
    cdef public bint is_unix, secure, securing
    cdef public Clock clock
    cdef public Parser parser
    cdef public Intake mail_data
    cdef public bint stopping, lost, halted, more, first_line, caught_up, parted
    cdef public int watch
    cdef public Answer waiting, late
    cdef public unsigned long _thread
    cdef public double began, content_at
    cdef public Py_ssize_t told
    cdef public Py_ssize_t _transactions
    cdef public bint announced
    cdef public dict xclient
    # greeting
    cdef public int state
    cdef public bint extended, authenticated, user_from_xclient
    cdef public object attempt
    cdef public dict xforward
    # transaction
    cdef public Transaction transaction

    cdef _meet(self)
    cpdef serve_by(self, ServerTables tables)
    cpdef bint is_closing(self)
    cpdef close(self)
    cpdef double time(self)
    cpdef double measure(self, Answer answer) except? -1
    cpdef Answer make_answer(self, str name, then)
    cpdef ask(self, str name, hook, subject, then)
    cpdef Answer asked(self, str name, hook, subject, then)
    cpdef call(self, hook, subject, Answer answer)
    cpdef ask_without_subject(self, str name, hook, then)
    cpdef wait(self, Answer answer, double timeout)
    cpdef stop_if_asked(self)
    cpdef watch_lines(self)
    cpdef find_trace(self)
    cpdef begin_receiving(self)
    cpdef end_receiving(self)
    cpdef end_lag(self)
    cpdef str newline_policy(self)
    cpdef message_done(self, bint accepted, bint is_tiny)
    cpdef count_transaction(self, bint accepted)
    cpdef end_transaction(self)
    cpdef _drop_transaction(self)
    cpdef greet(self)
    cpdef greeted(self, str verb, str name)
    cpdef announce(self)
    cpdef bint _speaks_for_others(self)
    cpdef forget_transaction(self)
