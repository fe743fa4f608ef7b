"""The users file: what may stand in it, errors for all else, and what `fastsmtp passwd` writes."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import argon2
import pytest
from serving import PATIENCE, command, environment, terminal

from fastsmtp.gateway import users
from fastsmtp.gateway.users import Users, UsersError, checked_name, read_users, store_user

# As cheap as argon2 gets.
CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SALT = bytes(range(16))  # the hashes are in the names of tests, which every process must find alike
HASH = CHEAP.hash("pencil", salt=SALT)
OTHER = CHEAP.hash("pen", salt=SALT)
SALT, DIGEST = HASH.split("$")[4:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


def read(path: Path, text: str | bytes) -> Users:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_users(str(path))


# --- reading ---


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("\n\n# nobody yet\n   \n", []),
        (f"anne:{HASH}", ["anne"]),
        (f"anne:{HASH}\r\n", ["anne"]),
        (
            f"  anne:{HASH}  \n\t# a comment: here\nbob@y.example:{OTHER}\n",
            ["anne", "bob@y.example"],
        ),
        (f"Anne Smith:{HASH}\nanne smith:{HASH}", ["Anne Smith", "anne smith"]),
        (f"{'x' * 255}:{HASH}", ["x" * 255]),
        (f"müller:{HASH}\n例え:{HASH}", ["müller", "例え"]),
        (f"a:{HASH.replace('argon2id', 'argon2i')}", ["a"]),
    ],
)
def test_each_line_is_a_user(path: Path, text: str, names: list[str]) -> None:
    users = read(path, text)
    assert len(users) == len(names)
    assert all(users.find(name)[1] for name in names)


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("anne", 1, "not name:hash"),
        (f"\n# x\n\n:{HASH}", 4, "a name is needed"),
        (f"anne:{HASH}\nbob:pencil", 2, "the text after bob: is not an argon2 hash"),
        ("anne:", 1, "not an argon2 hash"),
        ("anne:{SSHA}x", 1, "not an argon2 hash"),
        ("anne:$2b$12$abcdefghijklmnopqrstuv", 1, "not an argon2 hash"),
        (f"anne:{HASH}:x", 1, "not an argon2 hash"),
        (f"anne:{HASH} x", 1, "not an argon2 hash"),
        (f"anne: {HASH}", 1, "not an argon2 hash"),
        (f"anne:{HASH}=", 1, "not an argon2 hash"),
        (f"anne:{HASH[:40]}", 1, "not an argon2 hash"),
        (f"anne:$argon2id$v=19$m=8,t=0,p=1${SALT}${DIGEST}", 1, "impossible costs"),
        (f"anne:$argon2id$v=19$m=8,t=1,p=0${SALT}${DIGEST}", 1, "impossible costs"),
        (f"anne:$argon2id$v=19$m=8,t=1,p=2${SALT}${DIGEST}", 1, "impossible costs"),
        (f"anne:$argon2id$v=19$m=9999999999,t=1,p=1${SALT}${DIGEST}", 1, "impossible costs"),
        (f"anne:$argon2id$v=16$m=8,t=1,p=1${SALT}${DIGEST}", 1, "not an argon2 hash"),
        (f"anne:{HASH}\nbob:{HASH}\nanne:{OTHER}", 3, "is in line 1 already"),
        # The second has a decomposed ü: they look the same, and are.
        (f"m\u00fcller:{HASH}\nmu\u0308ller:{OTHER}", 2, "is in line 1 already"),
        (b"anne\xff:x", 1, "not UTF-8"),
        (f"an\x07ne:{HASH}", 1, "characters that no name"),
        (f"an\u202ene:{HASH}", 1, "characters that no name"),
        (f"anne :{HASH}", 1, "begins or ends with a space"),
        (f"{'ü' * 128}:{HASH}", 1, "more than 255 octets"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_never_with_its_hash(
    path: Path, text: str | bytes, line: int, told: str
) -> None:
    with pytest.raises(UsersError) as refused:
        read(path, text)
    message = str(refused.value)
    assert message.startswith(f"{path}:{line}: ")
    assert told in message
    assert "\n" not in message
    assert SALT not in message
    assert DIGEST not in message
    assert "pencil" not in message


def test_a_file_that_cannot_be_read_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsersError, match="missing cannot be read: No such file or directory"):
        read_users(str(tmp_path / "missing"))
    os.mkfifo(tmp_path / "fifo")  # it has no writer, and no reader may wait for one
    with pytest.raises(UsersError, match="it is a FIFO"):
        read_users(str(tmp_path / "fifo"))
    with terminal() as path, pytest.raises(UsersError, match="nothing to read without waiting"):
        read_users(path)
    with pytest.raises(UsersError, match="cannot be read: Is a directory"):
        read_users(str(tmp_path))


def test_a_file_that_has_no_end_is_not_read_to_it() -> None:
    with pytest.raises(UsersError, match="/dev/zero is too large for a users file"):
        read_users("/dev/zero")


@pytest.mark.parametrize(
    ("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)]
)
def test_a_file_that_others_can_read_is_known(path: Path, mode: int, is_open: bool) -> None:
    path.write_text(f"anne:{HASH}")
    path.chmod(mode)
    assert read_users(str(path)).is_open is is_open


# --- looking up ---


def test_a_name_is_found_in_any_normal_form_of_unicode() -> None:
    users = Users({"m\u00fcller": HASH})
    assert users.find("mu\u0308ller") == (HASH, True)
    assert not users.find("M\u00fcller")[1]


def test_an_unknown_name_costs_as_much_as_a_known_one() -> None:
    dear = HASH.replace("m=8,t=1", "m=16,t=2")
    users = Users({"anne": HASH, "bob": dear})
    costs = set()
    for number in range(64):
        record, exists = users.find(f"nobody{number}")
        assert not exists
        costs.add(record.split("$")[3])
        with pytest.raises(argon2.exceptions.VerifyMismatchError):
            CHEAP.verify(record, "pencil")
    assert costs == {"m=8,t=1,p=1", "m=16,t=2,p=1"}


@pytest.mark.parametrize(
    "name", ["nobody", "x" * 9000, "\u0640", "a\u05d0", "\U000e0001", "\ud800"]
)
def test_a_name_costs_the_same_at_each_check(name: str) -> None:
    users = Users({str(number): HASH.replace("t=1", f"t={number}") for number in range(1, 50)})
    assert len({users.find(name)[0].split("$")[3] for _ in range(20)}) == 1


def test_a_check_without_users_costs_as_much_as_a_usual_one() -> None:
    record, exists = Users({}).find("anne")
    assert not exists
    parameters = argon2.extract_parameters(record)
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (65536, 3, 4)


# --- writing ---


def test_a_file_is_made_for_its_owner_alone(path: Path) -> None:
    assert not store_user(str(path), "anne", HASH)
    assert path.read_text() == f"anne:{HASH}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("ending", ["\n", ""])
def test_a_new_name_comes_last_and_a_known_one_stays_where_it_is(path: Path, ending: str) -> None:
    path.write_text(f"# ours\n\nanne:{HASH}\n  # his\nbob:{HASH}{ending}")
    path.chmod(0o640)
    assert store_user(str(path), "anne", OTHER)
    assert not store_user(str(path), "carl", OTHER)
    assert path.read_text() == f"# ours\n\nanne:{OTHER}\n  # his\nbob:{HASH}\ncarl:{OTHER}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == ["users"]


def test_a_link_stays_a_link(path: Path) -> None:
    real = path.with_name("real")
    path.symlink_to(real)
    store_user(str(path), "anne", HASH)
    store_user(str(path), "bob", HASH)
    assert path.is_symlink()
    assert real.read_text() == f"anne:{HASH}\nbob:{HASH}\n"


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    names = [f"user{number}" for number in range(24)]
    threads = [threading.Thread(target=store_user, args=(str(path), name, HASH)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(read_users(str(path))) == len(names)


@pytest.fixture
def locked(path: Path) -> Iterator[int]:
    """The descriptor by which another process would hold the lock."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_a_lock_that_is_never_released_is_an_error_that_names_the_folder(
    path: Path, locked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "LOCK_PATIENCE", 0.0)
    with pytest.raises(UsersError, match=f"^{path.parent} is locked by another process"):
        store_user(str(path), "anne", HASH)
    assert not path.exists()


def test_a_lock_that_is_released_in_time_is_waited_for(
    path: Path, locked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        users, "sleep", lambda seconds: fcntl.flock(locked, fcntl.LOCK_UN), raising=False
    )
    assert not store_user(str(path), "anne", HASH)
    assert path.read_text() == f"anne:{HASH}\n"


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_takes_users_all_the_same(
    path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not store_user(str(path), "anne", HASH)


def test_a_file_that_is_wrong_is_not_touched(path: Path) -> None:
    path.write_text("nonsense\n")
    with pytest.raises(UsersError, match=r"users:1: the line is not name:hash"):
        store_user(str(path), "anne", HASH)
    assert path.read_text() == "nonsense\n"
    assert os.listdir(path.parent) == ["users"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_user(str(path), "anne", HASH)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsersError, match="cannot be written: No space left on device"):
        store_user(str(path), "anne", OTHER)
    assert path.read_text() == f"anne:{HASH}\n"
    assert os.listdir(path.parent) == ["users"]


def test_the_file_is_on_disk_before_it_has_its_name_and_then_its_name_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (done.append(stat.S_ISDIR(os.fstat(fd).st_mode)), fsync(fd)),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("renamed"), replace(a, b)))
    store_user(str(path), "anne", HASH)
    assert done == [False, "renamed", True]


@pytest.mark.parametrize(
    "name",
    [
        *[
            "",
            ":",
            "a:b",
            " anne",
            "anne ",
            "#anne",
            "a\nb",
            "a\x00b",
            "a\x7fb",
            "\x85",
            "a\u2028b",
        ],
        *["x" * 256, "ü" * 128, "\u202eanne", "\ufeff", "\ud800", "a\uff1ab"],
    ],
)
def test_a_name_that_could_not_stand_in_the_file_is_refused(name: str) -> None:
    with pytest.raises(UsersError) as refused:
        checked_name(name)
    assert "\n" not in str(refused.value)


# --- the command ---


def passwd(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments, name="passwd"),
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        env=environment(),
    )


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"fastsmtp: error: ")
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode()


def test_a_password_that_passwd_writes_is_the_one_that_is_checked(path: Path) -> None:
    done = passwd("--stdin", str(path), "anne", stdin=b"first\n")
    assert done.stdout.decode() == f"fastsmtp: anne was added in {path}\n"
    done = passwd("--stdin", str(path), "anne", stdin="größer".encode())
    assert done.stdout.decode() == f"fastsmtp: anne has a new password in {path}\n"
    assert (done.returncode, done.stderr) == (0, b"")
    record, exists = read_users(str(path)).find("anne")
    assert exists
    assert argon2.PasswordHasher().verify(record, "größer")
    assert not argon2.PasswordHasher().check_needs_rehash(record)


@pytest.mark.parametrize(
    ("name", "stdin", "told"),
    [
        ("anne", b"", "a password is needed"),
        ("anne", b"\n", "a password is needed"),
        ("anne", b"pen\x00cil\n", "not a password"),
        ("anne", b"pen\xffcil\n", "not a password"),
        ("anne", b"x" * 1025, "at most 1024 characters"),
        ("an:ne", b"pencil\n", "must not have a colon"),
        ("", b"pencil\n", "a name is needed"),
    ],
)
def test_invalid_input_of_passwd_is_an_error_of_one_line(
    path: Path, name: str, stdin: bytes, told: str
) -> None:
    told_line = complaint(passwd("--stdin", str(path), name, stdin=stdin))
    assert told in told_line
    assert "pencil" not in told_line
    assert not path.exists()


def test_a_missing_folder_is_an_error_of_one_line(path: Path) -> None:
    done = passwd("--stdin", str(path / "users"), "anne", stdin=b"pencil\n")
    assert "cannot be written: No such file or directory" in complaint(done)


def test_passwd_without_a_terminal_asks_for_the_option_stdin(path: Path) -> None:
    assert "use --stdin" in complaint(passwd(str(path), "anne", stdin=b"pencil\npencil\n"))
    assert not path.exists()


def test_passwd_on_a_terminal_asks_twice_and_shows_nothing(path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(str(path), "anne", name="passwd"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,  # or getpass would take the terminal of whoever runs the tests
        env=environment(),
    ) as process:
        os.close(theirs)
        shown = b""
        for _ in range(2):
            while b": " not in shown.rpartition(b"\n")[2]:
                shown += os.read(ours, 1000)
            os.write(ours, b"pencil\n")
            shown += b"\n"
        while b"was added" not in shown:
            shown += os.read(ours, 1000)
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    assert b"pencil" not in shown
    record, _ = read_users(str(path)).find("anne")
    assert argon2.PasswordHasher().verify(record, "pencil")
