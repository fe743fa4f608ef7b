"""One budget of time for each turn of the event loop, shared by all connections of a server.

In: connections that have something to do. Out: visits, one after the other, until the turn's time
is used up; the rest waits for the next turn. A visit of one connection ends with its slice: the
dialogue calls `is_over` between two commands.

If no connection waits, connections are visited as they come. As soon as one has to wait, the one
that has used the least time goes first (start-time fair queueing): clients that wait for each reply
come before those that never do, however many these are. A newcomer starts with the time of a slice,
so that a client gains nothing by reconnecting.
"""

cimport cython
from fastsmtp._native cimport monotonic
from fastsmtp._pace cimport Pace

from contextvars import copy_context
from heapq import heappop, heappush

TURN = 0.002  # seconds of a turn of the loop for all connections of a server
SLICE = 0.0001  # seconds of one connection in a turn; more when there are fewer than fill the turn
# The most time that a connection can save up by using less than others: enough for several commands
# of a message, sent one by one, so that each of them comes first.
CREDIT = 0.0004

cdef double _TURN = TURN
cdef double _SLICE = SLICE
cdef double _CREDIT = CREDIT


cdef class Flow:
    """Flow()\n--\n\nA connection with its share of the turns."""

    cdef int _visit(self) except -1:
        """Its turn has come."""
        raise NotImplementedError(f"{self} is visited")

    cpdef object go_on_later(self):
        """go_on_later()\n--\n\nIt has more to do: call `go_on` of its protocol in its turn."""
        raise NotImplementedError(f"{self} has more to do")

    cpdef object let_go(self):
        """let_go()\n--\n\nIts connection has ended: it is not visited any more."""
        self.used = 0.0


cdef class Receiver:
    """Receiver()\n--\n\nA protocol that C code calls directly."""

    cpdef object data_received(self, bytes data):
        """data_received(data)\n--\n\nTake what was read."""
        raise NotImplementedError(f"{type(self).__name__} takes no {type(data).__name__}")

    cpdef object go_on(self):
        """go_on()\n--\n\nContinue with the remaining work. Called after `go_on_later`."""
        raise NotImplementedError(f"{type(self).__name__} has nothing left")


@cython.final
cdef class Continuation(Flow):
    """Continuation(turns, receiver)\n--\n\nThe flow of a connection on a transport of the loop."""

    def __init__(self, Turns turns not None, Receiver receiver not None):
        self._turns = turns
        self._receiver = receiver

    cpdef object go_on_later(self):
        if not self.queued and self._receiver is not None:
            self._context = copy_context()  # as `call_soon` would
            self._turns._queue(self)

    cpdef object let_go(self):
        self._receiver = self._context = None

    cdef int _visit(self) except -1:
        context, self._context = self._context, None
        if self._receiver is not None:
            context.run(self._receiver.go_on)
        return 0


cdef class Source:
    """Source()\n--\n\nWhere flows come from."""

    cdef int _look_for_turn(self) except -1:
        """Visit or queue what is ready, then call `Turns._run` and `Turns._settle`."""
        raise NotImplementedError(f"{self} has nothing to look at")


@cython.final
cdef class Turns(Pace):
    """Turns(loop, now=None)\n--\n\nThe turns of one server on one loop. now: another clock than
    that of `time.monotonic`.
    """

    def __init__(self, loop, now=None):
        self.loop = loop
        self._other_clock = now
        self._context = copy_context()  # of no connection
        self._waiting = []
        self._again = []
        self._slice = _TURN

    cdef double _now(self) except? -1:
        return monotonic() if self._other_clock is None else self._other_clock()

    cpdef bint is_over(self):
        """is_over()\n--\n\nWhether the slice of this visit is used up."""
        return self._now() >= self._slice_ends_at

    cpdef double now(self):
        """now()\n--\n\nThe time in seconds."""
        return self._now()

    # ---- work outside of visits -----------------------------------------------------------------

    cpdef int enter(self, Flow flow) except -1:
        """enter(flow)\n--\n\nWhether an event of `flow` outside of a visit may be handled now.

        0: no, this turn is over, or `flow` waits already. 1: yes, and `leave` is called afterwards.
        2: yes, because it is inside of a visit.
        """
        cdef double left
        if self._visited is flow:
            return 2
        if flow.queued:
            return 0
        if self._visited is not None:
            return 2
        # Noticing each turn of the loop would cost a callback in each. So the time of several turns
        # may add up to one budget, and only then work waits for the next turn.
        left = _TURN - self._used
        if left <= 0:
            self._ends_at = 0.0
            self._call_next()
            return 0
        self._visited = flow
        self._now_at = self._now()
        self._slice_ends_at = self._now_at + min(_SLICE, left)
        return 1

    cpdef object leave(self, Flow flow):
        """leave(flow)\n--\n\nThe work that `enter` has allowed is done."""
        self._visited = None
        self._charge(flow)
        self._settle()

    # ---- visits ---------------------------------------------------------------------------------

    cdef bint _begin(self) except -1:
        """A source has events. False: this turn is over, and the next one will handle them."""
        self._now_at = self._now()
        if not self._begun:
            self._used = 0.0
            self._ends_at = self._now_at + _TURN
            return True
        return self._now_at < self._ends_at

    cdef int _share(self, Py_ssize_t count) except -1:
        """`count` flows will be visited: each gets an equal part of the turn, at least SLICE."""
        self._slice = max(_SLICE, _TURN / count) if count > 1 else _TURN
        return 0

    cdef bint _visit(self, Flow flow) except -1:
        """Visit `flow`. False: this turn is over."""
        self._visited = flow
        self._running = True
        self._slice_ends_at = min(self._now_at + self._slice, self._ends_at)
        try:
            flow._visit()
        except Exception as error:
            context = {"message": "a visit of a connection failed", "exception": error}
            self.loop.call_exception_handler(context)
        finally:
            self._visited = None
            self._charge(flow)
        return self._now_at < self._ends_at

    cdef int _charge(self, Flow flow) except -1:
        """Add the time since `_now_at` to that of `flow`, up to the time of a bad visit: the client
        is not to blame if the process was stopped meanwhile.
        """
        cdef double now = self._now()
        cdef double took = min(now - self._now_at, 2 * self._slice)
        flow.used = max(flow.used, self._virtual - _CREDIT) + took
        self._used += now - self._now_at
        self._now_at = now
        if flow.used > self._most:
            self._most = flow.used
        return 0

    cdef double _of_newcomer(self) except? -1:
        """The initial time of a newcomer."""
        return self._virtual + _SLICE

    cdef int _queue(self, Flow flow) except -1:
        """`flow` waits for a visit: in this turn if it has had none, else in the next one."""
        if flow.queued:
            return 0
        flow.queued = True
        if self._running or self._visited is not None:
            self._again.append(flow)
        else:
            self._push(flow)
            self._call_next()
        return 0

    cdef int _push(self, Flow flow) except -1:
        if flow.used < self._virtual - _CREDIT:
            flow.used = self._virtual - _CREDIT
        self._number += 1
        heappush(self._waiting, (flow.used, self._number, flow))
        return 0

    cdef int _run(self) except -1:
        """Visit the waiting flows until this turn is over."""
        cdef Flow flow
        if not self._waiting:
            return 0
        self._now_at = self._now()
        self._share(len(self._waiting))
        while self._waiting and self._now_at < self._ends_at:
            used, _, flow = heappop(self._waiting)
            flow.queued = False
            self._virtual = max(self._virtual, <double>used)
            self._visit(flow)
        return 0

    cdef int _settle(self) except -1:
        """This turn's work is done."""
        cdef list again = self._again
        self._running = False
        if again:
            self._again = []
            for flow in again:
                self._push(flow)
        if self._waiting:
            self._call_next()
        else:
            self._virtual = self._most  # no flow had to wait for another one
        return 0

    # ---- the next turn --------------------------------------------------------------------------

    cdef int _call_next(self) except -1:
        if not self._begun:
            self._begun = True
            self.loop.call_soon(self._next_turn, context=self._context)
        return 0

    def _next_turn(self):
        """A turn of the loop has begun."""
        self._begun = False
        self._used = 0.0
        if not self._waiting:
            return
        self._now_at = self._now()
        self._ends_at = self._now_at + _TURN
        self._call_next()
        if self.source is not None:
            self.source._look_for_turn()
            return
        try:
            self._run()
        finally:
            self._settle()
