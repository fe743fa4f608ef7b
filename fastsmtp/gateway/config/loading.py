"""`load`: a `Config` of the file, the environment and the flags; the later ones weigh more.

Every value is checked where it stands, also one that a heavier one hides. Raised: `ConfigError`
with one line: where the value is from, its key, what was found, and what it takes.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fastsmtp.gateway.config.engine import EXCLUDED
from fastsmtp.gateway.config.errors import ConfigError
from fastsmtp.gateway.config.listeners import HOST, Kind, Listener
from fastsmtp.gateway.config.model import Config
from fastsmtp.gateway.config.names import nearest
from fastsmtp.gateway.config.schema import ENVIRONMENT, SCHEMA, Setting
from fastsmtp.gateway.config.sinks import TABLES, Target
from fastsmtp.gateway.config.tables import unknown_key
from fastsmtp.gateway.config.toml_file import ConfigFile, find_file, read_file
from fastsmtp.gateway.config.values import FILE, FOLDER, WrongValue, check_type, listed
from fastsmtp.options import OPTIONS, parse_options

__all__ = ["CONFIG_VARIABLE", "Loaded", "load"]

CONFIG_VARIABLE: Final = f"{ENVIRONMENT}CONFIG"  # names the file
DEFAULT: Final = "default"  # the origin of values that are not given
DATA_HOOK_TIMEOUT: Final[float] = OPTIONS["data_hook_timeout"].default  # type: ignore[assignment]

# What Kubernetes sets in each container for a service with our name.
_OF_KUBERNETES: Final = re.compile(
    rf"{ENVIRONMENT}(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)"
)


class Given(NamedTuple):
    """One value. value: as in a file. name: how messages name it. origin: where it is from."""

    value: Any
    checked: Any
    name: str
    origin: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and where it is from.

    values: each key -> its value, as in a file. origins: each key -> "flag --size", "environment
    FASTSMTP_SIZE", "/etc/fastsmtp/fastsmtp.toml line 12" or "default". file: the path of the file
    that was read, "" for none.
    """

    config: Config
    values: Mapping[str, Any] = field(repr=False)
    origins: Mapping[str, str] = field(repr=False)
    file: str
    _flags: Mapping[str, Any] = field(repr=False)
    _environ: Mapping[str, str] = field(repr=False)
    _path: str | None

    def again(self) -> Loaded:
        """Read the same sources again. Blocks; raises ConfigError."""
        return load(self._flags, self._environ, self._path)

    def changed(self, later: Loaded) -> tuple[str, ...]:
        """Return the keys that have another value in `later`."""
        return tuple(key for key, value in self.values.items() if later.values[key] != value)


def load(flags: Mapping[str, Any], environ: Mapping[str, str], path: str | None = None) -> Loaded:
    """Load the configuration. Raises ConfigError.

    flags: the given ones, key -> text, list of texts, or bool. environ: variables; others than ours
    are ignored. path: the file; None: that of FASTSMTP_CONFIG, else the first default that exists.
    """
    try:
        return _loaded(flags, environ, path)
    except OSError as error:  # of os.getcwd(), which paths that are not absolute need
        raise ConfigError(
            f"the working directory cannot be used: {error.strerror}: start in another one"
        ) from error


def _loaded(flags: Mapping[str, Any], environ: Mapping[str, str], path: str | None) -> Loaded:
    given = _of_flags(flags)
    of_environment = _of_environment(environ)
    is_program = "application" in given or "application" in of_environment
    file = _file_of(environ, path, is_program=is_program)
    given = {**(_of_file(file) if file else {}), **of_environment, **given}
    values = {key: given[key].value if key in given else row.default for key, row in SCHEMA.items()}
    return Loaded(
        config=_config(given),
        values=MappingProxyType(values),
        origins=MappingProxyType(
            {key: given[key].origin if key in given else DEFAULT for key in SCHEMA}
        ),
        file="" if file is None else file.path,
        _flags=MappingProxyType(dict(flags)),
        _environ=MappingProxyType(dict(environ)),
        _path=path,
    )


# --- the three sources ---


def _file_of(
    environ: Mapping[str, str], path: str | None, *, is_program: bool
) -> ConfigFile | None:
    if path is None:
        path = environ.get(CONFIG_VARIABLE)
    if path is None:
        # The file in /etc is for the gateway of this machine, not for every program.
        path = find_file(local_only=is_program)
        return read_file(path) if path else None
    return read_file(path)


def _of_file(file: ConfigFile) -> dict[str, Given]:
    given = {}
    for key, value in file.values.items():
        row = SCHEMA.get(key)
        if row is None:
            raise ConfigError(f"{file.place(key)}: {unknown_key(key, SCHEMA)}")
        try:
            value = check_type(row.kind, value)
            checked = row.kind.check(value)
        except WrongValue as error:
            raise ConfigError(f"{file.place(key, *error.path)}: {key}: {error}") from None
        except ValueError as error:
            raise ConfigError(f"{file.place(key)}: {key}: {error}") from None
        if file.is_open and row.kind.has_secret(value):
            raise ConfigError(f"{file.path} has {key}, and every user can read it: chmod o-r it")
        place = file.place(key)
        given[key] = Given(value, checked, f"{place}: {key}", place)
    return given


def _of_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    rows = {row.variable: row for row in SCHEMA.values()}
    given = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT) or variable == CONFIG_VARIABLE:
            continue
        row = rows.get(variable)
        if row is not None:
            texts = listed(text) if row.kind.is_list else text
            origin = f"environment {variable}"
            given[row.key] = _of_texts(row, texts, variable, origin)
        elif not _OF_KUBERNETES.fullmatch(variable):
            raise ConfigError(f"{variable}: {_unknown_variable(variable)}")
    return given


def _unknown_variable(variable: str) -> str:
    key = variable.removeprefix(ENVIRONMENT).lower()
    if key in EXCLUDED:
        return unknown_key(key, SCHEMA)
    near = nearest(key, SCHEMA)
    return "there is no such variable" + (
        f", did you mean {SCHEMA[near].variable}?" if near else ""
    )


def _of_flags(flags: Mapping[str, Any]) -> dict[str, Given]:
    given = {}
    for key, texts in flags.items():
        row = SCHEMA[key]
        if row.kind.is_list:
            texts = [] if list(texts) == [""] else list(texts)
        name = row.flag or key.upper()
        if row.kind in (FILE, FOLDER) and texts == "":  # a variable of a shell that is not set
            raise ConfigError(f"{name}: a path is needed")
        found = _of_texts(row, texts, name, f"flag {name}")
        if row.kind.has_secret(found.value):
            raise ConfigError(
                f"{name}: every user of this machine can read the flags of a process:"
                f" set a secret in the file, or as {row.variable}"
            )
        given[key] = found
    return given


def _of_texts(row: Setting, texts: Any, name: str, origin: str) -> Given:
    try:
        value = texts if isinstance(texts, bool) else row.kind.from_text(texts)
        value = check_type(row.kind, value)
        return Given(value, row.kind.check(value), name, origin)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None


# --- all values together ---


def _config(given: Mapping[str, Given]) -> Config:
    checked = {
        key: given[key].checked if key in given else row.kind.check(row.default)
        for key, row in SCHEMA.items()
    }
    options = {
        key: value
        for key, value in checked.items()
        if SCHEMA[key].in_options and key in given and value is not None
    }
    fields = {key: value for key, value in checked.items() if not SCHEMA[key].in_options}
    listeners: tuple[Listener, ...] = fields.pop("listen")
    tables = {name: fields.pop(name) for name in TABLES}
    deliver: Target | None = fields.pop("deliver")
    maildir: str = fields.pop("maildir")
    if deliver is not None and "maildir" in given:
        raise ConfigError(f"{given['deliver'].name}: maildir is given too, leave one of them out")
    if deliver is None:
        deliver = Target("maildir", f"maildir:{maildir}", maildir)
    config = Config(
        **fields,
        deliver=deliver,
        maildir=deliver.path,
        tables=MappingProxyType(tables),
        listeners=() if fields["application"] and "listen" not in given else listeners,
        name=options.pop("name", None) or _own_name(),
        options=MappingProxyType(options),
    )
    for key, message in _contradictions(config, given):
        raise ConfigError(f"{given[key].name if key in given else key}: {message}")
    return config


def _own_name() -> str:
    """Return our host name, or "localhost" when the host has no usable name."""
    name = socket.gethostname()
    return name if HOST.fullmatch(name) else "localhost"


def _contradictions(config: Config, given: Mapping[str, Given]) -> Iterator[tuple[str, str]]:
    """Yield key and message of what does not go together."""
    if config.admin is not None and config.admin.is_public and not config.admin_public:
        yield "admin", f"other machines can reach {config.admin}: admin_public must allow that"
    if config.group and not config.user:
        yield "group", "it needs user"
    if config.stay_root and config.user:
        yield "stay_root", f"the user is {config.user}: leave one of them out"
    if config.application:
        for key in given:
            if not SCHEMA[key].for_applications:
                yield key, f"it is for the gateway, not for {config.application}"
        if any(listener.options for listener in config.listeners):
            yield "listen", f"{config.application} has the options of its listeners itself"
        return
    if config.reload:
        yield "reload", "there is nothing to reload without an application"
    for listener in config.listeners:
        if listener.kind is Kind.SUBMISSION and not config.users:
            yield "listen", f"{listener} needs users: otherwise no client can log in"
        yield from _wrong_options(config, listener)
    for key, needed in (
        ("key", "cert"),
        ("key_password", "cert"),
        ("certificates", "cert"),
        ("reject_unauthorized", "client_ca"),
    ):
        if getattr(config, key) and not getattr(config, needed):
            yield key, f"it needs {needed}"
    yield from _rules_of_two_kinds(config)
    yield from _of_delivery(config)


def _of_delivery(config: Config) -> Iterator[tuple[str, str]]:
    if config.maildir and config.spool == config.maildir:
        yield "spool", "it cannot be the Maildir, give it a directory of its own"
    if config.on_unavailable == "spool" and not config.spool:
        yield "on_unavailable", "it needs spool, a directory"
    if config.on_unavailable == "spool" and config.maildir:
        yield "on_unavailable", "mail goes into a Maildir of this machine: leave it out"
    for name, table in TABLES.items():
        if config.tables[name] and config.deliver.sink not in table.sinks:
            yield name, f"it is for deliver with {table.schemes}, and mail goes to {config.deliver}"
    if config.maildir:
        return
    limit: float = config.options.get("data_hook_timeout", DATA_HOOK_TIMEOUT)
    if 0 < limit <= config.handoff_deadline:
        yield "handoff_deadline", f"it must be below data_hook_timeout, which is {limit:g} seconds"


def _rules_of_two_kinds(config: Config) -> Iterator[tuple[str, str]]:
    found = dict.fromkeys((f"*@{domain}" for domain in config.domains), "domains")
    for key in ("recipients", "discard", "reject"):
        for rule in sorted(getattr(config, key)):
            other = found.setdefault(rule, key)
            if key != other and (key, other) != ("recipients", "domains"):
                yield key, f"{rule} is one of {other} too"


def _wrong_options(config: Config, listener: Listener) -> Iterator[tuple[str, str]]:
    """Yield what the engine says about options that exclude each other."""
    try:
        parse_options({**config.options, **listener.options, "lmtp": listener.kind is Kind.LMTP})
    except ValueError as error:
        yield "listen", f"{listener}: {error}"
