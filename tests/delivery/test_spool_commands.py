"""`fastsmtp spool` does the same whether a server has the spool or none has."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest
from connections import closed
from on_loops import on_loops
from serving import command, environment
from spool_kit import BODY, LARGE, Collector, database, emptied, record

from fastsmtp import SMTPError
from fastsmtp.delivery import Refused, Unavailable
from fastsmtp.delivery.spool import Spool
from fastsmtp.delivery.spool.operations import Operations, Request
from fastsmtp.gateway import commands

HOSTILE = "x\x1b[2J\n\u202e 17 deleted@y"


class Told:
    """What a command said, and its status."""

    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status = status
        self.octets = out
        self.out = out.decode("utf-8", "replace")
        self.err = err.decode()

    @property
    def objects(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def told(*arguments: str, cwd: Path | None = None) -> Told:
    """Run `fastsmtp spool` in a thread of this process: a new one takes a second to begin."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    errors: list[str] = []
    with (
        contextlib.redirect_stdout(out),
        mock.patch.object(sys, "stdin", open(os.devnull)) as stdin,
        mock.patch.object(commands, "complain", errors.append),
        contextlib.chdir(cwd or "."),
    ):
        status = await asyncio.to_thread(commands.run, ["spool", *arguments])
        stdin.close()
    out.flush()
    buffer = out.buffer
    assert isinstance(buffer, io.BytesIO)
    return Told(status, buffer.getvalue(), "\n".join(errors).encode())


@contextlib.asynccontextmanager
async def served(path: Path, running: bool, sink: Collector) -> AsyncIterator[Spool]:
    """A spool with a refused, a deferred and two waiting records, closed or not."""
    spool = Spool(str(path), drain_into=sink, parallel=1)
    await spool.start()
    sink.outcomes += [
        Refused(SMTPError("No such user\x1b[31m", 550, "5.1.1")),
        Unavailable("it is down"),
    ]
    for number, body in enumerate((BODY, BODY, LARGE, BODY)):
        message = record(f"s-{number}", b"", "b@y.example", HOSTILE, sender="a@x.example")
        if body is LARGE:
            writer = spool.begin(message)
            ready = writer.write(body)
            assert ready is not None
            await ready
            message.set_body(await writer.finish())
        else:
            message.set_body(body)
        await spool.put(message)
        if number == 1:
            await sink.until(lambda: len(sink.tried) == 2)
            sink.hold = True  # the others stay
    if not running:
        await spool.close(0.1)
    try:
        yield spool
    finally:
        await spool.close(0.1)


both = pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])


@both
@on_loops
async def test_list_has_a_line_for_each_and_nothing_of_a_sender_is_raw(
    tmp_path: Path, running: bool
) -> None:
    async with served(tmp_path / "s", running, Collector()):
        found = await told("list", str(tmp_path / "s"))
    assert found.status == 0, found.err
    lines = [line for line in found.out.splitlines() if not line.startswith(" ")]
    assert [line.split()[:2] for line in lines][:2] == [["1", "refused"], ["2", "deferred"]]
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert "from=<a@x.example> to=<b@y.example> and 1 more" in lines[0]
    assert "1 attempts: No such user\\x1b[31m" in found.out
    assert "\x1b" not in found.out
    assert "\u202e" not in found.out


@both
@on_loops
async def test_list_as_json_has_all_facts_and_can_be_narrowed(
    tmp_path: Path, running: bool
) -> None:
    async with served(tmp_path / "s", running, Collector()):
        refused = await told("list", str(tmp_path / "s"), "--state", "refused", "--json")
        first = await told("list", str(tmp_path / "s"), "--limit", "2", "--json")
    (found,) = refused.objects
    assert found["id"] == "s-0"
    assert found["rcpt_to"] == ["b@y.example", HOSTILE]
    assert found["size"] == len(BODY)
    assert found["attempts"] == 1
    assert found["reason"] == "No such user\x1b[31m"
    assert [each["number"] for each in first.objects] == [1, 2]


@both
@on_loops
async def test_show_has_envelope_and_header(tmp_path: Path, running: bool) -> None:
    async with served(tmp_path / "s", running, Collector()):
        found = await told("show", str(tmp_path / "s"), "s-0", "3")
    assert found.status == 0, found.err
    assert "    recipient: <x\\x1b[2J\\x0a\\u202e\\x2017\\x20deleted@y>" in found.out
    assert "Subject: x\n" in found.out
    assert "Subject: large\n" in found.out
    assert "hello" not in found.out


@both
@on_loops
async def test_export_writes_the_message_with_its_envelope(tmp_path: Path, running: bool) -> None:
    async with served(tmp_path / "s", running, Collector()):
        found = await told("export", str(tmp_path / "s"), "1", "3", cwd=tmp_path)
        assert found.out.split() == ["1-s-0.eml", "3-s-2.eml"], found.err
        once_more = await told("export", str(tmp_path / "s"), "1", cwd=tmp_path)
        piped = await told("export", str(tmp_path / "s"), "1", "--output", "-")
        two = await told("export", str(tmp_path / "s"), "1", "2", "--output", "-")
    head, _, body = (tmp_path / "1-s-0.eml").read_bytes().partition(b"Received: ")
    assert head == (
        b"X-Envelope-From: <a@x.example>\r\nX-Envelope-To: <b@y.example>,\r\n"
        b"\t<x\\x1b[2J\\x0a\\u202e 17 deleted@y>\r\nX-Spool-Id: s-0\r\n"
    )
    assert body.endswith(b"\r\n" + BODY)
    assert (tmp_path / "3-s-2.eml").read_bytes().endswith(b"\r\n" + LARGE)
    assert stat.S_IMODE(os.stat(tmp_path / "1-s-0.eml").st_mode) == 0o600
    assert once_more.status == 1
    assert "1-s-0.eml: File exists" in once_more.err
    assert piped.octets == (tmp_path / "1-s-0.eml").read_bytes()
    assert two.status == 1
    assert "--output is for one record" in two.err


@both
@on_loops
async def test_delete_asks_first_and_leaves_nothing(tmp_path: Path, running: bool) -> None:
    async with served(tmp_path / "s", running, Collector()) as spool:
        asked = await told("delete", str(tmp_path / "s"), "1")
        assert (asked.status, asked.out) == (2, "")
        assert "--yes" in asked.err
        deleted = await told("delete", str(tmp_path / "s"), "1", "s-1", "--yes")
        assert deleted.out == "2 deleted\n", deleted.err
        left = await told("list", str(tmp_path / "s"), "--json")
        assert [each["id"] for each in left.objects] == ["s-2", "s-3"]
        if running:
            assert spool.count == 2
        else:
            everything = await told("delete", str(tmp_path / "s"), "--state", "all", "--yes")
            assert everything.out == "2 deleted\n"
            assert list((tmp_path / "s" / "bodies").iterdir()) == []


@on_loops
async def test_a_record_that_is_being_delivered_is_not_deleted(tmp_path: Path) -> None:
    sink = Collector()
    sink.hold = True
    async with Spool(str(tmp_path / "s"), drain_into=sink) as spool:
        await spool.put(record())
        await sink.until(lambda: sink.held)
        found = await told("delete", str(tmp_path / "s"), "1", "--yes")
        assert found.out == "0 deleted, 1 kept: being delivered\n"
        sink.hold = False
        sink.answer()
        await emptied(spool)


@on_loops
async def test_retry_delivers_on_a_running_server(tmp_path: Path) -> None:
    sink = Collector()
    async with served(tmp_path / "s", True, sink) as spool:
        sink.hold = False
        sink.answer()
        found = await told("retry", str(tmp_path / "s"), "--state", "refused")
        assert found.out == "1 to retry\n", found.err
        await told("retry", str(tmp_path / "s"), "--state", "deferred")
        await emptied(spool)
    assert sorted(sink.ids) == ["s-0", "s-1", "s-2", "s-3"]


@on_loops
async def test_retry_on_a_stopped_server_counts_at_its_next_start(tmp_path: Path) -> None:
    async with served(tmp_path / "s", False, Collector()):
        found = await told("retry", str(tmp_path / "s"), "s-0", "--json")
        assert found.objects == [{"retried": 1}]
    sink = Collector()
    async with Spool(str(tmp_path / "s"), drain_into=sink):
        await sink.until(lambda: len(sink.taken) == 3)  # s-1 is not due yet
    assert "s-0" in sink.ids


@both
@on_loops
async def test_a_record_that_is_not_there_is_one_line(tmp_path: Path, running: bool) -> None:
    async with served(tmp_path / "s", running, Collector()):
        found = await told("show", str(tmp_path / "s"), "no\x1bsuch")
    assert (found.status, found.out) == (1, "")
    assert found.err == "the spool has no record no\\x1bsuch"


@both
@on_loops
async def test_the_command_line_has_the_group(tmp_path: Path, running: bool) -> None:
    async with served(tmp_path / "s", running, Collector()):
        for arguments, status in ((["list", str(tmp_path / "s")], 0), (["list", "/nowhere"], 1)):
            process = await asyncio.create_subprocess_exec(
                *command(*arguments, name="spool"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment(),
            )
            out, err = await asyncio.wait_for(process.communicate(), 60)
            assert process.returncode == status
            assert len(out.splitlines()) == (0 if status else 7)
            assert (b"there is no spool /nowhere" in err) == bool(status)


@on_loops
async def test_where_there_is_no_spool_every_command_is_one_line(tmp_path: Path) -> None:
    for name in ("list", "repair"):
        found = await told(name, str(tmp_path / "none"))
        assert (found.status, found.out) == (1, "")
        assert "there is no spool" in found.err
        assert len(found.err.splitlines()) == 1
    assert not (tmp_path / "none").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    found = await told("list", str(tmp_path / "other"))
    assert "is not a spool" in found.err
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


@on_loops
async def test_a_command_needs_records_or_a_state_and_not_both(tmp_path: Path) -> None:
    for arguments in ((), ("1", "--state", "all")):
        found = await told("retry", str(tmp_path), *arguments)
        assert found.status == 2
        assert "name records" in found.err


@on_loops
async def test_the_socket_of_a_running_server_is_for_its_owner_and_goes_with_it(
    tmp_path: Path,
) -> None:
    control = tmp_path / "s" / "control"
    async with Spool(str(tmp_path / "s")):
        facts = control.stat()
        assert stat.S_ISSOCK(facts.st_mode)
        assert stat.S_IMODE(facts.st_mode) == 0o600
    assert not control.exists()


@on_loops
async def test_a_spool_with_a_long_path_can_be_asked_too(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 120) / "s"
    async with Spool(str(path)) as spool:
        await spool.put(record())
        found = await told("list", str(path), "--json")
        assert [each["id"] for each in found.objects] == ["s-1"], found.err


@on_loops
async def test_clients_that_send_no_request_or_disconnect_do_not_affect_others(
    tmp_path: Path,
) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        await spool.put(record())
        control = str(tmp_path / "s" / "control")
        for octets in (b"", b"nonsense\n", b"[1]\n", b"\xff\xfe\n", b"x" * 2_000_000, b'{"a":1}\n'):
            reader, writer = await asyncio.open_unix_connection(control)
            with contextlib.suppress(OSError):
                writer.write(octets)
                writer.write_eof()
                await reader.read()
            writer.close()
        found = await told("list", str(tmp_path / "s"), "--json")
        assert [each["id"] for each in found.objects] == ["s-1"]


@on_loops
async def test_a_command_beside_too_many_others_is_told_so(tmp_path: Path) -> None:
    async with served(tmp_path / "s", True, Collector()):
        control = str(tmp_path / "s" / "control")
        others = [await asyncio.open_unix_connection(control) for _ in range(8)]
        done = await told("list", str(tmp_path / "s"))
        assert done.status == 1
        assert "8 commands are running already: try again later" in done.err
        for _, writer in others:
            writer.close()


@on_loops
async def test_a_client_that_disconnects_during_a_command_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def perform(self: Operations, request: Request) -> AsyncIterator[dict[str, int]]:
        yield {"number": 1}
        begun.set()
        await go_on.wait()
        yield {"number": 2}

    async with Spool(str(tmp_path / "s")):
        with monkeypatch.context() as patched:
            patched.setattr(Operations, "perform", perform)
            _, writer = await asyncio.open_unix_connection(str(tmp_path / "s" / "control"))
            writer.transport.pause_reading()  # an answer that was not read makes a reset
            writer.write(b"{}\n")
            await begun.wait()
            await closed(writer)
            for _ in range(20):
                await asyncio.sleep(0)
            go_on.set()
            await asyncio.sleep(0)
        assert (await told("list", str(tmp_path / "s"))).status == 0


@on_loops
async def test_a_listing_does_not_touch_the_file_of_a_running_server(tmp_path: Path) -> None:
    async with Spool(str(tmp_path / "s")) as spool:
        await spool.put(record())
        before = database(tmp_path / "s").stat()
        await told("list", str(tmp_path / "s"))
        await told("repair", str(tmp_path / "s"))
        assert database(tmp_path / "s").stat().st_ino == before.st_ino
        assert spool.count == 1
