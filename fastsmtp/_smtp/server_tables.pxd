"""The precomputed data of a server with C types, read per connection or per command."""

from fastsmtp._counts.tally cimport Tally
from fastsmtp._hooks.binding cimport Hooks
from fastsmtp._smtp.policy cimport Policy
from fastsmtp.replies cimport Reply


cdef class ServerTables:
    cdef readonly object options
    cdef readonly Hooks hooks
    cdef readonly Policy policy
    cdef readonly bint starttls_available
    # by verb
    cdef readonly tuple handlers, refusals, flags, stages
    cdef readonly Tally tally
    cdef readonly dict limits
    cdef public object observer, tracing, stalls, warnings
    cdef public ServerTables base
    cdef readonly object mail_parameters, rcpt_parameters
    cdef readonly Reply too_large, greeting, early_talker, connection_refused, not_available
    cdef readonly Reply too_many_clients, too_many_from_host, closing_at_greeting
    cdef readonly Reply auth_required_reply
    cdef str _helo_response
    cdef dict _helo_replies, _ehlo_replies
    cdef object _ehlo_lines, _remake
    cdef dict _of_sessions

    cdef _make_texts(self, options)
    cpdef Reply helo_reply(self, str client_hostname)
    cpdef Reply ehlo_reply(self, dialogue)
    cpdef Reply ehlo_reply_of(self, tuple lines)
    cpdef ServerTables for_session(self, changed)
