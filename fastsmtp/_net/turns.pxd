"""The turns of one server: what shares them, and in what order."""

from fastsmtp._pace cimport Pace


cdef class Flow:
    cdef readonly bint queued  # it waits for a visit
    # What it has used, on the clock of `Turns.virtual`: who has used least goes first.
    cdef double used

    cdef int _visit(self) except -1
    cpdef object go_on_later(self)
    cpdef object let_go(self)


cdef class Receiver:
    cpdef object data_received(self, bytes data)
    cpdef object go_on(self)


cdef class Continuation(Flow):
    cdef Turns _turns
    cdef Receiver _receiver
    cdef object _context


cdef class Source:
    cdef int _look_for_turn(self) except -1


cdef class Turns(Pace):
    cdef readonly object loop
    cdef object _other_clock, _context
    cdef Source source
    # those that wait: a heap of (used, number, flow)
    cdef list _waiting
    cdef Py_ssize_t _number
    cdef double _virtual  # what the least user had used when it was visited last
    cdef double _most  # the largest `used` of all
    # this turn
    cdef list _again  # those that have had their visit and have more to do
    cdef Flow _visited
    cdef bint _running
    cdef bint _begun  # a callback of the next turn is due, so the end of this one is known
    cdef double _used  # of this turn's budget, or by work outside of visits in a few of them
    cdef double _now_at, _ends_at, _slice, _slice_ends_at

    cpdef bint is_over(self)
    cpdef int enter(self, Flow flow) except -1
    cpdef object leave(self, Flow flow)
    cdef double _now(self) except? -1
    cdef bint _begin(self) except -1
    cdef int _share(self, Py_ssize_t count) except -1
    cdef bint _visit(self, Flow flow) except -1
    cdef int _charge(self, Flow flow) except -1
    cdef double _of_newcomer(self) except? -1
    cdef int _queue(self, Flow flow) except -1
    cdef int _push(self, Flow flow) except -1
    cdef int _run(self) except -1
    cdef int _settle(self) except -1
    cdef int _call_next(self) except -1
