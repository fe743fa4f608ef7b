"""The figures of a run as JSON; times in seconds, sizes in octets. docs/load.md has the fields."""

from __future__ import annotations

from typing import Any, Final

from fastsmtp.gateway.bench.figures import Figures, Histogram
from fastsmtp.gateway.bench.run import Outcome

__all__ = ["PERCENTS", "TIMES", "as_json", "per_second", "times_of"]

PERCENTS: Final = (50, 90, 99)
TIMES: Final = {
    "connect": "connected until the greeting",
    "tls": "TLS handshake",
    "message": "whole message, from MAIL",
    "end": "from the last dot to the reply",
}


def times_of(figures: Figures) -> dict[str, Histogram]:
    """Return what was measured, by the names of TIMES, without what was never measured."""
    found = {name: getattr(figures, name) for name in TIMES}
    return {name: times for name, times in found.items() if times.count}


def per_second(number: float, outcome: Outcome) -> float:
    """Return how many there were in each second of the run."""
    return number / outcome.seconds if outcome.seconds > 0 else 0.0


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return all figures, to be written as JSON."""
    figures = outcome.figures
    return {
        "server": outcome.plan.target.text,
        "address": outcome.address,
        "plan": _plan(outcome),
        "ended_early": outcome.ended_early or None,
        "seconds": outcome.seconds,
        "cpu_seconds": outcome.cpu,
        "connections": {"opened": figures.connections, "failed": figures.connections_failed},
        "messages": {
            "accepted": figures.accepted,
            "refused": figures.refused,
            "failed": figures.failed,
        },
        "recipients": {
            "accepted": figures.recipients_accepted,
            "refused": figures.recipients_refused,
        },
        "octets": figures.octets,
        "messages_per_second": per_second(figures.accepted, outcome),
        "octets_per_second": per_second(figures.octets, outcome),
        "times": {name: _times(each) for name, each in times_of(figures).items()},
        "replies": {
            stage: {str(code): count for code, count in sorted(codes.items())}
            for stage, codes in figures.replies.items()
        },
        "refusals": [
            {
                "stage": stage,
                "code": code,
                "text": each.text,
                "count": each.count,
                "expected": each.expected,
            }
            for (stage, code), each in figures.refusals.items()
        ],
        "errors": dict(figures.errors),
    }


def _plan(outcome: Outcome) -> dict[str, Any]:
    plan = outcome.plan
    return {
        "profile": plan.profile,
        "connections": plan.connections,
        "messages": plan.messages or None,
        "duration": plan.duration or None,
        "per_connection": plan.per_connection or None,
        "size": outcome.octets,
        "recipients": len(plan.recipients),
        "rate": plan.rate or None,
        "pipelining": outcome.is_pipelining,
        "starttls": plan.starttls,
    }


def _times(times: Histogram) -> dict[str, Any]:
    return {
        "count": times.count,
        "mean": times.mean,
        "min": times.lowest,
        **{f"p{percent}": times.percentile(percent) for percent in PERCENTS},
        "max": times.highest,
        "histogram": [{"up_to": bound, "count": count} for bound, count in times.rows()],
    }
