"""What the configuration of a stream and its servers means for a message that they acknowledge.

In: the answers of the servers. Out: `Facts`, or a ValueError that names the setting to change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from fastsmtp.delivery.promise import Promise

__all__ = ["HEADERS", "Facts", "facts_of", "lost_quorum"]

NANOSECONDS: Final = 1e9
QUORUM: Final = 3  # copies, of which one may be lost
# Octets of a message that its envelope and the headers of NATS may take.
ENVELOPE: Final = 64 * 1024
HEADERS: Final = 512  # octets of them that NATS counts
# Octets of a message that must fit: smaller limits are a mistake.
LEAST: Final = 2 * ENVELOPE
# Seconds without a word of a copy, after which it is taken for lost; it says one every second.
SILENCE: Final = 5.0

Settings = Mapping[str, Any]


class Facts(NamedTuple):
    """What was found. promise: of an acknowledged message. remark: what would make it stronger, "".
    subject: that messages are published to. max_octets: of a record. is_atomic: several messages
    can be stored as one.
    """

    promise: Promise
    remark: str
    subject: str
    max_octets: int
    is_atomic: bool

    @property
    def max_body(self) -> int:
        """Octets of a body whose record fits."""
        return self.max_octets - ENVELOPE


def facts_of(
    info: Mapping[str, Any],
    subject: str,
    *,
    deadline: float,
    max_payload: int,
    synced: Collection[str] | None,
) -> Facts:
    """Return what is true of a stream. Raises ValueError for a stream that would lose mail.

    info: the answer to STREAM.INFO. subject: "" for that of the stream. deadline: seconds in which
    a message is sent again. max_payload: of the servers. synced: names of the servers that sync
    each message before they acknowledge it, None: all of them do.
    """
    config: Settings = info["config"]
    name = config["name"]
    for fault in _FAULTS:
        if text := fault(config):
            raise ValueError(f"stream {name}: {text}")
    window = config.get("duplicate_window", 0) / NANOSECONDS
    if window < deadline:
        raise ValueError(
            f"stream {name}: duplicate_window is {window:g} s, and a message may be sent again for "
            f"{deadline:g} s (handoff_deadline): make it longer than that"
        )
    promise, remark = _promise(info, synced)
    return Facts(
        promise,
        remark,
        _subject(config, subject),
        _max_octets(config, max_payload),
        bool(config.get("allow_atomic")),
    )


def lost_quorum(info: Mapping[str, Any]) -> bool:
    """Whether a stream has a leader with too few copies around it, or none."""
    cluster = info.get("cluster")
    if not cluster:
        return False  # a single server
    others = cluster.get("replicas") or []
    alive = [
        other
        for other in others
        if not other.get("offline") and other.get("active", 0) < SILENCE * NANOSECONDS
    ]
    return not cluster.get("leader") or len(alive) < (len(others) + 1) // 2


def _storage(config: Settings) -> str:
    if config.get("storage") != "file":
        return "storage is memory, which servers lose when they end: use file"
    if config.get("persist_mode") == "async":
        return "persist_mode is async: messages are acknowledged before they are stored"
    return ""


def _acknowledges(config: Settings) -> str:
    if config.get("no_ack"):
        return "no_ack is set: messages are not acknowledged"
    if config.get("mirror"):
        return "it is a mirror, which takes no messages: name the stream that it copies"
    if config.get("sealed"):
        return "it is sealed, and takes no messages"
    return ""


def _keeps(config: Settings) -> str:
    if config.get("retention") == "interest":
        return (
            "retention is interest: a message is dropped while no consumer exists: use limits or "
            "workqueue"
        )
    if config.get("max_age", 0) > 0:
        return "max_age drops messages that no consumer has seen: remove it"
    limits = [key for key in _LIMITS if config.get(key, -1) > 0]
    if limits and config.get("discard", "old") == "old":
        return f"discard is old: with {limits[0]} it drops the oldest mail: use discard new"
    if limits == ["max_msgs_per_subject"] and not config.get("discard_new_per_subject"):
        return (
            "max_msgs_per_subject drops the oldest mail of the subject: remove it, or set "
            "discard_new_per_subject"
        )
    return ""


_LIMITS: Final = ("max_msgs", "max_bytes", "max_msgs_per_subject")
_FAULTS: Final[tuple[Callable[[Settings], str], ...]] = (_storage, _acknowledges, _keeps)


def _subject(config: Settings, subject: str) -> str:
    """Return the subject for messages; raises ValueError for one that is not the stream's."""
    of_stream: list[str] = config.get("subjects") or []
    if not subject:
        if len(of_stream) == 1 and not any(sign in of_stream[0] for sign in "*>"):
            return of_stream[0]
        raise ValueError(
            f"subject: name one, for stream {config['name']} has {', '.join(of_stream) or 'none'}"
        )
    if not any(_covers(pattern.split("."), subject.split(".")) for pattern in of_stream):
        raise ValueError(
            f"subject: {subject} is not one of stream {config['name']}, which has "
            f"{', '.join(of_stream) or 'none'}"
        )
    return subject


def _covers(pattern: list[str], subject: list[str]) -> bool:
    for number, part in enumerate(pattern):
        if part == ">":
            return len(subject) > number
        if number >= len(subject) or part not in ("*", subject[number]):
            return False
    return len(pattern) == len(subject)


def _max_octets(config: Settings, max_payload: int) -> int:
    """Return the largest record; raises ValueError if hardly any message would fit."""
    limits = {"max_payload of the servers": max_payload}
    if config.get("max_msg_size", -1) > 0:
        limits[f"max_msg_size of stream {config['name']}"] = config["max_msg_size"]
    setting = min(limits, key=lambda each: limits[each])
    if limits[setting] < LEAST:
        raise ValueError(
            f"{setting} is {limits[setting]}, too small for mail: set it to {LEAST} or more"
        )
    return limits[setting] - HEADERS


def _promise(info: Mapping[str, Any], synced: Collection[str] | None) -> tuple[Promise, str]:
    """Return what an acknowledgement promises, and what would make it more."""
    config, cluster = info["config"], info.get("cluster") or {}
    name, copies = config["name"], config.get("num_replicas", 1)
    servers = [replica["name"] for replica in cluster.get("replicas") or []]
    if cluster.get("leader"):
        servers.append(cluster["leader"])
    # A single server does not say its name here.
    unsynced = [] if synced is None else [each for each in servers if each not in synced]
    is_synced = synced is None or bool(synced and not unsynced)
    remarks = []
    if not is_synced:
        remarks.append(
            f"sync_interval of {', '.join(unsynced) or 'the server'} is not always, or not known: "
            "set it there, and sync or monitor here"
        )
    if copies < QUORUM:
        remarks.append(f"num_replicas of stream {name} is {copies}")
    return _PROMISES[copies >= QUORUM, is_synced], "; ".join(remarks)


_PROMISES: Final = {
    (False, False): Promise.MEMORY,
    (False, True): Promise.DISK,
    (True, False): Promise.QUORUM,
    (True, True): Promise.QUORUM_DISK,
}
