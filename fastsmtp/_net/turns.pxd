"""The turns of one server: the flows that share them, and their order."""

from fastsmtp._pace cimport Pace


cdef class Flow:
    cdef readonly bint queued  # it waits for a visit
    # The time that it has used, on the clock of `Turns.virtual`: the least goes first.
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
    # waiting flows: a heap of (used, number, flow)
    cdef list _waiting
    cdef Py_ssize_t _number
    cdef double _virtual  # the `used` of the flow that was visited last
    cdef double _most  # the largest `used` of all
    # this turn
    cdef list _again  # flows that were visited and have more to do
    cdef Flow _visited
    cdef bint _running
    cdef bint _begun  # a callback of the next turn is due, so the end of this one is known
    cdef double _used  # of this turn's budget, or of several turns by work outside of visits
    cdef double _now_at, _ends_at, _slice, _slice_ends_at

    cpdef bint is_over(self)
    cpdef double now(self)
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
