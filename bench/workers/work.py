"""The application of `scale`: each message costs its process a given time of the CPU."""

from __future__ import annotations

import os
import time
from typing import Any

WORK = float(os.environ.get("WORK_MICROSECONDS", "500")) / 1e6


async def on_data(stream: Any, session: Any) -> str:
    await stream.read()
    until = time.thread_time() + WORK
    while time.thread_time() < until:
        pass
    return "OK"
