from fastsmtp._dialogue cimport Dialogue
from fastsmtp._tls_pump cimport Pump
from fastsmtp._writing cimport WriteWatch


cdef class Link:
    cdef public object _loop, _now, session, _transport, _tasks, _timer
    cdef public Dialogue _dialogue
    cdef public WriteWatch _watch
    cdef public Pump _pump
    cdef public bint _reading, _eof, _lost, _ended
    cdef public Py_ssize_t _reads, _grace
    cdef public double _close_at, _cancel_at, _timer_at

    cpdef _after(self, double began)
    cpdef _write(self, bytes octets, double now)
