"""Listening sockets of UNIX in the file system.

In: a path. Out: a bound socket; the file of a process that was killed does not stand in the way.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

__all__ = ["bind_unix"]


def bind_unix(path: str) -> socket.socket:
    """Return a socket bound to `path`; a stale socket file, without a listener, is replaced.

    Raises OSError: the path is in use, is another kind of file, or cannot be created.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        if os.path.lexists(path):
            _make_way(path)
        sock.bind(path)
    except OSError as error:
        sock.close()
        number = error.errno or errno.ENAMETOOLONG  # Python's own error has no number
        raise OSError(number, error.strerror or os.strerror(number), path) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _make_way(path: str) -> None:
    """Remove a socket file without a listener; raises OSError for any other file."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:  # a symbolic link to nothing
        is_socket = False
    if not is_socket:
        raise FileExistsError(errno.EEXIST, "a file is there that is not a socket", path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # connecting to a full queue would block
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:  # a datagram socket
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
