from fastsmtp._dialogue cimport Dialogue
from fastsmtp._native cimport monotonic
from fastsmtp._sockets cimport Receiver
from fastsmtp._tls_pump cimport Pump
from fastsmtp._writing cimport WriteWatch


cdef class Link(Receiver):
    cdef public object _loop, _other_clock, _transport, _tasks, _timer, session
    cdef public Dialogue _dialogue
    cdef public WriteWatch _watch
    cdef public Pump _pump
    cdef public bint _reading, _eof, _lost, _ended
    cdef public Py_ssize_t _reads, _grace
    cdef public double _close_at, _cancel_at, _timer_at

    cpdef double _now(self)
    cpdef _after(self, double began)
    cpdef _write(self, bytes octets, double now)
