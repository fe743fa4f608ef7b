"""Inputs of the fuzz targets: octets read as choices, seeds in a file, a random source of more.

Each target has one function, `check(octets)`, that raises when an invariant does not hold. Seeds
stand in seeds/<target>.txt, one Python literal per line. Where no coverage-guided fuzzer is there,
`mutations` makes inputs of them.
"""

from __future__ import annotations

import ast
import importlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HERE = Path(__file__).parent
TARGETS = sorted(path.stem for path in HERE.glob("fuzz_*.py"))
DICTIONARY = HERE / "dictionary.txt"


class Input:
    """Octets, taken one by one as choices; when they are used up every choice is the first."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def octet(self) -> int:
        """Return the next octet."""
        self._at += 1
        return self._octets[self._at - 1] if self._at <= len(self._octets) else 0

    def choice(self, choices: Sequence[T]) -> T:
        """Return one of `choices`, as the next octet says."""
        return choices[self.octet() % len(choices)]

    def rest(self) -> bytes:
        """Return all that is left."""
        start, self._at = self._at, len(self._octets)
        return self._octets[start:]


def check_of(target: str) -> Callable[[bytes], None]:
    """Return the function that asserts the invariants of a target."""
    check: Callable[[bytes], None] = importlib.import_module(f"fuzz.{target}").check
    return check


def seeds_of(target: str) -> list[bytes]:
    """Return the seeds that are checked in."""
    lines = (HERE / "seeds" / f"{target}.txt").read_text(encoding="ascii").splitlines()
    return [ast.literal_eval(line) for line in lines if line and not line.startswith("#")]


def dictionary() -> list[bytes]:
    """Return the words of the dictionary, which is written as libFuzzer wants it."""
    words = re.findall(r'^"(.*)"$', DICTIONARY.read_text(encoding="ascii"), re.MULTILINE)
    return [ast.literal_eval(f"b'{word}'") for word in words]


def random_cuts(octets: bytes, source: random.Random) -> list[bytes]:
    """Cut into up to eight segments; one of them may be empty."""
    places = sorted(source.randint(0, len(octets)) for _ in range(source.randint(1, 7)))
    return [octets[a:b] for a, b in zip([0, *places], [*places, len(octets)], strict=True)]


def mutations(seeds: Sequence[bytes], source: random.Random) -> Iterator[bytes]:
    """Make inputs of seeds without end: spliced, with words put in, octets changed or taken out."""
    words = dictionary()
    while True:
        octets = source.choice(seeds)
        if source.random() < 0.3:
            other = source.choice(seeds)
            octets = octets[: source.randint(0, len(octets))]
            octets += other[source.randint(0, len(other)) :]
        for _ in range(source.choice([1, 1, 2, 4, 8])):
            octets = _mutated(octets, words, source)
        yield octets


def _mutated(octets: bytes, words: Sequence[bytes], source: random.Random) -> bytes:
    at = source.randint(0, len(octets))
    end = min(len(octets), at + source.choice([0, 0, 1, 1, 2, 8]))
    kind = source.randrange(5)
    if kind == 0:
        put = source.choice(words)
    elif kind == 1:
        put = source.randbytes(source.choice([1, 1, 2, 4]))
    elif kind == 2:
        put = octets[at:end] * source.randint(2, 5)
    elif kind == 3:
        put = bytes(octet ^ (1 << source.randrange(8)) for octet in octets[at:end])
    else:
        put = b""
    return octets[:at] + put + octets[end:]
