"""Turns at the check of passwords: shares, order, delays and bounds, counted in turns."""

from __future__ import annotations

import random
from math import inf

import pytest

from fastsmtp.gateway import turns as limits
from fastsmtp.gateway.turns import FREE_FAILURES, MAX_DELAY, MAX_PER_HOST, MAX_PLACES, Full, Turns


def failed(turns: Turns[str], host: str, times: int, now: float = 0.0) -> None:
    """Let a host fail, as fast as it may."""
    for _ in range(times):
        now = max(now, turns._hosts[host].ready_at if host in turns._hosts else now)
        turns.add(host, "x", now)
        assert turns.take(now) == "x"
        turns.ended(host, now, failed=True)


def test_a_host_has_few_places_and_one_check_at_a_time() -> None:
    turns: Turns[str] = Turns()
    for number in range(MAX_PER_HOST):
        assert turns.add("a", f"a{number}", 0) is None
    with pytest.raises(Full):
        turns.add("a", "a", 0)
    assert turns.take(0) == "a0"
    assert turns.take(0) is None
    with pytest.raises(Full):
        turns.add("a", "a", 0)  # the one that is checked has its place still
    turns.ended("a", 0, failed=False)
    assert turns.add("a", "last", 0) is None
    assert turns.take(0) == "a1"


def test_a_host_waits_for_one_check_of_each_other_at_most() -> None:
    turns: Turns[str] = Turns()
    hosts = [f"host{number}" for number in range(7)]
    for host in hosts:
        for _ in range(MAX_PER_HOST):
            turns.add(host, host, 0)
    turns.add("late", "late", 0)
    order = []
    while (job := turns.take(0)) is not None:
        order.append(job)
        turns.ended(job, 0, failed=False)
    assert order[: len(hosts) + 1] == [*hosts, "late"]
    assert len(order) == len(hosts) * MAX_PER_HOST + 1


def test_a_full_queue_makes_room_for_a_host_with_fewer_places() -> None:
    turns: Turns[str] = Turns()
    for number in range(MAX_PLACES // MAX_PER_HOST):
        for place in range(MAX_PER_HOST):
            turns.add(f"host{number}", f"{number}-{place}", 0)
    victims = [turns.add(f"new{number}", "new", 0) for number in range(MAX_PLACES // 2)]
    assert None not in victims
    assert len(set(victims)) == len(victims)
    # The newest of each host leaves first.
    assert victims[0] == f"0-{MAX_PER_HOST - 1}"
    assert sum(host.places for host in turns._hosts.values()) == turns._taken == MAX_PLACES


def test_a_full_queue_of_hosts_that_failed_makes_room_for_one_that_did_not() -> None:
    turns: Turns[str] = Turns()
    hosts = [f"bad{number}" for number in range(MAX_PLACES + 1)]
    for host in hosts:
        failed(turns, host, 1)
    for host in hosts[1:]:
        turns.add(host, host, 0)
    with pytest.raises(Full):  # as bad as the others
        turns.add(hosts[0], hosts[0], 0)
    assert turns.add("good", "good", 0) in hosts


def test_a_full_queue_of_equals_is_full() -> None:
    turns: Turns[str] = Turns()
    for number in range(MAX_PLACES):
        turns.add(f"host{number}", "x", 0)
    for _ in range(3):
        with pytest.raises(Full):
            turns.add("new", "x", 0)
    assert "new" not in turns._hosts


def test_a_check_that_has_begun_is_not_dropped_for_another() -> None:
    turns: Turns[str] = Turns(places=2, per_host=2)
    turns.add("a", "a0", 0)
    turns.add("a", "a1", 0)
    assert turns.take(0) == "a0"
    assert turns.add("b", "b", 0) == "a1"
    with pytest.raises(Full):
        turns.add("c", "c", 0)


def test_the_delay_grows_and_has_an_end() -> None:
    turns: Turns[str] = Turns()
    now, delays = 0.0, []
    for _ in range(FREE_FAILURES + 8):
        turns.add("a", "a", now)
        assert turns.take(now) == "a"
        turns.ended("a", now, failed=True)
        ready_at = turns._hosts["a"].ready_at
        delays.append(max(0.0, ready_at - now))
        now = max(now, ready_at)
    assert delays[:FREE_FAILURES] == [0.0] * FREE_FAILURES
    assert delays == sorted(delays)
    assert delays[FREE_FAILURES] == limits.FIRST_DELAY
    assert delays[-1] == delays[-2] == MAX_DELAY


def test_the_delay_of_one_host_keeps_no_other_waiting() -> None:
    turns: Turns[str] = Turns()
    failed(turns, "bad", FREE_FAILURES + 1)
    turns.add("bad", "bad", 0)
    turns.add("good", "good", 0)
    assert turns.take(0) == "good"
    assert turns.take(0) is None
    assert turns.ready_at() == limits.FIRST_DELAY
    assert turns.take(limits.FIRST_DELAY) == "bad"
    assert turns.ready_at() == inf


def test_each_host_with_a_place_has_its_turn_long_before_the_hook_times_out() -> None:
    """The worst case of an honest user at the address of a client that guesses passwords."""
    turns: Turns[str] = Turns()
    failed(turns, "a", FREE_FAILURES + 20)
    start = now = turns._hosts["a"].ready_at - MAX_DELAY
    for number in range(MAX_PER_HOST - 1):
        turns.add("a", f"guess{number}", now)
    turns.add("a", "honest", now)
    while True:
        now = turns.ready_at()
        job = turns.take(now)
        if job == "honest":
            break
        turns.ended("a", now, failed=True)
    assert now - start <= MAX_PER_HOST * MAX_DELAY <= 24


def test_a_success_does_not_make_failures_forgotten_and_time_does() -> None:
    turns: Turns[str] = Turns()
    failed(turns, "a", FREE_FAILURES)
    turns.add("a", "x", 0)
    turns.take(0)
    turns.ended("a", 0, failed=False)
    failed(turns, "a", 1)
    assert turns._hosts["a"].ready_at == limits.FIRST_DELAY
    failed(turns, "a", 1, now=limits.FORGET + 1)
    assert turns._hosts["a"].failures == 1


def test_a_client_that_leaves_gives_up_its_place_and_its_turn() -> None:
    turns: Turns[str] = Turns()
    turns.add("a", "a0", 0)
    turns.add("a", "a1", 0)
    turns.add("b", "b", 0)
    assert turns.remove("a", "a0")
    assert turns.remove("b", "b")
    assert not turns.remove("b", "b")
    assert turns.take(0) == "a1"
    assert not turns.remove("a", "a1")
    turns.ended("a", 0, failed=False)
    assert turns.take(0) is None
    assert turns._hosts == {}
    assert turns._taken == 0


def test_the_number_of_remembered_hosts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_HOSTS", 100)
    turns: Turns[str] = Turns(places=4)
    turns.add("waits", "waits", 0)
    for number in range(500):
        host = f"host{number}"
        turns.add(host, host, 0)
        for _ in range(2):
            if (job := turns.take(0)) is not None:
                turns.ended(job, 0, failed=job == host)
    assert len(turns._hosts) <= 100
    assert "host499" in turns._hosts  # the oldest are forgotten
    assert "host0" not in turns._hosts
    turns.add("new", "new", limits.FORGET)
    assert len(turns._hosts) < 100 - 2


def test_places_are_never_lost_in_any_order_of_events() -> None:
    chance = random.Random(7)
    turns: Turns[int] = Turns(places=12, per_host=4)
    waiting: dict[int, str] = {}
    running: dict[int, str] = {}
    now = 0.0
    for serial in range(20_000):
        host = f"host{chance.randrange(9)}"
        match chance.randrange(4):
            case 0 | 1:
                try:
                    victim = turns.add(host, serial, now)
                except Full:
                    continue
                waiting[serial] = host
                if victim is not None:
                    del waiting[victim]
            case 2:
                if waiting and chance.random() < 0.3:
                    job = chance.choice(list(waiting))
                    assert turns.remove(waiting.pop(job), job)
                elif (taken := turns.take(now)) is not None:
                    running[taken] = waiting.pop(taken)
            case 3:
                if running:
                    job = chance.choice(list(running))
                    turns.ended(running.pop(job), now, failed=chance.random() < 0.6)
        now += chance.random()
        assert turns._taken == len(waiting) + len(running) <= 12
        assert len(set(running.values())) == len(running)
    assert sorted(turns.clear()) == sorted(waiting)
    assert turns._taken == len(running)
