"""The users file: a line `name:hash` for each user that may log in.

    # comments, and empty lines
    anne:$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHRzYWx0$…

In: a path. Out: `Users`, or a changed file. Raised: `UsersError` with one line that has the file,
and the number of the line. No message contains a hash. RFC 9106; names and passwords are prepared
as in RFC 4616 §2, so that texts that look the same are the same.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from time import monotonic, sleep
from typing import Final

from fastsmtp import saslprep
from fastsmtp.blocking import read_at_once
from fastsmtp.log_text import clean

__all__ = ["Users", "UsersError", "checked_name", "prepared", "read_users", "store_user"]

MAX_NAME: Final = 255  # octets
MAX_FILE: Final = 64 << 20  # octets; half a million users
MAX_NUMBER: Final = 2**32 - 1  # of m and t, RFC 9106 §3.1
MAX_LANES: Final = 2**24 - 1
LOCK_PATIENCE: Final = 10.0  # seconds; the lock is held while one file is written
LOCK_POLL: Final = 0.05  # seconds

_HASH: Final = re.compile(
    r"\$(argon2(?:id|i|d)\$v=19\$m=(\d{1,10}),t=(\d{1,10}),p=(\d{1,8}))"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{16,342})"
)
# The costs for an unknown user if the file has no users to imitate.
_USUAL: Final = "argon2id$v=19$m=65536,t=3,p=4"


class UsersError(ValueError):
    """The users file cannot be used; the text is one line for the user."""


class Users:
    """Names and hashes. is_open: users other than owner and group may read or change the file."""

    def __init__(self, hashes: Mapping[str, str], is_open: bool = False) -> None:
        self._hashes = dict(hashes)
        self._costs = [_cost(each) for each in self._hashes.values()] or [_USUAL]
        self._secret = secrets.token_bytes(16)
        self.is_open = is_open

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, name: str) -> tuple[str, bool]:
        """Return the hash for a password of `name`, and whether there is such a user.

        An unknown user gets a hash that no password matches, with the costs of some user's hash,
        always the same for one name: so the time does not show which users exist.
        """
        key = prepared(name)
        found = None if key is None else self._hashes.get(key)
        if found is not None:
            return found, True
        digest = hmac.digest(self._secret, name.encode("utf-8", "surrogatepass"), "sha256")
        cost = self._costs[int.from_bytes(digest[:8], "big") % len(self._costs)]
        return f"${cost}${_base64(digest[8:24])}${_base64(secrets.token_bytes(32))}", False

    def __repr__(self) -> str:
        return f"<Users {len(self)}>"


def _cost(record: str) -> str:
    match = _HASH.fullmatch(record)
    return _USUAL if match is None else match[1]


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii").rstrip("=")


def prepared(text: str) -> str | None:
    """Return a name or password in the form in which it is compared; None if it is not allowed."""
    return saslprep(text, stored=False) or None


def checked_name(name: str) -> str:
    """Return `name` as it is stored. Raises UsersError for a name that could not log in, or that
    the file cannot contain.
    """
    if not name:
        raise UsersError("a name is needed")
    shown = clean(name)
    if ":" in name:
        raise UsersError(f"{shown} is not a name: it must not have a colon")
    key = saslprep(name, stored=True)
    if not key or not key.isprintable() or ":" in key:
        raise UsersError(f"{shown} is not a name: it has characters that no name may contain")
    if key != key.strip() or key.startswith("#"):
        raise UsersError(f"{shown} is not a name: it begins or ends with a space or begins with #")
    if len(key.encode()) > MAX_NAME:
        raise UsersError(f"{shown} is not a name: it has more than {MAX_NAME} octets")
    return key


def read_users(path: str) -> Users:
    """Read a users file. Raises UsersError for the first line that is wrong."""
    octets, mode = _read(path)
    hashes = {name: record for name, record in _entries(path, octets) if record}
    return Users(hashes, is_open=bool(mode & (stat.S_IROTH | stat.S_IWOTH)))


def _read(path: str) -> tuple[bytes, int]:
    try:
        octets, mode = read_at_once(path, MAX_FILE + 1)
    except ValueError as error:
        raise UsersError(f"{path} cannot be read: {error}") from None
    except OSError as error:
        raise UsersError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(octets) > MAX_FILE:
        raise UsersError(f"{path} is too large for a users file")
    return octets, mode


def _entries(path: str, octets: bytes) -> Iterator[tuple[str, str]]:
    """Yield name and hash of each line, "" and "" for a line without them."""
    seen: dict[str, int] = {}
    for number, line in enumerate(octets.split(b"\n"), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            yield "", ""
            continue
        try:
            name, record = _entry(text)
        except UsersError as error:
            raise UsersError(f"{path}:{number}: {error}") from None
        if name in seen:
            raise UsersError(f"{path}:{number}: {clean(name)} is in line {seen[name]} already")
        seen[name] = number
        yield name, record


def _entry(line: bytes) -> tuple[str, str]:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise UsersError("the line is not UTF-8") from None
    name, colon, record = text.partition(":")
    if not colon:
        raise UsersError("the line is not name:hash")
    match = _HASH.fullmatch(record)
    if match is None:
        raise UsersError(f"the text after {clean(name)}: is not an argon2 hash")
    memory, passes, lanes = int(match[2]), int(match[3]), int(match[4])
    if not 1 <= lanes <= MAX_LANES or not 8 * lanes <= memory <= MAX_NUMBER:
        raise UsersError(f"the hash of {clean(name)} has impossible costs")
    if not 1 <= passes <= MAX_NUMBER:
        raise UsersError(f"the hash of {clean(name)} has impossible costs")
    return checked_name(name), record


# --- changing the file ---


def store_user(path: str, name: str, record: str) -> bool:
    """Write the line of one user atomically; True: there was a user of that name.

    A new file is readable by its owner only; an existing one keeps owner and mode. Comments and the
    order of lines stay. Raises UsersError.
    """
    path = os.path.realpath(path)  # a link stays, its target is replaced
    key = checked_name(name)
    try:
        with _one_at_a_time(os.path.dirname(path)) as folder:
            octets, existed = _changed(path, key, f"{key}:{record}".encode())
            _replace(path, octets)
            os.fsync(folder)
    except OSError as error:
        raise UsersError(f"{path} cannot be written: {error.strerror or error}") from None
    return existed


@contextlib.contextmanager
def _one_at_a_time(folder: str) -> Iterator[int]:
    """Lock the directory, so that another process does not change the file at the same time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: str) -> None:
    give_up_at = monotonic() + LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if monotonic() >= give_up_at:
                raise UsersError(
                    f"{folder} is locked by another process, for {LOCK_PATIENCE:g} seconds or more"
                ) from None
            sleep(LOCK_POLL)
        except OSError:  # a file system without locks
            return
        else:
            return


def _changed(path: str, key: str, line: bytes) -> tuple[bytes, bool]:
    if not os.path.lexists(path):
        return line + b"\n", False
    octets, _ = _read(path)
    lines = octets.split(b"\n")
    names = [name for name, _ in _entries(path, octets)]
    if key in names:
        lines[names.index(key)] = line
        return b"\n".join(lines), True
    ended = octets if octets.endswith(b"\n") or not octets else octets + b"\n"
    return ended + line + b"\n", False


def _replace(path: str, octets: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(  # 0600
        prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path)
    )
    try:
        with open(descriptor, "wb") as file:
            file.write(octets)
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(path)
                if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), found.st_uid, found.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
