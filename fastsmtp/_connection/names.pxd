cimport cython
from fastsmtp._net.epoll_transport cimport SocketTransport
from fastsmtp.session cimport Session


@cython.locals(direct=SocketTransport)
cpdef bint take_names(transport, Session session) except -1
