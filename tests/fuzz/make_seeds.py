"""Rewrites seeds/*.txt: what the tests of the catalogue's rows send and answer.

    PYTHONPATH=tests:tests/support python tests/fuzz/make_seeds.py

Of each test function the shortest sessions are kept, and each new path, parameter, body and text.
Seeds after the line "# found" of a file, which a fuzzer has found, stay as they are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import scenario
from fuzz.fuzz_reply import CODES, ENHANCED
from fuzz.inputs import HERE, TARGETS
from fuzz.session_kit import EXTENSIONS, LIMITS, OUTCOMES, SIZES, TIMES
from proxy_kit import SIGNATURE

from fastsmtp import SMTPError
from fastsmtp.testing import Wire

FILES = (
    *("smug", "line", "byte", "addr", "parm", "size", "bdat", "lmtp", "state", "flood", "slow"),
    *("network", "pipe", "log", "hook_answers", "hook_ends", "hook_faults", "stream"),
    *("auth", "auth_hooks", "proxy"),
)
MOST_OCTETS = {"fuzz_session": 400, "fuzz_reply": 200, "fuzz_auth": 400, "fuzz_proxy": 500}
OF_A_FUNCTION = {
    "fuzz_session": 2,
    "fuzz_auth": 4,
    "fuzz_reply": 6,
    "fuzz_data": 8,
    "fuzz_params": 12,
    "fuzz_proxy": 50,
}
PATH = re.compile(rb"(?i)^(?:MAIL|RCPT)[ \t]+((FROM|TO)[ \t]*:.*)$")
PARAMETERS = re.compile(rb"(?i)^(MAIL|RCPT) (?:FROM|TO): ?<[^>]*> (.*)$")
FOUND = "# found"


class Recorded:
    """What the tests have done, by the function that did it."""

    def __init__(self) -> None:
        self.function = ""
        self.seeds: dict[str, dict[str, set[bytes]]] = {target: {} for target in TARGETS}
        self.wires: dict[int, tuple[Wire, dict[str, Any], list[bytes]]] = {}
        self.outcomes: dict[int, bytes] = {}

    def add(self, target: str, seed: bytes) -> None:
        """Note one seed of the present function."""
        if len(seed) <= MOST_OCTETS.get(target, 300):
            self.seeds[target].setdefault(self.function, set()).add(seed)

    @pytest.hookimpl
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A test begins."""
        self.function = item.nodeid.partition("[")[0]

    @pytest.hookimpl
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """A test has ended: its sessions are complete."""
        for key, (_, options, steps) in self.wires.items():
            if b"AUTH" in b"".join(steps).upper():
                kind = 0 if options.get("strict_pipelining") is False else 1
                self.add("fuzz_auth", bytes([kind | 18, 0]) + b"".join(steps))
                continue
            head = header(options)
            self.add("fuzz_session", head + self.outcomes.get(key, b"") + b"".join(steps))
        self.wires.clear()
        self.outcomes.clear()

    def sent(self, segments: Iterable[bytes], before: bytes) -> None:
        """Take lines and bodies out of what was sent; `before` is what the server said last."""
        octets = b"".join(segments)
        if not before and octets.startswith((b"PROXY ", SIGNATURE)):
            self.add("fuzz_proxy", b"\x00" + octets)
            return
        if before.startswith(b"354"):
            self.add("fuzz_data", b"\x00\x00\x00\x00" + octets)
            self.add("fuzz_data", b"\x01\x05\x00\x01" + octets)
            return
        for line in octets.split(b"\r\n"):
            if found := PATH.match(line):
                kind = 4 if found[2].upper() == b"TO" else 0
                self.add("fuzz_address", bytes([kind | ("SMTPUTF8" in str(line))]) + found[1])
            if found := PARAMETERS.match(line):
                kind = 4 if found[1].upper() == b"RCPT" else 0
                self.add("fuzz_params", bytes([kind | 1]) + found[2])
        if octets[:4].upper() == b"BDAT":
            self.add("fuzz_data", b"\x02\x00\x00\x02" + octets.partition(b"\r\n")[2])

    def answered(self, error: SMTPError) -> None:
        """Note a rejection."""
        code, enhanced = error.response_code, error.enhanced_code
        raw = code if type(code) is int and 0 <= code < 65536 else 0
        choice = CODES.index(code) if code in CODES else len(CODES)
        which = ENHANCED.index(enhanced) if enhanced in ENHANCED else 0
        try:
            text = error.message.encode("utf-8", "surrogatepass")
        except AttributeError:
            return
        for stage, kind in ((0, 0), (2, 4)):
            octets = [0, stage, kind, *raw.to_bytes(2, "big"), choice, which]
            self.add("fuzz_reply", bytes(octets) + text)
        self.add("fuzz_reply", bytes([1, 0x68 | 16, choice]) + text + b"\xff" + text)


def header(options: dict[str, Any]) -> bytes:
    """The octets that stand for these options, as far as a case can have them."""
    policy = options.get("bare_newline", "reject")
    first = ("reject", "accept", "normalize").index(policy)
    first |= 4 * bool(options.get("lmtp")) | 8 * options.get("strict_pipelining", True)
    size = options.get("size", SIZES[0])
    second = 2 if size and size < 1000 else 1 if not size else 0 if size > 10**6 else 3
    limited = {name for name in options if name.startswith("max_")}
    limits = [at for at, given in enumerate(LIMITS) if at and limited & set(given)]
    second |= (limits[0] if limits else 0) << 2
    chosen = [at for at, given in enumerate(EXTENSIONS) if at and set(options) & set(given)]
    second |= (chosen[0] if chosen else 0) << 4
    third = 16 * bool(options.get("allow_bare_lf_commands"))
    third |= (False, "common", True).index(options.get("lenient_address_parsing", False)) << 5
    return bytes([first, second, third])


def outcome(answer: Any) -> int | None:
    """The number of an answer that a case can give."""
    if answer is scenario.LATE:
        return OUTCOMES.index("late")
    if isinstance(answer, SMTPError) and str(answer.response_code) in OUTCOMES:
        return OUTCOMES.index(str(answer.response_code))
    if isinstance(answer, list):
        return OUTCOMES.index("list")
    return OUTCOMES.index("raise") if isinstance(answer, Exception) else None


def record(recorded: Recorded) -> None:
    """Have the wire, the sessions and the errors of the tests tell what they are given."""
    begin, send, advance = Wire.__init__, Wire.send, Wire.advance
    reset, eof, error_begin, session = (
        Wire.reset,
        Wire.eof,
        SMTPError.__init__,
        scenario.Conversation,
    )
    begin_session = session.__init__

    def noted(self: Wire, octets: bytes) -> None:
        if id(self) in recorded.wires:
            recorded.wires[id(self)][2].append(octets)

    def wire_begins(self: Wire, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        recorded.wires[id(self)] = (self, options, [])

    def wire_sends(self: Wire, *segments: bytes) -> bytes:
        written = b"".join(self.transport.writes[-1:])
        recorded.sent(segments, written)
        noted(self, b"".join(b"\xfe|" + segment.replace(b"\xfe", b"") for segment in segments))
        return send(self, *segments)

    def wire_advances(self: Wire, seconds: float) -> bytes:
        noted(self, b"\xfe%d" % sum(seconds > time for time in TIMES[:-1]))
        return advance(self, seconds)

    def also(octets: bytes, call: Callable[[Wire], Any]) -> Callable[[Wire], Any]:
        def wire_ends(self: Wire) -> Any:
            noted(self, octets)
            return call(self)

        return wire_ends

    def session_begins(self: Any, hooks: Any = None, *arguments: Any, **options: Any) -> None:
        begin_session(self, hooks, *arguments, **options)
        answers = {b"m": "mail", b"r": "rcpt", b"d": "data"}
        given = {name: outcome(getattr(hooks, hook, None)) for name, hook in answers.items()}
        octets = [b"\xfe" + name + bytes([at]) for name, at in given.items() if at is not None]
        recorded.outcomes[id(self.wire)] = b"".join(octets)

    def error_begins(self: SMTPError, *arguments: Any, **given: Any) -> None:
        error_begin(self, *arguments, **given)
        recorded.answered(self)

    changed: dict[str, Any] = {
        "__init__": wire_begins,
        "send": wire_sends,
        "advance": wire_advances,
        "eof": also(b"\xfeF", eof),
        "reset": also(b"\xfeR", reset),
    }
    for name, function in changed.items():
        setattr(Wire, name, function)
    setattr(session, "__init__", session_begins)  # noqa: B010 - of a class, and on purpose
    setattr(SMTPError, "__init__", error_begins)  # noqa: B010


def chosen(recorded: Recorded, target: str) -> list[bytes]:
    """The shortest of each function, none twice."""
    found: dict[bytes, None] = {}
    for seeds in recorded.seeds[target].values():
        fresh = sorted((seed for seed in seeds if seed not in found), key=lambda x: (len(x), x))
        found.update(dict.fromkeys(fresh[: OF_A_FUNCTION.get(target, 30)]))
    return list(found)


def write(path: Path, seeds: list[bytes]) -> None:
    """Write the seeds, before those that were found."""
    before = path.read_text(encoding="ascii") if path.exists() else ""
    found = FOUND + before.partition(FOUND)[2] if FOUND in before else f"{FOUND}\n"
    text = "".join(f"{seed!r}\n" for seed in seeds)
    path.write_text(f"# from the tests, by make_seeds.py\n{text}{found}", encoding="ascii")


def main() -> int:
    recorded = Recorded()
    record(recorded)
    files = [str(HERE.parent / f"test_{name}.py") for name in FILES]
    status = pytest.main(
        ["-q", "-p", "no:cacheprovider", "-m", "not slow and not nightly", *files],
        plugins=[recorded],
    )
    (HERE / "seeds").mkdir(exist_ok=True)
    for target in TARGETS:
        write(HERE / "seeds" / f"{target}.txt", chosen(recorded, target))
    return int(status)  # a test that counts what is held may fail: we hold what it sends


if __name__ == "__main__":
    sys.exit(main())
