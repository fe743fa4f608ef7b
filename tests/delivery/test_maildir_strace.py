"""What the kernel sees of a real server: a message is synced, named, its name synced, and only then
acknowledged.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving import PATIENCE, Gateway, environment_of_others

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="strace"),
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

CALLS = "openat,open,write,fsync,syncfs,link,linkat,unlink,unlinkat,sendto,sendmsg,writev"
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 3000


class Strace:
    """Looks at a process, all its threads, until `stop`."""

    def __init__(self, pid: int, log: Path) -> None:
        self._log = log
        options = ["-f", "-y", "-s", "64", "-e", f"trace={CALLS}", "-o", str(log)]
        self._process = subprocess.Popen(
            ["strace", *options, "-p", str(pid)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment_of_others(),
        )
        assert self._process.stderr is not None
        first = self._process.stderr.readline()
        if "attached" not in first:
            self._process.wait(PATIENCE)
            pytest.skip(f"strace cannot attach here: {first.strip()}")

    def stop(self) -> list[str]:
        """Return the calls, each at the line where it has ended."""
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE)
        begun: dict[str, str] = {}
        calls = []
        for line in self._log.read_text().splitlines():
            thread, _, call = line.partition(" ")
            if call.rstrip().endswith("<unfinished ...>"):
                begun[thread] = call.partition("<unfinished")[0].strip()
            elif "resumed>" in call:
                calls.append(begun.pop(thread) + call.partition("resumed>")[2])
            else:
                calls.append(call.strip())
        return calls


def words(calls: list[str], maildir: Path) -> list[str]:
    """The calls that matter to a message, in a word each."""
    tmp, new = re.escape(f"{maildir}/tmp"), re.escape(f"{maildir}/new")
    known = {
        "open": rf'openat\(\d+<({tmp}|{new})>, "\."',
        "create": rf'open(at)?\(.*("{tmp}/|<{tmp}>, ").*O_CREAT',
        "write": rf"write\(\d+<{tmp}/",
        "sync": rf"fsync\(\d+<{tmp}/|syncfs\(\d+<{tmp}>",
        "link": r"link(at)?\(",
        "sync name": rf"fsync\(\d+<{new}>\)",
        "unlink": r"unlink(at)?\(",
        "250": r'(sendto|sendmsg|write|writev)\(\d+<(socket|TCP).*"250 2\.\d\.\d .*id ',
    }
    found = []
    for call in calls:
        for word, pattern in known.items():
            if re.match(pattern, call):
                assert not re.search(r"= -1 ", call), call
                found.append(word)
                break
    return found


@pytest.mark.parametrize("message", [b"Subject: x\r\n\r\nhello\r\n", LARGE])
def test_ops_06_the_kernel_has_synced_a_message_and_its_name_before_the_250(
    tmp_path: Path, message: bytes
) -> None:
    maildir = tmp_path / "mail"
    with Gateway(maildir) as gateway:
        strace = Strace(gateway.process.pid, tmp_path / "strace")
        for _ in range(3):
            gateway.send(message)
        found = words(strace.stop(), maildir)
        assert gateway.stop() == 0
    one = r"open open create (write )+sync link sync name unlink 250 "
    assert re.fullmatch(f"({one}){{3}}", "".join(f"{word} " for word in found)), found


def test_a_directory_is_synced_by_a_descriptor_that_no_other_batch_uses(tmp_path: Path) -> None:
    """The kernel reports an error of writing once for each open file: two batches that shared one
    could acknowledge what the other has lost.
    """
    maildir = tmp_path / "mail"
    with Gateway(maildir) as gateway:
        strace = Strace(gateway.process.pid, tmp_path / "strace")
        for _ in range(3):
            gateway.send(b"Subject: x\r\n\r\nhello\r\n")
        calls = strace.stop()
        assert gateway.stop() == 0
    new = re.escape(f"{maildir}/new")
    opened: set[str] = set()
    synced = 0
    for call in calls:
        if found := re.match(rf'openat\(\d+<{new}>, "\.".*= (\d+)<', call):
            opened.add(found[1])
        elif found := re.match(rf"fsync\((\d+)<{new}>\)", call):
            opened.remove(found[1])
            synced += 1
    assert synced == 3
