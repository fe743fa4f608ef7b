"""The receiver in JavaScript that docs/webhook.md shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from on_loops import on_loops
from serving import Lines, environment_of_others
from webhook_kit import SECRET

from fastsmtp.delivery import DeliveryError, Recipient, Record
from fastsmtp.delivery.webhook import Webhook

PAGE = Path(__file__).parents[3] / "docs/webhook.md"
NODE = shutil.which("node") or ""
RECORD = Record("s-1", "a@x.example", (Recipient("b@y.example"),), b"Subject: hello\r\n\r\nx\r\n")

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(not NODE, reason="node is not installed (package nodejs)"),
]


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Lines]]:
    """Its URL, and what it prints."""
    code = re.search(r"^```js\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert code is not None
    script = tmp_path_factory.mktemp("node") / "receiver.js"
    script.write_text(code[1], encoding="utf-8")
    process = subprocess.Popen(
        [NODE, str(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment_of_others() | {"SECRET": SECRET, "PORT": "0"},
    )
    try:
        assert process.stdout is not None
        lines = Lines(process.stdout)
        yield f"http://127.0.0.1:{lines.wait(r'listening on ([0-9]+)')[1]}/", lines
    finally:
        process.kill()
        process.wait()


@on_loops
async def test_a_receiver_in_node_verifies_messages(receiver: tuple[str, Lines]) -> None:
    url, lines = receiver
    async with Webhook(url, secret=SECRET) as sink:
        assert await sink.put(RECORD) == "200"
    assert lines.wait(r"a@x\.example \[ 'b@y\.example' \] 21")


@on_loops
async def test_a_receiver_in_node_refuses_what_another_secret_has_signed(
    receiver: tuple[str, Lines],
) -> None:
    other = SECRET.replace("A", "B").replace("Y", "Z")
    async with Webhook(receiver[0], secret=other, deadline=1.0) as sink:
        with pytest.raises(DeliveryError, match="HTTP 401"):
            await sink.put(RECORD)
