"""Logins of the gateway: who is let in, and that checking passwords stays within its bounds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import argon2
import pytest

from fastsmtp import Auth, SMTPError
from fastsmtp.gateway.logins import BadHash, Checker, Logins, Overloaded
from fastsmtp.gateway.users import Users

type_run = Callable[[Coroutine[Any, Any, Any]], Any]

PATIENCE = 60.0
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SALT = bytes(range(16))  # the hashes are in the names of tests, which every process must find alike
HASHES = {"anne": CHEAP.hash("pencil", salt=SALT), "müller": CHEAP.hash("gro\u00df", salt=SALT)}
SESSION: Any = SimpleNamespace(id="session", remote_address="192.0.2.7")


def login(run: type_run, *auths: Auth, users: Users | None = None) -> list[Any]:
    """What `on_auth` answers to each."""

    async def ask() -> list[Any]:
        logins = Logins(users or Users(HASHES), Checker())
        answers = [await logins.on_auth(auth, SESSION) for auth in auths]
        await asyncio.to_thread(logins.close)
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
def test_only_the_right_password_of_a_user_lets_in(
    run: type_run, auth: Auth, user: str | None
) -> None:
    assert login(run, auth) == [None if user is None else {"user": user}]


def test_without_a_password_nobody_is_let_in_whatever_the_hash(run: type_run) -> None:
    users = Users({"anne": CHEAP.hash("")})
    assert login(run, Auth("XCLIENT", "anne"), users=users) == [None]


def test_nobody_is_let_in_where_there_are_no_users(run: type_run) -> None:
    assert login(run, Auth("PLAIN", "anne", password="pencil"), users=Users({"b": "x"})) == [None]


class Bench:
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


def blocked(threads: int, checks: int) -> tuple[Checker, Bench]:
    checker, bench = Checker(threads, checks), Bench()
    checker._hasher = bench  # type: ignore[assignment] # what a check needs of it
    return checker, bench


def test_a_name_that_does_not_exist_is_checked_like_any_other(run: type_run) -> None:
    async def ask() -> list[bytes]:
        checker, bench = blocked(1, 4)
        bench.go.set()
        logins = Logins(Users(HASHES), checker)
        # It says yes to all, and still nobody who does not exist is let in.
        assert await logins.on_auth(Auth("PLAIN", "bob", password="p1"), SESSION) is None
        assert await logins.on_auth(Auth("PLAIN", "\ufeff", password="p2"), SESSION) is None
        assert await logins.on_auth(Auth("PLAIN", "anne", password="\udcff"), SESSION) is None
        checker.close()
        return bench.asked

    assert run(ask()) == [b"p1", b"p2", b""]


@pytest.mark.row("AUTH-12")
def test_over_the_limit_a_login_is_put_off_and_the_others_are_not_harmed(run: type_run) -> None:
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


def test_who_leaves_is_not_checked_and_makes_no_room_until_a_thread_has_seen_it(
    run: type_run,
) -> None:
    async def leave() -> None:
        checker, bench = blocked(1, 3)
        waiting = [asyncio.ensure_future(checker.matches("", b"%d" % n)) for n in range(3)]
        await asyncio.to_thread(bench.began.acquire)
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        with pytest.raises(Overloaded):
            await checker.matches("", b"late")
        bench.go.set()
        # All three places come back, and only the one that was begun was looked at.
        for _ in range(3):
            assert await asyncio.to_thread(checker._slots.acquire, timeout=PATIENCE)
        assert bench.asked == [b"0"]
        checker._slots.release(3)
        assert await checker.matches("", b"next")
        checker.close()

    run(leave())


@pytest.mark.parametrize("record", ["nonsense", HASHES["anne"][:-1] + "!", ""])
def test_a_hash_that_cannot_be_checked_is_nobodys_fault_and_takes_no_place(
    run: type_run, record: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        checker = Checker(1, 1)
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
    assert "pencil" not in caplog.text


def test_a_checker_that_was_closed_puts_off(run: type_run) -> None:
    async def ask() -> None:
        checker = Checker(1, 1)
        checker.close()
        for _ in range(2):
            with pytest.raises(Overloaded):
                await checker.matches(HASHES["anne"], b"pencil")

    run(ask())
