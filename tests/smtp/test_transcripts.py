"""Golden dialogues that a mail admin can read: `transcripts/*.txt`, compared octet by octet.

    # ...              a comment
    option x = 1       an option of the server, a Python literal
    cut whole          the dialogue depends on what one segment holds: it runs in one way only
    S: ...             a line that the server writes
    C: ...             a line that the client sends; lines without one of the server's between
                       them are sent in one segment
    C> ...             the same without a line end
    -- server closes; -- client closes; -- 300 seconds pass

`\\xHH` in what the client sends is one octet. What the hooks answer depends on the local part, for
messages on the first label of the sender's domain: see ANSWERS.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scenario
from conftest import Run
from scenario import FIN, Conversation, Script, pause

from fastsmtp import SMTPError

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))

ANSWERS: dict[str, Any] = {
    "no": SMTPError("No such user here", 550),
    "later": SMTPError("", 450),
    "boom": RuntimeError("a hook that fails"),
    "bye": SMTPError("", 421),
    "lines": SMTPError("5.7.27 first\r\nsecond\nthird\r\n", 554),
    "control": SMTPError("bell \x07 caf\xe9", 550),
    "id": "OK: queued as 4711",
    "list": [None, SMTPError("Mailbox full", 452), "kept"],
}


def answer_to_path(address: Any, session: Any) -> Any:
    return ANSWERS.get(address.local_part)


def answer_to_message(stream: Any, session: Any) -> Any:
    return ANSWERS.get(session.envelope.mail_from.domain.partition(".")[0])


class Transcript:
    """One file: what the client does, and what the server writes before and after each step."""

    def __init__(self, path: Path) -> None:
        self.options: dict[str, Any] = {}
        self.steps: list[Any] = []
        self.expected = [b""]
        self.closes = self.one_way = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                self._read(line)
            except (ValueError, SyntaxError) as error:
                raise AssertionError(f"{path.name}, line {number}: {error}") from error

    def _read(self, line: str) -> None:
        mark, _, text = line.partition(" ")
        if mark in ("C:", "C>"):
            octets = text.encode()
            octets = re.sub(
                rb"\\x([0-9a-f]{2})", lambda code: bytes.fromhex(code[1].decode()), octets
            )
            self._sends(octets + (b"\r\n" if mark == "C:" else b""))
        elif mark == "S:":
            self.expected[-1] += text.encode() + b"\r\n"
        elif mark == "option":
            name, _, value = text.partition(" = ")
            self.options[name] = ast.literal_eval(value)
        elif line == "cut whole":
            self.one_way = True
        elif line == "-- server closes":
            self.closes = True
        elif line == "-- client closes":
            self._does(FIN)
        elif found := re.fullmatch(r"-- (\d+) seconds pass", line):
            self._does(pause(int(found[1])))
        elif line and mark != "#":
            raise ValueError(f"not a line of a transcript: {line!r}")

    def _sends(self, octets: bytes) -> None:
        if self.steps and isinstance(self.steps[-1], bytes) and not self.expected[-1]:
            self.steps[-1] += octets
        else:
            self._does(octets)

    def _does(self, step: Any) -> None:
        self.steps.append(step)
        self.expected.append(b"")

    def run(self, cut: Callable[[bytes], list[bytes]]) -> Conversation:
        """Hold the dialogue, with groups cut that way, and compare what the server writes."""
        refused = self.options.get("on_connect") == "refuse"
        hooks = Script(
            connect=SMTPError("") if refused else None,
            mail=answer_to_path,
            rcpt=answer_to_path,
            data=answer_to_message,
        )
        options = {name: value for name, value in self.options.items() if name != "on_connect"}
        with Conversation(hooks, cut, **options) as session:
            for step in [None, *self.steps]:
                if step is not None:
                    session.do(step)
                expected = self.expected[len(session.written) - 1]
                assert session.written[-1].decode() == expected.decode()
            assert session.closed is self.closes
        return session


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_dialogue_is_the_one_in_the_transcript(path: Path) -> None:
    transcript = Transcript(path)
    first = transcript.run(scenario.whole)
    for cut in () if transcript.one_way else scenario.WAYS.values():
        assert transcript.run(cut).trace == first.trace


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_dialogue_is_the_same_over_a_socket(path: Path, run: Run) -> None:
    transcript = Transcript(path)
    if all(isinstance(step, bytes) or step is FIN for step in transcript.steps):
        run(scenario.repeat_on_the_wire(transcript.run(scenario.whole)))


def test_there_are_transcripts_and_each_is_whole() -> None:
    assert len(TRANSCRIPTS) >= 8
    for path in TRANSCRIPTS:
        transcript = Transcript(path)
        assert transcript.closes
        assert transcript.expected[0].startswith((b"220 ", b"554 "))
