"""Lines for people: what a peer sends stays one clean word, and no disk holds up the mail."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import run_to_end

from fastsmtp.gateway import log as module
from fastsmtp.gateway.log import LogWriter, complain
from fastsmtp.log_text import MAX_TEXT, clean
from fastsmtp.metrics import cell
from fastsmtp.transactions import Outcome

pytest_plugins = ["gateway_fixtures"]
FORMAT_ATTACKS = ["%n%s", "{0.__class__}", "{{7*7}}"]


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Pipes in the places of stdout and stderr of the writer: their reading ends."""
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    monkeypatch.setattr(module, "_STDOUT", out_end)
    monkeypatch.setattr(module, "_STDERR", err_end)
    yield out, err
    for descriptor in (out, out_end, err, err_end):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("c.example", "c.example"),
        ("", ""),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("\x07\x7f\0", "\\x07\\x7f\\x00"),
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("a b", "a\\x20b"),
        ("a\\x20b", "a\\x5cx20b"),
        ("\u202egro", "\\u202egro"),
        ("\u2066\u200b\u2028", "\\u2066\\u200b\\u2028"),
        ("\U000e0001", "\\U000e0001"),
        ("\ud800", "\\ud800"),
        ("ünï@例え.example", "ünï@例え.example"),
        *[(text, text) for text in FORMAT_ATTACKS],
    ],
)
def test_log_01_a_text_of_a_peer_is_escaped(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@given(st.text(), st.integers(3, 200))
def test_log_01_a_cleaned_text_is_one_bounded_printable_word(text: str, limit: int) -> None:
    cleaned = clean(text, limit)
    assert len(cleaned) <= limit
    assert cleaned.isprintable()
    assert " " not in cleaned


@pytest.mark.parametrize("text", ["x" * 2000, "\n" * 2000, "\U000e0001" * 2000])
def test_log_01_a_text_is_cut_at_128_characters_and_never_inside_an_escape(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned) <= MAX_TEXT
    assert cleaned.endswith("...")
    piece = clean(text[0])
    assert set(cleaned.removesuffix("...").split(piece)) == {""}


def test_a_text_that_just_fits_is_not_cut() -> None:
    assert clean("x" * 128) == "x" * 128
    assert clean("x" * 129) == "x" * 125 + "..."


# The way out.


def lines_of(descriptor: int) -> list[str]:
    return os.read(descriptor, 1 << 20).decode().splitlines()


def record(message: str, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("fastsmtp", level, "file", 1, message, arguments, None)


def test_notices_go_to_stdout_and_warnings_to_stderr(streams: tuple[int, int]) -> None:
    writer = LogWriter()
    writer.say("listening on 127.0.0.1:2525")
    writer.emit(record("delivered %s", "x"))
    writer.emit(record("no room", level=logging.WARNING))
    writer.finish()
    out = lines_of(streams[0])
    assert out[0] == "fastsmtp: listening on 127.0.0.1:2525"
    assert out[1].endswith(" fastsmtp: delivered x")
    assert lines_of(streams[1])[0].endswith(" fastsmtp: warning: no room")


def test_log_02_a_forged_line_stays_inside_its_own(streams: tuple[int, int]) -> None:
    writer = LogWriter()
    forged = "a\n2026-01-01 fastsmtp: delivered"
    writer.emit(record("to=%s", clean(forged)))
    writer.emit(record("engine says " + forged))
    writer.finish()
    assert len(lines_of(streams[0])) == 2


def test_log_01_a_text_of_a_peer_is_never_a_format(streams: tuple[int, int]) -> None:
    writer = LogWriter()
    for attack in FORMAT_ATTACKS:
        writer.emit(record("helo=%s", clean(attack)))
    writer.finish()
    assert [line.rpartition("helo=")[2] for line in lines_of(streams[0])] == FORMAT_ATTACKS


def test_a_traceback_keeps_its_lines_but_no_control_character(streams: tuple[int, int]) -> None:
    writer = LogWriter()
    try:
        raise ValueError("\x1b[2J\nforged\n2026")
    except ValueError:
        failed = record("a hook failed", level=logging.ERROR)
        failed.exc_info = sys.exc_info()
    writer.emit(failed)
    writer.finish()
    lines = lines_of(streams[1])
    assert lines[0].endswith(" fastsmtp: error: a hook failed")
    assert all(line.startswith("    ") for line in lines[1:])
    assert not any("\x1b" in line for line in lines)
    assert any("ValueError" in line for line in lines)


def test_a_record_that_does_not_fit_its_format_is_dropped(streams: tuple[int, int]) -> None:
    writer = LogWriter()
    writer.emit(record("%d %d", "x"))
    writer.say("next")
    writer.finish()
    assert writer.dropped == 1
    told, text = lines_of(streams[0])
    assert told.endswith(" fastsmtp: warning: 1 log lines were dropped")
    assert text == "fastsmtp: next"


def test_an_outcome_that_cannot_be_formatted_costs_its_line_only(
    streams: tuple[int, int],
) -> None:
    outcome: Any = Outcome._make([None] * len(Outcome._fields))
    writer = LogWriter()
    writer.tell(outcome)
    writer.say("next")
    writer.finish()
    assert writer.dropped == 1
    told, text = lines_of(streams[0])
    assert told.endswith(" fastsmtp: warning: 1 log lines were dropped")
    assert text == "fastsmtp: next"


def test_lines_that_were_dropped_are_counted_in_a_line_when_writing_works_again(
    streams: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = os.write, threading.Semaphore(0)

    def failing(descriptor: int, octets: bytes) -> int:
        if descriptor != module._STDOUT:
            return real(descriptor, octets)
        tried.release()
        raise OSError(errno.ENOSPC, "full")

    writer = LogWriter()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing)
        for number in range(3):
            writer.say(f"lost {number}")
            assert tried.acquire(timeout=60)
        writer.emit(record("of the other stream", level=logging.WARNING))
    writer.say("next")
    writer.finish()
    told, text = lines_of(streams[0])
    assert told.endswith(" fastsmtp: warning: 3 log lines were dropped")
    assert text == "fastsmtp: next"
    (other,) = lines_of(streams[1])
    assert other.endswith("of the other stream")


def test_lines_that_were_dropped_last_are_counted_at_the_end(
    streams: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 0)
    writer = LogWriter()
    writer.say("lost")
    writer.finish()
    (told,) = lines_of(streams[0])
    assert told.endswith(" fastsmtp: warning: 1 log lines were dropped")


def test_ops_12_a_log_that_is_not_read_delays_nothing(
    streams: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.0)
    writer = LogWriter()
    for _ in range(2000):  # a pipe takes 64 KiB, then a write waits
        writer.say("x" * 1000)
    assert writer.dropped > 1000
    writer.finish()
    # For the sake of the next test the writer's thread is let go.
    monkeypatch.setattr(module, "FLUSH_SECONDS", 60.0)
    reader = threading.Thread(target=read_to_end, args=(streams[0],))
    reader.start()
    writer.finish()
    os.write(module._STDOUT, b"END\n")
    reader.join(60)


def read_to_end(descriptor: int) -> None:
    while not os.read(descriptor, 1 << 20).endswith(b"END\n"):
        pass


@pytest.mark.parametrize("code", ["ENOSPC", "EPIPE", "EBADF", "EIO"])
def test_ops_12_a_log_that_cannot_be_written_delays_nothing(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    tried = threading.Event()

    def failing(_descriptor: int, _octets: object) -> int:
        tried.set()
        raise OSError(getattr(errno, code), code)

    monkeypatch.setattr(os, "write", failing)
    writer = LogWriter()
    writer.say("lost")
    writer.finish()
    assert tried.is_set()
    assert writer.dropped == 1
    complain("lost too")


def test_an_error_that_ends_the_program_is_one_line(streams: tuple[int, int]) -> None:
    complain("cannot listen on \x1b[2J\n127.0.0.1:25")
    assert lines_of(streams[1]) == ["fastsmtp: error: cannot listen on \\x1b[2J\\x0a127.0.0.1:25"]


# --- files, and forms for programs ---


def test_a_log_file_that_cannot_be_opened_is_one_line_at_the_start(maildir: Path) -> None:
    for more in ([], ["--workers=1"]):
        found = run_to_end(
            *("--listen=127.0.0.1:0", f"--maildir={maildir}", "--log-file=/proc/none/x.log"), *more
        )
        assert found.returncode == 1
        assert "--log-file: cannot open /proc/none/x.log: No such file" in found.stderr


def test_a_log_file_that_is_renamed_is_opened_again_on_sighup(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    writer = LogWriter(path=str(path))
    writer.say("first")
    writer.finish()
    path.rename(tmp_path / "mail.log.1")
    other = LogWriter(path=str(path))
    path.rename(tmp_path / "mail.log.2")
    other.reopen()
    other.say("second")
    other.finish()
    assert (tmp_path / "mail.log.1").read_text() == "fastsmtp: first\n"
    assert path.read_text() == "fastsmtp: second\n"


def test_a_full_log_costs_lines_which_are_counted_in_the_metrics() -> None:
    writer = LogWriter(path="/dev/full")
    tally = writer.tally
    for _ in range(3):
        writer.say("x")
    writer.finish()
    assert writer.dropped == 3
    assert tally.values()[cell("log_lines_dropped_total")] == 3
    assert tally.values()[cell("log_lines_total")] == 0


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_other_lines_have_the_form_of_the_log_too(form: str, tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    writer = LogWriter(2, form, str(path))
    writer.emit(record('quoted "%s"', "x\x1b[2J"))
    writer.say("the end")
    writer.finish()
    first, last = path.read_text().splitlines()
    if form == "json":
        assert json.loads(first)["message"] == 'quoted "x\\x1b[2J"'
        assert json.loads(last)["process"] == "fastsmtp[2]"
    else:
        assert 'message="quoted \\"x\\\\x1b[2J\\""' in first
        assert last.endswith('process=fastsmtp[2] level=info message="the end"')
