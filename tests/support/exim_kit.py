"""Exim as a client: one message to many recipients, from a spool of its own, and what became of it.

`.ci/run` unpacks Debian's packages into build/exim, since a system has only one mail server
installed. Exim delivers as its own user from a folder which that user can reach, so it takes root.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from clients import PATIENCE, program
from serving import environment_of_others
from tls_kit import ca_pem

__all__ = ["Exim", "exim", "why_no_exim"]

UNPACKED: Final = Path(__file__).parents[2] / "build/exim/usr/sbin/exim4"
USER: Final = "Debian-exim"  # compiled in
TIMEOUT: Final = 10  # seconds that Exim waits for a reply: far longer than any takes

CONFIGURATION: Final = f"""
primary_hostname = c.example
exim_path = {{path}}
spool_directory = {{folder}}/spool
log_file_path = {{folder}}/log/%s
process_log_path = {{folder}}/log/process
disable_ipv6
keep_environment =
message_logs = false

begin routers
sender:
  driver = redirect
  domains = x.example
  data = :blackhole:
engine:
  driver = manualroute
  transport = engine
  route_list = * 127.0.0.1 byname
  self = send

begin transports
engine:
  driver = smtp
  protocol = {{protocol}}
  port = {{port}}
  allow_localhost
  hosts_try_chunking = {{chunking}}
  max_rcpt = 1000
  helo_data = c.example
  hosts_require_tls = *
  tls_sni = srv.test
  tls_verify_certificates = {{folder}}/ca.pem
  tls_verify_cert_hostnames =
  command_timeout = {TIMEOUT}s
  data_timeout = {TIMEOUT}s
  final_timeout = {TIMEOUT}s

begin retry
* * F,2h,15m
"""
# What a line of the main log says of a recipient; "->" is one more in the same transaction.
FATES: Final = {"=>": "delivered", "->": "delivered", "==": "deferred", "**": "failed"}
LOGGED: Final = re.compile(r"^\S+ \S+ \S+ (=>|->|==|\*\*) (\S+) R=engine", re.MULTILINE)


def path_of_exim() -> str:
    """The program: an installed one, else the unpacked one; "" when there is none."""
    return program("exim4", "exim4")[0] or (str(UNPACKED) if UNPACKED.exists() else "")


def why_no_exim() -> str:
    """The reason to skip; "" when Exim can be run."""
    path = path_of_exim()
    if not path:
        return "exim4 is neither installed nor unpacked into build/exim (bash .ci/run does that)"
    if os.geteuid():
        return "exim4 takes root to deliver from a spool of its own"
    told = subprocess.run(
        [path, "-bV"], env=environment_of_others(), capture_output=True, text=True, check=False
    )
    if "GnuTLS" not in told.stdout:
        return f"exim4 with GnuTLS does not run: {(told.stderr + told.stdout)[:200].strip()}"
    return ""


class Exim:
    """Exim with a configuration, a spool and a log in `folder`, which sends to `address`."""

    def __init__(self, folder: Path, address: Any, protocol: str, verb: str) -> None:
        self.path = path_of_exim()
        self._log = folder / "log"
        for each in (folder / "spool", self._log):
            each.mkdir()
            shutil.chown(each, USER)
        (folder / "ca.pem").write_bytes(ca_pem())
        self._configuration = folder / "exim.conf"
        self._configuration.write_text(
            CONFIGURATION.format(
                path=self.path,
                folder=folder,
                protocol=protocol.lower(),
                port=address[1],
                chunking="*" if verb == "BDAT" else "",
            )
        )

    def send(self, recipients: list[str]) -> dict[str, str]:
        """Hand in one message to `recipients` and return the fate of each after the first attempt
        to deliver it: "delivered", "deferred" or "failed".
        """
        command = [self.path, "-C", str(self._configuration), "-odf", "-i", "-f", "a@x.example"]
        process = subprocess.Popen(
            [*command, "--", *recipients],
            env=environment_of_others(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Exim delivers from children of its own
        )
        try:
            process.communicate(b"Subject: x\n\ntext\n", timeout=3 * PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log = (self._log / "main").read_text()
        return {recipient: FATES[sign] for sign, recipient in LOGGED.findall(log)}


@contextmanager
def exim(address: Any, protocol: str, verb: str) -> Iterator[Exim]:
    """An Exim that sends to `address`; protocol: "SMTP" or "LMTP"; verb: "DATA" or "BDAT"."""
    # Not below pytest's folders, which other users cannot enter.
    with tempfile.TemporaryDirectory(prefix="exim-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield Exim(folder, address, protocol, verb)
