"""`fastsmtp spool`: show the records of a spool, and decide about those that are kept.

If the server is stopped, the commands open the spool themselves; otherwise they ask the server.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import heapq
import itertools
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Final, TypeAlias

import click

from fastsmtp.delivery.spool import SpoolError
from fastsmtp.delivery.spool.control import perform
from fastsmtp.delivery.spool.directory import SpoolDirectory
from fastsmtp.delivery.spool.family import directories
from fastsmtp.delivery.spool.operations import Answer
from fastsmtp.delivery.spool.salvage import salvage
from fastsmtp.gateway.output import print_text
from fastsmtp.log_text import clean, escaped

__all__ = ["spool"]

STATES: Final = ("waiting", "deferred", "refused", "damaged", "all")
LONGEST_LINE: Final = 2048  # characters of a line of a header
_UNUSUAL: Final = re.compile(r"[^A-Za-z0-9.-]")

_Command: TypeAlias = Callable[..., int]

_directory = click.argument("directory")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


def _records(command: _Command) -> _Command:
    """Give a command the arguments that choose records: DIRECTORY, and WHICH or --state."""
    for add in (
        click.option(
            "--state",
            type=click.Choice(STATES),
            help="All records in this state, instead of named ones.",
        ),
        click.argument("which", nargs=-1, metavar="[NUMBER|ID]..."),
        _directory,
    ):
        command = add(command)
    return command


@click.group(no_args_is_help=False)
def spool() -> None:
    """Show the mail in a spool, and decide about messages that could not be delivered.

    DIRECTORY is that of `fastsmtp serve --spool`; the server may be running or stopped.
    """


@spool.command(name="list")
@_directory
@click.option("--state", type=click.Choice(STATES), default="all", help="Only those in this state.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many.")
@_json
def list_records(directory: str, state: str, limit: int | None, as_json: bool) -> int:
    """List the records, the oldest first."""
    request = {"command": "list", "state": _named(state), "limit": limit}
    answers = heapq.merge(*_answers_of_each(directory, request), key=_received)
    _tell(itertools.islice(answers, limit), _listed, as_json)
    return 0


@spool.command()
@_records
@_json
def show(directory: str, which: tuple[str, ...], state: str | None, as_json: bool) -> int:
    """Show envelope, state and header of records."""
    request = {"command": "show", **_chosen(which, state)}
    _tell(_answers(directory, request), _shown, as_json)
    return 0


@spool.command()
@_records
@_json
def retry(directory: str, which: tuple[str, ...], state: str | None, as_json: bool) -> int:
    """Deliver records again that were deferred, refused or found damaged."""
    request = {"command": "retry", **_chosen(which, state)}
    done = [_sum(_answers(directory, request))]
    _tell(done, lambda facts: [f"{facts['retried']} to retry"], as_json)
    return 0


@spool.command()
@_records
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
def delete(
    directory: str, which: tuple[str, ...], state: str | None, yes: bool, as_json: bool
) -> int:
    """Delete records; the senders are not notified that their mail was not delivered."""
    chosen = _chosen(which, state)
    if not yes:
        _confirm(directory, chosen)
    request = {"command": "delete", **chosen}
    _tell([_sum(_answers(directory, request))], _deleted, as_json)
    return 0


@spool.command()
@_records
@click.option(
    "--output",
    metavar="FILE",
    help="Where to write one message, - for standard output; else NUMBER-ID.eml for each.",
)
def export(directory: str, which: tuple[str, ...], state: str | None, output: str | None) -> int:
    """Write records as .eml files, the envelope in X-Envelope-From and X-Envelope-To."""
    request = {"command": "export", **_chosen(which, state)}
    with contextlib.ExitStack() as files:
        file: BinaryIO | None = None
        for answer in _answers(directory, request):
            if isinstance(answer, bytes):
                assert file is not None
                _write(file, answer)
            elif file is not None and output is not None:
                raise click.ClickException("--output is for one record; the first was written")
            else:
                files.close()
                file = _opened(answer, output, files)
    return 0


@spool.command()
@_directory
def repair(directory: str) -> int:
    """Copy the readable records of a damaged spool, whose server is stopped, into a new one."""
    place = SpoolDirectory(directory)
    try:
        place.acquire(create=False)
        try:
            done = salvage(place)
        finally:
            place.release()
    except (SpoolError, OSError, sqlite3.Error) as error:
        raise click.ClickException(f"cannot repair {place.path}: {error}") from error
    _say(f"{done.records} records were read; records may be missing at {done.gaps} places")
    _say(f"the damaged file is kept as {done.kept}")
    if done.bodies:
        _say(f"{done.bodies} bodies of records that cannot be read are kept in {done.kept}.bodies")
    return 0


# Requests and answers.


def _named(state: str | None) -> str:
    return "" if state in (None, "all") else str(state)


def _chosen(which: tuple[str, ...], state: str | None) -> dict[str, object]:
    if bool(which) == bool(state):
        raise click.UsageError("name records by number or id, or all of them in one --state")
    return {"which": list(which), "state": _named(state)}


def _answers(directory: str, request: Mapping[str, object]) -> Iterator[Answer]:
    """Yield the answers for a directory and for those of its workers; an error among them ends the
    command with its text.
    """
    return itertools.chain.from_iterable(_answers_of_each(directory, request))


def _answers_of_each(directory: str, request: Mapping[str, object]) -> list[Iterator[Answer]]:
    try:
        places = directories(directory)
    except OSError as error:
        raise click.ClickException(f"cannot read {directory}: {error.strerror}") from error
    if len(places) == 1:
        return [_answers_of(directory, request)]
    which = request.get("which")
    if not which:
        return [_answers_of(path, request, number) for number, path in places]
    assert isinstance(which, list)
    found = [pair for word in which for pair in _found(places, word)]
    return [
        _answers_of(path, {**request, "which": words}, number)
        for number, path in places
        if (words := [word for at, word in found if at == number])
    ]


def _found(places: list[tuple[int, str]], word: str) -> list[tuple[int, str]]:
    """Return where the records are that `word` names: number of the directory, of the record."""
    at, slash, number = word.partition("/")
    if slash and at.isdigit() and int(at) in dict(places):
        return [(int(at), number)]
    found: list[tuple[int, str]] = []
    error: click.ClickException | None = None
    for place, path in places:
        if word.isdigit() and found:  # a number without a directory is one of the first
            break
        try:
            answers = list(_answers_of(path, {"command": "list", "which": [word]}))
        except click.ClickException as missing:
            error = missing
        else:
            found += [(place, str(each["number"])) for each in answers if isinstance(each, dict)]
    if error is not None and not found:
        raise error
    return found


def _answers_of(directory: str, request: Mapping[str, object], number: int = 1) -> Iterator[Answer]:
    """Yield the answers for one directory; number: that of the worker whose it is."""
    with asyncio.Runner() as runner:
        answers = perform(directory, request)
        try:
            while (answer := runner.run(_next(answers))) is not None:
                if isinstance(answer, dict) and "error" in answer:
                    raise click.ClickException(str(answer["error"]))
                if isinstance(answer, dict) and number > 1:
                    answer["spool"] = number
                yield answer
        except SpoolError as error:
            raise click.ClickException(str(error)) from error
        finally:
            runner.run(answers.aclose())


async def _next(answers: AsyncGenerator[Answer, None]) -> Answer | None:
    return await anext(answers, None)


def _received(answer: Answer) -> float:
    assert isinstance(answer, dict)
    return float(answer.get("received") or 0)


def _sum(answers: Iterable[Answer]) -> Answer:
    """Return the answers of all directories as one."""
    total: collections.Counter[str] = collections.Counter()
    for answer in answers:
        assert isinstance(answer, dict)
        answer.pop("spool", None)
        total.update(answer)
    return dict(total)


def _name(facts: Mapping[str, Any]) -> str:
    """Return how a record is named: by its number, after that of its directory if need be."""
    return f"{facts['spool']}/{facts['number']}" if "spool" in facts else str(facts["number"])


def _tell(
    answers: Iterable[Answer], lines: Callable[[dict[str, Any]], list[str]], as_json: bool
) -> None:
    for answer in answers:
        assert isinstance(answer, dict)
        if as_json:
            _say(json.dumps(answer))
        else:
            for line in lines(answer):
                _say(line)


def _confirm(directory: str, chosen: dict[str, object]) -> None:
    count = sum(1 for _ in _answers(directory, {"command": "list", **chosen}))
    if not sys.stdin.isatty():
        raise click.UsageError(f"there is no terminal to ask on whether to delete {count}: --yes")
    click.confirm(f"Delete {count} records from {directory}?", abort=True)


def _say(line: str) -> None:
    print_text(f"{line}\n")


# Records as lines. Data from senders is escaped.


def _listed(facts: dict[str, Any]) -> list[str]:
    recipients = facts.get("rcpt_to", [])
    more = f" and {len(recipients) - 1} more" if len(recipients) > 1 else ""
    lines = [
        f"{_name(facts)} {facts['state']} {_time(facts.get('received'))} "
        f"id={clean(facts['id'])} size={facts.get('size', facts['octets'])} "
        f"from=<{clean(facts.get('mail_from', '?'))}> "
        f"to=<{clean(recipients[0]) if recipients else ''}>{more}"
    ]
    if facts["reason"]:
        lines.append(f"    {facts['attempts']} attempts: {_text(facts['reason'])}")
    if facts["next_attempt"]:
        lines.append(f"    next attempt {_time(facts['next_attempt'])}")
    return lines


def _shown(facts: dict[str, Any]) -> list[str]:
    lines = _listed(facts)
    client = facts.get("client", {})
    lines += [f"    {name}: {clean(value)}" for name, value in client.items() if value]
    lines += [f"    recipient: <{clean(each)}>" for each in facts.get("rcpt_to", [])]
    lines += ["", *map(_text, facts.get("headers", "").split("\r\n")), ""]
    return lines


def _deleted(facts: dict[str, Any]) -> list[str]:
    kept = facts["under_way"]
    return [f"{facts['deleted']} deleted" + (f", {kept} kept: being delivered" if kept else "")]


def _text(text: str) -> str:
    return escaped(text, LONGEST_LINE, plain=" ")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


# Exported messages.


def _opened(facts: Answer, output: str | None, files: contextlib.ExitStack) -> BinaryIO:
    """Open the file of the next message; it must not exist yet."""
    assert isinstance(facts, dict)
    if output == "-":
        return sys.stdout.buffer
    # Of data from clients, only letters, digits, dots and hyphens become part of a path.
    name = output or f"{_name(facts).replace('/', '-')}-{_UNUSUAL.sub('-', facts['id'])[:64]}.eml"
    try:
        file = files.enter_context(_synced(name))
    except OSError as error:
        raise click.ClickException(f"cannot write {name}: {error.strerror}") from error
    _say(name)
    return file


@contextlib.contextmanager
def _synced(name: str) -> Iterator[BinaryIO]:
    """A new file that is synced at the end of the block, because the record may be deleted then."""
    with open(name, "xb", opener=_for_owner) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write(file: BinaryIO, octets: bytes) -> None:
    try:
        file.write(octets)
    except OSError as error:
        raise click.ClickException(f"cannot write the message: {error.strerror}") from error
