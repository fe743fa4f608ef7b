cimport cython
from fastsmtp._smtp.data cimport MailData
from fastsmtp._smtp.dialogue cimport Dialogue
from fastsmtp._wire.grammar cimport has_parameter, parse_forward_path, parse_reverse_path
from fastsmtp._hooks.callback cimport Answer
from fastsmtp._smtp.policy cimport Policy
from fastsmtp._smtp.states cimport Transaction
from fastsmtp.replies cimport Reply
from fastsmtp.session cimport Envelope, set_envelope

cdef int _MAIL_GIVEN, _RCPT_GIVEN
cdef Py_ssize_t _RECIPIENT, _PARAMETERS, _ACCEPTED, _REFUSED
cdef Reply _MAIL_ACCEPTED, _RCPT_ACCEPTED


@cython.locals(policy=Policy, utf8=bint, envelope=Envelope, transaction=Transaction, answer=Answer)
cpdef handle_mail(Dialogue dialogue, bytes argument)


@cython.locals(policy=Policy, utf8=bint, transaction=Transaction, answer=Answer)
cpdef handle_rcpt(Dialogue dialogue, bytes argument)
cpdef _mail_answered(Dialogue dialogue, Answer answer)
cpdef _rcpt_answered(Dialogue dialogue, Answer answer)


@cython.locals(transaction=Transaction, mail_data=MailData)
cdef _mail_accepted(Dialogue dialogue)


@cython.locals(transaction=Transaction)
cdef _rcpt_accepted(Dialogue dialogue)
