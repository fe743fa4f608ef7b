"""`fastsmtp check`: whether fastsmtp serve would start, without serving."""

from __future__ import annotations

import click

from fastsmtp.gateway.checking import findings
from fastsmtp.gateway.output import print_text
from fastsmtp.gateway.settings_command import SettingsCommand, loaded_of

__all__ = ["check"]


@click.command(cls=SettingsCommand)
@click.pass_context
def check(context: click.Context, /, **_: object) -> int:
    """Check certificates, users, addresses, Maildir and spool, without serving: a line for each,
    and status 1 if fastsmtp serve would fail. Takes the options of fastsmtp serve.

    An address that a running fastsmtp has is fine.
    """
    loaded = loaded_of(context)
    lines = [
        f"ok: configuration from {loaded.file}" if loaded.file else "ok: no configuration file"
    ]
    is_fine = True
    for finding in findings(loaded.config):
        lines.append(f"{'ok' if finding.is_fine else 'failed'}: {finding.text}")
        is_fine = is_fine and finding.is_fine
    print_text("".join(f"fastsmtp: {line}\n" for line in lines))
    return 0 if is_fine else 1
