"""Names and arguments of hooks: what would never be called, or called with arguments in another
order, is refused when it is set.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from scenario import DEFAULTS, EH, codes

from fastsmtp import SMTPServer
from fastsmtp.testing import Wire

# A name that a program might have -> what its author meant.
TYPOS = {
    "on_rctp_to": "on_rcpt_to",
    "on_rcpt": "on_rcpt_to",
    "on_mailfrom": "on_mail_from",
    "on_dta": "on_data",
    "on_conect": "on_connect",
    "onRcptTo": "on_rcpt_to",
    "onData": "on_data",
    "onMailFrom": "on_mail_from",
    "on_scramm": "on_scram",
    "on_disconnect": "on_close",
    "on_ehlo": "on_helo",
    "on_vrify": "on_vrfy",
}
UNKNOWN = (
    "on_command",
    "on_message_id_of_queue",
    "on_startup",
    "on_",
    "onIdle",
)


def method(self: Any, *given: Any) -> None:
    given[-1]()


@pytest.mark.parametrize(("name", "meant"), TYPOS.items())
def test_a_method_with_a_misspelt_name_is_an_error_with_the_nearest_hook(
    name: str, meant: str
) -> None:
    kind = type("Mine", (SMTPServer,), {name: method})
    with pytest.raises(TypeError, match=f"'{name}' is not a hook, did you mean '{meant}'"):
        kind()


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_method_that_looks_like_a_hook_and_is_near_none_is_an_error_with_their_names(
    name: str,
) -> None:
    kind = type("Mine", (SMTPServer,), {name: method})
    with pytest.raises(TypeError, match=f"'{name}' is not a hook, it is one of on_connect, on_"):
        kind()


@pytest.mark.parametrize(
    "form",
    [
        staticmethod(lambda address, session, callback: callback()),
        classmethod(lambda cls, address, session, callback: callback()),
        functools.partialmethod(method, 1),
        functools.partial(method, None),
    ],
    ids=lambda form: type(form).__name__,
)
def test_a_misspelt_method_of_any_form_is_an_error(form: Any) -> None:
    with pytest.raises(TypeError, match="on_rcpt_to"):
        type("Mine", (SMTPServer,), {"on_rctp_to": form})()


def test_a_misspelt_method_of_a_mixin_or_of_an_ancestor_is_an_error() -> None:
    mixin = type("Mixin", (), {"on_rctp_to": method})
    with pytest.raises(TypeError, match="on_rcpt_to"):
        type("Mine", (mixin, SMTPServer), {})()
    with pytest.raises(TypeError, match="on_rcpt_to"):
        type("Mine", (SMTPServer, mixin), {})()
    ancestor = type("Ancestor", (SMTPServer,), {"on_rctp_to": method})
    with pytest.raises(TypeError, match="on_rcpt_to"):
        type("Mine", (ancestor,), {"on_rctp_to": None})()


@pytest.mark.parametrize("name", TYPOS)
def test_assigning_to_a_misspelt_name_is_an_error(name: str) -> None:
    server = SMTPServer()
    with pytest.raises(TypeError, match=f"'{name}' is not a hook, did you mean"):
        setattr(server, name, lambda address, session, callback: callback())


def test_other_methods_attributes_and_properties_of_a_subclass_stay_what_they_are() -> None:
    class Mine(SMTPServer):
        on_hold = False
        once_more = 1

        def __init__(self, **options: Any) -> None:
            self.on_duty = "anne"
            self._on_change: Any = None
            super().__init__(**options)
            self.on_hold = True
            self.on_change = print

        @property
        def on_change(self) -> Callable[..., object]:
            return self._on_change

        @on_change.setter
        def on_change(self, value: Callable[..., object]) -> None:
            self._on_change = value

        def onward(self) -> None: ...

        def _on_signal(self) -> None: ...

        def on(self, event: str, listener: Callable[..., Any]) -> SMTPServer:
            return super().on(event, listener)

    server = Mine(**DEFAULTS)
    told: list[Any] = []
    server.on("connect", told.append).once("connect", told.append)
    assert server.on_change is print
    with Wire(server) as wire:
        assert codes(wire.receive()) == ["220"]
    assert len(told) == 2


# --- the order of arguments ---


def swapped(session: Any, address: Any, callback: Any) -> None:
    raise AssertionError("never called")


async def swapped_coroutine(session: Any, address: Any) -> None: ...


SWAPPED: list[tuple[str, Any]] = [
    ("on_rcpt_to", swapped),
    ("on_mail_from", swapped),
    ("on_rcpt_to", swapped_coroutine),
    ("on_rcpt_to", lambda session, rcpt, callback: None),
    ("on_rcpt_to", lambda _session, address, callback: None),
    ("on_rcpt_to", lambda callback, address, session: None),
    ("on_rcpt_to", lambda address, callback, session: None),
    ("on_rcpt_to", functools.partial(lambda tag, session, address, callback: None, "tag")),
    ("on_data", lambda session, stream, callback: None),
    ("on_auth", lambda session, auth, callback: None),
    ("on_scram", lambda session, username, callback: None),
    ("on_secure", lambda session, socket, callback: None),
    ("on_connect", lambda callback, session: None),
]


@pytest.mark.parametrize(("name", "hook"), SWAPPED)
def test_arguments_in_another_order_are_refused_when_a_hook_is_set(name: str, hook: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} is called with \(.*\), in this order"):
        SMTPServer(**{name: hook})
    server = SMTPServer()
    with pytest.raises(TypeError, match=f"{name} is called with"):
        setattr(server, name, hook)
    with pytest.raises(TypeError, match=f"{name} is called with"):
        type("Mine", (SMTPServer,), {name: staticmethod(hook)})()


@pytest.mark.parametrize(
    "hook",
    [
        lambda address, session, callback: callback(),
        lambda rcpt, s, cb: cb(),
        lambda mailbox, _session, done: done(),
        lambda *given: given[-1](),
    ],
)
def test_other_names_in_the_right_order_are_taken(hook: Any) -> None:
    with Wire(**DEFAULTS, on_rcpt_to=hook) as wire:
        wire.send(EH)
        wire.send(b"MAIL FROM:<a@x.example>\r\n")
        assert codes(wire.send(b"RCPT TO:<b@y.example>\r\n")) == ["250 2.1.5"]
