cimport cython
from fastsmtp._smtp.data cimport Content
from fastsmtp._smtp.dialogue cimport Exchange
from fastsmtp._wire.grammar cimport has_parameter, parse_forward_path, parse_reverse_path
from fastsmtp._hooks.callback cimport Answer
from fastsmtp._smtp.policy cimport Rules
from fastsmtp._smtp.states cimport Transaction
from fastsmtp.replies cimport Reply
from fastsmtp.session cimport Envelope

cdef int _MAIL_GIVEN, _RCPT_GIVEN
cdef Py_ssize_t _RECIPIENT, _PARAMETERS
cdef Reply _MAIL_ACCEPTED, _RCPT_ACCEPTED


@cython.locals(rules=Rules, utf8=bint, envelope=Envelope, transaction=Transaction, answer=Answer)
cpdef handle_mail(Exchange dialogue, bytes argument)


@cython.locals(rules=Rules, utf8=bint, transaction=Transaction, answer=Answer)
cpdef handle_rcpt(Exchange dialogue, bytes argument)
cpdef _mail_answered(Exchange dialogue, Answer answer)
cpdef _rcpt_answered(Exchange dialogue, Answer answer)


@cython.locals(transaction=Transaction, content=Content)
cdef _mail_accepted(Exchange dialogue)


@cython.locals(transaction=Transaction)
cdef _rcpt_accepted(Exchange dialogue)
