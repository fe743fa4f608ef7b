"""The engine against the model: after each step the reply and what is open are equal, and where no
transaction is open nothing of one is left (RFC 5321 §4.1.1.5, §4.1.4)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import shared_loop
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from model_tables import BODIES, LINES, TABLE, State
from resets import assert_reset
from side_by_side import OUTCOMES, SideBySide

DATA_OUTCOMES = (*OUTCOMES, "list")
CALLS_A_HOOK = {
    "_mail": OUTCOMES,
    "_rcpt": OUTCOMES,
    "_data": DATA_OUTCOMES,
    "_chunk": DATA_OUTCOMES,
}


@pytest.fixture(scope="module", autouse=True)
def _one_loop_for_all_runs() -> Iterator[None]:
    with shared_loop.quiet():
        yield
    shared_loop.close_shared_loop()


# --- random walks --------------------------------------------------------------------------------

# What leads to the end of a message: by far the most lines have to, or few walks would get there.
ON_THE_WAY = {
    State.NONE: ["greeting", "greeting", "greeting", "greeting", "HELO"],
    State.GREETED: ["MAIL", "MAIL with parameters", "MAIL with SMTPUTF8", "MAIL with BINARYMIME"],
    State.MAIL: ["RCPT", "RCPT with parameters", "RCPT", "BDAT"],
    State.RCPT: ["RCPT", "DATA", "BDAT", "BDAT LAST", "DATA"],
    State.BDAT: ["BDAT", "BDAT LAST"],
    State.FAILED: ["BDAT", "BDAT LAST"],
}
names = st.sampled_from(sorted(LINES))
bodies = st.sampled_from(["plain", "plain", *sorted(BODIES)])
outcomes = st.sampled_from([*["accept"] * 8, *DATA_OUTCOMES, "late", "late"])
starts = st.sampled_from([*["accept"] * 12, "450", "550", "421", "raise", "late"])
connections = st.fixed_dictionaries(
    {"lmtp": st.booleans(), "bare_newline": st.sampled_from(["reject", "accept", "normalize"])},
    optional={"max_recipients": st.just(2), "max_messages": st.just(1)},
)
interruptions = st.sampled_from([*[""] * 12, "clock", "clock", "shutdown", "leave", "FIN"])


def is_open(walk: Walk) -> bool:
    return not walk.both.model.closed


def is_waited_for(walk: Walk) -> bool:
    return is_open(walk) and not walk.both.model.pending


class Walk(RuleBasedStateMachine):
    """Verbs × answers of hooks × {client loss, clock, shutdown}."""

    both: SideBySide

    @initialize(options=connections, start=starts)
    def connect(self, options: dict[str, Any], start: str) -> None:
        self.both = SideBySide(start, **options)

    @precondition(lambda self: not is_open(self))
    @rule(options=connections, start=starts)
    def connect_again(self, options: dict[str, Any], start: str) -> None:
        self.both.finish()
        self.both = SideBySide(start, **options)

    def command(self, name: str, outcome: str, body: str) -> None:
        model = self.both.model
        if name == "greeting":
            name = "LHLO" if model.lmtp else "EHLO"
        entry = TABLE[LINES[name].verb][model.state]
        # A list is an answer to a message only; is a message an accepted one if it was for some?
        if outcome == "list" and (model.max_messages or entry in ("_mail", "_rcpt")):
            outcome = "accept"
        self.both.command(name, outcome, body)

    @precondition(is_waited_for)
    @rule(steps=st.lists(st.tuples(st.integers(0, 19), outcomes, bodies), min_size=1, max_size=6))
    def go_on(self, steps: list[tuple[int, str, str]]) -> None:
        for which, outcome, body in steps:
            if is_waited_for(self):
                lines = ON_THE_WAY[self.both.model.state]
                self.command(lines[which % len(lines)], outcome, body)
                assert_reset(self.both)

    @precondition(is_waited_for)
    @rule(name=names, outcome=outcomes, body=bodies)
    def any_line(self, name: str, outcome: str, body: str) -> None:
        self.command(name, outcome, body)

    @precondition(lambda self: is_waited_for(self) and self.both.model.state is State.RCPT)
    @rule(outcome=st.sampled_from([*OUTCOMES, "late", "late"]))
    def begin_a_body(self, outcome: str) -> None:
        if self.both.model.line.body_type != "binarymime":
            self.both.open_data(outcome)

    @precondition(lambda self: is_open(self) and self.both.model.pending == "body")
    @rule(body=bodies)
    def finish_the_body(self, body: str) -> None:
        self.both.end_data(body)

    @precondition(lambda self: is_open(self) and self.both.callback is not None)
    @rule(outcome=st.sampled_from(["accept", "accept", *OUTCOMES]))
    def late_hook_answers(self, outcome: str) -> None:
        self.both.answer(outcome)

    @precondition(is_open)
    @rule(kind=interruptions)
    def interrupt(self, kind: str) -> None:
        if kind == "clock":
            self.both.clock()
        elif kind == "leave":
            self.both.leave()
        elif self.both.model.closing or self.both.model.half_closed:
            return
        elif kind == "shutdown":
            self.both.shutdown()
        elif kind == "FIN" and self.both.model.pending != "connect":
            self.both.half_close()

    @invariant()
    def nothing_of_a_transaction_is_left(self) -> None:
        if hasattr(self, "both"):
            assert_reset(self.both)

    def teardown(self) -> None:
        if hasattr(self, "both"):
            self.both.finish()


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    deadline=None,
    max_examples=2 * settings().max_examples,
    stateful_step_count=30,
    suppress_health_check=[HealthCheck.too_slow],
)

# --- all short sequences -------------------------------------------------------------------------

FOURTEEN = [
    *["EHLO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "BDAT LAST"],
    *["RSET", "NOOP", "VRFY", "HELP", "QUIT", "EXPN", "FOO"],
]
Step = tuple[str, str]

# What has gone before: each column of the table of states.
ACCEPTED = [("greeting", "accept"), ("MAIL", "accept"), ("RCPT", "accept")]
PREFIXES: dict[State, list[Step]] = {
    State.NONE: [],
    State.GREETED: ACCEPTED[:1],
    State.MAIL: ACCEPTED[:2],
    State.RCPT: ACCEPTED,
    State.BDAT: [*ACCEPTED, ("BDAT", "accept")],
    State.FAILED: [*ACCEPTED[:2], ("BDAT", "accept")],
}
# And what a greeting, a parameter or an answer has left behind beside the state.
MORE_PREFIXES: dict[str, list[Step]] = {
    "helo": [("HELO", "accept")],
    "helo, rcpt": [("HELO", "accept"), *ACCEPTED[1:]],
    "binarymime": [ACCEPTED[0], ("MAIL with BINARYMIME", "accept"), ACCEPTED[2]],
    "smtputf8": [ACCEPTED[0], ("MAIL with SMTPUTF8", "accept"), ACCEPTED[2]],
    "all refused": [*ACCEPTED[:2], ("RCPT", "550"), ("RCPT", "raise")],
    "two of three": [*ACCEPTED, ("RCPT", "450"), ("RCPT with parameters", "accept")],
    "refused chunk": [*ACCEPTED, ("BDAT", "550")],
    "failed chunk": [*ACCEPTED, ("RCPT", "accept"), ("BDAT, too large", "550")],
    "after a message": [*ACCEPTED, ("DATA", "accept")],
}


def follow(steps: list[Step], lmtp: bool) -> SideBySide:
    """Take all steps, comparing after each."""
    both = SideBySide(lmtp=lmtp)
    for name, outcome in steps:
        if name == "greeting":
            both.command("LHLO" if lmtp else "EHLO", outcome)
        elif name == "BDAT, too large":
            both.command("BDAT", outcome, "big")
        else:
            both.command(name, outcome)
    return both


def drive(steps: list[Step], lmtp: bool) -> State | None:
    """Take all steps, and compare the fields at the end; None if the connection closes."""
    both = follow(steps, lmtp)
    assert_reset(both)
    state = None if both.model.closed else both.model.state
    both.finish()
    return state


def sequences(steps: list[Step], more: int, lmtp: bool) -> Iterator[list[Step]]:
    """Drive all sequences of up to `more` steps after `steps`; yields each longest one."""
    state = drive(steps, lmtp)
    if more == 0 or state is None:
        yield steps
        return
    for name in FOURTEEN:
        entry = TABLE[LINES[name].verb][state]
        for outcome in CALLS_A_HOOK.get(entry, ("accept",)):
            yield from sequences([*steps, (name, outcome)], more - 1, lmtp)


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("before", [*PREFIXES, *MORE_PREFIXES], ids=str)
def test_every_line_in_every_state_equals_the_model(before: State | str, lmtp: bool) -> None:
    steps = PREFIXES[before] if isinstance(before, State) else MORE_PREFIXES[before]
    for name in LINES:
        for body in BODIES if "BDAT" in name or name == "DATA" else ["plain"]:
            for outcome in DATA_OUTCOMES if name == "BDAT LAST" or name == "DATA" else OUTCOMES:
                both = follow(steps, lmtp)
                if not both.model.closed:
                    both.command(name, outcome, body)
                assert_reset(both)
                both.finish()


@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("outcomes", [*product(["accept", "550"], repeat=3)], ids="-".join)
def test_recipients_are_counted_as_the_model_does(outcomes: tuple[str, ...], lmtp: bool) -> None:
    both = SideBySide(lmtp=lmtp, max_recipients=2)
    for name in ("LHLO" if lmtp else "EHLO", "MAIL"):
        both.command(name)
    names = ["RCPT", "RCPT with a bad path", "RCPT"]
    for name, outcome in zip(names * 2, outcomes * 2, strict=True):
        if not both.model.closed:
            both.command(name, outcome)
    both.finish()


@pytest.mark.row("STATE-14")
@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("state", list(State), ids=lambda state: state.name.lower())
def test_all_short_sequences_equal_the_model(state: State, lmtp: bool) -> None:
    assert drive(PREFIXES[state], lmtp) is state
    assert sum(1 for _ in sequences(PREFIXES[state], 2, lmtp)) > 100


@pytest.mark.row("STATE-14")
@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
def test_all_sequences_of_three_equal_the_model(lmtp: bool) -> None:
    assert sum(1 for _ in sequences([], 3, lmtp)) > 1000


@pytest.mark.row("STATE-14")
@pytest.mark.nightly
@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
@pytest.mark.parametrize("first", FOURTEEN)
def test_all_sequences_of_five_equal_the_model(first: str, lmtp: bool) -> None:
    assert sum(1 for _ in sequences([(first, "accept")], 4, lmtp)) > 0
