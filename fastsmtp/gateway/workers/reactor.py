"""What the parent waits for: signals, messages of its workers, and points in time.

There is no event loop of asyncio and no thread here: both would be copied by a fork, in a state
that is of no use to a worker.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Final, Protocol

__all__ = ["Reactor", "Timer"]

_PIECE: Final = 4096


class Watched(Protocol):
    """What has a descriptor."""

    def fileno(self) -> int: ...


class Timer:
    """A call that is due at a time; `cancel` may come at any time, also twice."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Do not call."""
        self._call = None

    def fire(self) -> None:
        """Call, once."""
        call, self._call = self._call, None
        if call is not None:
            call()


class Reactor:
    """Calls functions, one after the other, in the only thread of the process."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signals: deque[int] = deque()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._before: dict[int, object] = {}
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._drop_octets)
        self._is_running = False

    def on_signals(self, handlers: dict[int, Callable[[], object]]) -> None:
        """Call a function for each signal; signals of the same kind that come together count as
        one only if the kernel merges them.
        """
        # The octet only ends the wait: a full buffer loses none of the signals.
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._handlers = handlers
        for number in handlers:
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def watch(self, end: Watched, call: Callable[[], object]) -> None:
        """Call `call` when `end` can be read."""
        self._selector.register(end, selectors.EVENT_READ, call)

    def forget(self, end: Watched) -> None:
        """Watch `end` no longer."""
        self._selector.unregister(end)

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call `call` in so many seconds."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def run(self) -> None:
        """Wait and call until `stop`."""
        self._is_running = True
        while self._is_running:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            while self._signals:
                self._handlers[self._signals.popleft()]()
            self._fire()

    def stop(self) -> None:
        """Have `run` return after what it calls now."""
        self._is_running = False

    def _patience(self) -> float | None:
        if self._signals:
            return 0.0
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _fire(self) -> None:
        now = time.monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            timer.fire()

    def _drop_octets(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(_PIECE):
                pass

    def close(self) -> None:
        """Give the signals back, and close what was opened."""
        if self._before:
            signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what signal() has returned
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptors, in a forked child too."""
        self._selector.close()
        self._wake.close()
        self._woken.close()

    @property
    def signals(self) -> Iterable[int]:
        """The signals that are handled."""
        return self._handlers.keys()
