"""Directories whose entries survive a power cut, and files that are removed from them."""

from __future__ import annotations

import contextlib
import errno
import os

from fastsmtp.delivery.log import logger

__all__ = ["make_directory", "remove_file", "sync_directory"]


def sync_directory(path: str) -> None:
    """Make changes of a directory's entries durable. Blocks; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: str) -> None:
    """Make a directory for its owner alone, and missing ones above it, durably.

    path: absolute. Blocks; raises OSError.
    """
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_directory(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    sync_directory(parent)


def remove_file(path: str) -> None:
    """Remove a file, if it is still there; one that cannot be removed is logged. Blocks."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("a file stays behind: %s: %s", path, error.strerror)
