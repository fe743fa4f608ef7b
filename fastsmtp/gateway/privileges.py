"""The rights of root, and how a service gives them up once its ports are bound.

In: the user and group of the command line. Out: a process that has the rights of that user, for
good. Raised: `StartError`.
"""

from __future__ import annotations

import ctypes
import grp
import ipaddress
import os
import pwd
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from fastsmtp.gateway.start import StartError
from fastsmtp.log_text import clean

__all__ = ["Account", "account_of", "drop", "warning_of_root"]

FIRST_FREE_PORT: Final = 1024  # ports below are for root
MAX_ID: Final = 2**32 - 2  # the next one means "unchanged" to the system
PR_SET_NO_NEW_PRIVS: Final = 38


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the process becomes. name: that of the user, "" for a number without a name."""

    uid: int
    gid: int
    name: str = ""

    def __str__(self) -> str:
        return self.name or str(self.uid)


def account_of(user: str, group: str) -> Account | None:
    """Return the account that is named, None if none is. Both take numbers too.

    Raises StartError if it does not exist, or only root could become it.
    """
    if not user:
        return None
    account = _account(user, group)
    if account.uid == 0:
        raise StartError("--user: root keeps all rights; say so with --stay-root instead")
    ids = (account.uid, account.gid)
    if os.geteuid() != 0 and ids != (os.geteuid(), os.getegid()):
        raise StartError(f"--user: only root can become {account}: start as root, or leave it out")
    return account


def _account(user: str, group: str) -> Account:
    entry = _entry_of_user(user)
    if entry is None and not _is_id(user):
        raise StartError(f"--user: there is no user {clean(user)}: useradd --system {clean(user)}")
    if group:
        gid = _gid_of(group)
    elif entry is not None:
        gid = entry.pw_gid
    else:
        raise StartError(f"--user: {user} has no entry in /etc/passwd: give its --group too")
    if entry is None:
        return Account(int(user), gid)
    return Account(entry.pw_uid, gid, entry.pw_name)


def _entry_of_user(user: str) -> pwd.struct_passwd | None:
    with suppress(KeyError, ValueError):  # ValueError: a NUL in the name
        return pwd.getpwnam(user)
    with suppress(KeyError):
        if _is_id(user):
            return pwd.getpwuid(int(user))
    return None


def _gid_of(group: str) -> int:
    with suppress(KeyError, ValueError):
        return grp.getgrnam(group).gr_gid
    if not _is_id(group):
        raise StartError(f"--group: there is no group {clean(group)}")
    return int(group)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= MAX_ID


def warning_of_root(sockets: Iterable[socket.socket], *, stay_root: bool) -> str:
    """Return a line for the log if this process is root without saying so, "" otherwise.

    Raises StartError if other hosts could reach it, or it has a port of root.
    """
    if os.geteuid() != 0 or stay_root:
        return ""
    for sock in sockets:
        if not _is_for_development(sock):
            host, port = sock.getsockname()[:2]
            raise StartError(
                f"root would serve {host} port {port}: give --user NAME for a server with the"
                " rights of that user, or --stay-root"
            )
    return "running as root: give --user NAME for anything but development"


def _is_for_development(sock: socket.socket) -> bool:
    """Whether only this host can connect, and to a port that anyone may listen on."""
    if sock.family == socket.AF_UNIX:
        return True
    host, port = sock.getsockname()[:2]
    return ipaddress.ip_address(host).is_loopback and port >= FIRST_FREE_PORT


def drop(account: Account) -> None:
    """Become `account` for good, in all threads: no group, capability or set-user-id program gives
    rights back. Raises StartError.
    """
    if os.geteuid() == 0:
        try:
            _set_groups(account)
            os.setgid(account.gid)
            os.setuid(account.uid)
        except OSError as error:
            raise StartError(f"cannot become {account}: {error.strerror}") from error
        if _has_rights_of_root():
            raise StartError(f"cannot become {account}: the process would keep rights of root")
    # Otherwise modules that are needed later, by an error or by a hook, could not be loaded then.
    for source in (os.__file__, __file__):
        if not os.access(source, os.R_OK):
            raise StartError(
                f"cannot become {account}: that user cannot read {source};"
                " install Python and fastsmtp where others can read them"
            )
    _forbid_new_privileges()


def _set_groups(account: Account) -> None:
    if account.name:
        os.initgroups(account.name, account.gid)
    else:
        os.setgroups([account.gid])


def _has_rights_of_root() -> bool:
    """Whether this process could be root again, or has a capability."""
    with suppress(PermissionError):
        os.setuid(0)
        return True
    with suppress(FileNotFoundError), open("/proc/self/status", "rb") as status:
        return any(
            int(line.split()[1], 16)
            for line in status
            if line.startswith((b"CapPrm:", b"CapEff:", b"CapAmb:"))
        )
    return False


def _forbid_new_privileges() -> None:
    """Have the system ignore the set-user-id bit of programs that this thread, or one that it
    starts, executes. Only Linux can.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
