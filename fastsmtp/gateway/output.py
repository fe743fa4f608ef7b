"""Standard output of commands: a full disk is an error; a reader that stops reading is not."""

from __future__ import annotations

import click

from fastsmtp.delivery.errors import reason_of

__all__ = ["print_text"]


def print_text(text: str) -> None:
    """Print text as it is; it may be a path with octets that are not text. Raises ClickException if
    it cannot be written.
    """
    try:
        click.echo(text.encode("utf-8", "backslashreplace"), nl=False)
    except BrokenPipeError:  # as by: fastsmtp config | head
        pass
    except OSError as error:
        raise click.ClickException(f"cannot write the output: {reason_of(error)}") from error
