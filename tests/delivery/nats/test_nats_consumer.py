"""The consumers of examples/ file what the sink has put into a stream, octet by octet."""

from __future__ import annotations

import asyncio
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nats_kit import NATS_SERVER, REASON, STREAM, Node, ask, nodes
from serving import PATIENCE, environment

from fastsmtp.delivery import Recipient, Record, encode_record
from fastsmtp.delivery.bodies import FileBodies
from fastsmtp.delivery.nats import NATS

EXAMPLES = Path(__file__).parents[3] / "examples"
BUILD = Path(__file__).parents[3] / "build"
JS_CLIENT = "nats@2.29.3"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.one_python,
    pytest.mark.skipif(not NATS_SERVER, reason=REASON),
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="examples/ is not in this package"),
]

BODY = b"Subject: x\r\n\r\n.a line\r\n\xff\xfe 8 bit\r\n"
MESSAGES = [
    Record("c-1", "a@x.example", (Recipient("Bob@Y.example"),), BODY, headers=b"R: 1\r\n"),
    Record("c-2", "", (Recipient("bob@y.example"), Recipient("c@y.example")), BODY * 2),
    # What would lead out of the directory, were it the name of one.
    Record("c-3", "a@x.example", (Recipient("../../../evil@y.example"),), BODY * 3),
]
FOUND = {
    ("x.bob@y.example", b"R: 1\r\n" + BODY),
    ("x.bob@y.example", BODY * 2),
    ("x.c@y.example", BODY * 2),
    ("x...%2F..%2F..%2Fevil@y.example", BODY * 3),
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with nodes(tmp_path_factory.mktemp("nats")) as found:
        yield found[0]


@contextmanager
def consumer(*command: str, cwd: Path | None = None) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=cwd, env=environment()
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


async def put_messages(node: Node) -> None:
    async with ask(node) as asking:
        await asking.remove()
        await asking.stream(retention="workqueue")
        config = {"durable_name": "maildir", "ack_policy": "explicit"}
        await asking.api(
            f"CONSUMER.DURABLE.CREATE.{STREAM}.maildir",
            {"stream_name": STREAM, "config": config},
        )
    async with NATS(node.url, stream=STREAM) as sink:
        await asyncio.gather(*map(sink.put, MESSAGES))


async def emptied(node: Node) -> None:
    """Wait until the stream has no message: each was acknowledged."""
    async with ask(node) as asking, asyncio.timeout(PATIENCE):
        while (await asking.info())["state"]["messages"]:
            await asyncio.sleep(0.01)


def filed(directory: Path) -> set[tuple[str, bytes]]:
    return {
        (path.parts[-3], path.read_bytes().replace(b"\n", b"\r\n"))
        for path in directory.glob("*/new/*")
    }


def check(node: Node, directory: Path, *command: str, cwd: Path | None = None) -> None:
    asyncio.run(put_messages(node))
    with consumer(*command, node.url, STREAM, str(directory), cwd=cwd):
        asyncio.run(emptied(node))
    assert filed(directory) == FOUND


def test_the_consumer_in_python_files_every_message_for_each_recipient(
    node: Node, tmp_path: Path
) -> None:
    check(node, tmp_path, sys.executable, str(EXAMPLES / "nats_to_maildir.py"))


def test_the_consumer_in_python_reads_no_message_whose_body_is_elsewhere() -> None:
    """It would file the headers alone, and acknowledge the message."""
    read: Callable[[bytes], object] = runpy.run_path(str(EXAMPLES / "nats_to_maildir.py"))["read"]
    whole = Record("c-4", "", (Recipient("b@y.example"),), BODY)
    assert read(encode_record(whole, hashes=False))
    whole.set_body(FileBodies("bodies").stored("7-0123456789abcdef", 7, "0" * 64))
    with pytest.raises(ValueError, match="its body is in the body store, as 7-0123456789abcdef"):
        read(encode_record(whole, hashes=False))


@pytest.mark.nightly
def test_the_consumer_in_javascript_files_every_message_for_each_recipient(
    node: Node, tmp_path: Path
) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("no node and npm here")
    home = BUILD / JS_CLIENT
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "node_modules/nats").is_dir():
        done = subprocess.run(
            ["npm", "install", "--silent", "--prefix", str(home), JS_CLIENT], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"npm cannot install {JS_CLIENT} here")
    script = home / "nats_to_maildir.mjs"
    shutil.copyfile(EXAMPLES / script.name, script)
    check(node, tmp_path, "node", str(script), cwd=home)
