"""Logins of the gateway: which ones succeed, and that password checks stay within their bounds."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import argon2
import pytest
from clients import Client, Sink, until

from fastsmtp import Auth, SMTPError
from fastsmtp.gateway.logins import (
    NICE,
    BadHash,
    Checker,
    Logins,
    Overloaded,
    check_threads,
)
from fastsmtp.gateway.turns import FIRST_DELAY, FREE_FAILURES, Turns
from fastsmtp.gateway.users import Users
from fastsmtp.testing import running

type_run = Callable[[Coroutine[Any, Any, Any]], Any]

PATIENCE = 60.0
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SALT = bytes(range(16))  # the hashes are in the names of tests, which every process must find alike
HASHES = {"anne": CHEAP.hash("pencil", salt=SALT), "müller": CHEAP.hash("gro\u00df", salt=SALT)}
SESSION: Any = SimpleNamespace(id="session", remote_address="192.0.2.7")


def login(run: type_run, *auths: Auth, users: Users | None = None) -> list[Any]:
    """What `on_auth` answers to each."""

    async def ask() -> list[Any]:
        logins = Logins(users or Users(HASHES), Checker(now=lambda: 0.0))
        answers = [await logins.on_auth(auth, SESSION) for auth in auths]
        logins.close()
        return answers

    return run(ask())


@pytest.mark.row("AUTH-04")
@pytest.mark.parametrize(
    ("auth", "user"),
    [
        (Auth("PLAIN", "anne", password="pencil"), "anne"),
        (Auth("LOGIN", "anne", password="pencil"), "anne"),
        (Auth("PLAIN", "anne", authzid="", password="pencil"), "anne"),
        (Auth("PLAIN", "anne", authzid="anne", password="pencil"), "anne"),
        (Auth("PLAIN", "mu\u0308ller", password="gro\u00df"), "müller"),
        (Auth("PLAIN", "anne", authzid="bob", password="pencil"), None),
        (Auth("PLAIN", "Anne", password="pencil"), None),
        (Auth("PLAIN", "anne", password="Pencil"), None),
        (Auth("PLAIN", "anne", password="pencil "), None),
        (Auth("PLAIN", "anne", password="pencil\x00"), None),
        (Auth("PLAIN", "anne", password="\udcff"), None),
        (Auth("PLAIN", "bob", password="pencil"), None),
        (Auth("PLAIN", "\ufeff", password="pencil"), None),
        (Auth("PLAIN", "anne", password=HASHES["anne"]), None),
        (Auth("XCLIENT", "anne"), None),
        (Auth("EXTERNAL", "anne"), None),
    ],
)
def test_a_login_needs_the_right_password_of_a_user(
    run: type_run, auth: Auth, user: str | None
) -> None:
    assert login(run, auth) == [None if user is None else {"user": user}]


def test_a_login_without_a_password_is_refused_for_any_hash(run: type_run) -> None:
    users = Users({"anne": CHEAP.hash("")})
    assert login(run, Auth("XCLIENT", "anne"), users=users) == [None]


def test_a_login_is_refused_where_there_is_no_such_user(run: type_run) -> None:
    assert login(run, Auth("PLAIN", "anne", password="pencil"), users=Users({"b": "x"})) == [None]


class FakeHasher:
    """Stands for argon2: notes what it is asked, and says yes when `go` is set."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.began = threading.Semaphore(0)
        self.go = threading.Event()

    def verify(self, record: str, password: bytes) -> bool:
        self.asked.append(password)
        self.began.release()
        assert self.go.wait(PATIENCE)
        return True


def blocked(threads: int, places: int, now: Callable[[], float] = lambda: 0.0) -> Any:
    """A checker of so many threads and places, and the bench that it works on."""
    checker, bench = Checker(threads, Turns(places, places), now), FakeHasher()
    checker._hasher = bench  # type: ignore[assignment] # what a check needs of it
    return checker, bench


def test_a_name_that_does_not_exist_is_checked_like_any_other(run: type_run) -> None:
    async def ask() -> list[bytes]:
        checker, bench = blocked(1, 4)
        bench.go.set()
        logins = Logins(Users(HASHES), checker)
        # It says yes to all, and still a user that does not exist is refused.
        assert await logins.on_auth(Auth("PLAIN", "bob", password="p1"), SESSION) is None
        assert await logins.on_auth(Auth("PLAIN", "\ufeff", password="p2"), SESSION) is None
        assert await logins.on_auth(Auth("PLAIN", "anne", password="\udcff"), SESSION) is None
        checker.close()
        return bench.asked

    assert run(ask()) == [b"p1", b"p2", b""]


@pytest.mark.row("AUTH-12")
def test_a_login_over_the_limit_is_deferred_and_the_others_go_on(run: type_run) -> None:
    async def flood() -> None:
        checker, bench = blocked(2, 5)
        logins = Logins(Users(HASHES), checker)
        auth = Auth("PLAIN", "anne", password="pencil")
        waiting = [asyncio.ensure_future(logins.on_auth(auth, SESSION)) for _ in range(5)]
        await asyncio.to_thread(bench.began.acquire)
        for _ in range(100):
            with pytest.raises(SMTPError) as put_off:
                await logins.on_auth(auth, SESSION)
            assert put_off.value.response_code == 454
        assert not any(one.done() for one in waiting)
        bench.go.set()
        assert await asyncio.gather(*waiting) == [{"user": "anne"}] * 5
        assert await logins.on_auth(auth, SESSION) == {"user": "anne"}
        assert len(bench.asked) == 6
        checker.close()

    run(flood())


def test_a_client_that_leaves_is_not_checked_and_makes_room(run: type_run) -> None:
    async def leave() -> None:
        checker, bench = blocked(1, 3)
        waiting = [asyncio.ensure_future(checker.matches("", b"%d" % n)) for n in range(3)]
        await asyncio.to_thread(bench.began.acquire)
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        # That of the check that was begun comes back when that has ended.
        late = [asyncio.ensure_future(checker.matches("", b"late")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await checker.matches("", b"too late")
        bench.go.set()
        assert await asyncio.gather(*late) == [True, True]
        assert bench.asked == [b"0", b"late", b"late"]
        assert await checker.matches("", b"next")
        checker.close()

    run(leave())


def test_a_closed_checker_defers_the_logins_that_wait(run: type_run) -> None:
    async def close() -> None:
        checker, bench = blocked(1, 3)
        waiting = [asyncio.ensure_future(checker.matches("", b"%d" % n)) for n in range(3)]
        await asyncio.to_thread(bench.began.acquire)
        checker.close()
        for one in waiting[1:]:
            with pytest.raises(Overloaded):
                await one
        assert not waiting[0].done()
        bench.go.set()
        assert await waiting[0]
        assert bench.asked == [b"0"]

    run(close())


def test_all_logins_are_deferred_when_no_thread_can_be_started(
    run: type_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def ask() -> None:
        checker, _ = blocked(2, 4)
        monkeypatch.setattr(threading.Thread, "start", start)
        for _ in range(3):
            with pytest.raises(Overloaded):
                await checker.matches("", b"x")
        monkeypatch.undo()
        checker._hasher.go.set()
        assert await checker.matches("", b"x")
        checker.close()

    run(ask())


# --- one host beside others ---


def test_a_client_that_guesses_does_not_keep_others_from_logging_in(run: type_run) -> None:
    """100 connections of one address, each with its next guess as soon as it hears of the last."""

    async def scenario() -> None:
        time = [0.0]
        checker = Checker(1, now=lambda: time[0])
        bench = FakeHasher()
        bench.verify = lambda record, password: (  # type: ignore[method-assign]
            bench.asked.append(password) or password == b"right"
        )
        checker._hasher = bench  # type: ignore[assignment]
        logins = Logins(Users(HASHES), checker)
        attacker: Any = SimpleNamespace(id="a", remote_address="2001:db8::1")
        honest: Any = SimpleNamespace(id="h", remote_address="2001:db8:0:1::1")
        done = asyncio.Event()

        async def guess() -> None:
            while not done.is_set():
                with suppress(SMTPError):  # 454
                    await logins.on_auth(Auth("PLAIN", "anne", password="wrong"), attacker)
                await asyncio.sleep(0)

        guesses = [asyncio.ensure_future(guess()) for _ in range(100)]
        for _ in range(20):
            time[0] += 10.0  # the attacker is delayed no longer, which is the worst moment
            await asyncio.sleep(0)
            before = len(bench.asked)
            assert await logins.on_auth(Auth("PLAIN", "anne", password="right"), honest)
            assert len(bench.asked) - before <= 3  # one under way, one of the attacker, and ours
        done.set()
        checker.close()
        await asyncio.gather(*guesses, return_exceptions=True)

    run(scenario())


def test_failures_delay_the_next_check_of_that_address_and_of_no_other(run: type_run) -> None:
    async def scenario() -> None:
        time = [0.0]
        checker = Checker(2, now=lambda: time[0])
        checker._hasher = FakeHasher()  # type: ignore[assignment]
        checker._hasher.go.set()
        for _ in range(FREE_FAILURES + 1):
            assert not await checker.matches("", b"x", "192.0.2.1", is_possible=False)
        delayed = asyncio.ensure_future(checker.matches("", b"y", "192.0.2.1"))
        assert await checker.matches("", b"z", "192.0.2.2")
        assert checker._hasher.asked[-1] == b"z"
        assert checker._timer is not None
        time[0] = FIRST_DELAY
        checker._begin(asyncio.get_running_loop())  # what the timer calls
        assert await delayed
        assert checker._timer is None
        checker.close()

    run(scenario())


def test_an_honest_login_succeeds_beside_100_connections_that_guess(run: type_run) -> None:
    async def scenario() -> None:
        checker = Checker(1)
        bench = FakeHasher()
        bench.verify = lambda record, password: (  # type: ignore[method-assign]
            bench.asked.append(password) or password == b"right"
        )
        checker._hasher = bench  # type: ignore[assignment]
        logins = Logins(Users(HASHES), checker)
        server = Sink().server(
            on_auth=logins.on_auth, allow_insecure_auth=True, auth_methods=["PLAIN"]
        )
        answers: Counter[str] = Counter()
        done = asyncio.Event()

        async def guess(address: Any) -> None:
            while not done.is_set():
                async with await Client.greeted(address) as client:
                    answer = ""
                    while answer[:3] != "421" and not done.is_set():  # then the next connection
                        answer = await client.ask(plain("wrong"))
                        answers[answer] += 1

        async with running(server) as address:
            guesses = [asyncio.ensure_future(guess(address)) for _ in range(100)]
            await until(lambda: answers["454 4.7.0"] > 100 and answers["535 5.7.8"] > 3)
            for number in range(10):
                async with await Client.connect(
                    address, local_addr=(f"127.0.0.{number + 2}", 0)
                ) as client:
                    assert await client.reply() == "220"
                    await client.ask(b"EHLO c.example\r\n")
                    before = len(bench.asked)
                    assert await client.ask(plain("right")) == "235 2.7.0"
                    assert len(bench.asked) - before <= 3
            done.set()
            checker.close()  # logins that wait get 454
            await asyncio.gather(*guesses)

    run(scenario())


def plain(password: str) -> bytes:
    token = base64.b64encode(f"\0anne\0{password}".encode())
    return b"AUTH PLAIN " + token + b"\r\n"


@pytest.mark.parametrize(
    "auth",
    [
        Auth("PLAIN", "anne", password="wrong"),
        Auth("PLAIN", "bob", password="wrong"),
        Auth("PLAIN", "anne", password="\udcff"),
        Auth("PLAIN", "anne", authzid="bob", password="pencil"),
    ],
)
def test_every_login_that_fails_counts_alike(run: type_run, auth: Auth) -> None:
    async def scenario() -> None:
        checker = Checker(1, now=lambda: 0.0)
        logins = Logins(Users(HASHES), checker)
        for _ in range(FREE_FAILURES + 1):
            assert await logins.on_auth(auth, SESSION) is None
        late = asyncio.ensure_future(logins.on_auth(auth, SESSION))
        for _ in range(20):
            await asyncio.sleep(0)
        assert checker._turns.ready_at() == FIRST_DELAY
        late.cancel()
        await asyncio.wait([late])
        checker.close()

    run(scenario())


@pytest.mark.parametrize("cores, threads", [(1, 1), (2, 1), (3, 2), (5, 4), (64, 4)])
def test_a_core_is_left_to_the_loop(cores: int, threads: int) -> None:
    assert check_threads(cores) == threads


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no cores of their own")
def test_a_check_keeps_off_a_core_and_is_less_urgent_than_the_loop(run: type_run) -> None:
    found: list[Any] = []

    class Watch(FakeHasher):
        def verify(self, record: str, password: bytes) -> bool:
            found.append(os.sched_getaffinity(0))
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return True

    async def ask() -> None:
        checker = Checker(1)
        checker._hasher = Watch()  # type: ignore[assignment]
        before = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
        assert await checker.matches("", b"x")
        assert (os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)) == before
        checker.close()

    run(ask())
    cores = os.sched_getaffinity(0)
    assert len(found[0]) == max(1, len(cores) - 1)
    assert found[0] <= cores
    assert found[1] >= NICE


@pytest.mark.parametrize("record", ["nonsense", HASHES["anne"][:-1] + "!", ""])
def test_a_hash_that_cannot_be_checked_counts_against_no_client(
    run: type_run, record: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        checker = Checker(1, Turns(1, 1))
        for _ in range(3):
            with pytest.raises(BadHash):
                await checker.matches(record, b"pencil")
        logins = Logins(Users({"anne": record}), checker)
        with pytest.raises(SMTPError) as put_off:
            await logins.on_auth(Auth("PLAIN", "anne", password="pencil"), SESSION)
        assert put_off.value.response_code == 454
        checker.close()

    run(ask())
    assert "the hash of anne cannot be checked" in caplog.text
    assert f"id={SESSION.id} client=[{SESSION.remote_address}]" in caplog.text
    assert "pencil" not in caplog.text


def test_a_checker_that_was_closed_defers_logins(run: type_run) -> None:
    async def ask() -> None:
        checker = Checker(1)
        checker.close()
        for _ in range(2):
            with pytest.raises(Overloaded):
                await checker.matches(HASHES["anne"], b"pencil")

    run(ask())
