"""Facts for hooks. All are typed as object, because a hook may assign anything."""


cdef class Envelope:
    cdef public object mail_from, rcpt_to, body_type, smtp_utf8, require_tls
    cdef public object auth, mt_priority, deliver_by, hold_for, hold_until
    cdef public object _dsn


cdef class Session:
    # connection
    cdef public object local_address, local_port, remote_address, remote_port, client_hostname
    cdef public object proxy, secure, servername, tls_options, transaction
    cdef public object _id, _lmtp, _data
    # greeting
    cdef public object opening_command, host_name_appears_as, user, error, _xclient
    # transaction
    cdef public object _xforward, _envelope, _notes


cpdef set_envelope(Session session, Envelope envelope)
