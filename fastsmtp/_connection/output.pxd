cimport cython
from fastsmtp._smtp.protocol cimport SMTPProtocol
from fastsmtp._native cimport forks, monotonic
from fastsmtp._net.timer_wheel cimport Timers
from fastsmtp._tls.pump cimport Pump
from fastsmtp._net.turns cimport Flow, Receiver, Turns
from fastsmtp._net.write_progress cimport WriteWatch


cdef double _INFINITY, _COARSE


cdef class Link(Receiver):
    cdef public object context
    cdef public Timers _timers
    cdef public Turns _turns
    cdef public Flow _flow
    cdef public bint _is_direct, _woken, _overdue
    cdef public unsigned long _forks  # wherever this was made: a child has no business with it
    cdef public object _loop, _other_clock, _transport, _tasks, _timer, session
    cdef public SMTPProtocol _protocol
    cdef public WriteWatch _watch
    cdef public Pump _pump
    cdef public bint _reading, _eof, _lost, _ended
    cdef public Py_ssize_t _reads, _grace, _slot
    cdef public double _close_at, _cancel_at, _timer_at

    cpdef double _now(self)
    cpdef _after(self, double began)

    @cython.locals(protocol=SMTPProtocol, now=double, entered=int)
    cpdef _receive_in_turn(self, bytes data)

    @cython.locals(now=double)
    cpdef _advance(self)
    cpdef _close(self)
    cpdef _wait_for_turn(self)

    @cython.locals(pump=Pump)
    cpdef bint _holds_input(self) except -1
    cpdef _set_reading(self, bint reading)

    @cython.locals(wait=double)
    cpdef _arm(self, double deadline)
    cpdef _disarm(self)
    cpdef _end_if_done(self)
    cpdef _rearm(self)
    cpdef _write(self, bytes octets, double now)
