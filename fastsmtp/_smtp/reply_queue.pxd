cimport cython
from fastsmtp._counts.tally cimport Tally
from fastsmtp._hooks.callback cimport Asker
from fastsmtp._smtp.policy cimport Policy
from fastsmtp._smtp.server_tables cimport ServerTables
from fastsmtp._smtp.strikes cimport Counters
from fastsmtp.replies cimport Reply
from fastsmtp.session cimport Session

cdef Reply _TOO_MANY_ERRORS
cdef Py_ssize_t _REPLIES, _CODES, _MAIL, _RCPT


cdef class ReplyQueue(Asker):
    cdef public ServerTables tables
    cdef public Policy policy
    cdef public Session session
    cdef public Tally tally
    cdef public Counters counters
    cdef public Py_ssize_t stage
    cdef public bytes argument
    cdef public str refused_by
    cdef public list out
    cdef public Py_ssize_t out_octets
    cdef public bint _enhanced

    cpdef serve_by(self, ServerTables tables)
    cpdef begin_command(self, Py_ssize_t stage, bytes argument)
    cpdef reply(self, Reply reply)

    @cython.locals(octets=bytes)
    cdef _queue(self, Reply reply)
    cpdef close(self)
    cpdef refuse(self, Reply reply, bint is_strike)

    @cython.locals(reply=Reply, octets=bytes)
    cpdef reply_group(self, list group)
    cpdef reply_and_close(self, Reply reply)
