"""Writes fastsmtp.1, the manual page, from the commands themselves.

    python docs/make_man.py

Commands and options are those of `fastsmtp.gateway.commands`; the other sections stand here. The
page is checked in, and wheels install it; a test compares it with the output of this program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from fastsmtp import __version__
from fastsmtp.gateway.commands import fastsmtp

PAGE = Path(__file__).parent / "fastsmtp.1"

HEAD = f"""\
.\\" Made by docs/make_man.py; do not change it by hand.
.TH FASTSMTP 1 "" "fastsmtp {__version__}" "User Commands"
.SH NAME
fastsmtp \\- an SMTP and LMTP server
.SH SYNOPSIS
.B fastsmtp serve
[\\fIOPTION\\fR]... [\\fIAPPLICATION\\fR]
.br
.B fastsmtp
\\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...
.SH DESCRIPTION
.B fastsmtp serve
accepts mail by SMTP, submission and LMTP, and stores it in a Maildir, or serves a program in
Python.
A message is acknowledged when it is on disk.
The other commands prepare, check and watch that.
"""

# Title -> (term, text).
SECTIONS = {
    "EXIT STATUS": (
        ("0", "The command has done its work; the server has ended after SIGTERM or SIGINT."),
        ("1", "The server cannot start, was ended at once by a second signal, or its disk did not"
              " respond at the end. Other commands: what was asked for has failed."),
        ("2", "The command line, the environment or the configuration file is wrong."),
        ("130", "Interrupted before it served."),
    ),
    "SIGNALS": (
        ("SIGTERM, SIGINT", "End: no new clients, messages under way get their reply, for at most"
                            " 30 seconds. A second signal ends at once."),
        ("SIGHUP", "Read certificates and users again; with workers, the whole configuration, which"
                   " new workers serve. If something is wrong, nothing changes."),
        ("SIGTTIN, SIGTTOU", "With workers: one worker more, or less."),
        ("SIGUSR2", "With workers: start the program again, which takes over the sockets."),
    ),
    "ENVIRONMENT": (
        ("FASTSMTP_CONFIG", "The configuration file."),
        ("FASTSMTP_\\fIOPTION\\fR", "The value of an option, such as FASTSMTP_MAILDIR. Options"
                                    " weigh more, and the file weighs less."),
        ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID", "For notifications; see sd_notify(3)."),
        ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "Sockets that systemd has opened; see"
                                                   " sd_listen_fds(3)."),
    ),
    "FILES": (
        ("./fastsmtp.toml, /etc/fastsmtp/fastsmtp.toml", "The configuration, the first one that"
            " exists; an example is printed by fastsmtp config \\-\\-example."),
        ("./mail", "The Maildir, unless \\-\\-maildir names another one."),
    ),
    "SEE ALSO": (
        ("systemd.service(5), systemd.socket(5), maildir(5)", ""),
    ),
}  # fmt: skip


def escaped(text: str) -> str:
    """Return text as roff: no character begins a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    text = re.sub(r"(?m)^([.'])", r"\\&\1", text)
    return re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield all commands with their whole names, in the order of the alphabet."""
    for each in sorted(group.commands):
        command = group.commands[each]
        whole = f"{name} {each}"
        yield whole, command
        if isinstance(command, click.Group):
            yield from commands(command, whole)


def command_text(name: str, command: click.Command) -> Iterator[str]:
    """Yield the lines about one command."""
    context = click.Context(command, **fastsmtp.context_settings)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {escaped(name)} {escaped(usage)}"
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield from (".nf", escaped(paragraph.removeprefix("\b").strip("\n")), ".fi")
        else:
            yield escaped(" ".join(paragraph.split()))
            yield ".PP"
    yield from options(command)


def described_options(command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield each option of one command with its values, and the words about it."""
    context = click.Context(command, **fastsmtp.context_settings)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            yield record[0], " ".join(record[1].split())


def options(command: click.Command) -> Iterator[str]:
    """Yield the lines about the options of one command."""
    for option, words in described_options(command):
        yield from (".TP", f".B {escaped(option)}", escaped(words))


def render() -> str:
    """Return the page."""
    lines = [HEAD.rstrip("\n"), ".SH OPTIONS", *options(fastsmtp), ".SH COMMANDS"]
    for name, command in commands(fastsmtp, "fastsmtp"):
        lines += command_text(name, command)
    for title, entries in SECTIONS.items():
        lines.append(f".SH {title}")
        for term, text in entries:
            lines += [".TP", f".B {term}", text] if text else [term]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
