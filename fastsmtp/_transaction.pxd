from fastsmtp._exchange cimport Exchange
from fastsmtp._hooks cimport Answer


cpdef handle_mail(Exchange dialogue, bytes argument)
cpdef handle_rcpt(Exchange dialogue, bytes argument)
cpdef _mail_answered(Exchange dialogue, Answer answer)
cpdef _rcpt_answered(Exchange dialogue, Answer answer)
cdef _mail_accepted(Exchange dialogue)
cdef _rcpt_accepted(Exchange dialogue)
