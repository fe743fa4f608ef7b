cpdef double monotonic()
cpdef unsigned long thread_ident()
