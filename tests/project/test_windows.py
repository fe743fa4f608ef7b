"""On Windows the engine is there, and what is not there says so. Windows is pretended: its loop and
its compiler are not here, but nothing that Python has on POSIX alone can be imported or found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(os.name != "posix", reason="pretends what is so there"),
]

# Python's own modules and what other packages need come before the pretence.
WINDOWS = r"""
import asyncio, concurrent.futures, ctypes, importlib, importlib.metadata, logging.handlers, mailbox
import os, pathlib, pkgutil, select, shutil, signal, smtplib, socket, sqlite3, ssl, subprocess, sys
import tempfile, uuid
for name in (
    "aiodns", "aiohttp", "aiosmtpd", "argon2", "asyncpg", "click", "cryptography.x509", "msgspec",
    "nats", "obstore.store", "prometheus_client", "pytest", "rich.progress", "watchfiles"
):
    importlib.import_module(name)

loop = asyncio.SelectorEventLoop()

MISSING = {"fcntl", "grp", "pwd", "resource", "termios", "uvloop"}
MISSING.add("fastsmtp.delivery.maildir._commit")

class Windows:
    def find_spec(self, name, path=None, target=None):
        if name in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in MISSING:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Windows())
for module, prefixes in {
    os: ("chown", "fchmod", "fchown", "fork", "get", "register_at_fork", "sched_", "set", "statvfs",
         "wait", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"),
    select: ("epoll", "poll"),
    signal: ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR", "pthread_",
             "setitimer", "sigwait"),
    socket: ("AF_UNIX", "MSG_DONTWAIT", "SCM_", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "SOCK_SEQPACKET",
             "SO_REUSEPORT", "recv_fds", "send_fds"),
}.items():
    for name in [name for name in vars(module) if name.startswith(prefixes)]:
        if name not in ("getcwd", "getcwdb", "getenv", "getlogin", "getpid", "getppid", "waitpid"):
            delattr(module, name)
os.name, sys.platform = "nt", "win32"
import fastsmtp
"""  # fmt: skip

EVERY_MODULE = r"""
for found in pkgutil.walk_packages(fastsmtp.__path__, "fastsmtp.", onerror=lambda name: None):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except Exception as error:
            print(found.name, type(error).__name__, error, sep="|")
"""
# A program around the engine, on a loop of selectors.
DELIVER = r"""
bodies = []

async def on_data(stream, session):
    bodies.append(await stream.read())

def send(port):
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("a@x.example", ["b@y.example"], "Subject: hello\r\n\r\nworld\r\n")

async def main():
    server = fastsmtp.SMTPServer(on_data=on_data, auth_optional=True, disable_reverse_lookup=True)
    await server.listen(0, host="127.0.0.1")
    await asyncio.to_thread(send, server.address()[1])
    await server.close()

loop.run_until_complete(main())
loop.close()
print(bodies)
"""
COMMAND = "from fastsmtp.gateway.cli import main; sys.exit(main(['serve']))"


def on_windows(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WINDOWS + program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_module_but_those_of_posix_can_be_imported(tmp_path: Path) -> None:
    done = on_windows(EVERY_MODULE, tmp_path)
    assert done.returncode == 0, done.stderr
    failed = [line.split("|") for line in done.stdout.splitlines()]
    # The command is whole on POSIX only, and its modules have no error of their own.
    own = {name: (kind, text) for name, kind, text in failed if ".gateway." not in name}
    assert own == {
        f"fastsmtp.delivery.{name}": (
            "ImportError",
            f"fastsmtp.delivery.{name} needs Linux or macOS",
        )
        for name in ("maildir", "spool")
    }


def test_a_program_takes_mail_on_a_loop_of_asyncio(tmp_path: Path) -> None:
    done = on_windows(DELIVER, tmp_path)
    assert done.stdout == "[b'Subject: hello\\r\\n\\r\\nworld\\r\\n']\n", done.stderr


def test_the_command_says_in_one_line_where_it_runs(tmp_path: Path) -> None:
    done = on_windows(COMMAND, tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "fastsmtp: error: the command runs on Linux and macOS only;"
        " on Windows a program can use the engine\n",
    )
