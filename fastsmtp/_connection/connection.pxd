cimport cython
from fastsmtp._connection.arrival cimport arrive, let_in, prepare, shake_hands
from fastsmtp._connection.deadline_timer cimport DeadlineTimer
from fastsmtp._connection.output cimport Output
from fastsmtp._connection.server_state cimport ServerState
from fastsmtp._connection.stages cimport Stage, Talking, held
from fastsmtp._counts.tally cimport Tally
from fastsmtp._hooks.coroutine_driver cimport drive
from fastsmtp._native cimport forks
from fastsmtp._net.turns cimport Flow, Receiver, Turns
from fastsmtp._smtp.protocol cimport SMTPProtocol
from fastsmtp.session cimport Session

cdef int _ENTERED, _INSIDE
cdef double _STALL
cdef Py_ssize_t _RECEIVED
cdef Stage _TALKING, _GONE, _LINGERING


cdef class Connection(Receiver):
    cdef public ServerState server
    cdef public object context, loop, tls
    cdef public Session session
    cdef public SMTPProtocol protocol
    cdef public Output output
    cdef public DeadlineTimer timer
    cdef Stage _stage
    cdef Turns _turns
    cdef Tally _tally
    cdef Flow _flow
    cdef public Talking talking
    cdef object _tasks
    cdef public str counted_host
    cdef unsigned long _forks
    cdef public Py_ssize_t reads
    cdef bint _is_direct, _woken, _hook_begins, _lost, _ended

    cpdef data_received(self, bytes data)
    cpdef go_on(self)

    @cython.locals(protocol=SMTPProtocol, now=double, entered=int)
    cpdef receive(self, bytes data)

    cpdef set_reading(self, bint reading)
    cpdef start(self, name, bint input_over=*)
    cpdef receive_eof(self)
    cpdef close(self)

    @cython.locals(now=double)
    cpdef _advance(self)
    cpdef enter(self, Stage stage)

    @cython.locals(protocol=SMTPProtocol, output=Output, now=double, octets=bytes)
    cpdef _after(self, double began)
    cpdef _end_if_done(self)
    cpdef _end(self)
