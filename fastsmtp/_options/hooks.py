"""The hooks by name, with what each is called with and what it decides."""

from __future__ import annotations

from typing import Final

__all__ = ["HOOKS", "HOOK_TEXTS"]

# Hook -> names of its arguments; all but on_close take the trailing callback.
HOOKS: Final[dict[str, tuple[str, ...]]] = {
    "on_connect": ("session", "callback"),
    "on_secure": ("socket", "session", "callback"),
    "on_auth": ("auth", "session", "callback"),
    "on_scram": ("username", "session", "callback"),
    "on_mail_from": ("address", "session", "callback"),
    "on_rcpt_to": ("address", "session", "callback"),
    "on_data": ("stream", "session", "callback"),
    "on_close": ("session",),
}

# Hook -> when it is called and what its answer decides, as editors show it.
HOOK_TEXTS: Final[dict[str, str]] = {
    "on_connect": "A client has connected: greet it, or refuse it with 554 and close.",
    "on_secure": "A TLS handshake has succeeded: go on, or close.",
    "on_auth": "The client has authenticated itself: answer with a user, or refuse it with 535.",
    "on_scram": "SCRAM begins: answer with the keys of the user, or with None for an unknown one.",
    "on_mail_from": "MAIL: accept the sender, or refuse it with 550.",
    "on_rcpt_to": "RCPT: accept the recipient, or refuse it with 550.",
    "on_data": "A message begins: read it and accept it, or refuse it with 450. LMTP takes a list"
    " with one answer for each recipient.",
    "on_close": "The connection has ended. The result is ignored.",
}
