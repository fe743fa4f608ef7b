from fastsmtp._dialogue cimport Dialogue
from fastsmtp._writing cimport WriteWatch


cdef class Connection:
    cdef public object _server, _loop, _now, session, _transport, _tasks, _timer, _prelude
    cdef public Dialogue _dialogue
    cdef public WriteWatch _watch
    cdef public str _counted_address
    cdef public bint _started, _refused, _reading, _eof, _lost, _ended
    cdef public Py_ssize_t _reads, _grace
    cdef public double _close_at, _cancel_at, _timer_at

    cpdef _after(self, double began)
    cpdef _write(self, bytes octets, double now)
