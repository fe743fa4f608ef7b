"""Postfix as the next hop: an instance of its own, which delivers into one Maildir.

Recipients `no…` get 550, `later…` 450, `full…` 452; senders `bad…` 550 at MAIL; a message with the
field X-Reject 550 after its end. Further listeners believe XCLIENT or a PROXY header, or demand a
certificate of the client. It changes its user, so it takes root.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from clients import PATIENCE
from free_ports import free_port
from serving import environment_of_others
from tls_kit import ca_pem, pair

__all__ = ["Postfix", "postfix", "why_no_postfix"]

DAEMONS: Final = Path("/usr/lib/postfix/sbin")
MAIN: Final = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
myhostname = hop.example
mynetworks = 127.0.0.0/8, 192.0.2.0/24
mydestination =
local_recipient_maps =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_peername_lookup = no
smtpd_delay_reject = no
smtpd_sender_restrictions = check_sender_access regexp:{folder}/senders
smtpd_recipient_restrictions = check_recipient_access regexp:{folder}/recipients, permit_mynetworks,
    reject
smtpd_hard_error_limit = 100000
smtpd_soft_error_limit = 100000
smtpd_client_connection_count_limit = 0
header_checks = regexp:{folder}/headers
local_header_rewrite_clients =
virtual_mailbox_domains = y.example
virtual_mailbox_base = {folder}
virtual_mailbox_maps = static:mail/
virtual_uid_maps = static:{user}
virtual_gid_maps = static:{group}
virtual_minimum_uid = 1
smtputf8_autodetect_classes = all
import_environment = MAIL_CONFIG TZ LANG=C
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
smtpd_sasl_authenticated_header = yes
smtpd_tls_CAfile = {folder}/ca.pem
smtpd_tls_chain_files = {folder}/own.pem
smtp_tls_session_cache_database =
"""
MASTER: Final = """
postlog unix-dgram n - n - 1 postlogd
tlsmgr unix - - n - 1 tlsmgr
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
virtual unix - n n - - virtual
discard unix - - n - - discard
error unix - - n - - error
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
"""
# Each listener, and its options.
LISTENERS: Final = {
    "plain": (),
    "xclient": ("smtpd_authorized_xclient_hosts=127.0.0.1",),
    "proxy": ("smtpd_upstream_proxy_protocol=haproxy",),
    "certificate": (
        *("smtpd_tls_security_level=encrypt", "smtpd_tls_req_ccert=yes"),
        "smtpd_tls_received_header=yes",
    ),
}
QUEUES: Final = (
    *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming"),
    *("private", "saved", "trace"),
)
OURS: Final = re.compile(rb"\AReceived: [^\n]*\n(?:[ \t][^\n]*\n)*")


class Postfix(NamedTuple):
    """addresses: of the listeners. maildir: for all recipients. log: its file."""

    addresses: dict[str, tuple[str, int]]
    maildir: Path
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, without more ado."""
        return self.addresses["plain"]

    def delivered(self) -> Iterator[tuple[str, bytes]]:
        """Yield recipient and message as it was sent to us, with CRLF."""
        for path in (self.maildir / "new").iterdir():
            octets = path.read_bytes()
            recipient = re.search(rb"^Delivered-To: (\S+)$", octets, re.MULTILINE)
            theirs = re.search(rb"^Received: .*\n(?:[ \t].*\n)*", octets, re.MULTILINE)
            assert recipient is not None
            assert theirs is not None
            rest = OURS.sub(b"", octets[theirs.end() :], count=1)
            yield recipient[1].decode(), rest.replace(b"\n", b"\r\n")


def why_no_postfix() -> str:
    """Return why it cannot run here, "" if it can."""
    if not (DAEMONS / "master").exists():
        return "Postfix is not installed (package postfix)"
    return "" if os.geteuid() == 0 else "Postfix's master changes its user, which takes root"


@contextmanager
def postfix() -> Iterator[Postfix]:
    """Run an instance."""
    folder = Path(tempfile.mkdtemp(prefix="fastsmtp-postfix-"))
    folder.chmod(0o755)
    addresses = {name: ("127.0.0.1", free_port()) for name in LISTENERS}
    _prepare(folder, addresses)
    process = subprocess.Popen(
        [str(DAEMONS / "master"), "-c", str(folder / "config"), "-d"],
        env=environment_of_others(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for address in addresses.values():
            _wait_for(address)
        yield Postfix(addresses, folder / "mail", folder / "log")
    finally:
        process.terminate()
        process.wait(PATIENCE)
        shutil.rmtree(folder)


def _wait_for(address: tuple[str, int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "Postfix does not listen"
            time.sleep(0.02)
        else:
            return


def _prepare(folder: Path, addresses: dict[str, tuple[str, int]]) -> None:
    owner, group = pwd.getpwnam("postfix").pw_uid, grp.getgrnam("postdrop").gr_gid
    nobody = pwd.getpwnam("nobody")
    queue, config = folder / "queue", folder / "config"
    for path, user in ((queue, 0), (config, 0), (folder / "data", owner), (queue / "pid", 0)):
        path.mkdir()
        os.chown(path, user, -1)
    for name in QUEUES:
        (queue / name).mkdir(mode=0o700)
        os.chown(queue / name, owner, -1)
    for name, mode in (("maildrop", 0o730), ("public", 0o710)):
        (queue / name).mkdir()
        os.chown(queue / name, owner, group)
        (queue / name).chmod(mode)
    for name in ("mail", "mail/tmp", "mail/new", "mail/cur"):
        (folder / name).mkdir()
        os.chown(folder / name, nobody.pw_uid, nobody.pw_gid)
    (folder / "senders").write_text("/^bad/ 550 5.7.1 Not from you\n")
    (folder / "recipients").write_text(
        "/^no/ 550 5.1.1 No such user\n/^later/ 450 4.2.1 Later\n/^full/ 452 4.2.2 No room\n"
    )
    (folder / "headers").write_text("/^X-Reject:/ REJECT Unwanted\n")
    facts = {"folder": folder, "daemons": DAEMONS, "user": nobody.pw_uid, "group": nobody.pw_gid}
    (config / "main.cf").write_text(MAIN.format(**facts))
    (folder / "ca.pem").write_bytes(ca_pem())
    (folder / "own.pem").write_bytes(pair().key + pair().cert)
    listeners = [
        " ".join(
            [f"{host}:{port} inet n - n - - smtpd", *(f"-o {each}" for each in LISTENERS[name])]
        )
        for name, (host, port) in addresses.items()
    ]
    (config / "master.cf").write_text("\n".join([MASTER, *listeners, ""]))
