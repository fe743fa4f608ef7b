cpdef double monotonic()
cpdef unsigned long thread_ident()
cpdef unsigned long forks()
