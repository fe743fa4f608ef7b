"""Parameters: split and decoded as the oracle does it; one reply each; none reaches a hook of a
command that was refused.

An input is one octet of choices and then what stands after the path of MAIL or RCPT. RFC 5321
§4.1.1.11, §4.1.2; RFC 3461 §4.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import reference
import scenario
from fuzz.clean import UNCLEAN, clean_log
from fuzz.inputs import Input
from shared_loop import shared_loop, uncaught

from fastsmtp._wire.grammar import decode_xtext, parse_bdat_argument, split_parameters
from fastsmtp.testing import Wire

MAX_OCTETS = 1900
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
EXTENSIONS: dict[str, Any] = {
    "hide_binarymime": False,
    "hide_mt_priority": False,
    "hide_deliverby": False,
    "hide_futurerelease": False,
}
REFUSALS = {"501 5.5.4", "501 5.1.7", "501 5.1.3", "553 5.6.7", "555 5.5.4", "552 5.3.4"}
NO_TLS = "530 5.7.0"  # of REQUIRETLS


class SeenByHooks:
    """What the hooks got of one command."""

    def __init__(self) -> None:
        self.addresses: list[Any] = []

    def hook(self, address: Any, session: Any, callback: Callable[..., object]) -> None:
        """Accept, and keep the address."""
        self.addresses.append(address)
        callback()


def check_dialogue(rest: bytes, to: bool, unknown: bool) -> None:
    """The line that has these parameters, in a session."""
    told = SeenByHooks()
    options = {**scenario.DEFAULTS, **EXTENSIONS, "allow_unknown_params": unknown}
    hooks = {"on_mail_from": told.hook, "on_rcpt_to": told.hook}
    with Wire(loop=shared_loop(), **options, **hooks) as wire:
        wire.send(scenario.EH)
        before = b"MAIL FROM:<a@x.example>"
        if to:
            assert scenario.codes(wire.send(before + b"\r\n")) == ["250 2.1.0"]
            told.addresses.clear()
            before = b"RCPT TO:<b@y.example>"
        (reply,) = scenario.codes(wire.send(before + b" " + rest + b"\r\n"))
        if reply[0] == "2":
            (address,) = told.addresses
            split = reference.split_parameters(rest, True)
            assert {name for name, _ in split} == set(address.args)
            assert len(split) == len(address.args)
            for name, value in address.args.items():
                assert not UNCLEAN.search(f"{name}{value}")
        else:
            assert told.addresses == []
            assert reply in REFUSALS or (reply == NO_TLS and b"REQUIRETLS" in rest.upper())
            # Nothing of it is left.
            again = "503 5.5.1" if to else "250 2.1.0"
            assert scenario.codes(wire.send(b"MAIL FROM:<a@x.example>\r\n")) == [again]
            if not to:
                assert told.addresses[0].args == {}
    assert not uncaught, uncaught


def check(octets: bytes) -> None:
    """Assert the invariants for one input."""
    given = Input(octets[:MAX_OCTETS])
    kind = given.octet()
    rest = given.rest()
    smtp_utf8 = bool(kind & 1)
    assert split_parameters(rest, smtp_utf8) == reference.split_parameters(rest, smtp_utf8)
    assert parse_bdat_argument(rest) == reference.parse_bdat_argument(rest)
    text = rest.decode("utf-8", "surrogateescape" if kind & 2 else "replace")
    for value in (text, *re.split(r"[ \t=;]", text)):
        assert decode_xtext(value, smtp_utf8) == reference.decode_xtext(value, smtp_utf8)
    if not CONTROL.search(rest):
        with clean_log():
            check_dialogue(rest, bool(kind & 4), bool(kind & 8))
