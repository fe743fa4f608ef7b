"""What a run counts. Its memory does not grow with the length of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fastsmtp.log_text import escaped

__all__ = ["Figures", "Histogram", "Refusal"]

# Microseconds up to 127 have a bucket each; then there are 64 for each power of two, so a value
# read from a bucket is at most 1/64 above the time that was measured.
_FINE_BITS: Final = 7
_STEP: Final = 1 << (_FINE_BITS - 1)
_MOST_BITS: Final = 40  # 12 days
_BUCKETS: Final = (_MOST_BITS - _FINE_BITS + 2) * _STEP

MAX_KINDS: Final = 64  # different texts of errors, different refusals
MAX_SHOWN: Final = 160  # characters of a reply
OTHERS: Final = "other errors"


class Histogram:
    """Times in seconds, counted in buckets."""

    __slots__ = ("_buckets", "count", "highest", "lowest", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.lowest = 0.0
        self.highest = 0.0
        self._buckets = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        """Count one time; one below 0 is 0."""
        number = int(seconds * 1e6)
        if number < 1 << _FINE_BITS:
            index = max(number, 0)
        else:
            shift = min(number.bit_length(), _MOST_BITS) - _FINE_BITS
            index = shift * _STEP + min(number >> shift, 2 * _STEP - 1)
        self._buckets[index] += 1
        if seconds > self.highest:
            self.highest = seconds
        if seconds < self.lowest or not self.count:
            self.lowest = max(seconds, 0.0)
        self.count += 1
        self.total += seconds

    @property
    def mean(self) -> float:
        """The mean in seconds, 0.0 for none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Return the time in seconds that `percent` of the times do not exceed, 0.0 for none."""
        wanted = self.count * percent / 100
        seen = 0
        for index, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(_end_of(index), self.highest)
        return self.highest

    def rows(self) -> list[tuple[float, int]]:
        """Return (upper bound in seconds, times up to it and above the bound before), with bounds
        1, 2, 5, 10 …, from the first row that has any to the last one.
        """
        bounds = [step * 10**power / 1e6 for power in range(13) for step in (1, 2, 5)]
        counts = [0] * len(bounds)
        row = 0
        for index, count in enumerate(self._buckets):
            if count:
                while row < len(bounds) - 1 and bounds[row] * 1e6 < _start_of(index):
                    row += 1
                counts[row] += count
        filled = [row for row, count in enumerate(counts) if count]
        if not filled:
            return []
        return list(zip(bounds, counts, strict=True))[filled[0] : filled[-1] + 1]


def _start_of(index: int) -> int:
    """The first microsecond of a bucket."""
    shift = max(0, index // _STEP - 1)
    return (index - shift * _STEP) << shift


def _end_of(index: int) -> float:
    """The end of a bucket, in seconds."""
    return _start_of(index + 1) / 1e6


@dataclass(slots=True)
class Refusal:
    """Refusals with the same code at the same stage. text: of the first, escaped."""

    count: int
    text: str
    expected: bool


@dataclass(slots=True)
class Figures:
    """Counts and times of a run.

    A message is `accepted` when at least one recipient has it, `refused` when replies refuse it for
    all, `failed` when its connection ended or broke before that. replies: by stage, then code.
    refusals: by stage and code. errors: what broke, by its text.
    """

    connections: int = 0
    connections_failed: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    recipients_accepted: int = 0
    recipients_refused: int = 0
    octets: int = 0  # of accepted messages
    unexpected: int = 0  # refusals that were not expected
    connect: Histogram = field(default_factory=Histogram)
    tls: Histogram = field(default_factory=Histogram)
    message: Histogram = field(default_factory=Histogram)
    end: Histogram = field(default_factory=Histogram)
    replies: dict[str, dict[int, int]] = field(default_factory=dict)
    refusals: dict[tuple[str, int], Refusal] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Messages that have an outcome."""
        return self.accepted + self.refused + self.failed

    @property
    def has_failed(self) -> bool:
        """Whether anything was refused that should not be, or broke, or nothing was sent at all."""
        return bool(self.unexpected or self.errors) or not self.finished

    def count_reply(self, stage: str, code: int) -> None:
        """Count a reply; there are at most 400 codes."""
        codes = self.replies.get(stage)
        if codes is None:
            codes = self.replies[stage] = {}
        codes[code] = codes.get(code, 0) + 1

    def count_refusal(self, stage: str, code: int, lines: list[bytes], *, expected: bool) -> None:
        """Count a refusal, and keep the text of the first."""
        known = self.refusals.get((stage, code))
        if known is not None:
            known.count += 1
        else:
            text = b" ".join(line[4:] for line in lines)[: 4 * MAX_SHOWN].decode("utf-8", "replace")
            self.refusals[stage, code] = Refusal(1, escaped(text, MAX_SHOWN, " "), expected)
        if not expected:
            self.unexpected += 1

    def count_error(self, text: str) -> None:
        """Count something that broke; of many different texts only the first are told apart."""
        if text not in self.errors and len(self.errors) >= MAX_KINDS:
            text = OTHERS
        self.errors[text] = self.errors.get(text, 0) + 1
