cpdef object parse_reverse_path(bytes argument, bint smtp_utf8, int leniency)
cpdef object parse_forward_path(bytes argument, bint smtp_utf8, int leniency)
cpdef object parse_bdat_argument(bytes argument)
cpdef bint has_parameter(bytes argument, bytes keyword) except -1
