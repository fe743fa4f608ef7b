"""`fastsmtp serve --trace`: the wire of chosen clients in the log, until a reload."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from serving import Gateway, run_to_end
from worker_kit import Parent

pytest_plugins = ["gateway_fixtures"]
pytestmark = pytest.mark.one_python
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


def test_a_traced_client_is_in_the_log_and_another_list_takes_its_place(
    maildir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "fastsmtp.toml"
    file.touch(0o600)
    file.write_text('trace = ["127.0.0.0/8"]\n')
    with Gateway(maildir, f"--config={file}") as gateway:
        gateway.send(MESSAGE)
        gateway.out.wait(r" fastsmtp: trace id=\w+ client=127\.0\.0\.1 at=[\d.]+ \*: connected")
        gateway.out.wait(" C: MAIL FROM:<a@x.example>")
        gateway.out.wait("<24 octets of content>")
        gateway.out.wait(" S: 250 2.6.0 OK: message delivered")
        file.write_text('trace = ["192.0.2.7", "unix"]\n')
        gateway.process.send_signal(signal.SIGHUP)
        gateway.out.wait("SIGHUP: clients that are traced from now on: 192.0.2.7/32, unix")
        count = len(gateway.out.all)
        gateway.send(MESSAGE)
        assert gateway.stop() == 0
        assert not [line for line in gateway.out.finish()[count:] if "trace id=" in line]


def test_an_application_with_workers_is_traced_too(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def on_mail_from(address, session, callback): callback()\n")
    with Parent(None, "app", "--trace=127.0.0.1", workers=1, cwd=tmp_path) as parent:
        with parent.client() as client:
            assert client.mail("a@x.example")[0] == 250
        parent.out.wait(r"fastsmtp\[1\]: trace id=.* C: MAIL FROM:<a@x.example>")


@pytest.mark.parametrize("entry", ["host.example", "192.0.2.1/24"])
def test_what_is_not_a_network_is_one_line(maildir: Path, entry: str) -> None:
    found = run_to_end("--listen=127.0.0.1:0", f"--maildir={maildir}", f"--trace={entry}")
    assert found.returncode == 2
    assert found.stderr.startswith(f"fastsmtp: error: --trace: {entry!r} ")
    assert found.stderr.count("\n") == 1
