"""A spool: mail is stored on disk at once, in batches, and drained from there into another sink."""

import os

try:
    from fastsmtp.delivery.spool.directory import SpoolError
    from fastsmtp.delivery.spool.fallback import Fallback
    from fastsmtp.delivery.spool.patient import Patient
    from fastsmtp.delivery.spool.sink import Spool
except ModuleNotFoundError:
    if os.name == "posix":
        raise
    raise ImportError("fastsmtp.delivery.spool needs Linux or macOS") from None

__all__ = ["Fallback", "Patient", "Spool", "SpoolError"]
