"""The status page on a small server of its own, and answers to show on it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fastsmtp.gateway.status.pages import HEADERS, PAGES, read_page


class StatusServer(ThreadingHTTPServer):
    """Serves the page, and as stats.json what `answer` returns: an object, octets, or None for no
    answer at all.
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[], Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that is closed breaks its connections; all else is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer

    def do_GET(self) -> None:
        if self.path == "/stats.json":
            answer = self.server.answer()
            if answer is None:
                self.close_connection = True
                return
            octets = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self._send(200, "application/json", octets)
        elif self.path in PAGES:
            page = PAGES[self.path]
            self._send(200, page.content_type, read_page(page))
        else:
            self._send(404, "text/plain", b"")

    def _send(self, status: int, kind: str, octets: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def serving(answer: Callable[[], Any]) -> Iterator[StatusServer]:
    """Serve in a thread."""
    with StatusServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def histogram(counts: dict[str, int]) -> dict[str, Any]:
    """A histogram with so many in each bucket."""
    buckets, total = {}, 0
    for bound, count in counts.items():
        total += count
        buckets[bound] = total
    return {"count": total, "sum": total * 0.004, "buckets": buckets}


class Story:
    """A server whose figures grow with each answer. `changed` is merged into the answers."""

    def __init__(self, **changed: Any) -> None:
        self.asked = 0
        self.time = 1_796_057_100.0
        self.changed = changed

    def __call__(self) -> dict[str, Any]:
        self.asked += 1
        self.time += 1.0
        answer = self.answer(self.asked)
        return {**answer, **self.changed, "all": {**answer["all"], **self.changed.get("all", {})}}

    def answer(self, step: int) -> dict[str, Any]:
        """The answer after so many seconds."""
        wave = 40 + 20 * ((step % 14) - 7) / 7
        return {
            "time": self.time,
            "ready": True,
            "reason": "ok",
            "workers": [
                {
                    "process": {"ready": 1, "started": self.time - age},
                    "connections": {"now": round(wave / 2)},
                    "messages": {"accepted": 2500 + 15 * step, "refused": 6},
                }
                for age in (90_000, 3700)
            ],
            "refusals": [
                {
                    "time": self.time - each * 7,
                    "client": f"mail{each}.client.example[192.0.2.{each}]",
                    "from": f"newsletter-{each}@sender.example",
                    "to": "nobody@example.org",
                    "stage": "rcpt",
                    "reply": "550 5.1.1 No such user here",
                }
                for each in range(6)
            ],
            "all": {
                "build": {"version": "0.1.0", "python": "3.11.7"},
                "process": {"ready": 1, "started": self.time - 90_000 - step},
                "connections": {
                    "total": 1000 + 25 * step,
                    "now": round(wave),
                    "refused": {"max_clients": 0, "max_clients_per_host": 3 * step, "closing": 0},
                },
                "messages": {
                    "accepted": 5000 + round(step * 30 + wave),
                    "refused": 12 + step,
                    "aborted": 2,
                },
                "recipients": {"accepted": 9000 + 40 * step, "refused": 80 + 5 * step},
                "octets": {"in": 10_000_000 + 350_000 * step, "out": 1_000_000 + 9_000 * step},
                "replies": {
                    "connect": {"220": 1000 + 25 * step, "421": step},
                    "rcpt": {"250": 9000 + 40 * step, "550": 80 + 5 * step, "450": 7},
                    "message": {"250": 5000 + 30 * step, "552": 12 + step},
                },
                "limits": {"max_errors": 4, "timeout": 9},
                "hooks": {
                    "seconds": {
                        "on_rcpt_to": histogram({"0.001": 30 * step, "0.01": 9 * step, "+Inf": 0}),
                        "on_data": histogram({"0.001": 2, "0.01": 20 * step, "0.1": 9, "+Inf": 1}),
                    },
                    "failures": {},
                },
                "loop": {"lag": histogram({"0.001": step, "0.01": 0, "+Inf": 0}), "stalls": 0},
                "delivery": {
                    "seconds": histogram({"0.001": 0, "0.01": 30 * step, "0.1": step, "+Inf": 0}),
                    "up": 1,
                    "promise": {"disk": 1},
                    "in_flight": {"messages": 17, "octets": 1_300_000},
                    "outcomes": {"delivered": 5000 + 30 * step, "too_large": 12, "full": 0},
                },
                "spool": {"messages": 3, "octets": 52_000, "quota": 8 << 30, "oldest": 75},
                "workers": {"now": 2, "restarts": 1},
            },
        }
