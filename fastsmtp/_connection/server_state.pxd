from fastsmtp._connection.events cimport Events
from fastsmtp._connection.registry cimport ConnectionRegistry
from fastsmtp._counts.tally cimport Tally
from fastsmtp._smtp.server_tables cimport ServerTables


cdef class ServerState:
    cdef readonly object options, hooks, tls
    cdef public object turns
    cdef readonly Events events
    cdef readonly object failures, refusals
    cdef readonly Tally tally
    cdef readonly ServerTables tables
    cdef readonly ConnectionRegistry registry
    cdef public object handshakes, lookup
    cdef readonly object sockets, timers
    cdef object _loop, _process

    cpdef connected(self, connection)
    cpdef report(self, error, place)
