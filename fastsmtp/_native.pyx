"""What C knows without asking Python: the time, and which thread this is.

Both are looked at for every read and every answer, so compiled modules take them by `cimport`.
"""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()


cpdef double monotonic():
    """monotonic()\n--\n\nSeconds on the clock of `time.monotonic`."""
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return moment.tv_sec + moment.tv_nsec * 1e-9


cpdef unsigned long thread_ident():
    """thread_ident()\n--\n\nThe number that `threading.get_ident` gives."""
    return PyThread_get_thread_ident()
