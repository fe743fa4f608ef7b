"""The Maildir: what was committed is durable and whole, what was not has left nothing behind.

Faults are put in by replacing one function of `os` for one call; that the same holds for faults of
a real disk is shown by gateway/test_disk_faults.py.
"""

from __future__ import annotations

import errno
import mailbox
import os
import resource
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from maildir_kit import MESSAGE, NOTHING, Calls, deliver, deliver_in_two_pieces, files, only

from fastsmtp.errors import SMTPError
from fastsmtp.gateway.delivery.maildir import Delivery, Maildir, UnixLines, refusal

pytestmark = pytest.mark.usefixtures("no_leaks")

NO_ROOM = ["ENOSPC", "EDQUOT", "EFBIG"]
BROKEN = ["EIO", "EROFS", "EACCES", "EMFILE", "ENOENT"]


@pytest.fixture
def box(tmp_path: Path) -> Maildir:
    return Maildir(str(tmp_path / "mail"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, box: Maildir) -> Calls:
    return Calls(monkeypatch)


# What a delivery is.


def test_a_maildir_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    Maildir(str(tmp_path / "some" / "where" / "mail"))
    path = tmp_path / "some" / "where" / "mail"
    assert sorted(entry.name for entry in path.iterdir()) == ["cur", "new", "tmp"]
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in [path, *path.iterdir()]} == {0o700}


def test_a_maildir_that_is_there_is_taken_as_it_is(box: Maildir) -> None:
    deliver(box)
    assert files(Maildir(box.path)) == only(MESSAGE)


def test_python_reads_what_was_delivered(box: Maildir) -> None:
    name = deliver(box)
    with mailbox.Maildir(box.path, create=False).get_file(name) as file:
        assert file.read() == MESSAGE
    assert mailbox.Maildir(box.path, create=False)[name]["Subject"] == "x"


def test_nobody_else_may_read_a_message(box: Maildir) -> None:
    name = deliver(box)
    assert stat.S_IMODE(Path(box.new, name).stat().st_mode) == 0o600


def test_a_message_is_written_in_any_number_of_pieces(box: Maildir) -> None:
    delivery = box.deliver()
    for piece in (b"a", b"", b"bc"):
        delivery.write(piece)
    delivery.commit(b"d")
    assert files(box) == only(b"abcd")
    assert delivery.size == 4


def test_an_empty_message_is_a_message(box: Maildir) -> None:
    deliver(box, b"")
    assert files(box) == only(b"")


def test_a_delivery_that_was_only_begun_is_not_visible(box: Maildir) -> None:
    delivery = box.deliver()
    assert files(box) == NOTHING
    delivery.write(b"half of it")
    assert files(box) == {"cur": [], "new": [], "tmp": [b"half of it"]}
    delivery.discard()
    assert files(box) == NOTHING


def test_a_short_write_is_gone_on_with(box: Maildir, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, octets: write(fd, octets[:3]))
    deliver(box)
    monkeypatch.undo()
    assert files(box) == only(MESSAGE)


def test_ops_05_the_order_of_calls_makes_the_message_durable(box: Maildir, calls: Calls) -> None:
    deliver_in_two_pieces(box)
    assert calls.names() == [
        "open",
        "write",
        "write",
        "fsync",
        "link",
        "open_directory",
        "fsync_directory",
        "unlink",
    ]
    opened = str(calls.made[0][1])
    assert os.path.dirname(opened) == box.tmp
    assert calls.made[4][1] == opened
    assert calls.made[5][1] == box.new


# Faults of the disk: OPS-07.


@pytest.mark.parametrize("code", NO_ROOM + BROKEN)
@pytest.mark.parametrize(
    ("call", "which"),
    [
        ("open", 1),
        ("write", 1),
        ("write", 2),
        ("fsync", 1),
        ("link", 1),
        ("open_directory", 1),
        ("fsync_directory", 1),
    ],
)
def test_ops_07_a_fault_anywhere_is_answered_and_leaves_nothing(
    box: Maildir, calls: Calls, call: str, which: int, code: str
) -> None:
    calls.fail(call, code, which)
    with pytest.raises(SMTPError) as refused:
        deliver_in_two_pieces(box)
    expected = (452, "4.3.1") if code in NO_ROOM else (451, "4.3.0")
    assert (refused.value.response_code, refused.value.enhanced_code) == expected
    assert files(box) == NOTHING
    deliver(box)
    assert files(box) == only(MESSAGE)


@pytest.mark.parametrize("call", ["fsync", "fsync_directory"])
def test_ops_07_an_fsync_that_failed_is_not_tried_again(
    box: Maildir, calls: Calls, call: str
) -> None:
    calls.fail(call, "EIO")
    with pytest.raises(SMTPError):
        deliver(box)
    assert calls.names().count(call) == 1
    assert calls.names()[-1] == "unlink"


def test_ops_07_a_size_limit_of_the_process_is_a_full_disk_and_not_its_end(box: Maildir) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    delivery = box.deliver()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(SMTPError) as refused:
            delivery.commit(b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.response_code == 452
    assert files(box) == NOTHING


def test_a_fault_says_nothing_of_the_system_to_the_client() -> None:
    text = refusal(OSError(errno.EIO, "secret", "/var/secret")).message
    assert "secret" not in text


def test_the_temporary_name_that_cannot_be_removed_does_not_cost_the_message(
    box: Maildir, calls: Calls
) -> None:
    calls.fail("unlink", "EIO")
    deliver(box)
    assert files(box) == {"cur": [], "new": [MESSAGE], "tmp": [MESSAGE]}
    assert box.remove_leftovers() == 1
    assert files(box) == only(MESSAGE)


def test_a_message_that_fails_to_go_away_is_tried_only_once(box: Maildir, calls: Calls) -> None:
    calls.fail("fsync", "EROFS")
    calls.fail("unlink", "EROFS")
    with pytest.raises(SMTPError):
        deliver(box)
    assert files(box)["new"] == []


# Ends.


def test_a_committed_message_can_be_taken_back(box: Maildir) -> None:
    delivery = box.deliver()
    delivery.commit(MESSAGE)
    delivery.discard()
    assert files(box) == NOTHING


@pytest.mark.parametrize("ended_by", ["commit", "discard"])
def test_a_delivery_ends_once(box: Maildir, ended_by: str) -> None:
    delivery = box.deliver()
    getattr(delivery, ended_by)()
    for method in (delivery.write, delivery.commit):
        with pytest.raises(RuntimeError):
            method(b"more")
    delivery.discard()
    delivery.discard()
    assert files(box) == NOTHING


def test_a_discard_waits_for_the_write_under_way(
    box: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_fsync, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        in_fsync.set()
        assert go_on.wait(10)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    delivery = box.deliver()
    committing = threading.Thread(target=delivery.commit, args=(MESSAGE,))
    discarding = threading.Thread(target=delivery.discard)
    committing.start()
    assert in_fsync.wait(10)
    discarding.start()
    go_on.set()
    for thread in (committing, discarding):
        thread.join(10)
    assert files(box) == NOTHING


def test_an_interrupt_leaves_nothing(box: Maildir, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    delivery = box.deliver()
    with pytest.raises(KeyboardInterrupt):
        delivery.commit(MESSAGE)
    assert files(box) == NOTHING


# Opening.


def test_a_file_in_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("a file")
    with pytest.raises(NotADirectoryError):
        Maildir(str(tmp_path / "mail"))


def test_a_directory_that_takes_no_file_is_an_error(box: Maildir, calls: Calls) -> None:
    calls.fail("open", "EROFS")
    with pytest.raises(OSError, match="Read-only"):
        Maildir(box.path)


def test_a_full_disk_is_no_reason_not_to_start(box: Maildir, calls: Calls) -> None:
    calls.fail("open", "ENOSPC")
    Maildir(box.path)


# Line ends.


def converted(pieces: list[bytes]) -> bytes:
    lines = UnixLines()
    return b"".join([*(lines.convert(piece) for piece in pieces), lines.end()])


@given(st.lists(st.text("\r\na", max_size=4).map(str.encode), max_size=8))
def test_line_ends_do_not_depend_on_the_cut_of_the_pieces(pieces: list[bytes]) -> None:
    assert converted(pieces) == b"".join(pieces).replace(b"\r\n", b"\n")


@given(st.lists(st.binary(max_size=9)))
def test_what_came_over_the_wire_can_be_had_back(lines: list[bytes]) -> None:
    lines = [line.replace(b"\r", b"").replace(b"\n", b"") for line in lines]
    sent = b"".join(line + b"\r\n" for line in lines)
    assert converted([sent]).replace(b"\n", b"\r\n") == sent


def test_a_delivery_is_usable_from_one_thread_after_another(box: Maildir) -> None:
    delivery: Delivery = box.deliver()
    for piece in (b"a", b"b", b"c"):
        thread = threading.Thread(target=delivery.write, args=(piece,))
        thread.start()
        thread.join(10)
    delivery.commit()
    assert files(box) == only(b"abc")
