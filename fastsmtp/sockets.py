"""Bound TCP sockets, for a program that binds first and listens later, with fewer rights.

In: a host and a port. Out: sockets for `SMTPServer.listen(sock=…)`.
"""

from fastsmtp._net.listener import bind_tcp

__all__ = ["bind_tcp"]
