cdef class Policy:
    cdef readonly object options
    cdef readonly bint secured, lmtp, enhanced, auth_required, needs_upgrade
    cdef readonly bint strict_pipelining
    cdef readonly int leniency
    cdef readonly bint speaks_for_others, has_exclusions, has_lf_commands, reject_nul
    cdef readonly str bare_newline
    cdef readonly long long size, drop_limit
    cdef readonly Py_ssize_t max_command_length, max_recipients, max_tried, max_messages
    cdef readonly Py_ssize_t max_recipient_octets
    cdef readonly Py_ssize_t max_errors, max_junk_commands, max_unrecognized_commands
    cdef readonly Py_ssize_t max_allowed_unauthenticated_commands, max_auth_failures
    cdef readonly double socket_timeout, data_timeout, min_data_rate
    cdef readonly double hook_timeout, data_hook_timeout
