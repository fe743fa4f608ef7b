"""Line ends of a piece of a message, looked at once: its CRs and LFs, and the dots after them.

In: octets. Out: a count. Nothing is copied.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr


def dots_after_lines(bytes piece not None, bint follows_cr):
    """dots_after_lines(piece, follows_cr)\n--\n\nReturn how often CRLF and a dot are in `piece`, -1
    if it has a CR or an LF that stands alone.

    follows_cr: the octet before it is a CR. A CR at its end is left to the next piece.
    """
    cdef const char *at = PyBytes_AS_STRING(piece)
    cdef const char *end = at + PyBytes_GET_SIZE(piece)
    cdef const char *cr
    cdef const char *stop
    cdef Py_ssize_t dots = 0
    if follows_cr and at != end:
        if at[0] != c"\n":
            return -1
        at += 1
    while True:
        cr = <const char *>memchr(at, c"\r", end - at)
        stop = end if cr == NULL else cr
        if memchr(at, c"\n", stop - at) != NULL:
            return -1
        if cr == NULL or cr + 1 == end:
            return dots
        if cr[1] != c"\n":
            return -1
        at = cr + 2
        if at != end and at[0] == c".":
            dots += 1
