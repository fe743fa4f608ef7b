"""The keys whose values have keys of their own: `listen`, `certificates`, and the tables of sinks.

[[listen]]                        [certificates."mail.example.org"]
address = "10.0.0.1:25"           cert = "/etc/fastsmtp/mail.pem"
use_proxy = ["10.0.0.0/8"]        key = "/etc/fastsmtp/mail.key"
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from fastsmtp.gateway.config.domains import parse_domain
from fastsmtp.gateway.config.engine import ELSEWHERE, ENGINE_KINDS, EXCLUDED
from fastsmtp.gateway.config.listeners import Listener, check_distinct, parse_listener
from fastsmtp.gateway.config.names import nearest
from fastsmtp.gateway.config.values import (
    FILE,
    SECRET,
    ValueKind,
    WrongValue,
    check_type,
    each_of,
)
from fastsmtp.options import OPTIONS

__all__ = ["CERTIFICATES", "LISTEN", "TLS_OPTIONS", "table_of", "unknown_key"]

_ADDRESS: Final = "address"
# The options of TLS that are not key material.
TLS_OPTIONS: Final = tuple(
    name for name in ENGINE_KINDS if OPTIONS[name].group is OPTIONS["cert"].group
)
_OF_CERTIFICATE: Final[Mapping[str, ValueKind]] = {
    "cert": FILE,
    "key": FILE,
    "key_password": SECRET,
    **{name: ENGINE_KINDS[name] for name in TLS_OPTIONS},
}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the message for a key that does not exist."""
    unknown = f"there is no key {key!r:.80}"
    if key in EXCLUDED:
        return f"{key} cannot be set: {EXCLUDED[key]}"
    if key in ELSEWHERE:
        return f"{unknown}: it is part of {ELSEWHERE[key]}"
    near = nearest(key, known)
    return f"{unknown}, did you mean {near}?" if near else unknown


def _checked(table: Mapping[str, Any], kinds: Mapping[str, ValueKind]) -> dict[str, Any]:
    """Return the checked values of a table; an error names its key."""
    found = {}
    for key, value in table.items():
        kind = kinds.get(key)
        if kind is None:
            raise WrongValue(unknown_key(key, kinds), (key,))
        try:
            found[key] = kind.check(check_type(kind, value))
        except WrongValue as error:
            raise WrongValue(f"{key}: {error}", (key, *error.path)) from None
    return found


# --- listen ---


def _listener(item: str | dict[str, Any]) -> Listener:
    if isinstance(item, str):
        return parse_listener(item)
    table = dict(item)
    address = table.pop(_ADDRESS, None)
    if not isinstance(address, str):
        raise WrongValue(f"it needs {_ADDRESS}, as in {_ADDRESS} = '0.0.0.0:25'")
    listener = parse_listener(address)
    return replace(listener, options=MappingProxyType(_checked(table, ENGINE_KINDS)))


def _listeners(value: list[Any]) -> tuple[Listener, ...]:
    listeners = tuple(each_of(value, _listener))
    if not listeners:
        raise WrongValue("at least one address is needed")
    try:
        check_distinct(listeners)
    except ValueError as error:
        raise WrongValue(str(error)) from None
    return listeners


LISTEN: Final = ValueKind(
    "a list of addresses, or of tables with an address and options of this listener alone",
    list[str | dict[str, Any]],
    _listeners,
    is_list=True,
)


# --- certificates ---


def _certificates(value: dict[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for name, table in value.items():
        try:
            key = _server_name(name)
            if not isinstance(table, Mapping):
                raise WrongValue("it takes a table with cert and key")
            if key in found:
                raise WrongValue("it is given twice")
            found[key] = MappingProxyType(_certificate(table))
        except WrongValue as error:
            raise WrongValue(f"{name!r:.80}: {error}", (name, *error.path)) from None
    return MappingProxyType(found)


def _server_name(name: str) -> str:
    """Return a name in the form in which clients send it (RFC 6066 §3)."""
    wildcard = "*." if name.startswith("*.") else ""
    try:
        key = parse_domain(name.removeprefix(wildcard))
    except ValueError as error:
        raise WrongValue(str(error)) from None
    if key.startswith("["):
        raise WrongValue("clients send names, never addresses")
    return wildcard + key


def _certificate(table: Mapping[str, Any]) -> dict[str, Any]:
    found = _checked(table, _OF_CERTIFICATE)
    if not found.get("cert"):
        raise WrongValue("it needs cert, the file of the certificate")
    return {key: value for key, value in found.items() if value != ""}


def _certificates_of(texts: list[str]) -> Any:
    """Read `NAME=CERT` and `NAME=CERT:KEY`."""
    tables: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, files = text.partition("=")
        if not equals or name in tables:
            return texts  # of a wrong type, which is refused
        cert, _, key = files.partition(":")
        tables[name] = {"cert": cert, "key": key} if key else {"cert": cert}
    return tables


def _masked_certificates(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _masked(table, _OF_CERTIFICATE) for name, table in value.items()}


CERTIFICATES: Final = ValueKind(
    "a table with a cert for each server name; in the environment and in flags NAME=CERT:KEY",
    dict[str, Any],
    _certificates,
    _certificates_of,
    is_list=True,
    mask=_masked_certificates,
)


# --- tables of sinks ---


def table_of(kinds: Mapping[str, ValueKind]) -> ValueKind:
    """Return the kind of a table with these keys. In the environment and in flags it is KEY=VALUE,
    once for each key, and for each item of a list.
    """

    def from_texts(texts: list[str]) -> Any:
        table: dict[str, Any] = {}
        lists: dict[str, list[str]] = {}
        for text in texts:
            key, equals, value = text.partition("=")
            kind = kinds.get(key)
            if not equals or key in table:
                return texts  # of a wrong type, which is refused
            if kind is not None and kind.is_list:
                lists.setdefault(key, []).append(value)
            else:
                table[key] = value if kind is None else kind.from_text(value)
        return table | {key: kinds[key].from_text(items) for key, items in lists.items()}

    return ValueKind(
        "a table; in the environment and in flags KEY=VALUE",
        dict[str, Any],
        lambda table: MappingProxyType(_checked(table, kinds)),
        from_texts,
        is_list=True,
        mask=lambda table: _masked(table, kinds),
    )


def _masked(table: Any, kinds: Mapping[str, ValueKind]) -> Any:
    if not isinstance(table, Mapping):
        return table
    return {key: kinds[key].mask(it) if key in kinds else it for key, it in table.items()}
