"""Which versions run here: `fastsmtp --version`, and a distribution that has our name."""

from __future__ import annotations

import importlib.metadata
import platform
import ssl

import fastsmtp

__all__ = ["namesake", "versions"]


def versions() -> str:
    """Return the versions of fastsmtp, Python, uvloop and OpenSSL, and the system, in one line."""
    try:
        loop = f"uvloop {importlib.metadata.version('uvloop')}"
    except importlib.metadata.PackageNotFoundError:
        loop = "no uvloop"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.machine()}"
    return f"fastsmtp {fastsmtp.__version__} ({python}, {loop}, {ssl.OPENSSL_VERSION}, {system})"


def namesake() -> str:
    """Return the version of another project's distribution `fastsmtp`, "" if there is none here.

    It has a module of the same name, and the files of both end up in one folder.
    """
    try:
        return importlib.metadata.version("fastsmtp")
    except importlib.metadata.PackageNotFoundError:
        return ""
