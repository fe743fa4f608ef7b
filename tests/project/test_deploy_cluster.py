"""deploy/cluster does what docs/scale-out.md says: mail is in Maildirs, and no dead part of it
costs any.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clients import program
from free_ports import free_ports
from nats_kit import NATS_SERVER, REASON, USUAL
from serving import PATIENCE, environment, run_to_end

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "deploy/cluster"
HAPROXY, NO_HAPROXY = program("haproxy", "haproxy")
PORTS = 20

pytestmark = [
    pytest.mark.interop,
    pytest.mark.one_python,
    pytest.mark.skipif(not NATS_SERVER, reason=REASON),
    pytest.mark.skipif(not HAPROXY, reason=NO_HAPROXY),
    pytest.mark.skipif(not CLUSTER.is_dir(), reason="deploy/ is not in this package"),
]


class Cluster:
    """What run.sh has started below `path`, which a test may kill by name."""

    def __init__(self, path: Path, base: int) -> None:
        self.path = path
        self.port = base + 5
        self.sent = 0

    def kill(self, name: str) -> None:
        os.kill(int((self.path / f"{name}.pid").read_text()), signal.SIGKILL)

    def log(self, name: str) -> str:
        return (self.path / f"{name}.log").read_text()

    def send(self, count: int) -> None:
        """Send messages, each again until it is taken."""
        for _ in range(count):
            deadline = time.monotonic() + PATIENCE
            body = f"Subject: {self.sent}\r\n\r\nhello\r\n"
            while True:
                try:
                    with smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE) as client:
                        client.sendmail("a@x.example", ["b@y.example"], body)
                    break
                except (OSError, smtplib.SMTPException):
                    if time.monotonic() > deadline:
                        raise AssertionError(self.log("g1") + self.log("g2")) from None
                    time.sleep(0.1)
            self.sent += 1

    def wait_until_filed(self) -> None:
        """Wait for every message in the Maildir of its recipient."""
        wait_until(lambda: len(self.subjects()) >= self.sent)
        assert self.subjects() == {str(number) for number in range(self.sent)}

    def subjects(self) -> set[str]:
        found = (self.path / "mail").glob("x.b@y.example/new/*")
        texts = [path.read_text() for path in found]
        return {re.search(r"^Subject: (\d+)$", text, re.M)[1] for text in texts}  # type: ignore[index]


def wait_until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def running(path: Path) -> Iterator[Cluster]:
    base = free_ports(PORTS)
    bin_ = os.pathsep.join([str(Path(sys.executable).parent), "/usr/sbin", os.environ["PATH"]])
    process = subprocess.Popen(
        [str(CLUSTER / "run.sh"), str(path)],
        env=environment(PATH=bin_, PYTHON=sys.executable, BASE=str(base)),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert f"send mail to 127.0.0.1:{base + 5}" in process.stdout.readline()
        yield Cluster(path, base)
    finally:
        process.terminate()  # it ends what it has started
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@pytest.mark.nightly
def test_no_dead_part_of_the_cluster_costs_mail(tmp_path: Path) -> None:
    with running(tmp_path / "run") as cluster:
        cluster.send(10)
        assert "(quorum_disk)" in cluster.log("g1")
        for part in ("g1", "n2"):
            cluster.kill(part)
            cluster.send(10)
        cluster.wait_until_filed()
        message = next((tmp_path / "run/mail").glob("x.b@y.example/new/*")).read_text()
        # The address is the client's, which HAProxy has passed on.
        assert "[127.0.0.1]" in message


def test_the_stream_is_that_of_the_page() -> None:
    stream = json.loads((CLUSTER / "mail-stream.json").read_text())
    page = (ROOT / "docs/nats.md").read_text(encoding="utf-8")
    shown = json.loads(re.search(r"^```json\n(.*?)^```$", page, re.M | re.S)[1])  # type: ignore[index]
    assert shown | {"max_bytes": 0} == stream | {"max_bytes": 0}
    assert set(USUAL) - {"allow_atomic"} <= set(stream)


def test_the_programs_take_their_configurations(tmp_path: Path) -> None:
    secrets = {f"{who}_PASSWORD": "x" for who in ("SYSTEM", "OPERATOR", "GATEWAY", "CONSUMER")}
    ports = dict.fromkeys(("SMTP_PORT", "G1_PORT", "G2_PORT", "G1_ADMIN", "G2_ADMIN"), "2525")
    for command in (
        [NATS_SERVER, "-t", "-c", str(CLUSTER / "nats.conf"), "-sd", str(tmp_path)],
        [HAPROXY, "-c", "-f", str(CLUSTER / "haproxy.cfg")],
    ):
        done = subprocess.run(
            command, env=environment(**secrets, **ports), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    found = run_to_end(
        f"--config={CLUSTER / 'gateway.toml'}",
        "--listen=127.0.0.1:0",
        env=environment(FASTSMTP_DELIVER="nats://gateway:x@127.0.0.1:1"),
    )
    assert "no server can be reached" in found.stderr


@pytest.mark.skipif(shutil.which("sh") is None, reason="a shell")
def test_the_script_is_a_shell_script() -> None:
    assert subprocess.run(["sh", "-n", str(CLUSTER / "run.sh")]).returncode == 0
