"""The table of all metrics: names, labels, where each is in `stats()`, and its cells in a tally.

All labels have a fixed list of values: nothing that a client sends becomes a name. Names follow
Prometheus: `fastsmtp_`, the thing, its base unit, `_total` for counters.
"""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Final, NamedTuple

from fastsmtp._counts.tally import SIZES, TIMES

__all__ = [
    "FAMILIES",
    "ASKED",
    "CODES",
    "HOOKS",
    "PROMISES",
    "STAGES",
    "USED",
    "Family",
    "Kind",
    "Merge",
    "cell",
    "code_slot",
    "stage_number",
]

NANO: Final = 1e-9


class Kind(Enum):
    """The type of a metric, as Prometheus has it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Merge(Enum):
    """How the gauges of several processes become one; MIN: of those that are ready."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


class Label(NamedTuple):
    """A label and all its values."""

    name: str
    values: tuple[str, ...]


class Family(NamedTuple):
    """One metric.

    path: its keys in `stats()`; the values of its labels are further keys below. scale: the value
    of one unit of a cell. bounds: of the buckets of a histogram. is_sparse: series that were never
    counted are left out.
    """

    name: str
    kind: Kind
    help: str
    path: tuple[str, ...]
    labels: tuple[Label, ...] = ()
    scale: float = 1
    bounds: tuple[float, ...] = ()
    merge: Merge = Merge.SUM
    is_sparse: bool = False

    @property
    def width(self) -> int:
        """How many cells one series has."""
        return len(self.bounds) + 2 if self.bounds else 1

    def series(self) -> list[tuple[str, ...]]:
        """Return the values of the labels of each series, in the order of the cells."""
        return list(itertools.product(*(label.values for label in self.labels)))


# Reply codes that are counted one by one: those of the engine, and those that RFCs define for
# refusals. Any other refusal of a hook is one of the last two.
CODES: Final = (
    *("214", "220", "221", "235", "250", "252", "334", "354"),
    *("421", "432", "450", "451", "452", "454", "455"),
    *("500", "501", "502", "503", "504", "521", "523", "524", "525", "530", "534", "535", "538"),
    *("541", "550", "551", "552", "553", "554", "555", "556"),
    *("other 4xx", "other 5xx"),
)
# What a reply is about. "idle": nothing was asked; the time is over or the server is closing.
STAGES: Final = (
    *("connect", "helo", "starttls", "auth", "mail", "rcpt", "data", "bdat", "message"),
    *("other", "idle"),
)
RESULTS: Final = ("accepted", "refused", "aborted")
MECHANISMS: Final = (
    *("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"),
    *("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "EXTERNAL"),
)
# Options whose limit has refused something; "timeout": one of those for the client.
LIMITS: Final = (
    "greet_delay",
    *("max_unrecognized_commands", "max_allowed_unauthenticated_commands", "max_errors"),
    *("max_junk_commands", "max_auth_failures", "max_recipients", "max_messages"),
    *("max_command_length", "size", "timeout"),
)
# The hooks whose answer a client waits for, and all.
ASKED: Final = (
    *("on_connect", "on_secure", "on_helo", "on_auth", "on_scram", "on_mail_from", "on_rcpt_to"),
    *("on_vrfy", "on_data"),
)
HOOKS: Final = (*ASKED, "on_close")
OUTCOMES: Final = (
    *("delivered", "full", "too_large", "refused", "unavailable", "unclear"),
    *("over_size", "aborted", "late"),
)
PROMISES: Final = ("memory", "quorum", "disk", "quorum_disk", "next_hop", "remote")
DRAINED: Final = ("delivered", "deferred", "refused", "damaged", "repeated")

_COUNTER: Final = Kind.COUNTER
_GAUGE: Final = Kind.GAUGE
_HISTOGRAM: Final = Kind.HISTOGRAM

FAMILIES: Final = (
    Family(
        "connections_total",
        _COUNTER,
        "Clients that have connected.",
        ("connections", "total"),
    ),
    Family(
        "open_connections",
        _GAUGE,
        "Clients that are connected, those that are refused included.",
        ("connections", "now"),
    ),
    Family(
        "connections_refused_total",
        _COUNTER,
        "Clients that were refused without a greeting.",
        ("connections", "refused"),
        (Label("limit", ("max_clients", "max_clients_per_host", "closing")),),
    ),
    Family(
        "messages_total",
        _COUNTER,
        "Messages by their final reply; aborted: without one.",
        ("messages",),
        (Label("result", RESULTS),),
    ),
    Family(
        "recipients_total",
        _COUNTER,
        "Recipients by the reply to RCPT.",
        ("recipients",),
        (Label("result", RESULTS[:2]),),
    ),
    Family(
        "received_bytes_total",
        _COUNTER,
        "Octets read from clients.",
        ("octets", "in"),
    ),
    Family(
        "sent_bytes_total",
        _COUNTER,
        "Octets written to clients.",
        ("octets", "out"),
    ),
    Family(
        "replies_total",
        _COUNTER,
        "Replies by what they are about and code.",
        ("replies",),
        (Label("stage", STAGES), Label("code", CODES)),
        is_sparse=True,
    ),
    Family(
        "tls_handshakes_total",
        _COUNTER,
        "Completed handshakes by version.",
        ("tls", "handshakes"),
        (Label("version", ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")),),
    ),
    Family(
        "tls_failures_total",
        _COUNTER,
        "Failures of TLS.",
        ("tls", "failures"),
    ),
    Family(
        "auth_total",
        _COUNTER,
        "Authentications by mechanism and result; failed: for now.",
        ("auth",),
        (Label("mechanism", MECHANISMS), Label("result", ("accepted", "refused", "failed"))),
        is_sparse=True,
    ),
    Family(
        "limits_total",
        _COUNTER,
        "How often the limit of an option has refused something.",
        ("limits",),
        (Label("limit", LIMITS),),
    ),
    Family(
        "hook_seconds",
        _HISTOGRAM,
        "Time that clients waited for a hook.",
        ("hooks", "seconds"),
        (Label("hook", ASKED),),
        scale=NANO,
        bounds=TIMES,
        is_sparse=True,
    ),
    Family(
        "hook_failures_total",
        _COUNTER,
        "Exceptions, timeouts and invalid answers of hooks.",
        ("hooks", "failures"),
        (Label("hook", HOOKS),),
    ),
    Family(
        "loop_lag_seconds",
        _HISTOGRAM,
        "How late the event loop was, looked at once a second.",
        ("loop", "lag"),
        scale=NANO,
        bounds=TIMES,
    ),
    Family(
        "loop_stalls_total",
        _COUNTER,
        "How often one call of a hook has held the event loop.",
        ("loop", "stalls"),
    ),
    Family(
        "ready",
        _GAUGE,
        "Processes that listen and are not closing.",
        ("process", "ready"),
    ),
    Family(
        "process_starts_total",
        _COUNTER,
        "Processes that have begun.",
        ("process", "starts"),
    ),
    Family(
        "start_time_seconds",
        _GAUGE,
        "When the oldest process began, in UNIX time.",
        ("process", "started"),
        scale=NANO,
        merge=Merge.MIN,
    ),
    Family(
        "delivery_seconds",
        _HISTOGRAM,
        "Time from the end of a message to its sink's answer.",
        ("delivery", "seconds"),
        scale=NANO,
        bounds=TIMES,
    ),
    Family(
        "delivery_batch_messages",
        _HISTOGRAM,
        "Messages that the sink has stored together.",
        ("delivery", "batch"),
        bounds=tuple(map(float, SIZES)),
    ),
    Family(
        "delivery_messages_total",
        _COUNTER,
        "Messages by what the sink has done with them.",
        ("delivery", "outcomes"),
        (Label("outcome", OUTCOMES),),
    ),
    Family(
        "delivery_in_flight_messages",
        _GAUGE,
        "Messages that arrive or wait for the sink.",
        ("delivery", "in_flight", "messages"),
    ),
    Family(
        "delivery_in_flight_bytes",
        _GAUGE,
        "Octets of memory that these messages hold.",
        ("delivery", "in_flight", "octets"),
    ),
    Family(
        "delivery_up",
        _GAUGE,
        "Whether the sink accepts messages.",
        ("delivery", "up"),
        merge=Merge.MIN,
    ),
    Family(
        "delivery_promise",
        _GAUGE,
        "What a 250 after a message means.",
        ("delivery", "promise"),
        (Label("promise", PROMISES),),
        merge=Merge.MAX,
        is_sparse=True,
    ),
    Family(
        "spool_messages",
        _GAUGE,
        "Messages in the spool.",
        ("spool", "messages"),
    ),
    Family(
        "spool_bytes",
        _GAUGE,
        "Octets of the spool on disk.",
        ("spool", "octets"),
    ),
    Family(
        "spool_quota_bytes",
        _GAUGE,
        "Octets that the spool may have on disk.",
        ("spool", "quota"),
    ),
    Family(
        "spool_oldest_seconds",
        _GAUGE,
        "Age of the oldest message in the spool.",
        ("spool", "oldest"),
        scale=NANO,
        merge=Merge.MAX,
    ),
    Family(
        "spool_drained_total",
        _COUNTER,
        "Messages by what draining has done with them.",
        ("spool", "drained"),
        (Label("outcome", DRAINED),),
    ),
    Family(
        "relay_connections",
        _GAUGE,
        "Connections to the next mail server.",
        ("relay", "connections"),
        (Label("state", ("idle", "in_use", "opening")),),
    ),
    Family(
        "relay_connections_opened_total",
        _COUNTER,
        "Connections to it that were opened.",
        ("relay", "opened"),
    ),
    Family(
        "relay_waiting_messages",
        _GAUGE,
        "Messages that wait for a connection, because all are in use.",
        ("relay", "waiting"),
    ),
    Family(
        "relay_waits_total",
        _COUNTER,
        "Messages that had to wait for a connection.",
        ("relay", "waits"),
    ),
    Family(
        "log_lines_total",
        _COUNTER,
        "Lines that were written to the log.",
        ("log", "lines"),
    ),
    Family(
        "log_lines_dropped_total",
        _COUNTER,
        "Lines that the log had no room for.",
        ("log", "dropped"),
    ),
    Family(
        "workers",
        _GAUGE,
        "Worker processes that run.",
        ("workers", "now"),
    ),
    Family(
        "worker_restarts_total",
        _COUNTER,
        "Worker processes that were started again.",
        ("workers", "restarts"),
    ),
)

_STARTS: Final = dict(
    zip(
        [each.name for each in FAMILIES],
        itertools.accumulate([0, *(len(each.series()) * each.width for each in FAMILIES)]),
        strict=False,
    )
)
_FAMILIES: Final = {each.name: each for each in FAMILIES}
# How many cells the table has.
USED: Final = sum(len(each.series()) * each.width for each in FAMILIES)
_CODE_SLOTS: Final = {int(code): slot for slot, code in enumerate(CODES) if code.isdigit()}


def cell(name: str, *labels: str) -> int:
    """Return the first cell of a series. Raises KeyError and ValueError for one that is not in the
    table; labels that are missing at the end stand for their first value.
    """
    found = _FAMILIES[name]
    position = 0
    for number, label in enumerate(found.labels):
        position *= len(label.values)
        if number < len(labels):
            position += label.values.index(labels[number])
    return _STARTS[name] + position * found.width


def stage_number(stage: str) -> int:
    """Return the position of a stage in the table. Raises ValueError."""
    return STAGES.index(stage)


def code_slot(code: int) -> int:
    """Return the position of a reply code among those that are counted."""
    slot = _CODE_SLOTS.get(code)
    return len(CODES) - (2 if code < 500 else 1) if slot is None else slot
