"""The schema: a row for each key, with its kind of value, its default and what it does.

The flag, the variable of the environment and the key of the file have one name: `--spool-quota`,
`FASTSMTP_SPOOL_QUOTA`, `spool_quota`. Rows of engine options are made of the engine's own table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from fastsmtp.gateway.config import sinks, tables, values
from fastsmtp.gateway.config.engine import ENGINE_KINDS
from fastsmtp.gateway.config.listeners import DEFAULT_LISTEN
from fastsmtp.gateway.config.values import ValueKind
from fastsmtp.options import OPTIONS, Option

__all__ = ["ENVIRONMENT", "SCHEMA", "Setting"]

ENVIRONMENT: Final = "FASTSMTP_"  # begins every variable

# Titles of groups, which stand in the order of the example file and of --help.
_LISTENING: Final = "Listening"
_RECIPIENTS: Final = "Recipients"
_DELIVERY: Final = "Delivery"
_USERS: Final = "Users"
_PROCESSES: Final = "Processes"
_LOG: Final = "Log"
_ADMIN: Final = "Metrics and state"
_TLS: Final = OPTIONS["cert"].group.value
# The engine's title -> ours, where it differs.
_TITLES: Final = {"Authentication": _USERS}
# Defaults of the engine that are easier to read in another form.
_DEFAULTS: Final[Mapping[str, Any]] = {"size": "25M"}
# What stands for a value in --help, if its row does not say it.
_USUAL_WORDS: Final = {int: "NUMBER", float: "NUMBER"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row. default: as in a file; empty text stands for "none".

    does: a sentence. note: the default in words, where the value does not say it. flag: "" for
    none; repeated for the items of a list. word: what stands for the value in --help. short: a
    second flag of one letter. in_options: the checked value is an engine option, given to each
    server. for_applications: it is used for applications too. reloads: SIGHUP applies a change
    without a restart.
    """

    key: str
    group: str
    kind: ValueKind
    default: Any
    does: str
    note: str = ""
    flag: str = ""
    word: str = ""
    short: str = ""
    in_options: bool = False
    for_applications: bool = False
    reloads: bool = False

    @property
    def variable(self) -> str:
        """The name of its variable in the environment."""
        return ENVIRONMENT + self.key.upper()

    @property
    def shown_default(self) -> str:
        """The default as it is typed, "" for none."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        items = self.default if isinstance(self.default, list) else [self.default]
        return ", ".join(str(item) for item in items if item != {})


def _flag_of(key: str) -> str:
    return "--" + key.replace("_", "-")


def _row(group: str, key: str, kind: ValueKind, default: Any, does: str, **more: Any) -> Setting:
    usual = {"flag": _flag_of(key), "word": _USUAL_WORDS.get(kind.type, "TEXT")}
    return Setting(key, group, kind, default, does, **(usual | more))


# A table: one row for each key of the gateway itself.
# fmt: off
_OWN_ROWS: Final = (
    _row(_LISTENING, "application", values.TEXT, "",
        "Serves this program, module:attribute, in place of the gateway.",
        flag="", for_applications=True),
    _row(_LISTENING, "listen", tables.LISTEN, [DEFAULT_LISTEN],
        "Where to listen: host:port, [v6]:port, port, smtps://host, submission://host, "
        "lmtp:host:port, lmtp:/path, smtp:/path.",
        word="ADDRESS", for_applications=True),
    _row(_RECIPIENTS, "domains", values.DOMAINS, [],
        "Accepts mail for these domains. Without domains and recipients, mail for all.",
        flag="--domain", word="DOMAIN"),
    _row(_RECIPIENTS, "recipients", values.RULES, [],
        "Accepts mail for these: anne@example.org, sales-*@example.org, *.example.org, * for all.",
        flag="--recipient", word="RULE"),
    _row(_RECIPIENTS, "discard", values.RULES, [],
        "Accepts mail for these, and drops it; only the log has a line about it.", word="RULE"),
    _row(_RECIPIENTS, "reject", values.RULES, [],
        "Refuses mail for these. The most specific of all rules decides.", word="RULE"),
    _row(_DELIVERY, "deliver", sinks.DELIVER, "",
        "Where mail goes, if not into a Maildir.", word="URL"),
    _row(_DELIVERY, "maildir", values.DIRECTORY, "./mail",
        "The Maildir for the mail, as deliver with maildir:DIRECTORY; created if it does not"
        " exist.", word="DIRECTORY"),
    _row(_DELIVERY, "require", values.PROMISE, "disk",
        "Refuses to start if a 250 would mean less.", word="PROMISE"),
    _row(_DELIVERY, "on_unavailable", sinks.ON_UNAVAILABLE, "refuse",
        "What becomes of mail while another machine does not take it. With spool, mail goes into"
        " the spool only then.", word="WORD"),
    _row(_DELIVERY, "handoff_deadline", values.SECONDS, 30,
        "Seconds in which a message is handed over to another machine, then its client gets 451.",
        word="SECONDS"),
    *(_row(_DELIVERY, name, tables.table_of(table.keys), {}, table.does, word="KEY=VALUE")
        for name, table in sinks.TABLES.items()),
    _row(_DELIVERY, "spool", values.FOLDER, "",
        "Takes mail into a spool in this directory, and delivers it from there.",
        word="DIRECTORY"),
    _row(_DELIVERY, "spool_quota", values.QUOTA, "8G",
        "Octets that the spool may hold; beyond it mail is refused for now.", word="SIZE"),
    _row(_USERS, "users", values.FILE, "",
        "Who may log in, on smtps:// and submission://; see fastsmtp passwd.",
        word="FILE", reloads=True),
    _row(_USERS, "auth_methods", values.MECHANISMS, ["PLAIN", "LOGIN"],
        "Offers these mechanisms to users, in this order.", word="NAME"),
    _row(_TLS, "cert", values.FILE, "",
        "The certificate, PEM, followed by its chain.", word="FILE", reloads=True),
    _row(_TLS, "key", values.FILE, "",
        "Its private key, if it is not in the same file.", word="FILE", reloads=True),
    _row(_TLS, "key_password", values.SECRET, "",
        "Decrypts the key. There is no flag: every user of the machine could read it.",
        flag="", reloads=True),
    _row(_TLS, "certificates", tables.CERTIFICATES, {},
        "Certificates for further server names (SNI), *.example.org included.",
        flag="--certificate", word="NAME=CERT:KEY", reloads=True),
    _row(_TLS, "client_ca", values.FILE, "",
        "Asks clients for a certificate, and verifies it with these authorities.",
        word="FILE", reloads=True),
    _row(_TLS, "reject_unauthorized", values.FLAG, False,
        "With client_ca: no connection without a certificate that it has signed.",
        reloads=True),
    _row("Limits", "max_clients", values.NUMBER, 0,
        "Connections of a process at the same time; the next one gets 421.",
        note="as many as the limit on open files allows"),
    _row(_PROCESSES, "workers", values.WORKERS, 0,
        "Serves in so many processes, 'auto': one for each core. 0: in one, without a parent.",
        word="NUMBER", for_applications=True),
    _row(_PROCESSES, "steer_clients", values.FLAG, True,
        "Gives all connections of one address to one worker, so that limits per client hold.",
        for_applications=True),
    _row(_PROCESSES, "user", values.NAME, "",
        "Changes from root to this user when it listens.", word="NAME", for_applications=True),
    _row(_PROCESSES, "group", values.NAME, "",
        "Changes to this group; without it, to that of the user.",
        word="NAME", for_applications=True),
    _row(_PROCESSES, "umask", values.UMASK, "",
        "The umask, which decides who may connect to UNIX sockets.",
        note="that of the process", word="OCTAL", for_applications=True),
    _row(_PROCESSES, "stay_root", values.FLAG, False,
        "Allows serving as root.", for_applications=True),
    _row(_PROCESSES, "reload", values.FLAG, False,
        "Restarts the application when a file has changed.", for_applications=True),
    _row(_LOG, "verbose", values.FLAG, False,
        "Logs connections and refusals, and shows tracebacks, too.",
        short="-v", for_applications=True),
    _row(_LOG, "log_format", values.LOG_FORMAT, "text",
        "The form of the log: text, logfmt or json.", word="FORM", for_applications=True),
    _row(_LOG, "log_file", values.FILE, "",
        "Writes the log to this file, which SIGHUP opens again.",
        note="stdout and stderr", word="FILE", for_applications=True),
    _row(_LOG, "trace", values.NETWORKS, [],
        "Logs what clients in these networks send and get, without secrets and mail.",
        word="NETWORK", for_applications=True, reloads=True),
    _row(_ADMIN, "admin", values.ADMIN, "",
        "Shows metrics and the state of the service by HTTP here.",
        word="ADDRESS", for_applications=True),
    _row(_ADMIN, "admin_public", values.FLAG, False,
        "Allows an admin address that other machines can reach.", for_applications=True),
)
# fmt: on


def _in_groups(*rows: Iterable[Setting]) -> list[Setting]:
    """Return all rows, those of one group together, groups in the order of their first row."""
    groups: dict[str, list[Setting]] = {}
    for row in itertools.chain(*rows):
        groups.setdefault(row.group, []).append(row)
    return list(itertools.chain(*groups.values()))


def _engine_rows() -> Iterator[Setting]:
    for name, kind in ENGINE_KINDS.items():
        option = OPTIONS[name]
        yield _row(
            _TITLES.get(option.group.value, option.group.value),
            name,
            kind,
            _default_of(option, kind),
            option.does,
            note=option.default_text if option.default_text[:4] == "the " else "",
            in_options=True,
            reloads=name in tables.TLS_OPTIONS,
        )


def _default_of(option: Option, kind: ValueKind) -> Any:
    """Return the default as it is written in a file, where nothing is None."""
    if option.name in _DEFAULTS:
        return _DEFAULTS[option.name]
    if kind.is_list:
        return list(option.default or ())  # type: ignore[call-overload]  # a tuple, or False
    if option.default is None:
        return 0 if kind.type is int else ""
    return option.default


SCHEMA: Final[Mapping[str, Setting]] = MappingProxyType(
    {row.key: row for row in _in_groups(_OWN_ROWS, _engine_rows())}
)
