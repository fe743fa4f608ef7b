cimport cython
from fastsmtp._smtp.dialogue cimport Dialogue, Intake
from fastsmtp._wire.grammar cimport parse_bdat_argument
from fastsmtp._hooks.callback cimport Answer
from fastsmtp._smtp.final_reply cimport Message
from fastsmtp._parser cimport Parser
from fastsmtp._smtp.outcomes cimport tell_accepted
from fastsmtp._smtp.policy cimport Policy
from fastsmtp._smtp.states cimport Transaction
from fastsmtp.replies cimport Reply
from fastsmtp.stream cimport DataStream, abort_stream, drop_stream, end_stream, feed_stream
from fastsmtp.stream cimport is_finished, is_full

cdef int _WAITING, _MAIL_GIVEN, _RCPT_GIVEN, _BDAT_FAILED, _IN_MAIL_DATA, _IN_BDAT
cdef int _MESSAGE, _ABORTED
cdef Py_ssize_t _LEAST_CHUNK, _LEAST_MESSAGE
cdef Reply _START_MAIL_INPUT


cdef class MailData(Intake):
    cdef public Dialogue _dialogue
    cdef public object _chunk  # whose octets are being taken
    cdef public Reply _failure
    cdef public object _skipped
    cdef object _on_room, _on_failure

    cpdef forget_skipped(self)

    @cython.locals(dialogue=Dialogue, message=Message, last=bint)
    cpdef begin_chunk(self, bytes argument, Reply refusal)
    cdef Reply _refusal(self)

    @cython.locals(dialogue=Dialogue, message=Message)
    cpdef begin_data(self)

    @cython.locals(message=Message, stream=DataStream)
    cpdef piece(self, bytes octets)

    @cython.locals(message=Message)
    cpdef notice_size(self)

    @cython.locals(message=Message)
    cpdef end_of_data(self)

    @cython.locals(dialogue=Dialogue, last=bint)
    cpdef end_of_chunk(self)

    @cython.locals(message=Message, dialogue=Dialogue, replies_due=list, reply=Reply, failure=Reply,
                   accepted=bint)
    cpdef conclude(self)

    @cython.locals(dialogue=Dialogue, policy=Policy, bare_newlines=str, transaction=Transaction,
                   answer=Answer, stream=DataStream, message=Message)
    cdef Message _begin(self)
    cdef _call_hook(self, Message message)

    @cython.locals(stream=DataStream, parser=Parser)
    cdef _end_stream(self, Message message)
    cdef _end_consumer(self, Message message, bint answered)
    cpdef _room(self)
    cdef _discard(self, Message message)


cpdef hook_answered(Dialogue dialogue, Answer answer)
cpdef handle_data(Dialogue dialogue, bytes argument)
