"""The error of a wrong configuration."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """The configuration cannot be used; the text is one line for the user, with what to do."""
