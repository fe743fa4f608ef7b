"""A headless Chromium for tests of pages, driven through pipes: no port, no driver, no dependency.

with Browser(folder) as browser:
    page = browser.open("http://127.0.0.1:8080/", width=390, dark=True)
    page.wait_for("document.title === 'x'")

It reaches 127.0.0.1 only. `Page.faults` has what went wrong in the page: exceptions, violations of
its Content-Security-Policy, and everything else that a console shows as an error.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["CHROMIUM", "REASON", "Browser", "Page"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
REASON = "chromium is not installed (package chromium)"
PATIENCE = 60.0

_OPTIONS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"),
    *("--disable-sync", "--disable-component-update", "--force-color-profile=srgb"),
    # No other host has an address, and none is reached without one.
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server"),
)
# Runs in each page before its own scripts.
_WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


class Browser:
    """One process. folder: for its profile."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # what we write, what it writes
        # It needs root's permission to be without its sandbox; all that it loads is ours.
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []

        def place() -> None:  # it reads 3 and writes 4
            ends = os.dup(ours[0]), os.dup(theirs[1])
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, *sandbox, f"--user-data-dir={folder}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place,
            pass_fds=(3, 4, ours[0], theirs[1]),
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._out, self._in = ours[1], theirs[0]
        self._octets = b""
        self._events: deque[dict[str, Any]] = deque()
        self._number = 0

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def open(self, url: str, *, width: int = 1280, dark: bool = False, still: bool = False) -> Page:
        """Return a new page of that width. still: the user wants less motion."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Page(self, session, url, width=width, dark=dark, still=still)

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        view = memoryview(json.dumps(message).encode() + b"\0")
        while view:
            view = view[os.write(self._out, view) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def events(self, session: str) -> list[dict[str, Any]]:
        """Return, once each, the events of a page that came with the answers so far."""
        found = [event for event in self._events if event.get("sessionId") == session]
        self._events = deque(
            event for event in self._events if event.get("sessionId") not in (session, None)
        )
        return found

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._octets:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            octets = os.read(self._in, 1 << 20)
            assert octets, "Chromium has ended"
            self._octets += octets
        message, _, self._octets = self._octets.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


class Page:
    """A page. requests: the URLs that it has asked for."""

    def __init__(
        self, browser: Browser, session: str, url: str, *, width: int, dark: bool, still: bool
    ) -> None:
        self._browser = browser
        self._session = session
        self._faults: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce" if still else "no-preference",
        }
        media = [{"name": name, "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.call("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        self.call("Page.navigate", url=url)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command for this page."""
        return self._browser.call(method, self._session, **parameters)

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript, wait for a promise, and return the value."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        """The text of an element as it is shown."""
        return str(self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait_for(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true, which may raise until then."""
        script = f"""new Promise((done) => {{
          const holds = () => {{ try {{ return {expression}; }} catch {{ return false; }} }};
          const end = performance.now() + {1000 * PATIENCE / 2};
          const look = () =>
            holds() || performance.now() > end ? done(holds()) : setTimeout(look, 10);
          look();
        }})"""
        assert self.value(script), (expression, self.faults, self.text("body"))

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    @property
    def faults(self) -> list[str]:
        """What went wrong so far, in words."""
        for event in self._browser.events(self._session):
            name, facts = event["method"], event["params"]
            if name == "Network.requestWillBeSent":
                self.requests.append(facts["request"]["url"])
            elif name == "Runtime.exceptionThrown":
                self._faults.append(json.dumps(facts["exceptionDetails"]))
            elif name == "Log.entryAdded" and facts["entry"]["level"] == "error":
                self._faults.append(facts["entry"]["text"])
        return [*self._faults, *self.value("window.violations")]
