cimport cython
from fastsmtp._smtp.dialogue cimport Dialogue
from fastsmtp._hooks.callback cimport Answer
from fastsmtp._parser cimport Parser
from fastsmtp.replies cimport Reply
from fastsmtp.stream cimport DataStream, is_half_read

cdef Reply _MESSAGE_QUEUED


cdef class Message:
    cdef public DataStream stream
    cdef public Answer answer
    cdef public Py_ssize_t recipients
    cdef public long long began_at
    cdef public bint utf8, reject_bare, reject_nul, by_chunks, last, at_end, is_aborted


@cython.locals(parser=Parser, lmtp=bint, failed=bint)
cpdef list final_replies(Dialogue dialogue, Message message)


@cython.locals(answer=Answer, parser=Parser)
cdef bint _is_plain(Dialogue dialogue, Message message)


cdef _accepted(Dialogue dialogue, Message message, result)


@cython.locals(found=object, wrong=object)
cdef list _lmtp_verdicts(Dialogue dialogue, Message message, list results, Reply overruled)
