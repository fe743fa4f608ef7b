"""The names of hooks, and suggestions for names that do not exist.

A suggestion is made only where it is likely to be right: a wrong one costs more time than none.
Hooks are compared only with hooks, without their common `on_`, and the names that other servers use
for the same thing lead to ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = ["ELSEWHERE", "HOOKS", "PER_SESSION", "looks_like_hook", "nearest", "nearest_hook"]
__all__ += ["nearest_option"]

# The share of common letters that makes two names alike: one wrong letter in four, and a
# transposition in a name of four letters, are still found. Hooks have shorter names.
ALIKE: Final = 0.75
ALIKE_HOOKS: Final = 0.7

# Hook -> names of its arguments; all except on_close end in the callback.
HOOKS: Final[dict[str, tuple[str, ...]]] = {
    "on_connect": ("session", "callback"),
    "on_secure": ("socket", "session", "callback"),
    "on_helo": ("greeting", "session", "callback"),
    "on_auth": ("auth", "session", "callback"),
    "on_scram": ("username", "session", "callback"),
    "on_mail_from": ("address", "session", "callback"),
    "on_rcpt_to": ("address", "session", "callback"),
    "on_vrfy": ("query", "session", "callback"),
    "on_data": ("stream", "session", "callback"),
    "on_close": ("session",),
}

# The options that `on_connect` can set for one session: nothing has been decided by them before.
PER_SESSION: Final = frozenset(
    {
        *("needs_upgrade", "name", "banner", "helo_response"),
        *("auth_methods", "auth_optional", "allow_insecure_auth", "auth_required_message"),
        *("hide_starttls", "hide_size", "hide_pipelining", "hide_dsn", "hide_enhancedstatuscodes"),
        *("hide_requiretls", "hide_8bitmime", "hide_smtputf8", "hide_chunking", "hide_binarymime"),
        *("hide_limits", "hide_mt_priority", "hide_deliverby", "hide_futurerelease", "hide_rrvs"),
        *("future_release_max", "allow_unknown_params", "lenient_address_parsing"),
        *("disabled_commands", "size", "max_recipients", "max_messages"),
        *("max_allowed_unauthenticated_commands", "max_unrecognized_commands", "max_errors"),
        *("max_junk_commands", "max_auth_failures"),
        *("socket_timeout", "data_timeout", "min_data_rate", "auth_timeout"),
        *("bare_newline", "reject_nul", "strict_pipelining"),
    }
)

# Names that are something else than an option -> where they belong.
ELSEWHERE: Final = {
    "host": "it is an argument of listen and run",
    "logger": 'log lines go to logging.getLogger("fastsmtp")',
    "on_error": 'for the event, call server.on("error", listener)',
    "onError": 'for the event, call server.on("error", listener)',
    "path": "it is an argument of listen and run",
    "port": "it is an argument of listen and run",
    "sock": "it is an argument of listen and run",
}

# Names of other libraries (smtp-server, aiosmtpd, ssl), written without `_` -> ours.
OTHER_NAMES: Final = {
    "authcallback": "on_auth",
    "authenticator": "on_auth",
    "authexcludemechanism": "auth_methods",
    "authrequired": "auth_optional",
    "authrequiretls": "allow_insecure_auth",
    "cafile": "ca",
    "certfile": "cert",
    "certificate": "cert",
    "datasizelimit": "size",
    "enablesmtputf8": "hide_smtputf8",
    "hostname": "name",
    "ident": "banner",
    "keyfile": "key",
    "lenient": "lenient_address_parsing",
    "maxconnections": "max_clients",
    "maxmessagesize": "size",
    "maxmsgsize": "size",
    "maxsize": "size",
    "messagesizelimit": "size",
    "passphrase": "key_password",
    "privatekey": "key",
    "proxyprotocol": "use_proxy",
    "proxyprotocoltimeout": "proxy_timeout",
    "readtimeout": "socket_timeout",
    "requirestarttls": "needs_upgrade",
    "requiretls": "needs_upgrade",
    "securecontext": "ssl_context",
    "serverhostname": "name",
    "timeout": "socket_timeout",
    "tlscontext": "ssl_context",
    "useproxyprotocol": "use_proxy",
}
OTHER_HOOKS: Final = {
    "authenticate": "on_auth",
    "ehlo": "on_helo",
    "disconnect": "on_close",
    "login": "on_auth",
    "mail": "on_mail_from",
    "message": "on_data",
    "lhlo": "on_helo",
    "recipient": "on_rcpt_to",
    "sender": "on_mail_from",
    "starttls": "on_secure",
    "tls": "on_secure",
    "verify": "on_vrfy",
}
MAX_LENGTH: Final = 80  # characters of a name that are compared


def looks_like_hook(name: str) -> bool:
    """Whether `name` is written like that of a hook: `on_rcpt`, or `onRcptTo` as in JavaScript."""
    return re.match("on[_A-Z]", name) is not None


def nearest(word: str, known: Iterable[str], alike: float = ALIKE) -> str:
    """Return the one of `known` that `word` may have been meant to be, "" for none."""
    import difflib  # for an error at start: half a millisecond of every import

    return next(iter(difflib.get_close_matches(word[:MAX_LENGTH], list(known), 1, alike)), "")


def nearest_hook(name: str, hooks: Iterable[str]) -> str:
    """Return the hook that `name`, which looks like one, may have been meant to be, "" for none."""
    known = {_squashed(hook)[2:]: hook for hook in hooks}
    word = _squashed(name)[2:]
    return OTHER_HOOKS.get(word) or known.get(nearest(word, known, ALIKE_HOOKS), "")


def nearest_option(name: str, options: Iterable[str], hooks: Iterable[str]) -> str:
    """Return the option or hook that `name` may have been meant to be, "" for none."""
    if looks_like_hook(name):
        return nearest_hook(name, hooks)
    known = {_squashed(one): one for one in (*options, *hooks)}
    word = _squashed(name)
    return OTHER_NAMES.get(word) or known.get(nearest(word, known), "")


def _squashed(name: str) -> str:
    """Reduce a name to its letters: "maxClients" and "max-clients" become "maxclients"."""
    return re.sub(r"[-_ ]", "", name[:MAX_LENGTH]).lower()
