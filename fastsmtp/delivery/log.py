"""The logger of this package."""

from __future__ import annotations

import logging

__all__ = ["logger"]

logger = logging.getLogger("fastsmtp.delivery")
