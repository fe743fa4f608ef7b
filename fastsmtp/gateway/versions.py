"""The text of `fastsmtp --version`: what a report of a fault needs to say."""

from __future__ import annotations

import importlib.metadata
import platform
import ssl

import fastsmtp

__all__ = ["versions"]


def versions() -> str:
    """Return the versions of fastsmtp, Python, uvloop and OpenSSL, and the system, in one line."""
    try:
        loop = f"uvloop {importlib.metadata.version('uvloop')}"
    except importlib.metadata.PackageNotFoundError:
        loop = "no uvloop"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.machine()}"
    return f"fastsmtp {fastsmtp.__version__} ({python}, {loop}, {ssl.OPENSSL_VERSION}, {system})"
