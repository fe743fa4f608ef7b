"""Why a destination cannot be used, in words for the operator."""

from __future__ import annotations

__all__ = ["DestinationError"]


class DestinationError(Exception):
    """The destination is not usable; the text is one line for the user."""
