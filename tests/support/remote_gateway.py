"""`fastsmtp` with one more destination, the scripted server of `remote_kit`:
`--deliver remote://127.0.0.1:PORT`, with `?promise=WORD` for what it promises.
"""

from __future__ import annotations

import sys
from urllib.parse import parse_qs, urlsplit

from remote_kit import ScriptedSink

from fastsmtp.delivery import Promise, Sink
from fastsmtp.delivery.handoff import availability, dispatcher
from fastsmtp.delivery.spool import drainer, patient
from fastsmtp.gateway.commands import run
from fastsmtp.gateway.config import Config
from fastsmtp.gateway.config.sinks import SCHEMES
from fastsmtp.gateway.destinations.table import MAKERS


def made(config: Config) -> Sink:
    parts = urlsplit(config.deliver.url)
    if parts.port is None:
        raise ValueError("it needs a port")
    if parts.username not in (None, "user"):
        raise ImportError("the sink needs a package: pip install it")
    sink = ScriptedSink(parts.port, deadline=config.handoff_deadline)
    sink.promises = Promise(parse_qs(parts.query).get("promise", ["quorum_disk"])[0])
    sink.remarks = ("the remote is a script",)
    return sink


if __name__ == "__main__":
    SCHEMES["remote"] = "remote"
    MAKERS["remote"] = made
    for module in (availability, dispatcher, patient, drainer):  # so that nothing takes seconds
        module.FIRST_PAUSE = 0.02  # type: ignore[attr-defined]
        module.MOST_PAUSE = 0.05  # type: ignore[attr-defined]
    drainer.FIRST_DELAY = 0.02  # type: ignore[misc]
    drainer.MOST_DELAY = 0.1  # type: ignore[misc]
    sys.exit(run())
