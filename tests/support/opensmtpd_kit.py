"""OpenSMTPD as a client: one message to many recipients, and what became of each at the first try.

`.ci/run` unpacks Debian's package into build/opensmtpd, since a system has only one mail server
installed. Its paths and its users are compiled in, so it runs in mount and PID namespaces of its
own, which takes root. There the folders that it writes to are empty ones, and /etc/passwd knows its
users. It leaves no trace on the system, and no process outlives the namespace.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any, Final

from clients import PATIENCE
from serving import environment_of_others

__all__ = ["sent", "why_no_opensmtpd"]

UNPACKED: Final = Path(__file__).parents[2] / "build/opensmtpd"
# All of it ends with the process that started it, even where that is killed.
NAMESPACES: Final = [
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
]
POLL: Final = 0.02  # seconds between two attempts to reach the program while it starts

# Arguments: the unpacked package, a folder of ours, then the recipients. It sends the message when
# the first line has come on stdin, and goes on until it is killed. Whoever hands in a message must
# be setgid, hence the copy in a file system that allows it.
SCRIPT: Final = """
set -e
package=$1 folder=$2
shift 2
for hidden in /usr/libexec /var/spool /var/lib; do mount -t tmpfs tmpfs $hidden; done
mkdir -p /usr/libexec/opensmtpd /var/lib/opensmtpd/empty
cp -a "$package"/usr/libexec/opensmtpd/. /usr/libexec/opensmtpd/
cp "$package"/usr/sbin/smtpctl /usr/libexec/sendmail
chgrp 64002 /usr/libexec/sendmail
chmod 2755 /usr/libexec/sendmail
for file in passwd group; do
    cat "$folder"/$file /etc/$file >"$folder"/known-$file
    mount --bind "$folder"/known-$file /etc/$file
done
mount --bind "$folder"/run /run
"$package"/usr/sbin/smtpd -d -f "$folder"/smtpd.conf </dev/null &
read -r started
/usr/libexec/sendmail -F x -f a@x.example "$@"
wait
"""
USERS: Final = "".join(
    f"{name}:x:{number}:{number}::/var/lib/opensmtpd/empty:/usr/sbin/nologin\n"
    for name, number in [("opensmtpd", 64001), ("opensmtpq", 64002)]
)
GROUPS: Final = "opensmtpd:x:64001:\nopensmtpq:x:64002:\n"
CONFIGURATION: Final = """
listen on socket
action "engine" relay host {scheme}://127.0.0.1:{port}
match from any for domain "y.example" action "engine"
"""
FATES: Final = {"Ok": "delivered", "TempFail": "deferred", "PermFail": "failed"}
LOGGED: Final = re.compile(r" mta delivery .* to=<([^>]*@y\.example)> .* result=\"(\w+)\"")


def why_no_opensmtpd() -> str:
    """The reason to skip; "" when OpenSMTPD can be run."""
    path = UNPACKED / "usr/sbin/smtpd"
    if not path.exists():
        return "opensmtpd is not unpacked into build/opensmtpd (bash .ci/run does that)"
    if os.geteuid():
        return "opensmtpd takes root to run in namespaces of its own"
    for needed in ("setpriv", "unshare"):
        if shutil.which(needed) is None:
            return f"{needed} is not installed (package util-linux)"
    tried = [
        [*NAMESPACES, "sh", "-c", "mount -t tmpfs tmpfs /var/spool"],
        ["ldd", str(path)],
    ]
    for command in tried:
        told = subprocess.run(
            command, env=environment_of_others(), capture_output=True, text=True, check=False
        )
        if told.returncode or "not found" in told.stdout:
            said = (told.stderr + told.stdout).strip()
            return f"opensmtpd cannot be run here: {command[0]}: {said[:200]}"
    return ""


def sent(address: Any, scheme: str, recipients: list[str]) -> dict[str, str]:
    """Have OpenSMTPD send one message to `recipients` by way of `address`, and return the fate of
    each after the first attempt: "delivered", "deferred" or "failed".

    scheme: "smtp", with STARTTLS where it is offered, or "smtp+notls".
    """
    with tempfile.TemporaryDirectory(prefix="opensmtpd-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "run").mkdir()
        (folder / "passwd").write_text(USERS)
        (folder / "group").write_text(GROUPS)
        (folder / "smtpd.conf").write_text(CONFIGURATION.format(scheme=scheme, port=address[1]))
        process = subprocess.Popen(
            [*NAMESPACES, "sh", "-c", SCRIPT, "sh", str(UNPACKED), name, *recipients],
            env=environment_of_others(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        limit = Timer(3 * PATIENCE, process.kill)
        limit.start()
        try:
            _wait_for(folder / "run/smtpd.sock", process)
            return _hand_in(process, len(recipients))
        finally:
            limit.cancel()
            process.kill()
            assert process.stderr is not None
            with process.stderr:
                process.stderr.read()  # it ends when the last process of the namespace has gone
            process.wait()


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
            return
        time.sleep(POLL)


def _hand_in(process: subprocess.Popen[str], count: int) -> dict[str, str]:
    assert process.stdin is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write("go\nSubject: x\n\ntext\n")
    fates: dict[str, str] = {}
    lines: list[str] = []
    while len(fates) < count:
        line = process.stderr.readline()
        lines.append(line)
        if not line:
            raise AssertionError(f"OpenSMTPD has ended early: {''.join(lines)[-2000:]}")
        if (found := LOGGED.search(line)) is not None:
            assert found[1] not in fates, f"a second attempt: {line}"
            fates[found[1]] = FATES[found[2]]
    return fates
