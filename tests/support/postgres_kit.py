"""A real PostgreSQL server for tests: Debian's programs, a cluster of its own on a free port.

As root the server runs as user postgres, because it refuses to run as root; so its files lie in a
directory of their own, which that user can reach. Nothing here sleeps: the server's log is read.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from clients import PATIENCE, program
from free_ports import free_port
from serving import Lines, environment_of_others

__all__ = [
    "Postgres",
    "bouncer",
    "cluster",
    "give_away",
    "owned_directory",
    "standby",
    "why_no_postgres",
]

USER: Final = "postgres"
# The newest that is installed; of Debian's, none lies on the path.
PROGRAMS: Final = max(
    Path("/usr/lib/postgresql").glob("*/bin"),
    key=lambda path: int(path.parent.name) if path.parent.name.isdigit() else 0,
    default=None,
)
PGBOUNCER: Final = program("pgbouncer", "pgbouncer")[0]
READY: Final = "ready to accept"
# What the tests of this machine need: small, and with a log in English.
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "lc_messages": "C",
    "log_min_messages": "warning",
}
ATTEMPTS: Final = 5  # another process may take the port that was free


def why_no_postgres() -> str:
    """Return why there is no PostgreSQL for tests, "" if there is."""
    if PROGRAMS is None or not (PROGRAMS / "postgres").exists():
        return "PostgreSQL is not installed (Debian: apt install postgresql)"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"there is no user {USER}, and PostgreSQL does not run as root"
    return ""


def _as_user() -> dict[str, Any]:
    """Arguments of `Popen` for a program that refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def owned_directory() -> Iterator[Path]:
    """A directory of the user that runs the server."""
    with tempfile.TemporaryDirectory(prefix="fastsmtp-pg-", ignore_cleanup_errors=True) as name:
        give_away(name)
        yield Path(name)


def give_away(path: str | Path) -> None:
    """Make a directory that of the user that runs the server."""
    if os.geteuid() == 0:
        entry = pwd.getpwnam(USER)
        os.chown(path, entry.pw_uid, entry.pw_gid)


class Postgres:
    """One cluster in `directory`. port: of 127.0.0.1, the same after each start."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.settings = SETTINGS | settings
        self.port = 0
        self.log: Lines | None = None
        self._process: subprocess.Popen[str] | None = None

    def make(self) -> None:
        """Make the cluster."""
        assert PROGRAMS is not None
        arguments = ["-A", "trust", "-E", "UTF8", "--locale=C", "-U", USER, "--no-instructions"]
        subprocess.run(
            [PROGRAMS / "initdb", "-D", self.data, "--no-sync", *arguments],
            check=True,
            capture_output=True,
            cwd=self.directory,
            env=environment_of_others(),
            **_as_user(),
        )

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            if self._start(port):
                self.port = port
                return
        raise AssertionError(f"PostgreSQL does not start: {self.log and self.log.all}")

    def _start(self, port: int) -> bool:
        assert PROGRAMS is not None
        settings = self.settings | {
            "port": str(port),
            "unix_socket_directories": str(self.directory),
        }
        self._process = subprocess.Popen(
            [
                str(PROGRAMS / "postgres"),
                *("-D", str(self.data)),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.directory,
            env=environment_of_others(),
            **_as_user(),
        )
        assert self._process.stderr is not None
        self.log = Lines(self._process.stderr)
        try:
            self.log.wait(READY)
        except AssertionError:
            self._process.wait(PATIENCE)
            return False
        return True

    @property
    def dsn(self) -> str:
        """Where it is, for a client."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{USER}"

    def processes(self) -> list[int]:
        """The server and its children, each of which is in a session of its own."""
        assert self._process is not None
        own = self._process.pid
        return [own, *(pid for pid in _pids() if _parent_of(pid) == own)]

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the server; the first one makes no new ones then."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """kill -9, all processes."""
        assert self._process is not None
        if self._process.poll() is None:
            self.send(signal.SIGSTOP)
            self.send(signal.SIGKILL)
            self._ended()

    def stop(self) -> None:
        """Stop in good order; sessions are ended, as a restart by the system does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._ended()

    def reload(self, **settings: str) -> None:
        """Change settings of the running server, which must not be of its command line."""
        assert self.log is not None
        for name, value in settings.items():
            self.run(f"ALTER SYSTEM SET {name} = '{value}'")
        self.run("SELECT pg_reload_conf()")
        for name in settings:
            self.log.wait(f'parameter "{name}" (changed|removed)')

    def run(self, sql: str, *, database: str = USER, user: str = USER) -> str:
        """Run SQL, and return what psql prints: a line for each row, its columns with |."""
        assert PROGRAMS is not None
        done = subprocess.run(
            [
                *(PROGRAMS / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"),
                *("-p", str(self.port), "-U", user, "-d", database, "-c", sql),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment_of_others(),
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def lines(self, sql: str) -> list[str]:
        """The rows of a query, as `run` prints them."""
        return self.run(sql).splitlines()

    def _ended(self) -> None:
        assert self._process is not None
        self._process.wait(PATIENCE)
        assert self.log is not None
        self.log.finish()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent_of(pid: int) -> int:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it has ended
        return 0
    return int(facts.rpartition(")")[2].split()[1])


@contextlib.contextmanager
def cluster(**settings: str) -> Iterator[Postgres]:
    """A new server that is running."""
    with owned_directory() as directory:
        server = Postgres(directory, **settings)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def standby(server: Postgres, name: str) -> Iterator[None]:
    """A standby that syncs all that the server writes, and says so to it."""
    assert PROGRAMS is not None
    with owned_directory() as directory:
        process = subprocess.Popen(
            [
                *(str(PROGRAMS / "pg_receivewal"), "--synchronous", "-D", str(directory)),
                *("-d", f"host=127.0.0.1 port={server.port} user={USER} application_name={name}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment_of_others(),
            **_as_user(),
        )
        try:
            yield
        finally:
            process.kill()
            process.wait(PATIENCE)


BOUNCER: Final = """\
[databases]
{user} = host=127.0.0.1 port={server} user={user} dbname={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = 3
unix_socket_dir =
max_client_conn = 100
"""


@contextlib.contextmanager
def bouncer(server: Postgres) -> Iterator[str]:
    """A pgbouncer in transaction mode in front of a server; gives the URL of a client."""
    if not PGBOUNCER:
        pytest.skip("pgbouncer is not installed (Debian: apt install pgbouncer)")
    with owned_directory() as directory:
        port = free_port()
        path = directory / "pgbouncer.ini"
        path.write_text(BOUNCER.format(user=USER, server=server.port, port=port))
        path.chmod(0o644)
        process = subprocess.Popen(
            [PGBOUNCER, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment_of_others(),
            **_as_user(),
        )
        assert process.stderr is not None
        log = Lines(process.stderr)
        try:
            log.wait("process up")
            yield f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
        finally:
            process.kill()
            process.wait(PATIENCE)
            log.finish()
