cdef class Hooks:
    cdef public object on_connect, on_secure, on_helo, on_auth, on_scram, on_mail_from, on_rcpt_to
    cdef public object on_vrfy, on_data, on_close
