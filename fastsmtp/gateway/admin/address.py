"""The address of the admin listener: a loopback address and a port, or a UNIX socket.

Anyone who can connect can read the counts and the latest refusals. So an address that other
machines can reach needs a second option.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["AdminAddress", "parse_address"]

MAX_PATH: Final = 107  # octets: sun_path of Linux has 108 with the NUL at its end
_PORT: Final = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class AdminAddress:
    """A UNIX socket if `path` is not empty, else TCP. is_public: other machines can reach it."""

    host: str = ""
    port: int = 0
    path: str = ""
    is_public: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> AdminAddress:
    """Read an address. Raises ValueError with a sentence."""
    if text.startswith("unix:"):
        return AdminAddress(path=_checked_path(text.removeprefix("unix:")))
    host, _, port = text.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise ValueError("a port is at most 65535" if _PORT.fullmatch(port) else "there is no port")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"{host} is not an address") from None
    return AdminAddress(host=host, port=int(port), is_public=not address.is_loopback)


def _checked_path(path: str) -> str:
    if not path or path.endswith("/") or "\0" in path:
        raise ValueError("the path must name a socket, as in unix:/run/fastsmtp/admin.sock")
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > MAX_PATH:
        raise ValueError(f"a socket path has at most {MAX_PATH} octets")
    return path
