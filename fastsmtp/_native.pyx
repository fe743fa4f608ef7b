"""The time, the current thread and the number of forks, from C.

They are needed for every read and every answer, so compiled modules get them by `cimport`.
"""


cdef extern from "pythread.h" nogil:
    unsigned long PyThread_get_thread_ident()


cdef extern from "_clock.h" nogil:
    double fs_monotonic()
    void fs_in_children(void (*function)() noexcept)


cdef unsigned long forked = 0


cdef void note_fork() noexcept nogil:
    global forked
    forked += 1


fs_in_children(note_fork)


cpdef double monotonic():
    """monotonic()\n--\n\nSeconds on the clock of `time.monotonic`."""
    return fs_monotonic()


cpdef unsigned long thread_ident():
    """thread_ident()\n--\n\nThe number that `threading.get_ident` returns."""
    return PyThread_get_thread_ident()


cpdef unsigned long forks():
    """forks()\n--\n\nHow many calls of `fork` have led to this process since this was imported.

    An object made at another number belongs to a parent process.
    """
    return forked
