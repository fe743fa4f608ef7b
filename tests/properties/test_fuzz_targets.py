"""The fuzz targets over their seeds, and over a few hundred inputs that are the same at each run.

`make fuzz` runs them for as long as one likes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import shared_loop
from fuzz.inputs import TARGETS, Input, check_of, dictionary, mutations, random_cuts, seeds_of

RANDOM_INPUTS = 2000


@pytest.fixture(scope="module", autouse=True)
def _one_loop_for_all_runs() -> Iterator[None]:
    yield
    shared_loop.close_shared_loop()


def test_there_are_targets_for_all_that_octets_reach() -> None:
    assert {"fuzz_address", "fuzz_auth", "fuzz_data", "fuzz_params"} <= {*TARGETS}
    assert {"fuzz_proxy", "fuzz_reply", "fuzz_session"} <= {*TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_keeps_the_invariants(target: str) -> None:
    check = check_of(target)
    seeds = seeds_of(target)
    assert len(seeds) > 50
    assert len(set(seeds)) == len(seeds)
    for seed in seeds:
        check(seed)


@pytest.mark.parametrize("target", TARGETS)
def test_random_inputs_keep_the_invariants(target: str) -> None:
    check = check_of(target)
    inputs = mutations(seeds_of(target), random.Random(target))
    for _ in range(RANDOM_INPUTS):
        octets = next(inputs)
        try:
            check(octets)
        except Exception as error:
            error.add_note(f"the input is {octets!r}")
            raise


def test_choices_that_are_used_up_are_the_first() -> None:
    given = Input(b"\x05\x02rest")
    assert given.choice("abc") == "c"
    assert given.octet() == 2
    assert given.rest() == b"rest"
    assert given.rest() == b""
    assert given.choice("abc") == "a"


def test_the_dictionary_is_read_as_libfuzzer_reads_it() -> None:
    words = dictionary()
    assert b"\r\n.\r\n" in words
    assert b'"a b"' in words
    assert len(set(words)) == len(words) > 50


def test_cuts_leave_the_octets_as_they_are() -> None:
    source = random.Random(0)
    for octets in (b"", b"a", b"abcdef"):
        assert b"".join(random_cuts(octets, source)) == octets
